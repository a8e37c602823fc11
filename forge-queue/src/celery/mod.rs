//! Celery's wire format over Redis, as values: no connection, no clock, no randomness.
//!
//! A queue that Python programs also use must be read with suspicion and written with care: Celery's own worker stops at messages that
//! another program may send, and stops at ours if a field is missing. So [`Envelope::parse`] reads everything that can be understood,
//! refuses the rest with a word ([`Malformed::reason`]) for the dead letter, and never panics; [`Envelope::to_bytes`] writes every
//! field that a worker of Celery 5.7 looks at.
//!
//! Formats: [message protocol 2](https://docs.celeryq.dev/en/stable/internals/protocol.html), kombu's `transport/redis.py` for keys
//! and priorities, `celery/backends/base.py` for results.
//!
//! ```
//! use forge_queue::celery::{Envelope, Limits};
//!
//! let task = Envelope::from_payload("1db5982d-e505-425a-b8b6-d5ce35897a4c", "mail.send", &serde_json::json!({"to": "x"}))?;
//! let bytes = task.to_bytes();
//! assert_eq!(Envelope::parse(&bytes, &Limits::default())?.payload(), serde_json::json!({"to": "x"}));
//! assert_eq!(Envelope::parse(b"[]", &Limits::default()).unwrap_err().reason(), "not_an_object");
//! # Ok::<(), forge_queue::celery::Malformed>(())
//! ```

mod body;
mod control;
mod envelope;
mod event;
mod glob;
mod json;
mod malformed;
mod method;
mod parse;
mod payload;
mod repr;
mod result;
mod route;
mod signature;
mod time;
mod typed;
mod write;

pub use body::Limits;
pub(crate) use control::control_message;
pub use control::{ControlMessage, Pattern, ReplyTo};
pub use envelope::{Embed, Envelope};
pub use event::{EventSource, Publication, Stamp, TaskEvent, TaskEventKind, WorkerEvent, WorkerLoad};
pub(crate) use json::write as written;
pub use malformed::Malformed;
pub use method::Method;
pub use payload::SHAPE_HEADER;
pub use repr::{REPR_MAX, args_repr, kwargs_repr, value_repr};
pub(crate) use result::decoded;
pub use result::{Exception, ResultState, Revocation, TaskResult, meta_key};
pub use route::{PRIORITY_SEPARATOR, STEPS, queue_for, queues};
pub use signature::Signature;
pub(crate) use time::seconds;
pub use typed::untyped;
pub use write::{FORGE_PREFIX, forge_id};
