//! Who decides on a request: a limit, or a policy and perhaps another to compare with it.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;
use std::time::{Duration, Instant};

use sysd::core::{ManualClock, Result, Store};
#[cfg(feature = "policy")]
use sysd::ratelimit::Policy;
use sysd::ratelimit::{Limit, RateLimiter};

use super::feed::{Batch, Wanted};
#[cfg(feature = "policy")]
use super::policies::Policies;

/// What is to decide.
#[derive(Clone, Debug)]
pub(crate) enum Decides {
    /// A limit for every key.
    Limit(Limit),
    /// A policy, and one to compare with it.
    #[cfg(feature = "policy")]
    Policies { first: Policy, candidate: Option<Policy> },
}

impl Decides {
    /// The judge of a lane.
    ///
    /// # Errors
    /// In words: what of a policy the store can't hold.
    pub(crate) fn judge<S: Store + Clone>(
        &self,
        store: S,
        clock: &ManualClock,
        name: &str,
    ) -> Result<Judge<S>, String> {
        #[cfg(not(feature = "policy"))]
        let _ = clock;
        match self {
            Self::Limit(limit) => Ok(Judge::Limit(RateLimiter::new(store, name, *limit))),
            #[cfg(feature = "policy")]
            Self::Policies { first, candidate } => {
                Ok(Judge::Policies(Box::new(Policies::new(&store, clock, name, first, candidate.as_ref())?)))
            }
        }
    }

    /// What it must be told of a request, by which `Key` it is limited otherwise.
    pub(crate) fn wanted(&self, by: super::KeyBy) -> Wanted {
        match self {
            Self::Limit(_) => Wanted::Key(by),
            #[cfg(feature = "policy")]
            Self::Policies { .. } => Wanted::Parts,
        }
    }
}

/// A verdict, and by what a request was denied: the place of a rule, or the one behind them for the deny list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) is_allowed: bool,
    pub(crate) cause: Option<usize>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    /// What the other policy says.
    pub(crate) candidate: Option<Verdict>,
    /// The shadow rules that would have denied it.
    pub(crate) would_deny: Vec<usize>,
    /// Without what the other policy took.
    pub(crate) took: Duration,
}

/// Decides on requests.
#[derive(Debug)]
pub(crate) enum Judge<S> {
    Limit(RateLimiter<S, Limit>),
    #[cfg(feature = "policy")]
    Policies(Box<Policies<S>>),
}

impl<S: Store> Judge<S> {
    /// Decides on a request of a batch.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) async fn judge(&self, batch: &Batch, index: usize) -> Result<Judged> {
        match self {
            Self::Limit(limiter) => {
                let start = Instant::now();
                let is_allowed = limiter.check(batch.key(index), 1).await?.is_allowed();
                let verdict = Verdict { is_allowed, cause: None };
                Ok(Judged { verdict, candidate: None, would_deny: Vec::new(), took: start.elapsed() })
            }
            #[cfg(feature = "policy")]
            Self::Policies(policies) => policies.judge(batch, index).await,
        }
    }

    /// Deals a batch out to lanes, so that requests that share a key are on one, in their order.
    pub(crate) fn deal(&self, batch: &Batch, lanes: usize) -> Vec<Vec<usize>> {
        match self {
            Self::Limit(_) => {
                let mut dealt = vec![Vec::new(); lanes];
                for index in 0..batch.len() {
                    dealt[lane_of(batch.key(index), lanes)].push(index);
                }
                dealt
            }
            #[cfg(feature = "policy")]
            Self::Policies(policies) => policies.deal(batch, lanes),
        }
    }
}

/// Always the same for a key.
fn lane_of(key: &[u8], lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    usize::try_from(hasher.finish() % lanes as u64).unwrap_or_default()
}
