//! What the keepers of all modes share: how long they live, and what they say of calls that failed.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use sysd_core::tuple::KeyBytes;
use sysd_core::{Clock, Effect, Error, ErrorKind, Timestamp};

#[cfg(feature = "metrics")]
use crate::error::effect_label;

/// What a keeper looks after, round by round.
pub(super) trait Kept: Send + Sync + Sized + 'static {
    fn clock(&self) -> &impl Clock;

    /// How long it waits between two rounds.
    fn every(&self) -> Duration;

    /// A round; the last one, if it `ends`.
    fn round(this: &Arc<Self>, ends: bool) -> impl Future<Output = ()> + Send;
}

/// What the clones of a limiter share, with its keeper.
#[derive(Debug)]
pub(super) struct Shared<T> {
    of: Arc<T>,
    /// Held by limiters alone: the keeper ends with the last of them.
    user: Arc<()>,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { of: Arc::clone(&self.of), user: Arc::clone(&self.user) }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.of
    }
}

/// To be shared by a limiter's clones, and the keeper.
pub(super) fn share<T: Kept>(of: T) -> (Shared<T>, impl Future<Output = ()> + Send + use<T>) {
    let (of, user) = (Arc::new(of), Arc::new(()));
    let (kept, users) = (Arc::clone(&of), Arc::downgrade(&user));
    let keeper = async move {
        while users.strong_count() > 0 {
            let clock = kept.clock();
            clock.sleep_until(clock.now().saturating_add(kept.every())).await;
            T::round(&kept, false).await;
        }
        T::round(&kept, true).await;
    };
    (Shared { of, user }, keeper)
}

/// Whether a store that answers so is taken to answer nobody: a round ends then, for one that hangs would hold it for ever. Other errors
/// are those of one key.
pub(super) fn ends_round(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Throttled | ErrorKind::Full)
}

/// The last key, in the round's order, of those for which the store did not answer, by which a round ended before all were done: the next begins behind
/// it, and so behind all that were tried, so that none keeps another from its turn.
#[derive(Debug, Default)]
pub(super) struct EndedAt(Mutex<Option<KeyBytes>>);

impl EndedAt {
    pub(super) fn note(&self, key: KeyBytes) {
        *self.0.lock() = Some(key);
    }

    /// Turns what a round is to do.
    pub(super) fn turn<T>(&self, round: &mut [(KeyBytes, T)]) {
        let ended_at = self.0.lock().take();
        let last = ended_at.and_then(|key| round.iter().rposition(|(other, _)| *other == key));
        if let Some(last) = last {
            round.rotate_left(last + 1);
        }
    }
}

/// Makes the calls of a round, so many at once, until one tells of a store that answers nobody, and of which key: no other begins then, for one that
/// hangs would hold the round for ever. Those under way are waited for, no longer than a call may take: of one that is dropped nobody
/// would know whether it happened, and a breaker that tries the store by it would learn nothing. Those that did not begin are dropped. The last
/// key of those that fail so is noted: where many do, the next round would else begin with those that this one has tried.
pub(super) async fn until_outage<F: Future + Send>(
    calls: impl IntoIterator<Item = F, IntoIter: Send>,
    at_once: usize,
    ended_at: &EndedAt,
    mut tells: impl FnMut(F::Output) -> Option<KeyBytes> + Send,
) where
    F::Output: Send,
{
    let (mut calls, is_over) = (calls.into_iter().enumerate(), AtomicBool::new(false));
    let (mut under_way, mut last) = (FuturesUnordered::new(), None);
    loop {
        while under_way.len() < at_once
            && !is_over.load(Ordering::Relaxed)
            && let Some((at, call)) = calls.next()
        {
            under_way.push(unless(&is_over, call).map(move |done| (at, done)));
        }
        let Some((at, done)) = under_way.next().await else { return };
        if let Some(key) = done.and_then(&mut tells) {
            is_over.store(true, Ordering::Relaxed);
            if last.is_none_or(|last| last < at) {
                last = Some(at);
                ended_at.note(key);
            }
        }
    }
}

/// The call, if it begins before it is over.
async fn unless<F: Future>(is_over: &AtomicBool, call: F) -> Option<F::Output> {
    if is_over.load(Ordering::Relaxed) { None } else { Some(call.await) }
}

/// The last error of a store of which no request was told, because a keeper met with it. It names neither key nor server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeeperError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Whether the store may have done it all the same.
    pub effect: Effect,
    /// When, by the limiter's clock.
    pub at: Timestamp,
    /// How many there have been, this one included.
    pub count: u64,
}

/// The errors that a keeper met with.
#[derive(Debug)]
pub(super) struct Errors {
    #[cfg(feature = "metrics")]
    labels: [(&'static str, String); 2],
    last: Mutex<Option<KeeperError>>,
}

impl Errors {
    /// Of the limiter `name` in this `mode`.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables, reason = "they are labels"))]
    pub(super) fn new(mode: &'static str, name: &str) -> Self {
        #[cfg(feature = "metrics")]
        {
            metrics::describe_counter!(ERRORS, "Errors of the store that a keeper met with.");
            metrics::describe_counter!(LOST, "Tokens that a process took, did not use and could not give back.");
        }
        Self {
            #[cfg(feature = "metrics")]
            labels: [("limiter", name.to_owned()), ("mode", mode.to_owned())],
            last: Mutex::new(None),
        }
    }

    pub(super) fn note(&self, clock: &impl Clock, error: &Error) {
        let (kind, effect, at) = (error.kind(), error.effect(), clock.now());
        {
            let mut last = self.last.lock();
            let count = last.map_or(0, |last| last.count) + 1;
            *last = Some(KeeperError { kind, effect, at, count });
        }
        #[cfg(feature = "metrics")]
        {
            let of_error = [("kind", kind.name().to_owned()), ("effect", effect_label(effect).to_owned())];
            let labels: Vec<_> = self.labels.iter().cloned().chain(of_error).collect();
            metrics::counter!(ERRORS, &labels).increment(1);
        }
    }

    /// So many tokens are not given back; if the effect is unknown, they may have been.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables, clippy::unused_self, reason = "it is counted"))]
    pub(super) fn lost(&self, tokens: u32, effect: Effect) {
        #[cfg(feature = "metrics")]
        if tokens > 0 {
            let labels: Vec<_> =
                self.labels.iter().cloned().chain([("effect", effect_label(effect).to_owned())]).collect();
            metrics::counter!(LOST, &labels).increment(u64::from(tokens));
        }
    }

    pub(super) fn last(&self) -> Option<KeeperError> {
        *self.last.lock()
    }
}

#[cfg(feature = "metrics")]
const ERRORS: &str = "sysd_ratelimit_keeper_errors_total";
#[cfg(feature = "metrics")]
const LOST: &str = "sysd_ratelimit_keeper_lost_tokens_total";
