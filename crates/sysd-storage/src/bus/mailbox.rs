//! A subscription's buffer: bounded, and honest about what did not fit.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use sysd_core::bus::{BusLimits, Channel, Delivery, Lost};
use sysd_core::{Effect, Error, ErrorKind, Result};

/// What waits to be handed out. Who puts something in never waits: the oldest make room.
pub(crate) struct Mailbox {
    messages_max: usize,
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// What was lost before anything in `items`, by channel: at most an entry for each that is heard.
    lost: HashMap<Channel, Lost>,
    lost_order: VecDeque<Channel>,
    items: VecDeque<Delivery>,
    bytes: usize,
    waker: Option<Waker>,
    /// A channel that is heard no more: told once, and first, as more may come of others without end.
    refused: Option<Error>,
    is_closed: bool,
}

impl Mailbox {
    pub(crate) fn new(limits: &BusLimits) -> Self {
        Self {
            messages_max: limits.buffer_messages_max.max(1),
            bytes_max: limits.buffer_bytes_max,
            inner: Mutex::default(),
        }
    }

    pub(crate) fn put(&self, channel: Channel, payload: Bytes) {
        self.push(Delivery::Message { channel, payload });
    }

    /// Tells of messages that never came.
    pub(crate) fn put_lost(&self, channel: Channel, lost: Lost) {
        self.push(Delivery::Lost { channel, lost });
    }

    fn push(&self, item: Delivery) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.push(item, self.messages_max, self.bytes_max);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Of a channel nothing more will come.
    #[cfg(feature = "nats")]
    pub(crate) fn refuse(&self, error: Error) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.refused = Some(error);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Nothing more will come.
    pub(crate) fn close(&self) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.is_closed = true;
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Result<Delivery>> {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.refused.take() {
            return Poll::Ready(Err(error));
        }
        if let Some(item) = inner.pop() {
            return Poll::Ready(Ok(item));
        }
        if inner.is_closed {
            return Poll::Ready(Err(ended()));
        }
        match &mut inner.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

/// The error of everything that needs a driver that is no more.
pub(crate) fn ended() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::None, "the bus has ended: its driver was dropped")
}

impl Inner {
    fn push(&mut self, item: Delivery, messages_max: usize, bytes_max: usize) {
        let bytes = bytes_of(&item);
        while !self.items.is_empty() && (self.items.len() >= messages_max || self.bytes + bytes > bytes_max) {
            self.drop_oldest();
        }
        if let (Some(Delivery::Lost { channel, lost }), Delivery::Lost { channel: more_of, lost: more }) =
            (self.items.back_mut(), &item)
            && channel == more_of
        {
            *lost = lost.and(*more);
            return;
        }
        self.bytes += bytes;
        self.items.push_back(item);
    }

    fn drop_oldest(&mut self) {
        let Some(item) = self.items.pop_front() else { return };
        self.bytes -= bytes_of(&item);
        let (channel, lost) = match item {
            Delivery::Message { channel, .. } => (channel, Lost::Count(1)),
            Delivery::Lost { channel, lost } => (channel, lost),
        };
        if let Some(before) = self.lost.get_mut(&channel) {
            *before = before.and(lost);
        } else {
            self.lost.insert(channel.clone(), lost);
            self.lost_order.push_back(channel);
        }
    }

    fn pop(&mut self) -> Option<Delivery> {
        if let Some(channel) = self.lost_order.pop_front() {
            let lost = self.lost.remove(&channel).unwrap_or(Lost::Unknown);
            return Some(Delivery::Lost { channel, lost });
        }
        let item = self.items.pop_front()?;
        self.bytes -= bytes_of(&item);
        Some(item)
    }
}

fn bytes_of(item: &Delivery) -> usize {
    match item {
        Delivery::Message { payload, .. } => payload.len(),
        Delivery::Lost { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::new(name).unwrap()
    }

    fn mailbox(messages_max: usize, bytes_max: usize) -> Mailbox {
        let mut limits = BusLimits::PROCESS;
        (limits.buffer_messages_max, limits.buffer_bytes_max) = (messages_max, bytes_max);
        Mailbox::new(&limits)
    }

    /// `a1` is message 1 of channel a, `a-2` two lost ones, `a-?` an unknown number.
    fn drain(mailbox: &Mailbox) -> Vec<String> {
        let mut context = Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        while let Poll::Ready(Ok(delivery)) = mailbox.poll_next(&mut context) {
            seen.push(match delivery {
                Delivery::Message { channel, payload } => format!("{channel}{}", payload.escape_ascii()),
                Delivery::Lost { channel, lost: Lost::Count(count) } => format!("{channel}-{count}"),
                Delivery::Lost { channel, lost: Lost::Unknown } => format!("{channel}-?"),
            });
        }
        seen
    }

    #[test]
    fn the_oldest_make_room_and_are_counted_by_channel_in_their_place() {
        let mailbox = mailbox(2, 100);
        for (name, payload) in [("a", "1"), ("b", "1"), ("a", "2"), ("a", "3"), ("b", "2")] {
            mailbox.put(channel(name), Bytes::from(payload));
        }
        assert_eq!(drain(&mailbox), ["a-2", "b-1", "a3", "b2"]);
        mailbox.put(channel("a"), Bytes::from("4"));
        assert_eq!(drain(&mailbox), ["a4"]);
    }

    #[test]
    fn bytes_count_too_and_one_message_always_fits() {
        let mailbox = mailbox(10, 4);
        for payload in ["12", "34", "5", "678901234"] {
            mailbox.put(channel("a"), Bytes::from(payload));
        }
        assert_eq!(drain(&mailbox), ["a-3", "a678901234"]);
        mailbox.put(channel("a"), Bytes::from("1234"));
        assert_eq!(drain(&mailbox), ["a1234"]);
    }

    #[test]
    fn word_of_losses_is_kept_in_place_and_takes_no_more_room_than_messages() {
        let mailbox = mailbox(3, 100);
        mailbox.put(channel("a"), Bytes::from("1"));
        mailbox.put_lost(channel("a"), Lost::Count(2));
        mailbox.put_lost(channel("a"), Lost::Count(1));
        mailbox.put(channel("a"), Bytes::from("5"));
        assert_eq!(drain(&mailbox), ["a1", "a-3", "a5"]);
        for _ in 0..100 {
            mailbox.put_lost(channel("a"), Lost::Unknown);
            mailbox.put_lost(channel("b"), Lost::Count(1));
        }
        assert!(mailbox.inner.lock().items.len() <= 3);
        assert!(drain(&mailbox).len() <= 5);
    }

    #[test]
    fn what_is_in_it_is_handed_out_before_its_end() {
        let mailbox = mailbox(3, 100);
        mailbox.put(channel("a"), Bytes::from("1"));
        mailbox.close();
        assert_eq!(drain(&mailbox), ["a1"]);
        let Poll::Ready(Err(error)) = mailbox.poll_next(&mut Context::from_waker(Waker::noop())) else { panic!() };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
