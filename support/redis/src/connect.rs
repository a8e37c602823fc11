//! One connection: find the server, open the stream, say who we are.

use std::sync::Arc;

use forge_core::secret::{SecretRef, Secrets};
use forge_core::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, RedisConnectionInfo, Value, cmd};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio_rustls::TlsConnector;

use crate::error::error;
use crate::tls::{connector, refused};
use crate::{Node, RedisConfig, Topology};

const OP: &str = "redis.connect";

/// What connections are made from.
pub(crate) struct Connector {
    pub(crate) config: RedisConfig,
    secrets: Secrets,
    tls: Option<TlsConnector>,
}

/// A connection and what moves its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) connection: MultiplexedConnection,
    driver: Arc<Driver>,
}

/// Ends with the last clone. By itself the driver's task first sends what it was given, also to a server that takes nothing.
#[derive(Debug)]
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connected {
    /// Whether it broke, which is known before anybody calls.
    pub(crate) fn is_over(&self) -> bool {
        self.driver.0.is_finished()
    }
}

impl Connector {
    pub(crate) fn new(config: RedisConfig, secrets: Secrets) -> Result<Self> {
        config.check()?;
        let tls = if config.tls { Some(connector(&config)?) } else { None };
        Ok(Self { config, secrets, tls })
    }

