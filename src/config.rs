//! What a host may set. Every field has a default; an unknown key is an error that names the known ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forge_core::secret::SecretRef;
use forge_core::{Error, ErrorKind, Result};
use serde::Deserialize;

/// The configuration of a host.
///
/// ```
/// let config = forge::Config::parse("data_dir = \"var\"\n[queue]\nconcurrency = 8\n")?;
/// assert_eq!(config.queue.concurrency, 8);
/// let wrong = forge::Config::parse("[queue]\nconcurency = 8\n").unwrap_err();
/// assert!(wrong.to_string().contains("concurrency"), "{wrong}");
/// # Ok::<(), forge::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Where this process keeps its state; one process each. Default `forge-data`.
    pub data_dir: PathBuf,
    /// The master key: 32 bytes, base64. By default one is made in `data_dir` with mode 0600.
    pub master_key: Option<SecretRef>,
    /// Tasks and runs.
    pub queue: QueueConfig,
    /// Limits of every tenant.
    pub quota: forge_metering::Limits,
}

/// Tasks and runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct QueueConfig {
    /// The file that holds queue, journal and approvals; processes may share it. Default `<data_dir>/queue.db`.
    pub path: Option<PathBuf>,
    /// Tasks at a time; default 4.
    pub concurrency: usize,
    /// Seconds that a worker which stopped answering keeps a task; default 30.
    pub visibility_timeout_s: u64,
    /// Seconds of running time of one workflow, parked time left out; default 300.
    pub workflow_running_s: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { path: None, concurrency: 4, visibility_timeout_s: 30, workflow_running_s: 300 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "forge-data".into(),
            master_key: None,
            queue: QueueConfig::default(),
            quota: forge_metering::Limits::default(),
        }
    }
}

impl Config {
    /// The defaults, in this directory.
    pub fn in_dir(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), ..Self::default() }
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// `Config` with line and column.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let named = |e: Error| e.with("file", path.display().to_string());
        let text = std::fs::read_to_string(path).map_err(|e| {
            named(Error::new(ErrorKind::Config, "config.load", "the file cannot be read").with_source(e))
        })?;
        Self::parse(&text).map_err(named)
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// `Config` with line and column; values are not repeated.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |s| text.get(..s.start).unwrap_or(text).lines().count().max(1));
            // toml's message names the key and the known ones, not the value
            Error::new(ErrorKind::Config, "config.parse", e.message().to_owned()).with("line", at.to_string())
        })
    }

    pub(crate) fn queue_path(&self) -> PathBuf {
        self.queue.path.clone().unwrap_or_else(|| self.data_dir.join("queue.db"))
    }

    pub(crate) fn visibility(&self) -> Duration {
        Duration::from_secs(self.queue.visibility_timeout_s.max(1))
    }

    /// What does not fit, though each value parses.
    pub(crate) fn problems(&self) -> Vec<Error> {
        let mut problems = Vec::new();
        let mut say = |what: &'static str, key: &str| {
            problems.push(Error::new(ErrorKind::Config, "config.check", what).with("key", key.to_owned()))
        };
        if self.queue.concurrency == 0 {
            say("must be at least 1", "queue.concurrency");
        }
        if self.queue.visibility_timeout_s == 0 {
            say("must be at least 1", "queue.visibility_timeout_s");
        }
        problems
    }
}
