//! What crosses a boundary, what rests, and who can undo it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::borrow::Cow;
use std::sync::Arc;

use forge_core::fake::FakeKeyring;
use forge_core::keyring::Keyring;
use forge_core::redact::{RedactOptions, Redactor, RedactorExt, Text};
use forge_core::{ErrorKind, TenantId};
use forge_dlp::{FileKeyring, StandardRedactor};
use proptest::prelude::*;

const PLANTED: &[&str] = &[
    "ana@example.com",
    "+1 (212) 555-0142",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "536-22-8726",
    "Blue-Heron-42",
];
const LETTER: &str = "Ana (ana@example.com, +1 (212) 555-0142) pays with 4111 1111 1111 1111 or from DE89 3704 0044 0532 0130 00; SSN 536-22-8726; portal_password: Blue-Heron-42";

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

async fn keys(dir: &tempfile::TempDir) -> Arc<FileKeyring> {
    let keys = Arc::new(FileKeyring::open(dir.path(), None).await.unwrap());
    for t in ["acme", "globex"] {
        keys.load(&tenant(t)).await.unwrap();
    }
    keys
}

#[tokio::test]
async fn nothing_planted_survives_a_mask_or_a_token_and_only_the_tenant_can_undo_it() {
    let dir = tempfile::tempdir().unwrap();
    let r = StandardRedactor::new(keys(&dir).await);
    let (acme, globex) = (tenant("acme"), tenant("globex"));
    let masked = r.redact(&acme, LETTER.into(), &RedactOptions::mask_all()).unwrap();
    let tokens = r.redact(&acme, LETTER.into(), &RedactOptions::tokenize_all()).unwrap();
    for secret in PLANTED {
        assert!(!masked.contains(secret) && !tokens.contains(secret), "{secret}: {masked}");
    }
    assert_eq!(r.reveal(&acme, &tokens).unwrap(), LETTER);
    assert_eq!(r.reveal(&globex, &tokens).unwrap(), tokens, "another tenant's token stays a token");
    assert_eq!(
        r.redact(&acme, tokens.as_ref().into(), &RedactOptions::tokenize_all()).unwrap(),
        tokens,
        "twice is once"
    );
    let of_globex = r.redact(&globex, LETTER.into(), &RedactOptions::tokenize_all()).unwrap();
    assert_ne!(tokens, of_globex, "tokens of two tenants do not show that they hold the same value");
}

#[tokio::test]
async fn clean_text_is_borrowed() {
    let dir = tempfile::tempdir().unwrap();
    let r = StandardRedactor::new(keys(&dir).await);
    let clean = "The receiving party shall hold the information in confidence for 3 years from 2026-01-01.";
    assert!(matches!(r.redact(&tenant("acme"), clean.into(), &RedactOptions::mask_all()).unwrap(), Cow::Borrowed(_)));
}

#[tokio::test]
async fn a_tenant_without_keys_gets_masks_but_no_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let r = StandardRedactor::new(keys(&dir).await);
    let stranger = tenant("initech");
    assert!(r.redact(&stranger, LETTER.into(), &RedactOptions::mask_all()).is_ok());
    let e = r.redact(&stranger, LETTER.into(), &RedactOptions::tokenize_all()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Redaction);
    assert!(PLANTED.iter().all(|p| !format!("{e:?}").contains(p)));
    let tokens = r.redact(&tenant("acme"), LETTER.into(), &RedactOptions::tokenize_all()).unwrap();
    assert_eq!(r.reveal(&stranger, &tokens).unwrap_err().kind(), ErrorKind::Redaction);
}

#[tokio::test]
async fn json_stays_json_and_names_of_fields_count() {
    let dir = tempfile::tempdir().unwrap();
    let r = StandardRedactor::new(keys(&dir).await);
    let acme = tenant("acme");
    let original = serde_json::json!({
        "db_password": "correct horse", "workPhone": 2125550142_u64, "ssn": "536228726", "max_tokens": 4096,
        "body": "{\"api_key\": \"a b\"}", "notes": [LETTER, "nothing"], "ana@example.com": 1,
    });
    let mut value = original.clone();
    r.redact_json(&acme, &mut value, &RedactOptions::tokenize_all()).unwrap();
    let text = value.to_string();
    for planted in PLANTED.iter().chain(&["correct horse", "2125550142", "536228726", "a b"]) {
        assert!(!text.contains(planted), "{planted} in {text}");
    }
    assert_eq!(value["max_tokens"], 4096);
    assert!(serde_json::from_str::<serde_json::Value>(value["body"].as_str().unwrap()).is_ok());
    r.reveal_json(&acme, &mut value).unwrap();
    assert_eq!(value, original, "numbers come back as numbers");
}

