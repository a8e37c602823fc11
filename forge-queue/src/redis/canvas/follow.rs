//! From the end of a task to what is done with it.

use std::collections::VecDeque;
use std::time::Duration;

use forge_core::{ExecutionContext, Timestamp};
use serde_json::{Value, json};

use super::chord::{Complete, Part, chord_error};
use super::expand::{Expansion, flattened, id, members, parts};
use super::{Op, Place, Stop};
use crate::celery::{Envelope, Malformed, ResultState, Signature, queue_for};
use crate::redis::message::{Refused, record, task_id};
use crate::redis::{Shared, queues};

/// Chords that end with one task: each may be part of another.
const CHORDS: usize = 64;
/// How long what follows waits at most, where its parent does not say.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Collects what follows one task.
pub(in crate::redis) struct Follow<'a> {
    shared: &'a Shared,
    place: Place<'a>,
    parent: &'a Envelope,
    ctx: Option<&'a ExecutionContext>,
    now: Timestamp,
    /// What goes with the end of the lease.
    pub(in crate::redis) ops: Vec<Op>,
    /// What the task sent, for its result.
    pub(in crate::redis) children: Vec<Value>,
    parts: VecDeque<Part>,
}

impl<'a> Follow<'a> {
    pub(in crate::redis) fn new(
        shared: &'a Shared,
        place: Place<'a>,
        parent: &'a Envelope,
        ctx: Option<&'a ExecutionContext>,
        now: Timestamp,
    ) -> Self {
        Self { shared, place, parent, ctx, now, ops: Vec::new(), children: Vec::new(), parts: VecDeque::new() }
    }

    /// Whether everything that may follow can be sent at all, by trying.
    pub(in crate::redis) fn check(mut self) -> Result<(), Refused> {
        let embed = self.parent.embed();
        let lists = [&embed.callbacks, &embed.chain, &embed.errbacks];
        for value in lists.into_iter().flatten().flatten() {
            self.send(self.parent, vec![read(value)?], &[Value::Null], "check")?;
        }
        if let Some(body) = &embed.chord {
            self.send(self.parent, vec![read(body)?], &[json!([])], "check")?;
        }
        Ok(())
    }

    /// After a success: callbacks, the next of the chain, and the chord that this was the last part of.
    pub(in crate::redis) async fn succeeded(&mut self, result: &Value) -> Result<(), Stop> {
        let args = std::slice::from_ref(result);
        let callbacks = self.parent.embed().callbacks.iter().flatten().map(read).collect::<Result<Vec<_>, _>>()?;
        let (groups, single): (Vec<_>, Vec<_>) = callbacks.into_iter().partition(|s| s.task == "celery.group");
        for (i, group) in groups.into_iter().enumerate() {
            self.send(self.parent, vec![group], args, &format!("callbacks/{i}"))?;
        }
        self.send(self.parent, single, args, "callbacks")?;
        if let Some(next) = Signature::next_in_chain(self.parent).map_err(Refused::Malformed)? {
            self.send(self.parent, vec![next], args, "chain")?;
        }
        self.part(ResultState::Success { result: result.clone() });
        let children = std::mem::take(&mut self.children);
        self.join().await?;
        self.children = children;
        Ok(())
    }

    /// After the last failure: errbacks, if it ran; everything that waited for the result fails too.
    pub(in crate::redis) async fn failed(&mut self, state: &ResultState) -> Result<(), Stop> {
        let parent = self.parent;
        if matches!(state, ResultState::Failure { .. }) {
            self.errbacks(parent, parent.embed().errbacks.as_deref().unwrap_or_default());
        }
        self.part(state.clone());
        self.fail_all(parent.embed().chain.as_deref().unwrap_or_default(), state);
        self.join().await?;
        self.children.clear();
        Ok(())
    }

    fn part(&mut self, state: ResultState) {
        if let (Some(body), Some(group)) = (&self.parent.embed().chord, &self.parent.group) {
            let (task, index) = (self.parent.id.clone(), self.parent.group_index);
            self.parts.push_back(Part { task, group: group.clone(), index, state, body: body.clone() });
        }
    }

