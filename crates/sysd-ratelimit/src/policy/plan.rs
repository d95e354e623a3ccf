//! Which rules apply to a request, and by which keys.

use std::sync::Arc;

use sysd_core::tuple::KeyBytes;

use super::client::Client;
use super::key::{Asked, KeyPart, Keyed};
use super::request::RequestView;
use super::route::Path;
use super::{Compiled, Lists, Policy, PolicyRule, WhenMissing};
use crate::model::{Rule, RuleId};
use crate::procedure::TakeAll;
use crate::schema::policy::sha256;

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The client is on a list: nothing is asked and nothing counted.
    Listed {
        /// On which one.
        listing: Listing,
        /// The place of the entry on that list.
        entry: usize,
    },
    /// It lacks a part of the key of a rule whose `missing` is [`Deny`](WhenMissing::Deny): to be refused, nothing counted.
    Missing(Missing),
    /// To be asked about at these rules.
    Rules {
        /// The rules by their keys, in the order in which to take: first the keys of this client alone, then those that others have
        /// too, so that who races with himself for a limit of his own takes nothing of theirs, not for a moment; of both sorts those
        /// of high priority first. The request may go on if all of them allow it; there may be none.
        groups: Vec<Group>,
        /// Rules that only count: whatever they say, the request goes on.
        shadows: Vec<Group>,
        /// What shadow rules would have refused it for.
        shadow_missing: Vec<Missing>,
    },
}

/// On which list a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listing {
    /// The request passes.
    Allow,
    /// It is refused.
    Deny,
}

/// Rules that count a request by one key: their states lie in one record, and they are decided together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The key, of at most [`KEY_MAX`](super::KEY_MAX) bytes; different for whatever differs in kind or value.
    pub key: KeyBytes,
    /// The place of each rule in [`Policy::rules`] and what the request costs it, those of high priority first. At least one, at
    /// most [`RULES_MAX`](crate::RULES_MAX).
    pub rules: Vec<(usize, u32)>,
    /// All rules whose states lie in the record.
    in_force: Option<Arc<[RuleId]>>,
}

impl Group {
    /// What to ask of the key's record, about some of its rules.
    pub(super) fn take<'a>(&self, rules: impl IntoIterator<Item = (&'a Rule, u32)>) -> TakeAll {
        TakeAll::new(rules).with_in_force(self.in_force.clone())
    }
}

/// A part of a rule's key that a request lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The rule's place in [`Policy::rules`].
    pub rule: usize,
    /// What it lacks; the first, if more than one.
    pub part: KeyPart,
}

impl Policy {
    /// What to do with the request.
    ///
    /// Who is on both lists is denied. A client of whom no more is known than which trusted proxy speaks for it is not allowed by its
    /// address.
    ///
    /// # Cost
    /// No waiting. The client's address is looked for among the networks of the proxies, for each entry of the forwarding header, and
    /// then of both lists, one after the other. Every rule's routes are held against the path, a step a pattern and segment, but for those
    /// that a `final` rule ends. For each key that the request is counted by some hundred bytes are written, and a SHA-256 is
    /// computed of an API key, of a header that holds a secret, of a value longer than 256 bytes and of a key longer than
    /// [`KEY_MAX`](super::KEY_MAX), as often as they are in a key; and once where a list holds API keys.
    pub fn plan(&self, request: &RequestView<'_>) -> Plan {
        let policy = &*self.compiled;
        let client = policy.clients.proxies.client(request);
        let asked = Asked {
            request,
            address: client.map(|client| client.address),
            ipv4_prefix: policy.clients.ipv4_prefix,
            ipv6_prefix: policy.clients.ipv6_prefix,
            api_key_header: &policy.clients.api_key_header,
        };
        if let Some(entry) = policy.deny.find(&asked, client) {
            return Plan::Listed { listing: Listing::Deny, entry };
        }
        if let Some(entry) = policy.allow.find(&asked, client.filter(|client| client.is_certain)) {
            return Plan::Listed { listing: Listing::Allow, entry };
        }
        policy.plan(&asked)
    }
}

