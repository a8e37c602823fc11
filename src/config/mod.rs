//! What a host may set, where each value came from, and what is wrong with it, all at once.
//!
//! Values come in layers, each over the one before: the defaults, `forge.toml`, `forge.<environment>.toml`, and variables such as
//! `FORGE__QUEUE__CONCURRENCY`. [`Config::load`] reads them all; [`Layers`] says which. There is one table of keys, `keys.rs`:
//! it reads, checks, explains and documents.

mod keys;
mod layers;
mod problem;
mod redis;
mod setting;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forge_core::guard::Settings;
use forge_core::secret::SecretRef;
use forge_memory::openai::OpenAiConfig;
use forge_metering::Limits;
use forge_queue::workflow::Limits as WorkflowLimits;

pub use keys::ConfigKey;
pub use layers::Layers;
pub use problem::{ConfigError, ConfigProblem, Origin};
pub use redis::RedisQueueConfig;

use keys::{Found, Names};

/// The configuration of a host.
///
/// ```
/// let config = forge::Config::parse("data_dir = \"var\"\n[queue]\nconcurrency = 8\n")?;
/// assert_eq!(config.queue.concurrency, 8);
/// let wrong = forge::Config::parse("[queue]\nconcurency = 8\n").unwrap_err();
/// assert!(wrong.to_string().contains("did you mean `queue.concurrency`?"), "{wrong}");
/// # Ok::<(), forge::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where this process keeps its state; one process each. Default `forge-data`.
    pub data_dir: PathBuf,
    /// The master key: 32 bytes, base64. By default one is made in `data_dir` with mode 0600.
    pub master_key: Option<SecretRef>,
    /// Tasks.
    pub queue: QueueConfig,
    /// What bounds a run.
    pub workflow: WorkflowLimits,
    /// How patient the guard is, and how much it lets through at a time.
    pub guard: Settings,
    /// Language models and what agents remember.
    pub memory: MemoryConfig,
    /// What tenants and employees may use.
    pub quota: Limits,
    /// What was given for a key, by layer; the last won.
    given: BTreeMap<String, Vec<Given>>,
}

/// Tasks.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QueueConfig {
    /// The file that holds queue, journal and approvals; processes may share it. Default `<data_dir>/queue.db`.
    pub path: Option<PathBuf>,
    /// Tasks at a time; default 4.
    pub concurrency: usize,
    /// How long a worker that stopped answering keeps a task; default 30 seconds.
    pub visibility_timeout: Duration,
    /// Tasks on Redis, shared with Celery; journal and approvals stay in the file. Needs the feature `queue-redis`.
    pub redis: Option<RedisQueueConfig>,
}

/// Language models and what agents remember.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// A language model behind OpenAI's interface, beside those of the host's code; needs the feature `memory-openai`.
    pub openai: Option<OpenAiConfig>,
}

/// A value, as TOML, and who gave it.
#[derive(Debug, Clone)]
struct Given {
    value: String,
    origin: Origin,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { path: None, concurrency: 4, visibility_timeout: Duration::from_secs(30), redis: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "forge-data".into(),
            master_key: None,
            queue: QueueConfig::default(),
            workflow: WorkflowLimits::default(),
            guard: Settings::default(),
            memory: MemoryConfig::default(),
            quota: Limits::default(),
            given: BTreeMap::new(),
        }
    }
}

