//! Blobs as files: `<dir>/<tenant>/<keyed digest>`, encrypted, each written once.
//!
//! A blob appears under its name complete or not at all (temporary file, `fsync`, rename, `fsync` of the directory), so a
//! crash leaves at most a temporary file, which the next open takes away. Several processes may share the directory.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! # use std::sync::Arc;
//! # let dir = tempfile::tempdir().unwrap();
//! use forge_core::blob::BlobStore;
//! use forge_core::{SystemClock, fake::FakeKeyring, testing::context};
//! use forge_queue::blob::FileBlobs;
//!
//! let blobs = FileBlobs::open(dir.path(), Arc::new(FakeKeyring), Arc::new(SystemClock)).await?;
//! let ctx = context("acme", "ana", "analyst");
//! let reference = blobs.put(&ctx, "a contract".into()).await?;
//! assert_eq!(blobs.get(&ctx, &reference).await?, "a contract");
//! # Ok::<(), forge_core::Error>(()) }).unwrap();
//! ```

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use forge_core::blob::{BlobCapability, BlobRef, BlobStore};
use forge_core::keyring::Keyring;
use forge_core::{
    Clock, Depth, Digest, Error, ErrorKind, EventId, ExecutionContext, Health, HealthCheck, Result, TenantId,
};

const MAX: u64 = 64 * 1024 * 1024;
/// A write that takes longer than this is a crashed one.
const ABANDONED: Duration = Duration::from_secs(3600);
const TEMPORARY: &str = ".tmp";

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct FileBlobs(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    keyring: Arc<dyn Keyring>,
    clock: Arc<dyn Clock>,
}

impl FileBlobs {
    /// Opens the directory, or makes it (mode 0700), and takes away what a crash left half written.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be made or read.
    pub async fn open(dir: impl Into<PathBuf>, keyring: Arc<dyn Keyring>, clock: Arc<dyn Clock>) -> Result<Self> {
        let inner = Arc::new(Inner { dir: dir.into(), keyring, clock });
        let it = inner.clone();
        blocking("blob.open", move || it.prepare().map_err(failed("blob.open"))).await?;
        Ok(Self(inner))
    }

    /// Deletes every blob of the tenant and returns how many there were. Destroying the tenant's keys reaches backups too.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn purge(&self, ctx: &ExecutionContext) -> Result<u64> {
        let dir = self.0.dir.join(ctx.tenant().as_str());
        let purge = move || -> io::Result<u64> {
            let entries = match fs::read_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
                entries => entries?,
            };
            let mut gone = 0;
            for entry in entries {
                let path = entry?.path();
                fs::remove_file(&path)?;
                gone += u64::from(!is_temporary(&path));
            }
            sync_dir(&dir)?;
            Ok(gone)
        };
        blocking("blob.purge", move || purge().map_err(failed("blob.purge"))).await
    }
}

