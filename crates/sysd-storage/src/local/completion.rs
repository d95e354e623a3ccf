//! How callers wait for a batch: one place for all of them, so that none costs an allocation.

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
    Done(Verdict),
}

impl Default for State {
    fn default() -> Self {
        Self::Pending(Vec::new())
    }
}

impl Completion {
    /// Wakes everybody; only the first verdict counts.
    pub(super) fn finish(&self, verdict: Verdict) {
        let wakers = {
            let mut state = self.0.lock();
            match &mut *state {
                State::Done(_) => return,
                State::Pending(wakers) => {
                    let wakers = std::mem::take(wakers);
                    *state = State::Done(verdict);
                    wakers
                }
            }
        };
        wakers.into_iter().for_each(Waker::wake);
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
}

impl Future for Ticket {
    type Output = Verdict;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Verdict> {
        let completion = Arc::clone(&self.completion);
        let mut state = completion.0.lock();
        match &mut *state {
            State::Done(verdict) => Poll::Ready(verdict.clone()),
            State::Pending(wakers) => {
                match self.slot.and_then(|slot| wakers.get_mut(slot)) {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => {
                        self.slot = Some(wakers.len());
                        wakers.push(context.waker().clone());
                    }
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
        completion.finish(Err(Arc::new(Error::invalid("x", "late"))));
        assert!(waiting.join().is_ok_and(|is_ok| is_ok));
        assert!(early.now_or_never().is_some_and(|verdict| verdict.is_ok()));
        assert!(twice.now_or_never().is_some_and(|verdict| verdict.is_ok()));
        assert!(Ticket::new(&completion).now_or_never().is_some_and(|verdict| verdict.is_ok()));
    }
}
