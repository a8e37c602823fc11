//! The suite of [`VectorStore`].

use std::sync::Arc;

use futures::FutureExt;

use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use super::{context, fake_guard};
use crate::fake::{FakePolicy, ManualClock};
use crate::guard::Guarded;
use crate::time::{Clock, SystemClock};
use crate::vector::{Hit, Record, SearchRequest, VectorCapability, VectorStore};
use crate::{Depth, ErrorKind, ExecutionContext, Namespace, Result, Slug, Status};

spy! { VectorStore:
    async fn upsert(&self, ctx: &ExecutionContext, namespace: &Namespace, records: Vec<Record>) -> Result<()>;
    async fn search(&self, ctx: &ExecutionContext, namespace: &Namespace, request: SearchRequest) -> Result<Vec<Hit>>;
    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, ids: Vec<String>) -> Result<u64>;
    async fn count(&self, ctx: &ExecutionContext, namespace: &Namespace) -> Result<u64>;
    fn capability(&self) -> VectorCapability;
}

/// Runs every scenario on fresh stores that `fresh` makes, bare and behind the guard.
///
/// # Panics
/// With the scenario's name, where the store does not keep the [contract](VectorStore).
pub async fn vector_store(fresh: impl AsyncFn() -> Fixture<dyn VectorStore>) {
    let called = Called::default();
    for guarded in [false, true] {
        let made = async || fresh().await.map(|store| wrap(store, &called, guarded));
        finds_what_was_put(&made().await).await;
        finds_the_nearest_first(&made().await).await;
        finds_by_words(&made().await).await;
        chooses_by_tags_before_it_ranks(&made().await).await;
        keeps_tenants_apart(&made().await).await;
        keeps_namespaces_apart(&made().await).await;
        refuses_a_foreign_namespace(&made().await).await;
        keeps_hostile_ids_apart(&made().await).await;
        refuses_vectors_that_are_none(&made().await).await;
        survives_a_call_that_was_dropped(&made().await).await;
        goes_on_after_a_restart(made().await).await;
        the_server_goes_away(made().await).await;
        let f = made().await;
        prints_no_secret(f.adapter.as_ref(), &f.secrets);
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
        if guarded {
            nothing_begins_late(&f).await;
        }
    }
    called.complete::<dyn VectorStore>();
}