impl Inner {
    fn prepare(&self) -> io::Result<()> {
        make_dir(&self.dir)?;
        let now = Duration::from_nanos(u64::try_from(self.clock.now().as_nanos()).unwrap_or(0));
        for tenant in fs::read_dir(&self.dir)? {
            let tenant = tenant?;
            if !tenant.file_type()?.is_dir() {
                continue;
            }
            for entry in fs::read_dir(tenant.path())? {
                let path = entry?.path();
                if is_temporary(&path) {
                    // another process may be doing the same
                    match remove_abandoned(&path, now) {
                        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn path(&self, tenant: &TenantId, digest: &Digest) -> PathBuf {
        self.dir.join(tenant.as_str()).join(digest.to_string())
    }

    fn put(&self, tenant: &TenantId, contents: &[u8]) -> Result<BlobRef> {
        let digest = self.keyring.digest(tenant, contents)?;
        let reference = BlobRef { digest, size: u64::try_from(contents.len()).unwrap_or(u64::MAX) };
        // a damaged copy is written anew, for whoever puts holds the contents
        if self.get(tenant, &reference).is_ok() {
            return Ok(reference);
        }
        let sealed = self.keyring.encrypt(tenant, &place(tenant, &digest), contents)?;
        let path = self.path(tenant, &digest);
        self.write(&path, &sealed).map_err(failed("blob.put"))?;
        Ok(reference)
    }

    fn write(&self, path: &Path, sealed: &[u8]) -> io::Result<()> {
        let dir = path.parent().unwrap_or(&self.dir);
        if make_dir(dir)? {
            sync_dir(&self.dir)?;
        }
        let temporary = dir.join(format!("{}{TEMPORARY}", EventId::random(self.clock.now())));
        let written = (|| {
            let mut file = private(OpenOptions::new().write(true).create_new(true)).open(&temporary)?;
            file.write_all(sealed)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        })();
        if let Err(e) = written {
            // best effort: the next open takes away what is left
            let _ = fs::remove_file(&temporary);
            return Err(e);
        }
        sync_dir(dir)
    }

    fn get(&self, tenant: &TenantId, blob: &BlobRef) -> Result<Vec<u8>> {
        let sealed = match fs::read(self.path(tenant, &blob.digest)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
            sealed => sealed.map_err(failed("blob.get"))?,
        };
        let contents = self.keyring.decrypt(tenant, &place(tenant, &blob.digest), &sealed)?;
        // the reference does not denote this blob
        if u64::try_from(contents.len()).ok() != Some(blob.size) {
            return Err(missing());
        }
        Ok(contents)
    }

    fn delete(&self, tenant: &TenantId, digest: &Digest) -> io::Result<bool> {
        let path = self.path(tenant, digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            gone => gone?,
        }
        sync_dir(path.parent().unwrap_or(&self.dir))?;
        Ok(true)
    }

    fn probe(&self) -> io::Result<()> {
        let path = self.dir.join(format!("{}{TEMPORARY}", EventId::random(self.clock.now())));
        let mut file = private(OpenOptions::new().write(true).create_new(true)).open(&path)?;
        let written = file.write_all(b"probe").and_then(|()| file.sync_all());
        fs::remove_file(&path)?;
        written
    }
}

#[async_trait]
impl BlobStore for FileBlobs {
    async fn put(&self, ctx: &ExecutionContext, contents: Bytes) -> Result<BlobRef> {
        let size = u64::try_from(contents.len()).unwrap_or(u64::MAX);
        if size > MAX {
            return Err(Error::invalid("blob.put", "the blob is too large")
                .with("bytes", size.to_string())
                .with("max", MAX.to_string()));
        }
        let (it, tenant) = (self.0.clone(), ctx.tenant().clone());
        it.keyring.load(&tenant).await?;
        blocking("blob.put", move || it.put(&tenant, &contents)).await
    }

    async fn get(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<Bytes> {
        let (it, tenant, blob) = (self.0.clone(), ctx.tenant().clone(), blob.clone());
        it.keyring.load(&tenant).await?;
        blocking("blob.get", move || it.get(&tenant, &blob).map(Bytes::from)).await
    }

    async fn delete(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<bool> {
        let (it, tenant, digest) = (self.0.clone(), ctx.tenant().clone(), blob.digest);
        blocking("blob.delete", move || it.delete(&tenant, &digest).map_err(failed("blob.delete"))).await
    }

    fn capability(&self) -> BlobCapability {
        BlobCapability::new(true, true, MAX)
    }
}

#[async_trait]
impl HealthCheck for FileBlobs {
    async fn check(&self, depth: Depth) -> Health {
        let it = self.0.clone();
        let look = move || match depth {
            Depth::Shallow => fs::metadata(&it.dir).map(|_| ()),
            Depth::Deep => it.probe(),
        };
        match blocking("blob.check", move || look().map_err(failed("blob.check"))).await {
            Ok(()) => Health::up(),
            Err(e) => Health::down(e.to_string()),
        }
    }
}

impl fmt::Debug for FileBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBlobs").finish_non_exhaustive()
    }
}

/// What the cipher binds a blob to.
fn place(tenant: &TenantId, digest: &Digest) -> Vec<u8> {
    Digest::of_parts(&[b"blob", tenant.as_str().as_bytes(), digest.as_bytes()]).as_bytes().to_vec()
}

fn missing() -> Error {
    Error::not_found("blob.get", "no such blob")
}

fn is_temporary(path: &Path) -> bool {
    path.to_string_lossy().ends_with(TEMPORARY)
}

fn remove_abandoned(path: &Path, now: Duration) -> io::Result<()> {
    let changed = fs::metadata(path)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    if changed + ABANDONED < now { fs::remove_file(path) } else { Ok(()) }
}

/// Makes a directory for the owner alone; tells whether it was made.
fn make_dir(dir: &Path) -> io::Result<bool> {
    if dir.is_dir() {
        return Ok(false);
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    Ok(true)
}

/// Readable by the owner alone.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Makes a rename or a removal durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    Ok(())
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |e| {
        let message = "the blob directory does not answer; check its owner, its mode and the space left";
        Error::new(ErrorKind::Unavailable, operation, message).with_adapter("files").with_source(e)
    }
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::unexpected(operation, "the work panicked or the runtime is stopping").with_source(e)),
    }
}
