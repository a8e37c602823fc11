//! One tenant's quotas in memory: what decides. The file follows behind it, and is read once, when the tenant is first met.
//!
//! A sum is what was settled plus what is held. An operation remembers what it holds and what it used, so that settling,
//! expiring and reserving again each change the sums by the difference. One lock a tenant: nothing races, and no tenant
//! waits for another.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use forge_core::audit::Durability;
use forge_core::{Currency, Money, OperationKey, Result, Timestamp};
use rust_decimal::Decimal;

use super::amount::Amount;
use super::rows::{Place, Reservation};
use super::too_large;
use crate::exact;

/// Effects that are done and still remembered, so that one that is repeated after a crash is not charged twice.
pub(super) const REMEMBERED: usize = 4096;

/// The scope of the tenant as a whole; no employee has this name.
pub(super) const TENANT: &str = "";

/// What a scope used in the window.
#[derive(Debug, Clone, Default)]
struct Sum {
    calls: i64,
    tokens: i64,
    money: BTreeMap<Currency, Decimal>,
}

/// What must be written: differences of the sums, and operations as they are now.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) sums: HashMap<(Place, Option<Currency>), Amount>,
    pub(super) operations: HashMap<OperationKey, Option<Reservation>>,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    window: String,
    /// By window and scope. The window before stays: a clock that is set back returns to it.
    sums: HashMap<String, HashMap<String, Sum>>,
    operations: HashMap<OperationKey, Reservation>,
    expiry: BTreeSet<(Timestamp, OperationKey)>,
    /// Effects that are done, in the order in which they were.
    done: VecDeque<OperationKey>,
    changes: Changes,
    /// Somebody is on the way to write the changes.
    pub(super) writing: bool,
}

impl Book {
    /// As the file has it.
    pub(super) fn load(window: &str, sums: Vec<(String, Amount)>, rows: Vec<Reservation>) -> Result<Self> {
        let mut book = Self { window: window.to_owned(), ..Self::default() };
        let of = book.sums.entry(window.to_owned()).or_default();
        for (scope, amount) in sums {
            of.entry(scope).or_default().add(&amount)?;
        }
        for row in rows {
            match row.expires {
                Some(at) => drop(book.expiry.insert((at, row.operation.clone()))),
                None => book.done.push_back(row.operation.clone()),
            }
            book.operations.insert(row.operation.clone(), row);
        }
        Ok(book)
    }

    /// Begins anew in another window, and gives back what nobody settled in time. What is held in an old window stays there.
    pub(super) fn turn(&mut self, window: &str, now: Timestamp) -> Result<()> {
        if self.window != window {
            let before = std::mem::replace(&mut self.window, window.to_owned());
            self.sums.retain(|w, _| *w == before || w == window);
            self.sums.entry(window.to_owned()).or_default();
            for key in std::mem::take(&mut self.done) {
                self.forget(&key);
            }
        }
        while let Some((at, key)) = self.expiry.first()
            && *at <= now
        {
            let key = key.clone();
            self.release(&key)?;
        }
        Ok(())
    }

    /// Holds what an operation asks beyond what it holds or used already; `fits` refuses what is too much.
    pub(super) fn reserve(
        &mut self,
        mut row: Reservation,
        asked: &Amount,
        fits: impl FnOnce(&Self, &Amount) -> Result<()>,
    ) -> Result<()> {
        if let Some(known) = self.operations.get(&row.operation) {
            let repriced = known.held.money.zip(asked.money).is_some_and(|(a, b)| a.currency != b.currency);
            let here = known.place == row.place;
            if repriced || !here {
                // begun in another window or at another currency: what it holds there is given back first
                self.release(&row.operation)?;
            }
            if let Some(known) = self.operations.get(&row.operation)
                && here
            {
                (row.held, row.used) = (known.held, known.used);
            }
        }
        let more = asked.beyond(&row.held.plus(&row.used)?)?;
        if !more.is_zero() {
            fits(self, &more)?;
            self.add(&row.place, &more)?;
            row.held = row.held.plus(&more)?;
        }
        match self.operations.get(&row.operation).map(|r| r.expires) {
            Some(Some(at)) => drop(self.expiry.remove(&(at, row.operation.clone()))),
            Some(None) => self.done.retain(|k| *k != row.operation),
            None => {}
        }
        self.expiry.extend(row.expires.map(|at| (at, row.operation.clone())));
        self.keep(row);
        Ok(())
    }

