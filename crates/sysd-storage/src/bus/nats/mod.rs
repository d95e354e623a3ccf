//! A bus on NATS.

mod address;
mod driver;

use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerError};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use sysd_core::bus::{Bus, BusLimits, Channel};
use sysd_core::{Effect, Error, ErrorKind, Result, SystemClock, SystemEntropy, timeout};
use tokio::sync::watch;
use tokio::task::unconstrained;

use super::BusDriver;
use super::hub::{Hub, Listener};
use super::numbers::{HEADER_BYTES, Header, Numbers};

use address::{Refusal, parse, refusal, refused, subject};
use driver::Driver;

/// How many refusals of a server are remembered until somebody asks.
const REFUSALS_MAX: usize = 1_024;
/// The server's own limit unless it says otherwise.
const PAYLOAD_BYTES_MAX: usize = (1 << 20) - HEADER_BYTES;

/// How a [`NatsBus`] is made.
#[derive(Clone, Debug)]
pub struct NatsBusConfig {
    /// The first token of every subject, so that several applications can share a server: letters, digits, `-` and `_`. Grant
    /// users `PREFIX.*` and `_INBOX.>`, to publish and to subscribe.
    pub prefix: String,
    /// The longest wait for an answer. A publication that gets none has an unknown effect.
    pub response_timeout: Duration,
    /// The longest wait for a connection.
    pub connection_timeout: Duration,
    /// How often the connection is tried: one that went mute is given up after three of these.
    pub ping_interval: Duration,
    /// How much the bus takes; a server that takes less lowers `payload_bytes_max`.
    pub limits: BusLimits,
    /// As if the client had dropped all its events.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub drops_events: bool,
}

impl Default for NatsBusConfig {
    fn default() -> Self {
        let mut limits = BusLimits::PROCESS;
        limits.payload_bytes_max = PAYLOAD_BYTES_MAX;
        Self {
            prefix: "sysd".to_owned(),
            response_timeout: Duration::from_secs(2),
            connection_timeout: Duration::from_secs(1),
            ping_interval: Duration::from_secs(5),
            limits,
            #[cfg(feature = "seeded-bugs")]
            drops_events: false,
        }
    }
}

impl NatsBusConfig {
    #[cfg(feature = "seeded-bugs")]
    const fn drops_events(&self) -> bool {
        self.drops_events
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "as above, without the field")]
    const fn drops_events(&self) -> bool {
        false
    }

    fn check(&self) -> Result<()> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if self.prefix.is_empty() || !self.prefix.bytes().all(is_plain) {
            return Err(config("a prefix is letters, digits, - and _").with_field("prefix"));
        }
        let options = [
            ("response_timeout", self.response_timeout),
            ("connection_timeout", self.connection_timeout),
            ("ping_interval", self.ping_interval),
        ];
        match options.into_iter().find(|(_, wait)| wait.is_zero()) {
            Some((option, _)) => Err(config("a wait of zero lets no call succeed").with_field(option)),
            None => Ok(()),
        }
    }
}

fn config(message: &'static str) -> Error {
    Error::new(ErrorKind::Config, Effect::None, message)
}

/// A bus on NATS 2.2 or later, without JetStream. Clones share the connection.
///
/// A channel is the subject `PREFIX.NAME`, where NAME is the channel's name with every byte that is not a letter, a digit, `-`
/// or `_` written as `=` and two hexadecimal digits: no name holds a wildcard or a dot.
///
/// `Ok` of a publication means that the server has it: NATS confirms nothing by itself, so behind the publications goes an
/// empty message to an inbox of this process, and when that comes back, the server has read all that went before it.
/// Publications that wait at the same time share one. A server that forbids a subject says so of no publication in particular:
/// [`Denied`](ErrorKind::Denied) is answered by the one that was under way if it is heard in time, or else by the next there.
///
/// A channel that the server forbids to listen to is [`Denied`](ErrorKind::Denied): by `subscribe` or `add`; by `next`, once, if
/// it is forbidden later, or word of it comes late. From then on it is not heard, while the subscription's other channels are.
///
/// # Connections
/// One, which the client keeps, on tasks of its own. When it broke and came back, the subscriptions are told that nobody knows
/// what they have lost, twice: as soon as it is seen, and when the server has the subscriptions again.
///
/// In a cluster of NATS servers a subscription is confirmed by the server that this process is connected to; the others hear of
/// it a moment later.
///
/// # Cost
/// A round trip a publication, up to two where many wait at once; 17 bytes of header a message.
#[derive(Clone)]
pub struct NatsBus {
    shared: Arc<Shared>,
}

struct Shared {
    hub: Arc<Hub>,
    client: Client,
    numbers: Numbers,
    prefix: String,
    response_timeout: Duration,
    echoes: Echoes,
    signals: Arc<Signals>,
}

