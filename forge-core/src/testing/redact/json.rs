//! JSON: what every redactor has by [`RedactorExt`].

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{CLEAN, EMAIL, LETTER, PASSWORD, mask, tenant};
use crate::redact::{EntityKind, RedactOptions, Redactor, RedactorExt};

pub(super) fn keeps_its_structure(r: &dyn Redactor) {
    let acme = tenant("acme");
    let original = json!({
        "z": [LETTER, null, true, [], {}], "a": { "password": "correct horse", "note": CLEAN }, "ana@example.com": { "k": "v" }, "m": "",
    });
    let kinds = BTreeSet::from([EntityKind::Email, EntityKind::Secret]);
    assert_eq!(r.inspect_json(&original).unwrap(), kinds, "json: every string, and names of fields");
    let mut value = original.clone();
    let changed = r.redact_json(&acme, &mut value, &RedactOptions::tokenize_all()).unwrap();
    assert_eq!(changed, 3, "json: says how much changed");
    let text = value.to_string();
    assert!(!text.contains(EMAIL) && !text.contains("correct horse"), "json: values and names: {text}");
    assert_eq!(shape(&value), shape(&original), "json: structure and order stay");
    let once = value.clone();
    assert_eq!(r.redact_json(&acme, &mut value, &RedactOptions::tokenize_all()).unwrap(), 0, "json: twice is once");
    assert_eq!(value, once, "json: twice is once");
    assert!(r.inspect_json(&masked_json(r, &original)).unwrap().is_empty(), "json: nothing is found after masking");
    r.reveal_json(&acme, &mut value).unwrap();
    assert_eq!(value, original, "json: everything comes back");
    let mut clean = json!({ "a": [CLEAN, 1, 0.5] });
    let kept = clean.clone();
    assert_eq!(r.redact_json(&acme, &mut clean, &RedactOptions::mask_all()).unwrap(), 0, "json: nothing to replace");
    assert_eq!(clean, kept, "json: nothing to replace");
    let mut texts = [LETTER.to_owned(), CLEAN.to_owned()];
    r.redact_texts(&acme, &mut texts, &RedactOptions::mask_all()).unwrap();
    assert_eq!(texts, [mask(r, LETTER.into()), CLEAN.to_owned()], "texts are redacted in place");
}

fn masked_json(r: &dyn Redactor, value: &Value) -> Value {
    let mut masked = value.clone();
    r.redact_json(&tenant("acme"), &mut masked, &RedactOptions::mask_all()).unwrap();
    masked
}

/// Where the containers and the leaves are, whatever the strings and the names of the fields say.
fn shape(value: &Value) -> Value {
    match value {
        Value::String(_) => json!("text"),
        Value::Array(items) => items.iter().map(shape).collect(),
        // sorted: a name that becomes a token may stand elsewhere in a sorted map
        Value::Object(map) => {
            let mut fields: Vec<String> = map.values().map(|v| shape(v).to_string()).collect();
            fields.sort();
            json!({ "fields": fields })
        }
        other => other.clone(),
    }
}

pub(super) fn numbers_stay_numbers(r: &dyn Redactor) {
    let acme = tenant("acme");
    let numbers =
        [json!(0), json!(-7), json!(3), json!(0.1), json!(-2.5e-7), json!(1e300), json!(u64::MAX), json!(i64::MIN)];
    let original = json!({ "plain": numbers });
    for options in [RedactOptions::mask_all(), RedactOptions::tokenize_all()] {
        let mut value = original.clone();
        r.redact_json(&acme, &mut value, &options).unwrap();
        assert_eq!(value, original, "json numbers: one that is no finding stays a number");
    }
    let sensitive = json!({ "password": [4711, -1, 0.25, u64::MAX], "text": "n12", "other": "n[A] 12" });
    let mut value = sensitive.clone();
    r.redact_json(&acme, &mut value, &RedactOptions::tokenize_all()).unwrap();
    assert!(!value.to_string().contains("4711"), "json numbers: a sensitive one is replaced: {value}");
    let once = value.clone();
    r.redact_json(&acme, &mut value, &RedactOptions::tokenize_all()).unwrap();
    assert_eq!(value, once, "json numbers: twice is once");
    let mut theirs = value.clone();
    assert_eq!(
        r.reveal_json(&tenant("globex"), &mut theirs).unwrap(),
        0,
        "isolation: a tenant undoes another's number"
    );
    assert_eq!(theirs, once, "isolation: a tenant undoes another's number");
    r.reveal_json(&acme, &mut value).unwrap();
    assert_eq!(value, sensitive, "json numbers: one that was a token comes back as a number");
    assert!(!masked_json(r, &sensitive).to_string().contains("4711"), "json numbers: a sensitive one is masked");
}

pub(super) fn names_do_not_run_together(r: &dyn Redactor) {
    let two = json!({ "ana@example.com": 1, "bo@example.com": 2, "cy@example.com": 3 });
    let masked = masked_json(r, &two);
    assert_eq!(shape(&masked), shape(&two), "json names: three fields stay three: {masked}");
    assert_eq!(masked_json(r, &masked), masked, "json names: twice is once");
}

pub(super) fn of_another_tenant_stays_shut(r: &dyn Redactor) {
    let mut value = json!({ "a": LETTER, "ana@example.com": PASSWORD.text, "password": "x y" });
    r.redact_json(&tenant("acme"), &mut value, &RedactOptions::tokenize_all()).unwrap();
    let tokens = value.clone();
    for other in ["acme-2", "globex"] {
        assert_eq!(r.reveal_json(&tenant(other), &mut value).unwrap(), 0, "isolation: a tenant undoes another's JSON");
        assert_eq!(value, tokens, "isolation: a tenant undoes another's JSON");
    }
}
