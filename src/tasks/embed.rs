//! A document becomes passages of its tenant's memory.
//!
//! Which passages a document has is written down before they are, and again when the old ones are gone: wherever a worker stops, the
//! next one finds all that may be there. So a task that is delivered again adds none twice, and a changed document leaves nothing of itself.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use forge_core::blob::{BlobRef, BlobStore};
use forge_core::guard::{Access, Guard};
use forge_core::keyring::Keyring;
use forge_core::kv::{KeyValue, PutMode, PutOptions};
use forge_core::queue::{Lease, NewTask, TaskHandler};
use forge_core::tool::Effect;
use forge_core::{
    EmployeeId, Error, ErrorKind, ExecutionContext, Namespace, OperationKey, Owner, Result, Retryability, Slug,
};
use forge_memory::{Memory, Passage, passages};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const OP: &str = "tasks.embed_document";
/// Bytes of a passage: a few paragraphs, and less than what models embed at once.
const PASSAGE: usize = 1200;
/// Bytes of a document; what it has must be written down in one value.
const DOCUMENT: usize = 8 * 1024 * 1024;

/// A document to be found again by meaning and by words, under the acting employee unless an owner is named.
///
/// The task answers `{"document_id", "passages", "added", "removed"}`. It needs `memory.write` of the memory type.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EmbedDocument {
    /// The document's own id, the same for every version of it.
    pub document_id: String,
    /// The kind of memory.
    pub memory_type: Slug,
    /// Whose memory: an employee's id, or `~` and the name of what the tenant shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// For people; the document's id where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What policies may know of every passage.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// The text, for a short document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Where the text is, as UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<BlobRef>,
}

impl EmbedDocument {
    /// The task's name.
    pub const NAME: &'static str = "process_document_embedding";

    /// A document whose text goes with the task.
    pub fn text(document_id: impl Into<String>, memory_type: Slug, text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..Self::new(document_id, memory_type) }
    }

    /// A document whose text is a blob of the tenant.
    pub fn blob(document_id: impl Into<String>, memory_type: Slug, blob: BlobRef) -> Self {
        Self { blob: Some(blob), ..Self::new(document_id, memory_type) }
    }

    fn new(document_id: impl Into<String>, memory_type: Slug) -> Self {
        let document_id = document_id.into();
        Self { document_id, memory_type, owner: None, title: None, tags: BTreeSet::new(), text: None, blob: None }
    }

    /// Puts it into somebody's memory, or into one that the tenant shares.
    #[must_use]
    pub fn with_owner(mut self, owner: &Owner) -> Self {
        self.owner = Some(owner.to_string());
        self
    }

    /// Sets the title.
    #[must_use]
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Adds a tag, by which policies decide who may read it.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.insert(tag.into());
        self
    }

    /// The task, with 3 retries. The same document and contents are one task while it is not finished.
    ///
    /// # Errors
    /// `InvalidInput` if it does not serialise.
    pub fn task(&self) -> Result<NewTask> {
        let payload = super::written(OP, self)?;
        let unique = OperationKey::derived(&[Self::NAME.as_bytes(), payload.to_string().as_bytes()]);
        Ok(NewTask::new(Slug::parse(Self::NAME)?, payload).with_unique(unique).with_max_retries(3))
    }

    fn namespace(&self, ctx: &ExecutionContext) -> Result<Namespace> {
        let memory_type = self.memory_type.clone();
        Ok(match self.owner.as_deref().map(|o| o.strip_prefix('~').ok_or(o)) {
            None => Namespace::of(ctx, memory_type),
            Some(Ok(shared)) => Namespace::shared(ctx, Slug::parse(shared)?, memory_type),
            Some(Err(employee)) => Namespace::of_employee(ctx, EmployeeId::parse(employee)?, memory_type),
        })
    }
}

impl fmt::Debug for EmbedDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedDocument").field("memory_type", &self.memory_type).finish_non_exhaustive()
    }
}

/// The handler.
#[derive(Debug)]
pub(crate) struct Embed {
    pub(crate) guard: Guard,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) key_values: Arc<dyn KeyValue>,
    pub(crate) memory: Memory,
    pub(crate) keyring: Arc<dyn Keyring>,
}

