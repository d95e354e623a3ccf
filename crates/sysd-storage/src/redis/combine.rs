//! Updates that run together.
//!
//! Calls of one script to one node, or on a Cluster to one slot, share a lane. A few batches of a lane are in flight at most; calls
//! that come meanwhile make up the next batch, which goes out as one call of the script; one of them before all have come. So a lone call
//! costs one round trip, and under load the cost of a call of a script is shared by as many as wait for it: group commit, without a delay.
//!
//! # Cancel safety
//! All callers of a batch hold it, and whichever of them is polled moves it on: one that is dropped leaves it to the others. A
//! batch that all have left is dropped, and gives its place in flight back. Callers that are kept and not polled (in a stream
//! that is not asked for more just now) keep nobody waiting: as soon as one batch waits for its turn, those in front of it and
//! itself are moved on by tasks of their own, which end with them.

use std::future::Future;
use std::mem;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared, poll_fn};
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::link::Failure;

/// Batches of a lane in flight at once: one travels while another is run.
const IN_FLIGHT_MAX: usize = 2;
/// A batch is full with so many updates; the server does nothing else while it runs them.
const BATCH_UPDATES: usize = 128;
/// So many share the cost of a call well enough. One batch that has them goes ahead, before all that are ready have joined, besides those in
/// flight: so the server runs it while the client makes the next. Else each would wait for the other, for both do all that there is at once.
const UPDATES_ENOUGH: usize = 32;
/// Or with so many bytes.
const BATCH_BYTES: usize = 64 << 10;

/// An update, as its script takes it.
#[derive(Debug)]
pub(super) struct Update {
    /// The names of its keys, its arguments, and a row's sort key, one after the other.
    bytes: Vec<u8>,
    ends: [usize; 3],
}

impl Update {
    /// From the name of the record and, of a row, that of the order, which `name` appends; the arguments; the sort key.
    pub(super) fn new(
        size: usize,
        name: impl FnOnce(&mut Vec<u8>),
        order: impl FnOnce(&mut Vec<u8>),
        arguments: &[u8],
        sort: &[u8],
    ) -> Self {
        let mut bytes = Vec::with_capacity(size);
        name(&mut bytes);
        let name_end = bytes.len();
        order(&mut bytes);
        let order_end = bytes.len();
        bytes.extend_from_slice(arguments);
        let arguments_end = bytes.len();
        bytes.extend_from_slice(sort);
        Self { bytes, ends: [name_end, order_end, arguments_end] }
    }

    pub(super) fn is_lone(&self) -> bool {
        self.ends[0] == self.ends[1]
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.bytes[..self.ends[0]]
    }

    pub(super) fn order(&self) -> &[u8] {
        &self.bytes[self.ends[0]..self.ends[1]]
    }

    pub(super) fn arguments(&self) -> &[u8] {
        &self.bytes[self.ends[1]..self.ends[2]]
    }

    pub(super) fn sort(&self) -> &[u8] {
        &self.bytes[self.ends[2]..]
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// What came of the updates of a batch, in their order.
pub(super) type Answers = Arc<Vec<Result<Value, Failure>>>;

type Sending = BoxFuture<'static, Answers>;

/// Calls of one script that may go out together.
pub(super) struct Lane {
    batches: Mutex<Batches>,
    in_flight: Semaphore,
    /// One place more.
    ahead: Semaphore,
}

#[derive(Default)]
struct Batches {
    /// The one that still takes updates.
    open: Option<Open>,
    /// Those that only their callers move on.
    left_to_callers: Vec<WeakShared<Sending>>,
}

struct Open {
    updates: Arc<Updates>,
    /// Weak: a batch that nobody waits for any more is no more.
    sending: WeakShared<Sending>,
}

/// The updates of a batch, until it goes out.
#[derive(Default)]
struct Updates(Mutex<Gathered>);

#[derive(Default)]
struct Gathered {
    updates: Vec<Update>,
    bytes: usize,
    is_closed: bool,
}

impl Updates {
    /// The place of an update that could still be added.
    fn add(&self, update: Update) -> Result<usize, Update> {
        let mut gathered = self.0.lock();
        let is_full = gathered.updates.len() == BATCH_UPDATES
            || !gathered.updates.is_empty() && gathered.bytes + update.size() > BATCH_BYTES;
        if gathered.is_closed || is_full {
            return Err(update);
        }
        gathered.bytes += update.size();
        gathered.updates.push(update);
        Ok(gathered.updates.len() - 1)
    }

    fn are_enough(&self) -> bool {
        self.0.lock().updates.len() >= UPDATES_ENOUGH
    }

    fn close(&self) -> Vec<Update> {
        let mut gathered = self.0.lock();
        gathered.is_closed = true;
        mem::take(&mut gathered.updates)
    }
}

impl Lane {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { batches: Mutex::default(), in_flight: Semaphore::new(IN_FLIGHT_MAX), ahead: Semaphore::new(1) })
    }

