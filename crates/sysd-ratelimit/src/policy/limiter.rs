//! A policy on a store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use sysd_core::breaker::BreakerConfig;
use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{AnyStore, Clock, Error, Key, Store, SystemClock};

#[cfg(feature = "metrics")]
use super::meter::{self, Meter};
use super::top::Top;
use super::{Changes, Group, Listing, MOST_LIMITED_MAX, Missing, OnError, Plan, Policy, RequestView};
use crate::defence::{Asking, Guard};
use crate::error::RateLimitError;
use crate::joint::{self, Joint, Records};
use crate::model::{Decision, JointDecision, RuleId};
use crate::schema;
use crate::service::partition;
use crate::untold::{Untold, What};

/// Decides on requests as a [`Policy`] says, with the states in a store. Any number of processes may share it.
///
/// ```
/// use sysd_ratelimit::policy::{Policy, PolicyLimiter, RequestView};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let policy = Policy::from_toml("limits.toml", r#"
///     name = "api"
///     [[rules]]
///     name = "each address"
///     key = "ip"
///     rate = "1/h"
/// "#)?;
/// let limiter = PolicyLimiter::new(Memory::new(), policy)?;
/// let headers = [("accept", "*/*")];
/// let peer = Some("192.0.2.1".parse()?);
/// let request = RequestView { method: "GET", path: "/", peer, user: None, headers: &headers };
/// assert!(limiter.check(&request).await.is_allowed());
///
/// let ruling = limiter.check(&request).await;
/// assert!(!ruling.is_allowed());
/// assert_eq!(ruling.rule().map(|rule| rule.rule().name()), Some("each address"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - Those of a [`JointLimiter`](crate::JointLimiter): no rule admits more than it says, and a request that one rule denies takes nothing from
///   the others.
/// - A store that does not answer never makes an error of a request: each rule's `on_error` says whether it passes, after
///   [`DEADLINE`](super::DEADLINE) or what [`with_deadline`](Self::with_deadline) and the policy say. A circuit breaker leaves a store alone
///   that keeps failing, and a stand-in can decide meanwhile: the table in `docs/ratelimit.md`, "A store that is slow or down".
/// - Only an outage opens ([`is_outage`](crate::is_outage)). What is wrong with the program, the set-up or the stored bytes does not
///   pass by itself, and refuses: [`Reason::Failed`].
/// - [`replace`](Self::replace) keeps the counts: a rule of the same name and algorithm goes on with what was taken.
#[derive(Debug)]
pub struct PolicyLimiter<S> {
    pub(super) store: S,
    pub(super) guard: Guard,
    current: RwLock<Arc<Current>>,
    /// Whom rules have denied.
    top: Mutex<Top<(RuleId, KeyBytes)>>,
}

#[derive(Debug)]
pub(super) struct Current {
    pub(super) policy: Policy,
    pub(super) prefix: KeyBytes,
    untold: Untold,
    #[cfg(feature = "metrics")]
    pub(super) meter: Meter,
}

impl Current {
    fn new(policy: Policy) -> Arc<Self> {
        Arc::new(Self {
            prefix: tuple::encode(&(policy.name(),)),
            untold: Untold::new(What::GiveBack, policy.name()),
            #[cfg(feature = "metrics")]
            meter: Meter::new(&policy),
            policy,
        })
    }
}

/// Why a request was ruled as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The client is on a list.
    Listed(Listing),
    /// It lacks a part of the key of a rule that demands it.
    Missing(Missing),
    /// The rules decided, those that could be asked; or no rule applied.
    Rules,
    /// Rules that could not be asked, for an outage of the store, fail closed.
    Unavailable,
    /// Rules could not be asked, and that is no outage but a mistake: of the program, of the store's set-up, or in what is stored.
    Failed,
}

/// What became of a request.
#[derive(Debug)]
pub struct Ruling {
    policy: Policy,
    is_allowed: bool,
    reason: Reason,
    each: Vec<(usize, Decision)>,
    bound_by: Option<usize>,
    would_deny: Vec<usize>,
    errors: Vec<Error>,
    not_given_back: Vec<Error>,
    has_failed_open: bool,
    has_stand_in_decided: bool,
}

