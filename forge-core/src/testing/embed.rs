//! The suite of [`Embedder`].

use std::sync::Arc;

use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use super::{context, fake_guard};
use crate::embed::{Embedder, EmbedderCapability};
use crate::fake::{FakePolicy, ManualClock};
use crate::guard::Guarded;
use crate::time::{Clock, SystemClock};
use crate::{Depth, ErrorKind, ExecutionContext, Result, Status};

spy! { Embedder:
    async fn embed(&self, ctx: &ExecutionContext, texts: Vec<String>) -> Result<Vec<Vec<f32>>>;
    fn model(&self) -> &str;
    fn capability(&self) -> EmbedderCapability;
}

/// Runs every scenario on fresh embedders that `fresh` makes, bare and behind the guard.
///
/// # Panics
/// With the scenario's name, where the embedder does not keep the [contract](Embedder).
pub async fn embedder(fresh: impl AsyncFn() -> Fixture<dyn Embedder>) {
    let called = Called::default();
    for guarded in [false, true] {
        let made = async || fresh().await.map(|embedder| wrap(embedder, &called, guarded));
        gives_one_vector_a_text(&made().await).await;
        gives_a_text_the_same_vector(&made().await).await;
        takes_any_text(&made().await).await;
        refuses_more_than_a_batch(&made().await).await;
        the_server_goes_away(made().await).await;
        let f = made().await;
        assert!(!f.adapter.model().is_empty(), "a model has a name");
        prints_no_secret(f.adapter.as_ref(), &f.secrets);
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
        if guarded {
            nothing_begins_late(&f).await;
        }
    }
    called.complete::<dyn Embedder>();
}

fn wrap(embedder: Arc<dyn Embedder>, called: &Called, guarded: bool) -> Arc<dyn Embedder> {
    let spied: Arc<dyn Embedder> = Arc::new(Spy::new(embedder, called));
    let guard = || fake_guard(FakePolicy::allow_all(), Arc::new(SystemClock)).guard;
    if guarded { Arc::new(Guarded::new(spied, guard())) } else { spied }
}

async fn embed(f: &Fixture<dyn Embedder>, tenant: &str, texts: &[&str]) -> Vec<Vec<f32>> {
    let ctx = context(tenant, "ana", "analyst");
    f.adapter.embed(&ctx, texts.iter().map(|t| (*t).to_owned()).collect()).await.expect("texts are embedded")
}

async fn gives_one_vector_a_text(f: &Fixture<dyn Embedder>) {
    assert!(embed(f, "acme", &[]).await.is_empty(), "no text, no vector");
    let texts = ["the governing law", "documents are returned", "the governing law"];
    let vectors = embed(f, "acme", &texts).await;
    assert_eq!(vectors.len(), texts.len(), "one vector a text");
    for v in &vectors {
        assert_eq!(v.len(), f.adapter.capability().dimensions, "capability: `dimensions` long");
        let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-3, "of length 1: {length}");
    }
    let singles = [embed(f, "acme", &texts[..1]).await, embed(f, "acme", &texts[1..2]).await].concat();
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    let in_order = vectors.iter().zip(&singles).all(|(a, b)| close(a, b));
    assert!(in_order && singles.len() == 2, "in the order of the texts, and as each by itself");
    assert_ne!(vectors.first(), vectors.get(1), "other words, another vector");
}

async fn gives_a_text_the_same_vector(f: &Fixture<dyn Embedder>) {
    let ours = embed(f, "acme", &["confidential information"]).await;
    assert_eq!(ours, embed(f, "acme", &["confidential information"]).await, "the same text gives the same vector");
    let theirs = embed(f, "globex", &["confidential information"]).await;
    assert_eq!(ours, theirs, "isolation: what one tenant embeds changes another's vectors");
}

async fn takes_any_text(f: &Fixture<dyn Embedder>) {
    let long = "clause ".repeat(20_000);
    for text in HOSTILE.iter().copied().chain(["", " ", long.as_str()]) {
        let vectors = embed(f, "acme", &[text]).await;
        let finite = vectors.iter().flatten().all(|x| x.is_finite());
        assert!(finite && vectors.len() == 1, "hostile ids: a text is only words: {:.20?}", text);
    }
}

async fn refuses_more_than_a_batch(f: &Fixture<dyn Embedder>) {
    let max = f.adapter.capability().max_batch;
    // one that takes more than this is not asked to show it
    if max <= 10_000 {
        let ctx = context("acme", "ana", "analyst");
        let over = f.adapter.embed(&ctx, vec!["x".to_owned(); max + 1]).await;
        assert_eq!(over.map_err(|e| e.kind()), Err(ErrorKind::InvalidInput), "more texts than a batch");
        let whole = f.adapter.embed(&ctx, vec!["x".to_owned(); max]).await;
        assert_eq!(whole.map(|v| v.len()).ok(), Some(max), "capability: `max_batch` texts");
    }
}

async fn the_server_goes_away(mut f: Fixture<dyn Embedder>) {
    if f.lose_server().await {
        let outcome = f.adapter.embed(&context("acme", "ana", "analyst"), vec!["x".into()]).await;
        let kind = outcome.map(|_| ()).map_err(|e| e.kind());
        assert!(matches!(kind, Err(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}

async fn nothing_begins_late(f: &Fixture<dyn Embedder>) {
    let ctx = context("acme", "ana", "analyst");
    let late = ctx.clone().with_deadline(ManualClock::default().now());
    let outcome = f.adapter.embed(&late, vec!["x".into()]).await.map_err(|e| e.kind());
    assert_eq!(outcome, Err(ErrorKind::Timeout), "passed deadline");
    ctx.cancellation().cancel();
    let outcome = f.adapter.embed(&ctx, vec!["x".into()]).await.map_err(|e| e.kind());
    assert_eq!(outcome, Err(ErrorKind::Cancelled), "cancelled before");
}
