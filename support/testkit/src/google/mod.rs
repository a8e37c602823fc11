//! Google: the OAuth token endpoint for service accounts and the part of Drive v3 that reads files.
//!
//! Sources: <https://developers.google.com/identity/protocols/oauth2/service-account> and
//! <https://developers.google.com/workspace/drive/api/reference/rest/v3/files>.

mod files;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use forge_core::{Clock, SystemClock};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use rsa::traits::PublicKeyParts;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::fault::Fault;
use crate::record::{Record, Recorded};
use crate::serve::{Serving, serve};

/// `application/pdf`
pub const PDF: &str = "application/pdf";
/// Word's type.
pub const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
/// `text/plain`
pub const TEXT: &str = "text/plain";
/// A document of Google's own editor: it has no bytes, it is exported.
pub const GOOGLE_DOC: &str = "application/vnd.google-apps.document";

const SHORTCUT: &str = "application/vnd.google-apps.shortcut";

/// The server. Dropping it ends it.
pub struct GoogleStandIn {
    shared: Arc<Shared>,
    serving: Serving,
    keys: PathBuf,
    files: PathBuf,
}

struct Shared {
    record: Record,
    /// The audience of an assertion; known once the port is.
    token_uri: OnceLock<String>,
    state: Mutex<Drive>,
}

#[derive(Default)]
struct Drive {
    accounts: BTreeMap<String, Account>,
    /// Token to account and to the second at which it ends.
    tokens: BTreeMap<String, (String, u64)>,
    issued: u64,
    /// Folder to the accounts that it is shared with.
    folders: BTreeMap<String, BTreeSet<String>>,
    files: BTreeMap<String, Stored>,
}

struct Account {
    key: RsaPrivateKey,
    key_id: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    name: String,
    mime: String,
    folder: String,
    /// Kept in a file of their own.
    #[serde(skip)]
    bytes: Bytes,
    target: Option<String>,
    trashed: bool,
    /// What the metadata say, where it is not the truth.
    sha256: Option<String>,
}

impl Stored {
    fn new(folder: &str, name: &str, mime: &str) -> Self {
        Self {
            name: name.into(),
            mime: mime.into(),
            folder: folder.into(),
            bytes: Bytes::new(),
            target: None,
            trashed: false,
            sha256: None,
        }
    }
}

impl Shared {
    fn drive(&self) -> MutexGuard<'_, Drive> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GoogleStandIn {
    /// Starts it; `record` is the file of what it receives, keys and files rest beside it.
    ///
    /// # Errors
    /// If the port or the file cannot be had.
    pub async fn start(record: impl AsRef<Path>, faults: Vec<Fault>) -> std::io::Result<Self> {
        let path = record.as_ref();
        let files = path.with_extension("files");
        std::fs::create_dir_all(&files)?;
        let drive = Drive { files: load(&files)?, ..Drive::default() };
        let (record, state) = (Record::open(path, faults)?, Mutex::new(drive));
        let shared = Arc::new(Shared { record, token_uri: OnceLock::new(), state });
        let app = Router::new()
            .route("/token", post(token::token))
            .route("/drive/v3/files/{id}", get(files::file))
            .route("/drive/v3/files/{id}/export", get(files::export))
            .with_state(shared.clone());
        let google = Self { shared, serving: serve(app).await?, keys: path.with_extension("keys"), files };
        google.shared.token_uri.get_or_init(|| format!("{}/token", google.base_url()));
        Ok(google)
    }

    /// `http://127.0.0.1:PORT`
    pub fn base_url(&self) -> String {
        format!("http://{}", self.serving.address)
    }

    /// A service account's key file, as Google's console gives it. The key is made once and kept beside the record, readable by its
    /// owner alone.
    ///
    /// # Errors
    /// If the key cannot be kept.
    pub fn service_account(&self, email: &str) -> std::io::Result<String> {
        let (pem, key) = self.key(email)?;
        let key_id = hex(&Sha256::digest(key.n().to_bytes_be())[..20]);
        let account = json!({
            "type": "service_account",
            "private_key_id": key_id,
            "private_key": pem,
            "client_email": email,
            "token_uri": self.shared.token_uri.get(),
        });
        self.shared.drive().accounts.insert(email.to_owned(), Account { key, key_id });
        Ok(account.to_string())
    }

