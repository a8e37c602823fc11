//! A signature taken apart into the messages that it means, as `apply_async` of Celery's `canvas.py` does: no connection, no clock.
//!
//! Ids that a client gave stay, so that its `AsyncResult` finds them; the others are derived from the parent's id and the place, so that
//! whoever comes this way again sends the same.

use std::collections::VecDeque;

use forge_core::{TaskId, Timestamp};
use serde_json::{Map, Value, json};

use crate::celery::{Envelope, Malformed, Signature};

/// Messages that one task may send. Its own message is not larger than [`Limits`](crate::celery::Limits) allow, but what it means may be:
/// every part of a chord carries the body.
const MESSAGES: usize = 2048;
/// Bytes of their bodies.
const BYTES: usize = 8 * 1024 * 1024;

/// Options that belong to one signature and are not handed on to what it is made of.
const OWN: [&str; 9] =
    ["task_id", "group_id", "group_index", "chord", "chain", "link", "link_error", "root_id", "parent_id"];

/// What signatures turned into.
pub(super) struct Expansion<'a> {
    parent: &'a Envelope,
    now: Timestamp,
    /// The messages, in the order in which they go.
    pub(super) messages: Vec<Envelope>,
    /// The chords that begin with them.
    pub(super) chords: Vec<Chord>,
    /// What the parent's result says that it sent.
    pub(super) children: Vec<Value>,
    /// Depth of groups, whose members are no children of their own.
    grouped: usize,
    bytes: usize,
}

/// A chord that begins: how many parts it waits for.
pub(in crate::redis) struct Chord {
    pub(super) group: String,
    pub(super) size: usize,
    /// The results of its parts by their place, where some are groups themselves.
    pub(super) structure: Option<Value>,
}

/// Where the result of a signature will be.
enum Tree {
    Task(String),
    Group(String, Vec<Self>),
}

impl Tree {
    /// As Celery's `result.as_tuple()`.
    fn to_value(&self) -> Value {
        match self {
            Self::Task(id) => json!([[id, null], null]),
            Self::Group(id, of) => json!([[id, null], of.iter().map(Self::to_value).collect::<Vec<_>>()]),
        }
    }
}

impl<'a> Expansion<'a> {
    pub(super) fn new(parent: &'a Envelope, now: Timestamp) -> Self {
        Self { parent, now, messages: Vec::new(), chords: Vec::new(), children: Vec::new(), grouped: 0, bytes: 0 }
    }

    /// Sends a signature with `args` before its own arguments. `place` says which of the parent's it is.
    pub(super) fn send(&mut self, mut signature: Signature, args: &[Value], place: &str) -> Result<(), Malformed> {
        identify(&mut signature, &|deeper| derived(&self.parent.id, &format!("{place}{deeper}")), "", None)?;
        self.apply(signature, args)
    }

    /// Sends several as one group, which is how Celery sends callbacks and errbacks.
    pub(super) fn send_all(&mut self, signatures: &[Signature], args: &[Value], place: &str) -> Result<(), Malformed> {
        let tasks = signatures.iter().map(Signature::to_value).collect();
        self.send(composed("celery.group", [("tasks", Value::Array(tasks))]), args, place)
    }

    fn apply(&mut self, signature: Signature, args: &[Value]) -> Result<(), Malformed> {
        match signature.task.as_str() {
            "celery.chain" => self.chain(signature, args),
            "celery.group" => self.group(signature, args),
            "celery.chord" => self.chord(signature, args),
            _ => self.task(&signature, args),
        }
    }

    fn task(&mut self, signature: &Signature, args: &[Value]) -> Result<(), Malformed> {
        let message = signature.to_envelope(self.parent, args, "", self.now)?;
        self.bytes = self.bytes.saturating_add(message.body().len());
        if self.messages.len() >= MESSAGES || self.bytes > BYTES {
            return Err(Malformed::TooLarge);
        }
        if self.grouped == 0 {
            self.children.push(Tree::Task(message.id.clone()).to_value());
        }
        self.messages.push(message);
        Ok(())
    }

