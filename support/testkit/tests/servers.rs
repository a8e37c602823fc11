//! Real servers: each is its own, and gone with its guard.

use forge_testkit::servers::{Celery, RedisServer};

#[test]
fn two_servers_do_not_meet_and_are_gone_with_their_guards() {
    let (a, b) = (RedisServer::start(), RedisServer::builder().password("of-b").start());
    a.cli(&["SET", "k", "a"]);
    assert_eq!((a.cli(&["GET", "k"]).trim(), b.cli(&["GET", "k"]).trim()), ("a", ""));
    let place = a.url().replace("redis://", "");
    drop(a);
    assert!(std::net::TcpStream::connect(place).is_err(), "a dropped server is gone");
    assert_eq!(b.cli(&["PING"]).trim(), "PONG");
}

#[test]
fn a_worker_of_celery_does_a_task() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("tasks.py");
    let code = "import os, celery\n\
                app = celery.Celery('tasks', broker=os.environ['BROKER_URL'], backend=os.environ['BROKER_URL'])\n\
                @app.task(name='add')\n\
                def add(a, b):\n    return a + b\n";
    std::fs::write(&app, code).unwrap();
    let _worker = Celery::worker(&app, &server.url(), "celery", &dir.path().join("worker.log"), &["--pool", "solo"]);
    let run = Celery::python(&app, &server.url(), "import tasks; print(tasks.add.delay(2, 3).get(timeout=30))");
    let (said, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert_eq!(said.trim(), "5", "{errors}");
}
