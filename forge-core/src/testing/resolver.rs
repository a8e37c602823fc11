//! The suite of [`PrincipalResolver`].

use std::sync::Arc;

use futures::FutureExt;

use super::context;
use super::fixture::{Fixture, prints_no_secret};
use super::spy::{Called, Spy, spy};
use crate::{EmployeeId, Error, ErrorKind, ExecutionContext, Principal, PrincipalResolver, Result, SecurityLevel};

spy! { PrincipalResolver:
    async fn resolve(&self, ctx: &ExecutionContext, employee: &EmployeeId) -> Result<Principal>;
}

impl<R: PrincipalResolver> From<R> for Fixture<dyn PrincipalResolver> {
    fn from(resolver: R) -> Self {
        Self::new(Arc::new(resolver))
    }
}

/// Runs every scenario on fresh resolvers that `fresh` makes of the employees whom it is given.
///
/// # Panics
/// With the scenario's name, where the resolver does not keep the [contract](PrincipalResolver).
pub async fn principal_resolver<R>(fresh: impl AsyncFn(Vec<Principal>) -> R)
where
    R: Into<Fixture<dyn PrincipalResolver>>,
{
    let called = Called::default();
    let made = async || {
        let fixture: Fixture<dyn PrincipalResolver> = fresh(employees()).await.into();
        fixture.map(|resolver| Arc::new(Spy::new(resolver, &called)))
    };
    resolves_who_was_asked_for(&made().await).await;
    answers_for_its_tenant_only(&made().await).await;
    cannot_be_asked_who_works_elsewhere(&made().await).await;
    records_for_whom(&made().await).await;
    survives_a_call_that_was_dropped(&made().await).await;
    the_server_goes_away(made().await).await;
    let fixture = made().await;
    prints_no_secret(fixture.adapter.as_ref(), &fixture.secrets);
    called.complete::<dyn PrincipalResolver>();
}

fn principal(tenant: &str, employee: &str, role: &str) -> Principal {
    Principal::employee(tenant, employee, role).expect("a principal")
}

/// Two of `acme`; in a tenant whose name begins alike a namesake with another role and somebody who is only there.
fn employees() -> Vec<Principal> {
    vec![
        principal("acme", "ana", "analyst"),
        principal("acme", "bo", "lawyer").with_security_level(SecurityLevel::Restricted),
        principal("acme-2", "ana", "partner"),
        principal("acme-2", "dee", "partner"),
    ]
}

async fn ask(f: &Fixture<dyn PrincipalResolver>, ctx: &ExecutionContext, employee: &str) -> Result<Principal> {
    f.adapter.resolve(ctx, &EmployeeId::parse(employee).expect("an employee")).await
}

async fn resolves_who_was_asked_for(f: &Fixture<dyn PrincipalResolver>) {
    let ana = context("acme", "ana", "analyst");
    for known in employees().into_iter().take(2) {
        let found = ask(f, &ana, known.employee_id().as_str()).await.expect("known: a colleague");
        assert_eq!(found, known, "known: as the directory has them, role and level too");
    }
    let unlisted = context("acme", "zoe", "guest");
    assert!(ask(f, &unlisted, "bo").await.is_ok(), "known: whoever of the tenant asks");
    let e = ask(f, &ana, "nobody").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "unknown: nobody has this employee");
}

async fn answers_for_its_tenant_only(f: &Fixture<dyn PrincipalResolver>) {
    let (acme, other, empty) =
        (context("acme", "ana", "analyst"), context("acme-2", "ana", "partner"), context("globex", "ana", "analyst"));
    let roles = [("acme", &acme, "analyst"), ("acme-2", &other, "partner")];
    for (tenant, ctx, role) in roles {
        let found = ask(f, ctx, "ana").await.expect("known: in both tenants");
        let (its, theirs) = (found.tenant().as_str(), found.role().as_str());
        assert_eq!((its, theirs), (tenant, role), "isolation: a namesake of another tenant");
    }
    for (ctx, foreign) in [(&acme, "dee"), (&other, "bo"), (&empty, "ana"), (&empty, "bo")] {
        let kind = ask(f, ctx, foreign).await.map(|_| ()).map_err(|e| e.kind());
        assert_eq!(kind, Err(ErrorKind::NotFound), "isolation: an employee of another tenant");
    }
}

async fn cannot_be_asked_who_works_elsewhere(f: &Fixture<dyn PrincipalResolver>) {
    let ana = context("acme", "ana", "analyst");
    let said = |e: Error| (e.kind(), e.message().to_owned(), e.retry());
    let foreign = said(ask(f, &ana, "dee").await.unwrap_err());
    let nobody = said(ask(f, &ana, "eve").await.unwrap_err());
    assert_eq!(foreign, nobody, "isolation: a foreign employee is told from one whom nobody has");
}

async fn records_for_whom(f: &Fixture<dyn PrincipalResolver>) {
    let ana = context("acme", "ana", "analyst");
    let child = ana.on_behalf(ask(f, &ana, "bo").await.unwrap()).expect("child: of the same tenant");
    assert_eq!((child.employee().as_str(), child.role().as_str()), ("bo", "lawyer"), "child: acts as the colleague");
    assert_eq!(child.security_level(), SecurityLevel::Restricted, "child: with the colleague's level");
    assert_eq!(child.on_behalf_of(), Some(ana.employee()), "child: on behalf of the employee");
    assert_eq!(child.request_id(), ana.request_id(), "child: in the same request");
    assert!(
        ana.on_behalf_of().is_none() && ana.employee().as_str() == "ana",
        "child: the context itself is not changed"
    );
    let back = child.on_behalf(ask(f, &child, "ana").await.unwrap()).expect("child: back again");
    assert_eq!(back.on_behalf_of(), None, "child: nobody acts on behalf of themselves");
    let theirs = ask(f, &context("acme-2", "ana", "partner"), "dee").await.unwrap();
    let kind = ana.on_behalf(theirs).map(|_| ()).map_err(|e| e.kind());
    assert_eq!(kind, Err(ErrorKind::TenantMismatch), "isolation: a child of another tenant");
}

async fn survives_a_call_that_was_dropped(f: &Fixture<dyn PrincipalResolver>) {
    let ana = context("acme", "ana", "analyst");
    for _ in 0..8 {
        let _dropped = ask(f, &ana, "bo").now_or_never();
    }
    assert!(ask(f, &ana, "bo").await.is_ok(), "cancelled in the middle: the directory goes on");
}

async fn the_server_goes_away(mut f: Fixture<dyn PrincipalResolver>) {
    if f.lose_server().await {
        let kind = ask(&f, &context("acme", "ana", "analyst"), "bo").await.map(|_| ()).map_err(|e| e.kind());
        assert!(matches!(kind, Err(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
    }
}
