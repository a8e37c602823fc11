//! Redis under Sentinel.

use std::process::Command;
use std::time::Duration;

use super::process::{free_port, until};
use super::redis::redis_cli;
use super::{Process, RedisBuilder, RedisServer};

const NAME: &str = "main";

/// How many servers, and how they are started.
#[derive(Debug)]
#[must_use]
pub struct SentinelsBuilder {
    replicas: usize,
    down_after: Duration,
    args: Vec<(String, String)>,
}

/// A master, its replicas and three sentinels that know it as `main`.
#[derive(Debug)]
pub struct Sentinels {
    // the sentinels go first, so that nothing fails over while the others end
    sentinels: Vec<(u16, Process)>,
    servers: Vec<RedisServer>,
    _dir: tempfile::TempDir,
}

impl SentinelsBuilder {
    /// Sets the number of replicas; one by default.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets how long a master may be silent before it is down; 500 ms by default.
    pub fn down_after(mut self, down_after: Duration) -> Self {
        self.down_after = down_after;
        self
    }

    /// Sets an option of each server, such as `min-replicas-to-write` or `appendfsync`.
    pub fn arg(mut self, key: &str, value: &str) -> Self {
        self.args.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Starts all; returns when the sentinels agree and know the replicas and each other.
    pub fn start(self) -> Sentinels {
        let server = || {
            let with = |builder: RedisBuilder, (key, value): &(String, String)| builder.arg(key, value);
            // a replica is given the data at once instead of after five seconds
            self.args.iter().fold(RedisServer::builder().arg("repl-diskless-sync-delay", "0"), with).start()
        };
        let servers: Vec<RedisServer> = (0..=self.replicas).map(|_| server()).collect();
        let master = servers[0].port();
        for replica in &servers[1..] {
            replica.cli(&["REPLICAOF", "127.0.0.1", &master.to_string()]);
            let process = replica.process().expect("it was started");
            until("the replica", process, || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        }
        // a replica that has the data is told of what comes after it only once it has said so
        let process = servers[0].process().expect("it was started");
        until("the replicas", process, || {
            servers[0].cli(&["INFO", "replication"]).matches("state=online").count() == self.replicas
        });
        let dir = tempfile::tempdir().expect("a directory can be made");
        let sentinels = (0..3).map(|_| sentinel(dir.path(), master, self.down_after)).collect();
        let started = Sentinels { sentinels, servers, _dir: dir };
        for (port, process) in &started.sentinels {
            until("the sentinel", process, || {
                let known =
                    redis_cli(*port, None, &["SENTINEL", "REPLICAS", NAME]).matches("master-link-status").count();
                known == self.replicas && redis_cli(*port, None, &["SENTINEL", "CKQUORUM", NAME]).starts_with("OK 3 ")
            });
        }
        started
    }
}

/// Starts a sentinel; it keeps what it learns in its configuration.
fn sentinel(dir: &std::path::Path, master: u16, down_after: Duration) -> (u16, Process) {
    let port = free_port();
    let file = dir.join(format!("{port}.conf"));
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {NAME} {}\nsentinel failover-timeout {NAME} 5000\n",
        dir.display(),
        down_after.as_millis(),
    );
    std::fs::write(&file, text).expect("a configuration can be written");
    let mut command = Command::new("redis-server");
    command.arg(&file).arg("--sentinel");
    let process = Process::start(command, &dir.join(format!("{port}.log")));
    let own = format!("process_id:{}\r", process.id());
    until("the sentinel", &process, || redis_cli(port, None, &["INFO", "server"]).contains(&own));
    // they tell each other every two seconds; from 7.0 on that can be sooner
    redis_cli(port, None, &["SENTINEL", "DEBUG", "PUBLISH-PERIOD", "100", "INFO-PERIOD", "500"]);
    (port, process)
}

impl Sentinels {
    /// Starts a master with one replica.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Says how first.
    pub fn builder() -> SentinelsBuilder {
        SentinelsBuilder { replicas: 1, down_after: Duration::from_millis(500), args: Vec::new() }
    }

    /// Where the sentinels are, with the name of the master.
    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.sentinels.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/{NAME}", nodes.join(","))
    }

    /// The servers; the first one was the first master.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// A server, to kill or to restart.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn server(&mut self, number: usize) -> &mut RedisServer {
        &mut self.servers[number]
    }

    /// A sentinel, in the order of the URL.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn sentinel(&self, number: usize) -> &Process {
        &self.sentinels[number].1
    }

    /// Runs a command on every sentinel.
    pub fn tell_sentinels(&self, args: &[&str]) {
        for (port, _) in &self.sentinels {
            redis_cli(*port, None, args);
        }
    }

    /// The number of the server that the last sentinel takes for the master.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn master(&self) -> usize {
        let (port, _) = self.sentinels.last().expect("there are three");
        named_by(*port).and_then(|port| self.servers.iter().position(|s| s.port() == port)).expect("a master is named")
    }

    /// Ends the master at once; its number.
    pub fn kill_master(&mut self) -> usize {
        let master = self.master();
        self.servers[master].kill9();
        master
    }

    /// Holds the master still; its number.
    pub fn pause_master(&self) -> usize {
        let master = self.master();
        self.servers[master].process().expect("it runs").pause();
        master
    }

    /// Has the last sentinel change the master, with everything well; the number of the old one.
    ///
    /// # Panics
    /// With the sentinel's log, if it does not begin within 30 seconds.
    pub fn fail_over(&self) -> usize {
        let master = self.master();
        let (port, process) = self.sentinels.last().expect("there are three");
        // one that was just told of a new master has not looked at its replicas yet
        until("a replica to promote", process, || {
            redis_cli(*port, None, &["SENTINEL", "FAILOVER", NAME]).trim() == "OK"
        });
        master
    }

    /// Waits until the last sentinel names another master than this one, and that one is a master.
    ///
    /// # Panics
    /// With the sentinel's log, if that takes more than 30 seconds.
    pub fn wait_for_failover(&self, from: usize) {
        let (_, process) = self.sentinels.last().expect("there are three");
        until("a new master", process, || {
            let now = self.master();
            now != from && self.servers[now].cli(&["ROLE"]).starts_with("master")
        });
    }
}

fn named_by(sentinel: u16) -> Option<u16> {
    let place = redis_cli(sentinel, None, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
    place.lines().nth(1)?.trim().parse().ok()
}
