//! The table of keys: what can be set, what it means, and within which bounds. Everything else about a key is worked out from it.

use std::sync::LazyLock;

use forge_core::{EmployeeId, TenantId};
use forge_memory::openai::OpenAiConfig;
use forge_metering::{Limit, TenantLimits};

use super::setting::{REFERENCE, Setting, Value};
use super::{Config, Origin, RedisQueueConfig, is_under};

/// A key that can be set, for documentation and for a host's own tools.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigKey {
    /// Its path in a file, such as `queue.concurrency`.
    pub key: String,
    /// What it takes.
    pub kind: &'static str,
    /// Its default as TOML, if it has one.
    pub default: Option<String>,
    /// What holds while it has none, and what could stand there.
    pub unset: (&'static str, String),
    /// The least and the most, where it has bounds: `1 to 10000`.
    pub range: Option<String>,
    /// The variable that sets it.
    pub variable: String,
    /// Whether it leads to a secret: such a key takes a reference, never the secret.
    pub secret: bool,
    /// The feature of the crate that it needs, if it belongs to a backend that not every build has.
    pub feature: Option<&'static str>,
    /// What it does.
    pub about: String,
}

/// Whom a key is for, where it is for somebody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) tenant: Option<TenantId>,
    pub(super) employee: Option<EmployeeId>,
}

type At = Box<dyn Send + Sync + for<'c> Fn(&'c mut Config, &Names) -> &'c mut dyn Setting>;

pub(super) struct Key {
    path: String,
    about: String,
    /// The field; made as the default says where it is not there.
    pub(super) at: At,
    /// What holds while it is not set, and what could be.
    pub(super) unset: (&'static str, &'static str),
    /// The least and the most, in its unit; milliseconds of a duration.
    bounds: Option<(u128, u128)>,
    /// Whose it is, if not every host's.
    pub(super) backend: Option<&'static Backend>,
    required: bool,
}

/// A backend that only some builds have and only some hosts choose, by setting any of its keys.
pub(super) struct Backend {
    /// What its keys begin with.
    pub(super) section: &'static str,
    pub(super) feature: &'static str,
    pub(super) built: bool,
    pub(super) chosen: fn(&Config) -> bool,
    /// What does not fit though each value does, with the key under `key`.
    pub(super) check: fn(&Config) -> forge_core::Result<()>,
}

pub(super) static BACKENDS: [Backend; 2] = [
    Backend {
        section: "queue.redis",
        feature: "queue-redis",
        built: cfg!(feature = "queue-redis"),
        chosen: |c| c.queue.redis.is_some(),
        check: |c| c.queue.redis.as_ref().map_or(Ok(()), |redis| redis.check(c.master_key.is_some())),
    },
    Backend {
        section: "memory.openai",
        feature: "memory-openai",
        built: cfg!(feature = "memory-openai"),
        chosen: |c| c.memory.openai.is_some(),
        check: |c| c.memory.openai.as_ref().map_or(Ok(()), OpenAiConfig::check),
    },
];

