//! Files and variables, one over the other.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{self, Found, Place};
use super::setting::{LITERAL, Value};
use super::{Config, ConfigError, ConfigProblem, Origin};

/// Larger files are not configuration.
const LARGEST: u64 = 1024 * 1024;
const PREFIX: &str = "FORGE__";
const ENVIRONMENT: &str = "FORGE_ENVIRONMENT";

/// What a configuration is read from; the later goes over the earlier, and variables go over all.
///
/// ```
/// let config = forge::Layers::new()
///     .text("forge.toml", "[queue]\nconcurrency = 8")
///     .text("forge.production.toml", "[queue]\nvisibility_timeout = \"1m\"")
///     .variables([("FORGE__QUEUE__CONCURRENCY", "16")])
///     .read()?;
/// assert_eq!(config.queue.concurrency, 16);
/// assert!(config.explain().contains("FORGE__QUEUE__CONCURRENCY, over 8 from forge.toml:2"));
/// # Ok::<(), forge::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Layers {
    texts: Vec<(String, String)>,
    variables: Vec<(String, OsString)>,
    schemes: Vec<String>,
    problems: Vec<ConfigProblem>,
}

impl Default for Layers {
    fn default() -> Self {
        let schemes = ["env", "file", "vault"].map(str::to_owned).into();
        Self { texts: Vec::new(), variables: Vec::new(), schemes, problems: Vec::new() }
    }
}

impl Layers {
    /// Nothing but the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// What [`Config::load`] reads.
    pub(super) fn of_process(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let mut layers = Self::new().file(path);
        let variables: Vec<_> = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v))).collect();
        if let Some((_, environment)) = variables.iter().find(|(name, _)| name == ENVIRONMENT) {
            layers = match environment.to_str() {
                Some(environment) => layers.environment(path, environment),
                None => layers.no_environment("is not UTF-8"),
            };
        }
        layers.variables(variables)
    }

    /// Adds a file.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        let name = path.as_ref().display().to_string();
        match read(path.as_ref()) {
            Ok(text) => self.texts.push((name, text)),
            Err(what) => self.problems.push(ConfigProblem::of_file(&name, None, what)),
        }
        self
    }

    /// Adds the file of an environment, `forge.production.toml` beside `forge.toml`. It must be there: a misspelt environment
    /// would run with the settings of none.
    pub fn environment(self, path: impl AsRef<Path>, environment: &str) -> Self {
        let named =
            !environment.is_empty() && environment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !named {
            return self.no_environment("the name of an environment has letters, digits, `-` and `_` only");
        }
        self.file(beside(path.as_ref(), environment))
    }

    /// Adds a text, as if it were a file of this name.
    pub fn text(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.texts.push((name.into(), text.into()));
        self
    }

    /// Adds variables; those that do not begin with `FORGE__` are for others.
    pub fn variables<N: Into<String>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let ours = variables.into_iter().map(|(n, v)| (n.into(), v.into())).filter(|(n, _)| n.starts_with(PREFIX));
        self.variables.extend(ours);
        // the order in which a process keeps its variables is nobody's choice
        self.variables.sort_by(|a, b| a.0.cmp(&b.0));
        self
    }

    /// Lets references name a provider that the host adds, beside `env:`, `file:` and `vault:`. Whatever else stands before a colon
    /// may be half of a password.
    pub fn secrets_from(mut self, scheme: impl Into<String>) -> Self {
        self.schemes.push(scheme.into());
        self
    }

    /// Reads everything.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn read(mut self) -> Result<Config, ConfigError> {
        let mut problems = std::mem::take(&mut self.problems);
        let mut found = Vec::new();
        for (name, text) in &self.texts {
            File { name, text, found: &mut found, problems: &mut problems }.read();
        }
        for (name, value) in &self.variables {
            match variable(name, value) {
                Ok(f) => found.push(f),
                Err(problem) => problems.push(problem),
            }
        }
        found.retain(|f| {
            let literal = self.is_literal(f);
            if literal {
                let (key, origin) = (f.key.path_of(&f.names), f.origin.clone());
                problems.push(ConfigProblem { key, what: LITERAL.to_owned(), origin });
            }
            !literal
        });
        let mut config = Config::default();
        problems.extend(config.take(found));
        problems.extend(config.problems());
        problems.sort_by_key(|p| self.place(&p.origin));
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }

    /// Files in their order, line by line, then the rest.
    fn place(&self, origin: &Origin) -> (usize, usize) {
        match origin {
            Origin::File { name, line } => {
                let file = self.texts.iter().position(|(n, _)| n == name).unwrap_or_default();
                (file, line.unwrap_or_default())
            }
            Origin::Variable(_) | Origin::Code => (usize::MAX, 0),
        }
    }

    /// Whether a secret stands where its reference should.
    fn is_literal(&self, found: &Found) -> bool {
        let (Value::Text(text) | Value::Variable(text)) = &found.value else { return false };
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        found.key.is_secret() && !text.is_empty() && !self.schemes.iter().any(|s| Some(s.as_str()) == scheme)
    }

    fn no_environment(mut self, why: &str) -> Self {
        let origin = Origin::Variable(ENVIRONMENT.to_owned());
        self.problems.push(ConfigProblem { key: String::new(), what: why.to_owned(), origin });
        self
    }
}

