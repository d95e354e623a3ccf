//! Which rules' states come to lie in one record.

use std::collections::HashMap;
use std::sync::Arc;

use sysd_core::Limits;

use super::{Compiled, KeyPart, Policy, PolicyRule};
use crate::error::RateLimitError;
use crate::model::{RuleId, fit_record};

impl PolicyRule {
    pub(super) fn is_by_route(&self) -> bool {
        self.key.contains(&KeyPart::Route)
    }

    /// The routes by which it counts apart, as they are written; one, of no name, where it counts all of its requests by one.
    pub(super) fn counted_routes(&self) -> impl Iterator<Item = &str> {
        let is_by_route = self.is_by_route();
        let routes = self.routes.iter().filter(move |_| is_by_route).map(super::Pattern::text);
        routes.chain((!is_by_route).then_some(""))
    }
}

impl Compiled {
    /// The places of the rules of each record, by their list and the route.
    pub(super) fn records(&self) -> HashMap<(usize, &str), Vec<usize>> {
        let mut records: HashMap<_, Vec<usize>> = HashMap::new();
        for (place, rule) in self.rules.iter().enumerate() {
            for route in rule.counted_routes() {
                let record = records.entry((rule.list, route)).or_default();
                // A route can be written twice.
                if record.last() != Some(&place) {
                    record.push(place);
                }
            }
        }
        records
    }
}

impl Compiled {
    /// For each rule and each route by which it counts, or for the one of no name: the rules of that record.
    pub(super) fn in_force(&self) -> Vec<Vec<Option<Arc<[RuleId]>>>> {
        let of_record = |places: Vec<usize>| {
            // One alone is always asked.
            (places.len() > 1).then(|| places.iter().map(|&place| self.rules[place].rule.id()).collect::<Arc<[_]>>())
        };
        let records: HashMap<_, _> = self.records().into_iter().map(|(by, places)| (by, of_record(places))).collect();
        let in_force = self.rules.iter().map(|rule| {
            let of_route = |route| records.get(&(rule.list, route)).cloned().flatten();
            rule.counted_routes().map(of_route).collect()
        });
        in_force.collect()
    }
}

impl Policy {
    /// Whether a store of these limits can hold its records. Those of rules that are gone since count too until their states say
    /// nothing any more: it says nothing about them.
    ///
    /// # Errors
    /// [`RateLimitError::RecordTooLarge`], of one of the records.
    pub fn fits(&self, limits: &Limits) -> Result<(), RateLimitError> {
        let records = self.compiled.records();
        // Of several the first that is written, whatever the order of the map.
        let mut records: Vec<_> = records.values().collect();
        records.sort();
        records
            .into_iter()
            .try_for_each(|places| fit_record(places.iter().map(|&place| self.compiled.rules[place].rule()), limits))
    }
}
