//! One request under the rules of several keys.

use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Error, Key, Result, Store, StoreExt};

use crate::model::{Decision, JointDecision, RULES_MAX, Rule};
use crate::procedure::{GiveAll, TakeAll};
use crate::schema;
use crate::service::partition;

/// A key, and what the request takes from the rules that count by it. The rules of one key have names of their own.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// Who or what is counted.
    pub key: &'a [u8],
    /// The rules, each with its cost.
    pub rules: Vec<(&'a Rule, u32)>,
}

impl Ask<'_> {
    /// Why its rules can't be decided together.
    fn problem(&self) -> Option<String> {
        let count = self.rules.len();
        if count > RULES_MAX {
            return Some(format!("{count} rules of one key; give at most {RULES_MAX}"));
        }
        // One that is there twice would be taken from once.
        let twice = |at: usize| self.rules[..at].iter().find(|(before, _)| before.id() == self.rules[at].0.id());
        let (at, other) = (0..count).find_map(|at| Some((at, twice(at)?.0)))?;
        let name = self.rules[at].0.name();
        Some(format!(
            "rules {name:?} and {other:?} of one key can't be told apart; give each once",
            other = other.name()
        ))
    }
}

/// What happens to a request that a rule can't be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "policy", derive(serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum OnError {
    /// It passes: the limit fails open.
    #[default]
    Allow,
    /// It is refused: the limit fails closed.
    Deny,
}

/// What the rules of several keys came to.
#[derive(Debug)]
pub struct JointOutcome {
    /// The decision of the rules that were asked, in the order of the keys and of their rules: all if it was allowed, up to those
    /// of the key that denied it else. `None` if none could be asked.
    pub decision: Option<JointDecision>,
    /// The keys whose rules could not be asked, by their place, and why.
    pub errors: Vec<(usize, Error)>,
    /// Whether the request may go on.
    pub is_allowed: bool,
}

/// Rules of several keys on one store.
///
/// The rules of one key lie in one record and are decided at once. The keys are asked one after the other, in the order given; where one
/// denies, what those before it took is given back, so a request that is denied in the end takes nothing.
///
/// ```
/// use sysd_ratelimit::{Ask, FixedWindow, JointLimiter, Rule, TokenBucket};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let each = Rule::new("each client", TokenBucket::new("10/s".parse()?, 10)?)?;
/// let all = Rule::new("all clients", FixedWindow::new("1/h".parse()?))?;
/// let limiter = JointLimiter::new(Memory::new(), "api");
/// let ask = |key| [Ask { key, rules: vec![(&each, 1)] }, Ask { key: b"all", rules: vec![(&all, 1)] }];
/// assert!(limiter.check(&ask(b"ann")).await?.is_allowed());
///
/// let denied = limiter.check(&ask(b"bob")).await?;
/// assert_eq!(denied.bound_by(), 1);
/// let look = limiter.check(&[Ask { key: b"bob", rules: vec![(&each, 0)] }]).await?;
/// assert_eq!(look.decision().remaining(), 10, "bob's were given back");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - No rule ever admits more than its algorithm says, by all processes together.
/// - Between a take and its giving back another request may find too little and be denied: too much for a moment, never too little.
///   A bucket that would have been full for a part of that time is given back less, by so much (see [`GiveAll`]): ask the keys of one
///   client before those that many share, so that who floods beyond his own limit takes nothing from these.
/// - A reply that is lost, a process that dies between the two, a future that is dropped: what was taken stays taken. That may cost
///   a client tokens, and never gives any.
#[derive(Debug, Clone)]
pub struct JointLimiter<S> {
    store: S,
    prefix: KeyBytes,
}

impl<S: Store> JointLimiter<S> {
    /// The limiter `name` on `store`. It shares its states with a [`RuleLimiter`](crate::RuleLimiter) of the same name.
    pub fn new(store: S, name: &str) -> Self {
        Self { store, prefix: tuple::encode(&(name,)) }
    }

    /// Takes from the rules of every key, or gives back and denies.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check), of the first key that could not be asked; what was taken before is
    /// given back. [`Invalid`](sysd_core::ErrorKind::Invalid) if no rule is asked, or rules of a key are no [`RuleSet`](crate::RuleSet).
    ///
    /// # Cost
    /// An update a key; another for each key before the one that denies.
    ///
    /// # Cancel safety
    /// A future that is dropped may have taken from some keys; it never gives.
    pub async fn check(&self, asks: &[Ask<'_>]) -> Result<JointDecision> {
        let mut outcome = self.check_or(asks, |_, _| OnError::Deny).await;
        match (outcome.errors.pop(), outcome.decision) {
            (Some((_, error)), _) => Err(error),
            (None, Some(decision)) => Ok(decision),
            (None, None) => Err(Error::invalid("asks", "no rule was asked; give at least one key with one rule")),
        }
    }

    /// The same, where `on_error` chooses what becomes of a request when a key's rules can't be asked; it is given the key's place.
    /// Rules of a key that are no [`RuleSet`](crate::RuleSet), too many or one of them twice, are refused whatever it says, before any is
    /// asked.
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn check_or(&self, asks: &[Ask<'_>], on_error: impl Fn(usize, &Error) -> OnError + Send) -> JointOutcome {
        let mut problems = asks.iter().enumerate().filter_map(|(at, ask)| Some((at, ask.problem()?)));
        if let Some((at, problem)) = problems.next() {
            let errors = vec![(at, Error::invalid("asks", problem))];
            return JointOutcome { decision: None, errors, is_allowed: false };
        }
        check_or(&self.store, &self.prefix, asks, on_error).await
    }
}

/// [`JointLimiter::check_or`], of a limiter with this prefix.
pub(crate) async fn check_or<S: Store>(
    store: &S,
    prefix: &KeyBytes,
    asks: &[Ask<'_>],
    on_error: impl Fn(usize, &Error) -> OnError + Send,
) -> JointOutcome {
    let mut each: Vec<Decision> = Vec::new();
    let mut taken = Vec::new();
    let mut errors = Vec::new();
    let mut is_allowed = true;
    for (at, ask) in asks.iter().enumerate().filter(|(_, ask)| !ask.rules.is_empty()) {
        let partition = partition(prefix, ask.key);
        let take = TakeAll::new(ask.rules.iter().copied());
        match store.run(Key::lone(schema::RULES, &partition), &take).await {
            Ok(verdict) => {
                each.extend_from_slice(take.decision(&verdict).each());
                is_allowed = verdict.is_allowed();
                taken.extend(GiveAll::of(&take, &verdict).map(|give| (partition, give)));
            }
            Err(error) => {
                is_allowed = on_error(at, &error) == OnError::Allow;
                errors.push((at, error));
            }
        }
        if !is_allowed {
            break;
        }
    }
    if !is_allowed {
        for (partition, give) in taken {
            // Once: a second that follows a lost reply would give what was never taken.
            let _ = store.run(Key::lone(schema::RULES, &partition), &give).await;
        }
    }
    let decision = (!each.is_empty()).then(|| JointDecision::of(each));
    JointOutcome { decision, errors, is_allowed }
}