#[tokio::test]
async fn tokens_that_are_nobodys_stay() {
    let dir = tempfile::tempdir().unwrap();
    let r = StandardRedactor::new(keys(&dir).await);
    for text in ["[EMAIL:tok_AAAA]", "[EMAIL:tok_]", "[EMAIL:tok_", "[NAME:tok_AbCd] [EMAIL]", "no :tok_ at all"] {
        assert_eq!(r.reveal(&tenant("acme"), text).unwrap(), text);
    }
}

/// Text as it comes: noise, separators, values next to each other, placeholders, names of secrets.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => proptest::sample::select(PLANTED).prop_map(str::to_owned),
        3 => proptest::sample::select(&[
            " ", "\n", "-", ".", ",", ";", "\"", "\\", "\\\"", "'", "=", ": ", "&", "[", "]", "(", ")", "ä", "€", "+", "0", "12", "2026-11-25",
            "[EMAIL]", "[IBAN:tok_", "[SECRET:tok_AbCdEf]", "tel ", "password=", "\"api_key\": \"", "token: ", "--secret ", "Bearer ",
            "SSN ", "card ", "://a:", "@", "eyJ", "sk-", "-----BEGIN PRIVATE KEY-----", "<password>", " is ",
        ][..]).prop_map(str::to_owned),
        1 => "[0-9 .-]{1,24}",
        1 => "\\PC{0,12}",
    ];
    proptest::collection::vec(piece, 0..14).prop_map(|p| p.concat())
}

/// JSON with such texts, and with numbers that are sensitive by themselves or by the name of their field.
fn trees() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    let number = prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        proptest::sample::select(&[4_111_111_111_111_111_u64, 2_125_550_142, 536_228_726][..]).prop_map(|n| json!(n)),
        Just(json!(-4_111_111_111_111_111.5)),
    ];
    let leaf =
        prop_oneof![texts().prop_map(Value::from), number, Just(Value::Null), any::<bool>().prop_map(Value::from)];
    let name = prop_oneof![texts(), "(password|workPhone|ssn|card|note)"];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn findings_hold_their_contract(text in texts(), field in proptest::option::of("(note|password|phone|token_type)")) {
        let r = StandardRedactor::new(Arc::new(FakeKeyring));
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        let text = Text { field: field.as_deref(), text: text.as_str() };
        let again = |t| Text { text: t, ..text };
        let found = r.inspect(text).unwrap();
        let mut from = 0;
        for f in &found {
            prop_assert!(from <= f.start && f.start < f.end && text.text.get(f.start..f.end).is_some());
            from = f.end;
        }

        let (mask, token) = (RedactOptions::mask_all(), RedactOptions::tokenize_all());
        let masked = r.redact(&acme, text, &mask).unwrap();
        prop_assert_eq!(found.is_empty(), matches!(masked, Cow::Borrowed(_)));
        prop_assert!(r.inspect(again(&masked)).unwrap().is_empty(), "found again in {}", masked);
        prop_assert_eq!(&r.redact(&acme, again(&masked), &mask).unwrap(), &masked);

        let tokens = r.redact(&acme, text, &token).unwrap();
        prop_assert_eq!(&r.redact(&acme, again(&tokens), &token).unwrap(), &tokens);
        prop_assert_eq!(r.reveal(&acme, &tokens).unwrap(), text.text);
        prop_assert_eq!(&r.reveal(&globex, &tokens).unwrap(), &tokens);
    }

    #[test]
    fn any_json_comes_back_as_it_was(value in trees()) {
        let r = StandardRedactor::new(Arc::new(FakeKeyring));
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        let mut tokens = value.clone();
        r.redact_json(&acme, &mut tokens, &RedactOptions::tokenize_all()).unwrap();
        let once = tokens.clone();
        prop_assert_eq!(r.redact_json(&acme, &mut tokens, &RedactOptions::tokenize_all()).unwrap(), 0, "twice is once");
        prop_assert!(r.inspect_json(&tokens).unwrap().is_empty(), "found again in {}", tokens);
        prop_assert_eq!(r.reveal_json(&globex, &mut tokens).unwrap(), 0);
        prop_assert_eq!(&tokens, &once, "another tenant's stays as it is");
        r.reveal_json(&acme, &mut tokens).unwrap();
        prop_assert_eq!(tokens, value);
    }

    #[test]
    fn any_text_at_all(text in any::<String>()) {
        let r = StandardRedactor::new(Arc::new(FakeKeyring));
        let masked = r.redact(&tenant("acme"), text.as_str().into(), &RedactOptions::mask_all()).unwrap();
        prop_assert!(r.inspect(masked.as_ref().into()).unwrap().is_empty());
    }
}
