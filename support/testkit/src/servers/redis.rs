//! Redis.

use std::process::Command;

use super::process::{free_port, until};
use super::{Authority, Process};

/// How a Redis is started.
#[derive(Debug, Default)]
#[must_use]
pub struct RedisBuilder {
    args: Vec<String>,
    password: Option<String>,
    port: Option<u16>,
    tls_port: Option<u16>,
}

/// A Redis of its own on a free port, without persistence unless it is asked for.
#[derive(Debug)]
pub struct RedisServer {
    process: Option<Process>,
    args: Vec<String>,
    password: Option<String>,
    port: u16,
    tls_port: Option<u16>,
    dir: tempfile::TempDir,
}

impl RedisBuilder {
    /// Sets an option of `redis.conf`.
    pub fn arg(mut self, key: &str, value: &str) -> Self {
        self.args.extend([format!("--{key}"), value.to_owned()]);
        self
    }

    /// Asks for a password.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.arg("requirepass", password)
    }

    /// Speaks TLS on a second port, with the authority's certificate; clients need none.
    pub fn tls(mut self, authority: &Authority) -> Self {
        let port = free_port();
        self.tls_port = Some(port);
        self = self.arg("tls-port", &port.to_string()).arg("tls-auth-clients", "no");
        let file = |path: std::path::PathBuf| path.display().to_string();
        self.arg("tls-cert-file", &file(authority.certificate()))
            .arg("tls-key-file", &file(authority.key()))
            .arg("tls-ca-cert-file", &file(authority.ca()))
    }

    pub(super) fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Starts it; returns when it answers.
    pub fn start(self) -> RedisServer {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let port = self.port.unwrap_or_else(free_port);
        let Self { args, password, tls_port, .. } = self;
        let mut server = RedisServer { process: None, args, password, port, tls_port, dir };
        server.run();
        server
    }
}

impl RedisServer {
    /// Starts one.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Says how first.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(self.dir.path()).args(&self.args);
        let process = Process::start(command, &self.dir.path().join("redis.log"));
        // another may have taken the port meanwhile, and it would answer too
        let own = format!("process_id:{}\r", process.id());
        until("redis", &process, || self.cli(&["INFO", "server"]).contains(&own));
        self.process = Some(process);
    }

    /// Where it is; the password is not in it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it speaks TLS, under a name of its certificate or another.
    ///
    /// # Panics
    /// If it was not started with [`RedisBuilder::tls`].
    pub fn tls_url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.tls_port.expect("it was started with TLS"))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Ends it at once.
    pub fn kill9(&mut self) {
        self.process = None;
    }

    /// Kills it and starts it again on the same port and data.
    pub fn restart(&mut self) {
        self.process = None;
        self.run();
    }

    /// The process, while it runs.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Runs `redis-cli` against it; what it answers, or nothing if it does not.
    pub fn cli(&self, args: &[&str]) -> String {
        redis_cli(self.port, self.password.as_deref(), args)
    }
}

pub(super) fn redis_cli(port: u16, password: Option<&str>, args: &[&str]) -> String {
    // a server that is held still would hold the caller
    let mut command = Command::new("timeout");
    command.args(["10", "redis-cli", "-p", &port.to_string()]);
    if let Some(password) = password {
        command.env("REDISCLI_AUTH", password);
    }
    let run = command.args(args).output().expect("timeout can be started");
    String::from_utf8_lossy(&run.stdout).into_owned()
}
