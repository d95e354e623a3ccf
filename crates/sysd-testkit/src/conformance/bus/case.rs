//! What every clause of a bus works with.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use sysd_core::bus::{AnyBus, AnySubscription, Bus as _, Channel, Delivery, Lost, Subscription as _};
use sysd_core::{SystemClock, SystemEntropy, random_base62, timeout};

use crate::conformance::case::{Failure, Verdict, ensure_eq};

/// How long nothing may come where something must.
const WAIT: Duration = Duration::from_secs(10);

/// A buffer that overflows soon.
pub(super) const SMALL: usize = 8;

/// A check under way.
pub(super) type Checking<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// Two buses over which the same messages go, and channels of the clause's own.
pub(super) struct Case {
    pub(super) one: AnyBus,
    pub(super) other: AnyBus,
    namespace: String,
}

impl Case {
    pub(super) fn new([one, other]: [AnyBus; 2]) -> Self {
        Self { one, other, namespace: random_base62(12, &SystemEntropy) }
    }

    /// A channel that no other clause uses.
    pub(super) fn channel(&self, name: impl AsRef<[u8]>) -> Verdict<Channel> {
        Ok(Channel::new([self.namespace.as_bytes(), name.as_ref()].concat())?)
    }
}

/// Publishes a number.
pub(super) async fn publish(bus: &AnyBus, channel: &Channel, number: u64) -> Verdict {
    Ok(bus.publish(channel, Bytes::copy_from_slice(&number.to_be_bytes())).await?)
}

/// The number in a payload.
pub(super) fn number(payload: &[u8]) -> Verdict<u64> {
    let number = payload.try_into().map_err(|_| Failure::new(format!("{} bytes that nobody sent", payload.len())))?;
    Ok(u64::from_be_bytes(number))
}

/// What comes next.
pub(super) async fn next(subscription: &mut AnySubscription) -> Verdict<Delivery> {
    match timeout(&SystemClock, WAIT, subscription.next()).await {
        Ok(delivery) => Ok(delivery?),
        Err(_) => Err(Failure::new(format!("nothing came within {} s", WAIT.as_secs()))),
    }
}

/// The message that comes next; nothing may be lost before it.
pub(super) async fn message(subscription: &mut AnySubscription) -> Verdict<(Channel, Bytes)> {
    match next(subscription).await? {
        Delivery::Message { channel, payload } => Ok((channel, payload)),
        Delivery::Lost { channel, lost } => Err(Failure::new(format!("{lost:?} lost on {channel}, and none was"))),
    }
}

/// The number that comes next, on this channel.
pub(super) async fn expect(subscription: &mut AnySubscription, channel: &Channel, expected: u64) -> Verdict {
    let (from, payload) = message(subscription).await?;
    ensure_eq!((&from, number(&payload)?), (channel, expected), "channel and number");
    Ok(())
}

/// Reads numbers up to `last`, each the next one or behind a loss of exactly those between; answers how many were lost.
pub(super) async fn read_to(subscription: &mut AnySubscription, first: u64, last: u64) -> Verdict<u64> {
    let (mut due, mut missing) = (first, 0);
    while due <= last {
        match next(subscription).await? {
            Delivery::Message { payload, .. } => {
                ensure_eq!(number(&payload)?, due, "the number that is due");
                due += 1;
            }
            Delivery::Lost { lost: Lost::Count(count), .. } => {
                due += count;
                missing += count;
            }
            Delivery::Lost { lost: Lost::Unknown, .. } => {
                return Err(Failure::new("nobody knows what an overflow lost"));
            }
        }
    }
    ensure_eq!(due, last + 1, "what was told to be lost ends behind the last message: the next would be");
    Ok(missing)
}
