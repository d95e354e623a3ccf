//! Buses with one deliberate fault each.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use sysd_core::Result;
use sysd_core::bus::{Bus, BusLimits, Channel, Delivery, Lost, Subscription};
use sysd_storage::bus::{Listener, MemoryBus};

faults! {
    /// One deliberate fault of a bus, which breaks a clause of `docs/bus.md`.
    BusFault,
    /// Every fault of a bus, in the order of the clauses.
    BUS_FAULTS;
    "N1" Reorders: "Hands out the second of two messages first, where two are there.";
    "N2" SharesOut: "Hands each message to one of the subscriptions, as a queue does.";
    "N2" Repeats: "Hands every fifth message out twice.";
    "N3" Replays: "Gives a new subscription the last message of each channel.";
    "N4" MatchesWildcards: "Takes a * at the end of a name for all names that begin so.";
    "N4" FoldsCase: "Takes large and small letters for the same.";
    "N4" TrimsZeros: "Cuts zeros off the ends of payloads.";
    "N5" DropsSilently: "Does not say what was lost.";
    "N5" Miscounts: "Says that one less was lost.";
    "N5" TellsLate: "Hands the next message out before it says what was lost.";
    "N5" BuffersAll: "Keeps messages without bound.";
    "N6" KeepsListening: "Goes on with a channel that was left.";
    "N7" LeavesAll: "Leaves every channel with one of them.";
    "N8" LosesWhenDropped: "Takes a message, then waits a moment more before it hands it out.";
    "N9" TakesAnySize: "Checks no sizes.";
}

/// A bus in the process with a fault, or with none.
#[derive(Clone, Debug)]
pub struct BusMutant {
    bus: MemoryBus,
    limits: BusLimits,
    mutation: Option<Mutation>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    last: Mutex<HashMap<Channel, Bytes>>,
    wildcards: Mutex<HashSet<Channel>>,
    subscriptions: AtomicUsize,
}

impl BusMutant {
    /// A bus with this fault.
    pub fn new(fault: Option<BusFault>, limits: BusLimits) -> Self {
        let mutation = fault.map(|fault| fault.mutation);
        let mut inner = limits;
        match mutation {
            Some(Mutation::BuffersAll) => inner.buffer_messages_max = usize::MAX,
            Some(Mutation::TakesAnySize) => inner.payload_bytes_max = usize::MAX,
            _ => {}
        }
        Self { bus: MemoryBus::with_limits(inner), limits, mutation, shared: Arc::default() }
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// The channel that stands for this one.
    fn alias(&self, channel: &Channel) -> Result<Channel> {
        if self.is(Mutation::FoldsCase) {
            return Channel::new(channel.as_bytes().to_ascii_lowercase());
        }
        Ok(channel.clone())
    }
}

impl Bus for BusMutant {
    type Subscription = MutantSubscription;

    fn limits(&self) -> &BusLimits {
        &self.limits
    }

