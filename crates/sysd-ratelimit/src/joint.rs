//! One request under the rules of several keys.

use std::future::Future;

use futures::future::join_all;
use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Effect, Error, ErrorKind, Key, Limits, Procedure, Result, Store, StoreExt as _};

use crate::model::{Decision, JointDecision, RULES_MAX, Rule, fit_record};
use crate::procedure::{GiveAll, JointVerdict, TakeAll};
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
    fn problem(&self, limits: &Limits) -> Option<Error> {
        let count = self.rules.len();
        if count > RULES_MAX {
            return Some(Error::invalid("asks", format!("{count} rules of one key; give at most {RULES_MAX}")));
        }
        // One that is there twice would be taken from once.
        let twice = |at: usize| self.rules[..at].iter().find(|(before, _)| before.id() == self.rules[at].0.id());
        if let Some((at, (other, _))) = (0..count).find_map(|at| Some((at, twice(at)?))) {
            let (name, other) = (self.rules[at].0.name(), other.name());
            let problem = format!("rules {name:?} and {other:?} of one key can't be told apart; give each once");
            return Some(Error::invalid("asks", problem));
        }
        let too_large = fit_record(self.rules.iter().map(|(rule, _)| *rule), limits).err()?;
        Some(Error::new(ErrorKind::TooLarge, Effect::None, too_large.to_string()).with_field("asks"))
    }
}

/// What happens to a request that a rule can't be asked about, for an outage of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "policy", derive(serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum OnError {
    /// It passes: the limit fails open.
    #[default]
    Allow,
    /// It is refused: the limit fails closed.
    Deny,
}

/// Whether an error is an outage: the store can't be reached, is slow, crowded or full, and the same question may find it well. Any
/// other is a mistake: of the program, of the set-up, or in what is stored; to let requests pass would be to have no limit.
pub fn is_outage(error: &Error) -> bool {
    error.kind().is_transient() || error.kind() == ErrorKind::Full
}

/// What the rules of several keys came to.
#[derive(Debug)]
pub struct JointOutcome {
    /// The decision of the rules that could be asked, in the order of the keys and of their rules; of a denied request too those of
    /// all keys. `None` if none could be asked.
    pub decision: Option<JointDecision>,
    /// The keys whose rules could not be asked, by their place, and why.
    pub errors: Vec<(usize, Error)>,
    /// Whether the request may go on.
    pub is_allowed: bool,
}

