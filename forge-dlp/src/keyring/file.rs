//! Key files: made once, whole or not at all, readable by the owner only.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use forge_core::{Error, ErrorKind, Result, Retryability, TenantId};
use zeroize::Zeroize;

use super::cipher::{Key, TenantKeys, open, seal_bytes};

/// The master key of a directory, made if there is none.
pub(super) fn master(dir: &Path) -> Result<Key> {
    let path = dir.join("master.key");
    if !path.exists() {
        publish(&path, Key::random()?.to_base64().as_bytes())?;
    }
    only_ours(&path)?;
    let mut text = std::fs::read_to_string(&path).map_err(|e| failed("the master key cannot be read", e))?;
    let key = Key::from_base64(&text);
    text.zeroize();
    key
}

pub(super) fn tenant_path(dir: &Path, tenant: &TenantId) -> PathBuf {
    dir.join(format!("{tenant}.keys"))
}

/// A tenant's keys, made if there are none. Of two processes that make them at once, one wins and both use its keys.
pub(super) fn tenant(dir: &Path, master: &Key, tenant: &TenantId) -> Result<TenantKeys> {
    let path = tenant_path(dir, tenant);
    let aad = tenant.as_str().as_bytes();
    if !path.exists() {
        let mut plain = TenantKeys::random()?.to_bytes();
        let blob = seal_bytes(master, aad, &plain);
        plain.zeroize();
        publish(&path, &blob?)?;
    }
    let blob = std::fs::read(&path).map_err(|e| failed("the tenant's keys cannot be read", e))?;
    let corrupt = || {
        let what = "the tenant's key file is damaged or wrapped by another master key; restore it from a backup";
        Error::new(ErrorKind::Corrupt, "keyring.load", what).with("tenant", tenant.to_string())
    };
    let mut plain = open(master, aad, &blob).map_err(|e| corrupt().with_source(e))?;
    let keys = if plain.len() == TenantKeys::SIZE { TenantKeys::from_bytes(&plain) } else { None };
    plain.zeroize();
    keys.ok_or_else(corrupt)
}

/// Deletes a key file; gone already is fine.
pub(super) fn erase(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("the tenant's keys cannot be deleted", e)),
        _ => sync_dir(path),
    }
}

/// Writes a file that is not there yet: a temporary one, synced, then linked under its name. Where another process was
/// faster, its file stays.
fn publish(path: &Path, contents: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension(format!("tmp-{:016x}", getrandom::u64()?));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        let linked = std::fs::hard_link(&temporary, path);
        std::fs::remove_file(&temporary)?;
        match linked {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    };
    write().map_err(|e| failed("a key file cannot be written; check owner, mode and space", e))?;
    sync_dir(path)
}

fn sync_dir(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed("the directory of keys cannot be synced", e))
}

#[cfg(unix)]
fn only_ours(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_err(|e| failed("the master key cannot be read", e))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, "keyring.open", "others may read the master key; set its mode to 0600")
        .with("mode", format!("{:04o}", mode & 0o7777)))
}

#[cfg(not(unix))]
fn only_ours(_: &Path) -> Result<()> {
    Ok(())
}

pub(super) fn failed(what: &'static str, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "keyring.load", what).with_retry(Retryability::Never).with_source(e)
}
