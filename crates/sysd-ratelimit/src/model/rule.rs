//! Several limits that a request must pass.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
#[cfg(feature = "policy")]
use sysd_core::Clock;
use sysd_core::Limits;

#[cfg(feature = "calendar")]
use super::calendar_window::CalendarWindow;
use super::decision::{Decision, Outcome};
use super::sliding_log::SLIDING_LOG_MAX;
use crate::algorithm::Limit;
use crate::error::RateLimitError;
use crate::schema::holds::holds_bytes_max;
use crate::schema::rules::record_bytes_max;
use crate::schema::sliding_log;

/// The most rules of a set.
pub const RULES_MAX: usize = 16;
/// The longest name of a rule, bytes.
pub const RULE_NAME_MAX: usize = 64;

/// By what a rule's state is known in a record of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RuleId(pub(crate) u32);

impl RuleId {
    /// The name's hash, FNV-1a of 32 bits (Fowler, Noll, Vo).
    fn of(name: &str) -> Self {
        Self(name.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
    }
}

/// A limit with a name.
///
/// The name is what its states are known by: a rule whose numbers change under the same name keeps them, one that gets
/// another name or another algorithm begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    name: Arc<str>,
    id: RuleId,
    limit: RuleLimit,
    is_billed: bool,
}

/// What a rule decides by.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleLimit {
    /// The same at any time.
    Limit(Limit),
    /// The calendar's windows.
    #[cfg(feature = "calendar")]
    Calendar(CalendarWindow),
}

impl RuleLimit {
    /// The limit as it is now.
    pub(crate) fn now(&self) -> Limit {
        match self {
            Self::Limit(limit) => *limit,
            #[cfg(feature = "calendar")]
            Self::Calendar(window) => window.span().into(),
        }
    }
}

impl<L: Into<Limit>> From<L> for RuleLimit {
    fn from(limit: L) -> Self {
        Self::Limit(limit.into())
    }
}

#[cfg(feature = "calendar")]
impl From<CalendarWindow> for RuleLimit {
    fn from(window: CalendarWindow) -> Self {
        Self::Calendar(window)
    }
}

impl Rule {
    /// The rule `name`.
    ///
    /// # Errors
    /// [`RateLimitError::RuleName`] for a name that is empty, longer than [`RULE_NAME_MAX`] bytes, or has other characters than
    /// those a header can quote: printable ASCII but `"` and `\`.
    pub fn new(name: &str, limit: impl Into<RuleLimit>) -> Result<Self, RateLimitError> {
        let is_quotable = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if name.is_empty() || name.len() > RULE_NAME_MAX || !name.bytes().all(is_quotable) {
            return Err(RateLimitError::RuleName { name: name.chars().take(RULE_NAME_MAX).collect() });
        }
        Ok(Self { name: name.into(), id: RuleId::of(name), limit: limit.into(), is_billed: false })
    }

    /// The same, of which somebody pays for what it admits: no mode that admits beyond it takes it.
    #[must_use]
    pub fn billed(self) -> Self {
        Self { is_billed: true, ..self }
    }