/// What the client's tasks tell the driver.
#[derive(Default)]
struct Signals {
    /// The connection broke or came back.
    is_moved: AtomicBool,
    /// The client dropped messages: the driver was not polled for too long.
    is_slow: AtomicBool,
    /// The server forbids the inbox, so no echo comes back.
    is_mute: AtomicBool,
    /// Subjects that the server forbids to listen to, for the driver.
    unheard: Mutex<BTreeSet<String>>,
    /// Subjects that it forbids to publish to, for the next publication there.
    unsaid: Mutex<BTreeSet<String>>,
    has_unsaid: AtomicBool,
    driver: AtomicWaker,
}

impl Signals {
    fn take(&self, event: &Event, own: &str) {
        match event {
            Event::Disconnected | Event::Connected | Event::Closed => self.is_moved.store(true, Ordering::SeqCst),
            Event::SlowConsumer(_) => self.is_slow.store(true, Ordering::SeqCst),
            Event::ServerError(ServerError::Other(text)) => match refusal(text) {
                Some(Refusal::Subscription(subject)) => keep(&self.unheard, subject),
                Some(Refusal::Publication(subject)) if !subject.starts_with(own) => keep(&self.unheard, subject),
                Some(Refusal::Publication(subject)) => {
                    keep(&self.unsaid, subject);
                    self.has_unsaid.store(true, Ordering::SeqCst);
                }
                None => {}
            },
            _ => {}
        }
        self.driver.wake();
    }

    /// Whether the server has said that it forbids to publish there; that is told once.
    fn is_forbidden(&self, prefix: &str, channel: &Channel) -> bool {
        if !self.has_unsaid.load(Ordering::SeqCst) {
            return false;
        }
        let mut unsaid = self.unsaid.lock();
        let is_forbidden = unsaid.remove(&subject(prefix, channel));
        self.has_unsaid.store(!unsaid.is_empty(), Ordering::SeqCst);
        is_forbidden
    }
}

fn keep(subjects: &Mutex<BTreeSet<String>>, subject: &str) {
    let mut subjects = subjects.lock();
    if subjects.len() < REFUSALS_MAX {
        subjects.insert(subject.to_owned());
    }
}

/// Empty messages that come back when the server has read what was sent before them. One is on its way at a time.
struct Echoes {
    wanted: Mutex<u64>,
    heard: watch::Sender<Heard>,
}

#[derive(Clone, Copy, Default)]
struct Heard {
    echo: u64,
    /// How often the connection broke.
    breaks: u64,
}

impl fmt::Debug for NatsBus {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBus").field("limits", &self.shared.hub.limits).finish_non_exhaustive()
    }
}

impl NatsBus {
    /// Connects to `nats://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]`, or `tls://…`. Needs a Tokio runtime. The driver must be
    /// run: it subscribes, confirms publications, and tells what was lost. Dropping it ends the bus.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the URL or the configuration is wrong; [`Unavailable`](ErrorKind::Unavailable),
    /// [`Timeout`](ErrorKind::Timeout) or [`Denied`](ErrorKind::Denied) if there is no way in. The URL's password is in none
    /// of them.
    pub async fn connect(url: &str, config: NatsBusConfig) -> Result<(Self, BusDriver)> {
        Self::connect_with(url, config, ConnectOptions::new()).await
    }

    /// As [`connect`](Self::connect), with options of the client: credentials, certificates. Its timeouts and its event
    /// callback are set here.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(url: &str, config: NatsBusConfig, options: ConnectOptions) -> Result<(Self, BusDriver)> {
        config.check()?;
        let (servers, credentials) = parse(url)?;
        let signals = Arc::new(Signals::default());
        let (told, drops_events) = (Arc::clone(&signals), config.drops_events());
        // Whatever else is forbidden is the inbox.
        let own = format!("{}.", config.prefix);
        let options = match credentials {
            Some((user, password)) => options.user_and_password(user, password),
            None => options,
        };
        let options = options
            .connection_timeout(config.connection_timeout)
            .ping_interval(config.ping_interval)
            .event_callback(move |event| {
                if !drops_events {
                    told.take(&event, &own);
                }
                std::future::ready(())
            });
        let client = options.connect(servers).await.map_err(|error| refused(&error))?;
        let mut limits = config.limits;
        limits.payload_bytes_max =
            limits.payload_bytes_max.min(client.server_info().max_payload.saturating_sub(HEADER_BYTES));
        let inbox = client.new_inbox();
        let subscribed = client.subscribe(inbox.clone()).await;
        let echo = subscribed.map_err(|_| Error::new(ErrorKind::Unavailable, Effect::None, CLOSED))?;
        let shared = Arc::new(Shared {
            hub: Arc::new(Hub::remote(limits, config.response_timeout)),
            client,
            numbers: Numbers::new(&SystemEntropy),
            prefix: config.prefix,
            response_timeout: config.response_timeout,
            echoes: Echoes { wanted: Mutex::new(0), heard: watch::channel(Heard::default()).0 },
            signals,
        });
        let driver = Driver::new(Arc::clone(&shared), inbox, echo, config.ping_interval);
        Ok((Self { shared }, Box::pin(driver.run())))
    }
}

