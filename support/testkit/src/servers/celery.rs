//! Celery, in the virtual environment that `scripts/servers.sh` makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::Process;
use super::process::until;

/// Runs Celery and Python beside it.
#[derive(Debug)]
pub struct Celery;

impl Celery {
    /// The interpreter that has Celery.
    ///
    /// # Panics
    /// If it is not there: run `scripts/servers.sh celery`.
    pub fn interpreter() -> PathBuf {
        python_of("celery")
    }

    /// Starts a worker of the application in `app` (a `.py` file) and waits until it is ready.
    ///
    /// # Panics
    /// If it is not within 30 seconds.
    pub fn worker(app: &Path, url: &str, queues: &str, log: &Path, extra: &[&str]) -> Process {
        Self::worker_of("celery", app, url, queues, log, extra)
    }

    /// [`worker`](Self::worker), where LlamaIndex is too.
    ///
    /// # Panics
    /// If it is not there, or not ready within 30 seconds: run `scripts/servers.sh llamaindex`.
    pub fn llamaindex_worker(app: &Path, url: &str, queues: &str, log: &Path, extra: &[&str]) -> Process {
        Self::worker_of("llamaindex", app, url, queues, log, extra)
    }

    fn worker_of(server: &str, app: &Path, url: &str, queues: &str, log: &Path, extra: &[&str]) -> Process {
        let mut command = Self::set_up(Command::new(python_of(server)), app, url);
        command.args(["-m", "celery", "-A", &module(app), "worker", "-Q", queues, "-l", "INFO"]).args(extra);
        let process = Process::start(command, log);
        until("the worker", &process, || process.log().contains(" ready."));
        process
    }

    /// Runs a piece of Python to its end, at most a minute, with the application's folder on its path.
    pub fn python(app: &Path, url: &str, code: &str) -> Output {
        let mut command = Command::new("timeout");
        command.arg("60").arg(Self::interpreter()).args(["-c", code]);
        Self::set_up(command, app, url).output().expect("timeout can be started")
    }

    pub(super) fn set_up(mut command: Command, app: &Path, url: &str) -> Command {
        command.env("PYTHONPATH", app.parent().unwrap_or(Path::new("."))).env("BROKER_URL", url);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

fn python_of(server: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|d| d.join("scripts/servers.sh").is_file());
    let python = root.map(|r| r.join(format!("target/servers/{server}/bin/python"))).filter(|p| p.is_file());
    python.unwrap_or_else(|| panic!("{server} is not there: run scripts/servers.sh {server}"))
}

pub(super) fn module(app: &Path) -> String {
    app.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
