//! A context outside the process: canonical bytes and a MAC under the host's key.

use serde::{Deserialize, Serialize};

use super::{ContextRecord, ExecutionContext, TraceContext};
use crate::keyring::{Keyring, Seal};
use crate::{Digest, Error, ErrorKind, Result, Timestamp};

/// What a seal is bound to. The same seal on another body, queue or task is a forgery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedFor {
    /// The id of the task or the run.
    pub id: String,
    /// The task's or the workflow's name.
    pub name: String,
    /// The queue, or `journal` for a run.
    pub queue: String,
    /// SHA-256 of the body as it rests.
    pub body: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    v: u8,
    context: ContextRecord,
    bound: SealedFor,
    issued: Timestamp,
    not_after: Timestamp,
}

/// The sealed form, as a queue or a journal carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedContext {
    header: String,
    seal: Seal,
}

impl SealedContext {
    /// Seals a context to what it is sent with, until `not_after`. Deadline and cancellation do not cross.
    ///
    /// # Errors
    /// Those of [`Keyring::seal`].
    pub fn seal(
        ctx: &ExecutionContext,
        bound: SealedFor,
        keys: &dyn Keyring,
        issued: Timestamp,
        not_after: Timestamp,
    ) -> Result<Self> {
        let header = Header { v: 1, context: ctx.0.record.clone(), bound, issued, not_after };
        let header = serde_json::to_string(&header)
            .map_err(|e| Error::unexpected("context.seal", "the context does not serialise").with_source(e))?;
        let seal = keys.seal(header.as_bytes())?;
        Ok(Self { header, seal })
    }

    /// Checks the seal and gives the context back, with no deadline and a cancellation of its own.
    ///
    /// # Errors
    /// `Unauthenticated` for a forged seal, another binding or one past its time; `Corrupt` if the header does not parse.
    pub fn open(&self, bound: &SealedFor, keys: &dyn Keyring, now: Timestamp) -> Result<ExecutionContext> {
        let refuse = |why: &'static str| {
            Err(Error::new(ErrorKind::Unauthenticated, "context.open", why).with("id", bound.id.clone()))
        };
        keys.verify(self.header.as_bytes(), &self.seal)?;
        let header: Header = serde_json::from_str(&self.header)
            .map_err(|e| Error::new(ErrorKind::Corrupt, "context.open", "the header does not parse").with_source(e))?;
        if header.v != 1 {
            return refuse("the seal has a version that this build does not know");
        }
        let SealedFor { id, name, queue, body } = &header.bound;
        if *id != bound.id || *name != bound.name {
            return refuse("the seal belongs to another task or run");
        }
        if *queue != bound.queue {
            return refuse("the seal belongs to another queue");
        }
        if *body != bound.body {
            return refuse("the seal belongs to another body");
        }
        if header.not_after <= now {
            return refuse("the seal is past its time");
        }
        Ok(ExecutionContext::from_record(header.context, &bound.id))
    }
}

impl SealedContext {
    /// The trace that it says it belongs to, unchecked: to show to people, and for nothing else.
    pub fn claimed_trace(&self) -> Option<TraceContext> {
        self.claims().map(|h| h.context.trace)
    }

    /// Until when it says it holds, unchecked: to remember it for that long, and for nothing else.
    pub fn claimed_not_after(&self) -> Option<Timestamp> {
        self.claims().map(|h| h.not_after)
    }

    fn claims(&self) -> Option<Header> {
        serde_json::from_str(&self.header).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Principal, RequestId, fake};

    fn sealed(body: &[u8]) -> (SealedContext, SealedFor, fake::FakeKeyring) {
        let keys = fake::FakeKeyring;
        let ctx = ExecutionContext::issue(Principal::employee("acme", "ana", "analyst").unwrap(), RequestId::fixed(1));
        let bound =
            SealedFor { id: "1".into(), name: "index".into(), queue: "acme.default".into(), body: Digest::of(body) };
        let s = SealedContext::seal(&ctx, bound.clone(), &keys, Timestamp::from_nanos(1), Timestamp::from_nanos(9))
            .unwrap();
        (s, bound, keys)
    }

    #[test]
    fn a_seal_holds_for_its_own_body_queue_and_time_only() {
        let (s, bound, keys) = sealed(b"body");
        let opened = || s.open(&bound, &keys, Timestamp::from_nanos(2)).unwrap();
        assert_eq!(opened().tenant(), &"acme");
        let key = opened().next_operation();
        assert_eq!(
            opened().next_operation(),
            key,
            "a task that is delivered again makes its calls under the same keys"
        );
        assert_ne!(crate::testing::context("acme", "ana", "analyst").next_operation(), key);
        let other = SealedFor { body: Digest::of(b"other"), ..bound.clone() };
        assert_eq!(s.open(&other, &keys, Timestamp::from_nanos(2)).unwrap_err().kind(), ErrorKind::Unauthenticated);
        assert_eq!(s.open(&bound, &keys, Timestamp::from_nanos(9)).unwrap_err().kind(), ErrorKind::Unauthenticated);
    }

    #[test]
    fn another_tenant_in_the_header_is_a_forgery() {
        let (mut s, bound, keys) = sealed(b"body");
        s.header = s.header.replace("acme", "globex");
        assert_eq!(s.open(&bound, &keys, Timestamp::from_nanos(2)).unwrap_err().kind(), ErrorKind::Unauthenticated);
    }
}
