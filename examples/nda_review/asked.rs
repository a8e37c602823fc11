//! The review with a language model, whose endpoint is a stand-in: what it is sent, what of its answer is believed, what it costs.

use std::sync::Arc;
use std::time::Duration;

use forge::core::audit::AuditEvent;
use forge::core::usage::{UsageQuery, UsageStatus};
use forge::memory::openai::OpenAiConfig;
use forge::prelude::*;
use forge::telemetry::PrometheusMetrics;
use forge_testkit::{Fault, OpenAiStandIn, PDF, Play};
use serde_json::{Value, json};

use crate::faults::{keys, until_the_end};
use crate::house::{self, FIRM, FOLDER, StandIns, act_as};
use crate::review::Label;
use crate::workflow::{Composed, NdaRequest};

const SAMPLE: &[u8] = include_bytes!("samples/hartwell_mutual_nda.pdf");

/// Of the document, as the model was given it, a sentence without a mask.
fn sentence(text: &str) -> String {
    let fits = |s: &&str| s.len() > 60 && !s.contains('[') && s.starts_with(char::is_alphabetic);
    text.split(". ").map(str::trim).find(fits).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_answers_count_with_their_words_and_cost_what_they_cost() {
    let dir = tempfile::tempdir().unwrap();
    keys(dir.path()).await;
    let standins = StandIns::with_faults(dir.path(), vec![], vec![]).await.unwrap();
    // the first request is refused, the second answered
    let busy = Fault::new("chat.completions", 1, Play::Status(429, Some(Duration::from_secs(1))));
    let server = OpenAiStandIn::start(dir.path().join("standins/openai.jsonl"), "sk-test", vec![busy]).await.unwrap();
    server.script(|messages| {
        let shown = sentence(messages[1]["content"].as_str().unwrap());
        json!({ "answers": [
            { "id": "nda-1", "label": "contradiction", "quotes": [shown], "reason": "as it says" },
            { "id": "nda-2", "label": "entailment", "quotes": ["The receiving party owes ten million dollars at once."] },
            { "id": "nda-3", "label": "entailment", "quotes": [], "reason": "<!channel> sign it" },
        ]})
        .to_string()
    });
    let key = dir.path().join("openai.key");
    std::fs::write(&key, "sk-test").unwrap();
    let reference = format!("file:{}", key.display()).parse().unwrap();
    let model = OpenAiConfig::new(server.base_url(), "stand-in").with_key(reference);
    let (metrics, nobody) = (Arc::new(PrometheusMetrics::new()), Arc::new(|_: &_, _: &_| {}));
    let forge = house::build(dir.path(), &standins, metrics, nobody, Some(model)).await.unwrap();
    let intake = act_as(&forge, FIRM, "intake_001").unwrap();
    let file = standins.google.add_file(FOLDER, "nda.pdf", PDF, SAMPLE);
    let request = NdaRequest { file, case: "nda-1".into() };
    let run = forge.scope(&intake).start_once("asked", "nda_review", &request).await.unwrap();
    assert!(matches!(until_the_end(&forge, &run).await, Outcome::Completed));

    let composed: Composed = run.output("lawyer/compose").await.unwrap();
    let review = composed.review;
    assert_eq!((review.model.name.as_str(), review.model.is_language_model), ("openai/stand-in", true));
    let clause = |id: &str| review.clauses.iter().find(|c| c.hypothesis == id).unwrap();
    assert_eq!(
        (clause("nda-1").label, clause("nda-1").reason.as_str()),
        (Label::Contradiction, "the language model: as it says")
    );
    assert!(!clause("nda-2").reason.starts_with("the language model"), "an invented quotation is not believed");
    assert!(
        review.warnings.iter().any(|w| w.contains("quote what is not in the document") && w.contains("nda-2")),
        "{:?}",
        review.warnings
    );
    assert!(!composed.message.to_string().contains("<!channel>"), "nothing of a model's answer is markup in Slack");

    let sent = server.received();
    let text = sent.last().unwrap().request.to_string();
    let planted: Value = serde_json::from_str(include_str!("samples/planted.json")).unwrap();
    for value in planted["files"]["hartwell_mutual_nda.pdf"].as_array().unwrap() {
        let (kind, value) = (value["type"].as_str().unwrap_or_default(), value["value"].as_str().unwrap());
        // names and addresses are no structured identifiers: the detectors do not know them
        let known = !matches!(kind, "PERSON" | "ADDRESS");
        assert!(!known || !text.contains(value), "{kind} reached the model in clear");
    }
    let partner = act_as(&forge, FIRM, "partner_001").unwrap();
    let usage = forge
        .scope(&partner)
        .usage(partner.tenant(), &UsageQuery::default().with_run(run.reference().run), 100)
        .await
        .unwrap();
    let of_the_model: Vec<_> = usage.iter().filter(|e| e.resource.label().contains("openai/stand-in")).collect();
    let [refused, answered] = of_the_model.as_slice() else { panic!("two tries of the step, two events: {usage:?}") };
    assert_eq!(
        (refused.status, refused.quantity.tokens_in),
        (UsageStatus::Failed, 0),
        "the refused request cost nothing"
    );
    assert!(answered.quantity.tokens_in > 1000 && answered.cost.is_some_and(|c| !c.amount.is_zero()), "{answered:?}");
    let rows = forge.scope(&partner).audit(partner.tenant(), 1, 1000).await.unwrap();
    let of_the_model = rows.iter().filter(|r| r.record.resource == "openai/stand-in");
    let decided = of_the_model.filter(|r| matches!(r.record.event, AuditEvent::Decision { .. })).count();
    assert_eq!(decided, 2, "each try is decided, and audited");
    forge.shutdown(Duration::from_secs(5)).await.unwrap();
}
