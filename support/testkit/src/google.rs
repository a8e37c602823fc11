//! Google: the OAuth token endpoint for service accounts and the part of Drive v3 that reads files.
//!
//! Sources: <https://developers.google.com/identity/protocols/oauth2/service-account> and
//! <https://developers.google.com/workspace/drive/api/reference/rest/v3/files>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use axum::extract::{Form, Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use forge_core::{Clock, SystemClock};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use rsa::traits::PublicKeyParts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fault::Fault;
use crate::record::{Record, Recorded};
use crate::serve::{Serving, faulty, refusal, serve};

/// `application/pdf`
pub const PDF: &str = "application/pdf";
/// Word's type.
pub const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
/// `text/plain`
pub const TEXT: &str = "text/plain";

const SHORTCUT: &str = "application/vnd.google-apps.shortcut";
const TOKEN_LIFE: u64 = 3600;

/// The server. Dropping it ends it.
pub struct GoogleStandIn {
    shared: Arc<Shared>,
    serving: Serving,
    keys: PathBuf,
    files: PathBuf,
}

struct Shared {
    record: Record,
    state: Mutex<Drive>,
}

#[derive(Default)]
struct Drive {
    accounts: BTreeMap<String, RsaPrivateKey>,
    /// Token to account and to the second at which it ends.
    tokens: BTreeMap<String, (String, u64)>,
    issued: u64,
    /// Folder to the accounts that it is shared with.
    folders: BTreeMap<String, BTreeSet<String>>,
    files: BTreeMap<String, Stored>,
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

impl Shared {
    fn drive(&self) -> MutexGuard<'_, Drive> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    u64::try_from(SystemClock.now().as_millis() / 1000).unwrap_or(0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl GoogleStandIn {
    /// Starts it; `record` is the file of what it receives, keys rest beside it.
    ///
    /// # Errors
    /// If the port or the file cannot be had.
    pub async fn start(record: impl AsRef<Path>, faults: Vec<Fault>) -> std::io::Result<Self> {
        let path = record.as_ref();
        let files = path.with_extension("files");
        std::fs::create_dir_all(&files)?;
        let drive = Drive { files: load(&files)?, ..Drive::default() };
        let shared = Arc::new(Shared { record: Record::open(path, faults)?, state: Mutex::new(drive) });
        let app = Router::new()
            .route("/token", post(token))
            .route("/drive/v3/files/{id}", get(file))
            .route("/drive/v3/files/{id}/export", get(export))
            .with_state(shared.clone());
        Ok(Self { shared, serving: serve(app).await?, keys: path.with_extension("keys"), files })
    }

    /// Keeps a file, on the disk too: the next process finds it, as it would at Google.
    fn keep(&self, id: &str, stored: Stored) {
        let write = || -> std::io::Result<()> {
            // the bytes first: what has a description is whole
            std::fs::write(self.files.join(id), &stored.bytes)?;
            std::fs::write(self.files.join(format!("{id}.json")), serde_json::to_vec(&stored)?)
        };
        write().expect("the stand-in's files can be written");
        self.shared.drive().files.insert(id.to_owned(), stored);
    }

    /// `http://127.0.0.1:PORT`
    pub fn base_url(&self) -> String {
        format!("http://{}", self.serving.address)
    }

