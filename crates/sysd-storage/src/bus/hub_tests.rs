//! The hub without a server: its driver's part is played here.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::bus::{BusLimits, Channel, Delivery, Lost, Subscription as _};
use sysd_core::{Effect, Error, ErrorKind, Result, SeededEntropy};

use super::{Closing, Hub, Job, Listener, Source};
use crate::bus::numbers::Numbers;

struct Bench {
    hub: Arc<Hub>,
    numbers: Numbers,
    channel: Channel,
}

impl Bench {
    fn new() -> Self {
        let hub = Arc::new(Hub::remote(BusLimits::PROCESS, Duration::from_secs(60)));
        Self { hub, numbers: Numbers::new(&SeededEntropy::new(1)), channel: Channel::new("c").unwrap() }
    }

    fn job(&self) -> Option<Job> {
        match self.hub.poll_job(&Context::from_waker(Waker::noop())) {
            Poll::Ready(job) => Some(job),
            Poll::Pending => None,
        }
    }

    fn ask(&self) -> Job {
        Job::Ask(self.channel.clone())
    }

    /// Subscribes; the driver's part is played by `answer`.
    fn subscribe(&self, answer: impl FnOnce()) -> Result<Listener> {
        let channels = [self.channel.clone()];
        let mut opening = Box::pin(Listener::open(&self.hub, &channels));
        if let Some(listener) = (&mut opening).now_or_never() {
            return listener;
        }
        answer();
        block_on(opening)
    }

    fn message(&self, text: &str) -> Bytes {
        let header = self.numbers.turn(&self.channel).header(&self.channel);
        [&header[..], text.as_bytes()].concat().into()
    }

    fn deliver(&self, source: Source, text: &str) -> bool {
        let message = self.message(text);
        self.hub.deliver(source, self.channel.as_bytes(), &message)
    }

    fn is_message(&self, listener: &mut Listener, text: &'static str) {
        let expected = Delivery::Message { channel: self.channel.clone(), payload: Bytes::from(text) };
        assert_eq!(listener.next().now_or_never().map(Result::unwrap), Some(expected));
    }

    fn is_lost(&self, listener: &mut Listener, lost: Lost) {
        let expected = Delivery::Lost { channel: self.channel.clone(), lost };
        assert_eq!(listener.next().now_or_never().map(Result::unwrap), Some(expected));
    }

    fn heard(&self, source: Source) -> Listener {
        self.subscribe(|| {
            assert_eq!(self.job(), Some(self.ask()));
            self.hub.set_heard(source, b"c");
        })
        .unwrap()
    }
}

#[test]
fn a_channel_is_asked_for_once_and_left_when_the_last_leaves() {
    let bench = Bench::new();
    let (mut one, mut two) = (bench.heard(1), bench.subscribe(|| unreachable!()).unwrap());
    assert_eq!(bench.job(), None);
    assert!(bench.deliver(1, "x"));
    bench.is_message(&mut one, "x");
    bench.is_message(&mut two, "x");
    drop(one);
    assert_eq!(bench.job(), None);
    drop(two);
    assert_eq!(bench.job(), Some(Job::Leave(bench.channel.clone())));
    bench.hub.set_left(&bench.channel);
    assert!(!bench.deliver(1, "y"));
    assert_eq!(bench.job(), None);
}

#[test]
fn only_the_connection_that_confirmed_is_listened_to() {
    let bench = Bench::new();
    let mut listener = bench.heard(1);
    bench.hub.set_broken(7);
    assert_eq!(bench.job(), None);
    bench.hub.set_broken(1);
    assert!(!bench.deliver(1, "of a connection that was given up"));
    assert_eq!(bench.job(), Some(bench.ask()));
    assert_eq!(listener.next().now_or_never().map(Result::unwrap), None, "told before anything comes again");
    bench.hub.set_heard(2, b"c");
    assert!(!bench.deliver(1, "again"));
    assert!(bench.deliver(2, "x"));
    bench.is_lost(&mut listener, Lost::Unknown);
    bench.is_message(&mut listener, "x");
}

#[test]
fn what_was_told_to_be_unknown_is_not_counted_too() {
    let bench = Bench::new();
    let mut listener = bench.heard(1);
    assert!(bench.deliver(1, "1"));
    bench.message("never came");
    assert!(bench.deliver(1, "3"));
    bench.message("lost with the connection");
    bench.hub.set_broken(1);
    assert_eq!(bench.job(), Some(bench.ask()));
    bench.hub.set_heard(2, b"c");
    assert!(bench.deliver(2, "5"));
    bench.is_message(&mut listener, "1");
    bench.is_lost(&mut listener, Lost::Count(1));
    bench.is_message(&mut listener, "3");
    bench.is_lost(&mut listener, Lost::Unknown);
    bench.is_message(&mut listener, "5");
    assert!(listener.next().now_or_never().is_none());
}

#[test]
fn a_failure_is_told_to_who_waits_and_others_are_asked_for_again() {
    let bench = Bench::new();
    let denied = || Error::new(ErrorKind::Denied, Effect::None, "no");
    let refused = bench.subscribe(|| {
        assert_eq!(bench.job(), Some(bench.ask()));
        bench.hub.set_failed(&bench.channel, denied());
    });
    assert_eq!(refused.map(drop).unwrap_err().kind(), ErrorKind::Denied);
    assert!(!bench.hub.try_again(&bench.channel), "nobody wants it");
    let mut listener = bench.heard(1);
    bench.hub.set_broken(1);
    assert_eq!(bench.job(), Some(bench.ask()));
    bench.hub.set_failed(&bench.channel, denied());
    assert!(bench.hub.try_again(&bench.channel));
    assert_eq!(bench.job(), Some(bench.ask()));
    bench.hub.set_heard(2, b"c");
    bench.is_lost(&mut listener, Lost::Unknown);
}

#[test]
fn what_is_left_and_wanted_again_in_one_breath_is_asked_for_behind_its_end() {
    let bench = Bench::new();
    let listener = bench.heard(1);
    assert!(bench.deliver(1, "1"));
    drop(listener);
    assert_eq!(bench.job(), Some(Job::Leave(bench.channel.clone())));
    bench.message("published while nobody listened");
    let mut listener = bench
        .subscribe(|| {
            assert_eq!(bench.job(), Some(bench.ask()));
            bench.hub.set_left(&bench.channel);
            assert!(bench.hub.is_left(1, b"c"));
            bench.hub.set_heard(1, b"c");
        })
        .unwrap();
    assert!(bench.deliver(1, "3"));
    bench.is_message(&mut listener, "3");
}

#[test]
fn without_a_driver_nothing_piles_up_and_its_end_is_told() {
    let bench = Bench::new();
    for at in 0..100_u32 {
        let channels = [Channel::new(at.to_be_bytes()).unwrap()];
        assert!(Listener::open(&bench.hub, &channels).now_or_never().is_none());
    }
    assert_eq!(bench.job(), None);
    let mut listener = bench.heard(1);
    drop(Closing(Arc::clone(&bench.hub)));
    assert_eq!(block_on(listener.next()).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(bench.subscribe(|| unreachable!()).map(drop).unwrap_err().kind(), ErrorKind::Unavailable);
}