    /// Runs an update together with others that come meanwhile. `send` sends a batch and answers each of it in order; an
    /// update whose batch gets no place in flight within `patience` was not sent.
    pub(super) async fn run<F>(
        self: &Arc<Self>,
        update: Update,
        patience: Duration,
        send: impl FnOnce(Vec<Update>) -> F + Send + 'static,
    ) -> Result<Value, Failure>
    where
        F: Future<Output = Vec<Result<Value, Failure>>> + Send + 'static,
    {
        let (place, sending) = self.join(update, patience, send);
        // Whoever else is ready to run joins before the first of them moves the batch on, unless it may go ahead.
        if place + 1 < UPDATES_ENOUGH || self.ahead.available_permits() == 0 {
            once_more().await;
        }
        let answers = sending.await;
        match answers.get(place) {
            Some(answer) => answer.clone(),
            None => Err(Failure { error: (redis::ErrorKind::Parse, "an answer is missing").into(), was_sent: true }),
        }
    }

    fn join<F>(
        self: &Arc<Self>,
        mut update: Update,
        patience: Duration,
        send: impl FnOnce(Vec<Update>) -> F + Send + 'static,
    ) -> (usize, Shared<Sending>)
    where
        F: Future<Output = Vec<Result<Value, Failure>>> + Send + 'static,
    {
        let mut batches = self.batches.lock();
        if let Some(batch) = &batches.open
            && let Some(sending) = batch.sending.upgrade()
        {
            match batch.updates.add(update) {
                Ok(place) => return (place, sending),
                Err(refused) => update = refused,
            }
        }
        let updates = Arc::new(Updates::default());
        // The first always has room.
        let place = updates.add(update).unwrap_or_default();
        let sending = batch(Arc::clone(self), Arc::clone(&updates), patience, send).boxed().shared();
        if let Some(weak) = sending.downgrade() {
            batches.left_to_callers.retain(|batch| batch.upgrade().is_some());
            batches.left_to_callers.push(weak.clone());
            batches.open = Some(Open { updates, sending: weak });
        }
        (place, sending)
    }

    /// Has all batches moved on by tasks of their own, whether or not their callers are polled.
    fn hand_over(&self) {
        let batches = mem::take(&mut self.batches.lock().left_to_callers);
        for sending in batches.iter().filter_map(WeakShared::upgrade) {
            tokio::spawn(sending);
        }
    }

    /// A place in flight.
    async fn place(&self, updates: &Updates, patience: Duration) -> Result<SemaphorePermit<'_>, Failure> {
        if updates.are_enough()
            && let Ok(place) = self.ahead.try_acquire()
        {
            return Ok(place);
        }
        if let Ok(place) = self.in_flight.try_acquire() {
            return Ok(place);
        }
        self.hand_over();
        match tokio::time::timeout(patience, self.in_flight.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(Failure::unsent(std::io::Error::from(std::io::ErrorKind::TimedOut))),
        }
    }
}

async fn batch<F>(
    lane: Arc<Lane>,
    updates: Arc<Updates>,
    patience: Duration,
    send: impl FnOnce(Vec<Update>) -> F,
) -> Answers
where
    F: Future<Output = Vec<Result<Value, Failure>>>,
{
    match lane.place(&updates, patience).await {
        Ok(_place) => Arc::new(send(updates.close()).await),
        Err(failure) => Arc::new(updates.close().into_iter().map(|_| Err(failure.clone())).collect()),
    }
}

