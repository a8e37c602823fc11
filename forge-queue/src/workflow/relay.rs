//! From the journal's outbox to the other books, under the same ids: a repeated relay is a duplicate, which they ignore.

use std::time::Duration;

use forge_core::audit::Durability;
use forge_core::journal::Owed;
use forge_core::{ExecutionContext, Principal, RequestId, Result};
use futures::{StreamExt, stream};

use super::engine::Engine;

const BATCH: usize = 256;
/// Rows on their way at a time: the books commit them together.
const AT_ONCE: usize = 64;
/// A process that writes to the same journal may have added something.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Relays until the engine stops, and once more then.
pub(super) async fn run(engine: Engine) {
    let shared = &engine.0;
    loop {
        let owed = shared.bells.owed.notified();
        if let Err(e) = drain(&engine).await {
            // nothing is lost: what is not relayed stays owed
            tracing::warn!(error = %e, "the outbox could not be relayed; it is tried again");
        }
        if shared.stopping.is_cancelled() && shared.driving().is_empty() {
            if let Err(e) = drain(&engine).await {
                tracing::warn!(error = %e, "the outbox is left to the next start");
            }
            return;
        }
        tokio::select! {
            () = owed => {}
            () = shared.parts.clock.sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Relays everything that is owed now.
pub(super) async fn drain(engine: &Engine) -> Result<()> {
    let journal = &engine.0.parts.journal;
    let (mut after, mut failed) = (0, None);
    loop {
        let owed = journal.owed(after, BATCH).await?;
        let Some(last) = owed.last() else { return failed.map_or(Ok(()), Err) };
        after = last.id;
        let pay = |row: Owed| async move {
            let (id, tenant) = (row.id, row.tenant.clone());
            (id, tenant, pay(engine, row).await)
        };
        let mut paying = stream::iter(owed).map(pay).buffered(AT_ONCE);
        let mut paid = Vec::new();
        while let Some((id, tenant, outcome)) = paying.next().await {
            match outcome {
                Ok(()) => paid.push(id),
                // rows that cannot be written must not hold up those behind them
                Err(e) => {
                    tracing::warn!(%tenant, row = id, error = %e, "an outbox row could not be relayed; it stays owed");
                    failed = Some(e);
                }
            }
        }
        // what a crash keeps from being said here is paid again, and a duplicate
        if !paid.is_empty() {
            journal.paid(&paid).await?;
        }
    }
}

async fn pay(engine: &Engine, row: Owed) -> Result<()> {
    let parts = &engine.0.parts;
    let ctx =
        ExecutionContext::issue(Principal::system(row.tenant.as_str(), "relay")?, RequestId::random(parts.clock.now()));
    if !row.outbox.usage.is_empty() {
        parts.ledger.record(&ctx, row.outbox.usage).await?;
    }
    for record in row.outbox.audit {
        parts.audit.append(&ctx, record, Durability::Durable).await?;
    }
    Ok(())
}
