//! The suite of [`Redactor`].

#![expect(clippy::indexing_slicing, reason = "a suite says what failed by panicking")]

mod json;

use std::borrow::Cow;
use std::sync::Arc;

use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use crate::redact::{EntityKind, Finding, RedactOptions, Redactor, Text};
use crate::{ErrorKind, Result, TenantId};

spy! { Redactor:
    fn inspect(&self, text: Text<'_>) -> Result<Vec<Finding>>;
    fn redact<'a>(&self, tenant: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>>;
    fn reveal<'a>(&self, tenant: &TenantId, text: &'a str) -> Result<Cow<'a, str>>;
}

impl<R: Redactor> From<R> for Fixture<dyn Redactor> {
    fn from(redactor: R) -> Self {
        Self::new(Arc::new(redactor))
    }
}

/// What every redactor finds: an e-mail address between spaces.
const EMAIL: &str = "ana@example.com";
const LETTER: &str = "write to ana@example.com today";
const CLEAN: &str = "The receiving party shall hold the information in confidence for 3 years, § 12.";
/// The value of a field named `password`.
const PASSWORD: Text<'_> = Text { field: Some("password"), text: "correct horse" };

/// Runs every scenario on fresh redactors that `fresh` makes. Each must know e-mail addresses and fields named `password`, and have the keys of
/// the tenants `acme`, `acme-2` and `globex` loaded, of `initech` not.
///
/// # Panics
/// With the scenario's name, where the redactor does not keep the [contract](Redactor).
pub async fn redactor<R: Into<Fixture<dyn Redactor>>>(fresh: impl AsyncFn() -> R) {
    let called = Called::default();
    let fixture: Fixture<dyn Redactor> = fresh().await.into();
    let spied = fixture.map(|r| Arc::new(Spy::new(r, &called)));
    let r = spied.adapter.as_ref();
    leaves_clean_text_alone(r);
    finds_where_it_says(r);
    masks_tell_nothing(r);
    replaces_only_what_is_wanted(r);
    tokens_are_the_tenants_own(r);
    leaves_forged_tokens_alone(r);
    fails_without_keys(r);
    twice_is_once(r);
    takes_any_text(r);
    json::keeps_its_structure(r);
    json::numbers_stay_numbers(r);
    json::names_do_not_run_together(r);
    json::of_another_tenant_stays_shut(r);
    prints_no_secret(r, &spied.secrets);
    called.complete::<dyn Redactor>();
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

fn mask(r: &dyn Redactor, text: Text<'_>) -> String {
    r.redact(&tenant("acme"), text, &RedactOptions::mask_all()).expect("a mask").into_owned()
}

fn tokenise(r: &dyn Redactor, who: &str, text: Text<'_>) -> String {
    r.redact(&tenant(who), text, &RedactOptions::tokenize_all()).expect("tokens").into_owned()
}

fn reveal(r: &dyn Redactor, who: &str, text: &str) -> String {
    r.reveal(&tenant(who), text).expect("revealed").into_owned()
}

fn leaves_clean_text_alone(r: &dyn Redactor) {
    for text in ["", " ", CLEAN, "\u{202E}\0\n"] {
        assert!(r.inspect(text.into()).unwrap().is_empty(), "clean text: something is found in {text:?}");
        for options in [RedactOptions::mask_all(), RedactOptions::tokenize_all()] {
            let kept = r.redact(&tenant("acme"), text.into(), &options).unwrap();
            assert!(matches!(kept, Cow::Borrowed(_)) && kept == text, "clean text is borrowed: {text:?}");
        }
        let kept = r.reveal(&tenant("acme"), text).unwrap();
        assert!(matches!(kept, Cow::Borrowed(_)) && kept == text, "clean text: nothing is put back in {text:?}");
    }
}

fn finds_where_it_says(r: &dyn Redactor) {
    let found = r.inspect(LETTER.into()).unwrap();
    let at = LETTER.find(EMAIL).expect("it is there");
    assert_eq!(found, [Finding { start: at, end: at + EMAIL.len(), kind: EntityKind::Email }], "findings: the address");
    let found = r.inspect(PASSWORD).unwrap();
    let whole = Finding { start: 0, end: PASSWORD.text.len(), kind: EntityKind::Secret };
    assert_eq!(found, [whole], "findings: the value of a field named `password`, as a whole");
    for text in texts() {
        let mut from = 0;
        for f in r.inspect(text.as_str().into()).unwrap() {
            assert!(
                from <= f.start && f.start < f.end,
                "findings: in order, without overlap, none empty: {f:?} in {text:?}"
            );
            assert!(
                text.get(f.start..f.end).is_some(),
                "findings: inside, on characters' boundaries: {f:?} in {text:?}"
            );
            from = f.end;
        }
    }
}

fn masks_tell_nothing(r: &dyn Redactor) {
    let masked = mask(r, LETTER.into());
    assert!(masked.starts_with("write to ") && masked.ends_with(" today"), "masks: the rest stays: {masked}");
    assert!(!masked.contains("ana") && !masked.contains("example"), "masks: the value is gone: {masked}");
    assert!(r.inspect(masked.as_str().into()).unwrap().is_empty(), "masks: nothing is found in masked text");
    assert_eq!(mask(r, "write to bartholomew@example.org today".into()), masked, "masks: the same for every value");
    let theirs = r.redact(&tenant("globex"), LETTER.into(), &RedactOptions::mask_all()).unwrap();
    assert_eq!(theirs, masked, "masks: the same for every tenant");
    assert_eq!(reveal(r, "acme", &masked), masked, "masks cannot be undone");
    assert!(!mask(r, PASSWORD).contains("horse"), "masks: a secret by the name of its field");
}

fn replaces_only_what_is_wanted(r: &dyn Redactor) {
    for kinds in [vec![], vec![EntityKind::Secret]] {
        let kept = r.redact(&tenant("acme"), LETTER.into(), &RedactOptions::mask(kinds.clone())).unwrap();
        assert!(
            matches!(kept, Cow::Borrowed(_)) && kept == LETTER,
            "wanted kinds: an address stays where {kinds:?} are wanted"
        );
    }
    let masked = r.redact(&tenant("acme"), LETTER.into(), &RedactOptions::mask([EntityKind::Email])).unwrap();
    assert!(!masked.contains(EMAIL), "wanted kinds: the wanted one goes");
}

fn tokens_are_the_tenants_own(r: &dyn Redactor) {
    let acme = tokenise(r, "acme", LETTER.into());
    assert!(acme.starts_with("write to ") && acme.ends_with(" today") && !acme.contains(EMAIL), "tokens: {acme}");
    assert_eq!(tokenise(r, "acme", LETTER.into()), acme, "tokens: equal values of one tenant have equal tokens");
    assert_eq!(reveal(r, "acme", &acme), LETTER, "tokens: their tenant puts the value back");
    // one name is the beginning of the other
    for other in ["acme-2", "globex"] {
        let theirs = tokenise(r, other, LETTER.into());
        assert_ne!(theirs, acme, "isolation: two tenants' tokens show that they hold the same value");
        let shut = r.reveal(&tenant(other), &acme).unwrap();
        assert_eq!(shut, acme, "isolation: a tenant undoes another's token");
        assert!(matches!(shut, Cow::Borrowed(_)), "tokens: where nothing is put back, the text is borrowed");
        assert_eq!(reveal(r, other, &theirs), LETTER, "tokens: every tenant puts its own back");
        let both = format!("{acme} {theirs} {CLEAN}");
        let half = format!("{acme} {LETTER} {CLEAN}");
        assert_eq!(reveal(r, other, &both), half, "isolation: beside its own, a tenant undoes another's token");
    }
}

/// Changed anywhere, a token is no token; whatever it is then, it stays.
fn leaves_forged_tokens_alone(r: &dyn Redactor) {
    let real = tokenise(r, "acme", LETTER.into());
    let inside = "write to ".len()..real.len() - " today".len();
    for i in inside.clone() {
        let byte = if real.as_bytes()[i] == b'A' { "B" } else { "A" };
        let forged = format!("{}{byte}{}", &real[..i], &real[i + 1..]);
        assert_eq!(reveal(r, "acme", &forged), forged, "forged tokens stay: byte {i}");
        let cut = format!("{}{}", &real[..i], &real[inside.end..]);
        assert_eq!(reveal(r, "acme", &cut), cut, "forged tokens stay: cut off at {i}");
    }
    for text in HOSTILE {
        let around = format!("{text}{real}{text}");
        let clear = format!("{text}{LETTER}{text}");
        assert_eq!(reveal(r, "acme", &around), clear, "tokens: found beside {text:?}");
    }
}

fn fails_without_keys(r: &dyn Redactor) {
    let stranger = tenant("initech");
    let e = r.redact(&stranger, LETTER.into(), &RedactOptions::tokenize_all()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Redaction, "no keys: a token is refused");
    assert!(!format!("{e:?}").contains(EMAIL), "no keys: the error holds nothing of the text");
    let tokens = tokenise(r, "acme", LETTER.into());
    let kind = r.reveal(&stranger, &tokens).map(|_| ()).map_err(|e| e.kind());
    assert_eq!(kind, Err(ErrorKind::Redaction), "no keys: a token is not looked into");
    let masked = r.redact(&stranger, LETTER.into(), &RedactOptions::mask_all()).map(Cow::into_owned);
    assert_eq!(masked.ok(), Some(mask(r, LETTER.into())), "no keys: masks need none");
    let clean = r.redact(&stranger, CLEAN.into(), &RedactOptions::tokenize_all());
    assert!(clean.is_ok_and(|c| matches!(c, Cow::Borrowed(_))), "no keys: clean text needs none");
}

fn twice_is_once(r: &dyn Redactor) {
    let all = texts();
    let all = all.iter().map(|t| Text::from(t.as_str())).chain([LETTER.into(), PASSWORD]);
    for text in all {
        for options in [RedactOptions::mask_all(), RedactOptions::tokenize_all()] {
            let once = r.redact(&tenant("acme"), text, &options).unwrap();
            let again = Text { text: &once, ..text };
            assert_eq!(r.redact(&tenant("acme"), again, &options).unwrap(), once, "twice is once: {text:?}");
        }
    }
}

/// What was made up to do harm comes back as it was.
fn takes_any_text(r: &dyn Redactor) {
    for text in texts() {
        let tokens = tokenise(r, "acme", text.as_str().into());
        assert_eq!(reveal(r, "acme", &tokens), text, "any text: what was tokenised comes back");
        assert_eq!(reveal(r, "globex", &tokens), tokens, "isolation: a tenant undoes another's token in {tokens:?}");
        let masked = mask(r, text.as_str().into());
        assert!(r.inspect(masked.as_str().into()).unwrap().is_empty(), "any text: found after masking: {masked:?}");
    }
    let long = format!("{} {LETTER} {}", "x ".repeat(40_000), "@[".repeat(40_000));
    assert!(!mask(r, long.as_str().into()).contains(EMAIL), "any text: a long one");
}

/// Texts made of what redactors trip over, the same at every run. None holds a token of any tenant.
fn texts() -> Vec<String> {
    const PIECES: [&str; 36] = [
        "ana@example.com",
        "bo@x.org",
        "hunter2",
        "4111 1111 1111 1111",
        "+1 (212) 555-0142",
        "DE89 3704 0044 0532 0130 00",
        "536-22-8726",
        " ",
        "\n",
        "\t",
        "\u{a0}",
        "\r\n",
        ".",
        ",",
        "\"",
        "\\",
        "'",
        "=",
        ":",
        "[",
        "]",
        "(",
        "@",
        "@@",
        "password=",
        "token: ",
        "[EMAIL]",
        "[tok:",
        "[EMAIL:tok_",
        "ä",
        "€",
        "🔑",
        "\u{202E}",
        "\0",
        "e\u{301}",
        "n[1]",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut made = |_| (0..random.usize(1..12)).map(|_| PIECES[random.usize(..PIECES.len())]).collect::<String>();
    let noise: Vec<String> = (0..400).map(&mut made).collect();
    HOSTILE.iter().map(|t| (*t).to_owned()).chain(noise).collect()
}
