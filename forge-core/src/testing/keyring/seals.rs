//! Seals, the rotation of their key, and the contexts that are sealed.

use std::time::Duration;

use serde_json::Value;

use super::{again, kind};
use crate::fake::ManualClock;
use crate::keyring::{Keyring, Seal};
use crate::testing::fixture::Fixture;
use crate::testing::{HOSTILE, context};
use crate::time::Clock;
use crate::{Digest, ErrorKind, ExecutionContext, Result, SealedContext, SealedFor, Timestamp};

pub(super) async fn seals_are_ours_only(f: &Fixture<dyn Keyring>) {
    let keys = f.adapter.as_ref();
    let seal = keys.seal(b"bytes").unwrap();
    assert_eq!(keys.seal(b"bytes").unwrap(), seal, "seals: equal bytes, equal seals");
    assert_eq!(keys.seal_keys(), [seal.key_id.as_str()], "seals: the key that seals is listed");
    assert!(keys.verify(b"bytes", &seal).is_ok(), "seals: they hold");
    let mut mac = *seal.mac.as_bytes();
    mac[0] ^= 1;
    let forged = Seal { mac: Digest::from_bytes(mac), ..seal.clone() };
    let plain = Seal { mac: Digest::of(b"bytes"), ..seal.clone() };
    for (bytes, seal) in [(b"bytes".as_slice(), &forged), (b"bytes", &plain), (b"byte", &seal), (b"", &seal)] {
        let e = keys.verify(bytes, seal).expect_err("seals: forged, or on other bytes");
        assert_eq!(e.kind(), ErrorKind::Unauthenticated, "seals: forged, or on other bytes");
    }
    for id in HOSTILE.into_iter().chain(["", "made up by a stranger"]) {
        let renamed = Seal { key_id: id.into(), ..seal.clone() };
        let e = keys.verify(b"bytes", &renamed).expect_err("seals: of an unknown key");
        assert_eq!(e.kind(), ErrorKind::Unauthenticated, "seals: of an unknown key");
        assert!(!format!("{e:?}").contains("stranger"), "seals: an unknown id is not repeated: {e}");
    }
}

pub(super) async fn the_key_of_seals_rotates(f: Fixture<dyn Keyring>) {
    let keys = f.adapter.as_ref();
    let first = keys.seal(b"x").unwrap();
    let id = keys.rotate_seal_key().await.unwrap();
    let second = keys.seal(b"x").unwrap();
    assert!(id != first.key_id && second.key_id == id, "rotation: new seals are under the new key");
    assert_ne!(second.mac, first.mac, "rotation: the new key is another");
    assert_eq!(
        keys.seal_keys(),
        [&id, &first.key_id].map(String::clone),
        "rotation: both are accepted, the newest first"
    );
    assert!(keys.verify(b"x", &first).is_ok() && keys.verify(b"x", &second).is_ok(), "rotation: old seals hold");
    let crossed = Seal { mac: first.mac, ..second.clone() };
    assert_eq!(
        kind(keys.verify(b"x", &crossed)),
        Some(ErrorKind::Unauthenticated),
        "rotation: a seal is of the key it names"
    );
    assert_eq!(kind(keys.retire_seal_key(&id).await), Some(ErrorKind::Conflict), "rotation: the key that seals stays");
    assert_eq!(kind(keys.retire_seal_key("no such key").await), Some(ErrorKind::NotFound), "rotation: an unknown key");
    assert!(keys.verify(b"x", &first).is_ok(), "rotation: a refused retirement changes nothing");
    let third = keys.rotate_seal_key().await.unwrap();
    keys.retire_seal_key(&id).await.unwrap();
    let f = again(f).await;
    let keys = f.adapter.as_ref();
    assert_eq!(keys.seal_keys(), [third.as_str()], "rotation: what is retired, and all before it, stays retired");
    assert_eq!(keys.seal(b"x").unwrap().key_id, third, "rotation: outlives the process");
    let unknown = Seal { key_id: "no such key".into(), ..first.clone() };
    let unknown = keys.verify(b"x", &unknown).expect_err("seals: of an unknown key");
    for retired in [&first, &second] {
        let e = keys.verify(b"x", retired).expect_err("rotation: seals of a retired key are refused");
        assert_eq!(e.kind(), ErrorKind::Unauthenticated, "rotation: seals of a retired key are refused");
        assert!(e.message().contains("retired") && e.message() != unknown.message(), "rotation: and it is said: {e}");
    }
    keys.retire_seal_key(&first.key_id).await.expect("rotation: retiring again is fine");
    assert_eq!(keys.seal_keys(), [third], "rotation: retiring an older key brings none back");
}

fn bound(id: &str) -> SealedFor {
    SealedFor { id: id.into(), name: "index".into(), queue: "acme.default".into(), body: Digest::of(b"body") }
}

