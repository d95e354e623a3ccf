//! A bus on NATS.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, Subscriber};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::{AbortHandle, Abortable};
use futures::stream::SelectAll;
use futures::task::AtomicWaker;
use futures::{FutureExt as _, Stream, StreamExt as _};
use parking_lot::Mutex;
use sysd_core::bus::{Bus, BusLimits, Channel};
use sysd_core::{Effect, Error, ErrorKind, Result, SystemClock, SystemEntropy, timeout};
use tokio::sync::watch;
use tokio::task::unconstrained;

use super::BusDriver;
use super::hub::{Closing, Hub, Job, Listener, Source};
use super::numbers::{HEADER_BYTES, Header, Numbers};

/// All channels come over the one connection, which the client keeps.
const SOURCE: Source = 0;
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
        }
    }
}

impl NatsBusConfig {
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
/// Publications that wait at the same time share one. A server that forbids a subject says so later and of no
/// publication in particular; it is logged by the client.
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
    driver: AtomicWaker,
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
        let told = Arc::clone(&signals);
        let options = match credentials {
            Some((user, password)) => options.user_and_password(user, password),
            None => options,
        };
        let options = options
            .connection_timeout(config.connection_timeout)
            .ping_interval(config.ping_interval)
            .event_callback(move |event| {
                match event {
                    Event::Disconnected | Event::Connected | Event::Closed => {
                        told.is_moved.store(true, Ordering::SeqCst);
                    }
                    Event::SlowConsumer(_) => told.is_slow.store(true, Ordering::SeqCst),
                    _ => {}
                }
                told.driver.wake();
                std::future::ready(())
            });
        let client = options.connect(servers).await.map_err(|error| refused(&error))?;
        let mut limits = config.limits;
        limits.payload_bytes_max =
            limits.payload_bytes_max.min(client.server_info().max_payload.saturating_sub(HEADER_BYTES));
        let inbox = client.new_inbox();
        let subscribed = client.subscribe(inbox.clone()).await;
        let echo = subscribed.map_err(|_| Error::new(ErrorKind::Unavailable, Effect::None, CLOSED))?;
        let connects = client.statistics().connects.load(Ordering::SeqCst);
        let shared = Arc::new(Shared {
            hub: Arc::new(Hub::remote(limits, config.response_timeout)),
            client,
            numbers: Numbers::new(&SystemEntropy),
            prefix: config.prefix,
            response_timeout: config.response_timeout,
            echoes: Echoes { wanted: Mutex::new(0), heard: watch::channel(Heard::default()).0 },
            signals,
        });
        let driver = Driver {
            closing: Closing(Arc::clone(&shared.hub)),
            shared: Arc::clone(&shared),
            inbox,
            echo,
            sent: 0,
            connects,
            is_resuming: false,
            messages: SelectAll::new(),
            heard: HashMap::new(),
            asked: Vec::new(),
            sending: None,
        };
        Ok((Self { shared }, Box::pin(driver.run())))
    }
}

const CLOSED: &str = "the NATS client has given the connection up";

/// The servers of a URL, with user and password.
type Target = (Vec<ServerAddr>, Option<(String, String)>);

fn parse(url: &str) -> Result<Target> {
    let wrong = || config("the URL is nats://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT], or tls://…");
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    if !matches!(scheme, "nats" | "tls") {
        return Err(wrong());
    }
    let rest = rest.trim_end_matches('/');
    let (credentials, hosts) = match rest.rsplit_once('@') {
        Some((user, _)) if user.contains('@') => {
            let message =
                "the NATS URL has two credentials: one stands before all hosts, and an @ in it is written %40";
            return Err(config(message));
        }
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').ok_or_else(wrong)?;
            (Some((unescape(user).ok_or_else(wrong)?, unescape(password).ok_or_else(wrong)?)), hosts)
        }
        None => (None, rest),
    };
    let server = |host: &str| match host {
        "" => Err(wrong()),
        host => format!("{scheme}://{host}").parse().map_err(|_| wrong()),
    };
    Ok((hosts.split(',').map(server).collect::<Result<_>>()?, credentials))
}

/// Reads `%40` as `@`.
fn unescape(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((plain, escaped)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(escaped.get(..2)?, 16).ok()?);
        rest = &escaped[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

/// Maps an error of connecting. The source is left out: it can hold the URL.
fn refused(error: &ConnectError) -> Error {
    let (kind, message) = match error.kind() {
        ConnectErrorKind::ServerParse => (ErrorKind::Config, "the NATS URL is wrong"),
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            (ErrorKind::Denied, "NATS refused the credentials")
        }
        ConnectErrorKind::Tls => (ErrorKind::Config, "the server does not speak TLS as it is spoken here"),
        ConnectErrorKind::TimedOut => (ErrorKind::Timeout, "NATS gave no answer in time"),
        ConnectErrorKind::Dns | ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            (ErrorKind::Unavailable, "no NATS answers at that address")
        }
    };
    Error::new(kind, Effect::None, message)
}

