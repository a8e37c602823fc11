//! Key files: made once, whole or not at all, readable by the owner only.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as Io, Read, Write};
use std::path::{Path, PathBuf};

use forge_core::{Error, ErrorKind, Result, Retryability, TenantId};
use zeroize::Zeroizing;

use super::cipher::{Key, TenantKeys, is_under, open, seal_bytes};
use super::seals::Rotation;

const MASTER: &str = "master.key";
/// Not a tenant's: a tenant's name has no full stop.
const SEALS: &str = "seal.state";
/// What the state of the seals is bound to. Not a tenant's name either.
const SEALS_PLACE: &[u8] = b"forge seal state";
/// Larger than any key file; what is larger is none.
const LARGEST: u64 = 4096;

/// Makes the directory of keys, for the owner only, if it is not there.
pub(super) fn make_dir(dir: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let made = builder.recursive(true).create(dir);
    made.map_err(|e| failed("keyring.open", "the directory of keys cannot be made; check owner and mode", e))
}

/// The master key of a directory, made if there is none.
pub(super) fn master(dir: &Path) -> Result<Key> {
    const OPERATION: &str = "keyring.open";
    let path = dir.join(MASTER);
    let corrupt = |what| Error::new(ErrorKind::Corrupt, OPERATION, what);
    // in this order: whoever made a tenant's keys made the master key before
    let wrapped = names(dir, OPERATION)?.iter().any(|n| n.ends_with(".keys") || n == SEALS);
    if !path.exists() {
        if wrapped {
            return Err(corrupt("the master key of these tenants' keys is gone; restore master.key, or pass the key"));
        }
        publish(dir, MASTER, Key::random()?.to_base64().as_bytes(), OPERATION)?;
    }
    let unread = |e| failed(OPERATION, "the master key cannot be read", e);
    let file = File::open(&path).map_err(unread)?;
    only_ours(&file)?;
    let bytes = contents(file).map_err(unread)?;
    let key = std::str::from_utf8(&bytes).ok().and_then(Key::from_base64);
    key.ok_or_else(|| corrupt("the file of the master key is damaged; restore it from a backup"))
}

/// Refuses a master key that opens no tenant's keys of this directory: said at the start, not at the first call of a tenant.
pub(super) fn fits(dir: &Path, master: &Key) -> Result<()> {
    const OPERATION: &str = "keyring.open";
    let mut others = 0;
    for name in names(dir, OPERATION)?.iter().filter(|n| n.ends_with(".keys")) {
        let read = File::open(dir.join(name)).and_then(contents);
        let blob = match read {
            // erased by another process between the two looks
            Err(e) if e.kind() == Io::NotFound => continue,
            read => read.map_err(|e| failed(OPERATION, "the tenants' keys cannot be read", e))?,
        };
        if is_under(master, &blob) {
            return Ok(());
        }
        others += 1;
    }
    if others == 0 {
        return Ok(());
    }
    let what = "no tenant's keys here are wrapped by this master key; give the one that they were made with, or restore damaged files";
    Err(Error::new(ErrorKind::Config, OPERATION, what).with("tenants", others.to_string()))
}

/// How far the key of seals was rotated.
pub(super) fn rotation(dir: &Path, master: &Key) -> Result<Rotation> {
    const OPERATION: &str = "keyring.open";
    let blob = match File::open(dir.join(SEALS)).and_then(contents) {
        Err(e) if e.kind() == Io::NotFound => return Ok(Rotation::default()),
        read => read.map_err(|e| failed(OPERATION, "the state of the seals cannot be read", e))?,
    };
    let corrupt = || {
        let what = "seal.state is damaged or wrapped by another master key; restore it from a backup";
        Error::new(ErrorKind::Corrupt, OPERATION, what)
    };
    let plain = open(master, SEALS_PLACE, &blob).map_err(|e| corrupt().with_source(e))?;
    Rotation::from_bytes(&plain).ok_or_else(corrupt)
}

/// Wrapped as keys are, so that a damaged file or another host's is told from a true one.
pub(super) fn keep_rotation(dir: &Path, master: &Key, rotation: Rotation) -> Result<()> {
    let blob = seal_bytes(master, SEALS_PLACE, &rotation.to_bytes())?;
    place(dir, SEALS, &blob, "keyring.rotate_seal_key", |from, to| std::fs::rename(from, to))
}