    fn key(&self, email: &str) -> std::io::Result<(String, RsaPrivateKey)> {
        let other = std::io::Error::other::<rsa::pkcs8::Error>;
        let path = self.keys.join(format!("{}.pem", id(&[email.as_bytes()])));
        match std::fs::read_to_string(&path) {
            Ok(pem) => {
                let key = RsaPrivateKey::from_pkcs8_pem(&pem).map_err(other)?;
                return Ok((pem, key));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).map_err(std::io::Error::other)?;
        let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(other)?.to_string();
        std::fs::create_dir_all(&self.keys)?;
        write_whole(&path, pem.as_bytes())?;
        Ok((pem, key))
    }

    /// Shares a folder with an account.
    pub fn share(&self, folder: &str, email: &str) {
        self.shared.drive().folders.entry(folder.to_owned()).or_default().insert(email.to_owned());
    }

    /// Puts a file into a folder; the id is the same for the same folder, name and contents. The bytes of a [`GOOGLE_DOC`] are what
    /// its export gives.
    pub fn add_file(&self, folder: &str, name: &str, mime: &str, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let id = id(&[folder.as_bytes(), name.as_bytes(), &bytes]);
        self.keep(id, Stored { bytes, ..Stored::new(folder, name, mime) })
    }

    /// Puts a shortcut to another file into a folder.
    pub fn add_shortcut(&self, folder: &str, name: &str, target: &str) -> String {
        let id = id(&[folder.as_bytes(), name.as_bytes(), target.as_bytes()]);
        self.keep(id, Stored { target: Some(target.into()), ..Stored::new(folder, name, SHORTCUT) })
    }

    /// Keeps a file, on the disk too: the next process finds it, as it would at Google.
    fn keep(&self, id: String, stored: Stored) -> String {
        let description = serde_json::to_vec(&stored).expect("a description is JSON");
        // the bytes first: what has a description is whole
        write_whole(&self.files.join(&id), &stored.bytes)
            .and_then(|()| write_whole(&self.files.join(format!("{id}.json")), &description))
            .expect("the stand-in's files can be written");
        self.shared.drive().files.insert(id.clone(), stored);
        id
    }

    /// Makes the metadata of a file lie about its digest.
    pub fn spoil_digest(&self, id: &str) {
        if let Some(f) = self.shared.drive().files.get_mut(id) {
            f.sha256 = Some("0".repeat(64));
        }
    }

    /// Moves a file to the trash.
    pub fn trash(&self, id: &str) {
        if let Some(f) = self.shared.drive().files.get_mut(id) {
            f.trashed = true;
        }
    }

    /// Ends every token that was issued.
    pub fn expire_tokens(&self) {
        self.shared.drive().tokens.clear();
    }

    /// How many requests a route got, in earlier processes too; those that a fault refused count.
    pub fn requests(&self, route: &str) -> usize {
        self.shared.record.count(route)
    }

    /// What was received, by earlier processes too.
    pub fn received(&self) -> Vec<Recorded> {
        self.shared.record.all()
    }
}

/// The files that earlier processes kept.
fn load(dir: &Path) -> std::io::Result<BTreeMap<String, Stored>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(id) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".json")) else {
            continue;
        };
        let mut stored: Stored = serde_json::from_slice(&std::fs::read(&path)?)?;
        stored.bytes = std::fs::read(dir.join(id))?.into();
        files.insert(id.to_owned(), stored);
    }
    Ok(files)
}

/// Whole or not there, whenever the process dies; for its owner's eyes.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

fn id(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for p in parts {
        hash.update(p.len().to_be_bytes());
        hash.update(p);
    }
    URL_SAFE_NO_PAD.encode(&hash.finalize()[..24])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn now() -> u64 {
    u64::try_from(SystemClock.now().as_millis() / 1000).unwrap_or(0)
}
