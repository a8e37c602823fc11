//! A process that ends with the test.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server with its log. Dropped, it is killed with whatever it started; where the test panics, its log is printed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; what it prints goes to `log`.
    ///
    /// # Panics
    /// If it cannot be started: run `scripts/servers.sh`.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let to = File::options().create(true).append(true).open(log).expect("a log can be written");
        let errors = to.try_clone().expect("a log can be written");
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.process_group(0).stdin(Stdio::null()).stdout(to).stderr(errors).spawn();
        let child = child.unwrap_or_else(|e| panic!("{name} cannot be started ({e}): run scripts/servers.sh"));
        Self { child, log: log.to_path_buf() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it at once, as a power cut would.
    pub fn kill9(&mut self) {
        self.signal("-KILL");
        // already gone is as good
        let _ = self.child.wait();
    }

    /// Holds it still; it does not answer and does not know.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args([signal, "--", &group]).stderr(Stdio::null()).status();
    }
}

/// A port of this machine that nobody listens on.
pub(super) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// Waits until a server is ready.
///
/// # Panics
/// With its log, if it is not within 30 seconds.
#[allow(
    clippy::disallowed_methods,
    reason = "the real time of a real process, on a thread that has nothing else to do"
)]
pub(super) fn until(what: &str, process: &Process, ready: impl Fn() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what} is not ready:\n{}", process.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4000);
            let tail = log.get(log.ceil_char_boundary(from)..).unwrap_or_default();
            #[allow(clippy::print_stderr, reason = "a test that fails shows what its server said")]
            {
                eprintln!("--- {}\n{tail}", self.log.display());
            }
        }
    }
}
