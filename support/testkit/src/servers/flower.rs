//! Flower, Celery's monitor.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::process::{free_port, until};
use super::{Celery, Process};

/// A Flower that watches a broker. Its interface asks for no password.
#[derive(Debug)]
pub struct Flower {
    process: Process,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Flower {
    /// Starts it for the application in `app` (a `.py` file) and the broker at `url`; returns when it answers.
    ///
    /// # Panics
    /// If it does not within 30 seconds.
    pub fn start(app: &Path, url: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let port = free_port();
        let mut command = Celery::set_up(Command::new(Celery::interpreter()), app, url);
        command.args(["-m", "celery", "-A", &super::celery::module(app), "-b", url, "flower"]);
        command.args(["--address=127.0.0.1", &format!("--port={port}")]);
        command.env("FLOWER_UNAUTHENTICATED_API", "true").current_dir(dir.path());
        let process = Process::start(command, &dir.path().join("flower.log"));
        let started = Self { process, port, _dir: dir };
        until("flower", &started.process, || started.text("/healthcheck").is_some_and(|t| t.contains("OK")));
        started
    }

    /// Where it is; under it are `/api/workers` and `/api/tasks`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What a path answers, with the status 200; nothing if it does not.
    pub fn text(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        // by HTTP 1.0 the answer ends with the connection
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.split(' ').nth(1).filter(|status| *status == "200").map(|_| body.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::RedisServer;

    #[test]
    fn it_shows_a_worker_and_what_it_did() {
        let server = RedisServer::start();
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("watched.py");
        let code = "import os, celery\nu = os.environ['BROKER_URL']\napp = celery.Celery('watched', broker=u, backend=u)\n\
                    @app.task(name='watched.double')\ndef double(n):\n    return 2 * n\n";
        std::fs::write(&app, code).unwrap();
        let flower = Flower::start(&app, &server.url());
        let worker =
            Celery::worker(&app, &server.url(), "celery", &dir.path().join("worker.log"), &["-E", "-n", "one@here"]);
        let ran =
            Celery::python(&app, &server.url(), "import watched; print(watched.double.delay(21).get(timeout=30))");
        assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), "42", "{}", String::from_utf8_lossy(&ran.stderr));
        until("the worker's task", flower.process(), || {
            flower.text("/api/tasks").is_some_and(|t| t.contains("watched.double") && t.contains("SUCCESS"))
        });
        assert!(flower.text("/api/workers?refresh=1").is_some_and(|t| t.contains("one@here")), "{}", worker.log());
    }
}
