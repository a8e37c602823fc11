//! What one tenant's work asks of Redis touches nothing of another's, and nothing outside of the prefix.

use std::collections::{BTreeMap, BTreeSet};

use forge_core::queue::{Broker, Nack, TaskQueue, TaskState};
use forge_core::{Error, ErrorKind, OperationKey};
use forge_queue::dead::{DeadLetters, LetterFilter};
use forge_queue::limits::{QueueControl, QueueLimits};
use serde_json::json;

use crate::world::{Monitor, PREFIX, World, ctx, index};

/// Everything that the queue can do, for two tenants.
async fn everything(w: &World) {
    for tenant in ["acme", "globex"] {
        let (ctx, id) = (ctx(tenant), ctx(tenant).tenant().clone());
        w.broker.set_limits(&id, QueueLimits::default().with_rate(1000.0).with_running(100)).await.unwrap();
        let unique = index(1).with_unique(OperationKey::derived(&[b"k"])).with_max_retries(0);
        let dead = w.broker.enqueue(&ctx, unique).await.unwrap();
        let waiting = w.broker.enqueue(&ctx, index(2).with_delay(std::time::Duration::from_secs(60))).await.unwrap();
        let lease = w.lease(1).await.remove(0);
        w.broker.renew(&lease, crate::world::VISIBILITY).await.unwrap();
        let report = Error::new(ErrorKind::Unavailable, "t", "down").report();
        w.broker.nack(&lease, Nack::Dead { report }).await.unwrap();
        w.broker.dead_letters(&ctx, &LetterFilter::default(), 9).await.unwrap();
        w.broker.replay(&ctx, dead).await.unwrap();
        w.broker.ack(&w.lease(1).await.remove(0), json!("done")).await.unwrap();
        assert_eq!(w.broker.status(&ctx, dead).await.unwrap().state, TaskState::Succeeded { result: json!("done") });
        assert!(w.broker.cancel(&ctx, waiting).await.unwrap());
        w.broker.depth(&ctx).await.unwrap();
        w.broker.pause(&id).await.unwrap();
        w.broker.resume(&id).await.unwrap();
        w.broker.drop_waiting(&id).await.unwrap();
    }
}

