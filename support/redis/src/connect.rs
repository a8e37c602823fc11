//! One connection: find the server, open the stream, say who we are.

use std::sync::Arc;

use forge_core::secret::Secrets;
use forge_core::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, RedisConnectionInfo, Value, cmd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio_rustls::TlsConnector;

use crate::error::error;
use crate::{Node, RedisConfig, Topology};

const OP: &str = "redis.connect";

/// What connections are made from.
pub(crate) struct Connector {
    pub(crate) config: RedisConfig,
    secrets: Secrets,
    tls: Option<TlsConnector>,
}

/// A connection, and the future that moves its bytes; it ends when the connection does.
pub(crate) struct Connected {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) driver: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
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
            let info = RedisConnectionInfo::default().set_db(self.config.db);
            let made = self.open(&node, self.login(info, self.config.password.as_ref()).await?, pushed).await?;
            if matches!(self.config.topology, Topology::Sentinel(_)) {
                // a sentinel may be the last to know
                let role: Vec<Value> = ask(&made.connection, &cmd("ROLE")).await?;
                if role.first() != Some(&Value::BulkString(b"master".to_vec())) {
                    return Err(unavailable("the sentinels name a server that is not the master")
                        .with("node", node.to_string()));
                }
            }
            Ok(made)
        };
        tokio::time::timeout(self.config.connect_timeout, work)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, OP, "redis could not be connected to in time")))
    }

    async fn find(&self) -> Result<Node> {
        let mut last = unavailable("there is no host to connect to");
        for node in &self.config.nodes {
            let found = match &self.config.topology {
                Topology::Single => return Ok(node.clone()),
                Topology::Sentinel(master) => self.ask_sentinel(node, master).await,
                Topology::Cluster => self.ask_cluster(node).await,
            };
            match found {
                Ok(node) => return Ok(node),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    async fn ask_sentinel(&self, sentinel: &Node, master: &str) -> Result<Node> {
        let made = self.briefly(sentinel, self.config.sentinel_password.as_ref()).await?;
        let place: Option<(String, u16)> =
            ask(&made, cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master)).await?;
        let (host, port) = place.ok_or_else(|| {
            unavailable("the sentinel does not know a master of this name").with("sentinel", sentinel.to_string())
        })?;
        Ok(Node { host, port })
    }

    /// The master of the one slot that everything lies in.
    async fn ask_cluster(&self, seed: &Node) -> Result<Node> {
        let made = self.briefly(seed, self.config.password.as_ref()).await?;
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

    async fn briefly(
        &self,
        node: &Node,
        password: Option<&forge_core::secret::SecretRef>,
    ) -> Result<MultiplexedConnection> {
        let info = self.login(RedisConnectionInfo::default(), password).await?;
        let made = self.open(node, info, None).await?;
        tokio::spawn(made.driver);
        Ok(made.connection)
    }

    async fn login(
        &self,
        info: RedisConnectionInfo,
        password: Option<&forge_core::secret::SecretRef>,
    ) -> Result<RedisConnectionInfo> {
        let mut info = info.set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let Some(user) = &self.config.username {
            info = info.set_username(user);
        }
        if let Some(reference) = password {
            info = info.set_password(self.secrets.fetch(reference).await?.expose());
        }
        Ok(info)
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
                self.shake(info, tls.connect(name, tcp).await.map_err(failed)?, pushed).await
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
        Ok(Connected { connection, driver: Box::pin(driver) })
    }
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

async fn ask<T: redis::FromRedisValue>(connection: &MultiplexedConnection, command: &redis::Cmd) -> Result<T> {
    command.query_async(&mut connection.clone()).await.map_err(|e| error(OP, &e))
}

fn connector(config: &RedisConfig) -> Result<TlsConnector> {
    let wrong = |what: &'static str, e: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Config, "redis.tls", what).with_source(e)
    };
    let mut roots = rustls::RootCertStore::empty();
    match &config.ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let unread = |e: rustls::pki_types::pem::Error| {
                wrong("the authority's file cannot be read as PEM", e.to_string().into())
                    .with("file", file.display().to_string())
            };
            for certificate in CertificateDer::pem_file_iter(file).map_err(unread)? {
                roots
                    .add(certificate.map_err(unread)?)
                    .map_err(|e| wrong("the authority's certificate is not valid", e.into()))?;
            }
        }
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("TLS cannot be set up", e.into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(tls)))
}
