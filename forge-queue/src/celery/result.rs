//! What became of a task, as Celery stores it.

use forge_core::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::body::{decompress, text};
use super::{Limits, Malformed, json, time};

/// How a result begins that was stored under `result_compression`, new in Celery 5.7: the method follows, a NUL, and the stream.
const COMPRESSED: &[u8] = b"\0celery-compressed\0";

/// The key of a task's result, and the channel on which it is announced.
pub fn meta_key(id: &str) -> String {
    format!("celery-task-meta-{id}")
}

/// The stored result of one task. A task that is not there is pending.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskResult {
    /// Which task.
    pub task_id: String,
    /// What became of it.
    pub state: ResultState,
    /// The tasks that it sent, as `[[id, null], null]`; absent where nobody kept count.
    pub children: Option<Vec<Value>>,
    /// When it ended; written only for the states that end a task.
    pub date_done: Option<Timestamp>,
    /// The group that it is part of.
    pub group_id: Option<String>,
    /// The task that sent it.
    pub parent_id: Option<String>,
    /// Everything else, as with `result_extended`: name, args, kwargs, worker, retries, queue.
    pub extra: Map<String, Value>,
}

/// What became of a task.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ResultState {
    /// It returned.
    Success {
        /// What.
        result: Value,
    },
    /// It raised.
    Failure {
        /// What.
        exception: Exception,
        /// Where, for people to read.
        traceback: Option<String>,
    },
    /// It raised and will be tried again.
    Retry {
        /// What.
        exception: Exception,
        /// Where, for people to read.
        traceback: Option<String>,
    },
    /// It was stopped or never begun.
    Revoked {
        /// Why.
        reason: Revocation,
    },
    /// A worker has it; only tasks with `track_started`.
    Started {
        /// The worker's process.
        pid: u32,
        /// The worker's name.
        hostname: String,
    },
    /// It said how far it is.
    Progress(Value),
    /// A state of the task's own, or one that Forge has no use for.
    Other {
        /// Its name.
        status: String,
        /// What it carries.
        result: Value,
    },
}

/// An exception as its class and its arguments. A Python client raises `module.kind(*message)` if it has that module loaded, and a class
/// of the same name otherwise: `builtins` is loaded everywhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Exception {
    /// The class, such as `ValueError`.
    pub kind: String,
    /// Its arguments.
    pub message: Vec<Value>,
    /// The module of the class.
    pub module: Option<String>,
}

impl Exception {
    /// `kind(message)` of `builtins`.
    pub fn builtin(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: vec![message.into().into()], module: Some("builtins".to_owned()) }
    }
}

/// Why a task was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// Before it began.
    Revoked,
    /// While it ran.
    Terminated,
    /// Its time to begin had passed.
    Expired,
    /// Something else that a worker wrote.
    Other(String),
}

impl Revocation {
    fn as_str(&self) -> &str {
        match self {
            Self::Revoked => "revoked",
            Self::Terminated => "terminated",
            Self::Expired => "expired",
            Self::Other(reason) => reason,
        }
    }

