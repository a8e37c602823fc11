//! The suite of [`SecretProvider`].

use std::sync::Arc;

use futures::FutureExt;

use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use crate::ErrorKind;
use crate::Result;
use crate::secret::{Secret, SecretProvider, SecretRef, Secrets};

spy! { SecretProvider:
    fn scheme(&self) -> &str;
    async fn fetch(&self, reference: &SecretRef) -> Result<Secret>;
}

impl<P: SecretProvider> From<P> for Fixture<dyn SecretProvider> {
    fn from(provider: P) -> Self {
        Self::new(Arc::new(provider))
    }
}

/// A provider under test, with what was put there for it.
#[derive(Debug)]
pub struct SecretFixture {
    fixture: Fixture<dyn SecretProvider>,
    held: Vec<(SecretRef, String)>,
    absent: Vec<SecretRef>,
    unfit: Vec<SecretRef>,
}

impl SecretFixture {
    /// A provider that holds nothing yet.
    pub fn new(provider: impl Into<Fixture<dyn SecretProvider>>) -> Self {
        Self { fixture: provider.into(), held: Vec::new(), absent: Vec::new(), unfit: Vec::new() }
    }

    /// A reference and the value that is there: at least one.
    #[must_use]
    pub fn holding(mut self, reference: SecretRef, value: impl Into<String>) -> Self {
        self.held.push((reference, value.into()));
        self
    }

    /// A reference where nothing is: at least one.
    #[must_use]
    pub fn without(mut self, reference: SecretRef) -> Self {
        self.absent.push(reference);
        self
    }

    /// A reference where something is that cannot be a secret, such as nothing but a line end.
    #[must_use]
    pub fn unfit(mut self, reference: SecretRef) -> Self {
        self.unfit.push(reference);
        self
    }
}

/// Runs every scenario on fresh providers that `fresh` makes.
///
/// # Panics
/// With the scenario's name, where the provider does not keep the [contract](SecretProvider).
pub async fn secret_provider(fresh: impl AsyncFn() -> SecretFixture) {
    let called = Called::default();
    let made = async || {
        let mut f = fresh().await;
        assert!(!f.held.is_empty() && !f.absent.is_empty(), "the fixture holds a secret, and knows where none is");
        f.fixture = f.fixture.map(|p| Arc::new(Spy::new(p, &called)));
        f
    };
    let f = made().await;
    fetches_what_is_there(&f).await;
    says_what_is_not_there(&f).await;
    refuses_what_is_no_secret(&f).await;
    refuses_another_scheme(&f).await;
    takes_any_path(&f).await;
    survives_a_call_that_was_dropped(&f).await;
    is_asked_by_its_scheme(&f).await;
    the_server_goes_away(made().await).await;
    prints_no_secret(f.fixture.adapter.as_ref(), &f.fixture.secrets);
    prints_no_secret(f.fixture.adapter.as_ref(), &values(&f));
    called.complete::<dyn SecretProvider>();
}

fn values(f: &SecretFixture) -> Vec<String> {
    f.held.iter().map(|(_, value)| value.clone()).collect()
}

async fn refusal(f: &SecretFixture, reference: &SecretRef) -> ErrorKind {
    let result = f.fixture.adapter.fetch(reference).await;
    let e = result.expect_err("there is no secret here");
    assert!(e.to_string().contains(&reference.to_string()), "refused: the error names the reference: {e}");
    let text = format!("{e:?} {:?}", e.report());
    assert!(!values(f).iter().any(|v| text.contains(v)), "refused: the error holds no value");
    e.kind()
}

async fn fetches_what_is_there(f: &SecretFixture) {
    for (reference, value) in &f.held {
        let secret = f.fixture.adapter.fetch(reference).await.expect("held: it is fetched");
        assert!(secret.expose() == value, "held: the value at {reference}, to the byte");
        assert!(!format!("{secret:?} {secret:#?}").contains(value), "held: a secret does not print");
    }
}

async fn says_what_is_not_there(f: &SecretFixture) {
    for reference in &f.absent {
        assert_eq!(refusal(f, reference).await, ErrorKind::NotFound, "absent: {reference}");
    }
}

async fn refuses_what_is_no_secret(f: &SecretFixture) {
    for reference in &f.unfit {
        assert_eq!(refusal(f, reference).await, ErrorKind::Config, "no secret: {reference}");
    }
}

async fn refuses_another_scheme(f: &SecretFixture) {
    for (reference, _) in &f.held {
        let elsewhere: SecretRef = format!("other-scheme:{}", reference.path()).parse().expect("a reference");
        assert_eq!(refusal(f, &elsewhere).await, ErrorKind::InvalidInput, "another scheme is not answered for");
    }
}

async fn takes_any_path(f: &SecretFixture) {
    let scheme = f.fixture.adapter.scheme();
    let made: Result<SecretRef> = format!("{scheme}:x").parse();
    assert!(made.is_ok_and(|r| r.scheme() == scheme), "the scheme can stand in a reference: {scheme}");
    let long = "x".repeat(100_000);
    for path in HOSTILE.into_iter().chain([long.as_str(), "a=b", "\0", "."]) {
        let reference: SecretRef = format!("{scheme}:no-such-secret/{path}").parse().expect("a reference");
        let kind = refusal(f, &reference).await;
        let known = matches!(kind, ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::Unavailable);
        assert!(known, "any path: {kind:?}");
    }
}

async fn survives_a_call_that_was_dropped(f: &SecretFixture) {
    for (reference, value) in &f.held {
        for _ in 0..8 {
            let _dropped = f.fixture.adapter.fetch(reference).now_or_never();
        }
        let all = futures::future::join_all((0..8).map(|_| f.fixture.adapter.fetch(reference))).await;
        let same = all.into_iter().all(|s| s.is_ok_and(|s| s.expose() == value));
        assert!(same, "cancelled in the middle, then at once: everybody gets the value");
    }
}

/// What a host does: it asks all its providers, and the scheme decides.
async fn is_asked_by_its_scheme(f: &SecretFixture) {
    let secrets = Secrets::default().with(Shared(f.fixture.adapter.clone()));
    for (reference, value) in &f.held {
        let secret = secrets.fetch(reference).await.expect("asked by its scheme");
        assert!(secret.expose() == value, "asked by its scheme: the value");
    }
    assert!(!values(f).iter().any(|v| format!("{secrets:?}").contains(v)), "asked by its scheme: nothing prints");
}

#[derive(Debug)]
struct Shared(Arc<dyn SecretProvider>);

#[async_trait::async_trait]
impl SecretProvider for Shared {
    fn scheme(&self) -> &str {
        self.0.scheme()
    }

    async fn fetch(&self, reference: &SecretRef) -> Result<Secret> {
        self.0.fetch(reference).await
    }
}

async fn the_server_goes_away(mut f: SecretFixture) {
    if f.fixture.lose_server().await {
        for (reference, _) in &f.held {
            let kind = refusal(&f, reference).await;
            assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout), "server gone: {kind:?}");
        }
    }
}
