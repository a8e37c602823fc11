//! `celery status` and `celery inspect`.

use forge_core::TenantId;
use forge_queue::redis::presence::{Exchanges, PresenceOptions};
use forge_redis::redis::{self, AsyncCommands as _};
use serde_json::{Value, json};

use crate::world::{NAME, World, next};

/// Each command's own words, by command; `-j` prints JSON.
const ASK: &str = r#"
said = {name: cli("inspect", name, "-j", "-t", "5", "-d", "forge1@test") for name in (
    "ping", "stats", "active", "registered", "active_queues", "reserved", "scheduled", "revoked", "conf", "clock")}
said["query_task"] = cli("inspect", "query_task", "held-1", "none", "-j", "-t", "5", "-d", "forge1@test")
said["report"] = cli("inspect", "report", "-t", "5", "-d", "forge1@test")
said["elsewhere"] = cli("inspect", "ping", "-j", "-t", "0.5", "-d", "w9@test")
said["status"] = cli("status", "-t", "1")
for command in (["shutdown"], ["pool_grow", "2"], ["rate_limit", "t.add", "5/m"], ["time_limit", "t.add", "1", "2"],
                ["cancel_consumer", "celery"], ["revoke", "held-1"], ["autoscale", "2", "1"]):
    said[command[0]] = cli("control", *command, "-t", "5", "-d", "forge1@test")
