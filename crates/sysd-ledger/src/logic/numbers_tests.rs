#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000 + seconds * 1_000_000).unwrap()
}

fn find(numbers: &Numbers, id: TransactionId) -> Option<u64> {
    match numbers.find(id, None) {
        Found::Number(number) => Some(number),
        _ => None,
    }
}

fn push(numbers: &mut Numbers, id: TransactionId, now: Timestamp) -> u64 {
    let Found::New(hash) = numbers.find(id, None) else { unreachable!("{id} is new") };
    numbers.push(id, hash, now).unwrap()
}

/// A UUID of version 7.
fn v7(minted_at: Timestamp, rest: u64) -> TransactionId {
    TransactionId(u128::from(minted_at.as_micros() / 1_000) << 80 | 7 << 76 | 0b10 << 62 | u128::from(rest))
}

#[test]
fn ids_have_numbers_until_they_are_taken_back() {
    let mut numbers = Numbers::default();
    let ids = (0..200_000_u128).map(|at| TransactionId(at * at * at));
    for id in ids.clone() {
        let number = push(&mut numbers, id, at(0));
        assert_eq!(number, numbers.count());
    }
    for (number, id) in (1..).zip(ids.clone()) {
        assert_eq!(find(&numbers, id), Some(number));
    }
    for _ in 0..150_000 {
        numbers.pop(at(0));
    }
    for (at, id) in ids.clone().enumerate() {
        assert_eq!(find(&numbers, id).is_some(), at < 50_000);
    }
    assert_eq!(numbers.push_unnamed(TransactionId(0), at(0)), 50_001);
    assert_eq!(find(&numbers, TransactionId(0)), Some(1));
    numbers.pop(at(0));
    assert_eq!(find(&numbers, TransactionId(0)), Some(1));
    assert_eq!(numbers.count(), 50_000);
}

#[test]
fn what_left_memory_is_known_only_by_what_the_store_said() {
    let mut numbers = Numbers::default();
    for id in 0..3 * u128::from(BLOCK_IDS) {
        push(&mut numbers, TransactionId(id), at(0));
    }
    // A part of a block stays.
    numbers.forget(2 * BLOCK_IDS - 1);
    assert_eq!(numbers.forgotten(), BLOCK_IDS);
    assert_eq!(find(&numbers, TransactionId(u128::from(BLOCK_IDS))), Some(BLOCK_IDS + 1));

    let old = TransactionId(5);
    assert!(matches!(numbers.find(old, None), Found::Forgotten(_)));
    let looked = |through, found| Looked::new(through, found, vec![]);
    let says = |looked: &Looked| numbers.find(old, Some(looked));
    assert!(matches!(says(&looked(BLOCK_IDS, vec![(old, 6)])), Found::Number(6)));
    assert!(matches!(says(&looked(BLOCK_IDS, vec![])), Found::New(_)));
    // What was known then was not known of all that has left.
    assert!(matches!(says(&looked(BLOCK_IDS - 1, vec![])), Found::Forgotten(_)));
}

#[test]
fn an_id_that_says_when_it_was_minted_needs_no_look_at_the_store() {
    let mut numbers = Numbers::default();
    let ahead = v7(at(100_000), 9);
    push(&mut numbers, ahead, at(0));
    for rest in 1..2 * BLOCK_IDS {
        push(&mut numbers, v7(at(0), rest), at(0));
    }
    numbers.forget(BLOCK_IDS);
    assert!(matches!(numbers.find(v7(at(0), 1), None), Found::Forgotten(_)));
    assert!(matches!(numbers.find(v7(at(0), 0), None), Found::Forgotten(_)), "as old as what has left");
    assert!(matches!(numbers.find(v7(at(1), 0), None), Found::New(_)));
    // A time that no log comes to says nothing.
    let never = TransactionId(v7(at(0), 5).0 | 0xFFFF << 112);
    assert!(matches!(numbers.find(never, None), Found::Forgotten(_)));
    // What was recorded before its own time stays until that has come.
    assert_eq!(find(&numbers, ahead), Some(1));
    assert_eq!(numbers.kept(), Kept { ids: vec![(ahead, 1)], unkept: Times::default() });
    let mut id = 0;
    while numbers.count() < 3 * BLOCK_IDS {
        id += 1;
        push(&mut numbers, v7(at(200_000), id), at(200_000));
    }
    numbers.forget(3 * BLOCK_IDS);
    assert_eq!(numbers.kept(), Kept::default());
    assert!(matches!(numbers.find(ahead, None), Found::Forgotten(_)));
}

