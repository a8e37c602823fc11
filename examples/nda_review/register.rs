//! The firm's case register: a plain queued task, with a person's address in its payload.

use async_trait::async_trait;
use forge::core::queue::{Lease, TaskHandler};
use forge::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

/// Notes the contact of a matter. Between the two ends the address rests as a token; here it is the value again.
#[derive(Debug)]
pub struct CaseRegister;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    case: String,
    contact: String,
}

#[async_trait]
impl TaskHandler for CaseRegister {
    async fn handle(&self, _: &ExecutionContext, task: &Lease) -> Result<Value> {
        let note: Note = serde_json::from_value(task.payload.clone())
            .map_err(|_| Error::invalid("case.register", "expected a case and a contact"))?;
        Ok(
            json!({ "case": note.case, "contact_is_an_address": note.contact.contains('@') && !note.contact.contains("tok_") }),
        )
    }
}

#[cfg(test)]
mod tests {
    use forge::core::testing::{HandlerCase, task_handler};

    use super::*;

    #[tokio::test]
    async fn it_keeps_the_contract_of_handlers() {
        task_handler(async || {
            HandlerCase::new(CaseRegister, json!({ "case": "2031-7", "contact": "ana@example.com" }))
        })
        .await;
    }
}
