//! The bus on Redis: listening.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use redis::{Cmd, PushKind, Value};
use sysd_core::bus::Channel;
use sysd_core::entropy::below;
use sysd_core::{Clock as _, Sleep, SystemClock, SystemEntropy, Timestamp};

use super::bus::{Commands, RedisBusConfig};
use super::call::Call;
use super::error::{Access, map};
use super::link::{Hook, Told};
use super::router::Router;
use crate::bus::hub::{Closing, Hub, Job};

/// How many subscriptions are asked for at once.
const IN_FLIGHT_MAX: usize = 256;
/// The wait before a channel is asked for again, at first and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What puts all that a connection says into the hub, on the connection's own task and without waiting.
pub(super) fn listen(hub: Arc<Hub>, prefix: String) -> Hook {
    Arc::new(move |connection, told| {
        let Told::Push(push) = told else {
            hub.set_broken(connection);
            return true;
        };
        let mut data = push.data.into_iter();
        let Some(Value::BulkString(name)) = data.next() else { return true };
        let Some(channel) = name.strip_prefix(prefix.as_bytes()) else { return true };
        match push.kind {
            PushKind::Message | PushKind::SMessage => {
                if let Some(Value::BulkString(message)) = data.next() {
                    hub.deliver(connection, channel, &Bytes::from(message));
                }
            }
            PushKind::Subscribe | PushKind::SSubscribe => hub.set_heard(connection, channel),
            // Nobody asked for this end: the slot moves, or somebody reset the connection. The client takes it for the answer to a call, so that all answers
            // after it are out of step.
            PushKind::Unsubscribe | PushKind::SUnsubscribe if !hub.is_left(connection, channel) => {
                hub.set_broken(connection);
                return false;
            }
            _ => {}
        }
        true
    })
}

/// Keeps what the server sends equal to what is wanted.
pub(super) struct Feed {
    closing: Closing,
    router: Arc<Router>,
    commands: Commands,
    prefix: Arc<str>,
    ping_interval: Duration,
    in_flight: FuturesUnordered<BoxFuture<'static, Done>>,
    /// How often in a row asking failed.
    failures: HashMap<Channel, u32>,
    /// When to ask again.
    later: BTreeSet<(Timestamp, Channel)>,
    later_sleep: Option<(Timestamp, Sleep)>,
    ping_sleep: Option<Sleep>,
}

enum Done {
    Heard(Channel),
    Failed(Channel),
    Other,
}

enum Event {
    Job(Job),
    Done(Done),
    Again,
    Ping,
}

impl Feed {
    pub(super) fn new(hub: Arc<Hub>, router: Router, commands: Commands, config: &RedisBusConfig) -> Self {
        Self {
            closing: Closing(hub),
            router: Arc::new(router),
            commands,
            prefix: config.prefix.as_str().into(),
            ping_interval: config.ping_interval,
            in_flight: FuturesUnordered::new(),
            failures: HashMap::new(),
            later: BTreeSet::new(),
            later_sleep: None,
            ping_sleep: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match poll_fn(|context| self.poll_event(context)).await {
                Event::Job(job) => self.start(job),
                Event::Done(Done::Heard(channel)) => {
                    self.failures.remove(&channel);
                }
                Event::Done(Done::Failed(channel)) => self.put_off(channel),
                Event::Done(Done::Other) => {}
                Event::Again => self.ask_again(),
                Event::Ping => self.ping(),
            }
        }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(Some(done)) = self.in_flight.poll_next_unpin(context) {
            return Poll::Ready(Event::Done(done));
        }
        if self.in_flight.len() < IN_FLIGHT_MAX
            && let Poll::Ready(job) = self.closing.0.poll_job(context)
        {
            return Poll::Ready(Event::Job(job));
        }
        if let Some(&(due, _)) = self.later.first() {
            if self.later_sleep.as_ref().is_none_or(|(at, _)| *at != due) {
                self.later_sleep = Some((due, SystemClock.sleep_until(due)));
            }
            if let Some((_, sleep)) = &mut self.later_sleep
                && sleep.poll_unpin(context).is_ready()
            {
                self.later_sleep = None;
                return Poll::Ready(Event::Again);
            }
        }
        let interval = self.ping_interval;
        let sleep = || SystemClock.sleep_until(SystemClock.now().saturating_add(interval));
        if self.ping_sleep.get_or_insert_with(sleep).poll_unpin(context).is_ready() {
            self.ping_sleep = None;
            return Poll::Ready(Event::Ping);
        }
        Poll::Pending
    }

