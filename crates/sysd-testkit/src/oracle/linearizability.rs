//! Linearizability of a history: Wing and Gong's search (1993) with Lowe's memory of what was tried (2017).
//!
//! Calls may be pending for ever: a lost reply is *unknown*, so the search may let the call happen at any later point, or
//! never. The crates that check histories leave that out (todc-utils), or search without a memory and bring a web server
//! (stateright).

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What an object does, one call at a time.
pub trait Specification {
    /// The object.
    type State: Clone + Eq + Hash + Debug;
    /// What is asked.
    type Call: Clone + Debug;
    /// What is answered.
    type Reply: Clone + Debug;

    /// The object before the first call.
    fn initial() -> Self::State;

    /// The object after `call`, or `None` if it could not have answered `reply`. No reply: it may have answered anything.
    fn step(state: &Self::State, call: &Self::Call, reply: Option<&Self::Reply>) -> Option<Self::State>;
}

/// Names a call of a [`History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(usize);

/// Calls and their replies, in the order in which they were seen.
#[derive(Debug)]
pub struct History<S: Specification> {
    calls: Vec<Entry<S>>,
    moments: usize,
}

#[derive(Debug)]
struct Entry<S: Specification> {
    call: S::Call,
    reply: Option<S::Reply>,
    invoked: usize,
    /// `usize::MAX` while pending.
    returned: usize,
    /// It had no effect, so it need not be explained.
    void: bool,
}

/// A history that no order of its calls explains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no order explains the history; at best {} of {completed} completed calls, then none of: {}", explained.len(), stuck.join(", "))]
pub struct NotLinearizable {
    /// How many calls have replies.
    pub completed: usize,
    /// The longest order that was found, as text.
    pub explained: Vec<String>,
    /// What could not come next.
    pub stuck: Vec<String>,
}

impl<S: Specification> Default for History<S> {
    fn default() -> Self {
        Self { calls: Vec::new(), moments: 0 }
    }
}

impl<S: Specification> History<S> {
    /// Of no calls.
    pub fn new() -> Self {
        Self::default()
    }

    fn moment(&mut self) -> usize {
        self.moments += 1;
        self.moments
    }

    /// A call begins: note it before it is sent.
    pub fn invoke(&mut self, call: S::Call) -> CallId {
        let invoked = self.moment();
        self.calls.push(Entry { call, reply: None, invoked, returned: usize::MAX, void: false });
        CallId(self.calls.len() - 1)
    }

    /// Its reply came.
    pub fn complete(&mut self, id: CallId, reply: S::Reply) {
        let returned = self.moment();
        let entry = &mut self.calls[id.0];
        entry.reply = Some(reply);
        entry.returned = returned;
    }

    /// It failed and had no effect ([`Effect::None`](sysd_core::Effect::None)).
    pub fn fail(&mut self, id: CallId) {
        self.calls[id.0].void = true;
    }

    /// Its reply is lost ([`Effect::Unknown`](sysd_core::Effect::Unknown)): it may have happened, or may still, or never.
    /// The same as saying nothing.
    pub fn lose(&mut self, id: CallId) {
        debug_assert!(self.calls[id.0].reply.is_none(), "a reply can't be lost after it came");
    }

    /// How many calls were made.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether no call was made.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

/// Which calls have been placed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn none(calls: usize) -> Self {
        Self(vec![0; calls.div_ceil(64)])
    }

    fn has(&self, call: usize) -> bool {
        self.0[call / 64] >> (call % 64) & 1 == 1
    }

    fn flip(&mut self, call: usize) {
        self.0[call / 64] ^= 1 << (call % 64);
    }
}

struct Search<'a, S: Specification> {
    calls: Vec<&'a Entry<S>>,
    placed: Placed,
    tried: HashSet<(Placed, S::State)>,
    order: Vec<usize>,
    best: Vec<usize>,
}

/// Looks for an order of the calls that explains every reply and keeps real time: what had returned before another call
/// began comes before it.
///
/// # Errors
/// [`NotLinearizable`] if there is none.
///
/// # Cost
/// Exponential in the number of calls that overlap, at worst; keep histories short (a few dozen calls, few callers).
pub fn check<S: Specification>(history: &History<S>) -> Result<(), NotLinearizable> {
    let calls: Vec<_> = history.calls.iter().filter(|entry| !entry.void).collect();
    let completed = calls.iter().filter(|entry| entry.reply.is_some()).count();
    let placed = Placed::none(calls.len());
    let mut search = Search { calls, placed, tried: HashSet::new(), order: Vec::new(), best: Vec::new() };
    if search.explains(&S::initial(), completed) {
        return Ok(());
    }
    Err(search.failure(completed))
}

impl<S: Specification> Search<'_, S> {
    /// The calls that may come next: those that began before any call not yet placed returned.
    fn candidates(&self) -> Vec<usize> {
        let open = |call: &usize| !self.placed.has(*call);
        let deadline = (0..self.calls.len()).filter(open).map(|call| self.calls[call].returned).min();
        let deadline = deadline.unwrap_or(usize::MAX);
        (0..self.calls.len()).filter(open).filter(|&call| self.calls[call].invoked < deadline).collect()
    }

    fn explains(&mut self, state: &S::State, completed_left: usize) -> bool {
        if completed_left == 0 {
            return true;
        }
        for call in self.candidates() {
            let entry = self.calls[call];
            let Some(next) = S::step(state, &entry.call, entry.reply.as_ref()) else { continue };
            self.placed.flip(call);
            self.order.push(call);
            if self.order.len() > self.best.len() {
                self.best.clone_from(&self.order);
            }
            let left = completed_left - usize::from(entry.reply.is_some());
            if self.tried.insert((self.placed.clone(), next.clone())) && self.explains(&next, left) {
                return true;
            }
            self.order.pop();
            self.placed.flip(call);
        }
        false
    }

    fn failure(&mut self, completed: usize) -> NotLinearizable {
        let describe = |call: &usize| format!("{:?} -> {:?}", self.calls[*call].call, self.calls[*call].reply);
        let explained = self.best.iter().map(describe).collect();
        self.placed = Placed::none(self.calls.len());
        for call in self.best.clone() {
            self.placed.flip(call);
        }
        let describe = |call: &usize| format!("{:?} -> {:?}", self.calls[*call].call, self.calls[*call].reply);
        let stuck = self.candidates().iter().map(describe).collect();
        NotLinearizable { completed, explained, stuck }
    }
}
