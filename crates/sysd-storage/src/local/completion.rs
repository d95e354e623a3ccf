//! How callers wait for a batch: one place for all of them, so that none costs an allocation.
//!
//! To wake a task from another thread costs a system call, as much as to write its record. So the committer wakes one, and that
//! one the others, from within their runtime. Should it not come to it, the committer does it itself, one batch later.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use sysd_core::Error;

/// What became of a batch; the error is one for all its callers.
pub(super) type Verdict = Result<(), Arc<Error>>;

#[derive(Debug, Default)]
pub(super) struct Completion(Mutex<State>);

#[derive(Debug)]
enum State {
    Pending(Vec<Waker>),
    /// With those who still sleep.
    Done(Verdict, Vec<Waker>),
}

impl Default for State {
    fn default() -> Self {
        Self::Pending(Vec::new())
    }
}

impl Completion {
    /// Wakes one caller, who wakes the others; only the first verdict counts.
    pub(super) fn finish(&self, verdict: Verdict) {
        let first = {
            let mut state = self.0.lock();
            let State::Pending(wakers) = &mut *state else { return };
            let mut rest = std::mem::take(wakers);
            let first = rest.pop();
            *state = State::Done(verdict, rest);
            first
        };
        if let Some(first) = first {
            first.wake();
        }
    }

    /// Wakes all who still sleep after [`Completion::finish`].
    pub(super) fn release(&self) {
        let rest = match &mut *self.0.lock() {
            State::Done(_, rest) => std::mem::take(rest),
            State::Pending(_) => return,
        };
        rest.into_iter().for_each(Waker::wake);
    }
}

/// Waits for a batch.
#[derive(Debug)]
pub(super) struct Ticket {
    completion: Arc<Completion>,
    /// Where its waker lies, once it has one there.
    slot: Option<usize>,
}

impl Ticket {
    pub(super) fn new(completion: &Arc<Completion>) -> Self {
        Self { completion: Arc::clone(completion), slot: None }
    }

    /// Whether both wait for the same batch.
    pub(super) fn is_of_batch(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.completion, &other.completion)
    }
}

impl Future for Ticket {
    type Output = Verdict;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Verdict> {
        let completion = Arc::clone(&self.completion);
        let mut state = completion.0.lock();
        match &mut *state {
            State::Done(verdict, rest) => {
                let (verdict, rest) = (verdict.clone(), std::mem::take(rest));
                drop(state);
                rest.into_iter().for_each(Waker::wake);
                Poll::Ready(verdict)
            }
            State::Pending(wakers) => {
                if let Some(waker) = self.slot.and_then(|slot| wakers.get_mut(slot)) {
                    waker.clone_from(context.waker());
                } else {
                    self.slot = Some(wakers.len());
                    wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn everybody_hears_the_first_verdict() {
        let completion = Arc::new(Completion::default());
        let (mut early, mut twice) = (Ticket::new(&completion), Ticket::new(&completion));
        assert!((&mut early).now_or_never().is_none() && (&mut twice).now_or_never().is_none());
        assert!((&mut twice).now_or_never().is_none());
        let waiting = std::thread::spawn({
            let ticket = Ticket::new(&completion);
            move || futures::executor::block_on(ticket).is_ok()
        });
        completion.finish(Ok(()));
        completion.release();
        completion.finish(Err(Arc::new(Error::invalid("x", "late"))));
        assert!(waiting.join().is_ok_and(|is_ok| is_ok));
        assert!(early.now_or_never().is_some_and(|verdict| verdict.is_ok()));
        assert!(twice.now_or_never().is_some_and(|verdict| verdict.is_ok()));
        assert!(Ticket::new(&completion).now_or_never().is_some_and(|verdict| verdict.is_ok()));
    }
}
