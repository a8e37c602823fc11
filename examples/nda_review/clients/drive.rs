//! Google Drive v3: one file of the tenant's own folders, checked, into the blob store.
//!
//! What the tenant's account can see is not what the tenant owns: a folder may be shared by mistake, and a shortcut may point anywhere.
//! So the folder of the file itself decides, and the bytes must be the ones that Drive describes.
//! Source: <https://developers.google.com/workspace/drive/api/reference/rest/v3/files>.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use bytes::Bytes;
use forge::core::blob::BlobRef;
use forge::core::secret::{Secret, SecretRef};
use forge::core::{Retryability, TenantId};
use forge::prelude::*;
use forge_http::{HttpClient, Request, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::google_auth::Tokens;

/// Largest file that is fetched.
const MAX_BYTES: u64 = 25 * 1024 * 1024;
const FIELDS: &str = "id,name,mimeType,size,sha256Checksum,trashed,parents,capabilities(canDownload),shortcutDetails";
/// Types of what is no file: documents of Google's editors, folders, shortcuts.
const NATIVE: &str = "application/vnd.google-apps.";
const WORD: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const GOOGLE_DOC: &str = "application/vnd.google-apps.document";
const SHORTCUT: &str = "application/vnd.google-apps.shortcut";

/// What a tenant's Drive is to us.
#[derive(Debug, Clone)]
pub struct DriveAccount {
    /// Where the key file of the service account is.
    pub key_file: SecretRef,
    /// The folders, or roots of shared drives, that files may lie in; nothing outside them, nor in folders below them, is fetched,
    /// whatever the account can see.
    /// Each has the tags of the documents in it, by which the policy decides who may read them.
    pub folders: BTreeMap<String, Vec<String>>,
}

/// The tool `drive_fetch`.
#[derive(Debug)]
pub struct DriveFetch {
    http: HttpClient,
    base_url: String,
    accounts: HashMap<TenantId, DriveAccount>,
    tokens: Tokens,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    /// The file's id in Drive.
    file: String,
}

/// What `drive_fetch` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fetched {
    /// The bytes, in the blob store.
    pub blob: BlobRef,
    /// The file's name.
    pub name: String,
    /// The type that Drive says the bytes have; the parser looks for itself.
    pub mime_type: String,
    /// Of the bytes, checked.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    id: String,
    name: String,
    mime_type: String,
    size: Option<String>,
    sha256_checksum: Option<String>,
    #[serde(default)]
    trashed: bool,
    #[serde(default)]
    parents: Vec<String>,
    capabilities: Option<Capabilities>,
    shortcut_details: Option<Shortcut>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    can_download: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shortcut {
    target_id: String,
}

impl DriveFetch {
    /// A client for `https://www.googleapis.com`, or what stands in for it.
    pub fn new(http: HttpClient, base_url: impl Into<String>, accounts: HashMap<TenantId, DriveAccount>) -> Self {
        Self { http, base_url: base_url.into(), accounts, tokens: Tokens::default() }
    }

    fn url(&self, id: &str) -> Result<Request> {
        Ok(Request::get(format!("{}/drive/v3/files", self.base_url))?.segment(id))
    }

    /// One request with the tenant's token; a token that is not accepted is renewed once.
    async fn ask(
        &self,
        ctx: &ExecutionContext,
        call: &ToolCall,
        key_file: &Secret,
        operation: &'static str,
        request: impl Fn() -> Result<Request>,
    ) -> Result<Response> {
        let clock = call.env().clock.as_ref();
        let token = self.tokens.get(ctx, &self.http, key_file, clock).await?;
        let answer = self.http.send(ctx, operation, request()?.bearer(token)).await?;
        if answer.status() != 401 {
            return accept(operation, answer);
        }
        self.tokens.forget(ctx.tenant());
        let token = self.tokens.get(ctx, &self.http, key_file, clock).await?;
        accept(operation, self.http.send(ctx, operation, request()?.bearer(token)).await?)
    }

    /// The metadata of a file in one of the tenant's folders.
    async fn metadata(
        &self,
        ctx: &ExecutionContext,
        call: &ToolCall,
        account: &DriveAccount,
        key_file: &Secret,
        id: &str,
    ) -> Result<Metadata> {
        let request = || Ok(self.url(id)?.query("fields", FIELDS).query("supportsAllDrives", "true"));
        let found: Metadata = self.ask(ctx, call, key_file, "drive.metadata", request).await?.json("drive.metadata")?;
        if !found.parents.iter().any(|p| account.folders.contains_key(p)) {
            return Err(Error::new(
                ErrorKind::TenantMismatch,
                "drive.fetch",
                "the file is in none of the tenant's folders",
            ));
        }
        if found.trashed {
            return Err(Error::not_found("drive.fetch", "the file is in the trash"));
        }
        if found.capabilities.as_ref().is_some_and(|c| !c.can_download) {
            return Err(Error::new(ErrorKind::Unauthenticated, "drive.fetch", "the file may not be downloaded"));
        }
        Ok(found)
    }

    /// The bytes of a file, as its metadata describe them; a document of Google's own editor as Word's.
    async fn download(
        &self,
        ctx: &ExecutionContext,
        call: &ToolCall,
        key_file: &Secret,
        file: &Metadata,
    ) -> Result<Bytes> {
        let size: Option<u64> = file.size.as_deref().and_then(|s| s.parse().ok());
        if size.is_some_and(|s| s > MAX_BYTES) {
            return Err(Error::invalid("drive.fetch", "the file is too large").with("limit", MAX_BYTES.to_string()));
        }
        let limit = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
        let request = || -> Result<Request> {
            let at = self.url(&file.id)?.max_body(limit);
            match file.mime_type.as_str() {
                GOOGLE_DOC => Ok(at.segment("export").query("mimeType", WORD)),
                mime if mime.starts_with(NATIVE) => Err(Error::invalid(
                    "drive.fetch",
                    "it has no bytes of its own; give it in a file format such as PDF or DOCX",
                )),
                _ => Ok(at.query("alt", "media").query("supportsAllDrives", "true")),
            }
        };
        let answer = self.ask(ctx, call, key_file, "drive.download", request).await?;
        let bytes = answer.body();
        // an export has neither size nor digest of its own; anything else may have been cut off, or changed meanwhile
        let wrong = |what: &'static str| {
            Err(Error::new(ErrorKind::Corrupt, "drive.fetch", what).with_retry(Retryability::Transient))
        };
        if file.mime_type != GOOGLE_DOC && size.is_some_and(|s| u64::try_from(bytes.len()) != Ok(s)) {
            return wrong("the download is shorter or longer than the file");
        }
        if file.sha256_checksum.as_ref().is_some_and(|c| *c != hex(&Sha256::digest(bytes))) {
            return wrong("the download has another digest than the file");
        }
        Ok(bytes.clone())
    }
}

