//! The join of a chord, in the keys of Celery 5.7, so that parts done by Python and parts done here meet in one body.

use std::collections::HashMap;

use forge_core::{Error, ErrorKind, Result};
use forge_redis::redis::{self, FromRedisValue};
use serde_json::{Value, json};

use super::Place;
use crate::celery::{Exception, Limits, ResultState, TaskResult, decoded, value_repr, written};
use crate::redis::{Shared, corrupt, seconds};

const OP: &str = "queue.chord";
/// Celery's own, which is extended while it sends; here the body goes with the lease's end, in one step.
const CLAIM_SECONDS: u32 = 6;

/// A part of a chord that has ended.
pub(super) struct Part {
    pub(super) task: String,
    pub(super) group: String,
    pub(super) index: Option<u64>,
    pub(super) state: ResultState,
    /// The signature that waits for all parts.
    pub(super) body: Value,
}

/// A chord whose parts have all ended.
pub(super) struct Complete {
    pub(super) base: String,
    pub(super) claim: String,
    /// What the parts returned, in their order; or why one of them did not.
    pub(super) results: Result<Vec<Value>, Exception>,
}

/// Base of a chord's keys, and the key of its saved structure.
pub(super) fn base(group: &str) -> String {
    format!("celery-taskset-meta-{group}")
}

impl Shared {
    /// Counts a part; the chord, if it was the last.
    pub(super) async fn join(&self, place: &Place<'_>, part: &Part) -> Result<Option<Complete>> {
        let score = part.index.map_or_else(|| "+inf".to_owned(), |i| i.to_string());
        let member = format!("{}:{score}", part.task);
        let claim = format!("forge:{member}");
        let base = base(&part.group);
        let result = TaskResult::new(&part.task, part.state.clone(), self.clock.now());
        let mut call = self.call(&self.scripts.chord);
        call.arg(place.tag).arg(place.tenant.as_str()).arg(&base).arg(&member);
        call.arg(written(&json!([1, part.task, part.state.status(), result.value()]))).arg(score);
        call.arg(seconds(self.options.result_ttl)).arg(CLAIM_SECONDS).arg(&claim);
        let answer: Vec<redis::Value> = self.redis.script(OP, &call).await?;
        let mut answer = answer.into_iter();
        match answer.next().map(i64::from_redis_value) {
            Some(Ok(0)) => return Ok(None),
            Some(Ok(1)) => {}
            Some(Ok(-2)) => {
                tracing::warn!(tenant = %place.tenant, "a task says that it is part of another tenant's chord; it is not counted");
                return Ok(None);
            }
            Some(Ok(-1)) => {
                return Err(Error::new(
                    ErrorKind::LeaseLost,
                    OP,
                    "the task is with another worker, finished or cancelled",
                ));
            }
            _ => return Err(corrupt(OP, "answer")),
        }
        let parts: Vec<Vec<u8>> =
            answer.next().and_then(|v| Vec::from_redis_value(v).ok()).ok_or_else(|| corrupt(OP, "parts"))?;
        let structure = answer.next().and_then(|v| Vec::<u8>::from_redis_value(v).ok()).unwrap_or_default();
        let limits = &self.options.limits;
        let results = match structure.is_empty() {
            true => parts.iter().map(|part| returned(part, limits)).collect(),
            false => structured(&structure, &parts, limits),
        };
        Ok(Some(Complete { base, claim, results }))
    }
}

/// The results in the shape that was saved when the chord began.
fn structured(structure: &[u8], parts: &[Vec<u8>], limits: &Limits) -> Result<Vec<Value>, Exception> {
    let unreadable = || chord_error("Join error: the saved structure does not parse".to_owned());
    let shape = decoded(structure, limits).map_err(|_| unreadable())?;
    let mut values = HashMap::new();
    for part in parts {
        let value = returned(part, limits)?;
        let id = decoded(part, limits).ok().and_then(|p| p.get(1)?.as_str().map(str::to_owned));
        values.insert(id.unwrap_or_default(), value);
    }
    match shaped(shape.get("result").ok_or_else(unreadable)?, &values)? {
        Value::Array(results) => Ok(results),
        _ => Err(unreadable()),
    }
}

/// What a part returned: `[1, id, state, value]`.
fn returned(part: &[u8], limits: &Limits) -> Result<Value, Exception> {
    let part = decoded(part, limits).map_err(|e| chord_error(format!("Join error: {e}")))?;
    let text = |i| part.get(i).and_then(Value::as_str).unwrap_or_default();
    let value = part.get(3).cloned().unwrap_or_default();
    match text(2) {
        "FAILURE" | "REVOKED" => {
            let exception = Exception::read(&value).unwrap_or_else(|_| Exception::builtin("Exception", ""));
            Err(raised(text(1), &exception))
        }
        _ => Ok(value),
    }
}

fn raised(id: &str, exception: &Exception) -> Exception {
    let args: Vec<String> = exception.message.iter().map(value_repr).collect();
    chord_error(format!("Dependency {id} raised {}({})", exception.kind, args.join(", ")))
}

pub(super) fn chord_error(message: String) -> Exception {
    Exception {
        kind: "ChordError".to_owned(),
        message: vec![message.into()],
        module: Some("celery.exceptions".to_owned()),
    }
}

/// `[[id, parent], null]` is a task's result, `[[group, parent], [...]]` a list of results.
fn shaped(tuple: &Value, values: &HashMap<String, Value>) -> Result<Value, Exception> {
    match tuple.get(1) {
        Some(Value::Array(of)) => of.iter().map(|t| shaped(t, values)).collect::<Result<_, _>>().map(Value::Array),
        _ => {
            let id = tuple.pointer("/0/0").and_then(Value::as_str).unwrap_or_default();
            let missing = || chord_error(format!("Join error: the result of {id} is not there"));
            values.get(id).cloned().ok_or_else(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_failed_is_told_as_celery_tells_it() {
        let part = br#"[1, "t1", "FAILURE", {"exc_type": "ValueError", "exc_message": ["bad thing"], "exc_module": "builtins"}]"#;
        let told = returned(part, &Limits::default()).unwrap_err();
        assert_eq!(told, chord_error("Dependency t1 raised ValueError('bad thing')".to_owned()));
        assert_eq!(returned(br#"[1, "t1", "SUCCESS", {"a": 1}]"#, &Limits::default()), Ok(json!({"a": 1})));
        assert!(returned(b"?", &Limits::default()).is_err());
    }

    #[test]
    fn results_take_the_shape_that_was_saved() {
        let shape =
            json!([["g", null], [[["a", null], null], [["h", null], [[["b", null], null], [["c", null], null]]]]]);
        let part = |id: &str, n: u8| format!(r#"[1, "{id}", "SUCCESS", {n}]"#).into_bytes();
        let structure = json!({"result": shape}).to_string().into_bytes();
        let parts = [part("a", 1), part("c", 3), part("b", 2)];
        let limits = Limits::default();
        assert_eq!(structured(&structure, &parts, &limits), Ok(vec![json!(1), json!([2, 3])]));
        assert!(structured(&structure, &parts[1..], &limits).is_err());
        assert!(structured(b"{}", &parts, &limits).is_err());
    }
}
