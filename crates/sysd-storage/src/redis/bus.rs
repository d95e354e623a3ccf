//! The bus on Redis: publishing.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, RedisWrite as _, Value};
use sysd_core::bus::{Bus, BusLimits, Channel};
use sysd_core::{Effect, Error, ErrorKind, Result, SystemEntropy};
use tokio::task::unconstrained;

use super::address::{self, Target};
use super::call::Call;
use super::config::{RedisConfig, TlsCa};
use super::error::{Access, map};
use super::feed::{Feed, listen};
use super::link::Failure;
use super::refuse_old;
use super::router::Router;
use crate::bus::BusDriver;
use crate::bus::hub::{Hub, Listener};
use crate::bus::numbers::{HEADER_BYTES, Header, Numbers};

/// How a [`RedisBus`] is made.
#[derive(Clone, Debug)]
pub struct RedisBusConfig {
    /// Begins the name of every channel, so that several applications can share a server; without `{` and `}`. Not a space
    /// for secrets: whoever may use the server can listen.
    pub prefix: String,
    /// The longest wait for an answer. A publication that gets none has an unknown effect.
    pub response_timeout: Duration,
    /// The longest wait for a connection, or for a Cluster's map.
    pub connection_timeout: Duration,
    /// How often a connection that is listened on is tried: one that went mute is found after this and a
    /// `response_timeout`.
    pub ping_interval: Duration,
    /// How much the bus takes.
    pub limits: BusLimits,
    /// Who must have signed the server's certificate, for `rediss://` and `rediss-cluster://`; `None`: whom the system trusts.
    pub tls_ca: Option<TlsCa>,
}

impl Default for RedisBusConfig {
    fn default() -> Self {
        let RedisConfig { response_timeout, connection_timeout, .. } = RedisConfig::default();
        Self {
            prefix: String::new(),
            response_timeout,
            connection_timeout,
            ping_interval: Duration::from_secs(5),
            limits: BusLimits::PROCESS,
            tls_ca: None,
        }
    }
}

impl RedisBusConfig {
    fn read(&self, url: &str) -> Result<Target> {
        if self.prefix.contains(['{', '}']) {
            let message = "a prefix has no { and }: they would put all channels onto one node of a Cluster";
            return Err(Error::new(ErrorKind::Config, Effect::None, message).with_field("prefix"));
        }
        if self.ping_interval.is_zero() {
            let message = "ping_interval is zero: the bus would do nothing else";
            return Err(Error::new(ErrorKind::Config, Effect::None, message).with_field("ping_interval"));
        }
        let config = RedisConfig {
            response_timeout: self.response_timeout,
            connection_timeout: self.connection_timeout,
            tls_ca: self.tls_ca.clone(),
            ..RedisConfig::default()
        };
        config.check()?;
        let target = address::parse(url, &config).map_err(|error| map(&Failure::unsent(error), Access::Read))?;
        if !target.connector.speaks_resp3() {
            let message = "a bus needs RESP3: take ?protocol=resp2 out of the URL";
            return Err(Error::new(ErrorKind::Config, Effect::None, message));
        }
        Ok(target)
    }
}

/// The commands of one server, or of a Cluster.
#[derive(Clone, Copy)]
pub(super) struct Commands {
    pub(super) publish: &'static str,
    pub(super) subscribe: &'static str,
    pub(super) unsubscribe: &'static str,
}

const PLAIN: Commands = Commands { publish: "PUBLISH", subscribe: "SUBSCRIBE", unsubscribe: "UNSUBSCRIBE" };
const SHARDED: Commands = Commands { publish: "SPUBLISH", subscribe: "SSUBSCRIBE", unsubscribe: "SUNSUBSCRIBE" };

/// A bus on Redis pub/sub: one node (6.0 or later) or a Cluster (7.0 or later). Clones share the connections.
///
/// `Ok` of a publication means that the server has passed it to the connections of all who listened. A publication is sent
/// once: what a Cluster redirects was not carried out, and is sent on.
///
/// # Connections
/// Two to a node: one publishes, one listens; Redis cuts the connection of a listener that reads too slowly
/// (`client-output-buffer-limit pubsub`), which must not take publications with it. What is listened to is read as it comes, into
/// the subscriptions' buffers, so a slow subscriber does not make the connection slow. When a connection breaks, or does not
/// answer to the driver's `PING`, the driver makes a new one, subscribes again, and tells the subscriptions that nobody knows
/// what they have lost.
///
/// # Cluster
/// Sharded pub/sub: a channel lies on the node that holds its slot, as a key does. Plain `PUBLISH` would be passed to every node of
/// the Cluster, whether anybody listens there or not, so that each node added makes all of them busier.
/// When a slot moves, its channels are subscribed on the new node, and the subscriptions told as above.
///
/// # Cost
/// A round trip a publication; calls in flight share the connection. 17 bytes of header a message.
#[derive(Clone)]
pub struct RedisBus {
    shared: Arc<Shared>,
}