    fn read(reason: &str) -> Self {
        match reason {
            "revoked" => Self::Revoked,
            "terminated" => Self::Terminated,
            "expired" => Self::Expired,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl ResultState {
    /// Celery's name of the state.
    pub fn status(&self) -> &str {
        match self {
            Self::Success { .. } => "SUCCESS",
            Self::Failure { .. } => "FAILURE",
            Self::Retry { .. } => "RETRY",
            Self::Revoked { .. } => "REVOKED",
            Self::Started { .. } => "STARTED",
            Self::Progress(_) => "PROGRESS",
            Self::Other { status, .. } => status,
        }
    }

    /// Whether nothing more will happen to the task.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Success { .. } | Self::Failure { .. } | Self::Revoked { .. })
    }
}

impl TaskResult {
    /// The result of a task that stands alone and sent no other.
    pub fn new(task_id: impl Into<String>, state: ResultState, date_done: Timestamp) -> Self {
        let date_done = state.is_ready().then_some(date_done);
        Self {
            task_id: task_id.into(),
            state,
            children: Some(Vec::new()),
            date_done,
            group_id: None,
            parent_id: None,
            extra: Map::new(),
        }
    }

    /// What the task returned, or its exception.
    pub(crate) fn value(&self) -> Value {
        self.state.wire().0
    }

    /// The bytes to store and to publish, in Celery's order of fields.
    pub fn to_json(&self) -> Vec<u8> {
        let (result, traceback) = self.state.wire();
        let mut extra = self.extra.clone();
        extra.retain(|key, _| !FIELDS.contains(&key.as_str()));
        json::write(&Wire {
            status: self.state.status(),
            result,
            traceback,
            children: &self.children,
            date_done: self.date_done.filter(|_| self.state.is_ready()).map(time::iso),
            group_id: self.group_id.as_deref(),
            parent_id: self.parent_id.as_deref(),
            extra,
            task_id: &self.task_id,
        })
    }

    /// Reads a stored result, compressed or not. Total, as [`Envelope::parse`](super::Envelope::parse) is.
    ///
    /// # Errors
    /// [`Malformed::ResultShape`] for JSON that is no result, and what [`Limits`] forbid.
    pub fn parse(raw: &[u8], limits: &Limits) -> Result<Self, Malformed> {
        if raw.len() > limits.envelope {
            return Err(Malformed::TooLarge);
        }
        let mut map = decoded(raw, limits)?;
        let map = map.as_object_mut().ok_or(Malformed::NotAnObject)?;
        let optional = |key| text(map.get(key)).map(str::to_owned);
        let traceback = optional("traceback");
        let (status, task_id) = (optional("status"), optional("task_id"));
        let (group_id, parent_id) = (optional("group_id"), optional("parent_id"));
        let date_done = time::read(map.get("date_done")).map_err(|()| Malformed::ResultShape)?;
        let children = match map.remove("children") {
            None | Some(Value::Null) => None,
            Some(Value::Array(children)) => Some(children),
            Some(_) => return Err(Malformed::ResultShape),
        };
        let result = map.remove("result").unwrap_or_default();
        let state = ResultState::read(status.ok_or(Malformed::ResultShape)?, result, traceback)?;
        let mut extra = std::mem::take(map);
        extra.retain(|key, _| !FIELDS.contains(&key.as_str()));
        let task_id = task_id.ok_or(Malformed::ResultShape)?;
        Ok(Self { task_id, state, children, date_done, group_id, parent_id, extra })
    }
}

/// What a result backend stored, compressed or not.
pub(crate) fn decoded(raw: &[u8], limits: &Limits) -> Result<Value, Malformed> {
    match raw.strip_prefix(COMPRESSED) {
        None => json::parse(raw),
        Some(rest) => json::parse(&uncompressed(rest, limits)?),
    }
}

/// The fields that are no extras.
const FIELDS: [&str; 8] =
    ["status", "result", "traceback", "children", "date_done", "group_id", "parent_id", "task_id"];

#[derive(Serialize)]
struct Wire<'a> {
    status: &'a str,
    result: Value,
    traceback: Option<&'a str>,
    children: &'a Option<Vec<Value>>,
    date_done: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<&'a str>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    task_id: &'a str,
}

fn uncompressed(rest: &[u8], limits: &Limits) -> Result<Vec<u8>, Malformed> {
    let end = rest.iter().position(|b| *b == 0).ok_or(Malformed::BadCompression)?;
    let (method, stream) = rest.split_at_checked(end).ok_or(Malformed::BadCompression)?;
    decompress(stream.get(1..).unwrap_or(&[]), std::str::from_utf8(method).ok(), limits)
}

impl ResultState {
    fn wire(&self) -> (Value, Option<&str>) {
        match self {
            Self::Success { result } | Self::Progress(result) | Self::Other { result, .. } => (result.clone(), None),
            Self::Failure { exception, traceback } | Self::Retry { exception, traceback } => {
                (exception.to_value(), traceback.as_deref())
            }
            Self::Revoked { reason } => (revoked(reason).to_value(), None),
            Self::Started { pid, hostname } => (json!({"pid": pid, "hostname": hostname}), None),
        }
    }

