//! What a process listens to: one flow a channel from the server, to every subscription of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};
use sysd_core::bus::{BusLimits, Channel, Delivery, Lost, Subscription};
use sysd_core::{Effect, Error, ErrorKind, Result, SystemClock, timeout};

use super::mailbox::{Mailbox, ended};
use super::numbers::{Gaps, HEADER_BYTES, Seen};

/// Names the connection that a channel's messages come over.
pub(crate) type Source = u64;

/// The channels that are heard, and who hears them.
pub(crate) struct Hub {
    pub(crate) limits: BusLimits,
    /// How long a subscriber waits until a channel is heard.
    patience: Duration,
    /// Whether a channel must be asked for before it is heard.
    is_remote: bool,
    routes: RwLock<Routes>,
    /// Channels for the driver to look at: some of those in `routes`.
    todo: Mutex<BTreeSet<Channel>>,
    driver: AtomicWaker,
    /// Those who wait until a channel is heard, or the bus ends.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next_id: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// A place among those who wait.
struct Waiter<'a> {
    hub: &'a Hub,
    id: u64,
}

impl Waiter<'_> {
    fn wait(&self, context: &Context<'_>) {
        self.hub.waiting.lock().wakers.insert(self.id, context.waker().clone());
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.hub.waiting.lock().wakers.remove(&self.id);
    }
}

#[derive(Default)]
struct Routes {
    by_channel: HashMap<Channel, Route>,
    is_closed: bool,
}

struct Route {
    readers: Vec<Arc<Mailbox>>,
    feed: Feed,
    /// Messages may have been lost since it was heard last: told as soon as it is heard again.
    is_torn: bool,
    gaps: Mutex<Gaps>,
}

/// How it stands between the server and a channel.
enum Feed {
    Wanted,
    Asked,
    Heard(Source),
    Failed(Error),
    Leaving,
}

/// What the driver is to do about a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    Ask(Channel),
    Leave(Channel),
}

impl Hub {
    /// One that hears what is put into it.
    pub(crate) fn local(limits: BusLimits) -> Self {
        Self::new(limits, Duration::MAX, false)
    }

    /// One whose driver asks a server for its channels.
    pub(crate) fn remote(limits: BusLimits, patience: Duration) -> Self {
        Self::new(limits, patience, true)
    }

    fn new(limits: BusLimits, patience: Duration, is_remote: bool) -> Self {
        let (routes, todo, waiting) = (RwLock::default(), Mutex::default(), Mutex::default());
        Self { limits, patience, is_remote, routes, todo, driver: AtomicWaker::new(), waiting }
    }

    /// Hands a message of this process to all who listen.
    pub(crate) fn put(&self, channel: &Channel, payload: &Bytes) {
        let routes = self.routes.read();
        if let Some((channel, route)) = routes.by_channel.get_key_value(channel) {
            for reader in &route.readers {
                reader.put(channel.clone(), payload.clone());
            }
        }
    }

    /// Hands a message of the server to all who listen; `false` if the channel is not heard over this connection.
    pub(crate) fn deliver(&self, source: Source, channel: &[u8], message: &Bytes) -> bool {
        let routes = self.routes.read();
        let Some((channel, route)) = routes.by_channel.get_key_value(channel) else { return false };
        if !matches!(route.feed, Feed::Heard(heard) if heard == source) {
            return false;
        }
        let (lost, payload) = match route.gaps.lock().see(message) {
            Seen::Due => (None, Some(message.slice(HEADER_BYTES..))),
            Seen::Behind(missing) => (Some(Lost::Count(missing)), Some(message.slice(HEADER_BYTES..))),
            Seen::Late => (None, None),
            Seen::LateUntold => (Some(Lost::Count(1)), None),
            Seen::Unreadable => (Some(Lost::Unknown), None),
        };
        for reader in &route.readers {
            if let Some(lost) = lost {
                reader.put_lost(channel.clone(), lost);
            }
            if let Some(payload) = &payload {
                reader.put(channel.clone(), payload.clone());
            }
        }
        true
    }

