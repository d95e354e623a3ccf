//! Ranges of rows as DynamoDB takes them: from one sort key to another, both included.

use std::ops::Bound;

use sysd_core::Scan;

use super::layout::{SORT_BYTES_MAX, row};

/// Behind every row.
const ROWS_END: [u8; 1] = [2];

/// The sort keys of the table between which the rows of `scan` lie, both included; `None` where there is room for none.
pub(super) fn of(scan: &Scan<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let low = match scan.start {
        Bound::Unbounded => row(b""),
        Bound::Included(sort) if sort.len() <= SORT_BYTES_MAX => row(sort),
        Bound::Included(sort) | Bound::Excluded(sort) => row(&successor(sort)?),
    };
    let high = match scan.end {
        Bound::Unbounded => ROWS_END.to_vec(),
        Bound::Included(sort) if sort.len() <= SORT_BYTES_MAX => row(sort),
        // The greatest before a key that is too long to be one is what it begins with.
        Bound::Included(sort) | Bound::Excluded(sort) if sort.len() > SORT_BYTES_MAX => row(&sort[..SORT_BYTES_MAX]),
        Bound::Included(sort) | Bound::Excluded(sort) => row(&predecessor(sort)?),
    };
    (low <= high).then_some((low, high))
}

/// The least sort key after one.
fn successor(sort: &[u8]) -> Option<Vec<u8>> {
    if sort.len() < SORT_BYTES_MAX {
        return Some([sort, &[0]].concat());
    }
    let last = sort[..SORT_BYTES_MAX].iter().rposition(|&byte| byte < 0xFF)?;
    let mut next = sort[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

/// The greatest sort key before one that is not too long.
fn predecessor(sort: &[u8]) -> Option<Vec<u8>> {
    let (&last, rest) = sort.split_last()?;
    let mut before = rest.to_vec();
    if last > 0 {
        before.push(last - 1);
        before.resize(SORT_BYTES_MAX, 0xFF);
    }
    Some(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sysd_core::Space;

    const SPACE: Space = Space::plain("test");

    /// Short, longest or too long, of the bytes where carries happen.
    fn sort() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0_u8), Just(1), Just(0x7F), Just(0xFE), Just(0xFF)];
        let filler = prop_oneof![Just(0_u8), Just(0xFF)];
        let length = prop_oneof![Just(0), (SORT_BYTES_MAX - 2)..=SORT_BYTES_MAX + 2];
        (prop::collection::vec(byte.clone(), 0..4), filler, length, prop::collection::vec(byte, 0..3)).prop_map(
            |(mut sort, filler, length, tail)| {
                if length > 0 {
                    sort.resize(length.saturating_sub(tail.len()).max(sort.len()), filler);
                }
                sort.extend(tail);
                sort
            },
        )
    }

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![sort().prop_map(Bound::Included), sort().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
    }

    proptest! {
        #[test]
        fn a_key_lies_in_the_range_if_the_scan_contains_it(start in bound(), end in bound(), mut sorts in prop::collection::vec(sort(), 1..8)) {
            let scan = Scan::partition(SPACE, b"p", 1).range(
                start.as_ref().map(Vec::as_slice),
                end.as_ref().map(Vec::as_slice),
            );
            let range = of(&scan);
            for bound in [&start, &end] {
                if let Bound::Included(sort) | Bound::Excluded(sort) = bound {
                    sorts.push(sort.clone());
                    sorts.extend(successor(sort));
                    sorts.extend(predecessor(sort));
                }
            }
            for sort in sorts.iter().filter(|sort| (1..=SORT_BYTES_MAX).contains(&sort.len())) {
                let key = row(sort);
                let inside = range.as_ref().is_some_and(|(low, high)| *low <= key && key <= *high);
                prop_assert_eq!(inside, scan.contains(sort), "{:?} in {:?}", sort, range);
            }
            if let Some((low, high)) = range {
                prop_assert!(low.len() <= SORT_BYTES_MAX + 1 && high.len() <= SORT_BYTES_MAX + 1 && low <= high);
                prop_assert!(low > vec![0], "lone records lie before every row");
            }
        }
    }
}
