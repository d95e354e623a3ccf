//! Calls that go wrong as a script says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::channel::oneshot;
use sysd_core::{Effect, Error, ErrorKind, ManualClock, Space, Timestamp};
use sysd_storage::Memory;
use sysd_storage::layer::{Answer, Interceptor, LayerExt as _, Layered, Operation};

pub(crate) const SPACE: Space = Space::conditional("layers");
pub(crate) const PLAIN: Space = Space::plain("layers_plain");

/// What becomes of one call.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It goes right.
    Pass,
    /// It does not happen.
    Refuse(ErrorKind),
    /// It happens; the reply is lost.
    LoseReply(ErrorKind),
    /// It happens; these places of its answer are lost, with this effect.
    Spoil(Vec<usize>, Effect),
    /// It does not happen before the gate opens.
    HoldCall(oneshot::Receiver<()>),
    /// It happens; the reply waits for the gate.
    HoldReply(oneshot::Receiver<()>),
    /// It happens; nothing is ever heard of it.
    Silence,
}

/// Plays faults in turn; after the last, calls pass.
#[derive(Debug, Default)]
pub(crate) struct Script {
    faults: Mutex<VecDeque<Fault>>,
    seen: Mutex<Vec<Operation>>,
}

impl Script {
    pub(crate) fn play(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// Forgets the faults that were not played.
    pub(crate) fn clear(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// The calls that came here, since the last time.
    pub(crate) fn take_seen(&self) -> Vec<Operation> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    pub(crate) fn take_count(&self) -> usize {
        self.take_seen().len()
    }
}

pub(crate) fn gate() -> (oneshot::Sender<()>, oneshot::Receiver<()>) {
    oneshot::channel()
}

impl Interceptor for Script {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        self.seen.lock().unwrap().push(operation);
        let fault = self.faults.lock().unwrap().pop_front();
        let failed = |kind, effect| A::failed(operation.answers, Error::new(kind, effect, "scripted"));
        match fault.unwrap_or(Fault::Pass) {
            Fault::Pass => call.await,
            Fault::Refuse(kind) => failed(kind, Effect::None),
            Fault::LoseReply(kind) => {
                call.await;
                failed(kind, operation.method.effect_unanswered())
            }
            Fault::Spoil(places, effect) => {
                let mut answer = call.await;
                for at in places {
                    answer.spoil(at, Error::new(ErrorKind::Throttled, effect, "scripted"));
                }
                answer
            }
            Fault::HoldCall(gate) => {
                let _ = gate.await;
                call.await
            }
            Fault::HoldReply(gate) => {
                let answer = call.await;
                let _ = gate.await;
                answer
            }
            Fault::Silence => {
                call.await;
                std::future::pending().await
            }
        }
    }
}

/// Memory behind a script, on a clock that stands.
pub(crate) struct Scripted {
    pub(crate) clock: ManualClock,
    pub(crate) script: Arc<Script>,
    pub(crate) truth: Memory<ManualClock>,
    pub(crate) store: Layered<Memory<ManualClock>, Arc<Script>>,
}

impl Scripted {
    pub(crate) fn clock_us(&self) -> u64 {
        sysd_core::Clock::now(&self.clock).as_micros()
    }
}

pub(crate) fn scripted() -> Scripted {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000_000));
    let (script, truth) = (Arc::new(Script::default()), Memory::with_clock(clock.clone()));
    let store = truth.clone().layer(Arc::clone(&script));
    Scripted { clock, script, truth, store }
}
