//! A policy on a store.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Error, Key, Store, StoreExt as _};

use super::{Changes, Group, Listing, Missing, OnError, Plan, Policy, RequestView};
use crate::error::RateLimitError;
use crate::joint::{self, Joint};
use crate::model::{Decision, JointDecision};
use crate::schema;
use crate::service::partition;

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
/// - A store that does not answer never makes an error of a request: each rule's `on_error` says whether it passes. How long to
///   wait is the store's to say: put a timeout and a breaker around it (`sysd_storage::layer`).
/// - Only an outage opens ([`is_outage`](crate::is_outage)). What is wrong with the program, the set-up or the stored bytes does not
///   pass by itself, and refuses: [`Reason::Failed`].
/// - [`replace`](Self::replace) keeps the counts: a rule of the same name and algorithm goes on with what was taken.
#[derive(Debug)]
pub struct PolicyLimiter<S> {
    store: S,
    current: RwLock<Arc<Current>>,
}

#[derive(Debug)]
struct Current {
    policy: Policy,
    prefix: KeyBytes,
}

impl Current {
    fn new(policy: Policy) -> Arc<Self> {
        let prefix = tuple::encode(&(policy.name(),));
        Arc::new(Self { policy, prefix })
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
}

impl Ruling {
    fn new(policy: Policy, is_allowed: bool, reason: Reason) -> Self {
        let (each, would_deny, errors) = (Vec::new(), Vec::new(), Vec::new());
        Self { policy, is_allowed, reason, each, bound_by: None, would_deny, errors }
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

    /// Why rules could not be asked.
    pub fn errors(&self) -> &[Error] {
        &self.errors
    }
}

impl<S: Store> PolicyLimiter<S> {
    /// Decides by `policy`, with the states in `store`.
    ///
    /// # Errors
    /// [`RateLimitError::RecordTooLarge`] if the store could not hold the states of all rules of a key in one record.
    pub fn new(store: S, policy: Policy) -> Result<Self, RateLimitError> {
        policy.fits(store.limits())?;
        Ok(Self { store, current: RwLock::new(Current::new(policy)) })
    }

    /// The policy that requests are ruled by now.
    pub fn policy(&self) -> Policy {
        self.current().policy.clone()
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Rules by another policy from here on, and says what that changes. Requests that are being asked about end under the old one.
    ///
    /// # Errors
    /// As [`new`](Self::new); then the old one stays in force.
    pub fn replace(&self, policy: Policy) -> Result<Changes, RateLimitError> {
        policy.fits(self.store.limits())?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changes = policy.changes(&current.policy);
        *current = Current::new(policy);
        Ok(changes)
    }

    /// Decides on a request.
    ///
    /// # Cost
    /// As a [`JointLimiter`](crate::JointLimiter): one key, an update; several, a look at all of them at the same time and, unless one
    /// denies, an update of each, one after the other. Then one more for each shadow rule of a request that is allowed.
    ///
    /// # Cancel safety
    /// A future that is dropped may have taken from some rules; it never gives.
    pub async fn check(&self, request: &RequestView<'_>) -> Ruling {
        let current = self.current();
        let (policy, prefix) = (current.policy.clone(), &current.prefix);
        let (groups, shadows, shadow_missing) = match policy.plan(request) {
            Plan::Listed { listing, .. } => {
                return Ruling::new(policy, listing == Listing::Allow, Reason::Listed(listing));
            }
            Plan::Missing(missing) => return Ruling::new(policy, false, Reason::Missing(missing)),
            Plan::Rules { groups, shadows, shadow_missing } => (groups, shadows, shadow_missing),
        };
        let mut ruling = self.enforce(policy, prefix, &groups).await;
        if ruling.is_allowed {
            ruling.would_deny.extend(shadow_missing.iter().map(|missing| missing.rule));
            for shadow in &shadows {
                self.observe(&mut ruling, prefix, shadow).await;
            }
        }
        ruling
    }

    async fn enforce(&self, policy: Policy, prefix: &KeyBytes, groups: &[Group]) -> Ruling {
        let outcome = {
            let rules = policy.rules();
            let of = |&(place, cost): &(usize, u32)| (rules[place].rule(), cost);
            let takes = groups.iter().map(|group| (&group.key[..], group.take(group.rules.iter().map(of))));
            let joint = Joint::new(prefix, takes);
            let fails_closed = |place: usize| rules[place].on_error() == OnError::Deny;
            let on_error = |at: usize, _: &Error| {
                let is_closed = groups[at].rules.iter().any(|&(place, _)| fails_closed(place));
                if is_closed { OnError::Deny } else { OnError::Allow }
            };
            joint.check_or(&self.store, on_error).await
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
        ruling.errors = outcome.errors.into_iter().map(|(_, error)| error).collect();
        ruling
    }

    /// Asks shadow rules, each for itself: one that would deny takes nothing, and stops no other.
    async fn observe(&self, ruling: &mut Ruling, prefix: &KeyBytes, shadow: &Group) {
        let partition = partition(prefix, &shadow.key);
        for &(place, cost) in &shadow.rules {
            let take = shadow.take([(ruling.policy.rules()[place].rule(), cost)]);
            match self.store.run(Key::lone(schema::RULES, &partition), &take).await {
                Ok(verdict) if verdict.is_allowed() => {}
                Ok(_) => ruling.would_deny.push(place),
                Err(error) => ruling.errors.push(error),
            }
        }
    }
}
