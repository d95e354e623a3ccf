//! Buses: messages to whoever listens now, and word of what was lost.
//!
//! A bus carries a message to the node that holds a user's connection, wakes a reader that would else have to poll, tells
//! caches what changed. It keeps nothing: what must arrive lies in a store, and the bus says that it is there. So a
//! subscriber must know when it has missed something, and go and look. That is what [`Delivery::Lost`] is for:
//!
//! | what happened | what the subscriber gets, in place of what is missing |
//! |---|---|
//! | it read too slowly, and its buffer overflowed | [`Lost::Count`], exactly |
//! | a server, a client or a network dropped messages in silence | [`Lost::Count`], as soon as the same publisher's next one shows the gap in its numbers |
//! | the connection to the server broke and came back | [`Lost::Unknown`], once it is back: what is published from then on arrives |
//!
//! A subscription is never closed for being slow, and publishers never wait for subscribers.

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, Result};

/// Where messages are published: a name of 1 to [`BYTES_MAX`](Self::BYTES_MAX) bytes, whichever they are. No byte of it
/// means anything to any bus: there are no wildcards and no hierarchy.
///
/// ```
/// use sysd_core::bus::Channel;
/// let node = Channel::new("node 7")?;
/// assert_eq!(node.as_bytes(), b"node 7");
/// assert_eq!(Channel::new("").unwrap_err().field(), Some("channel"));
/// # Ok::<(), sysd_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Bytes);

impl Channel {
    /// The longest name, bytes.
    pub const BYTES_MAX: usize = 256;

    /// A channel by its name.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the name is empty, [`TooLarge`](crate::ErrorKind::TooLarge) if it is
    /// longer than [`BYTES_MAX`](Self::BYTES_MAX); both name `channel`.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(Error::invalid("channel", "a channel's name has at least one byte"));
        }
        if name.len() > Self::BYTES_MAX {
            return Err(Error::too_large("channel", name.len(), Self::BYTES_MAX));
        }
        Ok(Self(Bytes::copy_from_slice(name)))
    }

    /// The name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Channel {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.0.escape_ascii())
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// How many messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// So many.
    Count(u64),
    /// Nobody knows how many, perhaps none.
    Unknown,
}

impl Lost {
    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Count(one), Self::Count(two)) => Self::Count(one.saturating_add(two)),
            _ => Self::Unknown,
        }
    }
}

/// What a subscription hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a loss is an item among the messages, not an error: look at it"]
pub enum Delivery {
    /// A message.
    Message {
        /// Where it was published.
        channel: Channel,
        /// What was published.
        payload: Bytes,
    },
    /// Here messages of a channel are missing: between the one handed out before and the next.
    Lost {
        /// Where they were published.
        channel: Channel,
        /// How many there were.
        lost: Lost,
    },
}

/// How much a bus takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusLimits {
    /// The longest payload, bytes.
    pub payload_bytes_max: usize,
    /// How many messages lie in a subscription's buffer at most. The oldest make room, and are counted.
    pub buffer_messages_max: usize,
    /// How many bytes of payload lie in a subscription's buffer at most; a single message may be larger.
    pub buffer_bytes_max: usize,
}

impl BusLimits {
    /// Those of a bus in the process: to start from.
    pub const PROCESS: Self =
        Self { payload_bytes_max: 1 << 20, buffer_messages_max: 1_024, buffer_bytes_max: 16 << 20 };

    /// Refuses a payload over the limit.
    ///
    /// # Errors
    /// [`TooLarge`](crate::ErrorKind::TooLarge) naming `payload`.
    pub fn check_payload(&self, payload: &[u8]) -> Result<()> {
        if payload.len() > self.payload_bytes_max {
            return Err(Error::too_large("payload", payload.len(), self.payload_bytes_max));
        }
        Ok(())
    }
}

/// Messages to whoever listens now.
///
/// # Guarantees
/// The numbers are those of docs/bus.md.
/// - N1, N2: What one publisher publishes to a channel, one after the other, arrives in this order, each message at most once, at
///   every subscription of the channel.
/// - N3: A subscription gets what is published after [`subscribe`](Self::subscribe) answered, and nothing from before it asked but
///   what was on its way to this process for another subscription.
/// - N4: A message arrives on its channel and no other, byte for byte.
/// - N5: Whatever is missing among what arrives is told, in its place, by [`Delivery::Lost`]. Not told is what was lost behind
///   a publisher's last message: nothing comes after it that could show the gap.
///
/// # Cancel safety
/// A publication that is dropped happened or not, and other calls are unharmed.
pub trait Bus: Send + Sync + 'static {
    /// What listens.
    type Subscription: Subscription;

    /// How much it takes.
    fn limits(&self) -> &BusLimits;

    /// Publishes to those who listen now. `Ok`: the bus has taken it; nobody need have got it.
    ///
    /// # Errors
    /// [`TooLarge`](crate::ErrorKind::TooLarge) naming `payload`, before anything is sent. After an
    /// [`Effect::Unknown`](crate::Effect::Unknown) it may have arrived or may still: publishing it again may double it.
    fn publish(&self, channel: &Channel, payload: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Listens to some channels, perhaps none yet; answers when all of them are heard.
    ///
    /// # Errors
    /// If the bus can't be reached in time. Then nothing is listened to.
    fn subscribe(&self, channels: &[Channel]) -> impl Future<Output = Result<Self::Subscription>> + Send;
}