    fn attach(&self, channel: &Channel, mailbox: &Arc<Mailbox>) {
        let is_new_work = {
            let mut routes = self.routes.write();
            let feed = if self.is_remote { Feed::Wanted } else { Feed::Heard(0) };
            let (gaps, is_torn) = (Mutex::default(), false);
            let fresh = || Route { readers: Vec::new(), feed, is_torn, gaps };
            let route = routes.by_channel.entry(channel.clone()).or_insert_with(fresh);
            route.readers.push(Arc::clone(mailbox));
            if let Feed::Leaving | Feed::Failed(_) = route.feed {
                if let Feed::Leaving = route.feed {
                    // Of what was left on purpose nothing is missed.
                    route.is_torn = false;
                    route.gaps.get_mut().forget();
                }
                route.feed = Feed::Wanted;
            }
            matches!(route.feed, Feed::Wanted)
        };
        if is_new_work {
            self.call_driver([channel.clone()]);
        }
    }

    fn detach(&self, channel: &Channel, mailbox: &Arc<Mailbox>) {
        let is_new_work = {
            let mut routes = self.routes.write();
            let Some(route) = routes.by_channel.get_mut(channel) else { return };
            route.readers.retain(|reader| !Arc::ptr_eq(reader, mailbox));
            let is_work = self.is_remote && matches!(route.feed, Feed::Heard(_));
            let is_awaited = matches!(route.feed, Feed::Asked | Feed::Leaving);
            if route.readers.is_empty() && !is_work && !is_awaited {
                routes.by_channel.remove(channel);
                self.todo.lock().remove(channel);
                return;
            }
            route.readers.is_empty() && is_work
        };
        if is_new_work {
            self.call_driver([channel.clone()]);
        }
    }

    fn call_driver(&self, channels: impl IntoIterator<Item = Channel>) {
        self.todo.lock().extend(channels);
        self.driver.wake();
    }

    fn tell_waiting(&self) {
        let wakers = std::mem::take(&mut self.waiting.lock().wakers);
        for waker in wakers.into_values() {
            waker.wake();
        }
    }