    async fn publish(&self, channel: &Channel, mut payload: Bytes) -> Result<()> {
        if self.is(Mutation::TrimsZeros) {
            payload.truncate(payload.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
        }
        if self.is(Mutation::Replays) {
            self.shared.last.lock().insert(channel.clone(), payload.clone());
        }
        if self.is(Mutation::MatchesWildcards) {
            let wildcards = self.shared.wildcards.lock().clone();
            let matches = |wildcard: &&Channel| {
                let begin = wildcard.as_bytes().strip_suffix(b"*");
                *wildcard != channel && begin.is_some_and(|begin| channel.as_bytes().starts_with(begin))
            };
            for wildcard in wildcards.iter().filter(matches) {
                self.bus.publish(wildcard, payload.clone()).await?;
            }
        }
        self.bus.publish(&self.alias(channel)?, payload).await
    }

    async fn subscribe(&self, channels: &[Channel]) -> Result<MutantSubscription> {
        let aliases: Vec<_> = channels.iter().map(|channel| self.alias(channel)).collect::<Result<_>>()?;
        if self.is(Mutation::MatchesWildcards) {
            self.shared.wildcards.lock().extend(channels.iter().cloned());
        }
        let mut held = VecDeque::new();
        if self.is(Mutation::Replays) {
            let last = self.shared.last.lock();
            let replayed = channels.iter().filter_map(|channel| Some((channel.clone(), last.get(channel)?.clone())));
            held.extend(replayed.map(|(channel, payload)| Delivery::Message { channel, payload }));
        }
        let listener = self.bus.subscribe(&aliases).await?;
        let number = self.shared.subscriptions.fetch_add(1, Ordering::Relaxed);
        let names = aliases.into_iter().zip(channels.iter().cloned()).collect();
        Ok(MutantSubscription { bus: self.clone(), listener, held, names, number, seen: 0 })
    }
}

/// A subscription of a [`BusMutant`].
#[derive(Debug)]
pub struct MutantSubscription {
    bus: BusMutant,
    listener: Listener,
    held: VecDeque<Delivery>,
    /// The channels, by those that stand for them.
    names: HashMap<Channel, Channel>,
    number: usize,
    seen: usize,
}

impl MutantSubscription {
    fn named(&self, delivery: Delivery) -> Delivery {
        let name = |channel: Channel| self.names.get(&channel).cloned().unwrap_or(channel);
        match delivery {
            Delivery::Message { channel, payload } => Delivery::Message { channel: name(channel), payload },
            Delivery::Lost { channel, lost } => Delivery::Lost { channel: name(channel), lost },
        }
    }
}

impl Subscription for MutantSubscription {
    async fn next(&mut self) -> Result<Delivery> {
        loop {
            if let Some(held) = self.held.pop_front() {
                return Ok(held);
            }
            let delivery = self.listener.next().await?;
            let delivery = self.named(delivery);
            self.seen += 1;
            match (self.bus.mutation, &delivery) {
                (Some(Mutation::Reorders), Delivery::Message { .. }) => {
                    if let Some(second) = self.listener.next().now_or_never() {
                        self.held.push_back(delivery);
                        return second.map(|second| self.named(second));
                    }
                }
                (Some(Mutation::SharesOut), _) if self.seen % 2 == self.number % 2 => continue,
                (Some(Mutation::Repeats), _) if self.seen.is_multiple_of(5) => self.held.push_back(delivery.clone()),
                (Some(Mutation::DropsSilently), Delivery::Lost { .. }) => continue,
                (Some(Mutation::Miscounts), Delivery::Lost { channel, lost: Lost::Count(count) }) => {
                    return Ok(Delivery::Lost { channel: channel.clone(), lost: Lost::Count(count - 1) });
                }
                (Some(Mutation::TellsLate), Delivery::Lost { .. }) => {
                    self.held.push_back(delivery);
                    return self.listener.next().await;
                }
                (Some(Mutation::LosesWhenDropped), _) => pause().await,
                _ => {}
            }
            return Ok(delivery);
        }
    }

    async fn add(&mut self, channel: &Channel) -> Result<()> {
        let alias = self.bus.alias(channel)?;
        self.names.insert(alias.clone(), channel.clone());
        self.listener.add(&alias).await
    }

    fn remove(&mut self, channel: &Channel) -> bool {
        let Ok(alias) = self.bus.alias(channel) else { return false };
        match self.bus.mutation {
            Some(Mutation::KeepsListening) => return self.names.remove(&alias).is_some(),
            Some(Mutation::LeavesAll) => {
                for other in self.names.keys() {
                    self.listener.remove(other);
                }
            }
            _ => {
                self.listener.remove(&alias);
            }
        }
        self.names.remove(&alias).is_some()
    }
}

/// Not ready once.
async fn pause() {
    let mut is_ready = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_ready, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
