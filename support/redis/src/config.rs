//! Where Redis is and how it is spoken to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use forge_core::secret::SecretRef;
use forge_core::{Error, ErrorKind, Result};

/// How the server is found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Topology {
    /// It is the node that is named.
    Single,
    /// The nodes are sentinels that know the master of this name.
    Sentinel(String),
    /// The nodes are of a cluster; everything lies in the one slot of the prefix's hash tag.
    Cluster,
}

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Where Redis is. Parsed from `redis://host:port/db`, `rediss://…` for TLS, `redis+sentinel://a,b,c/master/db`,
/// `redis+cluster://a,b,c` (and `rediss+…`). A password in it is refused: it is given as a reference.
///
/// ```
/// let config: forge_redis::RedisConfig = "rediss://cache.internal:6380/2".parse()?;
/// assert!(config.tls && config.db == 2);
/// assert!("redis://:hunter2@localhost".parse::<forge_redis::RedisConfig>().is_err());
/// # Ok::<(), forge_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisConfig {
    /// At least one.
    pub nodes: Vec<Node>,
    /// How the server is found.
    pub topology: Topology,
    /// TLS by rustls, trusting Mozilla's roots or `ca_file`.
    pub tls: bool,
    /// PEM of the authority to trust instead.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the certificate that is shown to a server that asks for one (`tls-auth-clients`), and of its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The user of an access list; none for the default user.
    pub username: Option<String>,
    /// Fetched for each connection, so it may rotate.
    pub password: Option<SecretRef>,
    /// That of the sentinels, where they ask for one.
    pub sentinel_password: Option<SecretRef>,
    /// The database; 0 by default and in a cluster.
    pub db: i64,
    /// Put before every key. In a cluster it must hold a hash tag, such as `{forge}:`.
    pub prefix: String,
    /// Connections for commands; 1 by default, at most 16. Each carries many calls at a time.
    pub connections: usize,
    /// Calls in flight on one connection before the next waits, at most 65,536; 1,024 by default.
    pub in_flight: usize,
    /// Time to connect, TLS and login included; 5 seconds by default. A sentinel or a seed of a cluster has its share of it.
    pub connect_timeout: Duration,
    /// Time for an answer, and as long again for a place among those in flight; 5 seconds by default.
    pub timeout: Duration,
}

const MOST_CONNECTIONS: usize = 16;
const MOST_IN_FLIGHT: usize = 65_536;

impl RedisConfig {
    /// Sets the prefix of every key.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Says where the password is.
    #[must_use]
    pub fn with_password(mut self, password: SecretRef) -> Self {
        self.password = Some(password);
        self
    }

    /// Trusts this authority instead of Mozilla's.
    #[must_use]
    pub fn with_ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// Shows this certificate, which has this key.
    #[must_use]
    pub fn with_client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client_certificate = Some((certificate.into(), key.into()));
        self
    }

    /// Sets the number of connections for commands.
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// What keeps it from being used.
    ///
    /// # Errors
    /// `Config`.
    pub fn check(&self) -> Result<()> {
        let tagged = self.prefix.split_once('{').is_some_and(|(_, rest)| rest.find('}').is_some_and(|end| end > 0));
        if self.nodes.is_empty() {
            return Err(wrong("there is no host in it"));
        }
        if self.topology == Topology::Cluster && !tagged {
            return Err(wrong("in a cluster the prefix needs a hash tag, such as {forge}:"));
        }
        if self.topology == Topology::Cluster && self.db != 0 {
            return Err(wrong("a cluster has database 0 only"));
        }
        if self.prefix.bytes().any(|b| b.is_ascii_control() || b.is_ascii_whitespace()) {
            return Err(wrong("the prefix has no spaces and no control characters"));
        }
        if self.connections == 0 || self.connections > MOST_CONNECTIONS {
            return Err(wrong("connections are 1 to 16"));
        }
        if self.in_flight == 0 || self.in_flight > MOST_IN_FLIGHT {
            return Err(wrong("calls in flight are 1 to 65,536"));
        }
        Ok(())
    }
}

fn wrong(what: &'static str) -> Error {
    Error::new(ErrorKind::Config, "redis.config", what)
}

