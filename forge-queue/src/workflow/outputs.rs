//! What a step may read: the run's input and the answers of the steps before it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use forge_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The input and the earlier answers of one run. Cheap to clone.
#[derive(Clone)]
pub struct Outputs {
    input: Arc<Value>,
    by_step: Arc<BTreeMap<String, Arc<Value>>>,
}

impl Outputs {
    pub(super) fn new(input: Value) -> Self {
        Self { input: Arc::new(input), by_step: Arc::default() }
    }

    pub(super) fn insert(&mut self, step: &str, output: Value) {
        Arc::make_mut(&mut self.by_step).insert(step.to_owned(), Arc::new(output));
    }

    /// The run's input.
    ///
    /// # Errors
    /// `InvalidInput` if it has another shape.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&*self.input)
            .map_err(|_| Error::invalid("outputs.input", "the run's input has another shape than the step expects"))
    }

    /// The answer of an earlier step.
    ///
    /// # Errors
    /// `NotFound` if no earlier step has this name; `Unexpected` if its answer has another shape.
    pub fn get<T: DeserializeOwned>(&self, step: &str) -> Result<T> {
        T::deserialize(self.value(step)?).map_err(|_| {
            Error::unexpected("outputs.get", "the step's answer has another shape than expected")
                .with("step", step.to_owned())
        })
    }

    /// The answer of an earlier step, as it is.
    ///
    /// # Errors
    /// `NotFound` if no earlier step has this name.
    pub fn value(&self, step: &str) -> Result<&Value> {
        self.by_step.get(step).map(AsRef::as_ref).ok_or_else(|| {
            let known = self.by_step.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Error::new(ErrorKind::NotFound, "outputs.get", "no earlier step has this name")
                .with("step", step.to_owned())
                .with("known", known)
        })
    }
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outputs").field(&self.by_step.keys().collect::<Vec<_>>()).finish()
    }
}