    /// What is held becomes what was used.
    pub(super) fn settle(&mut self, place: &Place, operation: &OperationKey, used: &Amount) -> Result<()> {
        if self.operations.get(operation).is_some_and(|r| r.place == *place) {
            self.release(operation)?;
            // a read that is done is forgotten: repeated, it is charged again
            if let Some(mut row) = self.operations.get(operation).cloned() {
                row.used = row.used.plus(used)?;
                self.keep(row);
            }
        }
        // also where it expired, moved to another window or was forgotten: it was used
        self.add(place, used)
    }

    /// What counts in one scope, with the money of one currency.
    pub(super) fn used(&self, scope: &str, currency: Option<Currency>) -> Amount {
        let Some(sum) = self.sums.get(&self.window).and_then(|of| of.get(scope)) else {
            return Amount { money: currency.map(|c| Money::new(Decimal::ZERO, c)), ..Amount::default() };
        };
        let money = currency.map(|c| Money::new(sum.money.get(&c).copied().unwrap_or_default(), c));
        Amount { calls: sum.calls, tokens: sum.tokens, money }
    }

    /// What is not written yet.
    pub(super) fn take_changes(&mut self) -> Changes {
        self.writing = false;
        std::mem::take(&mut self.changes)
    }

    /// It could not be written: it still must be, and nobody is on the way.
    pub(super) fn put_back(&mut self, changes: Changes) {
        self.writing = false;
        for ((place, _), amount) in changes.sums {
            if let Err(e) = self.note(&place, &amount) {
                tracing::error!(error = %e, "what calls used is too much to be exact and will not be in the file");
            }
        }
        for (key, row) in changes.operations {
            self.changes.operations.entry(key).or_insert(row);
        }
    }

    fn release(&mut self, operation: &OperationKey) -> Result<()> {
        let Some(mut row) = self.operations.remove(operation) else { return Ok(()) };
        self.add(&row.place, &row.held.negated())?;
        row.held = Amount::default();
        let Some(at) = row.expires.take() else {
            self.operations.insert(operation.clone(), row);
            return Ok(());
        };
        self.expiry.remove(&(at, operation.clone()));
        if row.durability == Durability::Enqueued {
            return Ok(());
        }
        self.done.push_back(operation.clone());
        self.keep(row);
        while self.done.len() > REMEMBERED
            && let Some(oldest) = self.done.pop_front()
        {
            self.forget(&oldest);
        }
        Ok(())
    }

    fn keep(&mut self, row: Reservation) {
        if row.durability == Durability::Durable {
            self.changes.operations.insert(row.operation.clone(), Some(row.clone()));
        }
        self.operations.insert(row.operation.clone(), row);
    }

    fn forget(&mut self, operation: &OperationKey) {
        self.operations.remove(operation);
        self.changes.operations.insert(operation.clone(), None);
    }

    fn add(&mut self, place: &Place, amount: &Amount) -> Result<()> {
        if amount.is_zero() {
            return Ok(());
        }
        // of an older window only the file knows the sums
        if let Some(of) = self.sums.get_mut(&place.window) {
            for scope in [TENANT, place.employee.as_str()] {
                match of.get_mut(scope) {
                    Some(sum) => sum.add(amount)?,
                    None => of.entry(scope.to_owned()).or_default().add(amount)?,
                }
            }
        }
        self.note(place, amount)
    }

    fn note(&mut self, place: &Place, amount: &Amount) -> Result<()> {
        let key = (place.clone(), amount.money.map(|m| m.currency));
        let change = self.changes.sums.entry(key).or_default();
        *change = change.plus(amount)?;
        Ok(())
    }
}

impl Sum {
    fn add(&mut self, amount: &Amount) -> Result<()> {
        self.calls = self.calls.saturating_add(amount.calls);
        self.tokens = self.tokens.saturating_add(amount.tokens);
        if let Some(m) = amount.money {
            let sum = self.money.entry(m.currency).or_default();
            *sum = exact::add(*sum, m.amount).ok_or_else(|| too_large("quota.reserve"))?;
        }
        Ok(())
    }
}
