//! A lease, and the line of those who wait while one of them asks for a batch. Each has its turn when the batch is answered, in the order
//! in which they came:
//!
//! | in line | is told |
//! |---|---|
//! | the batch has enough for those in front and for it | that it is allowed: its tokens were taken from what is in hand |
//! | what is known by now denies it | that it is denied |
//! | neither: the first such | to ask for the next batch; those behind it wait for that |
//! | not even the call behind that finds as much as those in front want, and it | that it is denied; where that is not known, to ask for itself |
//! | the call failed | the call's error |
//! | the one that asks is dropped | the first: to ask in its stead |
//!
//! So there is one call at a time, however many wait, and each call answers at least one of them. Who has its turn and is not there any more gives it back.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::channel::oneshot;
use futures::future::Shared;
use sysd_core::Error;

use super::lease::{Lease, Step, Terms};
use crate::model::Decision;

/// Ready when the one that asks should have been answered.
pub(super) type Late = Shared<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// What one that waited is told.
#[derive(Debug)]
pub(super) enum Turn {
    Decided(Decision),
    /// It asks.
    Lead(Lead),
    /// It asks for itself.
    Alone,
    /// The call failed, and that is everybody's answer: were each to ask for itself, a store that fails would be asked by all at once.
    Failed(Arc<Error>),
}

/// With the number of the batch that was in hand then.
pub(super) type Told = (Turn, u64);

/// To ask for a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lead {
    pub(super) tokens: u32,
    pub(super) least: u32,
    /// By that it is known whether it still is the one that asks. No other of the process has it.
    pub(super) number: u64,
}

/// What becomes of a request.
pub(super) enum Next {
    Decided(Decision),
    /// The store is asked, and the lease told nothing.
    Alone,
    Lead(Lead),
    Wait(Place),
}

/// In line.
pub(super) struct Place {
    pub(super) ticket: u64,
    pub(super) turn: oneshot::Receiver<Told>,
    pub(super) late: Late,
    /// The number of the one that is late then.
    pub(super) asking: u64,
}

/// What becomes of one that has waited for too long.
pub(super) enum Overdue {
    /// Its turn is on its way.
    Called,
    Turn(Turn),
    /// Another one asks by now, which is late then.
    Wait(Late, u64),
    /// It waits no longer.
    Over,
}

/// To be told when the table is free.
pub(super) struct Called {
    pub(super) call: oneshot::Sender<Told>,
    pub(super) cost: u32,
    /// The batch in hand when it was decided.
    pub(super) batch: u64,
    pub(super) turn: Turn,
}

struct Waiter {
    ticket: u64,
    cost: u32,
    call: oneshot::Sender<Told>,
}

#[derive(Default)]
struct Room {
    /// The longest waiting first: tickets ascend.
    line: VecDeque<Waiter>,
    late: Option<Late>,
}

/// While somebody is in line, somebody asks.
#[derive(Default)]
pub(super) struct Seat {
    pub(super) lease: Lease,
    /// The number of the one that asks; zero if nobody does.
    asking: u64,
    room: Option<Box<Room>>,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lease.fmt(f)
    }
}

/// Numbers of requests, from 1 on.
#[derive(Debug, Default)]
pub(super) struct Numbers(AtomicU64);