    fn waiter(&self) -> Waiter<'_> {
        let mut waiting = self.waiting.lock();
        waiting.next_id += 1;
        Waiter { hub: self, id: waiting.next_id }
    }

    /// Ready when all of these are heard, or one of them can't be. `at`: so many were.
    fn poll_heard(&self, channels: &[Channel], at: &mut usize) -> Poll<Result<()>> {
        let routes = self.routes.read();
        if routes.is_closed {
            return Poll::Ready(Err(ended()));
        }
        for channel in &channels[*at..] {
            match routes.by_channel.get(channel).map(|route| &route.feed) {
                Some(Feed::Heard(_)) => *at += 1,
                Some(Feed::Failed(error)) => return Poll::Ready(Err(error.share())),
                _ => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    async fn heard(&self, channels: &[Channel]) -> Result<()> {
        if !self.is_remote {
            return Ok(());
        }
        let (waiter, mut at) = (self.waiter(), 0);
        let heard = poll_fn(|context| {
            // Waiting comes first: what happens after the look wakes it.
            waiter.wait(context);
            self.poll_heard(channels, &mut at)
        });
        let late = |_| {
            let message = "the channel was not heard in time; does the bus's driver run?";
            Error::new(ErrorKind::Timeout, Effect::None, message)
        };
        timeout(&SystemClock, self.patience, heard).await.map_err(late)?
    }
}

/// The driver's side.
impl Hub {
    /// The next thing to do; ready when there is one.
    pub(crate) fn poll_job(&self, context: &Context<'_>) -> Poll<Job> {
        self.driver.register(context.waker());
        loop {
            let Some(channel) = self.todo.lock().pop_first() else { return Poll::Pending };
            if let Some(job) = self.claim(channel) {
                return Poll::Ready(job);
            }
        }
    }

    fn claim(&self, channel: Channel) -> Option<Job> {
        let mut routes = self.routes.write();
        let route = routes.by_channel.get_mut(&channel)?;
        match (&route.feed, route.readers.is_empty()) {
            (Feed::Wanted, false) => {
                route.feed = Feed::Asked;
                Some(Job::Ask(channel))
            }
            (Feed::Heard(_), true) => {
                route.feed = Feed::Leaving;
                Some(Job::Leave(channel))
            }
            (Feed::Wanted | Feed::Failed(_), true) => {
                routes.by_channel.remove(&channel);
                None
            }
            _ => None,
        }
    }

    /// A channel is heard over this connection from now on.
    pub(crate) fn set_heard(&self, source: Source, channel: &[u8]) {
        let unwanted = {
            let mut routes = self.routes.write();
            let Some((name, _)) = routes.by_channel.get_key_value(channel) else { return };
            let name = name.clone();
            let Some(route) = routes.by_channel.get_mut(channel) else { return };
            if !matches!(route.feed, Feed::Asked) {
                return;
            }
            route.feed = Feed::Heard(source);
            if std::mem::take(&mut route.is_torn) {
                tear(&name, route);
            }
            route.readers.is_empty().then_some(name)
        };
        self.tell_waiting();
        if let Some(channel) = unwanted {
            self.call_driver([channel]);
        }
    }

    /// Asking failed.
    pub(crate) fn set_failed(&self, channel: &Channel, error: Error) {
        {
            let mut routes = self.routes.write();
            let Some(route) = routes.by_channel.get_mut(channel) else { return };
            if !matches!(route.feed, Feed::Asked) {
                return;
            }
            if route.readers.is_empty() {
                routes.by_channel.remove(channel);
                return;
            }
            route.feed = Feed::Failed(error);
        }
        self.tell_waiting();
    }

    /// The server forbids a channel: who waits for it is told, and who listened to it.
    #[cfg(feature = "nats")]
    pub(crate) fn set_refused(&self, channel: &Channel, error: &Error) {
        {
            let mut routes = self.routes.write();
            let Some(route) = routes.by_channel.get_mut(channel) else { return };
            match route.feed {
                Feed::Heard(_) => route.readers.iter().for_each(|reader| reader.refuse(error.share())),
                Feed::Asked => {}
                _ => return,
            }
            if route.readers.is_empty() {
                routes.by_channel.remove(channel);
                return;
            }
            route.feed = Feed::Failed(error.share());
        }
        self.tell_waiting();
    }

    /// Asks once more for a channel that failed; `false` if nobody wants it any more.
    pub(crate) fn try_again(&self, channel: &Channel) -> bool {
        {
            let mut routes = self.routes.write();
            let Some(route) = routes.by_channel.get_mut(channel) else { return false };
            if !matches!(route.feed, Feed::Failed(_)) {
                return true;
            }
            route.feed = Feed::Wanted;
        }
        self.call_driver([channel.clone()]);
        true
    }

    /// The server sends nothing more of a channel.
    pub(crate) fn set_left(&self, channel: &Channel) {
        let mut routes = self.routes.write();
        let is_over = |route: &Route| route.readers.is_empty() && matches!(route.feed, Feed::Leaving);
        if routes.by_channel.get(channel).is_some_and(is_over) {
            routes.by_channel.remove(channel);
        }
    }

    /// Whether the server had reason to end a channel of this connection: nobody wants it there.
    pub(crate) fn is_left(&self, source: Source, channel: &[u8]) -> bool {
        let routes = self.routes.read();
        !routes.by_channel.get(channel).is_some_and(|route| matches!(route.feed, Feed::Heard(heard) if heard == source))
    }

    /// A connection ended: its channels must be asked for again, and have lost nobody knows what.
    pub(crate) fn set_broken(&self, source: Source) {
        let mut torn = Vec::new();
        for (channel, route) in &mut self.routes.write().by_channel {
            if matches!(route.feed, Feed::Heard(heard) if heard == source) {
                route.feed = Feed::Wanted;
                route.is_torn = true;
                torn.push(channel.clone());
            }
        }
        if !torn.is_empty() {
            self.call_driver(torn);
        }
    }

    /// All channels that are heard have lost nobody knows what.
    pub(crate) fn tear_all(&self) {
        for (channel, route) in &mut self.routes.write().by_channel {
            if matches!(route.feed, Feed::Heard(_)) {
                tear(channel, route);
            }
        }
    }

    /// Refuses what needs the driver when that is no more.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.routes.read().is_closed { Err(ended()) } else { Ok(()) }
    }

    /// The driver is no more.
    fn close(&self) {
        {
            let mut routes = self.routes.write();
            routes.is_closed = true;
            for route in routes.by_channel.values() {
                route.readers.iter().for_each(|reader| reader.close());
            }
        }
        self.tell_waiting();
    }
}

/// Tells all who listen that nobody knows what they have lost.
fn tear(channel: &Channel, route: &mut Route) {
    // The numbers that follow would tell some of it again.
    route.gaps.get_mut().forget();
    for reader in &route.readers {
        reader.put_lost(channel.clone(), Lost::Unknown);
    }
}

/// Ends the bus when its driver is dropped.
pub(crate) struct Closing(pub(crate) Arc<Hub>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A subscription of any bus of this crate.
pub struct Listener {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
    channels: HashSet<Channel>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("channels", &self.channels.len()).finish_non_exhaustive()
    }
}

impl Listener {
    /// Listens to channels; answers when all are heard.
    pub(crate) async fn open(hub: &Arc<Hub>, channels: &[Channel]) -> Result<Self> {
        let mailbox = Arc::new(Mailbox::new(&hub.limits));
        let mut listener = Self { hub: Arc::clone(hub), mailbox, channels: HashSet::new() };
        for channel in channels {
            listener.attach(channel);
        }
        listener.hub.heard(channels).await?;
        Ok(listener)
    }

    fn attach(&mut self, channel: &Channel) -> bool {
        let is_new = self.channels.insert(channel.clone());
        if is_new {
            self.hub.attach(channel, &self.mailbox);
        }
        is_new
    }
}

/// Takes a channel back unless it is kept.
struct Adding<'a> {
    listener: &'a mut Listener,
    channel: &'a Channel,
    is_kept: bool,
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.listener.remove(self.channel);
        }
    }
}

impl Subscription for Listener {
    async fn next(&mut self) -> Result<Delivery> {
        let (hub, mailbox) = (&self.hub, &self.mailbox);
        if !self.channels.is_empty() || !hub.is_remote {
            return poll_fn(|context| mailbox.poll_next(context)).await;
        }
        // A subscription without channels is known to the hub by nothing else.
        let waiter = hub.waiter();
        poll_fn(|context| {
            waiter.wait(context);
            match mailbox.poll_next(context) {
                Poll::Pending if hub.routes.read().is_closed => Poll::Ready(Err(ended())),
                other => other,
            }
        })
        .await
    }

    async fn add(&mut self, channel: &Channel) -> Result<()> {
        if !self.attach(channel) {
            return Ok(());
        }
        let mut adding = Adding { listener: self, channel, is_kept: false };
        adding.listener.hub.heard(std::slice::from_ref(channel)).await?;
        adding.is_kept = true;
        Ok(())
    }

    fn remove(&mut self, channel: &Channel) -> bool {
        let was_heard = self.channels.remove(channel);
        if was_heard {
            self.hub.detach(channel, &self.mailbox);
        }
        was_heard
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for channel in &self.channels {
            self.hub.detach(channel, &self.mailbox);
        }
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
