#![allow(clippy::unwrap_used, reason = "tests")]
use proptest::prelude::*;

use super::*;

/// What is wrong with the counts of these keys, if anything.
fn problem(top: &Top<u16>, counted: &[u16], room: usize) -> Option<String> {
    let truth = |key: u16| counted.iter().filter(|&&other| other == key).count() as u64;
    let bound = counted.len() as u64 / room as u64;
    let most: Vec<_> = top.most().cloned().collect();
    for Entry { key, count, over } in &most {
        let is_bounded = (truth(*key)..=truth(*key) + over).contains(count) && *over <= bound;
        if !is_bounded {
            return Some(format!("{key}: {count} over {over}, and it is {}", truth(*key)));
        }
    }
    let is_absent = |key: u16| most.iter().all(|entry| entry.key != key);
    if let Some(lost) = counted.iter().find(|&&key| truth(key) > bound && is_absent(key)) {
        return Some(format!("{lost} is lost"));
    }
    let is_sorted = most.is_sorted_by_key(|entry| std::cmp::Reverse(entry.count));
    let is_small = most.len() <= room && top.places.len() == most.len() && top.order.len() == most.len();
    (!is_sorted || !is_small || top.total() != counted.len() as u64).then(|| format!("{most:?}"))
}

fn keys() -> impl Strategy<Value = Vec<u16>> {
    // Few that come often among many that come once.
    prop::collection::vec(prop_oneof![0..4_u16, 0..1_000_u16], 0..400)
}

proptest! {
    #[test]
    fn counts_are_within_their_bounds(counted in keys(), room in 1..20_usize) {
        let mut top = Top::new(room);
        for key in &counted {
            top.count(key);
        }
        prop_assert_eq!(problem(&top, &counted, room), None);
    }
}

/// Broken on purpose: a new key begins at one, as if the place had been free.
#[test]
fn one_that_forgets_what_it_took_over_is_found() {
    let counted: Vec<u16> = (0..100).map(|at| at % 7).collect();
    let mut top = Top::new(3);
    for key in &counted {
        top.count(key);
        let place = top.places[key];
        let entry = &mut top.entries[place];
        top.order.remove(&(entry.count, place));
        (entry.count, entry.over) = (entry.count - entry.over, 0);
        top.order.insert((entry.count, place));
    }
    assert!(problem(&top, &counted, 3).is_some());
}

#[test]
fn what_is_forgotten_is_gone() {
    let mut top = Top::new(2);
    top.count(&1);
    top.clear();
    assert_eq!((top.most().count(), top.total()), (0, 0));
    top.count(&2);
    assert_eq!(top.most().next(), Some(&Entry { key: 2, count: 1, over: 0 }));
}