    /// The first now, the others as its chain; a group before something is a chord.
    fn chain(&mut self, signature: Signature, args: &[Value]) -> Result<(), Malformed> {
        let mut steps = VecDeque::from(spliced(&signature)?);
        while steps.len() > 1 && steps.front().is_some_and(is_empty_group) {
            steps.pop_front();
        }
        let mut done: Vec<Signature> = Vec::new();
        while let Some(mut step) = steps.pop_back() {
            if is_empty_group(&step) && !(steps.is_empty() && done.is_empty()) {
                continue;
            }
            if step.task == "celery.group"
                && let Some(body) = done.pop()
            {
                step = composed("celery.chord", [("header", step.to_value()), ("body", body.to_value())]);
            } else if done.is_empty() {
                let membership = ["group_id", "group_index", "chord"];
                merge(&mut step, signature.options.iter().filter(|(k, _)| membership.contains(&k.as_str())));
                append(&mut step, "link", signature.options.get("link"));
            }
            append(&mut step, "link_error", signature.options.get("link_error"));
            done.push(step);
        }
        let Some(mut first) = done.pop() else { return Ok(()) };
        merge(&mut first, handed_on(&signature.options));
        let mut rest: Vec<Value> =
            signature.options.get("chain").and_then(Value::as_array).cloned().unwrap_or_default();
        rest.extend(done.iter().map(Signature::to_value));
        if !rest.is_empty() {
            first.options.insert("chain".to_owned(), rest.into());
        }
        self.apply(first, &before(&signature, args))
    }

    fn group(&mut self, mut signature: Signature, args: &[Value]) -> Result<(), Malformed> {
        // what follows a group waits for all of it
        if let Some(Value::Array(mut rest)) = signature.options.remove("chain")
            && let Some(next) = rest.pop()
        {
            let mut body = Signature::read(&next)?;
            body.options.insert("chain".to_owned(), rest.into());
            let chord = composed("celery.chord", [("header", signature.to_value()), ("body", body.to_value())]);
            return self.apply(chord, args);
        }
        let group = id(&signature);
        let members = flattened(&signature)?;
        let trees = members.iter().map(tree).collect::<Result<_, _>>()?;
        if self.grouped == 0 {
            self.children.push(Tree::Group(group.clone(), trees).to_value());
        }
        // a group at the end of a part of a chord is counted there
        let joined = signature.options.get("group_id").and_then(Value::as_str).unwrap_or(&group).to_owned();
        self.grouped += 1;
        for (i, mut member) in members.into_iter().enumerate() {
            merge(&mut member, handed_on(&signature.options));
            merge(&mut member, signature.options.iter().filter(|(k, _)| *k == "chord"));
            append(&mut member, "link_error", signature.options.get("link_error"));
            joins(&mut member, &joined, i);
            self.apply(member, &before(&signature, args))?;
        }
        self.grouped -= 1;
        Ok(())
    }

    fn chord(&mut self, signature: Signature, args: &[Value]) -> Result<(), Malformed> {
        let (header, mut body) = parts(&signature)?;
        let (group, members) = (id(&header), flattened(&header)?);
        // the body takes the chord's place: what follows it, and what it is itself a part of
        let place =
            |k: &str| !["task_id", "parent_id", "root_id", "link", "link_error", "countdown", "eta"].contains(&k);
        body.options.extend(signature.options.iter().filter(|(k, _)| place(k)).map(|(k, v)| (k.clone(), v.clone())));
        append(&mut body, "link", signature.options.get("link"));
        append(&mut body, "link_error", signature.options.get("link_error"));
        body.options.entry("group_id").or_insert_with(|| group.clone().into());
        if members.is_empty() {
            return self.apply(body, &[Value::Array(Vec::new())]);
        }
        let trees: Vec<Tree> = members.iter().map(tree).collect::<Result<_, _>>()?;
        let whole = Tree::Group(group.clone(), trees);
        let Tree::Group(_, trees) = &whole else { return Ok(()) };
        let structured = trees.iter().any(|t| matches!(t, Tree::Group(..)));
        let size = members.iter().map(completions).sum::<Result<usize, _>>()?;
        let structure = structured.then(|| json!({"result": whole.to_value()}));
        self.chords.push(Chord { group: group.clone(), size, structure });
        if self.grouped == 0 {
            self.children.push(whole.to_value());
        }
        self.grouped += 1;
        let body = body.to_value();
        for (i, mut member) in members.into_iter().enumerate() {
            merge(&mut member, handed_on(&signature.options));
            member.options.insert("chord".to_owned(), body.clone());
            joins(&mut member, &group, i);
            self.apply(member, &before(&signature, args))?;
        }
        self.grouped -= 1;
        Ok(())
    }
}