fn seal_context(keys: &dyn Keyring, ctx: &ExecutionContext, now: Timestamp) -> SealedContext {
    SealedContext::seal(ctx, bound("1"), keys, now, now.after(Duration::from_secs(60))).expect("a sealed context")
}

/// The sealed form with another text in one place, as a thief would send it.
fn edited(sealed: &SealedContext, edit: impl FnOnce(&mut Value)) -> SealedContext {
    let mut value = serde_json::to_value(sealed).unwrap();
    edit(&mut value);
    serde_json::from_value(value).unwrap()
}

pub(super) async fn a_sealed_context_is_for_its_task_only(f: &Fixture<dyn Keyring>) {
    let (keys, clock) = (f.adapter.as_ref(), ManualClock::default());
    let (ana, sealed_at) = (context("acme", "ana", "analyst"), clock.now());
    let sealed = seal_context(keys, &ana, sealed_at);
    let opened = |to: &SealedFor| sealed.open(to, keys, sealed_at);
    let first = opened(&bound("1")).expect("sealed contexts: its own task opens it");
    assert_eq!((first.tenant(), first.employee()), (ana.tenant(), ana.employee()), "sealed contexts: who it was");
    let redelivered = opened(&bound("1")).expect("sealed contexts: a redelivery opens it");
    let keys_of = |c: &ExecutionContext| (c.next_operation(), c.next_operation());
    assert_eq!(
        keys_of(&redelivered),
        keys_of(&first),
        "sealed contexts: a redelivery makes its calls under the same keys"
    );
    let refused = |opened: Result<ExecutionContext>, why: &str| {
        let e = opened.expect_err(why);
        assert_eq!(e.kind(), ErrorKind::Unauthenticated, "sealed contexts: {why}");
        assert!(e.message().contains(why), "sealed contexts: the error says {why:?}: {e}");
    };
    refused(opened(&bound("2")), "another task");
    refused(opened(&SealedFor { name: "delete".into(), ..bound("1") }), "another task");
    refused(opened(&SealedFor { queue: "globex.default".into(), ..bound("1") }), "another queue");
    refused(opened(&SealedFor { queue: "acme.default2".into(), ..bound("1") }), "another queue");
    refused(opened(&SealedFor { body: Digest::of(b"other"), ..bound("1") }), "another body");
    let end = sealed_at.after(Duration::from_secs(60));
    refused(sealed.open(&bound("1"), keys, end), "past its time");
    assert!(
        sealed.open(&bound("1"), keys, Timestamp::from_nanos(end.as_nanos() - 1)).is_ok(),
        "sealed contexts: until then"
    );

    let header = |from: &str, to: &str| {
        let forged = edited(&sealed, |v| v["header"] = v["header"].as_str().unwrap().replace(from, to).into());
        assert_ne!(forged, sealed, "the header holds {from:?}");
        forged
    };
    let other_mac = seal_context(keys, &context("acme", "bo", "admin"), sealed_at);
    let other_mac = serde_json::to_value(&other_mac).unwrap()["seal"].clone();
    let forgeries = [
        ("isolation: a sealed context was given to another tenant", header("\"acme\"", "\"globex\"")),
        ("sealed contexts: another employee", header("\"ana\"", "\"bo\"")),
        ("sealed contexts: another role", header("analyst", "partner")),
        ("sealed contexts: a later end", header("2026", "2027")),
        ("sealed contexts: a white space", header(",", ", ")),
        ("sealed contexts: another's seal", edited(&sealed, |v| v["seal"] = other_mac)),
        ("sealed contexts: an unknown key", edited(&sealed, |v| v["seal"]["key_id"] = "no such key".into())),
    ];
    for (what, forged) in forgeries {
        assert_eq!(kind(forged.open(&bound("1"), keys, sealed_at)), Some(ErrorKind::Unauthenticated), "{what}");
    }
}

pub(super) async fn sealed_contexts_outlive_a_rotation(f: &Fixture<dyn Keyring>) {
    let (keys, ana, now) = (f.adapter.as_ref(), context("acme", "ana", "analyst"), ManualClock::default().now());
    let old = seal_context(keys, &ana, now);
    let retired = keys.seal_keys();
    keys.rotate_seal_key().await.unwrap();
    let new = seal_context(keys, &ana, now);
    for sealed in [&old, &new] {
        assert!(sealed.open(&bound("1"), keys, now).is_ok(), "sealed contexts: they open after a rotation");
    }
    keys.retire_seal_key(&retired[0]).await.unwrap();
    let e = old.open(&bound("1"), keys, now).expect_err("sealed contexts: not under a retired key");
    assert_eq!(e.kind(), ErrorKind::Unauthenticated, "sealed contexts: not under a retired key");
    assert!(e.message().contains("retired"), "sealed contexts: and it is said: {e}");
    assert!(new.open(&bound("1"), keys, now).is_ok(), "sealed contexts: those of the new key open");
}