/// Goes to the end of the queue of what is ready to run, once.
async fn once_more() {
    let mut is_done = false;
    poll_fn(|context| {
        if mem::replace(&mut is_done, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::pin::pin;

    use futures::channel::mpsc;
    use futures::channel::oneshot;
    use futures::future::join_all;
    use futures::{StreamExt as _, poll};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    /// A batch that went out: what it carried, and the way to answer it.
    type Sent = (Vec<Vec<u8>>, oneshot::Sender<()>);

    /// A server that answers each update with its arguments, once it is told to.
    #[derive(Clone)]
    struct Server {
        lane: Arc<Lane>,
        sent: mpsc::UnboundedSender<Sent>,
    }

    impl Server {
        fn new() -> (Self, mpsc::UnboundedReceiver<Sent>) {
            let (sent, batches) = mpsc::unbounded();
            (Self { lane: Lane::new(), sent }, batches)
        }

        async fn run(&self, arguments: &[u8]) -> Result<Value, Failure> {
            let update = Update::new(8, |name| name.push(b'k'), |_| (), arguments, b"");
            let out = self.sent.clone();
            let send = |updates: Vec<Update>| async move {
                let arguments: Vec<_> = updates.iter().map(|update| update.arguments().to_vec()).collect();
                let (answer, answered) = oneshot::channel();
                out.unbounded_send((arguments.clone(), answer)).unwrap();
                let is_answered = answered.await.is_ok();
                let answer = |bytes| {
                    let cut = || Failure::unsent((redis::ErrorKind::Client, "cut"));
                    is_answered.then_some(Value::BulkString(bytes)).ok_or_else(cut)
                };
                arguments.into_iter().map(answer).collect()
            };
            self.lane.run(update, PATIENCE, send).await
        }
    }

    fn is_own(answer: &Result<Value, Failure>, arguments: &[u8]) -> bool {
        matches!(answer, Ok(Value::BulkString(bytes)) if bytes == arguments)
    }

    #[tokio::test]
    async fn a_lone_update_goes_out_by_itself_and_those_that_come_meanwhile_together() {
        let (server, mut batches) = Server::new();
        let spawn = |at: u16| {
            let server = server.clone();
            tokio::spawn(async move { is_own(&server.run(&at.to_be_bytes()).await, &at.to_be_bytes()) })
        };
        let mut callers = Vec::new();
        let mut in_flight = Vec::new();
        for at in 0..2 {
            callers.push(spawn(at));
            let (arguments, answer) = batches.next().await.unwrap();
            assert_eq!(arguments, [at.to_be_bytes()]);
            in_flight.push(answer);
        }
        callers.extend((2..300).map(spawn));
        tokio::task::yield_now().await;
        let (ahead, answer) = batches.next().await.unwrap();
        let mut sizes = vec![ahead.len()];
        in_flight.push(answer);
        tokio::task::yield_now().await;
        assert!(batches.try_recv().is_err(), "no more than two are in flight, and one that went ahead");
        while callers.iter().any(|caller| !caller.is_finished()) {
            for answer in in_flight.drain(..) {
                answer.send(()).unwrap();
            }
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            while let Ok((arguments, answer)) = batches.try_recv() {
                sizes.push(arguments.len());
                in_flight.push(answer);
            }
        }
        assert!(join_all(callers).await.into_iter().all(|is_own| is_own.unwrap()));
        assert_eq!(sizes, [UPDATES_ENOUGH, BATCH_UPDATES, BATCH_UPDATES, 298 - 2 * BATCH_UPDATES - UPDATES_ENOUGH]);
    }

    /// So the server runs one part while the client makes the other; and however far away it is, no more wait for an answer than fill
    /// the batches that may be in flight.
    #[tokio::test]
    async fn of_a_crowd_so_many_go_out_as_are_enough_and_then_all_others() {
        let (server, mut batches) = Server::new();
        let spawn = |at: u16| {
            let server = server.clone();
            tokio::spawn(async move { is_own(&server.run(&at.to_be_bytes()).await, &at.to_be_bytes()) })
        };
        let callers: Vec<_> = (0..u16::try_from(BATCH_UPDATES).unwrap()).map(spawn).collect();
        let (mut sizes, mut in_flight) = (Vec::new(), Vec::new());
        // None is answered before all are out.
        while sizes.iter().sum::<usize>() < BATCH_UPDATES {
            let (arguments, answer) = batches.next().await.unwrap();
            sizes.push(arguments.len());
            in_flight.push(answer);
        }
        for answer in in_flight {
            answer.send(()).unwrap();
        }
        assert!(join_all(callers).await.into_iter().all(|is_own| is_own.unwrap()));
        assert_eq!(sizes, [UPDATES_ENOUGH, BATCH_UPDATES - UPDATES_ENOUGH]);
    }

    #[tokio::test]
    async fn bytes_fill_a_batch_too_and_one_large_update_goes_alone() {
        let (server, mut batches) = Server::new();
        let large = vec![7; BATCH_BYTES];
        let (one, two) = (vec![1; BATCH_BYTES / 2], vec![2; BATCH_BYTES / 2]);
        let calls = join_all([&large, &one, &two].map(|arguments| server.run(arguments)));
        let answers = async {
            let mut sizes = Vec::new();
            for _ in 0..3 {
                let (arguments, answer) = batches.next().await.unwrap();
                sizes.push(arguments.len());
                answer.send(()).unwrap();
            }
            sizes
        };
        let (answers, sizes) = futures::join!(calls, answers);
        assert!(answers.iter().zip([&large, &one, &two]).all(|(answer, arguments)| is_own(answer, arguments)));
        assert_eq!(sizes, [1, 1, 1]);
    }

    /// Whoever is dropped, at whatever point: the others of its batch are answered, and its place is given back.
    #[tokio::test]
    async fn callers_that_are_dropped_leave_their_batch_to_the_others() {
        for left in 0..3_usize {
            for polls in 0..4 {
                let (server, mut batches) = Server::new();
                for _ in 0..2 * IN_FLIGHT_MAX {
                    let mut calls: Vec<_> =
                        [b"0", b"1", b"2"].map(|arguments| Some(Box::pin(server.run(arguments)))).into();
                    for _ in 0..polls {
                        for call in calls.iter_mut().flatten() {
                            assert!(poll!(call.as_mut()).is_pending());
                        }
                    }
                    for (at, call) in calls.iter_mut().enumerate() {
                        if at != left {
                            *call = None;
                        }
                    }
                    let mut last = pin!(calls[left].take().unwrap());
                    while poll!(last.as_mut()).is_pending() {
                        if let Ok((_, answer)) = batches.try_recv() {
                            // Of a batch that all have left, nobody listens.
                            let _ = answer.send(());
                        }
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_batch_that_all_have_left_gives_its_place_back() {
        let (server, mut batches) = Server::new();
        for polls in 0..4 {
            for _ in 0..3 * IN_FLIGHT_MAX {
                let mut call = Box::pin(server.run(b"x"));
                for _ in 0..polls {
                    assert!(poll!(call.as_mut()).is_pending());
                }
            }
        }
        while batches.try_recv().is_ok() {}
        let answer = async {
            let (arguments, answer) = batches.next().await.unwrap();
            assert_eq!(arguments, [b"y"]);
            answer.send(()).unwrap();
        };
        assert!(is_own(&futures::join!(server.run(b"y"), answer).0, b"y"));
    }

    /// As when they are kept in a stream that is not polled until the late one is done.
    #[tokio::test(start_paused = true)]
    async fn callers_that_are_not_polled_keep_nobody_waiting() {
        let (server, mut batches) = Server::new();
        let mut kept: Vec<_> = (0..IN_FLIGHT_MAX).map(|_| Box::pin(server.run(b"kept"))).collect();
        for call in &mut kept {
            let answer = loop {
                assert!(poll!(call.as_mut()).is_pending());
                if let Ok((_, answer)) = batches.try_recv() {
                    break answer;
                }
            };
            answer.send(()).unwrap();
        }
        // One more, which stands in line before the late one, in a batch that is full.
        let large = vec![7; BATCH_BYTES];
        let mut in_line = Box::pin(server.run(&large));
        for _ in 0..2 {
            assert!(poll!(in_line.as_mut()).is_pending());
        }
        let answers = async {
            for _ in 0..2 {
                let (_, answer) = batches.next().await.unwrap();
                answer.send(()).unwrap();
            }
        };
        let both = async { futures::join!(server.run(b"late"), answers) };
        let (late, ()) =
            tokio::time::timeout(2 * PATIENCE, both).await.expect("the late one waits for who is not polled");
        assert!(is_own(&late, b"late"), "{late:?}");
        assert!(is_own(&in_line.await, &large));
        for call in kept {
            assert!(is_own(&call.await, b"kept"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_that_gets_no_turn_in_time_was_not_sent() {
        let (server, mut batches) = Server::new();
        let mut stuck: Vec<_> = (0..IN_FLIGHT_MAX).map(|_| Box::pin(server.run(b"stuck"))).collect();
        let mut in_flight = Vec::new();
        for call in &mut stuck {
            while in_flight.len() < IN_FLIGHT_MAX {
                assert!(poll!(call.as_mut()).is_pending());
                if let Ok(sent) = batches.try_recv() {
                    in_flight.push(sent);
                    break;
                }
            }
        }
        let failure = server.run(b"late").await.unwrap_err();
        assert!(!failure.was_sent && failure.error.is_timeout(), "{failure:?}");
        assert!(batches.try_recv().is_err());
    }
}
