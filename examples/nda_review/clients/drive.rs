//! Google Drive v3: one file of the tenant's own folders, checked, into the blob store.
//!
//! Source: <https://developers.google.com/workspace/drive/api/reference/rest/v3/files>.

use std::collections::HashMap;

use async_trait::async_trait;
use forge::core::blob::BlobRef;
use forge::core::secret::{Secret, SecretRef};
use forge::core::{Retryability, TenantId};
use forge::prelude::*;
use forge_http::{HttpClient, Request, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::google_auth::Tokens;

/// Largest file that is fetched.
const MAX_BYTES: u64 = 25 * 1024 * 1024;
const FIELDS: &str = "id,name,mimeType,size,sha256Checksum,trashed,parents,capabilities(canDownload),shortcutDetails";
const WORD: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const SHORTCUT: &str = "application/vnd.google-apps.shortcut";

/// What a tenant's Drive is to us.
#[derive(Debug, Clone)]
pub struct DriveAccount {
    /// Where the key file of the service account is.
    pub key_file: SecretRef,
    /// The folders that files may come from; nothing outside them is fetched, whatever the account can see.
    pub folders: Vec<String>,
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
    /// The type that Drive says it has; the parser looks for itself.
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
        if !found.parents.iter().any(|p| account.folders.contains(p)) {
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
        let size: Option<u64> = found.size.as_deref().and_then(|s| s.parse().ok());
        if size.is_some_and(|s| s > MAX_BYTES) {
            return Err(Error::invalid("drive.fetch", "the file is too large").with("limit", MAX_BYTES.to_string()));
        }
        let native = found.mime_type.starts_with("application/vnd.google-apps.");
        let request = || match native {
            true => Ok(self.url(&found.id)?.segment("export").query("mimeType", WORD)),
            false => Ok(self.url(&found.id)?.query("alt", "media").query("supportsAllDrives", "true")),
        };
        let answer = self.ask(ctx, &call, &key_file, "drive.download", request).await?;
        let bytes = answer.body().clone();
        let sha256 = hex(&Sha256::digest(&bytes));
        let wrong = |what: &'static str| {
            Err(Error::new(ErrorKind::Corrupt, "drive.fetch", what).with_retry(Retryability::Transient))
        };
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if !native && size.is_some_and(|s| s != length) {
            return wrong("the download is shorter or longer than the file");
        }
        if !native && found.sha256_checksum.as_ref().is_some_and(|c| *c != sha256) {
            return wrong("the download has another digest than the file");
        }
        let blob = call.env().blobs.put(ctx, bytes).await?;
        let fetched = Fetched { blob, name: found.name, mime_type: found.mime_type, sha256, size: length };
        serde_json::to_value(fetched)
            .map(Into::into)
            .map_err(|e| Error::unexpected("drive.fetch", "the answer does not serialise").with_source(e))
    }
}

/// Google says "slow down" with 403 too.
fn accept(operation: &'static str, answer: Response) -> Result<Response> {
    let reason = || -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(answer.body()).ok()?;
        Some(body.pointer("/error/errors/0/reason")?.as_str()?.to_owned())
    };
    if answer.status() == 403 && reason().is_some_and(|r| r == "rateLimitExceeded" || r == "userRateLimitExceeded") {
        let retry = answer.retry_after().map_or(Retryability::Transient, Retryability::After);
        return Err(Error::new(ErrorKind::RateLimited, operation, "google asks for fewer calls").with_retry(retry));
    }
    answer.success(operation)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