fn tenants_in(words: &[String]) -> BTreeSet<&'static str> {
    let key = |w: &String| w.starts_with(PREFIX);
    let of = |t: &'static str| {
        let (own, below) = (format!("{PREFIX}{t}.default"), format!("{PREFIX}forge:{t}:"));
        words.iter().filter(|w| key(w)).any(|w| w.starts_with(&own) || w.starts_with(&below)).then_some(t)
    };
    ["acme", "globex"].into_iter().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_no_command_of_a_tenant_touches_anothers_keys() {
    let w = World::new();
    let monitor = Monitor::of(&w.server);
    everything(&w).await;
    let commands = monitor.commands(&w.server);
    let (mut whose, mut seen) = (None, 0);
    for (in_script, words) in &commands {
        let found = tenants_in(words);
        // the listener asks of all lists whether they are there, and of none what is in it
        assert!(found.len() <= 1 || words[0] == "EXISTS", "one command, two tenants: {words:?}");
        if !in_script {
            // a script that works for one tenant is told which, behind prefix and time
            whose = (words[0] == "EVALSHA").then(|| words[5].as_str()).filter(|t| ["acme", "globex"].contains(t));
        }
        if let (Some(tenant), Some(found)) = (whose, found.first()) {
            assert_eq!(&tenant, found, "a script of one tenant at the other's: {words:?}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen} commands were looked at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_is_below_the_prefix() {
    let w = World::new();
    everything(&w).await;
    let keys = w.server.cli(&["KEYS", "*"]);
    assert!(keys.lines().count() > 5 && keys.lines().all(|k| k.starts_with(PREFIX)), "{keys}");
}

/// A command, when it came, and each of its options with when that came.
type Since = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// The queue says that Redis 6.2 is enough.
const SINCE: [Since; 45] = [
    ("CLIENT", "6.0", &[("TRACKING", "6.0"), ("ON", "6.0"), ("SETINFO", "7.2")]),
    ("DEL", "1.0", &[]),
    ("ECHO", "1.0", &[]),
    ("EVALSHA", "2.6", &[]),
    ("EXEC", "1.2", &[]),
    ("EXISTS", "1.0", &[]),
    ("GET", "1.0", &[]),
    ("HDEL", "2.0", &[]),
    ("HELLO", "6.0", &[]),
    ("HEXISTS", "2.0", &[]),
    ("HGET", "2.0", &[]),
    ("HLEN", "2.0", &[]),
    ("HMGET", "2.0", &[]),
    ("HSET", "4.0", &[]),
    ("INCR", "1.0", &[]),
    ("INFO", "1.0", &[]),
    ("LLEN", "1.0", &[]),
    ("LPUSH", "2.4", &[]),
    ("MULTI", "1.2", &[]),
    ("PING", "1.0", &[]),
    ("PUBLISH", "2.0", &[]),
    ("RPOP", "6.2", &[]),
    ("RPUSH", "2.4", &[]),
    ("SADD", "2.4", &[]),
    ("SCRIPT", "2.6", &[("LOAD", "2.6")]),
    ("SELECT", "1.0", &[]),
    ("SET", "1.0", &[("EX", "2.6"), ("NX", "2.6"), ("XX", "2.6"), ("KEEPTTL", "6.0"), ("GET", "6.2"), ("EXAT", "6.2")]),
    ("SMEMBERS", "1.0", &[]),
    ("SUBSCRIBE", "2.0", &[]),
    ("TIME", "2.6", &[]),
    ("WATCH", "2.2", &[]),
    ("ZADD", "2.4", &[("NX", "3.0"), ("XX", "3.0"), ("LT", "6.2"), ("GT", "6.2")]),
    ("ZCARD", "1.2", &[]),
    ("ZMSCORE", "6.2", &[]),
    ("ZRANGE", "1.2", &[("WITHSCORES", "1.2"), ("BYSCORE", "6.2"), ("REV", "6.2")]),
    ("ZRANGEBYSCORE", "1.0", &[("LIMIT", "1.0"), ("WITHSCORES", "1.0")]),
    ("ZREM", "2.4", &[]),
    ("ZREMRANGEBYSCORE", "1.2", &[]),
    ("ZREVRANGE", "1.2", &[]),
    ("ZSCORE", "1.2", &[]),
    ("HSETNX", "2.0", &[]),
    ("MGET", "1.0", &[]),
    ("RPOPLPUSH", "1.2", &[]),
    ("SREM", "2.4", &[]),
    ("EXPIRE", "1.0", &[("NX", "7.0"), ("GT", "7.0")]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_6_2_is_enough() {
    let w = World::bound();
    let monitor = Monitor::of(&w.server);
    w.broker.verify().await.unwrap();
    everything(&w).await;
    w.broker.wait(std::time::Duration::ZERO).await;
    let known: BTreeMap<_, _> = SINCE.iter().map(|(name, since, options)| (*name, (*since, *options))).collect();
    let mut sent = BTreeMap::new();
    for (_, words) in monitor.commands(&w.server) {
        let name = words[0].to_uppercase();
        let (since, options) = known.get(name.as_str()).unwrap_or_else(|| panic!("when did {name} come? {words:?}"));
        sent.insert(name, *since);
        for (option, since) in *options {
            if words.iter().any(|w| w.eq_ignore_ascii_case(option)) {
                sent.insert(format!("{} {option}", words[0]), since);
            }
        }
    }
    let late: Vec<_> = sent.iter().filter(|(_, since)| ***since > *"6.2").collect();
    assert!(late.is_empty() && sent.len() > 20, "{late:?} of {sent:?}");
}
