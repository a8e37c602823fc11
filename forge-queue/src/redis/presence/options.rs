//! Who a worker is to monitors, and what they may do to it.

use std::fmt;
use std::sync::Arc;

use forge_core::{Error, ErrorKind, Result, TenantId};
use tokio_util::sync::CancellationToken;

/// The names under which Celery's programs find each other; those that Celery has by default.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exchanges {
    /// Celery's `control_exchange`, `celery`.
    pub control: String,
    /// Celery's `event_exchange`, `celeryev`.
    pub events: String,
    /// Kombu's `fanout_prefix`, `/{db}.`, where `{db}` is the number of the database. Empty where it is off.
    pub fanout_prefix: String,
}

impl Default for Exchanges {
    fn default() -> Self {
        Self { control: "celery".to_owned(), events: "celeryev".to_owned(), fanout_prefix: "/{db}.".to_owned() }
    }
}

impl Exchanges {
    /// What stands before every channel of this database.
    pub(super) fn prefix(&self, db: i64) -> String {
        self.fanout_prefix.replace("{db}", &db.to_string())
    }

    /// Where commands come; the prefix of all keys goes before it.
    pub(super) fn control_channel(&self, db: i64) -> String {
        format!("{}{}.pidbox", self.prefix(db), self.control)
    }

    /// Through which answers go.
    pub(super) fn reply_exchange(&self) -> String {
        format!("reply.{}.pidbox", self.control)
    }
}

/// What may be changed from the control channel. Redis does not say who speaks there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Allow {
    /// `revoke`, `terminate` and `revoke_by_stamped_headers`, for tasks without a seal. A sealed task is never revoked from here: it is
    /// cancelled through [`TaskQueue::cancel`](forge_core::queue::TaskQueue::cancel), as its tenant.
    pub revoke: bool,
    /// `add_consumer` and `cancel_consumer`, for queues that are bound.
    pub consumers: bool,
}

/// What monitors see beside names, ids and times. Nothing of it by default; `...` stands in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Show {
    /// What tasks returned.
    pub results: bool,
    /// The arguments of other programs' tasks as those programs wrote them. Ours are redacted by who queued them and always shown.
    pub foreign_arguments: bool,
    /// The tenants' own queues, by name. The bound ones are always shown.
    pub own_queues: bool,
}

/// A worker as Celery's programs see it.
#[derive(Clone)]
#[non_exhaustive]
pub struct PresenceOptions {
    /// The worker's name, such as `forge@host`; no two workers have the same.
    pub name: String,
    /// Whose tasks and queues it shows and lets be changed; everybody's where it is none.
    pub tenant: Option<TenantId>,
    /// Where it speaks and listens; the broker's own where it is none. Only who is kept from these channels by the server's access list
    /// is kept from what the presence allows: a tenant whose programs may revoke gets exchanges of its own.
    pub exchanges: Option<Exchanges>,
    /// Whether events of tasks are sent from the start. Else once somebody asks for them, as Flower does.
    pub events: bool,
    /// What may be changed.
    pub allow: Allow,
    /// What is shown.
    pub show: Show,
    /// Cancelled by `shutdown`; without it, that is refused.
    pub shutdown: Option<CancellationToken>,
    /// Called by `pool_grow` and `pool_shrink` with how many tasks more to run at a time; without it, they are refused.
    pub resize: Option<Arc<dyn Fn(i64) + Send + Sync>>,
}

impl PresenceOptions {
    /// A worker that shows the tasks of all tenants and lets nothing be changed.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            tenant: None,
            exchanges: None,
            events: false,
            allow: Allow::default(),
            show: Show::default(),
            shutdown: None,
            resize: None,
        }
    }

    /// A worker that shows the tasks of one tenant and lets those be revoked that have no seal.
    pub fn of_tenant(name: impl Into<String>, tenant: TenantId) -> Self {
        Self { tenant: Some(tenant), allow: Allow { revoke: true, consumers: false }, ..Self::new(name) }
    }

    pub(super) fn check(&self) -> Result<()> {
        let plain = |text: &str| {
            (1..=128).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'@' | b':'))
        };
        let exchanges = self.exchanges.iter().flat_map(|e| [&e.control, &e.events]);
        if std::iter::once(&self.name).chain(exchanges).all(|name| plain(name)) {
            return Ok(());
        }
        let why = "names of workers and exchanges have 1 to 128 of letters, digits and _.-@:";
        Err(Error::new(ErrorKind::Config, super::OP, why))
    }
}

impl fmt::Debug for PresenceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresenceOptions")
            .field("name", &self.name)
            .field("tenant", &self.tenant)
            .field("exchanges", &self.exchanges)
            .field("allow", &self.allow)
            .field("show", &self.show)
            .finish_non_exhaustive()
    }
}