    /// Counts the parts that ended. A chord that is complete sends its body, or fails it, which may be a part of the next.
    async fn join(&mut self) -> Result<(), Stop> {
        for _ in 0..CHORDS {
            let Some(part) = self.parts.pop_front() else { return Ok(()) };
            if let Some(complete) = self.shared.join(&self.place, &part).await? {
                self.complete(&part.body, complete);
            }
        }
        Err(Refused::Malformed(Malformed::TooLarge).into())
    }

    fn complete(&mut self, body: &Value, chord: Complete) {
        self.ops.push(Op::Complete { base: chord.base, claim: chord.claim });
        let before = self.ops.len();
        let failed = match chord.results {
            Ok(results) => {
                let sent = read(body).and_then(|s| self.send(self.parent, vec![s], &[Value::Array(results)], "body"));
                match sent {
                    Ok(()) => return,
                    Err(refused) => chord_error(format!("Callback error: {}", refused.reason())),
                }
            }
            Err(exception) => exception,
        };
        self.ops.truncate(before);
        let state = ResultState::Failure { exception: failed, traceback: None };
        self.fail_all(std::slice::from_ref(body), &state);
        self.body_errbacks(body);
    }

    /// The errbacks of a body that never ran, each with the id of the task that it belongs to.
    fn body_errbacks(&mut self, body: &Value) {
        let Ok(body) = read(body) else { return };
        let tasks = match body.task.as_str() {
            "celery.group" => flattened(&body).unwrap_or_default(),
            _ => Vec::new(),
        };
        for task in tasks.iter().chain([&body]) {
            let errbacks = match task.options.get("link_error") {
                Some(Value::Array(list)) => list.clone(),
                Some(Value::Object(one)) => vec![Value::Object(one.clone())],
                _ => continue,
            };
            let mut failed = Envelope::new(id(task), &task.task);
            failed.root_id.clone_from(&self.parent.root_id);
            failed.extra.clone_from(&self.parent.extra);
            self.errbacks(&failed, &errbacks);
        }
    }

    /// An errback that cannot be sent is no reason not to give the task up.
    fn errbacks(&mut self, failed: &Envelope, errbacks: &[Value]) {
        let errbacks: Vec<Signature> = errbacks.iter().filter_map(|e| read(e).ok()).collect();
        if let Err(refused) = self.send(failed, errbacks, &[failed.id.clone().into()], "errbacks") {
            tracing::warn!(tenant = %self.place.tenant, reason = refused.reason(), "errbacks of a task were not sent");
        }
    }

    /// Fails tasks that will not run, and what they are made of: whoever waits for one of them waits no longer.
    fn fail_all(&mut self, signatures: &[Value], state: &ResultState) {
        for signature in signatures.iter().filter_map(|s| read(s).ok()) {
            match signature.task.as_str() {
                "celery.chain" => {
                    let mut tasks = members(&signature).unwrap_or_default();
                    // the end of a chain stands for the chain in its group and chord
                    if let Some(last) = tasks.last_mut() {
                        inherit(last, &signature);
                    }
                    let tasks: Vec<Value> = tasks.iter().map(Signature::to_value).collect();
                    self.fail_all(&tasks, state);
                }
                "celery.group" => {
                    for (i, mut task) in flattened(&signature).unwrap_or_default().into_iter().enumerate() {
                        if signature.options.get("chord").is_some_and(|c| !c.is_null()) {
                            inherit(&mut task, &signature);
                            task.options.insert("group_index".to_owned(), i.into());
                        }
                        self.fail_all(&[task.to_value()], state);
                    }
                }
                "celery.chord" => {
                    if let Ok((header, mut body)) = parts(&signature) {
                        // parts that nobody sent are not counted: their chord never began
                        for mut part in flattened(&header).unwrap_or_default() {
                            part.options.remove("chord");
                            self.fail_all(&[part.to_value()], state);
                        }
                        inherit(&mut body, &signature);
                        self.fail_all(&[body.to_value()], state);
                    }
                }
                _ => self.fail_one(&signature, state),
            }
            if let Some(Value::Array(rest)) = signature.options.get("chain") {
                self.fail_all(rest, state);
            }
        }
    }