/// The id that stands for the `place` of a parent.
pub(super) fn derived(parent: &str, place: &str) -> String {
    TaskId::derived_v8(&[b"celery.child", parent.as_bytes(), place.as_bytes()]).to_string()
}

/// The header and the body of a chord.
pub(super) fn parts(chord: &Signature) -> Result<(Signature, Signature), Malformed> {
    let body = Signature::read(chord.kwargs.get("body").ok_or(Malformed::BadSignature)?)?;
    let header = match chord.kwargs.get("header") {
        Some(list @ Value::Array(_)) => composed("celery.group", [("tasks", list.clone())]),
        Some(group) => Signature::read(group)?,
        None => return Err(Malformed::BadSignature),
    };
    Ok((header, body))
}

/// The tasks that a chain or a group is made of.
pub(super) fn members(signature: &Signature) -> Result<Vec<Signature>, Malformed> {
    match signature.kwargs.get("tasks") {
        Some(Value::Array(tasks)) => tasks.iter().map(Signature::read).collect(),
        _ => Err(Malformed::BadSignature),
    }
}

pub(super) fn id(signature: &Signature) -> String {
    signature.options.get("task_id").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Gives an id to everything that has none, so that a part is the same whoever sends it. `given` is that of the whole.
fn identify(
    signature: &mut Signature,
    derive: &dyn Fn(&str) -> String,
    place: &str,
    given: Option<String>,
) -> Result<(), Malformed> {
    if signature.task == "celery.chunks" {
        *signature = chunks(signature)?;
    }
    let own = match signature.options.get("task_id") {
        None | Some(Value::Null) => given.unwrap_or_else(|| derive(place)),
        Some(id) => id.as_str().ok_or(Malformed::BadSignature)?.to_owned(),
    };
    signature.options.insert("task_id".to_owned(), own.clone().into());
    match signature.task.as_str() {
        "celery.chain" | "celery.group" => {
            let mut tasks = members(signature)?;
            let last = tasks.len().saturating_sub(1);
            for (i, task) in tasks.iter_mut().enumerate() {
                // a chain's id is that of its end
                let given = (signature.task == "celery.chain" && i == last).then(|| own.clone());
                identify(task, derive, &format!("{place}/{i}"), given)?;
            }
            let tasks = tasks.iter().map(Signature::to_value).collect();
            signature.kwargs.insert("tasks".to_owned(), Value::Array(tasks));
        }
        "celery.chord" => {
            let (mut header, mut body) = parts(signature)?;
            identify(&mut header, derive, &format!("{place}/header"), None)?;
            identify(&mut body, derive, &format!("{place}/body"), Some(own))?;
            signature.kwargs.insert("header".to_owned(), header.to_value());
            signature.kwargs.insert("body".to_owned(), body.to_value());
        }
        _ => {}
    }
    Ok(())
}

/// A group of `celery.starmap`, each over `n` of the items.
fn chunks(signature: &Signature) -> Result<Signature, Malformed> {
    let k = &signature.kwargs;
    let items = k.get("it").and_then(Value::as_array).ok_or(Malformed::BadSignature)?;
    let n = k.get("n").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let (n, task) = (n.ok_or(Malformed::BadSignature)?, k.get("task").ok_or(Malformed::BadSignature)?);
    let one = |items: &[Value]| {
        let mut one = composed("celery.starmap", [("task", task.clone()), ("it", items.into())]);
        (one.subtask_type, one.immutable) = (Some("xstarmap".to_owned()), true);
        one.to_value()
    };
    let mut group = composed("celery.group", [("tasks", items.chunks(n).map(one).collect())]);
    group.options = signature.options.clone();
    Ok(group)
}

fn composed<const N: usize>(task: &str, kwargs: [(&str, Value); N]) -> Signature {
    let kwargs: Map<String, Value> = kwargs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let mut s = Signature::new(task);
    s.subtask_type = task.strip_prefix("celery.").map(str::to_owned);
    s.kwargs = kwargs;
    if task == "celery.chord" {
        s.kwargs.insert("kwargs".to_owned(), json!({}));
    }
    s
}

/// The steps of a chain, with chains among them taken apart.
fn spliced(chain: &Signature) -> Result<Vec<Signature>, Malformed> {
    let mut steps = Vec::new();
    for step in members(chain)? {
        match step.task.as_str() {
            "celery.chain" => steps.extend(spliced(&step)?),
            "celery.group" => match <[Signature; 1]>::try_from(members(&step)?) {
                Ok([only]) if only.task == "celery.chain" => steps.extend(spliced(&only)?),
                Ok([only]) => steps.push(only),
                Err(_) => steps.push(step),
            },
            _ => steps.push(step),
        }
    }
    Ok(steps)
}

/// The members of a group, with groups among them taken apart.
pub(super) fn flattened(group: &Signature) -> Result<Vec<Signature>, Malformed> {
    let mut all = Vec::new();
    for member in members(group)? {
        match member.task.as_str() {
            "celery.group" => all.extend(flattened(&member)?),
            "celery.chain" if members(&member)?.is_empty() => {}
            _ => all.push(member),
        }
    }
    Ok(all)
}

/// How often a part of a chord says that it is done, as `_chord._descend` counts.
fn completions(signature: &Signature) -> Result<usize, Malformed> {
    match signature.task.as_str() {
        "celery.group" => members(signature)?.iter().map(completions).sum(),
        "celery.chain" => {
            let steps = members(signature)?;
            let counts = steps.iter().rev().map(completions).collect::<Result<Vec<_>, _>>()?;
            Ok(counts.into_iter().find(|n| *n > 0).unwrap_or(0))
        }
        "celery.chord" => completions(&parts(signature)?.1),
        _ => Ok(1),
    }
}

/// Where the result will be.
fn tree(signature: &Signature) -> Result<Tree, Malformed> {
    match signature.task.as_str() {
        "celery.group" => {
            let members = flattened(signature)?;
            Ok(Tree::Group(id(signature), members.iter().map(tree).collect::<Result<_, _>>()?))
        }
        "celery.chain" => match spliced(signature)?.last() {
            Some(last) => tree(last),
            None => Ok(Tree::Task(id(signature))),
        },
        "celery.chord" => tree(&parts(signature)?.1),
        _ => Ok(Tree::Task(id(signature))),
    }
}

fn is_empty_group(s: &Signature) -> bool {
    s.task == "celery.group" && s.kwargs.get("tasks").and_then(Value::as_array).is_some_and(Vec::is_empty)
}

/// The parent's arguments and those of what is taken apart.
fn before(signature: &Signature, args: &[Value]) -> Vec<Value> {
    let parents = if signature.immutable { &[] } else { args };
    parents.iter().chain(&signature.args).cloned().collect()
}

fn joins(member: &mut Signature, group: &str, index: usize) {
    member.options.entry("group_id").or_insert_with(|| group.into());
    member.options.insert("group_index".to_owned(), index.into());
}

/// Options that what a signature is made of gets too.
fn handed_on(options: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    options.iter().filter(|(k, _)| !OWN.contains(&k.as_str()))
}

/// Options of `apply_async` go before those of the signature, but for the group that it is in.
fn merge<'o>(signature: &mut Signature, options: impl Iterator<Item = (&'o String, &'o Value)>) {
    for (key, value) in options.filter(|(_, v)| !v.is_null()) {
        let kept = matches!(key.as_str(), "group_id" | "stamped_headers") && signature.options.contains_key(key);
        if !kept {
            signature.options.insert(key.clone(), value.clone());
        }
    }
}

/// Adds to a list of signatures; a group hands it to its members.
fn append(signature: &mut Signature, key: &str, more: Option<&Value>) {
    let more = match more {
        None | Some(Value::Null) => return,
        Some(Value::Array(list)) => list.clone(),
        Some(one) => vec![one.clone()],
    };
    let entry = signature.options.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    let mut list = match entry.take() {
        Value::Array(list) => list,
        Value::Null => Vec::new(),
        one => vec![one],
    };
    list.extend(more.into_iter().filter(|m| !list.contains(m)).collect::<Vec<_>>());
    *entry = Value::Array(list);
}