const CLOSED: &str = "the NATS client has given the connection up";

fn message(header: &Header, payload: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    message.put_slice(header);
    message.put_slice(payload);
    message.freeze()
}

/// What is asked of a server that forbids it.
fn forbidden_channel() -> Error {
    let message = "NATS forbids that channel; grant this user PREFIX.*, to publish and to subscribe";
    Error::new(ErrorKind::Denied, Effect::None, message)
}

fn mute(effect: Effect) -> Error {
    let message =
        "NATS forbids the inbox that tells what it has read; grant this user _INBOX.>, to publish and to subscribe";
    Error::new(ErrorKind::Denied, effect, message)
}

fn broke() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the connection to NATS broke")
}

impl Shared {
    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::SeqCst)
    }

    /// Hands a message to the client, with its number: given in the moment in which it takes its place in the client's queue.
    async fn send(self: &Arc<Self>, channel: &Channel, payload: &[u8]) -> Result<()> {
        type Sending = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
        let mut sending: Option<Sending> = None;
        poll_fn(|context| {
            if let Some(sending) = &mut sending {
                return sending.as_mut().poll(context);
            }
            let (client, subject) = (self.client.clone(), subject(&self.prefix, channel));
            let mut turn = self.numbers.turn(channel);
            let message = message(&turn.header(channel), payload);
            // Tokio makes a busy task pause in the client's queue before it has a place there: others would overtake it.
            let mut started: Sending = Box::pin(unconstrained(async move {
                let sent = client.publish(subject, message).await;
                sent.map_err(|_| Error::new(ErrorKind::Unavailable, Effect::None, CLOSED))
            }));
            let answer = started.as_mut().poll(context);
            drop(turn);
            sending = Some(started);
            answer
        })
        .await
    }

    /// Waits until the server has read what this process has sent so far.
    async fn confirm(&self, breaks: u64) -> Result<()> {
        let mut heard = self.echoes.heard.subscribe();
        let echo = {
            let mut wanted = self.echoes.wanted.lock();
            *wanted += 1;
            *wanted
        };
        self.signals.driver.wake();
        let heard = heard.wait_for(|heard| heard.echo >= echo || heard.breaks != breaks).await;
        match heard {
            Ok(heard) if heard.breaks == breaks => Ok(()),
            _ if self.signals.is_mute.load(Ordering::SeqCst) => Err(mute(Effect::Unknown)),
            _ => Err(broke()),
        }
    }
}

impl Bus for NatsBus {
    type Subscription = Listener;

    fn limits(&self) -> &BusLimits {
        &self.shared.hub.limits
    }

    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<()> {
        let shared = &self.shared;
        shared.hub.limits.check_payload(&payload)?;
        shared.hub.check_open()?;
        if shared.client.connection_state() != State::Connected {
            // The client would keep it for later: too late, and without end.
            return Err(Error::new(ErrorKind::Unavailable, Effect::None, "there is no connection to NATS"));
        }
        if shared.signals.is_mute.load(Ordering::SeqCst) {
            return Err(mute(Effect::None));
        }
        if shared.signals.is_forbidden(&shared.prefix, channel) {
            return Err(forbidden_channel());
        }
        let (connects, breaks) = (shared.connects(), shared.echoes.heard.borrow().breaks);
        let published = async {
            shared.send(channel, &payload).await?;
            shared.confirm(breaks).await?;
            if shared.signals.is_forbidden(&shared.prefix, channel) {
                return Err(forbidden_channel());
            }
            if shared.connects() == connects { Ok(()) } else { Err(broke()) }
        };
        let late = |_| {
            let message = "NATS gave no answer in time; does the bus's driver run?";
            Error::new(ErrorKind::Timeout, Effect::Unknown, message)
        };
        timeout(&SystemClock, shared.response_timeout, published).await.map_err(late)?
    }

    async fn subscribe(&self, channels: &[Channel]) -> Result<Listener> {
        Listener::open(&self.shared.hub, channels).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configuration_that_can_not_work_is_refused() {
        for prefix in ["", "a.b", "*", "a b", ">"] {
            let config = NatsBusConfig { prefix: prefix.to_owned(), ..NatsBusConfig::default() };
            assert_eq!(config.check().unwrap_err().field(), Some("prefix"), "{prefix}");
        }
        let config = NatsBusConfig { ping_interval: Duration::ZERO, ..NatsBusConfig::default() };
        assert_eq!(config.check().unwrap_err().field(), Some("ping_interval"));
    }
}
