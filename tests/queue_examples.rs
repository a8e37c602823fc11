//! The examples around the queue on Redis, as processes beside a real Celery.
#![cfg(feature = "queue-redis")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use forge::core::{Clock as _, SystemClock};
use forge_testkit::servers::{Celery, Process, RedisServer};

/// What cargo built beside this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(program.is_file(), "cargo test builds the examples too: {}", program.display());
    program
}

/// An application that only sends: the tasks are another program's.
const APP: &str = "
import os
from celery import Celery
app = Celery('sends', broker=os.environ['BROKER_URL'], backend=os.environ['BROKER_URL'])
app.conf.update(task_default_queue='celery', broker_connection_retry_on_startup=True)
";

struct World {
    server: RedisServer,
    dir: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("sends.py"), APP).unwrap();
        Self { server, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn worker(&self, extra: &[&str]) -> Process {
        let mut command = Command::new(example("celery_worker"));
        command.args(["--redis", &self.server.url(), "--data-dir"]).arg(self.path("worker")).args(extra);
        let process = Process::start(command, &self.path("worker.log"));
        for _ in 0..600 {
            if process.log().contains("serving") {
                return process;
            }
            SystemClock.sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the worker does not serve:\n{}", process.log());
    }

    /// What a piece of Python prints that has the application.
    fn python(&self, code: &str) -> String {
        let out = Celery::python(&self.path("sends.py"), &self.server.url(), &format!("from sends import app\n{code}"));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    fn ctl(&self, args: &[&str]) -> String {
        let config = self.path("forge.toml");
        let data = self.path("worker");
        let text = format!(
            "data_dir = {data:?}\nmaster_key = \"file:{}\"\n[queue.redis]\nurl = {:?}\nbind = \"celery=acme/celery/service\"\n",
            Path::display(&data.join("example-master.key")),
            self.server.url()
        );
        std::fs::write(&config, text).unwrap();
        let out = Command::new(example("queue_ctl")).arg("--config").arg(config).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_calls_the_worker_and_gets_its_answers() {
    let w = World::start();
    let worker = w.worker(&["--queues", "celery,other", "--concurrency", "2"]).await;
    let answers = w.python(
        "a = app.send_task('forge.add', (2, 3))
b = app.send_task('forge.echo', ('hello',), queue='other')
c = app.send_task('forge.add', kwargs={'x': 0.5, 'y': 1})
d = app.send_task('forge.sleep', (0.1,), countdown=1)
e = app.send_task('forge.fail')
print(a.get(timeout=20), b.get(timeout=20), c.get(timeout=20), d.get(timeout=20), e.get(timeout=20, propagate=False))
print(e.state)",
    );
    assert_eq!(answers, "5 hello 1.5 0.1 invalid_input: asked to fail\nFAILURE", "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_sees_bounds_and_replays() {
    let w = World::start();
    let mut worker = w.worker(&[]).await;
    w.python("print(app.send_task('forge.fail').get(timeout=20, propagate=False))");
    let dead = w.ctl(&["--tenant", "acme", "dead"]);
    assert!(dead.contains("forge.fail") && dead.contains("invalid_input") && dead.contains("asked to fail"), "{dead}");
    assert!(w.ctl(&["--tenant", "globex", "dead"]).is_empty(), "isolation: another tenant's letters");
    assert!(w.ctl(&["--tenant", "acme", "dead", "name=other"]).is_empty());
    let id = dead.split_whitespace().next().unwrap();
    let shown = w.ctl(&["--tenant", "acme", "show", id]);
    assert!(shown.contains("queue    celery") && shown.contains("tries    1"), "{shown}");

    w.ctl(&["--tenant", "acme", "limits", "weight=2", "running=7", "rate=100"]);
    w.ctl(&["--tenant", "acme", "pause"]);
    let stats = w.ctl(&["stats"]);
    assert!(stats.contains("weight=2 running=7 rate=100 paused"), "{stats}");
    w.ctl(&["--tenant", "acme", "--as", "celery/service", "replay", id]);
    assert!(w.ctl(&["--tenant", "acme", "dead"]).is_empty(), "it waits");
    w.ctl(&["--tenant", "acme", "resume"]);
    for n in 0.. {
        // it fails again: that it came back is what shows that it ran
        let dead = w.ctl(&["--tenant", "acme", "dead"]);
        if dead.contains(id) {
            break;
        }
        assert!(n < 100, "it was not run again:\n{}\n{}", worker.log(), w.ctl(&["stats"]));
        SystemClock.sleep(std::time::Duration::from_millis(100)).await;
    }
    worker.kill9();
    assert!(
        w.ctl(&["--tenant", "acme", "--as", "celery/service", "replay", "all", "rate=50"]).contains("1 queued again")
    );
    assert!(w.ctl(&["--tenant", "acme", "drop"]).contains("1 tasks"));
}
