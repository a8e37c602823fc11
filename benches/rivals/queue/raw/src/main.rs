//! The bare broker: messages of Celery, made beforehand, by pipelined LPUSH. What no client of Redis lists can beat by much.
//! The command line and the line that it prints are those of `benches/rivals/README.md`; `enqueue` is the only mode.
//!
//! `CONCURRENCY` connections with a thread each, 100 commands to a pipeline.

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use cpu_time::ProcessTime;
use serde_json::json;
use uuid::Uuid;

const PIPELINE: usize = 100;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mode, url, n, concurrency] = args.as_slice() else {
        return Err("usage: rival-raw enqueue REDIS_URL N CONCURRENCY".into());
    };
    if mode != "enqueue" {
        return Err(format!("no such mode: {mode}").into());
    }
    let (n, concurrency) = (n.parse::<usize>()?, concurrency.parse::<usize>()?);
    let (wall, cpu) = enqueue(url, n, concurrency)?;
    println!(
        "{}",
        json!({
            "rival": "raw", "mode": mode, "n": n, "concurrency": concurrency,
            "seconds": wall.as_secs_f64(), "per_second": n as f64 / wall.as_secs_f64(), "cpu_seconds": cpu.as_secs_f64(),
            "p50_ms": null, "p99_ms": null,
        })
    );
    Ok(())
}

fn enqueue(url: &str, n: usize, concurrency: usize) -> Result<(Duration, Duration), Failure> {
    let client = redis::Client::open(url)?;
    let messages: Vec<String> = (0..n).map(envelope).collect();
    let shares: Vec<_> = messages
        .chunks(n.div_ceil(concurrency).max(1))
        .map(|share| Ok((client.get_connection()?, share)))
        .collect::<redis::RedisResult<_>>()?;
    let began = (Instant::now(), ProcessTime::now());
    thread::scope(|scope| {
        let pushers = shares.into_iter().map(|(mut connection, share)| {
            scope.spawn(move || {
                for some in share.chunks(PIPELINE) {
                    let mut pipeline = redis::pipe();
                    for message in some {
                        pipeline.lpush("celery", message).ignore();
                    }
                    pipeline.query::<()>(&mut connection)?;
                }
                redis::RedisResult::Ok(())
            })
        });
        for pusher in pushers.collect::<Vec<_>>() {
            pusher.join().map_err(|_| "a pusher panicked")??;
        }
        Ok((began.0.elapsed(), began.1.elapsed()))
    })
}

/// What Celery 5.7 writes for `noop.apply_async((i,))`, but for spaces and the order of keys.
fn envelope(i: usize) -> String {
    let id = Uuid::new_v4();
    let body = format!(r#"[[{i}], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#);
    json!({
        "body": BASE64_STANDARD.encode(body), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {
            "lang": "py", "task": "rival.noop", "id": id, "shadow": null, "eta": null, "expires": null, "group": null,
            "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": id, "parent_id": null,
            "argsrepr": format!("({i},)"), "kwargsrepr": "{}", "origin": "gen11516@host", "ignore_result": false,
            "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {},
        },
        "properties": {
            "correlation_id": id, "reply_to": "8e3b2945-7470-38b1-8eee-c28cac14bb71", "delivery_mode": 2,
            "delivery_info": { "exchange": "", "routing_key": "celery" }, "priority": 0, "body_encoding": "base64",
            "delivery_tag": Uuid::new_v4(),
        },
    })
    .to_string()
}
