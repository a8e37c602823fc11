//! The servers of a round, and how they are broken.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use forge_testkit::servers::{Authority, Cluster, RedisServer, Sentinels};

use crate::place::{PREFIX, Place};
use crate::worker::{VISIBILITY, Worker};

/// How it is broken; each is over when it returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    KillWorker,
    /// For longer than its leases.
    StopWorker,
    CutClients,
    CutListeners,
    /// `kill -9`, and a start on the same data.
    KillRedis,
    /// For a second: whoever called has given up.
    StopRedis,
    /// No memory is left, then there is again.
    Full,
    KillMaster,
    StopMaster,
    PlannedFailover,
    MoveSlot,
    KillNode,
}

pub(crate) enum Ground {
    Single(RedisServer),
    Tls(RedisServer, Authority),
    Sentinel(Sentinels),
    Cluster(Cluster),
}

/// What is answered has reached the disk.
const ALWAYS: [(&str, &str); 2] = [("appendonly", "yes"), ("appendfsync", "always")];

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The workers of a round, each started again when it dies.
pub(crate) struct Crew {
    pub(crate) place: Place,
    pub(crate) notes: PathBuf,
    pub(crate) workers: Vec<Worker>,
}

impl Crew {
    pub(crate) fn start(place: Place, notes: PathBuf) -> Self {
        let workers = (0..3).map(|_| Worker::start(&place, &notes)).collect();
        Self { place, notes, workers }
    }

    fn one(&mut self, rng: &mut Rng) -> &mut Worker {
        let n = rng.usize(..self.workers.len());
        &mut self.workers[n]
    }
}

impl Ground {
    pub(crate) fn single() -> Self {
        let [dir, fsync] = ALWAYS;
        Self::Single(RedisServer::builder().arg(dir.0, dir.1).arg(fsync.0, fsync.1).start())
    }

    pub(crate) fn tls() -> Self {
        let authority = Authority::new();
        let [dir, fsync] = ALWAYS;
        Self::Tls(RedisServer::builder().arg(dir.0, dir.1).arg(fsync.0, fsync.1).tls(&authority).start(), authority)
    }

    pub(crate) fn sentinel() -> Self {
        // a master that came back empty could be made the master again
        let [dir, fsync] = ALWAYS;
        let servers = Sentinels::builder().arg(dir.0, dir.1).arg(fsync.0, fsync.1).arg("min-replicas-to-write", "1");
        Self::Sentinel(servers.down_after(Duration::from_secs(1)).start())
    }