    /// A service account's key file, as Google's console gives it. The key is made once and kept beside the record.
    ///
    /// # Errors
    /// If the key cannot be kept.
    pub fn service_account(&self, email: &str) -> std::io::Result<String> {
        std::fs::create_dir_all(&self.keys)?;
        let path = self.keys.join(format!("{email}.pem"));
        let pem = match std::fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(_) => {
                let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).map_err(std::io::Error::other)?;
                let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(std::io::Error::other)?.to_string();
                std::fs::write(&path, &pem)?;
                #[cfg(unix)]
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
                pem
            }
        };
        let key = RsaPrivateKey::from_pkcs8_pem(&pem).map_err(std::io::Error::other)?;
        let id = hex(&Sha256::digest(key.n().to_bytes_be())[..20]);
        self.shared.drive().accounts.insert(email.to_owned(), key);
        let account = json!({
            "type": "service_account",
            "private_key_id": id,
            "private_key": pem,
            "client_email": email,
            "token_uri": format!("{}/token", self.base_url()),
        });
        Ok(account.to_string())
    }

    /// Shares a folder with an account.
    pub fn share(&self, folder: &str, email: &str) {
        self.shared.drive().folders.entry(folder.to_owned()).or_default().insert(email.to_owned());
    }

    /// Puts a file into a folder; the id is the same for the same folder, name and contents.
    pub fn add_file(&self, folder: &str, name: &str, mime: &str, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let id = id(&[folder.as_bytes(), name.as_bytes(), &bytes]);
        let stored = Stored {
            name: name.into(),
            mime: mime.into(),
            folder: folder.into(),
            bytes,
            target: None,
            trashed: false,
            sha256: None,
        };
        self.keep(&id, stored);
        id
    }

    /// Puts a shortcut to another file into a folder.
    pub fn add_shortcut(&self, folder: &str, name: &str, target: &str) -> String {
        let id = id(&[folder.as_bytes(), name.as_bytes(), target.as_bytes()]);
        let stored = Stored {
            name: name.into(),
            mime: SHORTCUT.into(),
            folder: folder.into(),
            bytes: Bytes::new(),
            target: Some(target.into()),
            trashed: false,
            sha256: None,
        };
        self.keep(&id, stored);
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
        // one that a crash tore was never handed out
        let Ok(mut stored) = serde_json::from_slice::<Stored>(&std::fs::read(&path)?) else { continue };
        stored.bytes = std::fs::read(dir.join(id))?.into();
        files.insert(id.to_owned(), stored);
    }
    Ok(files)
}

fn id(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for p in parts {
        hash.update(p.len().to_be_bytes());
        hash.update(p);
    }
    URL_SAFE_NO_PAD.encode(&hash.finalize()[..24])
}

/// RFC 7523 as Google speaks it.
async fn token(State(shared): State<Arc<Shared>>, Form(form): Form<BTreeMap<String, String>>) -> Response {
    let (nth, play) = shared.record.next("token");
    let log = |who: Option<String>, outcome: &str| {
        let request = json!({ "grant_type": form.get("grant_type") });
        shared.record.append(Recorded {
            route: "token".into(),
            nth,
            who,
            request,
            outcome: outcome.into(),
            effect: None,
        });
    };
    if let Some(refused) = refusal(play, |_| json!({ "error": "temporarily_unavailable" })) {
        log(None, "fault");
        return refused;
    }
    match grant(&shared, &form) {
        Ok((account, token)) => {
            log(Some(account), "ok");
            let answer = Json(json!({ "access_token": token, "expires_in": TOKEN_LIFE - 1, "token_type": "Bearer" }))
                .into_response();
            faulty(play, answer).await
        }
        Err(why) => {
            log(None, why);
            (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant", "error_description": why })))
                .into_response()
        }
    }
}

fn grant(shared: &Shared, form: &BTreeMap<String, String>) -> Result<(String, String), &'static str> {
    if form.get("grant_type").map(String::as_str) != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return Err("unsupported_grant_type");
    }
    let assertion = form.get("assertion").ok_or("no assertion")?;
    let mut parts = assertion.split('.');
    let (Some(head), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("the assertion is no JWT");
    };
    let json = |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
    let (header, claims) = (json(head).ok_or("the header is no JSON")?, json(body).ok_or("the claims are no JSON")?);
    if header["alg"] != "RS256" {
        return Err("the algorithm is not RS256");
    }
    let account = claims["iss"].as_str().ok_or("no issuer")?.to_owned();
    let mut drive = shared.drive();
    let key = drive.accounts.get(&account).ok_or("unknown account")?;
    let public = RsaPublicKeyComponents { n: key.n().to_bytes_be(), e: key.e().to_bytes_be() };
    let signed = format!("{head}.{body}");
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "the signature is not base64url")?;
    public
        .verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
        .map_err(|_| "the signature is not the account's")?;
    let (iat, exp) = (claims["iat"].as_u64().ok_or("no iat")?, claims["exp"].as_u64().ok_or("no exp")?);
    let now = now();
    if iat > now + 60 || exp <= now || exp > iat + 3600 {
        return Err("iat and exp are not within an hour of now");
    }
    if !claims["aud"].as_str().is_some_and(|a| a.ends_with("/token")) {
        return Err("the audience is not the token endpoint");
    }
    if !claims["scope"].as_str().is_some_and(|s| s.split(' ').any(|s| s.ends_with("/auth/drive.readonly"))) {
        return Err("the scope does not allow reading");
    }
    drive.issued += 1;
    let token = format!(
        "ya29.{}",
        id(&[account.as_bytes(), &drive.issued.to_be_bytes(), &SystemClock.now().as_nanos().to_be_bytes()])
    );
    drive.tokens.insert(token.clone(), (account.clone(), now + TOKEN_LIFE));
    Ok((account, token))
}