/// Rules of several keys on one store.
///
/// The rules of one key lie in one record and are decided at once. A request that asks several keys looks at all of them first, at
/// the same time: if one would deny it, it is denied, and has taken nothing from any. Then it takes, one key after the other, in the
/// order given. Where another request was quicker and a key denies after all, what those before it took is given back.
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
/// - A request that a rule denies takes nothing from the others, but where two requests race for what only one can have: both are
///   let through by the look, and the slower one gives back. Meanwhile a third may find too little and be denied: too much for a
///   moment, never too little. A bucket that would have been full for a part of that time is given back less, by so
///   much (see [`GiveAll`]).
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

    /// Takes from the rules of every key, or from none and denies.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check), of the first key that could not be asked, unless one before it denies; what
    /// was taken before is given back. [`Invalid`](sysd_core::ErrorKind::Invalid) if no rule is asked, or rules of a key are no
    /// [`RuleSet`](crate::RuleSet).
    ///
    /// # Cost
    /// One key: an update. Several: a look at each, all at the same time, and where they allow it an update of each, one after the
    /// other; so a denied request costs one round trip. After a lost race one more for each key before the one that denies.
    ///
    /// # Cancel safety
    /// A future that is dropped may have taken from some keys; it never gives.
    pub async fn check(&self, asks: &[Ask<'_>]) -> Result<JointDecision> {
        let outcome = self.check_or(asks, |_, _| OnError::Deny).await;
        let Some((at, error)) = outcome.errors.into_iter().next() else {
            let nothing = || Error::invalid("asks", "no rule was asked; give at least one key with one rule");
            return outcome.decision.ok_or_else(nothing);
        };
        // Those of the keys before it, which stand where the caller looks for them.
        let before: usize = asks[..at].iter().map(|ask| ask.rules.len()).sum();
        let each = outcome.decision.as_ref().map_or(&[][..], |joint| &joint.each()[..before.min(joint.each().len())]);
        if each.iter().all(Decision::is_allowed) { Err(error) } else { Ok(JointDecision::of(each.to_vec())) }
    }

    /// The same, where `on_error` chooses what becomes of a request when a key's rules can't be asked; it is given the key's place. A key
    /// that could not be looked at and lets the request pass is not asked again.
    ///
    /// It is asked about outages only ([`is_outage`]). Other errors refuse the request whatever it would say, as they don't pass: stored
    /// bytes that are no state, missing rights, a key that is too long. So are, before any is asked, rules of a key that are no
    /// [`RuleSet`](crate::RuleSet), too many or one of them twice, or that the store can't hold in one record.
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn check_or(
        &self,
        asks: &[Ask<'_>],
        on_error: impl Fn(usize, &Error) -> OnError + Send + Sync,
    ) -> JointOutcome {
        let limits = self.store.limits();
        let mut problems = asks.iter().enumerate().filter_map(|(at, ask)| Some((at, ask.problem(limits)?)));
        if let Some(problem) = problems.next() {
            return JointOutcome { decision: None, errors: vec![problem], is_allowed: false };
        }
        let takes = asks.iter().map(|ask| (ask.key, TakeAll::new(ask.rules.iter().copied())));
        Joint::new(&self.prefix, takes).check_or(&self.store, on_error).await
    }
}

/// Where states lie, and how they are asked.
pub(crate) trait Records: Sync {
    /// Runs a procedure on a record.
    fn ask<P: Procedure>(&self, key: Key<'_>, procedure: &P) -> impl Future<Output = Result<P::Output>> + Send;

    /// Gives back to a record that has been asked.
    fn give(&self, key: Key<'_>, give: &GiveAll) -> impl Future<Output = Result<u8>> + Send;
}

/// A store, as it is.
impl<S: Store> Records for S {
    async fn ask<P: Procedure>(&self, key: Key<'_>, procedure: &P) -> Result<P::Output> {
        self.run(key, procedure).await
    }

    async fn give(&self, key: Key<'_>, give: &GiveAll) -> Result<u8> {
        self.run(key, give).await
    }
}

/// What one key is asked.
struct Asked {
    /// Its place.
    at: usize,
    partition: KeyBytes,
    take: TakeAll,
    /// What its rules said last; `None` if they could not be asked.
    decisions: Option<Vec<Decision>>,
}

impl Asked {
    async fn run(&self, records: &impl Records, take: &TakeAll) -> Result<JointVerdict> {
        records.ask(Key::lone(schema::RULES, &self.partition), take).await
    }
}

/// A request under way.
pub(crate) struct Joint {
    asked: Vec<Asked>,
    errors: Vec<(usize, Error)>,
    is_allowed: bool,
}

impl Joint {
    /// To ask these keys, of a limiter with this prefix.
    pub(crate) fn new<'a>(prefix: &KeyBytes, takes: impl Iterator<Item = (&'a [u8], TakeAll)>) -> Self {
        let asked = takes.enumerate().filter(|(_, (_, take))| !take.is_empty());
        let asked =
            asked.map(|(at, (key, take))| Asked { at, partition: partition(prefix, key), take, decisions: None });
        Self { asked: asked.collect(), errors: Vec::new(), is_allowed: true }
    }

    /// As [`JointLimiter::check_or`].
    pub(crate) async fn check_or(
        mut self,
        records: &impl Records,
        on_error: impl Fn(usize, &Error) -> OnError + Send + Sync,
    ) -> JointOutcome {
        // A key alone gives back nothing.
        if self.asked.len() > 1 {
            self.look(records, &on_error).await;
        }
        if self.is_allowed {
            self.take(records, &on_error).await;
        }
        self.outcome()
    }

    /// Asks all keys at once whether they would allow it, and takes nothing.
    async fn look(&mut self, records: &impl Records, on_error: &(impl Fn(usize, &Error) -> OnError + Send + Sync)) {
        let looks: Vec<_> = self.asked.iter().map(|asked| asked.take.clone().look()).collect();
        let verdicts = join_all(self.asked.iter().zip(&looks).map(|(asked, look)| asked.run(records, look))).await;
        for ((asked, look), verdict) in self.asked.iter_mut().zip(&looks).zip(verdicts) {
            match verdict {
                Ok(verdict) => {
                    asked.decisions = Some(look.decision(&verdict).each().to_vec());
                    self.is_allowed &= verdict.is_allowed();
                }
                Err(error) => {
                    self.is_allowed &= is_outage(&error) && on_error(asked.at, &error) == OnError::Allow;
                    self.errors.push((asked.at, error));
                }
            }
        }
    }

    /// Takes from one key after the other, or gives back what was taken.
    async fn take(&mut self, records: &impl Records, on_error: &(impl Fn(usize, &Error) -> OnError + Send + Sync)) {
        // Those that failed open when they were looked at pass: the request has waited for them once.
        let is_open: Vec<_> = self.errors.iter().map(|(at, _)| *at).collect();
        let mut taken = Vec::new();
        for place in 0..self.asked.len() {
            let asked = &self.asked[place];
            if is_open.contains(&asked.at) {
                continue;
            }
            match asked.run(records, &asked.take).await {
                Ok(verdict) => {
                    let decisions = asked.take.decision(&verdict).each().to_vec();
                    let give = GiveAll::of(&asked.take, &verdict);
                    self.is_allowed = verdict.is_allowed();
                    let before = self.asked[place].decisions.replace(decisions);
                    taken.extend(give.map(|give| (place, give, before)));
                }
                Err(error) => {
                    self.is_allowed = is_outage(&error) && on_error(asked.at, &error) == OnError::Allow;
                    self.errors.push((asked.at, error));
                    self.asked[place].decisions = None;
                }
            }
            if !self.is_allowed {
                break;
            }
        }
        if self.is_allowed {
            return;
        }
        for (place, give, before) in taken {
            // Once: a second that follows a lost reply would give what was never taken.
            let key = Key::lone(schema::RULES, &self.asked[place].partition);
            let _ = records.give(key, &give).await;
            self.asked[place].decisions = before;
        }
    }

    fn outcome(self) -> JointOutcome {
        let mut errors = self.errors;
        errors.sort_by_key(|(at, _)| *at);
        let each: Vec<_> = self.asked.into_iter().filter_map(|asked| asked.decisions).flatten().collect();
        let decision = (!each.is_empty()).then(|| JointDecision::of(each));
        JointOutcome { decision, errors, is_allowed: self.is_allowed }
    }
}
