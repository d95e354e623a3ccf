//! What a new policy changes.

use std::fmt;

use super::{Compiled, PolicyRule};

/// What changes when one policy takes the place of another; it prints as a line for each change, none if there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The rules, those of the new policy in its order, then those that are gone.
    pub rules: Vec<RuleChange>,
    /// What is different about the policy as a whole.
    pub whole: Vec<WholeChange>,
}

/// What changes about a policy as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WholeChange {
    /// It has another name: all rules begin anew.
    Name,
    /// Clients are told apart in another way. Rules that count by `ip` begin anew if the prefix is another one; those that count by
    /// `api_key` don't if the header is: who sends the same key in the new one keeps its counts. A rule that counts by a header of that
    /// name begins anew where its values are now secret, or no longer, and so in keys by their digest or as they are.
    Clients,
    /// The allow list.
    Allow,
    /// The deny list.
    Deny,
}

/// What changes about a rule, which is named.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleChange {
    /// It is new.
    Added(String),
    /// It is gone; its states stay until they say nothing any more.
    Removed(String),
    /// It has other numbers, and keeps its states: nothing is reset and nothing given.
    Limit(String),
    /// It counts by another algorithm, and begins anew.
    Algorithm(String),
    /// It counts by another key, and begins anew.
    Key(String),
    /// It is for other requests, or something else about it is different; it keeps its states.
    Terms(String),
}

impl RuleChange {
    /// The rule's name.
    pub fn rule(&self) -> &str {
        match self {
            Self::Added(name)
            | Self::Removed(name)
            | Self::Limit(name)
            | Self::Algorithm(name)
            | Self::Key(name)
            | Self::Terms(name) => name,
        }
    }

    /// Whether a rule that was there forgets what it had counted.
    pub fn begins_anew(&self) -> bool {
        matches!(self, Self::Algorithm(_) | Self::Key(_))
    }
}

impl Changes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn between(old: &Compiled, new: &Compiled) -> Self {
        fn named<'a>(rules: &'a [PolicyRule], like: &PolicyRule) -> Option<&'a PolicyRule> {
            rules.iter().find(|rule| rule.rule.name() == like.rule.name())
        }
        let mut rules = Vec::new();
        for rule in &new.rules {
            match named(&old.rules, rule) {
                Some(before) => rules.extend(changes(before, rule)),
                None => rules.push(RuleChange::Added(rule.rule.name().to_owned())),
            }
        }
        let gone = old.rules.iter().filter(|rule| named(&new.rules, rule).is_none());
        rules.extend(gone.map(|rule| RuleChange::Removed(rule.rule.name().to_owned())));
        let whole = [
            (old.name != new.name, WholeChange::Name),
            (old.clients != new.clients, WholeChange::Clients),
            (old.allow != new.allow, WholeChange::Allow),
            (old.deny != new.deny, WholeChange::Deny),
        ];
        let whole = whole.into_iter().filter_map(|(is_so, change)| is_so.then_some(change)).collect();
        Self { rules, whole }
    }
}

fn changes(old: &PolicyRule, new: &PolicyRule) -> Vec<RuleChange> {
    let name = || new.rule.name().to_owned();
    let mut changes = Vec::new();
    let is_by_route = new.key.contains(&super::KeyPart::Route);
    // The routes are in the key, where it has the route.
    if old.key != new.key || is_by_route && old.routes != new.routes {
        changes.push(RuleChange::Key(name()));
    }
    if old.rule.limit().code() != new.rule.limit().code() {
        changes.push(RuleChange::Algorithm(name()));
    } else if old.rule.by() != new.rule.by() {
        changes.push(RuleChange::Limit(name()));
    }
    // All that is left: what is made alike otherwise is alike.
    let alike = PolicyRule { rule: new.rule.clone(), key: new.key.clone(), list: new.list, ..old.clone() };
    let alike = if is_by_route { PolicyRule { routes: new.routes.clone(), ..alike } } else { alike };
    if alike != *new {
        changes.push(RuleChange::Terms(name()));
    }
    changes
}

impl fmt::Display for RuleChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Added(_) => "is new",
            Self::Removed(_) => "is gone",
            Self::Limit(_) => "has another limit and keeps its counts",
            Self::Algorithm(_) => "has another algorithm and begins anew",
            Self::Key(_) => "counts by another key and begins anew",
            Self::Terms(_) => "is for other requests or on other terms, and keeps its counts",
        };
        write!(f, "rule {:?} {what}", self.rule())
    }
}

impl fmt::Display for WholeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the policy has another name: all rules begin anew",
            Self::Clients => "clients are told apart in another way",
            Self::Allow => "the allow list is different",
            Self::Deny => "the deny list is different",
        })
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.whole.iter().map(ToString::to_string);
        f.write_str(&whole.chain(self.rules.iter().map(ToString::to_string)).collect::<Vec<_>>().join("\n"))
    }
}