#[async_trait]
impl TaskHandler for Embed {
    async fn handle(&self, ctx: &ExecutionContext, task: &Lease) -> Result<Value> {
        let request: EmbedDocument = super::read(OP, task)?;
        if request.document_id.is_empty() || request.document_id.len() > 1024 {
            return Err(Error::invalid(OP, "a document's id has 1 to 1024 bytes"));
        }
        let namespace = request.namespace(ctx)?;
        let access = Access {
            action: "memory.write",
            resource: request.memory_type.as_str(),
            owner: namespace.tenant(),
            effect: Effect::Write,
            payload: Value::Null,
        };
        self.guard.authorize(ctx, access).await?;
        let text = self.contents(ctx, &request).await?;
        let document = request.document_id.as_bytes();
        let document = OperationKey::derived(&[b"document", ctx.tenant().as_str().as_bytes(), document]);
        let new = self.passages(ctx, &request, &document, &text)?;
        self.replace(ctx, &namespace, &request, document.as_str(), new).await
    }
}

impl Embed {
    async fn contents(&self, ctx: &ExecutionContext, request: &EmbedDocument) -> Result<String> {
        let text = match (&request.text, &request.blob) {
            (Some(text), None) => text.clone(),
            (None, Some(blob)) => String::from_utf8(self.blobs.get(ctx, blob).await?.into())
                .map_err(|_| Error::invalid(OP, "the blob is no UTF-8 text; parse the document first"))?,
            _ => return Err(Error::invalid(OP, "give either the text or the blob that has it")),
        };
        match text.len() <= DOCUMENT {
            true => Ok(text),
            false => Err(Error::invalid(OP, "the document is too large; give its parts as documents of their own")
                .with("bytes", text.len().to_string())
                .with("max", DOCUMENT.to_string())),
        }
    }

    /// Each under an id that tenant, document, place and contents make. The digest is keyed: what a passage says cannot be tried out.
    fn passages(
        &self,
        ctx: &ExecutionContext,
        request: &EmbedDocument,
        document: &OperationKey,
        text: &str,
    ) -> Result<Vec<Passage>> {
        let title = request.title.as_deref().unwrap_or(&request.document_id);
        let passage = |(place, text): (usize, &str)| {
            let digest = self.keyring.digest(ctx.tenant(), format!("{title}\n{text}").as_bytes())?;
            let place = u64::try_from(place).unwrap_or(u64::MAX).to_be_bytes();
            let id = OperationKey::derived(&[b"passage", document.as_str().as_bytes(), &place, digest.as_bytes()]);
            Ok(Passage { tags: request.tags.clone(), ..Passage::new(id.as_str(), title, text) })
        };
        passages(text, PASSAGE).into_iter().enumerate().map(passage).collect()
    }

    async fn replace(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        request: &EmbedDocument,
        document: &str,
        new: Vec<Passage>,
    ) -> Result<Value> {
        let key = format!("{}:{document}", EmbedDocument::NAME);
        let ids: BTreeSet<String> = new.iter().map(|p| p.id.clone()).collect();
        let entry = self.key_values.get(ctx, namespace, &key).await?;
        let (old, mode): (BTreeSet<String>, _) = match &entry {
            None => (BTreeSet::new(), PutMode::Create),
            Some(entry) => {
                let corrupt = |e| {
                    Error::new(ErrorKind::Corrupt, OP, "what the document has in memory does not parse").with_source(e)
                };
                (serde_json::from_slice(&entry.value).map_err(corrupt)?, PutMode::Match(entry.version))
            }
        };
        let version = self.keep(ctx, namespace, &key, &old.union(&ids).cloned().collect(), mode).await?;
        let (passages, added) = (new.len(), ids.difference(&old).count());
        if !new.is_empty() {
            self.memory.remember(ctx, namespace, new).await?;
        }
        let stale: Vec<String> = old.difference(&ids).cloned().collect();
        let removed = if stale.is_empty() { 0 } else { self.memory.forget(ctx, namespace, stale).await? };
        self.keep(ctx, namespace, &key, &ids, PutMode::Match(version)).await?;
        Ok(json!({ "document_id": request.document_id, "passages": passages, "added": added, "removed": removed }))
    }

    async fn keep(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        key: &str,
        ids: &BTreeSet<String>,
        mode: PutMode,
    ) -> Result<u64> {
        let value = super::written(OP, ids)?.to_string().into_bytes().into();
        let kept = self.key_values.put(ctx, namespace, key, value, PutOptions::default().with_mode(mode)).await;
        kept.map_err(|e| match e.kind() {
            // another version of it is being remembered: whoever is last is what stays, whole
            ErrorKind::Conflict => e.with_retry(Retryability::Transient),
            _ => e,
        })
    }
}