impl Config {
    /// The defaults, in this directory.
    pub fn in_dir(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), ..Self::default() }
    }

    /// Reads this file, `<name>.<environment>.toml` beside it where the variable `FORGE_ENVIRONMENT` names one, and the
    /// variables that begin with `FORGE__`.
    ///
    /// # Errors
    /// Every problem of all of them at once: what cannot be read or parsed, unknown keys, values that do not fit.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Layers::of_process(path).read()
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// As [`load`](Self::load); values are not repeated.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Layers::new().text("the text", text).read()
    }

    /// Every key that there is.
    pub fn keys() -> Vec<ConfigKey> {
        keys::all()
    }

    /// What each key is and why: who gave the value, over whom. Of secrets there are references only, here as in the files.
    pub fn explain(&self) -> String {
        let mut copy = self.clone();
        let mut text = String::new();
        for (key, names, path) in self.paths() {
            let value = (key.at)(&mut copy, &names).show();
            let given = self.given.get(&path).map_or(&[][..], Vec::as_slice);
            let is_default = self.is_default(key, &names, value.as_deref());
            if names.tenant.is_some() && is_default && given.is_empty() {
                // said by the line of all tenants
                continue;
            }
            let why = why(key.unset.0, value.as_deref(), given, is_default);
            let value = value.unwrap_or_else(|| "-".to_owned());
            // a String takes everything
            let _ = writeln!(text, "{path:<40} {value:<24} {why}");
        }
        text
    }

    /// The keys of what this host has: those of named tenants and employees, and of the backends that it chose.
    fn paths(&self) -> Vec<(&'static keys::Key, Names, String)> {
        let named = self.quota.tenants.iter().flat_map(|(tenant, limits)| {
            let employees =
                limits.employees.keys().map(|e| Names { tenant: Some(tenant.clone()), employee: Some(e.clone()) });
            std::iter::once(Names { tenant: Some(tenant.clone()), employee: None }).chain(employees)
        });
        let all: Vec<Names> = std::iter::once(Names::default()).chain(named).collect();
        let of = |key: &'static keys::Key| {
            let fitting = all.iter().filter(|names| key.needs(names)).cloned();
            fitting.map(|names| (key, names.clone(), key.path_of(&names))).collect::<Vec<_>>()
        };
        let chosen = |key: &&'static keys::Key| key.backend.is_none_or(|b| (b.chosen)(self));
        keys::KEYS.iter().filter(chosen).flat_map(of).collect()
    }

    fn is_default(&self, key: &keys::Key, names: &Names, value: Option<&str>) -> bool {
        let mut default = Self::default();
        if let Some(tenant) = &names.tenant {
            // what a tenant does not name is that of every tenant, what an employee does not that of every employee
            default.quota.default = self.quota.default.clone();
            if names.employee.is_some() {
                let mut own = self.quota.of(tenant).clone();
                own.employees.clear();
                default.quota.tenants.insert(tenant.clone(), own);
            }
        }
        (key.at)(&mut default, names).show().as_deref() == value
    }

    pub(crate) fn queue_path(&self) -> PathBuf {
        self.queue.path.clone().unwrap_or_else(|| self.data_dir.join("queue.db"))
    }

    /// What does not fit, though each value parses; whoever gave it, code included.
    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let mut copy = self.clone();
        let mut problems = Vec::new();
        for (key, names, path) in self.paths() {
            if let Some(what) = key.misfit(&mut copy, &names) {
                // what is missing was asked for by the rest of its section
                let origin = match key.backend {
                    Some(backend) if !self.given.contains_key(&path) => self.origin_under(backend.section),
                    _ => self.origin(&path),
                };
                problems.push(ConfigProblem { origin, key: path, what });
            }
        }
        for backend in keys::BACKENDS.iter().filter(|b| (b.chosen)(self)) {
            let section = backend.section;
            if !backend.built {
                let what = format!("needs a build with the feature `{}`", backend.feature);
                problems.push(ConfigProblem { origin: self.origin_under(section), key: section.to_owned(), what });
            }
            if let (Err(e), false) = ((backend.check)(self), problems.iter().any(|p| is_under(&p.key, section))) {
                let field = e.context().find(|(k, _)| *k == "key").map_or("", |(_, field)| field);
                let key = format!("{section}.{field}");
                problems.push(ConfigProblem { origin: self.origin(&key), key, what: e.message().to_owned() });
            }
        }
        if let Err(e) = self.quota.validate() {
            let tenant = e.context().find(|(k, _)| *k == "tenant").map_or("default", |(_, t)| t);
            let key = if tenant == "default" { "quota.default".to_owned() } else { format!("quota.tenants.{tenant}") };
            problems.push(ConfigProblem { origin: self.origin_under(&key), key, what: e.message().to_owned() });
        }
        problems
    }

    /// Who gave the first key of a section.
    fn origin_under(&self, section: &str) -> Origin {
        self.given.keys().find(|k| is_under(k, section)).map_or(Origin::Code, |key| self.origin(key))
    }

    fn origin(&self, path: &str) -> Origin {
        self.given.get(path).and_then(|g| g.last()).map_or(Origin::Code, |g| g.origin.clone())
    }

    /// Takes what the layers gave, the lowest first.
    fn take(&mut self, mut found: Vec<Found>) -> Vec<ConfigProblem> {
        // a tenant begins as every tenant, an employee as every employee of the tenant: those are set first
        found.sort_by_key(|f| (f.names.tenant.is_some(), f.names.employee.is_some()));
        let mut problems = Vec::new();
        for f in found {
            let path = f.key.path_of(&f.names);
            let setting = (f.key.at)(self, &f.names);
            match setting.set(&f.value) {
                Ok(()) => {
                    let value = setting.show().unwrap_or_default();
                    self.given.entry(path).or_default().push(Given { value, origin: f.origin });
                }
                Err(what) => problems.push(ConfigProblem { key: path, what, origin: f.origin }),
            }
        }
        problems
    }
}

/// Whether a path is a section or lies in it; `quota.tenants.acme-2` does not lie in `quota.tenants.acme`.
fn is_under(path: &str, section: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Who gave a value, and over whom.
fn why(unset: &str, value: Option<&str>, given: &[Given], is_default: bool) -> String {
    let default = if value.is_none() { format!("not set: {unset}") } else { "default".to_owned() };
    let Some((winner, over)) = given.split_last() else {
        return if is_default { default } else { "set by the host's code".to_owned() };
    };
    if value.is_some_and(|v| v != winner.value) {
        return format!("set by the host's code, over {}", winner.origin);
    }
    let over: String = over.iter().rev().map(|g| format!(", over {} from {}", g.value, g.origin)).collect();
    format!("{}{over}", winner.origin)
}
