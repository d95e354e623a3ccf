//! Which rules' states come to lie in one record.

use std::collections::HashMap;

use sysd_core::Limits;

use super::{Compiled, KeyPart, Policy, PolicyRule};
use crate::error::RateLimitError;
use crate::model::fit_record;

impl PolicyRule {
    /// The routes by which it counts apart; one, of no name, where it counts all of its requests by one.
    pub(super) fn counted_routes(&self) -> impl Iterator<Item = &str> {
        let is_by_route = self.key.contains(&KeyPart::Route);
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
        records.into_iter().try_for_each(|places| {
            fit_record(places.iter().map(|&place| self.compiled.rules[place].rule()), limits)
        })
    }
}