fn wrap(store: Arc<dyn VectorStore>, called: &Called, guarded: bool) -> Arc<dyn VectorStore> {
    let spied: Arc<dyn VectorStore> = Arc::new(Spy::new(store, called));
    let guard = || fake_guard(FakePolicy::allow_all(), Arc::new(SystemClock)).guard;
    if guarded { Arc::new(Guarded::new(spied, guard())) } else { spied }
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

fn notes(ctx: &ExecutionContext) -> Namespace {
    Namespace::of(ctx, Slug::parse("notes").expect("a slug"))
}

/// A unit vector in the plane, `degrees` from the first axis.
fn at(degrees: f32) -> Vec<f32> {
    vec![degrees.to_radians().cos(), degrees.to_radians().sin(), 0.0]
}

fn record(id: &str, degrees: f32, text: &str) -> Record {
    Record { id: id.into(), title: "t".into(), text: text.into(), vector: at(degrees), tags: Default::default() }
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|h| h.id.as_str()).collect()
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

async fn put(f: &Fixture<dyn VectorStore>, ctx: &ExecutionContext, records: Vec<Record>) {
    f.adapter.upsert(ctx, &notes(ctx), records).await.expect("records are kept");
}

async fn near(f: &Fixture<dyn VectorStore>, ctx: &ExecutionContext, degrees: f32) -> Vec<Hit> {
    f.adapter.search(ctx, &notes(ctx), SearchRequest::nearest(at(degrees))).await.expect("a search")
}

async fn finds_what_was_put(f: &Fixture<dyn VectorStore>) {
    assert!(near(f, &ana(), 0.0).await.is_empty(), "nothing is found before it is put");
    let mut one = record("a", 0.0, "one");
    one.tags.insert("law".into());
    put(f, &ana(), vec![one]).await;
    let hits = near(f, &ana(), 0.0).await;
    let [hit] = hits.as_slice() else { panic!("what was put is found by the next search: {hits:?}") };
    assert_eq!((hit.id.as_str(), hit.title.as_str(), hit.text.as_str()), ("a", "t", "one"), "as it was put");
    assert!(hit.tags.contains("law") && hit.score.is_finite(), "with its tags and a score");
    put(f, &ana(), vec![record("a", 90.0, "two")]).await;
    let hits = near(f, &ana(), 90.0).await;
    assert_eq!(hits.iter().map(|h| h.text.as_str()).collect::<Vec<_>>(), ["two"], "the same id replaces");
    assert_eq!(f.adapter.count(&ana(), &notes(&ana())).await.unwrap(), 1, "and counts once");
    let gone = f.adapter.delete(&ana(), &notes(&ana()), vec!["a".into(), "never".into()]).await.unwrap();
    assert_eq!(gone, 1, "deletes what is there, and says how many");
    assert!(near(f, &ana(), 90.0).await.is_empty(), "deleted is gone");
    assert_eq!(f.adapter.count(&ana(), &notes(&ana())).await.unwrap(), 0, "and is counted no more");
}

async fn finds_the_nearest_first(f: &Fixture<dyn VectorStore>) {
    put(f, &ana(), vec![record("far", 80.0, "x"), record("near", 5.0, "y"), record("mid", 40.0, "z")]).await;
    let hits = near(f, &ana(), 0.0).await;
    assert_eq!(ids(&hits), ["near", "mid", "far"], "best first");
    assert!(hits.is_sorted_by(|a, b| a.score >= b.score), "by their scores");
    let request = SearchRequest::nearest(at(0.0)).with_limit(2);
    let two = f.adapter.search(&ana(), &notes(&ana()), request).await.unwrap();
    assert_eq!(ids(&two), ["near", "mid"], "at most so many");
    let again = near(f, &ana(), 0.0).await;
    assert_eq!(again, hits, "the same question has the same answer");
}

async fn finds_by_words(f: &Fixture<dyn VectorStore>) {
    if !f.adapter.capability().words {
        return;
    }
    put(f, &ana(), vec![record("a", 0.0, "the governing law of Oregon"), record("b", 0.0, "documents are returned")])
        .await;
    let asked = async |words: &str| f.adapter.search(&ana(), &notes(&ana()), SearchRequest::words(words)).await;
    let hits = asked("Oregon").await.unwrap();
    assert_eq!(ids(&hits), ["a"], "capability: `words` finds by words");
    for hostile in HOSTILE.iter().chain(&["\"", "NEAR(", "a* OR b", "^", "title:x", "-", "()"]) {
        let outcome = asked(hostile).await;
        let fine = outcome.is_ok() || kind(outcome) == Some(ErrorKind::InvalidInput);
        assert!(fine, "hostile ids: a question is only words: {hostile:?}");
    }
    let both = SearchRequest::hybrid("returned", at(0.0));
    let hits = f.adapter.search(&ana(), &notes(&ana()), both).await.unwrap();
    assert_eq!(ids(&hits).first(), Some(&"b"), "by meaning and by words");
}

async fn chooses_by_tags_before_it_ranks(f: &Fixture<dyn VectorStore>) {
    let many = (0..50_u8).map(|n| record(&format!("n{n}"), f32::from(n) / 100.0, "x"));
    let mut tagged = record("tagged", 89.0, "y");
    tagged.tags.insert("law".into());
    put(f, &ana(), many.chain([tagged]).collect()).await;
    let request = SearchRequest::nearest(at(0.0)).with_limit(3).with_tag("law");
    let hits = f.adapter.search(&ana(), &notes(&ana()), request).await.unwrap();
    assert_eq!(ids(&hits), ["tagged"], "a tag chooses before the best are taken");
}

async fn keeps_tenants_apart(f: &Fixture<dyn VectorStore>) {
    let (acme, other) = (ana(), context("acme-2", "ana", "analyst"));
    put(f, &acme, vec![record("far", 80.0, "acme's")]).await;
    // far more and far nearer, so that a filter after the search would leave nothing
    put(f, &other, (0..100).map(|n| record(&format!("n{n}"), 0.0, "other's")).collect()).await;
    put(f, &other, vec![record("far", 0.0, "other's")]).await;
    let hits = near(f, &acme, 0.0).await;
    let texts: Vec<_> = hits.iter().map(|h| h.text.as_str()).collect();
    assert_eq!(texts, ["acme's"], "isolation: a search sees its own tenant's, and all of it");
    assert_eq!(f.adapter.count(&acme, &notes(&acme)).await.unwrap(), 1, "isolation: and counts it alone");
    let gone = f.adapter.delete(&other, &notes(&other), vec!["far".into()]).await.unwrap();
    assert_eq!((gone, near(f, &acme, 0.0).await.len()), (1, 1), "isolation: a tenant deletes another's record");
}

async fn keeps_namespaces_apart(f: &Fixture<dyn VectorStore>) {
    let ana = ana();
    let slug = |s| Slug::parse(s).expect("a slug");
    let spaces = [
        notes(&ana),
        Namespace::of(&ana, slug("drafts")),
        Namespace::shared(&ana, slug("ana"), slug("notes")),
        Namespace::of_employee(&ana, crate::EmployeeId::parse("bo").expect("an employee"), slug("notes")),
    ];
    for (n, space) in spaces.iter().enumerate() {
        f.adapter.upsert(&ana, space, vec![record("a", 0.0, &n.to_string())]).await.unwrap();
    }
    for (n, space) in spaces.iter().enumerate() {
        let hits = f.adapter.search(&ana, space, SearchRequest::nearest(at(0.0))).await.unwrap();
        let texts: Vec<_> = hits.iter().map(|h| h.text.clone()).collect();
        assert_eq!(texts, [n.to_string()], "namespaces of one tenant are apart: {space}");
    }
}

async fn refuses_a_foreign_namespace(f: &Fixture<dyn VectorStore>) {
    let (acme, globex) = (ana(), context("globex", "ana", "analyst"));
    put(f, &acme, vec![record("a", 0.0, "acme's")]).await;
    let theirs = notes(&acme);
    for (what, outcome) in [
        ("upsert", f.adapter.upsert(&globex, &theirs, vec![record("a", 0.0, "x")]).await),
        ("search", f.adapter.search(&globex, &theirs, SearchRequest::nearest(at(0.0))).await.map(|_| ())),
        ("delete", f.adapter.delete(&globex, &theirs, vec!["a".into()]).await.map(|_| ())),
        ("count", f.adapter.count(&globex, &theirs).await.map(|_| ())),
    ] {
        assert_eq!(kind(outcome), Some(ErrorKind::TenantMismatch), "isolation: {what} in another tenant's namespace");
    }
    assert_eq!(near(f, &acme, 0.0).await.len(), 1, "isolation: refused and unchanged");
}

async fn keeps_hostile_ids_apart(f: &Fixture<dyn VectorStore>) {
    let mut kept = Vec::new();
    for id in HOSTILE {
        match f.adapter.upsert(&ana(), &notes(&ana()), vec![record(id, 0.0, id)]).await {
            Ok(()) => kept.push(id),
            Err(e) => assert_eq!(e.kind(), ErrorKind::InvalidInput, "hostile ids: {id:?} is kept or refused"),
        }
    }
    let count = u64::try_from(kept.len()).expect("few");
    assert_eq!(f.adapter.count(&ana(), &notes(&ana())).await.unwrap(), count, "hostile ids: each is another record");
    for id in kept {
        let gone = f.adapter.delete(&ana(), &notes(&ana()), vec![id.to_owned()]).await.unwrap();
        assert_eq!(gone, 1, "hostile ids: {id:?} is deleted by itself");
    }
}

async fn refuses_vectors_that_are_none(f: &Fixture<dyn VectorStore>) {
    put(f, &ana(), vec![record("a", 0.0, "x")]).await;
    let with = |vector: Vec<f32>| Record { vector, ..record("b", 0.0, "y") };
    for vector in [vec![], vec![1.0], vec![f32::NAN, 0.0, 0.0], vec![f32::INFINITY, 0.0, 0.0]] {
        let batch = vec![record("c", 0.0, "z"), with(vector.clone())];
        let kind_ = kind(f.adapter.upsert(&ana(), &notes(&ana()), batch).await);
        assert_eq!(kind_, Some(ErrorKind::InvalidInput), "a vector that is none is refused: {vector:?}");
        if !vector.is_empty() {
            let asked = f.adapter.search(&ana(), &notes(&ana()), SearchRequest::nearest(vector.clone())).await;
            assert_eq!(kind(asked), Some(ErrorKind::InvalidInput), "nor is it searched by: {vector:?}");
        }
    }
    assert_eq!(f.adapter.count(&ana(), &notes(&ana())).await.unwrap(), 1, "of a refused batch nothing is kept");
}

async fn survives_a_call_that_was_dropped(f: &Fixture<dyn VectorStore>) {
    let batch = || vec![record("a", 0.0, "x"), record("b", 0.0, "y")];
    for _ in 0..8 {
        let _dropped = f.adapter.upsert(&ana(), &notes(&ana()), batch()).now_or_never();
    }
    put(f, &ana(), vec![record("c", 0.0, "z")]).await;
    let count = f.adapter.count(&ana(), &notes(&ana())).await.unwrap();
    assert!(count == 1 || count == 3, "cancelled in the middle: a batch is there whole or not at all: {count}");
}

async fn goes_on_after_a_restart(f: Fixture<dyn VectorStore>) {
    put(&f, &ana(), vec![record("a", 0.0, "x")]).await;
    if let Some(f) = f.reopened().await {
        assert_eq!(near(&f, &ana(), 0.0).await.len(), 1, "what was put is found after a restart");
        put(&f, &ana(), vec![record("b", 0.0, "y")]).await;
    }
}

async fn the_server_goes_away(mut f: Fixture<dyn VectorStore>) {
    if f.lose_server().await {
        let kind = kind(f.adapter.count(&ana(), &notes(&ana())).await);
        assert!(matches!(kind, Some(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}

async fn nothing_begins_late(f: &Fixture<dyn VectorStore>) {
    let late = ana().with_deadline(ManualClock::default().now());
    let outcome = f.adapter.upsert(&late, &notes(&late), vec![record("a", 0.0, "x")]).await;
    assert_eq!(kind(outcome), Some(ErrorKind::Timeout), "passed deadline");
    let cancelled = ana();
    cancelled.cancellation().cancel();
    let outcome = f.adapter.upsert(&cancelled, &notes(&cancelled), vec![record("a", 0.0, "x")]).await;
    assert_eq!(kind(outcome), Some(ErrorKind::Cancelled), "cancelled before");
    assert_eq!(f.adapter.count(&ana(), &notes(&ana())).await.unwrap(), 0, "passed deadline: nothing was written");
}