/// A key with what a layer gave for it.
pub(super) struct Found {
    pub(super) key: &'static Key,
    pub(super) names: Names,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

const TENANT: &str = "<tenant>";
const EMPLOYEE: &str = "<employee>";
const SECOND: u128 = 1000;
const DAY: u128 = 24 * 3600 * SECOND;
const MIB: u128 = 1024 * 1024;

pub(super) static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys = vec![
        Key::new("data_dir", |c| &mut c.data_dir, "Where this process keeps its state; a directory for each process."),
        Key::new("master_key", |c| &mut c.master_key, "The key that wraps all others: 32 bytes, base64.")
            .unset("made in `data_dir` at the first start, with mode 0600", "\"env:FORGE_MASTER_KEY\""),
        Key::new("queue.path", |c| &mut c.queue.path, "The file of queue, journal and approvals; processes of one machine may share it.")
            .unset("`queue.db` in `data_dir`", "\"forge-data/queue.db\""),
        Key::new("queue.concurrency", |c| &mut c.queue.concurrency, "Tasks at a time.").within(1, 10_000),
        Key::new("queue.visibility_timeout", |c| &mut c.queue.visibility_timeout, "How long a worker that stopped answering keeps a task.")
            .within(SECOND, DAY),
        Key::new("queue.redis.url", |c| &mut redis(c).url, "The server; redis+sentinel://a,b,c/master and redis+cluster://a,b,c too, rediss for TLS. The password is no part of it.")
            .required("\"redis://127.0.0.1:6379/0\""),
        Key::new("queue.redis.prefix", |c| &mut redis(c).prefix, "Before every key, as Celery's `global_keyprefix`. In a cluster it holds a hash tag.")
            .unset("there is none", "\"{forge}:\""),
        Key::new("queue.redis.password", |c| &mut redis(c).password, "The password; fetched for each connection, so it may rotate.")
            .unset("none is sent", "\"env:REDIS_PASSWORD\""),
        Key::new("queue.redis.ca_file", |c| &mut redis(c).ca_file, "PEM of the authority that signed the server's certificate.")
            .unset("Mozilla's are trusted", "\"/etc/ssl/redis-ca.pem\""),
        Key::new("queue.redis.connections", |c| &mut redis(c).connections, "Connections for commands; each carries many calls at a time.")
            .within(1, 16),
        Key::new("queue.redis.result_ttl", |c| &mut redis(c).result_ttl, "How long the result of a task stays.").within(SECOND, 366 * DAY),
        Key::new("queue.redis.dead_letter_ttl", |c| &mut redis(c).dead_letter_ttl, "How long a dead letter stays.").within(SECOND, 366 * DAY),
        Key::new("queue.redis.bind", |c| &mut redis(c).bind, "Queues that Python pushes to, and as whom their tasks run: queue=tenant/employee/role, with commas between.")
            .unset("none is served", "\"celery=acme/mailer/service\""),
        Key::new("queue.redis.routes", |c| &mut redis(c).routes, "Tasks that go to such a queue instead of the tenant's own: task=queue, with commas between.")
            .unset("there are none", "\"mail.send=celery\""),
        Key::new("queue.redis.worker", |c| &mut redis(c).worker, "The name under which Celery's tools and Flower see this host's worker.")
            .unset("they do not see it", "\"forge@host-1\""),
        Key::new("queue.redis.leave", |c| &mut redis(c).leave, "Queues of `bind` that Python serves: tasks are sent there and none is taken, with commas between.")
            .unset("all are served", "\"celery\""),
        Key::new("workflow.running", |c| &mut c.workflow.running, "Running time of one run; time in which it is parked does not count.")
            .within(SECOND, 366 * DAY),
        Key::new("workflow.lease", |c| &mut c.workflow.lease, "How long a host that stopped answering keeps a run.").within(SECOND, DAY),
        Key::new("workflow.attempts", |c| &mut c.workflow.attempts, "Tries of one step in all, those that a crash cut off included.")
            .within(1, 1000),
        Key::new("guard.breaker_failures", |c| &mut c.guard.breaker_failures, "Failures in a row after which the circuit of a tool or model opens, for each tenant.")
            .within(1, 1_000_000),
        Key::new("guard.breaker_open", |c| &mut c.guard.breaker_open, "How long it stays open before one call is let through as a trial.")
            .within(1, DAY),
        Key::new("guard.tool_concurrency", |c| &mut c.guard.tool_concurrency, "Calls of one tool, model or task by one tenant at a time; the next waits.")
            .within(1, 1_000_000),
        Key::new("guard.tenant_concurrency", |c| &mut c.guard.tenant_concurrency, "Calls of everything by one tenant at a time; the next waits.")
            .within(1, 1_000_000),
        Key::new("guard.retry_budget", |c| &mut c.guard.retry_budget, "Retries of one tool or model at once; one more comes back every ten seconds, and one for every five calls.")
            .within(0, 1_000_000),
        Key::new("guard.policy_timeout", |c| &mut c.guard.policy_timeout, "How long a policy may think before the call is denied.").within(1, DAY),
        Key::new("guard.cache_bytes", |c| &mut c.guard.cache_bytes, "Bytes of answers kept for one tenant; 0 keeps none.").within(0, 1024 * MIB),
        Key::new("memory.openai.base_url", |c| &mut openai(c).base_url, "The endpoint, up to and without `/chat/completions`.")
            .required("\"https://api.openai.com/v1\""),
        Key::new("memory.openai.model", |c| &mut openai(c).model, "The model, as the endpoint calls it.").required("\"gpt-4.1-mini\""),
        Key::new("memory.openai.provider", |c| &mut openai(c).provider, "The first part of the model's name in policies and prices."),
        Key::new("memory.openai.key", |c| &mut openai(c).key, "Sent as a bearer token.").unset("none is sent", "\"env:OPENAI_API_KEY\""),
        Key::new("memory.openai.context", |c| &mut openai(c).context, "The most tokens of a request and its answer together.")
            .unset("not known", "128000").within(1, 100_000_000),
        Key::new("memory.openai.cache", |c| &mut openai(c).cache, "How long the same request may be given the same answer; 0s: never.")
            .within(0, 366 * DAY),
        Key::new("memory.openai.remote", |c| &mut openai(c).remote, "Whether text leaves the house; it is masked for a remote model."),
        Key::new("memory.openai.timeout", |c| &mut openai(c).timeout, "The longest wait for an answer.").within(1, DAY),
        Key::new("memory.openai.limit_field", |c| &mut openai(c).limit_field, "What a request calls the limit of its answer; models that reason know the second only."),
        Key::new("quota.reservation", |c| &mut c.quota.reservation, "When a reservation that nobody settled stops counting; longer than the longest call.")
            .within(SECOND, 366 * DAY),
        Key::for_names("quota.default.window", |c, n| &mut tenant(c, n).window, "When counting begins anew, in UTC."),
    ];
    keys.extend(limits("quota.default.total", "all employees of a tenant together", |c, n| &mut tenant(c, n).total));
    keys.extend(limits("quota.default.each_employee", "each employee", |c, n| &mut tenant(c, n).each_employee));
    keys.push(Key::for_names(
        "quota.tenants.<tenant>.window",
        |c, n| &mut tenant(c, n).window,
        "The same, for one tenant.",
    ));
    keys.extend(limits("quota.tenants.<tenant>.total", "this tenant", |c, n| &mut tenant(c, n).total));
    keys.extend(limits("quota.tenants.<tenant>.each_employee", "each employee of it", |c, n| {
        &mut tenant(c, n).each_employee
    }));
    keys.extend(limits("quota.tenants.<tenant>.employees.<employee>", "this employee", employee));
    keys
});

