//! One task as a message.

use forge_core::Timestamp;
use serde_json::{Map, Value};

use super::{Malformed, json};

/// A task of Celery's message protocol 2: what a producer pushes and a worker pops.
///
/// Arguments, embedded signatures and the bytes of the body belong together and change together
/// ([`with_content`](Self::with_content)); everything else is a plain field.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Envelope {
    /// The task's id; a UUID from Celery and from Forge, any text from others.
    pub id: String,
    /// Which task, by name.
    pub task: String,
    /// Not before this time.
    pub eta: Option<Timestamp>,
    /// Not after this time.
    pub expires: Option<Timestamp>,
    /// Tries before this one.
    pub retries: u32,
    /// Hard limit of an attempt in seconds: the worker kills it.
    pub time_limit: Option<f64>,
    /// Soft limit of an attempt in seconds: the task is told.
    pub soft_time_limit: Option<f64>,
    /// The group that it is part of.
    pub group: Option<String>,
    /// Its place in the group, from 0.
    pub group_index: Option<u64>,
    /// The first task of the tree that it belongs to; its own id at the root.
    pub root_id: Option<String>,
    /// The task that sent it; after a retry, itself.
    pub parent_id: Option<String>,
    /// The arguments for people to read, from the producer.
    pub argsrepr: Option<String>,
    /// The keyword arguments for people to read, from the producer.
    pub kwargsrepr: Option<String>,
    /// The process that sent it: `gen4711@host`.
    pub origin: Option<String>,
    /// Whether no result is stored; absent means that the task's definition decides.
    pub ignore_result: Option<bool>,
    /// How often the task replaced itself by another.
    pub replaced_task_nesting: u32,
    /// Which keys of [`stamps`](Self::stamps) are stamps.
    pub stamped_headers: Option<Vec<String>>,
    /// The stamps.
    pub stamps: Map<String, Value>,
    /// A name to show instead of the task's.
    pub shadow: Option<String>,
    /// The producer's language: `py` from Celery, `rust` from Forge.
    pub lang: Option<String>,
    /// Where replies go, for the RPC backend; Celery names its process here.
    pub reply_to: Option<String>,
    /// The task's id again.
    pub correlation_id: Option<String>,
    /// 0 to 9; 0 is served first.
    pub priority: u8,
    /// The exchange that it was sent to; empty for the queue of the routing key.
    pub exchange: String,
    /// The queue, where the exchange is empty.
    pub routing_key: String,
    /// Whether a worker had it before and did not finish.
    pub redelivered: bool,
    /// Names this delivery in Redis; the task's id is written where there is none. Celery takes a fresh UUID for each message.
    pub delivery_tag: Option<String>,
    /// Every other header, flat, such as `traceparent` and `x-forge-…`.
    pub extra: Map<String, Value>,
    /// Every other property, such as `expiration`.
    pub properties: Map<String, Value>,
    pub(super) args: Vec<Value>,
    pub(super) kwargs: Map<String, Value>,
    pub(super) embed: Embed,
    pub(super) body: Vec<u8>,
    pub(super) compressed: bool,
}

/// The signatures that a task carries: what follows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embed {
    /// Sent with the result after a success.
    pub callbacks: Option<Vec<Value>>,
    /// Sent with the task's id after a failure.
    pub errbacks: Option<Vec<Value>>,
    /// The rest of the chain, last task first: the next one is popped from the end.
    pub chain: Option<Vec<Value>>,
    /// The body of the chord that this task is a part of.
    pub chord: Option<Value>,
}

impl Envelope {
    /// A task without arguments that is the root of its tree.
    pub fn new(id: impl Into<String>, task: impl Into<String>) -> Self {
        let id = id.into();
        let mut envelope = Self {
            task: task.into(),
            eta: None,
            expires: None,
            retries: 0,
            time_limit: None,
            soft_time_limit: None,
            group: None,
            group_index: None,
            root_id: Some(id.clone()),
            parent_id: None,
            argsrepr: None,
            kwargsrepr: None,
            origin: None,
            ignore_result: Some(false),
            replaced_task_nesting: 0,
            stamped_headers: None,
            stamps: Map::new(),
            shadow: None,
            lang: Some("rust".to_owned()),
            reply_to: None,
            correlation_id: Some(id.clone()),
            priority: 0,
            exchange: String::new(),
            routing_key: String::new(),
            redelivered: false,
            delivery_tag: None,
            extra: Map::new(),
            properties: Map::new(),
            args: Vec::new(),
            kwargs: Map::new(),
            embed: Embed::default(),
            body: Vec::new(),
            compressed: false,
            id,
        };
        envelope.body = json::write(&(&envelope.args, &envelope.kwargs, envelope.embed.to_value()));
        envelope
    }