/// `forge.toml` → `forge.production.toml`.
fn beside(path: &Path, environment: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}.{environment}.toml"))
}

fn read(path: &Path) -> Result<String, &'static str> {
    let unread = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such file",
        std::io::ErrorKind::InvalidData => "is not UTF-8",
        _ => "cannot be read; check owner and mode",
    };
    if !std::fs::metadata(path).map_err(unread)?.is_file() {
        return Err("is not a regular file");
    }
    let mut text = String::new();
    std::fs::File::open(path).map_err(unread)?.take(LARGEST + 1).read_to_string(&mut text).map_err(unread)?;
    if u64::try_from(text.len()).is_ok_and(|n| n > LARGEST) { Err("is larger than 1 MiB") } else { Ok(text) }
}

fn variable(name: &str, value: &OsString) -> Result<Found, ConfigProblem> {
    let path = name.strip_prefix(PREFIX).unwrap_or_default().to_lowercase();
    let path: Vec<&str> = path.split("__").collect();
    let origin = Origin::Variable(name.to_owned());
    let problem = |what: String| ConfigProblem { key: shown(&path), what, origin: origin.clone() };
    match (keys::find(&path), value.to_str()) {
        (Place::Key(key, names), Some(value)) => {
            Ok(Found { key, names, value: Value::Variable(value.to_owned()), origin: origin.clone() })
        }
        (Place::Key(..), None) => Err(problem("is not UTF-8".to_owned())),
        (Place::Section, _) => Err(problem("is a section; name a key in it".to_owned())),
        (Place::Nothing(what), _) => Err(problem(what)),
    }
}

fn shown(path: &[&str]) -> String {
    path.iter().map(|s| keys::segment(s)).collect::<Vec<_>>().join(".")
}

/// One file on its way into the layers.
struct File<'a> {
    name: &'a str,
    text: &'a str,
    found: &'a mut Vec<Found>,
    problems: &'a mut Vec<ConfigProblem>,
}

impl File<'_> {
    fn read(mut self) {
        let text = self.text;
        let (table, errors) = DeTable::parse_recoverable(text);
        self.table(&mut Vec::new(), table.get_ref());
        for e in errors {
            let line = e.span().map(|s| self.line(s.start));
            let problem = ConfigProblem::of_file(self.name, line, e.message());
            // what the parser made of a line that it did not understand is nobody's value
            self.found.retain(|f| f.origin != problem.origin);
            // its sentence names what it expected, not what it found
            self.problems.push(problem);
        }
    }

    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    }

    fn table<'t>(&mut self, path: &mut Vec<&'t str>, table: &'t DeTable<'_>) {
        for (name, value) in table {
            path.push(name.get_ref());
            let origin = Origin::File { name: self.name.to_owned(), line: Some(self.line(name.span().start)) };
            let problem = |what: String| ConfigProblem { key: shown(path), what, origin: origin.clone() };
            match (keys::find(path), value.get_ref()) {
                (Place::Key(key, names), value) => {
                    self.found.push(Found { key, names, value: plain(value), origin });
                }
                (Place::Section, DeValue::Table(table)) => self.table(path, table),
                (Place::Section, _) => self.problems.push(problem("is a section; its keys go below it".to_owned())),
                (Place::Nothing(what), _) => self.problems.push(problem(what)),
            }
            path.pop();
        }
    }
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(n) if n.radix() == 10 => Value::Number(n.as_str().trim_start_matches('+').to_owned()),
        DeValue::Integer(_) => Value::Other("a number that is not decimal"),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(_) => Value::Other("a list"),
        DeValue::Table(_) => Value::Other("a section"),
    }
}