/// A tenant's keys, made if there are none. Of two processes that make them at once, one wins and both use its keys.
pub(super) fn tenant(dir: &Path, master: &Key, tenant: &TenantId) -> Result<TenantKeys> {
    const OPERATION: &str = "keyring.load";
    let name = file_name(tenant);
    let path = dir.join(&name);
    let aad = tenant.as_str().as_bytes();
    if !path.exists() {
        let blob = seal_bytes(master, aad, &TenantKeys::random()?.to_bytes())?;
        publish(dir, &name, &blob, OPERATION)?;
    }
    let blob =
        File::open(&path).and_then(contents).map_err(|e| failed(OPERATION, "the tenant's keys cannot be read", e))?;
    let corrupt = || {
        let what = "the tenant's key file is damaged or wrapped by another master key; restore it from a backup";
        Error::new(ErrorKind::Corrupt, OPERATION, what).with("tenant", tenant.to_string())
    };
    let plain = Zeroizing::new(open(master, aad, &blob).map_err(|e| corrupt().with_source(e))?);
    TenantKeys::from_bytes(&plain).ok_or_else(corrupt)
}

/// Deletes a tenant's key file and what an interrupted [`publish`] left of it; gone already is fine.
pub(super) fn erase(dir: &Path, tenant: &TenantId) -> Result<()> {
    const OPERATION: &str = "keyring.destroy";
    let name = file_name(tenant);
    let leftover = temporary_prefix(&name);
    for found in names(dir, OPERATION)?.iter().filter(|n| **n == name || n.starts_with(&leftover)) {
        match std::fs::remove_file(dir.join(found)) {
            Err(e) if e.kind() != Io::NotFound => {
                return Err(failed(OPERATION, "the tenant's keys cannot be deleted", e));
            }
            _ => {}
        }
    }
    sync_dir(dir, OPERATION)
}

/// A tenant's name has no full stop, so no two names here begin alike.
fn file_name(tenant: &TenantId) -> String {
    format!("{tenant}.keys")
}

fn temporary_prefix(name: &str) -> String {
    format!("{name}.tmp-")
}

/// Writes a file that is not there yet. Where another process was faster, its file stays.
fn publish(dir: &Path, name: &str, contents: &[u8], operation: &'static str) -> Result<()> {
    place(dir, name, contents, operation, |from, to| match std::fs::hard_link(from, to) {
        Err(e) if e.kind() != Io::AlreadyExists => Err(e),
        _ => std::fs::remove_file(from),
    })
}

/// Writes a temporary file, synced, and puts it under its name; of a failure nothing stays.
fn place(
    dir: &Path,
    name: &str,
    contents: &[u8],
    operation: &'static str,
    put: impl FnOnce(&Path, &Path) -> std::io::Result<()>,
) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let temporary = dir.join(format!("{}{:016x}", temporary_prefix(name), getrandom::u64()?));
        let written = write_new(&temporary, contents).and_then(|()| put(&temporary, &dir.join(name)));
        // the first failure is the one to tell
        written.inspect_err(|_| drop(std::fs::remove_file(&temporary)))
    };
    write().map_err(|e| failed(operation, "a key file cannot be written; check owner, mode and space", e))?;
    sync_dir(dir, operation)
}

fn write_new(path: &PathBuf, contents: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

fn contents(file: File) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // room for all of it at once: a buffer that grows leaves copies behind
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(LARGEST).unwrap_or(usize::MAX)));
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn names(dir: &Path, operation: &'static str) -> Result<Vec<String>> {
    let list = || -> std::io::Result<Vec<String>> {
        std::fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
    };
    list().map_err(|e| failed(operation, "the directory of keys cannot be listed", e))
}

fn sync_dir(dir: &Path, operation: &'static str) -> Result<()> {
    let synced = File::open(dir).and_then(|d| d.sync_all());
    synced.map_err(|e| failed(operation, "the directory of keys cannot be synced", e))
}

#[cfg(unix)]
fn only_ours(file: &File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let meta = file.metadata().map_err(|e| failed("keyring.open", "the master key cannot be read", e))?;
    let mode = meta.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, "keyring.open", "others may read the master key; set its mode to 0600")
        .with("mode", format!("{:04o}", mode & 0o7777)))
}

#[cfg(not(unix))]
fn only_ours(_: &File) -> Result<()> {
    Ok(())
}

fn failed(operation: &'static str, what: &'static str, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, operation, what).with_retry(Retryability::Never).with_source(e)
}
