//! The task of a bus on NATS: subscribes, hands out what comes, and sends echoes.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::Subscriber;
use async_nats::connection::State;
use bytes::Bytes;
use futures::future::{AbortHandle, Abortable};
use futures::stream::SelectAll;
use futures::{FutureExt as _, Stream, StreamExt as _};
use sysd_core::bus::Channel;
use sysd_core::{Clock as _, Effect, Error, ErrorKind, Sleep, SystemClock};

use super::address::subject;
use super::{CLOSED, Shared, forbidden_channel, mute};
use crate::bus::hub::{Closing, Job, Source};

/// All channels come over the one connection, which the client keeps.
const SOURCE: Source = 0;
/// The longest message that is copied: it lies in what the client read at once, and keeps all of that.
const COPY_BYTES: usize = 4 << 10;

type Messages = Pin<Box<dyn Stream<Item = (Channel, Bytes)> + Send>>;
type Sending = Pin<Box<dyn Future<Output = Sent> + Send>>;

/// What was handed to the client.
enum Sent {
    Subscription(Channel, Option<Subscriber>),
    Echo,
}

/// Subscribes, hands out what comes, and sends echoes.
pub(super) struct Driver {
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
    asked: Vec<Asked>,
    sending: Option<Sending>,
    look_every: Duration,
    look: Option<Sleep>,
}

/// A channel whose subscription went out.
struct Asked {
    channel: Channel,
    /// The first echo behind it.
    echo: u64,
    /// An echo came back already. What the server refuses it says before that, but the client tells it on another way, and this
    /// task may run first: so there is a second echo.
    is_echoed: bool,
}

enum Step {
    Moved,
    Slow,
    Sent(Sent),
    Echo(Bytes),
    Job(Job),
    SendEcho,
    Message(Channel, Bytes),
    Refused(String),
    Gone,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, inbox: String, echo: Subscriber, look_every: Duration) -> Self {
        Self {
            closing: Closing(Arc::clone(&shared.hub)),
            connects: shared.connects(),
            shared,
            inbox,
            echo,
            sent: 0,
            is_resuming: false,
            messages: SelectAll::new(),
            heard: HashMap::new(),
            asked: Vec::new(),
            sending: None,
            look_every,
            look: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match poll_fn(|context| self.poll_step(context)).await {
                Step::Moved => self.look(),
                // The client does not say whose they were, and may have dropped word of more.
                Step::Slow => {
                    self.look();
                    self.closing.0.tear_all();
                }
                Step::Sent(Sent::Subscription(channel, subscriber)) => self.follow(channel, subscriber),
                Step::Sent(Sent::Echo) => {}
                Step::Echo(number) => {
                    // The client's own task tells first what was refused before this came.
                    tokio::task::yield_now().await;
                    self.hear(&number);
                }
                Step::Refused(subject) => self.give_up(&subject),
                Step::Job(Job::Ask(channel)) => self.ask(channel),
                Step::Job(Job::Leave(channel)) => self.leave(&channel),
                Step::SendEcho => self.send_echo(),
                Step::Message(channel, message) => {
                    // A message of the new connection must not pass for the next of the old.
                    self.look();
                    self.closing.0.deliver(SOURCE, channel.as_bytes(), &unpinned(message));
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
        // After what was sent: by then it is known which channel it was.
        if let Some(subject) = self.shared.signals.unheard.lock().pop_first() {
            return Poll::Ready(Step::Refused(subject));
        }
        match self.echo.poll_next_unpin(context) {
            Poll::Ready(Some(message)) => return Poll::Ready(Step::Echo(message.payload)),
            Poll::Ready(None) => return Poll::Ready(Step::Gone),
            Poll::Pending => {}
        }
        if let Poll::Ready(Some((channel, message))) = self.messages.poll_next_unpin(context) {
            return Poll::Ready(Step::Message(channel, message));
        }
        // The client drops its events where there are too many, that the connection broke among them.
        let every = self.look_every;
        let sleep = || SystemClock.sleep_until(SystemClock.now().saturating_add(every));
        if self.look.get_or_insert_with(sleep).poll_unpin(context).is_ready() {
            self.look = None;
            return Poll::Ready(Step::Moved);
        }
        Poll::Pending
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
            // The server may have other rules by now.
            self.shared.signals.is_mute.store(false, Ordering::SeqCst);
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
        for asked in &mut self.asked {
            (asked.echo, asked.is_echoed) = (self.sent + 1, false);
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
        if self.shared.signals.is_mute.load(Ordering::SeqCst) {
            self.refuse(&channel, &mute(Effect::None));
            return;
        }
        let mut wanted = self.shared.echoes.wanted.lock();
        *wanted += 1;
        self.asked.push(Asked { channel, echo: *wanted, is_echoed: false });
    }

    fn leave(&mut self, channel: &Channel) {
        self.forget(channel);
        self.closing.0.set_left(channel);
    }

    fn forget(&mut self, channel: &Channel) {
        if let Some(abort) = self.heard.remove(channel) {
            // The stream is dropped when it is polled next, and unsubscribes.
            abort.abort();
        }
        self.asked.retain(|asked| asked.channel != *channel);
    }

    /// The server refuses a subscription.
    fn give_up(&mut self, forbidden: &str) {
        if forbidden == self.inbox {
            // Without echoes nothing is ever certain.
            self.shared.signals.is_mute.store(true, Ordering::SeqCst);
            let asked: Vec<_> = self.asked.iter().map(|asked| asked.channel.clone()).collect();
            for channel in &asked {
                self.refuse(channel, &mute(Effect::None));
            }
            self.abandon_echoes();
            return;
        }
        let prefix = &self.shared.prefix;
        if let Some(channel) = self.heard.keys().find(|channel| subject(prefix, channel) == forbidden).cloned() {
            self.refuse(&channel, &forbidden_channel());
        }
    }

    fn refuse(&mut self, channel: &Channel, error: &Error) {
        self.forget(channel);
        self.closing.0.set_refused(channel, error);
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
        let mut wanted = self.shared.echoes.wanted.lock();
        let next = number.max(*wanted) + 1;
        for asked in std::mem::take(&mut self.asked) {
            if asked.echo <= number && asked.is_echoed {
                self.closing.0.set_heard(SOURCE, asked.channel.as_bytes());
            } else if asked.echo <= number {
                *wanted = next;
                self.asked.push(Asked { echo: next, is_echoed: true, ..asked });
            } else {
                self.asked.push(asked);
            }
        }
        drop(wanted);
        self.shared.echoes.heard.send_modify(|heard| heard.echo = number);
    }
}

/// A message that keeps nothing but itself.
fn unpinned(message: Bytes) -> Bytes {
    if message.len() <= COPY_BYTES { Bytes::copy_from_slice(&message) } else { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer of a subscription counts what it holds; a few bytes of what was read at once must not hold all of that.
    #[test]
    fn a_small_message_does_not_keep_what_came_with_it() {
        let read = Bytes::from(vec![7; 64 << 10]);
        let is_within = |message: &Bytes| read.as_ptr_range().contains(&message.as_ptr());
        for (size, is_copied) in [(17, true), (COPY_BYTES, true), (COPY_BYTES + 1, false)] {
            let message = unpinned(read.slice(100..100 + size));
            assert_eq!((message.len(), is_within(&message)), (size, !is_copied));
        }
    }
}