impl Numbers {
    fn next(&self) -> u64 {
        1 + self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Seat {
    /// What becomes of a request that comes. `late` makes a timer for the one that asks.
    pub(super) fn step(
        &mut self,
        terms: &Terms<'_>,
        cost: u32,
        numbers: &Numbers,
        late: impl FnOnce() -> Late,
    ) -> Next {
        match self.lease.take(terms, cost) {
            Step::Decided(decision) => Next::Decided(decision),
            Step::Alone => Next::Alone,
            Step::Lead { tokens, least } => Next::Lead(self.lead(tokens, least, numbers)),
            Step::Wait => {
                let (call, turn) = oneshot::channel();
                let (ticket, asking) = (numbers.next(), self.asking);
                let room = self.room.get_or_insert_default();
                room.line.push_back(Waiter { ticket, cost, call });
                let late = room.late.get_or_insert_with(late).clone();
                Next::Wait(Place { ticket, turn, late, asking })
            }
        }
    }

    fn lead(&mut self, tokens: u32, least: u32, numbers: &Numbers) -> Lead {
        self.asking = numbers.next();
        if let Some(room) = &mut self.room {
            room.late = None;
        }
        Lead { tokens, least, number: self.asking }
    }

    /// The call of that number was answered: `tell` tells the lease so, or, if it is not the one that asks any more, that it comes late.
    pub(super) fn answered<T>(
        &mut self,
        number: u64,
        terms: &Terms<'_>,
        numbers: &Numbers,
        tell: impl FnOnce(&mut Lease, &Terms<'_>, bool) -> T,
    ) -> (T, Vec<Called>) {
        let is_late = self.asking != number;
        let told = tell(&mut self.lease, terms, is_late);
        if is_late {
            return (told, Vec::new());
        }
        self.asking = 0;
        (told, self.call(terms, numbers))
    }

    /// It failed, and all who wait are told.
    pub(super) fn failed(&mut self, number: u64, error: &Arc<Error>) -> Vec<Called> {
        if self.asking != number {
            return Vec::new();
        }
        self.asking = 0;
        self.lease.gave_up();
        let line = self.room.take().map_or_else(VecDeque::new, |room| room.line);
        let tell = |Waiter { cost, call, .. }| {
            self.lease.left(cost);
            Called { call, cost, batch: 0, turn: Turn::Failed(Arc::clone(error)) }
        };
        line.into_iter().map(tell).collect()
    }

    /// The future that asked was dropped.
    pub(super) fn abandoned(&mut self, number: u64, terms: &Terms<'_>, numbers: &Numbers) -> Vec<Called> {
        if self.asking != number {
            return Vec::new();
        }
        self.asking = 0;
        self.lease.abandoned();
        self.call(terms, numbers)
    }

    /// Those in line have their turns, until one asks.
    fn call(&mut self, terms: &Terms<'_>, numbers: &Numbers) -> Vec<Called> {
        let mut called = Vec::new();
        while self.asking == 0 {
            let Some(Waiter { cost, call, .. }) = self.room.as_mut().and_then(|room| room.line.pop_front()) else {
                self.room = None;
                break;
            };
            self.lease.left(cost);
            let turn = match self.lease.take(terms, cost) {
                Step::Decided(decision) => Turn::Decided(decision),
                Step::Lead { tokens, least } => Turn::Lead(self.lead(tokens, least, numbers)),
                // Nobody asks, and who costs nothing does not wait.
                Step::Wait | Step::Alone => continue,
            };
            called.push(Called { call, cost, batch: self.lease.batch_number(), turn });
        }
        self.shorten(terms, &mut called);
        called
    }

    /// From the end of the line on, those have their turns for whom nothing can be there in time.
    fn shorten(&mut self, terms: &Terms<'_>, called: &mut Vec<Called>) {
        let Some(room) = &mut self.room else { return };
        while let Some(waiter) = room.line.pop_back() {
            let turn = match self.lease.shorten(terms, waiter.cost) {
                Some(Step::Decided(decision)) => Turn::Decided(decision),
                Some(Step::Alone) => Turn::Alone,
                _ => {
                    room.line.push_back(waiter);
                    return;
                }
            };
            let Waiter { cost, call, .. } = waiter;
            called.push(Called { call, cost, batch: self.lease.batch_number(), turn });
        }
    }

    /// One does not wait any longer. Whether it was in line: else it has its turn.
    pub(super) fn leave(&mut self, ticket: u64) -> bool {
        let Some(room) = &mut self.room else { return false };
        let Ok(at) = room.line.binary_search_by_key(&ticket, |waiter| waiter.ticket) else { return false };
        if let Some(waiter) = room.line.remove(at) {
            self.lease.left(waiter.cost);
        }
        true
    }

    /// The one that asked under the number `asking` should have been answered by now. If it still asks, this one does in its stead: it is known to be polled.
    pub(super) fn overdue(
        &mut self,
        (ticket, cost, asking): (u64, u32, u64),
        is_over: bool,
        terms: &Terms<'_>,
        numbers: &Numbers,
        late: impl FnOnce() -> Late,
    ) -> (Overdue, Vec<Called>) {
        if self.asking != asking && !is_over {
            let is_in_line =
                |room: &&mut Box<Room>| room.line.binary_search_by_key(&ticket, |waiter| waiter.ticket).is_ok();
            let Some(room) = self.room.as_mut().filter(is_in_line) else { return (Overdue::Called, Vec::new()) };
            return (Overdue::Wait(room.late.get_or_insert_with(late).clone(), self.asking), Vec::new());
        }
        if !self.leave(ticket) {
            return (Overdue::Called, Vec::new());
        }
        if self.asking != asking {
            return (Overdue::Over, Vec::new());
        }
        self.asking = 0;
        self.lease.abandoned();
        let overdue = match self.lease.take(terms, cost) {
            Step::Decided(decision) => Overdue::Turn(Turn::Decided(decision)),
            Step::Lead { tokens, least } => Overdue::Turn(Turn::Lead(self.lead(tokens, least, numbers))),
            Step::Wait | Step::Alone => Overdue::Over,
        };
        (overdue, self.call(terms, numbers))
    }
}