    fn fail_one(&mut self, signature: &Signature, state: &ResultState) {
        let text = |key: &str| signature.options.get(key).and_then(Value::as_str).map(str::to_owned);
        let Some(task) = text("task_id") else { return };
        let mut result = self.shared.result(self.place.tenant, task.clone(), state.clone());
        (result.group_id, result.parent_id) = (text("group_id"), text("parent_id"));
        self.ops.push(Op::Result(Box::new(result)));
        if let (Some(body), Some(group)) = (signature.options.get("chord").filter(|c| !c.is_null()), text("group_id")) {
            let index = signature.options.get("group_index").and_then(Value::as_u64);
            self.parts.push_back(Part { task, group, index, state: state.clone(), body: body.clone() });
        }
    }

    /// Takes signatures apart and puts their messages with the rest.
    fn send(
        &mut self,
        parent: &Envelope,
        mut signatures: Vec<Signature>,
        args: &[Value],
        place: &str,
    ) -> Result<(), Refused> {
        let mut expansion = Expansion::new(parent, self.now);
        match signatures.pop() {
            None => return Ok(()),
            Some(only) if signatures.is_empty() && place != "errbacks" => expansion.send(only, args, place),
            Some(last) => {
                signatures.push(last);
                expansion.send_all(&signatures, args, place)
            }
        }
        .map_err(Refused::Malformed)?;
        let Expansion { messages, chords, children, .. } = expansion;
        self.ops.extend(chords.into_iter().map(Op::Begin));
        for message in messages {
            let op = self.push(message)?;
            self.ops.push(op);
        }
        self.children.extend(children);
        Ok(())
    }

    /// A message in the tenant's own queues, sealed if its parent is.
    fn push(&self, mut message: Envelope) -> Result<Op, Refused> {
        let tenant = self.place.tenant;
        let queue = self.queue_of(&message)?;
        message.exchange.clear();
        message.routing_key.clone_from(&queue);
        self.shared.inherit(&mut message, self.parent);
        let mut known = None;
        if let Some(ctx) = self.ctx {
            let lifetime = self.shared.lifetime(self.parent).unwrap_or(LIFETIME);
            let from = message.eta.map_or(self.now, |eta| eta.max(self.now));
            let until = message.expires.unwrap_or_else(|| from.after(lifetime));
            message.expires = Some(until);
            message = self.shared.seal("queue.settle", ctx, message, until).map_err(|_| Refused::BadSeal)?;
            let elsewhere = (queue != queues::own(tenant)).then_some(queue.as_str());
            known = Some((task_id(tenant, &message.id), record(0, &message.task, elsewhere)));
        }
        let (list, message) = (queue_for(&queue, message.priority), message.to_bytes());
        if message.len() > self.shared.options.limits.envelope {
            return Err(Refused::Malformed(Malformed::TooLarge));
        }
        Ok(Op::Push { list, message, record: known })
    }

    fn queue_of(&self, message: &Envelope) -> Result<String, Refused> {
        let (queues, tenant) = (&self.shared.queues, self.place.tenant);
        if message.routing_key.is_empty() {
            // the items of a map are tasks of this name
            let of = message.kwargs().get("task").and_then(|t| t.get("task")).and_then(Value::as_str);
            let name = of.filter(|_| message.task.starts_with("celery.")).unwrap_or(&message.task);
            return Ok(queues.routed_to(tenant, name).unwrap_or(self.place.queue).to_owned());
        }
        match queues.belongs(tenant, &message.routing_key) {
            true => Ok(message.routing_key.clone()),
            false => Err(Refused::ForeignQueue),
        }
    }
}

fn read(value: &Value) -> Result<Signature, Refused> {
    Signature::read(value).map_err(Refused::Malformed)
}

/// What a whole says of its group and chord goes for the part that stands for it.
fn inherit(part: &mut Signature, whole: &Signature) {
    for key in ["group_id", "group_index", "chord"] {
        if let Some(value) = whole.options.get(key) {
            part.options.insert(key.to_owned(), value.clone());
        }
    }
}
