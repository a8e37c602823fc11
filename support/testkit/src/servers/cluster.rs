//! Redis Cluster.

use std::process::Command;

use super::RedisServer;
use super::process::{free_port, until};

/// Three masters that share the slots.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<RedisServer>,
}

/// A slot on its way from one master to another: what is there already is answered by the new one, after `ASKING`.
#[derive(Debug)]
#[must_use = "a slot that is not moved to the end stays half way"]
pub struct SlotMove<'a> {
    cluster: &'a Cluster,
    slot: String,
    from: &'a RedisServer,
    to: &'a RedisServer,
}

impl Cluster {
    /// Starts it; returns when every node says that all is well.
    ///
    /// # Panics
    /// If `redis-cli` cannot make it.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with options of each node, such as `appendonly`.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(args: &[(&str, &str)]) -> Self {
        let node = || {
            let builder = RedisServer::builder().port(port_with_bus());
            let builder = builder.arg("cluster-enabled", "yes").arg("cluster-node-timeout", "1000");
            args.iter().fold(builder, |builder, (key, value)| builder.arg(key, value)).start()
        };
        let nodes: Vec<RedisServer> = (0..3).map(|_| node()).collect();
        let mut create = Command::new("timeout");
        create.args(["30", "redis-cli", "--cluster", "create"]);
        create.args(nodes.iter().map(|n| format!("127.0.0.1:{}", n.port()))).arg("--cluster-yes");
        let run = create.output().expect("timeout can be started");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        let started = Self { nodes };
        started.wait_until_well();
        started
    }

    /// Waits until every node that runs says that all is well.
    ///
    /// # Panics
    /// With a node's log, if one does not within 30 seconds.
    pub fn wait_until_well(&self) {
        for node in &self.nodes {
            let Some(process) = node.process() else { continue };
            until("the cluster", process, || node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
        }
    }

    /// Where its nodes are.
    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port())).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// The nodes, in the order of the URL.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// A node, to kill or to restart.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn node(&mut self, number: usize) -> &mut RedisServer {
        &mut self.nodes[number]
    }

    /// The slot of a key.
    ///
    /// # Panics
    /// If the node does not say.
    pub fn slot(&self, key: &str) -> u16 {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]);
        slot.trim().parse().unwrap_or_else(|_| panic!("a slot is a number: {slot}"))
    }

    /// The number of the node that has the slot.
    ///
    /// # Panics
    /// If no node that runs says that it has it.
    pub fn owner(&self, slot: u16) -> usize {
        let owns = |node: &RedisServer| {
            let nodes = node.cli(&["CLUSTER", "NODES"]);
            let own = nodes.lines().find(|line| line.contains("myself")).unwrap_or_default();
            own.split(' ').skip(8).any(|range| {
                let (from, to) = range.split_once('-').unwrap_or((range, range));
                matches!((from.parse(), to.parse()), (Ok(from), Ok(to)) if (from..=to).contains(&slot))
            })
        };
        self.nodes.iter().position(owns).unwrap_or_else(|| panic!("nobody has slot {slot}"))
    }

    /// Begins to move a slot to the next node and moves no key yet: what is not there is answered by `ASK`.
    pub fn begin_move(&self, slot: u16) -> SlotMove<'_> {
        let from = self.owner(slot);
        let (from, to) = (&self.nodes[from], &self.nodes[(from + 1) % self.nodes.len()]);
        let slot = slot.to_string();
        done(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
        done(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
        SlotMove { cluster: self, slot, from, to }
    }

    /// Moves a slot to the next node, with its keys, while it is in use.
    pub fn move_slot(&self, slot: u16) {
        self.begin_move(slot).finish();
    }
}

impl SlotMove<'_> {
    /// Moves at most so many keys; how many there were.
    ///
    /// # Panics
    /// If a node refuses.
    pub fn migrate(&self, most: usize) -> usize {
        let keys = self.from.cli(&["CLUSTER", "GETKEYSINSLOT", &self.slot, &most.to_string()]);
        let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
        if !keys.is_empty() {
            let port = self.to.port().to_string();
            let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            command.extend(&keys);
            let said = self.from.cli(&command);
            // one that expired or was deleted meanwhile is no key any more
            assert!(matches!(said.trim(), "OK" | "NOKEY"), "{said}");
        }
        keys.len()
    }

    /// Moves the other keys and tells every node.
    pub fn finish(self) {
        while self.migrate(100) > 0 {}
        let new = id(self.to);
        // the new one first: it is the other way round that a slot can be nobody's
        done(self.to, &["CLUSTER", "SETSLOT", &self.slot, "NODE", &new]);
        done(self.from, &["CLUSTER", "SETSLOT", &self.slot, "NODE", &new]);
        for node in &self.cluster.nodes {
            done(node, &["CLUSTER", "SETSLOT", &self.slot, "NODE", &new]);
        }
    }
}

fn done(node: &RedisServer, command: &[&str]) {
    let said = node.cli(command);
    assert_eq!(said.trim(), "OK", "{command:?}");
}

fn id(node: &RedisServer) -> String {
    node.cli(&["CLUSTER", "MYID"]).trim().to_owned()
}

/// The nodes talk to each other on a port 10,000 above.
fn port_with_bus() -> u16 {
    let free = |port: &u16| {
        port.checked_add(10_000).is_some_and(|bus| std::net::TcpListener::bind(("127.0.0.1", bus)).is_ok())
    };
    (0..1000).map(|_| free_port()).find(free).expect("two ports are free")
}