    /// Connects to the server that takes writes; what it pushes goes to `pushed`.
    pub(crate) async fn connect(&self, pushed: Option<UnboundedSender<PushInfo>>) -> Result<Connected> {
        let work = async {
            let node = self.find().await?;
            let info = resp3().set_db(self.config.db);
            let made = self.open(&node, self.login(info).await?, pushed).await?;
            if matches!(self.config.topology, Topology::Sentinel(_)) {
                // a sentinel may be the last to know
                let role: Vec<Value> = ask(&made, &cmd("ROLE")).await?;
                if role.first() != Some(&Value::BulkString(b"master".to_vec())) {
                    return Err(unavailable("the sentinels name a server that is not the master")
                        .with("node", node.to_string()));
                }
            }
            Ok(made)
        };
        tokio::time::timeout(self.config.connect_timeout, work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, OP, "redis could not be connected to in time").with_adapter("redis"))
        })
    }

    async fn find(&self) -> Result<Node> {
        let mut last = unavailable("there is no host to connect to");
        // one that does not answer leaves time for the others and for the master
        let shares = u32::try_from(self.config.nodes.len()).unwrap_or(u32::MAX).saturating_add(1);
        let share = self.config.connect_timeout / shares;
        for node in &self.config.nodes {
            let found = match &self.config.topology {
                Topology::Single => return Ok(node.clone()),
                Topology::Sentinel(master) => tokio::time::timeout(share, self.ask_sentinel(node, master)).await,
                Topology::Cluster => tokio::time::timeout(share, self.ask_cluster(node)).await,
            };
            match found {
                Ok(Ok(node)) => return Ok(node),
                Ok(Err(e)) => last = e,
                Err(_) => {
                    last = Error::new(ErrorKind::Timeout, OP, "the node did not say in time where the master is")
                        .with_adapter("redis")
                        .with("node", node.to_string());
                }
            }
        }
        Err(last)
    }

    async fn ask_sentinel(&self, sentinel: &Node, master: &str) -> Result<Node> {
        // the user is one of the servers; sentinels have a list of their own
        let info = self.with_password(resp3(), self.config.sentinel_password.as_ref()).await?;
        let made = self.open(sentinel, info, None).await?;
        let place: Option<(String, u16)> =
            ask(&made, cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master)).await?;
        let (host, port) = place.ok_or_else(|| {
            unavailable("the sentinel does not know a master of this name").with("sentinel", sentinel.to_string())
        })?;
        Ok(Node { host, port })
    }

    /// The master of the one slot that everything lies in.
    async fn ask_cluster(&self, seed: &Node) -> Result<Node> {
        let made = self.open(seed, self.login(resp3()).await?, None).await?;
        let slot: i64 = ask(&made, cmd("CLUSTER").arg("KEYSLOT").arg(&self.config.prefix)).await?;
        let ranges: Vec<Vec<Value>> = ask(&made, cmd("CLUSTER").arg("SLOTS")).await?;
        let owner = ranges.into_iter().find_map(|range| {
            let mut range = range.into_iter();
            let (from, to) = (int(&range.next()?)?, int(&range.next()?)?);
            let master: (String, u16) = redis::from_redis_value(first_two(range.next()?)?).ok()?;
            (from..=to).contains(&slot).then_some(master)
        });
        let (host, port) = owner.ok_or_else(|| unavailable("no master has the slot"))?;
        // a node that does not know its own name leaves it out
        Ok(Node { host: if host.is_empty() { seed.host.clone() } else { host }, port })
    }

    async fn login(&self, mut info: RedisConnectionInfo) -> Result<RedisConnectionInfo> {
        if let Some(user) = &self.config.username {
            info = info.set_username(user);
        }
        self.with_password(info, self.config.password.as_ref()).await
    }

    async fn with_password(
        &self,
        info: RedisConnectionInfo,
        password: Option<&SecretRef>,
    ) -> Result<RedisConnectionInfo> {
        Ok(match password {
            Some(reference) => info.set_password(self.secrets.fetch(reference).await?.expose()),
            None => info,
        })
    }

    async fn open(
        &self,
        node: &Node,
        info: RedisConnectionInfo,
        pushed: Option<UnboundedSender<PushInfo>>,
    ) -> Result<Connected> {
        let failed =
            |e: std::io::Error| unavailable("redis cannot be reached").with("node", node.to_string()).with_source(e);
        let tcp = TcpStream::connect((node.host.as_str(), node.port)).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        match &self.tls {
            None => self.shake(info, tcp, pushed).await,
            Some(tls) => {
                let name = ServerName::try_from(node.host.clone()).map_err(|e| {
                    Error::new(ErrorKind::Config, OP, "the host's name fits no certificate").with_source(e)
                })?;
                let stream = tls.connect(name, tcp).await.map_err(|e| refused(node, e))?;
                self.shake(info, stream, pushed).await.map_err(|e| {
                    // by TLS 1.3 a server says only now that it wants a certificate, and that by hanging up
                    let hung_up = e.kind() == ErrorKind::Unavailable && e.context().next().is_none();
                    if !hung_up || self.config.client_certificate.is_some() {
                        return e;
                    }
                    e.with("hint", "give a client_certificate if the server asks for one")
                })
            }
        }
    }

    async fn shake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        info: RedisConnectionInfo,
        stream: S,
        pushed: Option<UnboundedSender<PushInfo>>,
    ) -> Result<Connected> {
        let mut how = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.config.timeout))
            .set_pipeline_buffer_size(self.config.in_flight)
            .set_concurrency_limit(self.config.in_flight);
        if let Some(pushed) = pushed {
            how = how.set_push_sender(pushed);
        }
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&info, stream, how).await.map_err(|e| error(OP, &e))?;
        Ok(Connected { connection, driver: Arc::new(Driver(tokio::spawn(driver))) })
    }
}

fn resp3() -> RedisConnectionInfo {
    RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name()
}

fn unavailable(what: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, OP, what).with_adapter("redis")
}

fn int(value: &Value) -> Option<i64> {
    if let Value::Int(n) = value { Some(*n) } else { None }
}

/// Host and port of what CLUSTER SLOTS says of a node; what follows depends on the version.
fn first_two(value: Value) -> Option<Value> {
    let Value::Array(mut parts) = value else { return None };
    parts.truncate(2);
    Some(Value::Array(parts))
}

async fn ask<T: redis::FromRedisValue>(made: &Connected, command: &redis::Cmd) -> Result<T> {
    command.query_async(&mut made.connection.clone()).await.map_err(|e| error(OP, &e))
}
