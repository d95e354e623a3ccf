//! Runs futures one poll at a time, in an order drawn from a seed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use sysd_core::entropy::below;
use sysd_core::{Entropy as _, SeededEntropy};

use super::Node;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tasks that were woken, in the order in which they were; one that is in it is not added again.
#[derive(Debug, Default)]
struct Ready(Mutex<Vec<usize>>);

impl Ready {
    fn push(&self, task: usize) {
        let mut ready = self.0.lock();
        if !ready.contains(&task) {
            ready.push(task);
        }
    }
}

struct TaskWaker {
    task: usize,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.task);
    }
}

struct Slot {
    node: Option<Node>,
    /// Taken out while it is polled; `None` for ever once it ended.
    task: Option<Task>,
    is_over: bool,
    waker: Waker,
}

#[derive(Default)]
pub(super) struct Executor {
    slots: Mutex<Vec<Slot>>,
    ready: Arc<Ready>,
}

impl Executor {
    /// Adds a task of a node; `None`: of the network, which does not crash.
    pub(super) fn spawn(&self, node: Option<Node>, future: impl Future<Output = ()> + Send + 'static) {
        let mut slots = self.slots.lock();
        let task = slots.len();
        let waker = Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(&self.ready) }));
        slots.push(Slot { node, task: Some(Box::pin(future)), is_over: false, waker });
        self.ready.push(task);
    }

    /// Ends all tasks.
    pub(super) fn clear(&self) {
        let slots = std::mem::take(&mut *self.slots.lock());
        self.ready.0.lock().clear();
        drop(slots);
    }

    /// Ends all tasks of a node where they stand.
    pub(super) fn crash(&self, node: Node) {
        let ended: Vec<Option<Task>> = {
            let mut slots = self.slots.lock();
            let of_node = slots.iter_mut().filter(|slot| slot.node == Some(node));
            of_node
                .map(|slot| {
                    slot.is_over = true;
                    slot.task.take()
                })
                .collect()
        };
        // Not under the lock: what they hold may wake others when it is dropped.
        drop(ended);
    }

    /// Polls one task that was woken; `None` if there is none. Answers which.
    pub(super) fn step(&self, entropy: &SeededEntropy) -> Option<usize> {
        let (id, mut task, waker) = loop {
            let id = {
                let mut ready = self.ready.0.lock();
                if ready.is_empty() {
                    return None;
                }
                let at = below(entropy, ready.len() as u64);
                ready.remove(usize::try_from(at).unwrap_or_default())
            };
            let mut slots = self.slots.lock();
            let slot = &mut slots[id];
            if let Some(task) = slot.task.take() {
                break (id, task, slot.waker.clone());
            }
        };
        let poll = task.as_mut().poll(&mut Context::from_waker(&waker));
        let mut slots = self.slots.lock();
        let slot = &mut slots[id];
        if poll == Poll::Ready(()) {
            slot.is_over = true;
        }
        let ended = if slot.is_over { Some(task) } else { slot.task.replace(task) };
        drop(slots);
        drop(ended);
        Some(id)
    }
}

/// One bit of a seed's randomness, for callers that only toss.
pub(super) fn chance(entropy: &SeededEntropy, per_mille: u32) -> bool {
    per_mille > 0 && entropy.next_u64() % 1_000 < u64::from(per_mille)
}