    pub(crate) fn cluster() -> Self {
        Self::Cluster(Cluster::start_with(&ALWAYS))
    }

    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Single(server) => Place::at(server.url()),
            Self::Tls(server, authority) => {
                Place { ca: Some(authority.ca()), ..Place::at(server.tls_url("localhost")) }
            }
            Self::Sentinel(sentinels) => Place { replicas: Some((1, 400)), ..Place::at(sentinels.url()) },
            Self::Cluster(cluster) => Place::at(cluster.url()),
        }
    }

    /// What can happen here.
    pub(crate) fn faults(&self) -> &'static [Fault] {
        use Fault::*;
        match self {
            Self::Single(_) => &[KillWorker, StopWorker, CutClients, CutListeners, KillRedis, StopRedis, Full],
            Self::Tls(..) => &[KillWorker, CutClients, KillRedis, StopRedis],
            Self::Sentinel(_) => &[KillWorker, CutClients, KillMaster, StopMaster, PlannedFailover],
            Self::Cluster(_) => &[KillWorker, CutClients, MoveSlot, KillNode],
        }
    }

    /// One of those that this ground is there for: each has its turn.
    pub(crate) fn first(&self, seed: u64) -> Fault {
        use Fault::*;
        let faults = match self {
            Self::Sentinel(_) => &[KillMaster, StopMaster, PlannedFailover],
            Self::Cluster(_) => &[MoveSlot, KillNode][..],
            _ => self.faults(),
        };
        faults[usize::try_from(seed).unwrap() % faults.len()]
    }

    /// The server that has the queue now.
    fn server(&mut self) -> &mut RedisServer {
        match self {
            Self::Single(server) | Self::Tls(server, _) => server,
            Self::Sentinel(sentinels) => {
                let master = sentinels.master();
                sentinels.server(master)
            }
            Self::Cluster(cluster) => {
                let owner = cluster.owner(cluster.slot(PREFIX));
                cluster.node(owner)
            }
        }
    }

    pub(crate) fn strike(&mut self, fault: Fault, crew: &mut Crew, rng: &mut Rng) {
        match fault {
            Fault::KillWorker => {
                let (place, notes) = (crew.place.clone(), crew.notes.clone());
                let worker = crew.one(rng);
                worker.kill9();
                *worker = Worker::start(&place, &notes);
            }
            Fault::StopWorker => {
                let worker = crew.one(rng);
                worker.signal("-STOP");
                pause(u64::try_from(VISIBILITY.as_millis()).unwrap() + rng.u64(200..600));
                worker.signal("-CONT");
            }
            Fault::CutClients => drop(self.server().cli(&["CLIENT", "KILL", "TYPE", "normal"])),
            Fault::CutListeners => drop(self.server().cli(&["CLIENT", "KILL", "TYPE", "pubsub"])),
            Fault::KillRedis => {
                let server = self.server();
                server.kill9();
                pause(rng.u64(..300));
                server.restart();
            }
            Fault::StopRedis => {
                let redis = self.server().process().unwrap();
                redis.pause();
                pause(1000);
                redis.resume();
            }
            Fault::Full => {
                self.server().cli(&["CONFIG", "SET", "maxmemory", "1"]);
                pause(rng.u64(200..1500));
                self.server().cli(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::KillMaster | Fault::StopMaster | Fault::PlannedFailover => {
                let Self::Sentinel(sentinels) = self else { panic!("there are no sentinels") };
                fail_over(sentinels, fault);
            }
            Fault::MoveSlot => {
                let Self::Cluster(cluster) = self else { panic!("there is no cluster") };
                cluster.move_slot(cluster.slot(PREFIX));
            }
            Fault::KillNode => {
                let Self::Cluster(cluster) = self else { panic!("there is no cluster") };
                let owner = cluster.owner(cluster.slot(PREFIX));
                cluster.node(owner).kill9();
                pause(rng.u64(..1500));
                cluster.node(owner).restart();
                cluster.wait_until_well();
            }
        }
    }
}

/// Returns when there is a master with its replica again, whichever is which by then: until then nothing is written.
fn fail_over(sentinels: &mut Sentinels, fault: Fault) {
    let old = match fault {
        Fault::KillMaster => sentinels.kill_master(),
        Fault::StopMaster => sentinels.pause_master(),
        _ => sentinels.fail_over(),
    };
    if fault == Fault::PlannedFailover {
        // another sentinel may undo it; then it is given up after five seconds
        let began = std::time::Instant::now();
        while sentinels.master() == old && began.elapsed() < Duration::from_secs(8) {
            pause(20);
        }
    } else {
        sentinels.wait_for_failover(old);
    }
    match fault {
        Fault::KillMaster => sentinels.server(old).restart(),
        Fault::StopMaster => sentinels.servers()[old].process().unwrap().resume(),
        _ => {}
    }
    let began = std::time::Instant::now();
    let well = |master: &RedisServer| master.cli(&["INFO", "replication"]).contains("state=online");
    while !well(&sentinels.servers()[sentinels.master()]) {
        assert!(began.elapsed() < Duration::from_secs(30), "the master has no replica");
        pause(20);
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "single",
            Self::Tls(..) => "tls",
            Self::Sentinel(_) => "sentinel",
            Self::Cluster(_) => "cluster",
        })
    }
}