/// What the rules of one sort, in force or shadows, come to.
#[derive(Default)]
struct Picked {
    /// First those whose key is the client's own.
    groups: Vec<Group>,
    /// How many those are.
    own: usize,
    missing: Vec<Missing>,
    /// Rules of lower priority do not apply.
    floor: Option<i32>,
}

impl Compiled {
    fn plan(&self, asked: &Asked<'_>) -> Plan {
        let path = Path::new(asked.request.path);
        let (mut forced, mut shadows) = (Picked::default(), Picked::default());
        // The key that was made last, as neighbours often share it.
        let mut made: Option<(usize, &str, Keyed<'_>)> = None;
        for &place in &self.order {
            let rule = &self.rules[place];
            // A shadow's word counts among shadows only.
            let floor = if rule.is_shadow { forced.floor.max(shadows.floor) } else { forced.floor };
            if floor.is_some_and(|floor| rule.priority < floor) {
                continue;
            }
            let Some(at) = rule.route_of(asked.request.method, &path) else { continue };
            let (at, route) = if rule.is_by_route() { (at, rule.routes[at].text()) } else { (0, "") };
            let (key, missing) = match &made {
                Some((list, same, key)) if *list == rule.list && *same == route => key.clone(),
                _ => {
                    let key = asked.key(&rule.key, route);
                    made = Some((rule.list, route, key.clone()));
                    key
                }
            };
            let picked = if rule.is_shadow { &mut shadows } else { &mut forced };
            match (missing, rule.missing) {
                (Some(_), WhenMissing::Skip) => continue,
                (Some(part), WhenMissing::Deny) => {
                    let missing = Missing { rule: place, part: part.clone() };
                    if !rule.is_shadow {
                        return Plan::Missing(missing);
                    }
                    picked.missing.push(missing);
                }
                (missing, _) => {
                    let is_own = missing.is_none() && rule.is_by_client();
                    picked.add(key, (place, rule.cost), is_own, self.in_force[place][at].as_ref());
                }
            }
            if rule.is_final {
                picked.floor = picked.floor.max(Some(rule.priority));
            }
        }
        Plan::Rules { groups: forced.groups, shadows: shadows.groups, shadow_missing: shadows.missing }
    }
}

impl Picked {
    fn add(&mut self, key: KeyBytes, rule: (usize, u32), is_own: bool, in_force: Option<&Arc<[RuleId]>>) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.key == key) {
            group.rules.push(rule);
            return;
        }
        let at = if is_own { self.own } else { self.groups.len() };
        self.groups.insert(at, Group { key, rules: vec![rule], in_force: in_force.cloned() });
        self.own += usize::from(is_own);
    }
}

impl PolicyRule {
    /// Whether its key is one client's, and none that another could choose: a header can hold anything.
    fn is_by_client(&self) -> bool {
        self.key.iter().any(|part| matches!(part, KeyPart::Ip | KeyPart::User | KeyPart::ApiKey))
    }

    /// The place of its first route that matches, if it is for the request at all; 0 where it is for all paths.
    fn route_of(&self, method: &str, path: &Path<'_>) -> Option<usize> {
        if !self.is_for_method(method) {
            return None;
        }
        if self.routes.is_empty() {
            return Some(0);
        }
        self.routes.iter().position(|route| route.matches(path))
    }
}

impl Lists {
    /// The place of an entry that is the client's.
    fn find(&self, asked: &Asked<'_>, client: Option<Client>) -> Option<usize> {
        let network = || {
            let Client { address, .. } = client?;
            self.networks.iter().find(|(network, _)| network.contains(&address)).map(|(_, at)| *at)
        };
        let user = || self.users.get(asked.request.user?).copied();
        let key = || {
            if self.keys.is_empty() {
                return None;
            }
            self.keys.get(&sha256(asked.api_key()?)).copied()
        };
        network().or_else(user).or_else(key)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
