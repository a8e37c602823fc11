//! The suite of [`Keyring`], and of the contexts that it seals.

#![expect(clippy::indexing_slicing, reason = "a suite says what failed by panicking")]

mod seals;

use std::sync::Arc;

use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use crate::keyring::{Keyring, Seal};
use crate::{Digest, ErrorKind, Result, TenantId};
use data_encoding::BASE64URL_NOPAD;
use futures::FutureExt;

spy! { Keyring:
    async fn load(&self, tenant: &TenantId) -> Result<()>;
    async fn destroy(&self, tenant: &TenantId) -> Result<()>;
    fn encrypt(&self, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>>;
    fn decrypt(&self, tenant: &TenantId, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>>;
    fn tokenize(&self, tenant: &TenantId, plain: &str) -> Result<String>;
    fn detokenize(&self, tenant: &TenantId, token: &str) -> Result<Option<String>>;
    fn digest(&self, tenant: &TenantId, bytes: &[u8]) -> Result<Digest>;
    fn seal(&self, bytes: &[u8]) -> Result<Seal>;
    fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()>;
    fn seal_keys(&self) -> Vec<String>;
    async fn rotate_seal_key(&self) -> Result<String>;
    async fn retire_seal_key(&self, key_id: &str) -> Result<()>;
}

impl<K: Keyring> From<K> for Fixture<dyn Keyring> {
    fn from(keys: K) -> Self {
        Self::new(Arc::new(keys))
    }
}

/// Runs every scenario on fresh keyrings that `fresh` makes, without any tenant in them. The fixture says how to open one again.
///
/// # Panics
/// With the scenario's name, where the keyring does not keep the [contract](Keyring).
pub async fn keyring<K: Into<Fixture<dyn Keyring>>>(fresh: impl AsyncFn() -> K) {
    let called = Called::default();
    let made = async || {
        let fixture: Fixture<dyn Keyring> = fresh().await.into();
        fixture.map(|keys| Arc::new(Spy::new(keys, &called)))
    };
    a_body_opens_for_its_tenant_and_place_only(&made().await).await;
    a_token_is_its_tenants_own(&made().await).await;
    a_digest_is_its_tenants_own(&made().await).await;
    nothing_works_before_loading(&made().await).await;
    loads_at_once_agree(&made().await).await;
    destroyed_is_gone_for_good(&made().await).await;
    survives_a_call_that_was_dropped(&made().await).await;
    opened_again_the_keys_are_the_same(made().await).await;
    seals::seals_are_ours_only(&made().await).await;
    seals::the_key_of_seals_rotates(made().await).await;
    seals::a_sealed_context_is_for_its_task_only(&made().await).await;
    seals::sealed_contexts_outlive_a_rotation(&made().await).await;
    let fixture = made().await;
    load(fixture.adapter.as_ref(), &["acme"]).await;
    prints_no_secret(fixture.adapter.as_ref(), &fixture.secrets);
    prints_no_secret(fixture.adapter.as_ref(), &["acme".to_owned()]);
    called.complete::<dyn Keyring>();
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

async fn load(keys: &dyn Keyring, tenants: &[&str]) {
    for name in tenants {
        keys.load(&tenant(name)).await.expect("keys are loaded");
    }
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

async fn a_body_opens_for_its_tenant_and_place_only(f: &Fixture<dyn Keyring>) {
    let (keys, acme) = (f.adapter.as_ref(), tenant("acme"));
    load(keys, &["acme", "acme-2", "globex"]).await;
    for plain in [b"".as_slice(), b"x", &[0; 5000]] {
        let blob = keys.encrypt(&acme, b"place", plain).unwrap();
        assert_eq!(keys.decrypt(&acme, b"place", &blob).unwrap(), plain, "bodies: what was encrypted comes back");
        assert_ne!(keys.encrypt(&acme, b"place", plain).unwrap(), blob, "bodies: equal ones do not show");
    }
    let blob = keys.encrypt(&acme, b"place", b"the body").unwrap();
    assert!(!blob.windows(8).any(|w| w == b"the body"), "bodies: they are not there in clear");
    for other in ["acme-2", "globex"] {
        let opened = keys.decrypt(&tenant(other), b"place", &blob);
        assert_eq!(kind(opened), Some(ErrorKind::Corrupt), "isolation: a tenant opens another's body");
    }
    for place in [b"".as_slice(), b"plac", b"place ", b"other"] {
        assert_eq!(kind(keys.decrypt(&acme, place, &blob)), Some(ErrorKind::Corrupt), "bodies: in another place");
    }
    // where the tenant ends and the place begins is no matter of opinion
    let shifted = keys.encrypt(&acme, b"-2place", b"x").unwrap();
    assert_eq!(
        kind(keys.decrypt(&tenant("acme-2"), b"place", &shifted)),
        Some(ErrorKind::Corrupt),
        "isolation: a shift"
    );
    for i in 0..blob.len() {
        let mut flipped = blob.clone();
        flipped[i] ^= 1;
        for damaged in [&flipped, &blob[..i]] {
            assert_eq!(
                kind(keys.decrypt(&acme, b"place", damaged)),
                Some(ErrorKind::Corrupt),
                "bodies: damaged at {i}"
            );
        }
    }
    let longer = [&blob[..], b"\0"].concat();
    assert_eq!(kind(keys.decrypt(&acme, b"place", &longer)), Some(ErrorKind::Corrupt), "bodies: with more behind it");
}

async fn a_token_is_its_tenants_own(f: &Fixture<dyn Keyring>) {
    let (keys, acme) = (f.adapter.as_ref(), tenant("acme"));
    load(keys, &["acme", "acme-2", "globex"]).await;
    for plain in HOSTILE.into_iter().chain(["", "536-22-8726"]) {
        let token = keys.tokenize(&acme, plain).unwrap();
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        assert!(token.bytes().all(word) && !token.is_empty(), "tokens: letters, digits, - and _: {token}");
        assert_eq!(keys.tokenize(&acme, plain).unwrap(), token, "tokens: equal values, equal tokens");
        assert_eq!(keys.detokenize(&acme, &token).unwrap().as_deref(), Some(plain), "tokens: their value comes back");
        for other in ["acme-2", "globex"].map(tenant) {
            assert_ne!(keys.tokenize(&other, plain).unwrap(), token, "isolation: two tenants' tokens are equal");
            assert_eq!(keys.detokenize(&other, &token).unwrap(), None, "isolation: a tenant undoes another's token");
        }
    }
    let token = keys.tokenize(&acme, "536-22-8726").unwrap();
    for i in 0..token.len() {
        let byte = if token.as_bytes()[i] == b'A' { "B" } else { "A" };
        let forged = format!("{}{byte}{}", &token[..i], &token[i + 1..]);
        assert_eq!(keys.detokenize(&acme, &forged).unwrap(), None, "tokens: forged at {i}");
        assert_eq!(keys.detokenize(&acme, &token[..i]).unwrap(), None, "tokens: cut off at {i}");
    }
    let blob = keys.encrypt(&acme, b"", b"536-22-8726").unwrap();
    let dressed = BASE64URL_NOPAD.encode(&blob);
    let undressed = BASE64URL_NOPAD.decode(token.as_bytes()).unwrap_or_default();
    assert_eq!(keys.detokenize(&acme, &dressed).unwrap(), None, "purposes: a body is no token");
    assert_eq!(kind(keys.decrypt(&acme, b"", &undressed)), Some(ErrorKind::Corrupt), "purposes: a token is no body");
    for text in HOSTILE {
        assert_eq!(keys.detokenize(&acme, text).unwrap(), None, "tokens: any other text: {text:?}");
    }
}

async fn a_digest_is_its_tenants_own(f: &Fixture<dyn Keyring>) {
    let (keys, acme) = (f.adapter.as_ref(), tenant("acme"));
    load(keys, &["acme", "acme-2"]).await;
    let digest = keys.digest(&acme, b"536-22-8726").unwrap();
    assert_eq!(keys.digest(&acme, b"536-22-8726").unwrap(), digest, "digests: equal bytes, equal digests");
    assert_ne!(keys.digest(&acme, b"536-22-8727").unwrap(), digest, "digests: other bytes");
    assert_ne!(
        keys.digest(&tenant("acme-2"), b"536-22-8726").unwrap(),
        digest,
        "isolation: two tenants' digests are equal"
    );
    assert_ne!(digest, Digest::of(b"536-22-8726"), "digests: a plain hash can be reversed by trying all");
    assert_ne!(keys.seal(b"536-22-8726").unwrap().mac, digest, "digests: the key of seals is another");
}

fn all_refused(keys: &dyn Keyring, who: &TenantId, when: &str) {
    let all = [
        kind(keys.encrypt(who, b"", b"x")),
        kind(keys.decrypt(who, b"", b"x")),
        kind(keys.tokenize(who, "x")),
        kind(keys.detokenize(who, "x")),
        kind(keys.digest(who, b"x")),
    ];
    assert_eq!(all, [Some(ErrorKind::Redaction); 5], "{when}: every operation of the tenant is a miss");
}

async fn nothing_works_before_loading(f: &Fixture<dyn Keyring>) {
    let keys = f.adapter.as_ref();
    load(keys, &["acme-2"]).await;
    all_refused(keys, &tenant("acme"), "before loading");
    let e = keys.tokenize(&tenant("acme"), "536-22-8726").unwrap_err();
    assert!(!format!("{e:?}").contains("536-22"), "before loading: the error holds no value");
    assert!(keys.seal(b"x").is_ok(), "before loading: the host's own key needs no tenant");
}

async fn loads_at_once_agree(f: &Fixture<dyn Keyring>) {
    let (keys, acme) = (f.adapter.as_ref(), tenant("acme"));
    let token = async || {
        keys.load(&acme).await.expect("keys are loaded");
        keys.tokenize(&acme, "x").unwrap()
    };
    let tokens = futures::future::join_all((0..8).map(|_| token())).await;
    assert!(tokens.windows(2).all(|w| w[0] == w[1]), "loading at once: everybody has the same keys");
    assert_eq!(token().await, tokens[0], "loading again changes nothing");
}

async fn destroyed_is_gone_for_good(f: &Fixture<dyn Keyring>) {
    let (keys, acme, other) = (f.adapter.as_ref(), tenant("acme"), tenant("acme-2"));
    load(keys, &["acme", "acme-2"]).await;
    let (blob, token, digest) = things(keys, &acme);
    let (their_blob, their_token, _) = things(keys, &other);
    keys.destroy(&acme).await.unwrap();
    all_refused(keys, &acme, "destroyed");
    assert_eq!(keys.decrypt(&other, b"", &their_blob).unwrap(), b"x", "isolation: destroying reaches another tenant");
    load(keys, &["acme"]).await;
    assert_eq!(kind(keys.decrypt(&acme, b"", &blob)), Some(ErrorKind::Corrupt), "destroyed: loading makes new keys");
    assert_eq!(keys.detokenize(&acme, &token).unwrap(), None, "destroyed: no token is undone");
    let now = things(keys, &acme);
    assert!(now.1 != token && now.2 != digest, "destroyed: the new keys are others");
    keys.destroy(&acme).await.unwrap();
    keys.destroy(&acme).await.expect("destroyed: twice is fine");
    keys.destroy(&tenant("never-there")).await.expect("destroyed: one that never was there");
    assert_eq!(keys.detokenize(&other, &their_token).unwrap().as_deref(), Some("x"), "isolation: others go on");
}

fn things(keys: &dyn Keyring, who: &TenantId) -> (Vec<u8>, String, Digest) {
    (keys.encrypt(who, b"", b"x").unwrap(), keys.tokenize(who, "x").unwrap(), keys.digest(who, b"x").unwrap())
}

async fn survives_a_call_that_was_dropped(f: &Fixture<dyn Keyring>) {
    let (keys, acme) = (f.adapter.as_ref(), tenant("acme"));
    for _ in 0..8 {
        let _dropped = keys.load(&acme).now_or_never();
    }
    load(keys, &["acme"]).await;
    let (blob, ..) = things(keys, &acme);
    for _ in 0..8 {
        let _dropped = keys.load(&acme).now_or_never();
    }
    load(keys, &["acme"]).await;
    assert_eq!(keys.decrypt(&acme, b"", &blob).unwrap(), b"x", "dropped in the middle: the keys are the same");
    for _ in 0..8 {
        let _dropped = keys.destroy(&acme).now_or_never();
        let _dropped = keys.rotate_seal_key().now_or_never();
    }
    keys.destroy(&acme).await.expect("dropped in the middle: the keyring goes on");
    load(keys, &["acme"]).await;
    assert_eq!(
        kind(keys.decrypt(&acme, b"", &blob)),
        Some(ErrorKind::Corrupt),
        "dropped in the middle: destroyed is gone"
    );
    let seal = keys.seal(b"x").unwrap();
    assert!(keys.verify(b"x", &seal).is_ok(), "dropped in the middle: seals hold");
}

async fn again(f: Fixture<dyn Keyring>) -> Fixture<dyn Keyring> {
    f.reopened().await.expect("the fixture of a keyring says how to open it again")
}

async fn opened_again_the_keys_are_the_same(f: Fixture<dyn Keyring>) {
    let (acme, other) = (tenant("acme"), tenant("acme-2"));
    load(f.adapter.as_ref(), &["acme", "acme-2"]).await;
    let (blob, token, digest) = things(f.adapter.as_ref(), &acme);
    let (erased, ..) = things(f.adapter.as_ref(), &other);
    let seal = f.adapter.seal(b"x").unwrap();
    f.adapter.destroy(&other).await.unwrap();
    let f = again(f).await;
    let keys = f.adapter.as_ref();
    all_refused(keys, &acme, "opened again, before loading");
    load(keys, &["acme", "acme-2"]).await;
    assert_eq!(keys.decrypt(&acme, b"", &blob).unwrap(), b"x", "opened again: bodies open");
    let (_, now_token, now_digest) = things(keys, &acme);
    assert_eq!((now_token, now_digest), (token, digest), "opened again: tokens and digests are the same");
    assert!(keys.verify(b"x", &seal).is_ok(), "opened again: seals hold");
    assert_eq!(
        kind(keys.decrypt(&other, b"", &erased)),
        Some(ErrorKind::Corrupt),
        "opened again: destroyed stays gone"
    );
}