#[async_trait]
impl Tool for DriveFetch {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("drive_fetch", "fetches a file of the tenant's Drive folders")
            .input::<Args>()
            .effect(Effect::Read)
            .resource_field("file")
    }

    async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let Args { file } = call.args()?;
        let account = self
            .accounts
            .get(ctx.tenant())
            .ok_or_else(|| Error::not_found("drive.fetch", "the tenant has no Drive account"))?;
        let key_file = call.env().secrets.fetch(&account.key_file).await?;
        let mut found = self.metadata(ctx, &call, account, &key_file, &file).await?;
        if found.mime_type == SHORTCUT {
            // followed once; what it points to must be the tenant's too
            let target = found
                .shortcut_details
                .ok_or_else(|| Error::unexpected("drive.fetch", "the shortcut has no target"))?
                .target_id;
            found = self.metadata(ctx, &call, account, &key_file, &target).await?;
        }
        let bytes = self.download(ctx, &call, &key_file, &found).await?;
        let tags: Vec<String> =
            found.parents.iter().filter_map(|p| account.folders.get(p)).flatten().cloned().collect();
        let fetched = Fetched {
            sha256: hex(&Sha256::digest(&bytes)),
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            blob: call.env().blobs.put(ctx, bytes).await?,
            name: found.name,
            mime_type: if found.mime_type == GOOGLE_DOC { WORD.to_owned() } else { found.mime_type },
        };
        serde_json::to_value(fetched)
            .map(|fetched| ToolOutput::from(fetched).with_documents(tags))
            .map_err(|e| Error::unexpected("drive.fetch", "the answer does not serialise").with_source(e))
    }
}

/// Google says "slow down" with 403 too, and names a reason for every refusal.
fn accept(operation: &'static str, answer: Response) -> Result<Response> {
    if (200..300).contains(&answer.status()) {
        return Ok(answer);
    }
    let body: Option<Value> = serde_json::from_slice(answer.body()).ok();
    let reason = body.as_ref().and_then(|b| b.pointer("/error/errors/0/reason")).and_then(Value::as_str);
    // a word of Google's list; anything else is not repeated
    let reason = reason.filter(|r| r.len() <= 64 && r.bytes().all(|b| b.is_ascii_alphabetic()));
    let e = match (answer.status(), reason) {
        (403, Some("rateLimitExceeded" | "userRateLimitExceeded")) => {
            let retry = answer.retry_after().map_or(Retryability::Transient, Retryability::After);
            Error::new(ErrorKind::RateLimited, operation, "google asks for fewer calls").with_retry(retry)
        }
        (403, Some("exportSizeLimitExceeded")) => Error::invalid(
            operation,
            "the document is larger than google exports; put it into the folder in a file format such as DOCX",
        ),
        _ => answer.error(operation),
    };
    Err(match reason {
        Some(r) => e.with("reason", r.to_owned()),
        None => e,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
