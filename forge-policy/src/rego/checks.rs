//! The policies' own examples: run on both evaluators before the policies are put in force.

use forge_core::policy::{Obligations, Verdict};
use forge_core::{Error, Result};
use regorus::Value;
use serde::Deserialize;

use super::answer::Answer;
use super::directory::parse;
use super::sources::config;

/// One example.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    name: String,
    pub(super) input: serde_json::Value,
    #[serde(default)]
    pub(super) tenant: Option<serde_json::Value>,
    verdict: Verdict,
    #[serde(default)]
    reasons: Option<Vec<String>>,
    #[serde(default)]
    obligations: Option<Obligations>,
}

impl Check {
    /// The examples of one file.
    pub(super) fn read(file: &str, text: &str) -> Result<Vec<Self>> {
        parse(file, text)
    }

    /// Compares the values that the bytecode machine (where it took the policy) and the interpreter came to.
    pub(super) fn judge(&self, file: &str, machine: Option<&Value>, interpreter: &Value) -> Result<()> {
        if machine.is_some_and(|value| value != interpreter) {
            return Err(self.error("the two evaluators disagree; write the rule in another way", file));
        }
        let failed = |why: &str| self.error("a check of the policies failed", file).with("because", why.to_owned());
        let answer = Answer::read(interpreter).map_err(|failure| failed(failure.reason()))?;
        if answer.verdict != self.verdict {
            return Err(failed("the verdict is another"));
        }
        if self.reasons.as_ref().is_some_and(|wanted| *wanted != answer.reasons) {
            return Err(failed("the reasons are others").with("reasons", answer.reasons.join(",")));
        }
        if self.obligations.as_ref().is_some_and(|wanted| *wanted != answer.obligations) {
            return Err(failed("the obligations are others"));
        }
        Ok(())
    }

    fn error(&self, message: &'static str, file: &str) -> Error {
        config(message).with("file", file).with("check", self.name.clone())
    }
}