impl Ruling {
    fn new(policy: Policy, is_allowed: bool, reason: Reason) -> Self {
        Self {
            policy,
            is_allowed,
            reason,
            each: Vec::new(),
            bound_by: None,
            would_deny: Vec::new(),
            errors: Vec::new(),
            not_given_back: Vec::new(),
            has_failed_open: false,
            has_stand_in_decided: false,
        }
    }

    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        self.is_allowed
    }

    /// Why.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The policy that it was ruled by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The decision of the rule that bound it, for the client's headers: `None` if no rule was asked, or if it was refused
    /// because one could not be.
    pub fn decision(&self) -> Option<&Decision> {
        self.bound_by.map(|at| &self.each[at].1)
    }

    /// The rule that bound it: that which denies it longest or, if all allow it, has the smallest share left; the one whose key it
    /// lacks a part of.
    pub fn rule(&self) -> Option<&super::PolicyRule> {
        let place = match (&self.reason, self.bound_by) {
            (Reason::Missing(missing), _) => missing.rule,
            (_, Some(at)) => self.each[at].0,
            (_, None) => return None,
        };
        self.policy.rules().get(place)
    }

    /// Every rule that was asked, by its place in [`Policy::rules`], and its own decision.
    pub fn each(&self) -> &[(usize, Decision)] {
        &self.each
    }

    /// How long an allowed request must wait before it goes on: as long as the longest queue says. Zero for one that is refused.
    pub fn wait(&self) -> Duration {
        let waits = self.each.iter().map(|(_, decision)| decision.wait());
        if self.is_allowed { waits.max().unwrap_or_default() } else { Duration::ZERO }
    }

    /// The shadow rules that would have refused it, by their places.
    pub fn would_deny(&self) -> &[usize] {
        &self.would_deny
    }

    /// Why the store could not be asked about rules, also where a stand-in was instead.
    pub fn errors(&self) -> &[Error] {
        &self.errors
    }

    /// Why what a refused request had taken could not be given back to some keys: it may be lost to them until their rules' own time has
    /// passed.
    pub fn not_given_back(&self) -> &[Error] {
        &self.not_given_back
    }

    /// Whether rules let it pass that nobody could be asked about.
    pub fn has_failed_open(&self) -> bool {
        self.has_failed_open
    }

    /// Whether the [stand-in](PolicyLimiter::with_stand_in) decided, at least on some of the rules.
    pub fn has_stand_in_decided(&self) -> bool {
        self.has_stand_in_decided
    }
}

impl<S: Store> PolicyLimiter<S> {
    /// Decides by `policy`, with the states in `store`.
    ///
    /// # Errors
    /// [`RateLimitError::RecordTooLarge`] if the store could not hold the states of all rules of a key in one record.
    pub fn new(store: S, policy: Policy) -> Result<Self, RateLimitError> {
        policy.fits(store.limits())?;
        #[cfg(feature = "metrics")]
        meter::describe();
        Ok(Self {
            store,
            guard: Guard::new(SystemClock),
            current: RwLock::new(Current::new(policy)),
            top: Mutex::new(Top::new(MOST_LIMITED_MAX)),
        })
    }

