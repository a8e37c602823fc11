//! A backend of one's own: one struct, one trait, and the suite that says whether it is right. Run it as a test, too.
//!
//! ```sh
//! cargo run --example custom_backend --features testing
//! ```

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a program that prints what it shows, and asserts it"
)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use forge::core::fake::ManualClock;
use forge::core::kv::{Entry, KeyValue, KeyValueCapability, PutMode, PutOptions, same_tenant};
use forge::core::testing::{Fixture, key_value};
use forge::core::{Clock, Depth, Health, HealthCheck, Namespace, Timestamp};
use forge::prelude::*;

type Rows = HashMap<(Namespace, String), (Entry, Option<Timestamp>)>;
/// Values in a map, each with its version and its end. The namespace holds the tenant, so it is part of the key.
#[derive(Debug)]
struct MapStore {
    rows: Mutex<(u64, Rows)>,
    clock: Arc<dyn Clock>,
}

impl MapStore {
    fn live(&self, row: Option<&(Entry, Option<Timestamp>)>) -> Option<Entry> {
        row.filter(|(_, ends)| ends.is_none_or(|at| at > self.clock.now())).map(|(entry, _)| entry.clone())
    }
}

#[async_trait]
impl HealthCheck for MapStore {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl KeyValue for MapStore {
    async fn get(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Option<Entry>> {
        same_tenant("map.get", ctx, namespace)?;
        Ok(self.live(self.rows.lock().expect("no panic").1.get(&(namespace.clone(), key.to_owned()))))
    }

    async fn put(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        key: &str,
        value: bytes::Bytes,
        options: PutOptions,
    ) -> Result<u64> {
        same_tenant("map.put", ctx, namespace)?;
        let fits = (1..=512).contains(&key.len()).then_some(());
        fits.ok_or_else(|| Error::invalid("map.put", "a key has 1 to 512 bytes"))?;
        let mut rows = self.rows.lock().expect("nobody panicked");
        let place = (namespace.clone(), key.to_owned());
        let old = self.live(rows.1.get(&place)).map(|e| e.version);
        let fits = match options.mode {
            PutMode::Create => old.is_none(),
            PutMode::Match(version) => old == Some(version),
            PutMode::Overwrite => true,
        };
        if !fits {
            return Err(Error::new(ErrorKind::Conflict, "map.put", "another write was first; read and try again"));
        }
        rows.0 += 1;
        let version = rows.0;
        rows.1.insert(place, (Entry { value, version }, options.ttl.map(|ttl| self.clock.now().after(ttl))));
        Ok(version)
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool> {
        same_tenant("map.delete", ctx, namespace)?;
        let old = self.rows.lock().expect("nobody panicked").1.remove(&(namespace.clone(), key.to_owned()));
        Ok(self.live(old.as_ref()).is_some())
    }

    fn capability(&self) -> KeyValueCapability {
        KeyValueCapability::new(false, usize::MAX)
    }
}

#[tokio::main]
async fn main() {
    key_value(|| async {
        let clock = Arc::new(ManualClock::default());
        let store = MapStore { rows: Mutex::default(), clock: clock.clone() };
        Fixture::new(Arc::new(store) as Arc<dyn KeyValue>).with_clock(clock)
    })
    .await;
    println!("MapStore keeps the contract of KeyValue, bare and behind the guard");
}
