//! What crosses a boundary, what rests, and who can undo it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use forge_core::keyring::Keyring;
use forge_core::redact::{RedactOptions, Redactor, Text};
use forge_core::secret::Secret;
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
    assert!(matches!(
        r.redact(&tenant("acme"), clean.into(), &RedactOptions::mask_all()).unwrap(),
        std::borrow::Cow::Borrowed(_)
    ));
}

#[tokio::test]
async fn a_body_opens_for_its_tenant_and_place_only() {
    let dir = tempfile::tempdir().unwrap();
    let k = keys(&dir).await;
    let (acme, globex) = (tenant("acme"), tenant("globex"));
    let blob = k.encrypt(&acme, b"run/1", LETTER.as_bytes()).unwrap();
    assert!(PLANTED.iter().all(|s| !blob.windows(s.len()).any(|w| w == s.as_bytes())));
    assert_eq!(k.decrypt(&acme, b"run/1", &blob).unwrap(), LETTER.as_bytes());
    let mut flipped = blob.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (who, place, blob) in [
        (&globex, "run/1", &blob),
        (&acme, "run/2", &blob),
        (&acme, "run/1", &flipped),
        (&acme, "run/1", &blob[..20].to_vec()),
    ] {
        assert_eq!(k.decrypt(who, place.as_bytes(), blob).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn keys_survive_a_restart_and_rest_wrapped() {
    let dir = tempfile::tempdir().unwrap();
    let acme = tenant("acme");
    let (token, seal) = {
        let k = keys(&dir).await;
        (k.tokenize(&acme, "x").unwrap(), k.seal(b"context").unwrap())
    };
    let again = keys(&dir).await;
    assert_eq!(again.tokenize(&acme, "x").unwrap(), token);
    again.verify(b"context", &seal).unwrap();
    assert_eq!(again.verify(b"other", &seal).unwrap_err().kind(), ErrorKind::Unauthenticated);
    let wrapped = std::fs::read(dir.path().join("acme.keys")).unwrap();
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("acme.keys"), wrapped).unwrap();
    let foreign = FileKeyring::open(other.path(), None).await.unwrap();
    assert_eq!(
        foreign.load(&acme).await.unwrap_err().kind(),
        ErrorKind::Corrupt,
        "another master key does not open them"
    );
}

#[tokio::test]
async fn destroyed_keys_erase() {
    let dir = tempfile::tempdir().unwrap();
    let k = keys(&dir).await;
    let acme = tenant("acme");
    let blob = k.encrypt(&acme, b"", b"x").unwrap();
    k.destroy(&acme).await.unwrap();
    assert_eq!(k.decrypt(&acme, b"", &blob).unwrap_err().kind(), ErrorKind::Redaction);
    k.load(&acme).await.unwrap();
    assert_eq!(k.decrypt(&acme, b"", &blob).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(k.encrypt(&tenant("globex"), b"", b"x").is_ok());
}

#[cfg(unix)]
#[tokio::test]
async fn a_master_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    drop(keys(&dir).await);
    let path = dir.path().join("master.key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(FileKeyring::open(dir.path(), None).await.unwrap_err().kind(), ErrorKind::Config);
    let given = FileKeyring::open(dir.path(), Some(Secret::new("not a key"))).await.unwrap_err();
    assert!(!format!("{given:?}").contains("not a key"));
}

#[tokio::test]
async fn two_openers_at_once_agree_on_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let master = || Some(Secret::new(data_encoding::BASE64.encode(&[7; 32])));
    let acme = tenant("acme");
    let (a, b) = (
        FileKeyring::open(dir.path(), master()).await.unwrap(),
        FileKeyring::open(dir.path(), master()).await.unwrap(),
    );
    let (ra, rb) = tokio::join!(a.load(&acme), b.load(&acme));
    ra.unwrap();
    rb.unwrap();
    assert_eq!(a.tokenize(&acme, "x").unwrap(), b.tokenize(&acme, "x").unwrap());
}

proptest! {
    #[test]
    fn findings_are_in_order_on_boundaries_and_none_survives_a_mask(text in "(?s).{0,60}(ana@example\\.com|212-555-0142|4111111111111111|password: x9!y8| ){0,3}.{0,60}") {
        let dir = tempfile::tempdir().unwrap();
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let r = StandardRedactor::new(rt.block_on(keys(&dir)));
        let acme = tenant("acme");
        let found = r.inspect(Text::from(text.as_str())).unwrap();
        let mut from = 0;
        for f in &found {
            prop_assert!(from <= f.start && f.start < f.end && text.get(f.start..f.end).is_some());
            from = f.end;
        }
        let tokens = r.redact(&acme, text.as_str().into(), &RedactOptions::tokenize_all()).unwrap();
        prop_assert_eq!(r.reveal(&acme, &tokens).unwrap(), text.as_str());
        let masked = r.redact(&acme, text.as_str().into(), &RedactOptions::mask_all()).unwrap().into_owned();
        for f in &found {
            let value = &text[f.start..f.end];
            if value.len() > 8 && text.matches(value).count() == 1 {
                prop_assert!(!masked.contains(value));
            }
        }
    }
}
