//! Keys: what rests on disk, who can use them, and what is left when they are destroyed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;

use forge_core::keyring::{Keyring, Seal};
use forge_core::secret::Secret;
use forge_core::{
    CaseId, Digest, ErrorKind, ExecutionContext, Principal, RequestId, SealedContext, SealedFor, SecurityLevel,
    SessionId, Slug, TenantId, UserId,
};
use forge_dlp::FileKeyring;

const BODY: &str = "Ana, ana@example.com, pays with 4111 1111 1111 1111";

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn given() -> Option<Secret> {
    Some(Secret::new(data_encoding::BASE64.encode(&[7; 32])))
}

async fn keys(dir: &tempfile::TempDir) -> Arc<FileKeyring> {
    let keys = Arc::new(FileKeyring::open(dir.path(), None).await.unwrap());
    for t in ["acme", "globex"] {
        keys.load(&tenant(t)).await.unwrap();
    }
    keys
}

/// The names and the bytes of all files.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

#[tokio::test]
async fn a_body_opens_for_its_tenant_and_place_only() {
    let dir = tempfile::tempdir().unwrap();
    let k = keys(&dir).await;
    let (acme, globex) = (tenant("acme"), tenant("globex"));
    let blob = k.encrypt(&acme, b"run/1", BODY.as_bytes()).unwrap();
    assert!(!holds(&blob, b"ana@example.com") && !holds(&blob, b"4111"));
    assert_ne!(k.encrypt(&acme, b"run/1", BODY.as_bytes()).unwrap(), blob, "equal bodies do not show");
    assert_eq!(k.decrypt(&acme, b"run/1", &blob).unwrap(), BODY.as_bytes());
    for (who, place) in [(&globex, "run/1"), (&acme, "run/2"), (&acme, "")] {
        assert_eq!(k.decrypt(who, place.as_bytes(), &blob).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    for i in 0..blob.len() {
        let mut flipped = blob.clone();
        flipped[i] ^= 1;
        for damaged in [&flipped, &blob[..i]] {
            assert_eq!(k.decrypt(&acme, b"run/1", damaged).unwrap_err().kind(), ErrorKind::Corrupt, "byte {i}");
        }
    }
}

#[tokio::test]
async fn tenants_cannot_be_correlated() {
    let dir = tempfile::tempdir().unwrap();
    let k = keys(&dir).await;
    let (acme, globex) = (tenant("acme"), tenant("globex"));
    let token = k.tokenize(&acme, "536-22-8726").unwrap();
    assert_eq!(k.tokenize(&acme, "536-22-8726").unwrap(), token);
    assert_ne!(k.tokenize(&globex, "536-22-8726").unwrap(), token);
    assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    assert_eq!(k.detokenize(&acme, &token).unwrap().as_deref(), Some("536-22-8726"));
    assert_eq!(k.detokenize(&globex, &token).unwrap(), None);
    for other in ["", "A", "????", &token[1..], &token.to_uppercase()] {
        assert_eq!(k.detokenize(&acme, other).unwrap(), None);
    }
    assert_eq!(k.digest(&acme, b"x").unwrap(), k.digest(&acme, b"x").unwrap());
    assert_ne!(k.digest(&acme, b"x").unwrap(), k.digest(&globex, b"x").unwrap());
    assert_ne!(k.digest(&acme, b"x").unwrap(), forge_core::Digest::of(b"x"));
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
    let renamed = Seal { key_id: "0".repeat(16), ..seal.clone() };
    for (bytes, seal) in [(b"other__", &seal), (b"context", &renamed)] {
        assert_eq!(again.verify(bytes, seal).unwrap_err().kind(), ErrorKind::Unauthenticated);
    }
    let host = tempfile::tempdir().unwrap();
    let elsewhere = FileKeyring::open(host.path(), None).await.unwrap();
    assert_eq!(elsewhere.verify(b"context", &seal).unwrap_err().kind(), ErrorKind::Unauthenticated);
    let wrapped = std::fs::read(dir.path().join("acme.keys")).unwrap();
    let other = tempfile::tempdir().unwrap();
    let foreign = FileKeyring::open(other.path(), given()).await.unwrap();
    std::fs::write(other.path().join("acme.keys"), wrapped).unwrap();
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
    for wrong in ["not a key", "", "c2hvcnQ="] {
        let e = FileKeyring::open(dir.path(), Some(Secret::new(wrong))).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config);
        assert!(wrong.is_empty() || !format!("{e:?}").contains(wrong));
    }
}

#[tokio::test]
async fn damaged_key_files_are_corrupt_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(keys(&dir).await);
    let (acme, path, master) = (tenant("acme"), dir.path().join("acme.keys"), dir.path().join("master.key"));
    let whole = std::fs::read(&path).unwrap();
    let swapped = std::fs::read(dir.path().join("globex.keys")).unwrap();
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    for bad in [&whole[..whole.len() - 1], &whole[..9], &[], &flipped, &swapped, &[1; 10_000]] {
        std::fs::write(&path, bad).unwrap();
        let k = FileKeyring::open(dir.path(), None).await.unwrap();
        assert_eq!(k.load(&acme).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(k.encrypt(&acme, b"", b"x").unwrap_err().kind(), ErrorKind::Redaction);
        assert_eq!(std::fs::read(&path).unwrap(), bad);
    }
    let text = std::fs::read(&master).unwrap();
    for bad in [&text[..20], b"", b"\xff\xfe"] {
        std::fs::write(&master, bad).unwrap();
        assert_eq!(FileKeyring::open(dir.path(), None).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    std::fs::remove_file(&master).unwrap();
    assert_eq!(FileKeyring::open(dir.path(), None).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!master.exists(), "a new master key would hide that the old one is lost");
}

#[tokio::test]
async fn nothing_on_disk_or_in_debug_is_a_key_of_a_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let k = FileKeyring::open(dir.path(), given()).await.unwrap();
    for t in ["acme", "globex"] {
        k.load(&tenant(t)).await.unwrap();
    }
    let files = files(dir.path());
    assert_eq!(files.len(), 2, "a given master key is not written, and no temporary file stays");
    let secrets = [vec![7; 32], data_encoding::BASE64.encode(&[7; 32]).into_bytes()];
    for (name, bytes) in &files {
        // version, key id, nonce, 128 bytes of keys and a tag: nothing else is in it, and all of it is sealed
        assert_eq!(bytes.len(), 1 + 8 + 24 + 128 + 16, "{name}");
        assert!(secrets.iter().all(|s| !holds(bytes, s)), "{name}");
    }
    // blobs under the tenant's keys stay shut for whoever has the directory alone
    let stolen = FileKeyring::open(dir.path(), Some(Secret::new(data_encoding::BASE64.encode(&[8; 32])))).await;
    assert_eq!(stolen.unwrap_err().kind(), ErrorKind::Config, "said at opening, not at the first call of a tenant");
    let debug = format!("{k:?}");
    assert!(debug.len() < 80 && !debug.contains("7, 7") && !debug.contains("acme"), "{debug}");
}

#[tokio::test]
async fn hosts_with_one_master_key_are_rotated_one_by_one() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &tempfile::TempDir| FileKeyring::open(dir.path().to_owned(), given());
    let (a, b) = (open(&one).await.unwrap(), open(&two).await.unwrap());
    let old = a.seal(b"task").unwrap();
    b.verify(b"task", &old).unwrap();
    let id = a.rotate_seal_key().await.unwrap();
    let new = a.seal(b"task").unwrap();
    assert!(new.key_id == id && id != old.key_id && a.seal_keys() == [id.as_str(), old.key_id.as_str()]);
    b.verify(b"task", &new).unwrap();
    assert_eq!(b.rotate_seal_key().await.unwrap(), id, "the next key is the same on every host");
    a.retire_seal_key(&old.key_id).await.unwrap();
    let e = open(&one).await.unwrap().verify(b"task", &old).unwrap_err();
    assert!(e.kind() == ErrorKind::Unauthenticated && e.message().contains("retired"), "{e}");
    b.verify(b"task", &old).unwrap();
    let stranger = FileKeyring::open(tempfile::tempdir().unwrap().path(), None).await.unwrap();
    assert!(stranger.verify(b"task", &new).unwrap_err().message().contains("not one of this host's"));
}

#[tokio::test]
async fn a_rotation_that_another_process_of_the_directory_made_is_not_undone() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (keys(&dir).await, keys(&dir).await);
    let first = a.seal_keys();
    let second = a.rotate_seal_key().await.unwrap();
    a.retire_seal_key(&first[0]).await.unwrap();
    let third = b.rotate_seal_key().await.unwrap();
    assert_eq!(b.seal_keys(), [third, second]);
}