    fn start(&mut self, job: Job) {
        let (hub, router) = (Arc::clone(&self.closing.0), Arc::clone(&self.router));
        let name = |channel: &Channel| [self.prefix.as_bytes(), channel.as_bytes()].concat();
        let call = |verb: &str, channel: &Channel| Call::plain(Cmd::new().arg(verb).arg(name(channel)).take());
        let done = match job {
            Job::Ask(channel) => {
                let call = call(self.commands.subscribe, &channel);
                async move {
                    match router.send(&call).await {
                        // The connection said so before it answered.
                        Ok(_) => Done::Heard(channel),
                        Err(failure) => {
                            let error = map(&failure, Access::Read);
                            tracing::debug!(%error, "a channel of the bus can't be subscribed to");
                            hub.set_failed(&channel, error);
                            Done::Failed(channel)
                        }
                    }
                }
                .boxed()
            }
            Job::Leave(channel) => {
                let call = call(self.commands.unsubscribe, &channel);
                async move {
                    // If it fails, the connection is given up, and the channel with it.
                    let _ = router.send(&call).await;
                    hub.set_left(&channel);
                    Done::Other
                }
                .boxed()
            }
        };
        self.in_flight.push(done);
    }

    fn put_off(&mut self, channel: Channel) {
        let failures = self.failures.entry(channel.clone()).or_default();
        let wait = BACKOFF_MIN.saturating_mul(1 << (*failures).min(16)).min(BACKOFF_MAX);
        *failures += 1;
        // Spread out: many processes lose a server in the same moment.
        let spread_us = below(&SystemEntropy, u64::try_from(wait.as_micros() / 2).unwrap_or(u64::MAX));
        let wait = wait / 2 + Duration::from_micros(spread_us);
        self.later.insert((SystemClock.now().saturating_add(wait), channel));
    }

    fn ask_again(&mut self) {
        let now = SystemClock.now();
        while let Some((due, channel)) = self.later.pop_first() {
            if due > now {
                self.later.insert((due, channel));
                return;
            }
            if !self.closing.0.try_again(&channel) {
                self.failures.remove(&channel);
            }
        }
    }

    /// Tries every connection that is listened on: what gives no answer is given up, which the hook is told.
    fn ping(&mut self) {
        for link in self.router.masters().into_iter().filter(|link| link.is_up()) {
            self.in_flight.push(
                async move {
                    let _ = link.send(&redis::cmd("PING")).await;
                    Done::Other
                }
                .boxed(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::poll;
    use redis::PushInfo;
    use sysd_core::bus::{BusLimits, Delivery, Lost, Subscription as _};

    use super::*;
    use crate::bus::hub::Listener;

    /// Of either kind: the client takes it for an answer, and the channel would be silent from then on.
    #[tokio::test]
    async fn a_channel_whose_end_nobody_asked_for_is_told_and_asked_for_again() {
        for kind in [PushKind::Unsubscribe, PushKind::SUnsubscribe] {
            let hub = Arc::new(Hub::remote(BusLimits::PROCESS, Duration::from_secs(1)));
            let hook = listen(Arc::clone(&hub), "p:".to_owned());
            let push = |kind: PushKind, name: &str| {
                Told::Push(PushInfo { kind, data: vec![Value::BulkString(name.as_bytes().to_vec()), Value::Int(0)] })
            };
            let channels = [Channel::new("a").unwrap()];
            let mut opening = Box::pin(Listener::open(&hub, &channels));
            assert!(poll!(opening.as_mut()).is_pending());
            let job = || async { poll!(poll_fn(|context| hub.poll_job(context))) };
            assert_eq!(job().await, Poll::Ready(Job::Ask(channels[0].clone())));
            assert!(hook(7, push(PushKind::Subscribe, "p:a")));
            let mut listener = opening.await.unwrap();
            assert!(hook(7, push(kind.clone(), "p:other")), "that channel is not heard");
            assert!(hook(8, push(kind.clone(), "p:a")), "it is heard over another connection");
            assert!(!hook(7, push(kind.clone(), "p:a")), "{kind:?}: the connection is out of step");
            assert_eq!(job().await, Poll::Ready(Job::Ask(channels[0].clone())), "{kind:?}");
            assert!(hook(9, push(PushKind::Subscribe, "p:a")));
            let lost = Delivery::Lost { channel: channels[0].clone(), lost: Lost::Unknown };
            assert_eq!(listener.next().await.unwrap(), lost);
        }
    }
}
