//! Numbers of every call, through the `metrics` facade.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Histogram};
use sysd_core::{Clock, Effect, Error, ErrorKind, Space, SystemClock, Timestamp};

use super::trace::effect_name;
use super::{Answer, Interceptor, Method, Operation};

/// Reports every call through the [`metrics`] facade; the application picks the recorder.
///
/// | name | kind | labels | what it says |
/// |---|---|---|---|
/// | `sysd_store_calls_total` | counter | `operation`, `space` | calls that have ended, a batch being one |
/// | `sysd_store_answers_total` | counter | `operation`, `space` | their answers, one for each record of a batch |
/// | `sysd_store_errors_total` | counter | `operation`, `space`, `kind`, `effect` | answers that were errors |
/// | `sysd_store_conflicts_total` | counter | `operation`, `space` | answers that were lost conditions: no errors |
/// | `sysd_store_dropped_total` | counter | `operation`, `space` | calls that their callers gave up |
/// | `sysd_store_duration_seconds` | histogram | `operation`, `space` | from call to answer, without those given up |
/// | `sysd_store_in_flight` | gauge | `operation`, `space` | calls under way |
///
/// `operation` is the method's name, `space` the space's (of a batch, its first record's; `other` beyond 64 spaces), `kind`
/// and `effect` are those of [`Error`]. Clones share their handles.
///
/// Install the recorder before the first call: handles are made once, by whichever recorder is there.
///
/// # Cost
/// Two reads of the clock and five updates of the recorder's; no look-up by name, no allocation.
#[derive(Clone, Debug)]
pub struct Metrics<C = SystemClock> {
    clock: C,
    spaces: Arc<Spaces>,
}

impl Metrics {
    /// By the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Clock> Metrics<C> {
    /// By `clock`.
    pub fn with_clock(clock: C) -> Self {
        metrics::describe_counter!("sysd_store_calls_total", "Calls to a store that have ended.");
        metrics::describe_counter!("sysd_store_answers_total", "Answers of a store, one for each record of a batch.");
        metrics::describe_counter!("sysd_store_errors_total", "Answers of a store that were errors.");
        metrics::describe_counter!("sysd_store_conflicts_total", "Answers of a store that were lost conditions.");
        metrics::describe_counter!("sysd_store_dropped_total", "Calls to a store that their callers gave up.");
        let seconds = metrics::Unit::Seconds;
        metrics::describe_histogram!("sysd_store_duration_seconds", seconds, "From a call to a store to its answer.");
        metrics::describe_gauge!("sysd_store_in_flight", "Calls to a store under way.");
        Self { clock, spaces: Arc::default() }
    }
}

const SPACES_MAX: usize = 64;

/// The handles by space: a table that only grows, read without a lock.
#[derive(Debug)]
struct Spaces {
    known: [OnceLock<OfSpace>; SPACES_MAX],
    others: OfSpace,
}

impl Default for Spaces {
    fn default() -> Self {
        Self { known: [const { OnceLock::new() }; SPACES_MAX], others: OfSpace::new("other") }
    }
}

impl Spaces {
    /// A name is found by where it lies: two copies of one name have a place each, and the same counters behind them.
    fn find(&self, space: Space) -> &OfSpace {
        let name = space.name();
        let start = name.as_ptr().addr() / 8 + name.len();
        for step in 0..SPACES_MAX {
            let of_space = self.known[(start + step) % SPACES_MAX].get_or_init(|| OfSpace::new(name));
            if std::ptr::eq(of_space.name, name) {
                return of_space;
            }
        }
        &self.others
    }
}

#[derive(Debug)]
struct OfSpace {
    name: &'static str,
    methods: [OnceLock<Box<Handles>>; Method::ALL.len()],
}

impl OfSpace {
    const fn new(name: &'static str) -> Self {
        Self { name, methods: [const { OnceLock::new() }; Method::ALL.len()] }
    }

    fn handles(&self, method: Method) -> &Handles {
        self.methods[method as usize].get_or_init(|| Box::new(Handles::new(method.name(), self.name)))
    }
}

struct Handles {
    operation: &'static str,
    space: &'static str,
    calls: Counter,
    answers: Counter,
    conflicts: Counter,
    dropped: Counter,
    duration: Histogram,
    in_flight: Gauge,
    /// Made when they are first needed: most combinations never happen.
    errors: [[OnceLock<Counter>; 2]; ErrorKind::ALL.len()],
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handles")
            .field("operation", &self.operation)
            .field("space", &self.space)
            .finish_non_exhaustive()
    }
}

impl Handles {
    fn new(operation: &'static str, space: &'static str) -> Self {
        let labels = [("operation", operation), ("space", space)];
        Self {
            operation,
            space,
            calls: metrics::counter!("sysd_store_calls_total", &labels),
            answers: metrics::counter!("sysd_store_answers_total", &labels),
            conflicts: metrics::counter!("sysd_store_conflicts_total", &labels),
            dropped: metrics::counter!("sysd_store_dropped_total", &labels),
            duration: metrics::histogram!("sysd_store_duration_seconds", &labels),
            in_flight: metrics::gauge!("sysd_store_in_flight", &labels),
            errors: [const { [const { OnceLock::new() }; 2] }; ErrorKind::ALL.len()],
        }
    }

    fn count_error(&self, error: &Error) {
        let Some(kind) = ErrorKind::ALL.iter().position(|&kind| kind == error.kind()) else { return };
        let counter = self.errors[kind][usize::from(error.effect() == Effect::Unknown)].get_or_init(|| {
            let labels = [
                ("operation", self.operation),
                ("space", self.space),
                ("kind", error.kind().name()),
                ("effect", effect_name(error)),
            ];
            metrics::counter!("sysd_store_errors_total", &labels)
        });
        counter.increment(1);
    }
}

/// One call under way.
struct Call<'a> {
    handles: &'a Handles,
    is_answered: bool,
}

impl Call<'_> {
    fn answered(mut self, answer: &impl Answer, start: Timestamp, end: Timestamp) {
        self.is_answered = true;
        let handles = self.handles;
        handles.duration.record(end.saturating_since(start).as_secs_f64());
        handles.answers.increment(answer.count() as u64);
        let conflicts = answer.conflicts();
        if conflicts > 0 {
            handles.conflicts.increment(conflicts as u64);
        }
        answer.errors().for_each(|error| handles.count_error(error));
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.handles.in_flight.decrement(1.0);
        self.handles.calls.increment(1);
        if !self.is_answered {
            self.handles.dropped.increment(1);
        }
    }
}

impl<C: Clock> Interceptor for Metrics<C> {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        let handles = self.spaces.find(operation.space).handles(operation.method);
        let start = self.clock.now();
        handles.in_flight.increment(1.0);
        let under_way = Call { handles, is_answered: false };
        let answer = call.await;
        under_way.answered(&answer, start, self.clock.now());
        answer
    }
}