#[tokio::test]
async fn a_damaged_state_of_seals_is_corrupt_and_no_key_comes_back_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let k = keys(&dir).await;
    let old = k.seal_keys();
    k.rotate_seal_key().await.unwrap();
    k.retire_seal_key(&old[0]).await.unwrap();
    let path = dir.path().join("seal.state");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[40] ^= 1;
    for bad in [&whole[..whole.len() - 1], &[], &flipped, &std::fs::read(dir.path().join("acme.keys")).unwrap()] {
        std::fs::write(&path, bad).unwrap();
        assert_eq!(FileKeyring::open(dir.path(), None).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(k.rotate_seal_key().await.unwrap_err().kind(), ErrorKind::Corrupt, "nothing is written over it");
    }
    std::fs::remove_file(dir.path().join("master.key")).unwrap();
    for t in ["acme", "globex"] {
        std::fs::remove_file(dir.path().join(format!("{t}.keys"))).unwrap();
    }
    assert_eq!(FileKeyring::open(dir.path(), None).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let left: Vec<_> = files(dir.path()).into_iter().map(|f| f.0).collect();
    assert_eq!(left, ["seal.state"], "no temporary file stays, and no new master key hides that the old one is lost");
}

#[tokio::test]
async fn destroying_takes_what_an_interrupted_write_left_and_spares_other_tenants() {
    let dir = tempfile::tempdir().unwrap();
    let k = FileKeyring::open(dir.path(), None).await.unwrap();
    for t in ["acme", "acme-2", "master"] {
        k.load(&tenant(t)).await.unwrap();
    }
    std::fs::copy(dir.path().join("acme.keys"), dir.path().join("acme.keys.tmp-0123456789abcdef")).unwrap();
    k.destroy(&tenant("acme")).await.unwrap();
    k.destroy(&tenant("master")).await.unwrap();
    k.destroy(&tenant("never-there")).await.unwrap();
    let mut left: Vec<_> = files(dir.path()).into_iter().map(|f| f.0).collect();
    left.sort();
    assert_eq!(left, ["acme-2.keys", "master.key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_make_keys_at_once_agree() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let acme = tenant("acme");
        let open = |_| {
            let (dir, acme) = (dir.path().to_owned(), acme.clone());
            tokio::spawn(async move {
                let k = FileKeyring::open(dir, None).await.unwrap();
                k.load(&acme).await.unwrap();
                (k.tokenize(&acme, "x").unwrap(), k.seal(b"x").unwrap())
            })
        };
        let mut all = Vec::new();
        for task in (0..6).map(open).collect::<Vec<_>>() {
            all.push(task.await.unwrap());
        }
        assert!(all.windows(2).all(|w| w[0] == w[1]));
    }
}

/// `clients/python/forge_seal.py` makes the same from the same; `forge-queue/tests/interop/seal.rs` asks it to.
#[tokio::test]
async fn the_key_of_seals_makes_the_golden_seal_outside_too() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/python/golden/seal.json");
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let text = |path: &str| golden.pointer(path).unwrap().as_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let keys = FileKeyring::open(dir.path(), Some(Secret::new(text("/master_key")))).await.unwrap();
    let (id, key) = keys.export_seal_key().unwrap();
    assert_eq!((id.as_str(), key.expose()), (text("/key_id"), text("/seal_key")));
    assert!(!format!("{key:?} {keys:?}").contains(text("/seal_key")));

    let mut principal = Principal::employee("acme", "ana", "analyst").unwrap();
    principal = principal.with_user(UserId::parse(text("/principal/user")).unwrap());
    principal = principal.with_security_level(SecurityLevel::Confidential);
    for flag in ["gdpr", "hipaa"] {
        principal = principal.with_compliance_flag(Slug::parse(flag).unwrap());
    }
    let bo = Principal::employee("acme", "bo", "lawyer").unwrap();
    let ctx = ExecutionContext::issue(bo, RequestId::parse(text("/context/request_id")).unwrap());
    let ctx = ctx.with_case(CaseId::parse(text("/context/case_id")).unwrap());
    let ctx = ctx.with_session(SessionId::parse(text("/context/session_id")).unwrap()).on_behalf(principal).unwrap();
    let bound = SealedFor {
        id: text("/task/task_id").to_owned(),
        name: text("/task/name").to_owned(),
        queue: text("/task/queue").to_owned(),
        body: Digest::of(text("/task/body").as_bytes()),
    };
    let (issued, until) = (text("/issued").parse().unwrap(), text("/not_after").parse().unwrap());
    let sealed = SealedContext::seal(&ctx, bound, &keys, issued, until).unwrap();
    assert_eq!(serde_json::to_value(sealed).unwrap(), golden["sealed"]);

    let after = keys.rotate_seal_key().await.unwrap();
    assert_eq!(keys.export_seal_key().unwrap().0, after, "after a rotation it is another");
}