    /// The arguments.
    pub fn args(&self) -> &[Value] {
        &self.args
    }

    /// The keyword arguments.
    pub fn kwargs(&self) -> &Map<String, Value> {
        &self.kwargs
    }

    /// What follows the task.
    pub fn embed(&self) -> &Embed {
        &self.embed
    }

    /// The bytes of the body, decoded and decompressed: JSON of `[args, kwargs, embed]`, exactly as the producer wrote it. A signature
    /// is bound to them.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Replaces arguments and embedded signatures, and so the bytes of the body.
    ///
    /// # Errors
    /// [`Malformed::TooDeep`] if it is nested so deeply that no worker would read it.
    pub fn with_content(
        mut self,
        args: Vec<Value>,
        kwargs: Map<String, Value>,
        embed: Embed,
    ) -> Result<Self, Malformed> {
        self.body = json::write(&(&args, &kwargs, embed.to_value()));
        if json::depth(&self.body) > json::MAX_DEPTH {
            return Err(Malformed::TooDeep);
        }
        (self.args, self.kwargs, self.embed) = (args, kwargs, embed);
        Ok(self)
    }

    /// The message that tries the task again, as Celery sends it: the same id and body, with itself as the parent. The old message is
    /// to be acknowledged together with pushing this one.
    #[must_use]
    pub fn with_retry(mut self, retries: u32, eta: Option<Timestamp>) -> Self {
        self.retries = retries;
        self.eta = eta;
        self.root_id.get_or_insert_with(|| self.id.clone());
        self.parent_id = Some(self.id.clone());
        self.redelivered = false;
        self
    }

    /// Marks the message as one that a worker had and did not finish.
    pub fn set_redelivered(&mut self) {
        self.redelivered = true;
    }
}

impl Embed {
    /// Reads the third element of a body; an empty object and `null` are nothing.
    pub(super) fn read(value: &Value) -> Result<Self, Malformed> {
        let map = match value {
            Value::Null => return Ok(Self::default()),
            Value::Object(map) => map,
            _ => return Err(Malformed::BodyShape),
        };
        let list = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(signatures)) => Ok(Some(signatures.clone())),
            Some(_) => Err(Malformed::BodyShape),
        };
        Ok(Self {
            callbacks: list("callbacks")?,
            errbacks: list("errbacks")?,
            chain: list("chain")?,
            chord: map.get("chord").filter(|v| !v.is_null()).cloned(),
        })
    }

    fn to_value(&self) -> impl serde::Serialize + '_ {
        #[derive(serde::Serialize)]
        struct Wire<'a> {
            callbacks: &'a Option<Vec<Value>>,
            errbacks: &'a Option<Vec<Value>>,
            chain: &'a Option<Vec<Value>>,
            chord: &'a Option<Value>,
        }
        Wire { callbacks: &self.callbacks, errbacks: &self.errbacks, chain: &self.chain, chord: &self.chord }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_written_as_celery_writes_it() {
        let task =
            Envelope::new("a", "t.add").with_content(vec![2.into(), 3.into()], Map::new(), Embed::default()).unwrap();
        let expected = br#"[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
        assert_eq!(task.body(), expected);
    }

    #[test]
    fn a_retry_is_its_own_parent() {
        let at = Timestamp::from_nanos(7_000);
        let again = Envelope::new("a", "t.add").with_retry(1, Some(at));
        assert_eq!((again.retries, again.eta), (1, Some(at)));
        assert_eq!((again.parent_id.as_deref(), again.root_id.as_deref()), (Some("a"), Some("a")));
    }

    #[test]
    fn what_no_worker_would_read_is_not_written() {
        let deep = (0..98).fold(Value::Null, |v, _| Value::Array(vec![v]));
        let task = Envelope::new("a", "t");
        assert!(task.clone().with_content(vec![deep.clone()], Map::new(), Embed::default()).is_ok());
        let deeper = vec![Value::Array(vec![deep])];
        assert_eq!(task.with_content(deeper, Map::new(), Embed::default()), Err(Malformed::TooDeep));
    }
}