struct Shared {
    hub: Arc<Hub>,
    router: Router,
    commands: Commands,
    numbers: Numbers,
    prefix: String,
}

impl fmt::Debug for RedisBus {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus").field("limits", &self.shared.hub.limits).finish_non_exhaustive()
    }
}

impl RedisBus {
    /// Connects to a URL, as [`RedisStore::connect`](crate::RedisStore::connect) does. Needs a Tokio runtime. The driver must be run, on
    /// it, for as long as anybody listens: it subscribes, reconnects and unsubscribes. Dropping it ends all subscriptions.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the URL, the prefix or the CA is wrong, or if the server is too old;
    /// [`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout) or [`Denied`](ErrorKind::Denied) if there is no
    /// way in. The URL's password is in none of them.
    pub async fn connect(url: &str, config: RedisBusConfig) -> Result<(Self, BusDriver)> {
        let target = config.read(url)?;
        let denied = |failure: Failure| map(&failure, Access::Read);
        let commands = if target.is_cluster { SHARDED } else { PLAIN };
        let hub = Arc::new(Hub::remote(config.limits, config.response_timeout + config.connection_timeout));
        let mut listening = target.clone();
        listening.connector.hook = Some(listen(Arc::clone(&hub), config.prefix.clone()));
        let feed = Router::connect(listening).await.map_err(denied)?;
        let router = Router::connect(target).await.map_err(denied)?;
        if commands.publish == SHARDED.publish {
            refuse_old(&router, "a bus on a Redis Cluster needs sharded pub/sub, of Redis 7.0 or later").await?;
        }
        let feed = Feed::new(Arc::clone(&hub), feed, commands, &config);
        let numbers = Numbers::new(&SystemEntropy);
        let shared = Arc::new(Shared { hub, router, commands, numbers, prefix: config.prefix });
        Ok((Self { shared }, Box::pin(feed.run())))
    }
}

impl Shared {
    fn call(&self, channel: &Channel, header: &Header, payload: &[u8]) -> Call {
        let bytes = self.prefix.len() + channel.as_bytes().len() + HEADER_BYTES + payload.len() + 16;
        let mut command = Cmd::with_capacity(3, bytes);
        command.arg(self.commands.publish);
        {
            use std::io::Write as _;
            let mut name = command.writer_for_next_arg();
            // Writing to memory does not fail.
            let _ = name.write_all(self.prefix.as_bytes()).and_then(|()| name.write_all(channel.as_bytes()));
            drop(name);
            let mut message = command.writer_for_next_arg();
            let _ = message.write_all(header).and_then(|()| message.write_all(payload));
        }
        Call::plain(command)
    }

    /// Sends a message with its number. The number is given in the moment in which the call takes its place in the
    /// connection's queue: what is numbered later is sent later.
    async fn send(self: &Arc<Self>, channel: &Channel, payload: &[u8]) -> Result<Value, Failure> {
        type Sending = Pin<Box<dyn Future<Output = Result<Value, Failure>> + Send>>;
        let mut sending: Option<Sending> = None;
        poll_fn(|context| {
            if let Some(sending) = &mut sending {
                return sending.as_mut().poll(context);
            }
            let shared = Arc::clone(self);
            let mut turn = self.numbers.turn(channel);
            let call = self.call(channel, &turn.header(channel), payload);
            // Tokio makes a busy task pause in the client's queue before it has a place there: others would overtake it.
            let mut started: Sending = Box::pin(unconstrained(async move { shared.router.send(&call).await }));
            let answer = started.as_mut().poll(context);
            drop(turn);
            sending = Some(started);
            answer
        })
        .await
    }
}

impl Bus for RedisBus {
    type Subscription = Listener;

    fn limits(&self) -> &BusLimits {
        &self.shared.hub.limits
    }

    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<()> {
        self.shared.hub.limits.check_payload(&payload)?;
        let failed = |failure: Failure| map(&failure, Access::Write);
        // Connecting comes before numbering: while it lasts, calls may overtake each other.
        self.shared.router.ready(|| self.shared.call(channel, &[0; HEADER_BYTES], &[])).await.map_err(failed)?;
        self.shared.send(channel, &payload).await.map_err(failed)?;
        Ok(())
    }

    async fn subscribe(&self, channels: &[Channel]) -> Result<Listener> {
        Listener::open(&self.shared.hub, channels).await
    }
}
