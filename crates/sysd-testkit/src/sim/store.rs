//! The store behind a network that a seed makes slow and faulty.

use std::future::Future;
use std::time::Duration;

use futures::channel::oneshot;
use sysd_core::{
    Change, Clock as _, Durability, Effect, ErasedProcedure, Error, ErrorKind, Expect, Key, KeyBuf, Limits, Outcome,
    OutputBytes, Page, Record, Result, Scan, Store, Trim, Trimmed, Write,
};

use super::{Fault, Node, Simulation};

/// The shared store as one node reaches it.
///
/// Writes travel by themselves: one whose caller has crashed or given up may still happen. A procedure happens at the end of
/// its way there, and not at all if its caller is gone by then.
#[derive(Clone, Debug)]
pub struct SimStore {
    simulation: Simulation,
    node: Node,
    limits: Limits,
}

/// What becomes of one call.
#[derive(Clone, Copy, Debug)]
struct Fate {
    refused: bool,
    /// How long the way there takes; `None`: it is lost.
    there: Option<Duration>,
    back: Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    After(Duration),
    Lost(Duration),
    Never,
    Crash,
}

fn unknown() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the simulation lost the call or its reply")
}

fn refused() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::None, "the simulation refused the call")
}

impl SimStore {
    pub(super) fn new(simulation: Simulation, node: Node) -> Self {
        let limits = *simulation.shared.store.limits();
        Self { simulation, node, limits }
    }

    /// The same store with smaller values, so that what is cut into several records is soon cut. It only says so: nothing
    /// is refused.
    #[must_use]
    pub const fn with_value_bytes_max(mut self, value_bytes_max: usize) -> Self {
        self.limits.value_bytes_max = value_bytes_max;
        self
    }

    /// The same store, which says that it forgets nothing that it acknowledged: as far as its process goes, it does not.
    #[must_use]
    pub const fn durable(mut self) -> Self {
        self.limits.durability = Durability::Durable;
        self
    }

    /// Draws what becomes of the next call.
    fn fate(&self) -> Fate {
        let simulation = &self.simulation;
        let (faults, number, fault) = {
            let mut plan = simulation.shared.plan.lock();
            let at = self.node.0 as usize;
            if plan.calls.len() <= at {
                plan.calls.resize(at + 1, 0);
            }
            plan.calls[at] += 1;
            (plan.faults, plan.calls[at], plan.fault)
        };
        let there = simulation.delay(faults.delay_max);
        let back = simulation.delay(faults.delay_max);
        let mut fate = Fate { refused: false, there: Some(there), back: Back::After(back) };
        if simulation.chance(faults.refused) {
            fate.refused = true;
        } else if simulation.chance(faults.request_lost) {
            (fate.there, fate.back) = (None, Back::Lost(back));
        } else if simulation.chance(faults.reply_lost) {
            fate.back = Back::Lost(back);
        } else if simulation.chance(faults.reply_never) {
            fate.back = Back::Never;
        } else if simulation.chance(faults.late) {
            (fate.there, fate.back) = (Some(simulation.delay(faults.late_max)), Back::Lost(Duration::ZERO));
        }
        match fault {
            Some((node, Fault::CrashAfterCall(at))) if node == self.node && at == number => fate.back = Back::Crash,
            Some((node, Fault::LoseReply(at))) if node == self.node && at == number => fate.back = Back::Lost(back),
            Some((node, Fault::Refuse(at))) if node == self.node && at == number => fate.refused = true,
            _ => {}
        }
        simulation.trace(u64::from(self.node.0) << 32 | number);
        fate
    }

    async fn sleep(&self, wait: Duration) {
        let clock = self.simulation.clock();
        clock.sleep_until(clock.now().saturating_add(wait)).await;
    }

    /// Sends a call on its way, which goes on without its caller.
    async fn send<T: Send + 'static>(&self, call: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let fate = self.fate();
        if fate.refused {
            self.sleep(fate.there.unwrap_or_default()).await;
            return Err(refused());
        }
        let (reply, answer) = oneshot::channel();
        let this = self.clone();
        self.simulation.shared.executor.spawn(None, async move {
            let answer = match fate.there {
                Some(there) => {
                    this.sleep(there).await;
                    call.await
                }
                None => Err(unknown()),
            };
            match fate.back {
                Back::After(back) => {
                    this.sleep(back).await;
                    let _ = reply.send(answer);
                }
                Back::Lost(back) => {
                    this.sleep(back).await;
                    let _ = reply.send(Err(unknown()));
                }
                // The caller waits for its own deadline.
                Back::Never => std::future::pending().await,
                Back::Crash => this.simulation.crash(this.node),
            }
        });
        answer.await.unwrap_or_else(|_| Err(unknown()))
    }

    async fn read<T: Send + 'static>(&self, call: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        self.send(call).await.map_err(|error| error.with_effect(Effect::None))
    }
}

/// A write that owns what it needs.
struct OwnedWrite {
    key: KeyBuf,
    change: Change,
    expect: Expect,
}

impl OwnedWrite {
    fn new(write: &Write<'_>) -> Self {
        Self { key: write.key.to_owned(), change: write.change.clone(), expect: write.expect }
    }

    fn as_write(&self) -> Write<'_> {
        Write { key: self.key.as_key(), change: self.change.clone(), expect: self.expect }
    }
}

impl Store for SimStore {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        let (store, key) = (self.simulation.truth(), key.to_owned());
        self.read(async move { store.get(key.as_key()).await }).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            answers.push(self.get(*key).await);
        }
        answers
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        let (store, write) = (self.simulation.truth(), OwnedWrite::new(&write));
        self.send(async move { store.write(write.as_write()).await }).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            answers.push(self.write(write.clone()).await);
        }
        answers
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        let (store, partition) = (self.simulation.truth(), scan.partition.to_vec());
        let (start, end) = (scan.start.map(<[u8]>::to_vec), scan.end.map(<[u8]>::to_vec));
        let (space, order, limit) = (scan.space, scan.order, scan.limit);
        self.read(async move {
            let scan = Scan::partition(space, &partition, limit).order(order);
            store.scan(scan.range(start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice))).await
        })
        .await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        let (store, partition) = (self.simulation.truth(), trim.partition.to_vec());
        let (space, keep) = (trim.space, trim.keep);
        self.send(async move { store.trim(Trim { space, partition: &partition, keep }).await }).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let fate = self.fate();
        let Some(there) = fate.there else {
            return Err(unknown());
        };
        self.sleep(there).await;
        if fate.refused {
            return Err(refused());
        }
        let answer = self.simulation.shared.store.update(key, procedure).await;
        match fate.back {
            Back::After(back) => self.sleep(back).await,
            Back::Lost(back) => {
                self.sleep(back).await;
                return Err(unknown());
            }
            Back::Never => std::future::pending().await,
            Back::Crash => {
                // From a task of the network: a node can't end itself while it is polled.
                let this = self.clone();
                self.simulation.shared.executor.spawn(None, async move { this.simulation.crash(this.node) });
                std::future::pending::<()>().await;
            }
        }
        answer
    }
}