    /// Whether somebody pays for what it admits.
    pub fn is_billed(&self) -> bool {
        self.is_billed
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it decides by.
    pub fn by(&self) -> &RuleLimit {
        &self.limit
    }

    /// The limit as it is now.
    pub fn limit(&self) -> Limit {
        self.limit.now()
    }

    /// The same, its windows of the calendar worked out from another clock.
    #[cfg(feature = "policy")]
    pub(crate) fn by_clock(&self, clock: &(impl Clock + Clone)) -> Self {
        match &self.limit {
            RuleLimit::Limit(_) => self.clone(),
            #[cfg(feature = "calendar")]
            RuleLimit::Calendar(window) => Self { limit: window.by_clock(clock.clone()).into(), ..self.clone() },
        }
    }

    pub(crate) fn id(&self) -> RuleId {
        self.id
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Rules that are decided together, at least one and at most [`RULES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    rules: Arc<[Rule]>,
}

impl RuleSet {
    /// The set of `rules`.
    ///
    /// # Errors
    /// [`RateLimitError::RuleCount`] for none or too many, [`RateLimitError::RuleTwice`] for two that can't be told apart: of one
    /// name, or, which is one in four billion, of names with the same hash.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Result<Self, RateLimitError> {
        let rules: Arc<[Rule]> = rules.into_iter().collect();
        told_apart(rules.iter())?;
        Ok(Self { rules })
    }

    /// The rules, in their order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// Refuses rules that are no set: none, too many, or two that can't be told apart.
///
/// # Errors
/// As [`RuleSet::new`].
pub(crate) fn told_apart<'a>(mut rules: impl Iterator<Item = &'a Rule>) -> Result<(), RateLimitError> {
    let mut before: SmallVec<[&Rule; RULES_MAX]> = SmallVec::new();
    while let Some(rule) = rules.next() {
        if before.len() == RULES_MAX {
            return Err(RateLimitError::RuleCount { count: RULES_MAX + 1 + rules.count() });
        }
        if let Some(other) = before.iter().find(|other| other.id == rule.id) {
            let (name, other) = (rule.name.to_string(), other.name.to_string());
            return Err(RateLimitError::RuleTwice { name, other });
        }
        before.push(rule);
    }
    if before.is_empty() { Err(RateLimitError::RuleCount { count: 0 }) } else { Ok(()) }
}

/// Refuses rules whose states no record of a store takes.
///
/// # Errors
/// [`RateLimitError::RecordTooLarge`].
pub(crate) fn fit_record<'a>(
    rules: impl Iterator<Item = &'a Rule> + Clone,
    limits: &Limits,
) -> Result<(), RateLimitError> {
    fit_states(rules.map(|rule| (rule, rule.limit().state_bytes_max())), 0, limits)
}

/// The same where holds lie in the record too. A log then notes overruns beside what its limit admits.
///
/// # Errors
/// As [`fit_record`].
pub(crate) fn fit_holds(rules: &RuleSet, limits: &Limits) -> Result<(), RateLimitError> {
    let states = rules.rules().iter().map(|rule| {
        let most = match rule.limit() {
            Limit::SlidingLog(_) => sliding_log::state_bytes_max(SLIDING_LOG_MAX),
            limit => limit.state_bytes_max(),
        };
        (rule, most)
    });
    fit_states(states, holds_bytes_max(rules.rules().len()), limits)
}

/// Of the rules and their longest states, with so many bytes besides.
fn fit_states<'a>(
    states: impl Iterator<Item = (&'a Rule, usize)> + Clone,
    besides: usize,
    limits: &Limits,
) -> Result<(), RateLimitError> {
    let bytes = besides + record_bytes_max(states.clone().map(|(_, bytes)| bytes));
    let bytes_max = limits.value_bytes_max;
    if bytes <= bytes_max {
        return Ok(());
    }
    let others = states.clone().count().saturating_sub(1);
    let rule = states.max_by_key(|(_, bytes)| *bytes).map_or_else(String::new, |(rule, _)| rule.to_string());
    Err(RateLimitError::RecordTooLarge { rule, others, bytes, bytes_max })
}

/// What several rules decided on one request: it goes on only if all of them let it, and if one does not, none has taken
/// anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JointDecision {
    each: Vec<Decision>,
    bound_by: usize,
}

impl JointDecision {
    /// From the rules' own decisions, at least one.
    pub(crate) fn of(each: Vec<Decision>) -> Self {
        // Never, then the longest wait; where all allow, the smallest share that is left. The first of equals.
        let weight = |decision: &Decision| match decision.outcome() {
            Outcome::NeverAllowed => (2, u128::MAX),
            Outcome::Denied { retry_after } => (1, retry_after.as_micros()),
            Outcome::Allowed => {
                let share = (u128::from(decision.remaining()) << 32) / u128::from(decision.limit().max(1));
                (0, u128::MAX - share)
            }
        };
        let heavier = |best: usize, at: usize| if weight(&each[at]) > weight(&each[best]) { at } else { best };
        let bound_by = (1..each.len()).fold(0, heavier);
        Self { each, bound_by }
    }

    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        self.decision().is_allowed()
    }

    /// The decision of the rule that bound it: what the client is told. Its `retry_after` is the longest of all, so who waits
    /// it out is admitted by all, if nobody else took anything meanwhile.
    pub fn decision(&self) -> &Decision {
        &self.each[self.bound_by]
    }

    /// Which rule bound it, by its place: the one that denies it longest; if all allow it, the one with the smallest share left.
    pub fn bound_by(&self) -> usize {
        self.bound_by
    }

    /// Each rule's own decision, in the order in which they were asked. Of a denied request they say what is there, as nothing was
    /// taken, and a rule that would have allowed it says so. Where a [`JointLimiter`](crate::JointLimiter) asked several keys, that is
    /// each as it was when it was asked; what was taken and given back counts as there, but in `reset_after`. Rules that could not be asked
    /// are left out.
    pub fn each(&self) -> &[Decision] {
        &self.each
    }

    /// How long an allowed request must wait before it goes on: as long as the longest queue says. Zero for a denied one.
    pub fn wait(&self) -> Duration {
        if self.is_allowed() { self.each.iter().map(Decision::wait).max().unwrap_or_default() } else { Duration::ZERO }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::{Rate, TokenBucket};

    fn rule(name: &str) -> Result<Rule, RateLimitError> {
        Rule::new(name, TokenBucket::new(Rate::per_second(1).unwrap(), 1).unwrap())
    }

    #[test]
    fn a_name_can_stand_in_a_header() {
        let long = "x".repeat(RULE_NAME_MAX + 1);
        for name in ["", "a\"b", "a\\b", "a\nb", "é", &long] {
            assert!(matches!(rule(name), Err(RateLimitError::RuleName { .. })), "{name}");
        }
        assert_eq!(rule("per ip, a minute").unwrap().name(), "per ip, a minute");
        // The hash is stored: it must never change.
        assert_eq!(rule("foobar").unwrap().id(), RuleId(0xBF9C_F968));
    }

    #[test]
    fn a_set_has_some_rules_each_once() {
        assert_eq!(RuleSet::new([]), Err(RateLimitError::RuleCount { count: 0 }));
        let many = (0..=RULES_MAX).map(|at| rule(&at.to_string()).unwrap());
        assert_eq!(RuleSet::new(many), Err(RateLimitError::RuleCount { count: RULES_MAX + 1 }));
        let twice = RuleSet::new(["a", "b", "a"].map(|name| rule(name).unwrap()));
        assert_eq!(twice, Err(RateLimitError::RuleTwice { name: "a".to_owned(), other: "a".to_owned() }));
    }

    #[test]
    fn the_rule_that_binds_is_the_one_to_wait_for() {
        let denied = |seconds| {
            let outcome = Outcome::Denied { retry_after: Duration::from_secs(seconds) };
            Decision::new(outcome, 10, 0, 0)
        };
        let allowed = |limit, remaining| Decision::new(Outcome::Allowed, limit, remaining, 0);
        let never = Decision::new(Outcome::NeverAllowed, 1, 1, 0);
        for (each, bound_by) in [
            (vec![allowed(10, 5), allowed(1_000, 400)], 1),
            (vec![allowed(10, 5), allowed(100, 50)], 0),
            (vec![allowed(10, 0), denied(1), denied(3), denied(2)], 2),
            (vec![denied(3), never, denied(5)], 1),
        ] {
            assert_eq!(JointDecision::of(each.clone()).bound_by(), bound_by, "{each:?}");
        }
    }
}
