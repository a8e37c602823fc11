//! The suite of [`Pricing`].

use std::sync::Arc;

use super::fixture::{Fixture, prints_no_secret};
use super::spy::{Called, Spy, spy};
use crate::usage::{Pricing, Quantity, Resource};
use crate::{Money, Result, Timestamp};

spy! { Pricing:
    fn quote(&self, resource: &Resource, quantity: &Quantity, at: Timestamp) -> Result<Option<Money>>;
}

/// Runs every scenario on fresh prices that `fresh` makes; they must have one for the tool `index`, at any time.
///
/// # Panics
/// With the scenario's name, where the prices do not keep the [contract](Pricing).
pub async fn pricing(fresh: impl AsyncFn() -> Fixture<dyn Pricing>) {
    let called = Called::default();
    let f = fresh().await.map(|prices| Arc::new(Spy::new(prices, &called)));
    let at = Timestamp::from_nanos(1_767_225_600_000_000_000);
    let calls = |n| Quantity { tool_calls: n, ..Quantity::default() };
    let quote = |n| f.adapter.quote(&Resource::Tool("index".into()), &calls(n), at);
    let one = quote(1).expect("a price").expect("the tool `index` has a price");
    assert_eq!(quote(1).expect("a price"), Some(one), "the same question has the same answer");
    let three = quote(3).expect("a price").expect("a price");
    let sum = one.checked_add(one).and_then(|two| two.checked_add(one)).expect("small amounts");
    assert_eq!(three, sum, "three calls cost three times one, exactly");
    let none = quote(0).expect("a price").expect("a price");
    assert!(none.amount.is_zero() && none.currency == one.currency, "nothing costs nothing, in the same currency");
    let most = f.adapter.quote(&Resource::Tool("index".into()), &calls(u64::MAX), at);
    let rises = most.as_ref().map_or(true, |m| m.is_some_and(|m| m.amount >= three.amount));
    assert!(rises, "a sum that does not fit is an error, never a smaller one");
    prints_no_secret(f.adapter.as_ref(), &f.secrets);
    called.complete::<dyn Pricing>();
}