impl FromStr for RedisConfig {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| wrong("give a URL such as redis://127.0.0.1:6379/0"))?;
        let (tls, kind) = match scheme.split_once('+').unwrap_or((scheme, "")) {
            ("redis", kind) => (false, kind),
            ("rediss", kind) => (true, kind),
            _ => return Err(wrong("a URL begins with redis:// or rediss://")),
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !query.is_empty() {
            return Err(wrong("a URL has no options; set them beside it"));
        }
        let mut parts = place.split('/');
        let authority = parts.next().unwrap_or_default();
        let (username, hosts) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => {
                return Err(wrong(
                    "a password in a URL ends up in logs; give it as a reference: env:, file: or vault:",
                ));
            }
            Some((user, hosts)) => (Some(user.to_owned()).filter(|u| !u.is_empty()), hosts),
            None => (None, authority),
        };
        let topology = match kind {
            "" => Topology::Single,
            "cluster" => Topology::Cluster,
            "sentinel" => match parts.next().filter(|m| !m.is_empty()) {
                Some(master) => Topology::Sentinel(master.to_owned()),
                None => {
                    return Err(wrong(
                        "after the sentinels goes the name of the master: redis+sentinel://a,b,c/master",
                    ));
                }
            },
            _ => return Err(wrong("after + goes sentinel or cluster")),
        };
        let port = if matches!(topology, Topology::Sentinel(_)) { 26379 } else { 6379 };
        let db = match parts.next().filter(|db| !db.is_empty()) {
            Some(db) => db.parse().ok().filter(|n| *n >= 0).ok_or_else(|| wrong("the database is a number"))?,
            None => 0,
        };
        let nodes: Result<Vec<Node>> = hosts.split(',').map(|host| node(host, port)).collect();
        let config = Self {
            nodes: nodes?,
            topology,
            tls,
            ca_file: None,
            client_certificate: None,
            username,
            password: None,
            sentinel_password: None,
            db,
            prefix: String::new(),
            connections: 1,
            in_flight: 1024,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        };
        if config.topology == Topology::Single && config.nodes.len() > 1 {
            return Err(wrong("several hosts are redis+sentinel:// or redis+cluster://"));
        }
        Ok(config)
    }
}

/// `host`, `host:port` or `[v6]:port`.
fn node(text: &str, port: u16) -> Result<Node> {
    let (host, given) = match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((v6, rest)) => (v6, rest.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p))),
    };
    if host.is_empty() {
        return Err(wrong("there is no host in it"));
    }
    let port = match given {
        Some(p) => p.parse().map_err(|_| wrong("a port is a number up to 65535"))?,
        None => port,
    };
    Ok(Node { host: host.to_owned(), port })
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<String> = self.nodes.iter().map(Node::to_string).collect();
        f.debug_struct("RedisConfig")
            .field("nodes", &nodes)
            .field("topology", &self.topology)
            .field("tls", &self.tls)
            .field("db", &self.db)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<RedisConfig> {
        url.parse()
    }

    #[test]
    fn urls_say_where_and_how() {
        let plain = of("redis://localhost").unwrap();
        assert_eq!((plain.nodes[0].to_string().as_str(), plain.db, plain.tls), ("localhost:6379", 0, false));
        let sentinel = of("rediss+sentinel://ana@a,b:1,[::1]:2/main/3").unwrap();
        assert_eq!(sentinel.topology, Topology::Sentinel("main".into()));
        let nodes: Vec<String> = sentinel.nodes.iter().map(Node::to_string).collect();
        assert_eq!(nodes, ["a:26379", "b:1", "::1:2"]);
        assert_eq!((sentinel.username.as_deref(), sentinel.db, sentinel.tls), (Some("ana"), 3, true));
        let cluster = of("redis+cluster://a,b").unwrap();
        assert!(cluster.check().is_err() && cluster.clone().with_prefix("{}:").check().is_err());
        assert!(cluster.with_prefix("{forge}:").check().is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_and_a_password_is_not() {
        for bad in [
            "",
            "http://a",
            "redis://",
            "redis://a:b",
            "redis://a/x",
            "redis://a,b",
            "redis+sentinel://a",
            "redis+x://a",
            "redis://a?x=1",
        ] {
            assert_eq!(of(bad).unwrap_err().kind(), ErrorKind::Config, "{bad}");
        }
        let e = of("redis://:hunter2@localhost").unwrap_err();
        assert!(!format!("{e} {e:?}").contains("hunter2"));
        assert!(of("redis://localhost").unwrap().with_connections(17).check().is_err());
        for in_flight in [0, 65_537] {
            let mut config = of("redis://localhost").unwrap();
            config.in_flight = in_flight;
            assert_eq!(config.check().unwrap_err().kind(), ErrorKind::Config, "{in_flight}");
        }
    }
}
