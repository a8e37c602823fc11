//! A task's payload, which is one JSON value, as Celery's arguments, which are two.

use serde_json::{Map, Value, json};

use super::{Embed, Envelope, Malformed};

/// The header that says how a payload was laid out: `args`, `kwargs` or `value`. Without it `[1]` and `1` would look the same.
pub const SHAPE_HEADER: &str = "x-forge-shape";

impl Envelope {
    /// A task with `payload` as its arguments, such that [`payload`](Self::payload) gives the same value and a Python task is called
    /// naturally: an array becomes arguments, an object keyword arguments, anything else the one argument.
    ///
    /// # Errors
    /// [`Malformed::TooDeep`] if the payload is nested so deeply that no worker would read it.
    pub fn from_payload(id: impl Into<String>, task: impl Into<String>, payload: &Value) -> Result<Self, Malformed> {
        let (shape, args, kwargs) = match payload {
            Value::Array(args) => ("args", args.clone(), Map::new()),
            Value::Object(kwargs) => ("kwargs", Vec::new(), kwargs.clone()),
            value => ("value", vec![value.clone()], Map::new()),
        };
        let mut envelope = Self::new(id, task).with_content(args, kwargs, Embed::default())?;
        envelope.extra.insert(SHAPE_HEADER.to_owned(), shape.into());
        Ok(envelope)
    }

    /// The arguments as one value. Exactly the payload of [`from_payload`](Self::from_payload); of other producers the arguments as an
    /// array, the keyword arguments as an object where there are no others, or `{"args": […], "kwargs": {…}}` where there are both.
    pub fn payload(&self) -> Value {
        let shape = self.extra.get(SHAPE_HEADER).and_then(Value::as_str);
        match (shape, self.args.as_slice(), self.kwargs.is_empty()) {
            (Some("value"), [value], true) => value.clone(),
            (Some("kwargs"), [], _) | (_, [], false) => Value::Object(self.kwargs.clone()),
            (_, args, true) => Value::Array(args.to_vec()),
            (_, args, false) => json!({"args": args, "kwargs": self.kwargs}),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::celery::Limits;

    fn foreign(args: Value, kwargs: Value) -> Value {
        let (Value::Array(args), Value::Object(kwargs)) = (args, kwargs) else { panic!("no arguments") };
        Envelope::new("a", "t").with_content(args, kwargs, Embed::default()).unwrap().payload()
    }

    #[test]
    fn foreign_arguments_have_a_natural_shape() {
        assert_eq!(foreign(json!([1, 2]), json!({})), json!([1, 2]));
        assert_eq!(foreign(json!([]), json!({})), json!([]));
        assert_eq!(foreign(json!([]), json!({"a": 1})), json!({"a": 1}));
        assert_eq!(foreign(json!([1]), json!({"a": 1})), json!({"args": [1], "kwargs": {"a": 1}}));
    }

    #[test]
    fn a_shape_that_does_not_fit_is_not_believed() {
        let mut task = Envelope::from_payload("a", "t", &json!([1, 2])).unwrap();
        for shape in [json!("value"), json!("kwargs"), json!("?"), json!(7)] {
            task.extra.insert(SHAPE_HEADER.to_owned(), shape);
            assert_eq!(task.payload(), json!([1, 2]));
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|m| m.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_payload_comes_back_exactly(payload in any_value()) {
            let bytes = Envelope::from_payload("a", "t", &payload).unwrap().to_bytes();
            let read = Envelope::parse(&bytes, &Limits::default()).unwrap();
            prop_assert_eq!(serde_json::to_string(&read.payload()).unwrap(), serde_json::to_string(&payload).unwrap());
        }
    }
}