/// The subject of a channel: `PREFIX.NAME`, one token of plain bytes.
fn subject(prefix: &str, channel: &Channel) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut subject = String::with_capacity(prefix.len() + 1 + channel.as_bytes().len());
    subject.push_str(prefix);
    subject.push('.');
    for &byte in channel.as_bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            subject.push(char::from(byte));
        } else {
            subject.push('=');
            subject.push(char::from(HEX[usize::from(byte >> 4)]));
            subject.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    subject
}

fn message(header: &Header, payload: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    message.put_slice(header);
    message.put_slice(payload);
    message.freeze()
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
        let (connects, breaks) = (shared.connects(), shared.echoes.heard.borrow().breaks);
        let published = async {
            shared.send(channel, &payload).await?;
            shared.confirm(breaks).await?;
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

type Messages = Pin<Box<dyn Stream<Item = (Channel, Bytes)> + Send>>;
type Sending = Pin<Box<dyn Future<Output = Sent> + Send>>;

/// What was handed to the client.
enum Sent {
    Subscription(Channel, Option<Subscriber>),
    Echo,
}

/// Subscribes, hands out what comes, and sends echoes.
struct Driver {
    closing: Closing,
    shared: Arc<Shared>,
    inbox: String,
    echo: Subscriber,
    /// The last echo that was sent.
    sent: u64,
    connects: u64,
    /// The connection came back, and the server may not have the subscriptions yet.
    is_resuming: bool,
    messages: SelectAll<Messages>,
    heard: HashMap<Channel, AbortHandle>,
    /// Channels whose subscription went out, with the first echo behind it.
    asked: Vec<(u64, Channel)>,
    sending: Option<Sending>,
}

enum Step {
    Moved,
    Slow,
    Sent(Sent),
    Echo(Bytes),
    Job(Job),
    SendEcho,
    Message(Channel, Bytes),
    Gone,
}

impl Driver {
    async fn run(mut self) {
        loop {
            match poll_fn(|context| self.poll_step(context)).await {
                Step::Moved => self.look(),
                // The client does not say whose they were.
                Step::Slow => self.closing.0.tear_all(),
                Step::Sent(Sent::Subscription(channel, subscriber)) => self.follow(channel, subscriber),
                Step::Sent(Sent::Echo) => {}
                Step::Echo(number) => self.hear(&number),
                Step::Job(Job::Ask(channel)) => self.ask(channel),
                Step::Job(Job::Leave(channel)) => self.leave(&channel),
                Step::SendEcho => self.send_echo(),
                Step::Message(channel, message) => {
                    // A message of the new connection must not pass for the next of the old.
                    self.look();
                    self.closing.0.deliver(SOURCE, channel.as_bytes(), &message);
                }
                Step::Gone => return,
            }
        }
    }

    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        self.shared.signals.driver.register(context.waker());
        if self.shared.signals.is_slow.swap(false, Ordering::SeqCst) {
            return Poll::Ready(Step::Slow);
        }
        if self.shared.signals.is_moved.swap(false, Ordering::SeqCst) {
            return Poll::Ready(Step::Moved);
        }
        if let Some(sending) = &mut self.sending {
            if let Poll::Ready(sent) = sending.as_mut().poll(context) {
                self.sending = None;
                return Poll::Ready(Step::Sent(sent));
            }
        } else {
            // Subscriptions first: one echo confirms them all.
            if let Poll::Ready(job) = self.closing.0.poll_job(context) {
                return Poll::Ready(Step::Job(job));
            }
            let is_due = self.sent == self.shared.echoes.heard.borrow().echo
                && *self.shared.echoes.wanted.lock() > self.sent
                && self.shared.client.connection_state() == State::Connected;
            if is_due {
                return Poll::Ready(Step::SendEcho);
            }
        }
        match self.echo.poll_next_unpin(context) {
            Poll::Ready(Some(message)) => return Poll::Ready(Step::Echo(message.payload)),
            Poll::Ready(None) => return Poll::Ready(Step::Gone),
            Poll::Pending => {}
        }
        match self.messages.poll_next_unpin(context) {
            Poll::Ready(Some((channel, message))) => Poll::Ready(Step::Message(channel, message)),
            _ => Poll::Pending,
        }
    }

    /// Looks whether the connection broke, or the client dropped something.
    fn look(&mut self) {
        let (connects, state) = (self.shared.connects(), self.shared.client.connection_state());
        if connects == self.connects {
            if state == State::Connected {
                return;
            }
        } else {
            self.connects = connects;
            self.closing.0.tear_all();
            self.is_resuming = true;
        }
        self.abandon_echoes();
    }

    /// Whoever waits for an echo learns that it may never come.
    fn abandon_echoes(&mut self) {
        let mut wanted = self.shared.echoes.wanted.lock();
        self.sent = *wanted;
        if self.is_resuming || !self.asked.is_empty() {
            *wanted += 1;
        }
        for (echo, _) in &mut self.asked {
            *echo = self.sent + 1;
        }
        self.shared.echoes.heard.send_modify(|heard| {
            heard.echo = self.sent;
            heard.breaks += 1;
        });
    }

    fn ask(&mut self, channel: Channel) {
        let (client, subject) = (self.shared.client.clone(), subject(&self.shared.prefix, &channel));
        self.sending = Some(async move { Sent::Subscription(channel, client.subscribe(subject).await.ok()) }.boxed());
    }

    fn follow(&mut self, channel: Channel, subscriber: Option<Subscriber>) {
        let Some(subscriber) = subscriber else {
            self.closing.0.set_failed(&channel, Error::new(ErrorKind::Unavailable, Effect::None, CLOSED));
            return;
        };
        let (abort, registration) = AbortHandle::new_pair();
        let name = channel.clone();
        let messages = subscriber.map(move |message| (name.clone(), message.payload));
        self.messages.push(Box::pin(Abortable::new(messages, registration)));
        if let Some(before) = self.heard.insert(channel.clone(), abort) {
            before.abort();
        }
        let mut wanted = self.shared.echoes.wanted.lock();
        *wanted += 1;
        self.asked.push((*wanted, channel));
    }

    fn leave(&mut self, channel: &Channel) {
        if let Some(abort) = self.heard.remove(channel) {
            // The stream is dropped when it is polled next, and unsubscribes.
            abort.abort();
        }
        self.asked.retain(|(_, asked)| asked != channel);
        self.closing.0.set_left(channel);
    }

    fn send_echo(&mut self) {
        self.sent = *self.shared.echoes.wanted.lock();
        let (client, inbox) = (self.shared.client.clone(), self.inbox.clone());
        let number = Bytes::copy_from_slice(&self.sent.to_be_bytes());
        self.sending = Some(
            async move {
                // If the client has given up, those who wait time out.
                let _ = client.publish(inbox, number).await;
                Sent::Echo
            }
            .boxed(),
        );
    }

    fn hear(&mut self, number: &[u8]) {
        let Ok(number) = number.try_into().map(u64::from_be_bytes) else { return };
        self.look();
        // One that was abandoned says nothing any more.
        if number != self.sent || number == self.shared.echoes.heard.borrow().echo {
            return;
        }
        if std::mem::take(&mut self.is_resuming) {
            self.closing.0.tear_all();
        }
        let asked = std::mem::take(&mut self.asked);
        for (echo, channel) in asked {
            if echo <= number {
                self.closing.0.set_heard(SOURCE, channel.as_bytes());
            } else {
                self.asked.push((echo, channel));
            }
        }
        self.shared.echoes.heard.send_modify(|heard| heard.echo = number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_becomes_one_token_without_wildcards_and_no_two_the_same() {
        let token = |name: &[u8]| subject("p", &Channel::new(name).unwrap());
        assert_eq!(token(b"node-7_A"), "p.node-7_A");
        assert_eq!(token(b"a.*>=\r\n\xFF "), "p.a=2E=2A=3E=3D=0D=0A=FF=20");
        assert_ne!(token(b"=2E"), token(b"."));
        assert!((0..=u8::MAX).all(|byte| {
            let token = token(&[byte]);
            !token[2..].contains(['.', '*', '>', ' ', '$']) && token.bytes().all(|byte| byte.is_ascii_graphic())
        }));
    }

    #[test]
    fn reads_urls() {
        let (servers, credentials) = parse("nats://ann:p%40s%3As@a:1,b/").unwrap();
        let servers: Vec<_> = servers.iter().map(|server| (server.host().to_owned(), server.port())).collect();
        assert_eq!(servers, [("a".to_owned(), 1), ("b".to_owned(), 4_222)]);
        assert_eq!(credentials, Some(("ann".to_owned(), "p@s:s".to_owned())));
        for url in ["nats:a", "http://a", "nats://", "nats://a,,b", "nats://ann@a", "nats://ann:%4@a", "nats://a:none"]
        {
            assert_eq!(parse(url).map(drop).unwrap_err().kind(), ErrorKind::Config, "{url}");
        }
    }

    /// Else all but the last `@` would be of the first one's password, which would be sent to whoever is there.
    #[test]
    fn a_url_with_two_credentials_is_refused_by_name_without_its_secrets() {
        for url in ["nats://ann:hunter2@a,bob:hunter2@b", "nats://ann:hunter2@x@a"] {
            let error = parse(url).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let said = format!("{error} {error:?}");
            assert!(said.contains("two credentials") && !said.contains("hunter2") && !said.contains("ann"), "{said}");
        }
    }

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