fn redis(config: &mut Config) -> &mut RedisQueueConfig {
    config.queue.redis.get_or_insert_default()
}

fn openai(config: &mut Config) -> &mut OpenAiConfig {
    config.memory.openai.get_or_insert_default()
}

/// The three limits at one place.
fn limits(under: &str, whose: &str, at: for<'c> fn(&'c mut Config, &Names) -> &'c mut Limit) -> [Key; 3] {
    [
        Key::for_names(
            &format!("{under}.calls"),
            move |c, n| &mut at(c, n).calls,
            &format!("Calls of tools and models by {whose} in a window."),
        ),
        Key::for_names(
            &format!("{under}.tokens"),
            move |c, n| &mut at(c, n).tokens,
            &format!("Tokens, read and written, by {whose} in a window."),
        ),
        Key::for_names(
            &format!("{under}.money"),
            move |c, n| &mut at(c, n).money,
            &format!("Money spent by {whose} in a window."),
        ),
    ]
}

fn tenant<'c>(config: &'c mut Config, names: &Names) -> &'c mut TenantLimits {
    let Some(tenant) = &names.tenant else { return &mut config.quota.default };
    let default = &config.quota.default;
    config.quota.tenants.entry(tenant.clone()).or_insert_with(|| default.clone())
}

fn employee<'c>(config: &'c mut Config, names: &Names) -> &'c mut Limit {
    let limits = tenant(config, names);
    let Some(employee) = &names.employee else { return &mut limits.each_employee };
    limits.employees.entry(employee.clone()).or_insert(limits.each_employee)
}

