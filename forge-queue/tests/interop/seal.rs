//! Seals that Python makes and opens, and what Celery does with them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::fake::{FakePolicy, FakeRedactor};
use forge_core::metrics::NoMetrics;
use forge_core::queue::{Lease, NewTask, TaskHandler, TaskQueue, TaskState};
use forge_core::secret::Secret;
use forge_core::testing::fake_guard;
use forge_core::{
    CaseId, ExecutionContext, Principal, RequestId, Result, SecurityLevel, SessionId, Slug, SystemClock, UserId,
};
use forge_dlp::FileKeyring;
use forge_queue::celery::{Embed, Envelope, Limits};
use forge_queue::dead::{DeadLetter, DeadLetters, LetterFilter};
use forge_queue::worker::{Worker, WorkerParts};
use serde_json::{Map, Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::world::{World, context, slug, until};

/// A world whose keys are real: those of the golden seal, which `sealed.py` has too.
struct Sealed {
    world: World,
    keyring: Arc<FileKeyring>,
    _keys: tempfile::TempDir,
}

impl Sealed {
    async fn new() -> Self {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/python/golden/seal.json");
        let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
        let master = Secret::new(golden["master_key"].as_str().unwrap());
        let keys = tempfile::tempdir().unwrap();
        let keyring = Arc::new(FileKeyring::open(keys.path(), Some(master)).await.unwrap());
        let world = World::with_keyring(keyring.clone());
        world.server.cli(&["SADD", "{t}:forge:tenants", "acme", "globex"]);
        Self { world, keyring, _keys: keys }
    }

    /// The worker that hosts run.
    fn serve(&self) -> AbortOnDropHandle<()> {
        let clock = Arc::new(SystemClock);
        let worker = Worker::new(WorkerParts {
            broker: Arc::new(self.world.broker.clone()),
            guard: fake_guard(FakePolicy::allow_all(), clock.clone()).guard,
            redactor: Arc::new(FakeRedactor),
            keyring: self.keyring.clone(),
            metrics: Arc::new(NoMetrics),
            clock,
            concurrency: 4,
            visibility: Duration::from_secs(30),
        });
        let worker = worker.handler(&slug("rs.who"), Arc::new(Who)).handler(&slug("rs.add"), Arc::new(Who));
        AbortOnDropHandle::new(tokio::spawn(async move { worker.run().await }))
    }

    async fn python(&self, code: &str) -> Value {
        self.world.python(&format!("from sealed import *\n{code}")).await
    }

    async fn letters(&self, tenant: &str, n: usize) -> Vec<DeadLetter> {
        until("the dead letters", async || {
            let filter = LetterFilter::default();
            let letters = self.world.broker.dead_letters(&context(tenant), &filter, 99).await.unwrap();
            Some(letters).filter(|l| l.len() >= n)
        })
        .await
    }

    /// Takes what Python pushed.
    fn taken(&self, queue: &str) -> Vec<Envelope> {
        let list = format!("{{t}}:{queue}");
        let raw = self.world.server.cli(&["LRANGE", &list, "0", "-1"]);
        self.world.server.cli(&["DEL", &list]);
        raw.lines()
            .filter(|l| !l.is_empty())
            .map(|l| Envelope::parse(l.as_bytes(), &Limits::default()).unwrap())
            .collect()
    }
}

/// Answers as whom it runs.
#[derive(Debug)]
struct Who;

#[async_trait]
impl TaskHandler for Who {
    async fn handle(&self, ctx: &ExecutionContext, _: &Lease) -> Result<Value> {
        Ok(who(ctx))
    }
}

fn who(ctx: &ExecutionContext) -> Value {
    json!({
        "tenant": ctx.tenant(), "employee": ctx.employee(), "role": ctx.role(), "user": ctx.user(),
        "security_level": ctx.security_level(), "compliance_flags": ctx.compliance_flags(),
        "request": ctx.request_id(), "case": ctx.case_id(), "session": ctx.session_id(),
        "on_behalf_of": ctx.on_behalf_of(), "trace": ctx.trace(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_python_seals_runs_as_whom_it_names() {
    let w = Sealed::new().await;
    let _rust = w.serve();
    let seen = w
        .python(
            r#"
day = __import__("datetime").datetime(2026, 1, 2, 3, 4, 5, tzinfo=__import__("datetime").timezone.utc)
seen = {"expected": who()}
def ask(name, result):
    seen[name] = result.get(timeout=20)
    return result
to = {"queue": "acme.default"}
ask("headers", sig("rs.who", "ä", 1.5e16, day).apply_async(headers=forge_seal.headers(ANA), **to))
ask("packed", forge_seal.apply_async(sig("rs.who"), principal=ANA, compression="gzip", priority=5, **to))
ask("later", forge_seal.apply_async(sig("rs.who"), principal=ANA, countdown=0.2, expires=60, task_id="no uuid", **to))
linked = ask("linked", sig("rs.add").apply_async(link=sig("rs.who", queue="acme.default"), headers=forge_seal.headers(ANA), **to))
seen["follower"] = linked.children[0].get(timeout=20)
golden = GOLDEN["task"] | {"body": GOLDEN["task"]["body"].encode()}
principal = forge_seal.Principal(**GOLDEN["principal"])
times = {name: forge_seal._parse(GOLDEN[name]) for name in ("issued", "not_after")}
seen["golden"] = forge_seal.seal(forge_seal.Context(principal, **GOLDEN["context"]), **golden, **times) == GOLDEN["sealed"]
forged = GOLDEN["sealed"] | {"header": GOLDEN["sealed"]["header"].replace("acme", "globex")}
def opens(sealed=GOLDEN["sealed"], **change):
    try:
        return forge_seal.open_sealed(sealed, **({"now": times["issued"]} | golden | change)).principal == principal
    except forge_seal.SealError:
        return False
changes = [{"body": b"x"}, {"queue": "rsq"}, {"name": "x"}, {"task_id": "x"}, {"now": times["not_after"]}, {"key": bytes(32)}]
seen["opens"] = [opens(), opens(forged), *(opens(**c) for c in changes)]
fine, refused = {"tenant": "acme", "employee": "ana", "role": "analyst"}, 0
wrong = [{"tenant": "Acme"}, {"tenant": "acme\n"}, {"employee": "a..b"}, {"employee": "system.x"}, {"role": ""}, {"user": "a b"}]
for bad in wrong + [{"security_level": "none"}, {"compliance_flags": ("GDPR",)}]:
    try:
        forge_seal.headers(forge_seal.Principal(**fine | bad))
    except forge_seal.SealError:
        refused += 1
for key in ("", "ä", "AAAA", b"1", lambda: None):
    try:
        forge_seal.headers(ANA, key=key)
    except forge_seal.SealError:
        refused += 1
seen["refused"] = refused
try:
    celery.chain(sig("rs.add"), sig("rs.who").set(headers=forge_seal.headers(ANA))).apply_async(**to)
except Exception as e:
    seen["inside a chain"] = str(e)
print(json.dumps(seen))
"#,
        )
        .await;
    for name in ["headers", "packed", "later", "linked", "follower"] {
        assert_eq!(seen[name], seen["expected"], "{name}");
    }
    assert_eq!((&seen["golden"], &seen["refused"]), (&json!(true), &json!(13)));
    assert_eq!(seen["opens"], json!([true, false, false, false, false, false, false, false]), "isolation");
    assert!(seen["inside a chain"].as_str().unwrap().contains("stamp()"), "{seen}");
    assert_eq!(seen["expected"]["compliance_flags"], json!(["gdpr", "hipaa"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_hold_is_refused_with_its_reason() {
    let w = Sealed::new().await;
    w.python(
        r#"
for principal, more in ((ANA, {}), (ANA, {}), (ANA, {}), (ANA, {"lifetime": -1}), (ANA, {"key": bytes(32)}), (GLOBEX, {}), (ANA, {})):
    forge_seal.apply_async(sig("rs.who", 7), principal=principal, queue="acme.default", **more)
print("null")
"#,
    )
    .await;
    let mut messages = w.taken("acme.default");
    messages.reverse();
    let [body, queue, mut name, expired, key, foreign, good] = <[Envelope; 7]>::try_from(messages).unwrap();
    let other = body.clone().with_content(vec![8.into()], Map::new(), Embed::default()).unwrap();
    name.task = "rs.add".to_owned();
    let cases = [
        (other, "acme.default", "unauthenticated", "the seal belongs to another body"),
        (queue, "rsq", "unauthenticated", "the seal belongs to another queue"),
        (name, "acme.default", "unauthenticated", "the seal belongs to another task or run"),
        (expired, "acme.default", "unauthenticated", "the seal is past its time"),
        (key, "acme.default", "unauthenticated", "the seal's key is not one of this host's"),
        (foreign, "acme.default", "tenant_mismatch", "the sealed context belongs to another tenant than the queue"),
    ];
    for (message, queue, ..) in &cases {
        w.world.push(queue, &message.to_bytes());
    }
    let _rust = w.serve();
    let letters = w.letters("acme", cases.len()).await;
    assert_eq!(letters.len(), cases.len());
    for (message, queue, reason, what) in &cases {
        let letter = letters.iter().find(|l| l.id.to_string() == message.id).unwrap();
        let seen = (letter.reason.as_str(), letter.report.message.as_ref(), letter.queue.as_str());
        assert_eq!(seen, (*reason, *what, *queue), "isolation");
    }

    // what is good runs once
    let key = format!("celery-task-meta-{}", good.id);
    w.world.push("acme.default", &good.to_bytes());
    until("the good one", async || Some(()).filter(|()| w.world.key("GET", &key).contains("SUCCESS"))).await;
    w.world.push("acme.default", &good.to_bytes());
    let letters = w.letters("acme", cases.len() + 1).await;
    assert_eq!(letters.iter().filter(|l| l.reason == "replayed").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn celery_keeps_headers_in_a_retry_and_stamps_in_both() {
    let w = Sealed::new().await;
    let _python = w.world.sealing("pyq");
    let seen = w
        .python(
            r#"
seen = {"expected": who()}
canvas = celery.chain(sig("py.again"), sig("py.again"))
canvas.stamp(**{"x-stamp": "stamped"})
seen["chain"] = canvas.apply_async(headers={"x-test": "header"}).get(timeout=20)
seen["held"] = forge_seal.apply_async(sig("py.held"), principal=ANA, queue="pyq").get(timeout=20)
print(json.dumps(seen))
"#,
        )
        .await;
    let (first, second) =
        (json!({"header": "header", "stamp": "stamped"}), json!({"header": null, "stamp": "stamped"}));
    assert_eq!(seen["chain"], json!([first, second]), "the headers of the first task of a chain, the stamps of all");
    assert_eq!(seen["held"], seen["expected"], "a seal in a header holds after a retry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stamp_holds_in_the_queues_of_its_tenant_and_for_its_tree() {
    let w = Sealed::new().await;
    let _rust = w.serve();
    let _python = w.world.sealing("pyq");
    let seen = w
        .python(
            r#"
seen = {"expected": who()}
def ask(name, canvas, queues=("rsq",), context=ANA):
    result = forge_seal.stamp(canvas, context, queues).apply_async()
    seen[name] = result.get(timeout=20)
one = sig("rs.who")
ask("one", one)
ask("chain", celery.chain(one, sig("py.pass"), one))
ask("chord", celery.chord([sig("py.pass", 1), one], one))
ask("parts", celery.group(one, one))
seen["parts"] = [p == seen["expected"] for p in seen["parts"]]
without = sig("rs.who").apply_async(queue="rsq").get(timeout=20)
seen["without"] = [without["employee"], without["compliance_flags"]]
print(json.dumps(seen))
"#,
        )
        .await;
    for name in ["one", "chain", "chord"] {
        assert_eq!(seen[name], seen["expected"], "{name}");
    }
    assert_eq!(seen["parts"], json!([true, true]));
    assert_eq!(seen["without"], json!(["celery", []]), "least privilege");

    w.python(
        r#"
def send(canvas, context, queues, **options):
    forge_seal.stamp(canvas, context, queues).apply_async(**options)
send(sig("rs.who"), ANA, ["acme.default"], queue="acme.default")
send(sig("rs.who"), GLOBEX, ["rsq"], queue="rsq")
send(sig("rs.who"), ANA, ["rsq"], queue="rsq", root_id="another")
send(sig("rs.who"), ANA, ["rsq"], queue="both")
forged = sig("rs.who")
forged.stamp(**{"x-forge-context:rsq": "{}"})
forged.apply_async(queue="rsq")
# what covers no body is none that covers one
stamped = forge_seal.stamp(sig("rs.who"), ANA, ["acme.default"])
sig("rs.who").apply_async(queue="acme.default", headers={"x-forge-context": stamped.options["x-forge-context:acme.default"]})
print("null")
"#,
    )
    .await;
    let mut letters = w.letters("acme", 6).await;
    letters.sort_by(|a, b| (&a.reason, &a.queue).cmp(&(&b.reason, &b.queue)));
    let reasons: Vec<_> = letters.iter().map(|l| (l.reason.as_str(), l.queue.as_str())).collect();
    let expected = [
        ("bad_seal", "both"),
        ("bad_seal", "rsq"),
        ("bad_seal", "rsq"),
        ("tenant_mismatch", "rsq"),
        ("unauthenticated", "acme.default"),
        ("unsealed", "acme.default"),
    ];
    assert_eq!(reasons, expected, "isolation");

    let again = r#"
once = forge_seal.stamp(sig("rs.who").set(task_id="7e57ab1e-0000-4000-8000-000000000001"), ANA, ["rsq"])
once.apply_async().get(timeout=20)
once.apply_async()
print("null")
"#;
    w.python(again).await;
    let letters = w.letters("acme", 7).await;
    assert_eq!(letters.iter().filter(|l| l.reason == "replayed").count(), 1, "it ran once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenant_and_compliance_survive_rust_to_redis_to_python_to_rust() {
    let w = Sealed::new().await;
    let _python = w.world.sealing("pyq");
    let flag = |f| Slug::parse(f).unwrap();
    let ana = ExecutionContext::issue(Principal::employee("acme", "ana", "analyst").unwrap(), RequestId::fixed(7));
    let ana = ana.with_case(CaseId::parse("Case-7").unwrap()).with_session(SessionId::parse("s.1").unwrap());
    let bo = Principal::employee("acme", "bo", "lawyer").unwrap().with_user(UserId::parse("Bo.1").unwrap());
    let bo = bo.with_security_level(SecurityLevel::Restricted);
    let ctx = ana.on_behalf(bo.with_compliance_flag(flag("hipaa")).with_compliance_flag(flag("gdpr"))).unwrap();
    let _rust = w.serve();
    let id = w.world.broker.enqueue(&ctx, NewTask::new(slug("py.forward"), json!([1]))).await.unwrap();
    let state = until("the answer", async || match w.world.broker.status(&ctx, id).await.unwrap().state {
        TaskState::Ready | TaskState::Leased => None,
        state => Some(state),
    })
    .await;
    assert_eq!(state, TaskState::Succeeded { result: who(&ctx) }, "isolation");
}
