//! Redis.

use std::process::Command;

use super::Process;
use super::process::until;

/// How a Redis is started.
#[derive(Debug, Default)]
#[must_use]
pub struct RedisBuilder {
    args: Vec<String>,
    password: Option<String>,
}

/// A Redis of its own on a free port, without persistence unless it is asked for.
#[derive(Debug)]
pub struct RedisServer {
    process: Option<Process>,
    args: Vec<String>,
    password: Option<String>,
    port: u16,
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

    /// Starts it; returns when it answers.
    pub fn start(self) -> RedisServer {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        drop(listener);
        let mut server = RedisServer { process: None, args: self.args, password: self.password, port, dir };
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
        // a server that is held still would hold the caller
        let mut command = Command::new("timeout");
        command.args(["10", "redis-cli", "-p", &self.port.to_string()]);
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        let run = command.args(args).output().expect("timeout can be started");
        String::from_utf8_lossy(&run.stdout).into_owned()
    }
}