#[test]
fn ids_of_the_far_future_leave_too_and_are_never_taken_for_new() {
    let mut numbers = Numbers::default();
    let count = KEPT_MAX as u64 + 3 * BLOCK_IDS;
    // Some 300 of them an hour, for a century.
    let ahead = |rest: u64| v7(at(1_000 + 12 * (rest * 7_919 % count)), rest);
    for rest in 0..count {
        push(&mut numbers, ahead(rest), at(0));
    }
    numbers.forget(count);
    assert_eq!(numbers.forgotten(), count);
    let Kept { ids, unkept } = numbers.kept();
    assert!(ids.len() <= KEPT_MAX && ids.len() >= KEPT_MAX / 2, "{}", ids.len());
    let [(first, _), .., (_, last)] = *unkept.intervals() else { panic!("{unkept:?}") };
    let mut known = 0;
    for rest in 0..count {
        match numbers.find(ahead(rest), None) {
            Found::Number(number) => known += usize::from(number == rest + 1),
            Found::Forgotten(_) => {}
            Found::New(_) => panic!("{rest} was recorded"),
        }
    }
    assert_eq!(known, ids.len());
    // What says a time before or behind theirs needs no look at the store; nor does anything once their time has passed.
    let minted = |us: u64| v7(Timestamp::from_micros(us).unwrap(), 1 << 40);
    assert!(matches!(numbers.find(minted(first - 1_000), None), Found::New(_)));
    assert!(matches!(numbers.find(minted(first), None), Found::Forgotten(_)));
    assert!(matches!(numbers.find(minted(last), None), Found::Forgotten(_)));
    assert!(matches!(numbers.find(minted(last + 1_000), None), Found::New(_)));
    let behind = Timestamp::from_micros(last + 1_000_000).unwrap();
    for rest in 0..BLOCK_IDS {
        push(&mut numbers, v7(behind, rest), behind);
    }
    numbers.forget(count + BLOCK_IDS);
    assert_eq!(numbers.kept(), Kept::default());
    assert!(matches!(numbers.find(minted(last), None), Found::Forgotten(_)));
}

/// One clock is a day ahead, one ten years, one a century.
#[test]
fn only_times_that_clocks_ahead_said_need_a_look_at_the_store() {
    const HOUR: u64 = 3_600;
    let (day, years, century) = (24 * HOUR, 87_600 * HOUR, 876_000 * HOUR);
    let mut numbers = Numbers::default();
    let count = KEPT_MAX as u64 + BLOCK_IDS;
    let minted = |rest: u64| match rest % (BLOCK_IDS / 2) {
        0 => century + rest / BLOCK_IDS,
        1 => years + rest / BLOCK_IDS,
        // Within an hour.
        _ => day + rest * HOUR / count,
    };
    for rest in 0..count {
        push(&mut numbers, v7(at(minted(rest)), rest), at(0));
    }
    numbers.forget(count);
    let kept = numbers.kept();
    let intervals = kept.unkept.intervals();
    assert!(intervals.len() > 2, "{intervals:?}");

    let is_new = |numbers: &Numbers, seconds: u64| match numbers.find(v7(at(seconds), 1 << 40), None) {
        Found::New(_) => true,
        Found::Forgotten(_) => false,
        Found::Number(number) => panic!("{number} is another"),
    };
    let are_new = [1, day - 1, day + HOUR + 1, 2 * day, years - 1, years + HOUR, century - 1, century + HOUR];
    for seconds in are_new {
        assert!(is_new(&numbers, seconds), "{seconds}: {intervals:?}");
    }
    for seconds in [day + HOUR - 10, years, century] {
        assert!(!is_new(&numbers, seconds), "{seconds}: {intervals:?}");
    }

    // A restart knows the same; one that lost them would take what was recorded for new.
    let (forgotten, horizon) = (numbers.forgotten(), numbers.horizon());
    let restored = Numbers::restore(forgotten, horizon, kept.clone());
    let broken = Numbers::restore(forgotten, horizon, Kept { unkept: Times::default(), ..kept });
    let mut taken_for_new = 0;
    for rest in 0..count {
        let id = v7(at(minted(rest)), rest);
        assert!(!matches!(restored.find(id, None), Found::New(_)), "{rest} was recorded");
        taken_for_new += u64::from(matches!(broken.find(id, None), Found::New(_)));
    }
    assert!(taken_for_new >= count - KEPT_MAX as u64, "{taken_for_new}");

    // Once its time has passed the nearest clock costs nothing any more; the others do.
    let mut next = count;
    let mut pass = |numbers: &mut Numbers, seconds: u64| {
        for rest in 0..BLOCK_IDS {
            let hash = numbers.hash(v7(at(seconds), rest | 1 << 41));
            numbers.push(v7(at(seconds), rest | 1 << 41), hash, at(seconds)).unwrap();
        }
        next += BLOCK_IDS;
        numbers.forget(next);
    };
    pass(&mut numbers, 2 * day);
    assert_eq!(numbers.kept().unkept.intervals().first().unwrap().0, at(years).as_micros());
    assert!(is_new(&numbers, 2 * day + 1) && !is_new(&numbers, years) && !is_new(&numbers, century));
    pass(&mut numbers, 2 * century);
    assert_eq!(numbers.kept(), Kept::default());
}

#[test]
fn ends_of_holds_leave_with_the_ids_around_them() {
    let mut numbers = Numbers::default();
    push(&mut numbers, TransactionId(1), at(0));
    numbers.push_unnamed(TransactionId(1), at(0));
    for id in 2..u128::from(BLOCK_IDS) {
        push(&mut numbers, TransactionId(id), at(0));
    }
    assert!(numbers.block(BLOCK_IDS).is_none());
    let ids = numbers.block(0).unwrap();
    assert_eq!(ids.len() as u64, BLOCK_IDS - 1);
    assert_eq!((ids[0], ids[1]), ((TransactionId(1), 1), (TransactionId(2), 3)));
    numbers.forget(BLOCK_IDS);
    assert!(numbers.block(0).is_none());
    assert_eq!((numbers.unnamed().len(), numbers.ids().count()), (0, 0));
}
