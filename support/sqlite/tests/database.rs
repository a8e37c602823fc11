//! What every embedded store relies on.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use forge_core::{Error, ErrorKind, Result};
use forge_sqlite::{Database, Options, Urgency, error, rusqlite};

const SCHEMA: &str = "CREATE TABLE t (n INTEGER PRIMARY KEY)";

async fn open(dir: &tempfile::TempDir) -> Database {
    Database::open(Options::new(dir.path().join("t.db")).migration(SCHEMA)).await.unwrap()
}

async fn add(db: &Database, n: i64) -> Result<()> {
    db.write("t.add", move |tx| tx.execute("INSERT INTO t VALUES (?1)", [n]).map(|_| ()).map_err(error("t.add"))).await
}

async fn sum(db: &Database) -> i64 {
    db.read("t.sum", |c| c.query_row("SELECT coalesce(sum(n), 0) FROM t", [], |r| r.get(0)).map_err(error("t.sum")))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_commits_and_a_failing_one_undoes_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir).await;
    let tasks: Vec<_> = (1..=100)
        .map(|n| {
            tokio::spawn({
                let db = db.clone();
                async move { add(&db, n).await }
            })
        })
        .collect();
    for t in tasks {
        t.await.unwrap().unwrap();
    }
    let failing = db
        .write("t.fail", |tx| {
            tx.execute("INSERT INTO t VALUES (1000)", []).map_err(error("t.fail"))?;
            Err::<(), _>(Error::invalid("t.fail", "no"))
        })
        .await;
    assert!(failing.is_err());
    assert_eq!(add(&db, 1).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(sum(&db).await, 5050);
}

#[tokio::test]
async fn a_panicking_job_is_an_error_and_the_writer_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir).await;
    let e = db.write::<()>("t.panic", |_| panic!("a bug in a job")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unexpected);
    add(&db, 1).await.unwrap();
    assert_eq!(sum(&db).await, 1);
}

#[tokio::test]
async fn a_slot_is_filled_without_waiting_and_survives_the_last_handle() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir).await;
    let slot = db
        .reserve_write("t.slot", |tx, n: i64| {
            tx.execute("INSERT INTO t VALUES (?1)", [n]).map(|_| ()).map_err(error("t.slot"))
        })
        .await
        .unwrap();
    slot.fill(7);
    db.flush().await.unwrap();
    assert_eq!(sum(&db).await, 7);
    let twice = db
        .reserve_write("t.slot", |tx, n: i64| {
            tx.execute("INSERT INTO t VALUES (?1)", [n]).map(|_| ()).map_err(error("t.slot"))
        })
        .await
        .unwrap();
    twice.fill(7);
    assert!(db.flush().await.unwrap_err().to_string().contains("lost=1"), "a lost promise is not forgotten");
    assert_eq!(db.check(forge_core::Depth::Shallow).await.status, forge_core::Status::Degraded);
}

#[tokio::test]
async fn what_nobody_waits_for_is_written_soon_and_before_what_comes_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir).await;
    let insert = |n: i64| {
        move |tx: &rusqlite::Transaction<'_>| {
            tx.execute("INSERT INTO t VALUES (?1)", [n]).map(|_| ()).map_err(error("t.soon"))
        }
    };
    let (done, told) = tokio::sync::oneshot::channel();
    db.submit(Urgency::Soon, insert(1), move |outcome| done.send(outcome).unwrap());
    told.await.unwrap().unwrap();
    assert_eq!(sum(&db).await, 1, "without anything that wakes the writer");
    for n in 2..1000 {
        db.submit(Urgency::Soon, insert(n), drop);
    }
    let last = |tx: &rusqlite::Transaction<'_>| {
        tx.query_row("SELECT max(n) FROM t", [], |r| r.get::<_, i64>(0)).map_err(error("t.last"))
    };
    assert_eq!(
        db.write("t.last", last).await.unwrap(),
        999,
        "in the order in which they came, also over more than one commit"
    );
}

#[tokio::test]
async fn an_owned_file_has_one_owner_and_a_newer_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.db");
    let first = Database::open(Options::new(&path).migration(SCHEMA).owned()).await.unwrap();
    let e = Database::open(Options::new(&path).migration(SCHEMA).owned()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config, "{e}");
    drop(first);
    let older = Database::open(Options::new(&path)).await.unwrap_err();
    assert!(older.to_string().contains("newer version"), "{older}");
}

#[tokio::test]
async fn a_damaged_file_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.db");
    std::fs::write(&path, vec![7_u8; 8192]).unwrap();
    let e = Database::open(Options::new(&path).migration(SCHEMA)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}");
}