impl Key {
    fn new<S: Setting + 'static>(path: &str, at: fn(&mut Config) -> &mut S, about: &str) -> Self {
        Self::for_names(path, move |c, _| at(c), about)
    }

    fn for_names<S: Setting + 'static>(
        path: &str,
        at: impl for<'c> Fn(&'c mut Config, &Names) -> &'c mut S + Send + Sync + 'static,
        about: &str,
    ) -> Self {
        let at: At = Box::new(move |c, n| at(c, n) as &mut dyn Setting);
        let backend = BACKENDS.iter().find(|b| is_under(path, b.section));
        Self {
            path: path.to_owned(),
            about: about.to_owned(),
            at,
            unset: ("", ""),
            bounds: None,
            backend,
            required: false,
        }
    }

    fn unset(mut self, what_holds: &'static str, example: &'static str) -> Self {
        self.unset = (what_holds, example);
        self
    }

    /// Its backend cannot do without it.
    fn required(mut self, example: &'static str) -> Self {
        self.required = true;
        self.unset("required", example)
    }

    fn within(mut self, least: u128, most: u128) -> Self {
        self.bounds = Some((least, most));
        self
    }

    /// Whether it takes just these names.
    pub(super) fn needs(&self, names: &Names) -> bool {
        self.path.contains(TENANT) == names.tenant.is_some() && self.path.contains(EMPLOYEE) == names.employee.is_some()
    }

    /// Its path, for these names.
    pub(super) fn path_of(&self, names: &Names) -> String {
        let mut path = self.path.clone();
        if let Some(tenant) = &names.tenant {
            path = path.replace(TENANT, tenant.as_str());
        }
        if let Some(employee) = &names.employee {
            path = path.replace(EMPLOYEE, &segment(employee.as_str()));
        }
        path
    }

    pub(super) fn is_secret(&self) -> bool {
        (self.at)(&mut Config::default(), &Names::default()).kind() == REFERENCE
    }

    /// What keeps the value from being used.
    pub(super) fn misfit(&self, config: &mut Config, names: &Names) -> Option<String> {
        let setting = (self.at)(config, names);
        if self.required && setting.show().is_none() {
            return Some(format!("missing: {} is chosen", self.backend.map_or("its backend", |b| b.section)));
        }
        let (least, most) = self.bounds?;
        let size = setting.size()?;
        if size < least {
            Some(format!("must be at least {}", setting.show_size(least)))
        } else if size > most {
            Some(format!("must be at most {}", setting.show_size(most)))
        } else {
            None
        }
    }

    fn documented(&self) -> ConfigKey {
        let mut default = Config::default();
        let setting = (self.at)(&mut default, &Names::default());
        let (value, range) = (
            setting.show(),
            self.bounds.map(|(least, most)| format!("{} to {}", setting.show_size(least), setting.show_size(most))),
        );
        // of a tenant or employee that is named, all others are the default
        let (default, unset) = if self.path.contains(EMPLOYEE) {
            (None, ("as `each_employee`", value.unwrap_or_default()))
        } else if self.path.contains(TENANT) {
            (None, ("as `quota.default`", value.unwrap_or_default()))
        } else {
            (value, (self.unset.0, self.unset.1.to_owned()))
        };
        ConfigKey {
            key: self.path.clone(),
            kind: setting.kind(),
            default,
            unset,
            range,
            variable: format!("FORGE__{}", self.path.to_uppercase().replace('.', "__")),
            secret: self.is_secret(),
            feature: self.backend.map(|b| b.feature),
            about: self.about.clone(),
        }
    }
}

pub(super) fn all() -> Vec<ConfigKey> {
    KEYS.iter().map(Key::documented).collect()
}

/// One part of a path as TOML writes it.
pub(super) fn segment(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { name.to_owned() } else { format!("{name:?}") }
}

/// What a path leads to.
pub(super) enum Place {
    Key(&'static Key, Names),
    /// A table that holds keys.
    Section,
    /// Nothing, and why.
    Nothing(String),
}

/// Looks a path up.
pub(super) fn find(path: &[&str]) -> Place {
    let mut section = false;
    for key in KEYS.iter() {
        let pattern: Vec<&str> = key.path.split('.').collect();
        if path.len() > pattern.len() || !path.iter().zip(&pattern).all(|(p, k)| p == k || k.starts_with('<')) {
            continue;
        }
        let named = |what: &str| path.iter().zip(&pattern).find(|(_, k)| **k == what).map(|(p, _)| *p);
        let tenant = named(TENANT).map(TenantId::parse).transpose();
        let employee = named(EMPLOYEE).map(EmployeeId::parse).transpose();
        match (tenant, employee) {
            (Ok(tenant), Ok(employee)) if path.len() == pattern.len() => {
                return Place::Key(key, Names { tenant, employee });
            }
            (Ok(_), Ok(_)) => section = true,
            (Err(e), _) | (_, Err(e)) => return Place::Nothing(e.message().to_owned()),
        }
    }
    if section { Place::Section } else { Place::Nothing(nearest(path)) }
}

/// "unknown key", with what may have been meant.
fn nearest(path: &[&str]) -> String {
    let given = path.join(".");
    let sections =
        KEYS.iter().flat_map(|k| k.path.match_indices('.').map(|(i, _)| k.path.get(..i).unwrap_or_default()));
    let known = KEYS.iter().map(|k| k.path.as_str()).chain(sections);
    // a key of another section may be meant as well as one that is spelt nearly so
    let last = |p: &str| p.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |k: &str| {
        let whole = strsim::normalized_damerau_levenshtein(k, &given);
        let end = if last(k) == last(&given) { 0.75 } else { 0.0 };
        whole.max(end)
    };
    let best = known.map(|k| (score(k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, key)) if score >= 0.7 => format!("unknown key, did you mean `{key}`?"),
        _ => "unknown key; docs/configuration.md lists all".to_owned(),
    }
}
