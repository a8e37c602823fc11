//! The rounds: twenty for CI, as many as are asked for by `scripts/soak.sh`.

use futures::StreamExt;

use crate::ground::Ground;
use crate::ledger::Ledger;
use crate::round::Round;

/// `FORGE_SOAK_ROUNDS` (20) and `FORGE_SOAK_SEED` (1).
pub(crate) fn of_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
}

/// So many of twenty rounds on this ground.
async fn rounds(of_twenty: u64, ground: fn() -> Ground) {
    let rounds = (of_environment("FORGE_SOAK_ROUNDS", 20) * of_twenty).div_ceil(20);
    let first = of_environment("FORGE_SOAK_SEED", 1);
    let mut all = Ledger::default();
    // a round waits more than it works
    let round = |seed| async move {
        let ground = tokio::task::spawn_blocking(ground).await.unwrap();
        (ground.to_string(), Round { ground, seed }.run().await)
    };
    let mut ran = futures::stream::iter(first..first + rounds).map(round).buffered(2);
    let mut of = String::new();
    while let Some((name, (mut ledger, what))) = ran.next().await {
        of = name;
        println!("{what}: {ledger}");
        for wrong in &mut ledger.wrong {
            println!("  {wrong}");
            *wrong = format!("{what}: {wrong}");
        }
        all.add(ledger);
    }
    println!("{of}, {rounds} rounds: {all}");
    assert!(all.accepted > 0 && all.done > 0 && all.dead > 0, "the rounds did something");
    assert_eq!(all.lost, 0);
    assert_eq!(all.accepted, all.done + all.dead);
    assert!(all.wrong.is_empty(), "{:#?}", all.wrong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server() {
    rounds(14, Ground::single).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_sentinel() {
    rounds(3, Ground::sentinel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster() {
    rounds(2, Ground::cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls() {
    rounds(1, Ground::tls).await;
}