fn account(drive: &Drive, headers: &HeaderMap) -> Option<String> {
    let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    drive.tokens.get(token).filter(|(_, ends)| *ends > now()).map(|(account, _)| account.clone())
}

fn problem(code: u16, reason: &str) -> Value {
    json!({ "error": { "code": code, "message": reason, "errors": [{ "domain": "global", "reason": reason, "message": reason }] } })
}

/// Metadata, or with `alt=media` the bytes.
async fn file(
    State(shared): State<Arc<Shared>>,
    UrlPath(id): UrlPath<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let media = query.get("alt").is_some_and(|a| a == "media");
    answer(&shared, if media { "files.download" } else { "files.get" }, &id, &headers, |f| {
        if f.target.is_some() && media {
            return (StatusCode::FORBIDDEN, Json(problem(403, "fileNotDownloadable"))).into_response();
        }
        if media {
            ([(header::CONTENT_TYPE, f.mime.clone())], f.bytes.clone()).into_response()
        } else {
            Json(metadata(&id, f)).into_response()
        }
    })
    .await
}

async fn export(State(shared): State<Arc<Shared>>, UrlPath(id): UrlPath<String>, headers: HeaderMap) -> Response {
    answer(&shared, "files.export", &id, &headers, |f| {
        let native = f.mime.starts_with("application/vnd.google-apps.");
        if native {
            f.bytes.clone().into_response()
        } else {
            (StatusCode::FORBIDDEN, Json(problem(403, "fileNotExportable"))).into_response()
        }
    })
    .await
}

fn metadata(id: &str, f: &Stored) -> Value {
    let mut m = json!({
        "kind": "drive#file", "id": id, "name": f.name, "mimeType": f.mime, "parents": [f.folder], "trashed": f.trashed,
        "version": "1", "modifiedTime": "2026-01-05T09:00:00.000Z", "capabilities": { "canDownload": true },
    });
    if let Some(target) = &f.target {
        m["shortcutDetails"] = json!({ "targetId": target, "targetMimeType": PDF });
    } else {
        m["size"] = json!(f.bytes.len().to_string());
        m["sha256Checksum"] = json!(f.sha256.clone().unwrap_or_else(|| hex(&Sha256::digest(&f.bytes))));
    }
    m
}

async fn answer(
    shared: &Shared,
    route: &'static str,
    id: &str,
    headers: &HeaderMap,
    good: impl FnOnce(&Stored) -> Response,
) -> Response {
    let (nth, play) = shared.record.next(route);
    let (who, found) = {
        let drive = shared.drive();
        let who = account(&drive, headers);
        let shared_with =
            |f: &&Stored| who.as_ref().is_some_and(|w| drive.folders.get(&f.folder).is_some_and(|a| a.contains(w)));
        (who.clone(), drive.files.get(id).filter(shared_with).cloned())
    };
    let log = |outcome: &str| {
        shared.record.append(Recorded {
            route: route.into(),
            nth,
            who: who.clone(),
            request: json!({ "file": id }),
            outcome: outcome.into(),
            effect: None,
        });
    };
    if let Some(refused) =
        refusal(play, |code| problem(code, if code == 429 { "rateLimitExceeded" } else { "backendError" }))
    {
        log("fault");
        return refused;
    }
    if who.is_none() {
        log("authError");
        return (StatusCode::UNAUTHORIZED, Json(problem(401, "authError"))).into_response();
    }
    let Some(found) = found else {
        log("notFound");
        return (StatusCode::NOT_FOUND, Json(problem(404, "notFound"))).into_response();
    };
    log("ok");
    faulty(play, good(&found)).await
}
