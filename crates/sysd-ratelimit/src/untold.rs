//! Errors of the store of which no request is told, because its answer does not change with them.

use parking_lot::Mutex;
use sysd_core::{Effect, Error, ErrorKind};

/// The last error of a store that changed no answer. It names neither key nor server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UntoldError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Whether the store may have done it all the same.
    pub effect: Effect,
    /// How many there have been, this one included.
    pub count: u64,
}

/// Which errors they are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// What a request took, and was denied, could not be given back.
    GiveBack,
    /// A shard could not be asked, or did not take back.
    Shard,
}

impl What {
    #[cfg(feature = "metrics")]
    const fn counter(self) -> &'static str {
        match self {
            Self::GiveBack => "sysd_ratelimit_give_back_errors_total",
            Self::Shard => "sysd_ratelimit_shard_errors_total",
        }
    }
}

/// Tells them: counts them, logs them, and keeps the last.
#[derive(Debug)]
pub(crate) struct Untold {
    what: What,
    limiter: String,
    last: Mutex<Option<UntoldError>>,
}

impl Untold {
    /// Of the limiter of this name.
    pub(crate) fn new(what: What, limiter: &str) -> Self {
        #[cfg(feature = "metrics")]
        match what {
            What::GiveBack => {
                metrics::describe_counter!(what.counter(), "Errors by which what was taken could not be given back.");
            }
            What::Shard => {
                metrics::describe_counter!(what.counter(), "Errors of shards by which no request ended.");
            }
        }
        Self { what, limiter: limiter.to_owned(), last: Mutex::new(None) }
    }

    pub(crate) fn note(&self, error: &Error) {
        let (kind, effect) = (error.kind(), error.effect());
        let count = {
            let mut last = self.last.lock();
            let count = last.map_or(0, |last| last.count) + 1;
            *last = Some(UntoldError { kind, effect, count });
            count
        };
        let limiter = &*self.limiter;
        // All are counted. In an outage each request has one: those of a power of two are written.
        if count.is_power_of_two() {
            match self.what {
                What::GiveBack => {
                    let what = "what a denied request had taken could not be given back";
                    tracing::warn!(limiter, %kind, %effect, count, "{what}");
                }
                What::Shard => tracing::warn!(limiter, %kind, %effect, count, "a shard of a limit could not be asked"),
            }
        }
        #[cfg(feature = "metrics")]
        {
            let effect = crate::error::effect_label(effect);
            let labels =
                [("limiter", limiter.to_owned()), ("kind", kind.name().to_owned()), ("effect", effect.to_owned())];
            metrics::counter!(self.what.counter(), &labels).increment(1);
        }
    }

    pub(crate) fn last(&self) -> Option<UntoldError> {
        *self.last.lock()
    }
}