    fn read(status: String, result: Value, traceback: Option<String>) -> Result<Self, Malformed> {
        Ok(match status.as_str() {
            "SUCCESS" => Self::Success { result },
            "FAILURE" => Self::Failure { exception: Exception::read(&result)?, traceback },
            "RETRY" => Self::Retry { exception: Exception::read(&result)?, traceback },
            "REVOKED" => {
                let exception = Exception::read(&result)?;
                let reason = exception.message.first().and_then(Value::as_str).unwrap_or_default();
                Self::Revoked { reason: Revocation::read(reason) }
            }
            "STARTED" => {
                let pid = result.get("pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
                match (pid, text(result.get("hostname"))) {
                    (Some(pid), Some(hostname)) => Self::Started { pid, hostname: hostname.to_owned() },
                    // `mark_as_started` takes anything
                    _ => Self::Other { status, result },
                }
            }
            "PROGRESS" => Self::Progress(result),
            _ => Self::Other { status, result },
        })
    }
}

fn revoked(reason: &Revocation) -> Exception {
    Exception {
        kind: "TaskRevokedError".to_owned(),
        message: vec![reason.as_str().into()],
        module: Some("celery.exceptions".to_owned()),
    }
}

impl Exception {
    fn to_value(&self) -> Value {
        json!({"exc_type": self.kind, "exc_message": self.message, "exc_module": self.module})
    }

    /// Old workers stored one text in place of the arguments.
    pub(crate) fn read(value: &Value) -> Result<Self, Malformed> {
        let message = match value.get("exc_message") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(args)) => args.clone(),
            Some(one) => vec![one.clone()],
        };
        Ok(Self {
            kind: text(value.get("exc_type")).ok_or(Malformed::ResultShape)?.to_owned(),
            message,
            module: text(value.get("exc_module")).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &str) -> Result<TaskResult, Malformed> {
        TaskResult::parse(raw.as_bytes(), &Limits::default())
    }

    #[test]
    fn a_result_is_written_as_celery_writes_it() {
        let raw = r#"{"status": "SUCCESS", "result": 5, "traceback": null, "children": [], "date_done": "2026-11-23T00:57:31.808225+00:00", "task_id": "0f1e"}"#;
        let result = read(raw).unwrap();
        assert_eq!(result.state, ResultState::Success { result: 5.into() });
        assert_eq!(String::from_utf8(result.to_json()).unwrap(), raw);
        assert_eq!(meta_key("0f1e"), "celery-task-meta-0f1e");
    }

    #[test]
    fn every_state_comes_back() {
        let exception = Exception::builtin("ValueError", "bad thing");
        let traceback = Some("Traceback".to_owned());
        for state in [
            ResultState::Success { result: Value::Null },
            ResultState::Failure { exception: exception.clone(), traceback: traceback.clone() },
            ResultState::Retry { exception, traceback },
            ResultState::Revoked { reason: Revocation::Expired },
            ResultState::Revoked { reason: Revocation::Other("because".to_owned()) },
            ResultState::Started { pid: 7, hostname: "w1@vm".to_owned() },
            ResultState::Progress(json!({"cur": 1})),
            ResultState::Other { status: "MINE".to_owned(), result: json!([1]) },
        ] {
            let mut result = TaskResult::new("a", state, Timestamp::from_nanos(1_000));
            result.group_id = Some("g".to_owned());
            result.extra.insert("worker".to_owned(), "w1@vm".into());
            assert_eq!(TaskResult::parse(&result.to_json(), &Limits::default()), Ok(result));
        }
    }

    #[test]
    fn what_has_not_ended_has_no_time_of_its_end() {
        let mut result = TaskResult::new("a", ResultState::Progress(Value::Null), Timestamp::from_nanos(1_000));
        assert_eq!(result.date_done, None);
        result.date_done = Some(Timestamp::from_nanos(1_000));
        assert_eq!(TaskResult::parse(&result.to_json(), &Limits::default()).unwrap().date_done, None);
    }

    #[test]
    fn what_is_no_result_is_refused() {
        assert_eq!(read("[]"), Err(Malformed::NotAnObject));
        assert_eq!(read("{}"), Err(Malformed::ResultShape));
        assert_eq!(read(r#"{"status": "FAILURE", "result": null, "task_id": "a"}"#), Err(Malformed::ResultShape));
        assert_eq!(read("\0celery-compressed\0application/x-bz2\0BZh"), Err(Malformed::UnsupportedCompression));
        assert_eq!(read("\0celery-compressed\0application/x-gzip"), Err(Malformed::BadCompression));
    }
}