said["enable_events"] = cli("control", "enable_events", "-t", "5", "-d", "forge1@test")
said["nonsense"] = app.control.broadcast("non'sense", reply=True, timeout=5, limit=1)
print(json.dumps(said))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn celery_finds_the_worker_among_its_own() {
    let world = World::start();
    let presence = world.broker.present(PresenceOptions::new(NAME)).unwrap();
    let twice = world.broker.present(PresenceOptions::new(NAME));
    assert!(twice.is_err_and(|e| e.kind() == forge_core::ErrorKind::Config), "a name is taken once");
    let mut holding = world.work();
    world
        .python("app.send_task('t.add', (2, 3), task_id='add-1')\napp.send_task('t.hold', ('secret',), task_id='held-1')\nprint(json.dumps(results('add-1')))")
        .await;
    let held = next(&mut holding).await;
    let said = world.python(ASK).await;
    let answer = |command: &str| -> Value {
        let text = said[command].as_str().unwrap();
        let all: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{command}: {e}: {text}"));
        all[NAME].clone()
    };
    let text = |command: &str| said[command].as_str().unwrap();

    assert_eq!(answer("ping"), json!({"ok": "pong"}));
    assert_eq!(answer("registered"), json!(["t.add", "t.fail", "t.hold"]));
    assert_eq!((answer("reserved"), answer("scheduled"), answer("revoked")), (json!([]), json!([]), json!([])));
    let stats = answer("stats");
    assert_eq!(stats["total"], json!({"t.add": 1, "t.hold": 1}));
    assert_eq!(stats["pool"]["max-concurrency"], 4);
    assert_eq!(stats["pid"], std::process::id());
    let active = answer("active");
    assert_eq!(
        (&active[0]["id"], &active[0]["name"], &active[0]["hostname"], active.as_array().unwrap().len()),
        (&json!("held-1"), &json!("t.hold"), &json!(NAME), 1)
    );
    assert_eq!((&active[0]["args"], &active[0]["delivery_info"]["routing_key"]), (&json!("..."), &json!("celery")));
    assert_eq!(answer("query_task")["held-1"][0], "active");
    let queues: Vec<String> =
        answer("active_queues").as_array().unwrap().iter().map(|q| q["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(queues, ["celery", "other"]);
    assert_eq!(answer("conf")["control_exchange"], "celery");
    assert!(answer("clock")["clock"].as_u64().unwrap() > 0);
    assert!(text("report").contains("forge-queue:"), "{}", text("report"));
    assert!(
        text("status").contains("forge1@test: OK") && text("status").contains("1 node online"),
        "{}",
        text("status")
    );
    assert!(text("elsewhere").contains("No nodes replied"), "{}", text("elsewhere"));
    for refused in ["shutdown", "pool_grow", "rate_limit", "time_limit", "cancel_consumer", "revoke", "autoscale"] {
        assert!(text(refused).contains("ERROR") || text(refused).contains("error"), "{refused}: {}", text(refused));
    }
    assert!(text("enable_events").contains("task events enabled"), "{}", text("enable_events"));
    assert_eq!(said["nonsense"], json!([{NAME: {"error": "KeyError(\"non'sense\")"}}]));
    assert!(!said.to_string().contains("secret"), "no payload is shown: {said}");
    assert!(!held.lost.is_cancelled(), "what is not allowed is not done");
    presence.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_allows_is_done() {
    let world = World::start();
    let mut options = PresenceOptions::new(NAME);
    let (shutdown, grown) =
        (tokio_util::sync::CancellationToken::new(), std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0)));
    let by = grown.clone();
    options.allow.consumers = true;
    options.shutdown = Some(shutdown.clone());
    options.resize = Some(std::sync::Arc::new(move |n| {
        by.fetch_add(n, std::sync::atomic::Ordering::SeqCst);
    }));
    let _presence = world.broker.present(options).unwrap();
    let _holding = world.work();
    let said = world
        .python(
            r#"
def control(*args):
    return cli("control", *args, "-t", "5", "-d", "forge1@test")
said = {"bad": control("add_consumer", "elsewhere"), "stop": control("cancel_consumer", "celery")}
app.send_task("t.add", (1, 1), task_id="waits")
app.send_task("t.add", (2, 2), task_id="runs", queue="other")
said["other"] = results("runs")
said["waits"] = app.AsyncResult("waits").state
said["grow"] = control("pool_grow", "3") + control("pool_shrink", "1")
said["go"] = control("add_consumer", "celery")
said["after"] = results("waits")
said["shutdown"] = control("shutdown")
print(json.dumps(said))
"#,
        )
        .await;
    assert!(said["bad"].as_str().unwrap().contains("not one that others push to"), "{said}");
    assert!(said["stop"].as_str().unwrap().contains("no longer consuming from celery"), "{said}");
    assert_eq!((&said["other"]["runs"], &said["waits"]), (&json!(["SUCCESS", 4]), &json!("PENDING")), "{said}");
    assert_eq!(said["after"]["waits"], json!(["SUCCESS", 2]), "{said}");
    assert_eq!(grown.load(std::sync::atomic::Ordering::SeqCst), 2, "{said}");
    assert!(shutdown.is_cancelled(), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_a_tenant_with_exchanges_of_its_own_is_alone_there() {
    let world = World::start();
    let of = |tenant: &str| {
        let mut options = PresenceOptions::of_tenant(format!("{tenant}@test"), TenantId::parse(tenant).unwrap());
        let mut exchanges = Exchanges::default();
        (exchanges.control, exchanges.events) = (tenant.to_owned(), format!("{tenant}ev"));
        options.exchanges = Some(exchanges);
        world.broker.present(options).unwrap()
    };
    let _both = (of("acme"), of("globex"));
    let ask = |control: &str| {
        format!(
            "app.conf.update(control_exchange='{control}', event_exchange='{control}ev')\n\
            print(json.dumps(app.control.inspect(timeout=1).active_queues()))"
        )
    };
    let said = world.python(&ask("acme")).await;
    assert_eq!(said.as_object().unwrap().keys().collect::<Vec<_>>(), ["acme@test"], "{said}");
    assert_eq!((&said["acme@test"][0]["name"], said["acme@test"].as_array().unwrap().len()), (&json!("celery"), 1));
    let said = world.python(&ask("celery")).await;
    assert_eq!(said, json!(null), "isolation: nobody listens on the exchanges that all share");

    world.server.cli(&[
        "ACL",
        "SETUSER",
        "globex",
        "on",
        "nopass",
        "~*",
        "+@all",
        "resetchannels",
        "&{t}:/0.globex.pidbox",
    ]);
    let url = world.server.url().replace("//", "//globex:x@");
    let mut globex = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let own: redis::RedisResult<i64> = globex.publish("{t}:/0.globex.pidbox", "").await;
    assert_eq!(own.unwrap(), 1);
    let others: redis::RedisResult<i64> = globex.publish("{t}:/0.acme.pidbox", "").await;
    assert!(others.is_err(), "isolation: the server keeps a tenant's programs from another's channel");
}