    /// Measures deadlines by `clock`; by the system's, if this is not called. It decides on no request: that is the store's clock.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.guard.clock = Arc::new(clock);
        self
    }

    /// How long a request waits for the store at most, all of its keys together, where the policy does not say;
    /// [`DEADLINE`](super::DEADLINE), if this is not called.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.guard.deadline = deadline;
        self
    }

    /// When to leave the store alone; as [`BreakerConfig::default`] says, if this is not called.
    #[must_use]
    pub fn with_breaker(mut self, config: BreakerConfig) -> Self {
        self.guard.set_breaker(config);
        self
    }

    /// Decides with `store` while the first one can't: by rules that fail open. It should be one in the process, as `sysd_storage::Memory`:
    /// when it is asked, the time to wait may be over, and then it must have its answer at once.
    ///
    /// Every process counts by itself meanwhile, so a key is granted at most what the rule grants once in each, beside what the first store has
    /// granted.
    ///
    /// ```
    /// use sysd_ratelimit::policy::{Policy, PolicyLimiter};
    /// use sysd_storage::Memory;
    ///
    /// # let redis = Memory::new();
    /// let policy = Policy::from_toml("limits.toml", "name = \"api\"")?;
    /// let limiter = PolicyLimiter::new(redis, policy)?.with_stand_in(Memory::new())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`new`](Self::new), for this store.
    pub fn with_stand_in(mut self, store: impl Store) -> Result<Self, RateLimitError> {
        self.policy().fits(store.limits())?;
        self.guard.stand_in = Some(AnyStore::new(store));
        Ok(self)
    }

    /// Whether the store is left alone, or asked by probes only.
    pub fn is_breaker_open(&self) -> bool {
        self.guard.is_open()
    }

    /// The policy that requests are ruled by now.
    pub fn policy(&self) -> Policy {
        self.current().policy.clone()
    }

    pub(super) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn top(&self) -> MutexGuard<'_, Top<(RuleId, KeyBytes)>> {
        self.top.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rules by another policy from here on, and says what that changes. Requests that are being asked about end under the old one.
    ///
    /// # Errors
    /// As [`new`](Self::new); then the old one stays in force.
    pub fn replace(&self, policy: Policy) -> Result<Changes, RateLimitError> {
        self.exchange(|_| Ok(policy))
    }

    /// Puts another policy in the place of the one that it is made from.
    pub(super) fn exchange(
        &self,
        make: impl FnOnce(&Policy) -> Result<Policy, RateLimitError>,
    ) -> Result<Changes, RateLimitError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let policy = make(&current.policy)?;
        policy.fits(self.store.limits())?;
        self.guard.stand_in.as_ref().map_or(Ok(()), |stand_in| policy.fits(stand_in.limits()))?;
        let changes = policy.changes(&current.policy);
        *current = Current::new(policy);
        Ok(changes)
    }

    /// Decides on a request.
    ///
    /// # Cost
    /// As a [`JointLimiter`](crate::JointLimiter): an update of each key, one after the other, those of the client alone first; where one denies,
    /// at the same time one more for each key before it and a look at each behind it. Then one for each shadow rule of a request that is
    /// allowed.
    ///
    /// # Cancel safety
    /// A future that is dropped may have taken from some rules; it never gives.
    pub async fn check(&self, request: &RequestView<'_>) -> Ruling {
        let current = self.current();
        #[cfg(feature = "metrics")]
        let begun = self.guard.clock.steady();
        let ruling = self.rule_on(&current, request).await;
        ruling.not_given_back.iter().for_each(|error| current.untold.note(error));
        #[cfg(feature = "metrics")]
        current.meter.record(request, &ruling, self.guard.clock.steady().saturating_sub(begun), &self.guard);
        ruling
    }

    async fn rule_on(&self, current: &Current, request: &RequestView<'_>) -> Ruling {
        let (policy, prefix) = (current.policy.clone(), &current.prefix);
        let (groups, shadows, shadow_missing) = match policy.plan(request) {
            Plan::Listed { listing, .. } => {
                return Ruling::new(policy, listing == Listing::Allow, Reason::Listed(listing));
            }
            Plan::Missing(missing) => return Ruling::new(policy, false, Reason::Missing(missing)),
            Plan::Rules { groups, shadows, shadow_missing } => (groups, shadows, shadow_missing),
        };
        let closed = self.closed(&policy, prefix, &groups);
        let wait_max = policy.deadline().unwrap_or(self.guard.deadline);
        let records = Asking::new(&self.store, &self.guard, wait_max, &closed);
        let mut ruling = Self::enforce(&records, policy, prefix, &groups).await;
        if ruling.is_allowed {
            ruling.would_deny.extend(shadow_missing.iter().map(|missing| missing.rule));
            for shadow in &shadows {
                Self::observe(&records, &mut ruling, prefix, shadow).await;
            }
        } else {
            self.count_denials(&ruling, &groups);
        }
        let (has_stand_in_decided, errors) = records.into_stood_in();
        ruling.has_stand_in_decided = has_stand_in_decided;
        ruling.errors.extend(errors);
        ruling
    }

    /// Where the rules lie that fail closed: for them no stand-in speaks.
    fn closed(&self, policy: &Policy, prefix: &KeyBytes, groups: &[Group]) -> Vec<KeyBytes> {
        if self.guard.stand_in.is_none() {
            return Vec::new();
        }
        groups.iter().filter(|group| policy.fails_closed(group)).map(|group| partition(prefix, &group.key)).collect()
    }

    fn count_denials(&self, ruling: &Ruling, groups: &[Group]) {
        let has_denied = |place| ruling.each.iter().any(|(other, decision)| *other == place && !decision.is_allowed());
        for group in groups {
            for (place, _) in group.rules.iter().filter(|(place, _)| has_denied(*place)) {
                self.top().count(&(ruling.policy.rules()[*place].rule().id(), group.key.clone()));
            }
        }
    }

    async fn enforce(records: &impl Records, policy: Policy, prefix: &KeyBytes, groups: &[Group]) -> Ruling {
        let outcome = {
            let rules = policy.rules();
            let of = |&(place, cost): &(usize, u32)| (rules[place].rule(), cost);
            let takes = groups.iter().map(|group| (&group.key[..], group.take(group.rules.iter().map(of))));
            let joint = Joint::new(prefix, takes);
            let on_error = |at: usize, _: &Error| {
                if policy.fails_closed(&groups[at]) { OnError::Deny } else { OnError::Allow }
            };
            joint.check_or(records, on_error).await
        };
        let failed: Vec<_> = outcome.errors.iter().map(|(at, _)| *at).collect();
        let is_unavailable = !outcome.is_allowed && outcome.decision.as_ref().is_none_or(JointDecision::is_allowed);
        let is_mistake = outcome.errors.iter().any(|(_, error)| !joint::is_outage(error));
        let reason = match (is_unavailable, is_mistake) {
            (false, _) => Reason::Rules,
            (true, false) => Reason::Unavailable,
            (true, true) => Reason::Failed,
        };
        let mut ruling = Ruling::new(policy, outcome.is_allowed, reason);
        if let Some(joint) = outcome.decision {
            let asked = groups.iter().enumerate().filter(|(at, _)| !failed.contains(at));
            let places = asked.flat_map(|(_, group)| group.rules.iter().map(|&(place, _)| place));
            ruling.each = places.zip(joint.each().iter().copied()).collect();
            // Those that could be asked allowed it: they are not why it is refused.
            ruling.bound_by = (!is_unavailable).then_some(joint.bound_by());
        }
        ruling.has_failed_open = outcome.is_allowed && !outcome.errors.is_empty();
        ruling.errors = outcome.errors.into_iter().map(|(_, error)| error).collect();
        ruling.not_given_back = outcome.not_given_back.into_iter().map(|(_, error)| error).collect();
        ruling
    }

    /// Asks shadow rules, each for itself: one that would deny takes nothing, and stops no other.
    async fn observe(records: &impl Records, ruling: &mut Ruling, prefix: &KeyBytes, shadow: &Group) {
        let partition = partition(prefix, &shadow.key);
        for &(place, cost) in &shadow.rules {
            let take = shadow.take([(ruling.policy.rules()[place].rule(), cost)]);
            match records.ask(Key::lone(schema::RULES, &partition), &take).await {
                Ok(verdict) if verdict.is_allowed() => {}
                Ok(_) => ruling.would_deny.push(place),
                Err(error) => ruling.errors.push(error),
            }
        }
    }
}

impl Policy {
    /// Whether one of the rules of this key does, and so all of it.
    fn fails_closed(&self, group: &Group) -> bool {
        group.rules.iter().any(|&(place, _)| self.rules()[place].on_error() == OnError::Deny)
    }
}