/// Listens, until it is dropped.
pub trait Subscription: Send + 'static {
    /// The next message, or word of those that are lost. Waits for as long as there is none.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when the bus has ended (its driver was dropped): nothing more will come.
    /// [`Denied`](crate::ErrorKind::Denied), once, when the server forbids a channel that was heard: that one is heard no more,
    /// the others are.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was not handed out is handed out next.
    fn next(&mut self) -> impl Future<Output = Result<Delivery>> + Send;

    /// Listens to another channel, too; answers when it is heard. One that is heard already is left as it is.
    ///
    /// # Errors
    /// If the bus can't be reached in time. Then the channel is not listened to.
    ///
    /// # Cancel safety
    /// A dropped call leaves the channel unheard.
    fn add(&mut self, channel: &Channel) -> impl Future<Output = Result<()>> + Send;

    /// Stops listening to a channel, at once; what is in the buffer is still handed out. `false` if it was not heard.
    fn remove(&mut self, channel: &Channel) -> bool;
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The object-safe twin of [`Bus`], implemented for every bus. One allocation a call.
#[async_trait]
pub trait ErasedBus: Send + Sync + 'static {
    /// As [`Bus::limits`].
    fn limits(&self) -> &BusLimits;
    /// As [`Bus::publish`].
    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<()>;
    /// As [`Bus::subscribe`].
    async fn subscribe(&self, channels: &[Channel]) -> Result<AnySubscription>;
}

#[async_trait]
impl<B: Bus> ErasedBus for B {
    fn limits(&self) -> &BusLimits {
        Bus::limits(self)
    }

    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<()> {
        Bus::publish(self, channel, payload).await
    }

    async fn subscribe(&self, channels: &[Channel]) -> Result<AnySubscription> {
        Ok(AnySubscription(Box::new(Bus::subscribe(self, channels).await?)))
    }
}

/// The object-safe twin of [`Subscription`], implemented for every subscription.
trait ErasedSubscription: Send + 'static {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery>>;
    fn add<'a>(&'a mut self, channel: &'a Channel) -> BoxFuture<'a, Result<()>>;
    fn remove(&mut self, channel: &Channel) -> bool;
}

impl<S: Subscription> ErasedSubscription for S {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery>> {
        Box::pin(Subscription::next(self))
    }

    fn add<'a>(&'a mut self, channel: &'a Channel) -> BoxFuture<'a, Result<()>> {
        Box::pin(Subscription::add(self, channel))
    }

    fn remove(&mut self, channel: &Channel) -> bool {
        Subscription::remove(self, channel)
    }
}

/// Any bus, chosen at run time; cheap to clone. It is a [`Bus`] again.
#[derive(Clone)]
pub struct AnyBus(Arc<dyn ErasedBus>);

impl AnyBus {
    /// Erases a bus.
    pub fn new(bus: impl Bus) -> Self {
        Self(Arc::new(bus))
    }
}

impl fmt::Debug for AnyBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyBus").finish_non_exhaustive()
    }
}

impl Bus for AnyBus {
    type Subscription = AnySubscription;

    fn limits(&self) -> &BusLimits {
        self.0.limits()
    }

    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<()> {
        self.0.publish(channel, payload).await
    }

    async fn subscribe(&self, channels: &[Channel]) -> Result<AnySubscription> {
        self.0.subscribe(channels).await
    }
}

/// A subscription of [`AnyBus`].
pub struct AnySubscription(Box<dyn ErasedSubscription>);

impl fmt::Debug for AnySubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnySubscription").finish_non_exhaustive()
    }
}

impl Subscription for AnySubscription {
    async fn next(&mut self) -> Result<Delivery> {
        self.0.next().await
    }

    async fn add(&mut self, channel: &Channel) -> Result<()> {
        self.0.add(channel).await
    }

    fn remove(&mut self, channel: &Channel) -> bool {
        self.0.remove(channel)
    }
}

/// Sharing a bus changes nothing about it.
impl<B: Bus> Bus for Arc<B> {
    type Subscription = B::Subscription;

    fn limits(&self) -> &BusLimits {
        Bus::limits(&**self)
    }

    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<()> {
        Bus::publish(&**self, channel, payload).await
    }

    async fn subscribe(&self, channels: &[Channel]) -> Result<B::Subscription> {
        Bus::subscribe(&**self, channels).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Effect, ErrorKind};

    #[test]
    fn a_name_has_its_bounds_and_is_named_where_it_breaks_them() {
        assert!(Channel::new([0xFF; Channel::BYTES_MAX]).is_ok());
        let long = Channel::new([b'x'; Channel::BYTES_MAX + 1]).unwrap_err();
        assert_eq!((long.kind(), long.effect(), long.field()), (ErrorKind::TooLarge, Effect::None, Some("channel")));
        assert_eq!(Channel::new(b"").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(Channel::new(b"a\x00*").unwrap().to_string(), r"a\x00*");
    }

    #[test]
    fn losses_add_up() {
        assert_eq!(Lost::Count(2).and(Lost::Count(3)), Lost::Count(5));
        assert_eq!(Lost::Count(u64::MAX).and(Lost::Count(3)), Lost::Count(u64::MAX));
        assert_eq!(Lost::Count(2).and(Lost::Unknown), Lost::Unknown);
    }
}
