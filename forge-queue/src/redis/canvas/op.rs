//! What is done together with the end of a lease; the lines of `settle.lua` behind each lease's own.

use forge_core::TaskId;
use forge_redis::redis::ScriptInvocation;

use super::chord::base;
use super::expand::Chord;
use crate::celery::{TaskResult, meta_key, written};

/// One thing that goes with the end of a lease.
pub(in crate::redis) enum Op {
    /// A message to a list; with a record, if it is a task of ours, and then once.
    Push { list: String, message: Vec<u8>, record: Option<(TaskId, String)> },
    /// The result of another task, unless it has one already.
    Result(Box<TaskResult>),
    /// A chord begins.
    Begin(Chord),
    /// The parts of a chord are used up. Whoever has not the claim any more does nothing of what stands behind this.
    Complete { base: String, claim: String },
}

impl Op {
    /// Its kind and four words.
    pub(in crate::redis) fn write(&self, call: &mut ScriptInvocation<'_>, result_ttl: u64) {
        match self {
            Self::Push { list, message, record } => {
                let (id, record) = record.as_ref().map(|(id, r)| (id.to_string(), r.as_str())).unwrap_or_default();
                call.arg("push").arg(list).arg(message).arg(id).arg(record);
            }
            Self::Result(result) => {
                call.arg("result").arg(meta_key(&result.task_id)).arg(result.to_json()).arg(result_ttl).arg("");
            }
            Self::Begin(chord) => {
                let structure = chord.structure.as_ref().map(written).unwrap_or_default();
                call.arg("begin").arg(base(&chord.group)).arg(chord.size).arg(result_ttl).arg(structure);
            }
            Self::Complete { base, claim } => {
                call.arg("complete").arg(base).arg(claim).arg("").arg("");
            }
        }
    }
}
