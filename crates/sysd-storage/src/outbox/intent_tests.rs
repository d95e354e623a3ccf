#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn version(token: u128) -> Version {
    Version::from_u128(token)
}

fn intent(before: Option<u128>, token: u128) -> Intent {
    Intent {
        is_claimed: false,
        deadline: Timestamp::from_micros_saturating(100),
        before: before.map(version),
        version: version(token),
        space: "s".to_owned(),
        partition: KeyBytes::from_slice(b"p"),
        sort: KeyBytes::new(),
        value: Bytes::from_static(b"v"),
        events: vec![NewEvent::new(b"k", "e"), NewEvent::new(b"", "")],
    }
}

/// Pinned: stores have these bytes.
#[test]
fn the_stored_bytes_stay() {
    let hex = intent(Some(7), 8).encode().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let golden = [
        "01 00 0000000000000064 01 00000000000000000000000000000007 00000000000000000000000000000008 0002",
        "00000001 73 00000001 70 00000000 00000001 76",
        "00000001 6b 00000001 65 00000000 00000000",
    ];
    assert_eq!(hex, golden.concat().replace(' ', ""));
}

#[test]
fn of_a_broken_intent_the_head_tells_what_it_was_written_over() {
    for before in [None, Some(7)] {
        let bytes = intent(before, 8).encode();
        for cut in 0..bytes.len() {
            let told = Intent::head_of(version(8), &bytes[..cut]);
            assert_eq!(told, (cut >= HEAD_BYTES).then(|| Head { before: before.map(version) }), "{cut}");
        }
        assert_eq!(Intent::head_of(version(9), &bytes), None, "another's");
        let newer = [&[FORMAT + 1], &bytes[1..]].concat();
        assert_eq!(Intent::head_of(version(8), &newer), None);
    }
}

/// Of intents that are there, those up to `listed` were listed before the record was read.
fn decided(record: Option<u128>, there: &[Intent], listed: usize, now: u64) -> (Vec<u128>, Vec<u128>, Vec<u128>) {
    let listed = &there[..listed];
    let mut walk = Walk::new(record.map(version), listed.iter().map(|intent| intent.version), usize::MAX);
    while let Some(at) = walk.next() {
        match there.iter().find(|intent| intent.version == at) {
            Some(intent) => walk.step(intent.before).unwrap(),
            None => walk.end(),
        }
    }
    let decision = decide(record.map(version), &walk, listed.iter(), Timestamp::from_micros_saturating(now));
    let numbers = |versions: Vec<Version>| versions.into_iter().map(Version::as_u128).collect();
    (numbers(decision.publish), numbers(decision.forget), numbers(decision.carry_out))
}

#[test]
fn the_chain_is_true_and_the_rest_waits_for_its_deadline() {
    let all = [intent(None, 1), intent(Some(1), 2), intent(Some(1), 3), intent(Some(2), 4)];
    assert_eq!(decided(Some(2), &all, 4, 99), (vec![1, 2], vec![], vec![]));
    assert_eq!(decided(Some(2), &all, 4, 100), (vec![1, 2], vec![3], vec![4]));
    // One that was not there before the record was read may be of a later chain.
    assert_eq!(decided(Some(2), &all, 1, 100), (vec![1, 2], vec![], vec![]));
    assert_eq!(decided(None, &all, 1, 100), (vec![], vec![], vec![1]));
}

proptest! {
    /// Random histories of one record: whatever is left of the intents, exactly what became true is published, in order.
    #[test]
    fn neither_lost_nor_invented(wins in proptest::collection::vec((0..3usize, any::<bool>()), 1..12), removed in 0..6usize) {
        let (mut chain, mut record, mut late, mut token) = (Vec::new(), None, Vec::new(), 0);
        for (rivals, is_written) in wins {
            for _ in 0..=rivals {
                token += 1;
                late.push(intent(record, token));
            }
            if is_written {
                record = Some(token);
                chain.push(token);
            }
        }
        let removed = removed.min(chain.len());
        late.retain(|intent| !chain[..removed].contains(&intent.version.as_u128()));
        let (publish, forget, carry_out) = decided(record, &late, late.len(), 100);
        prop_assert_eq!(&publish[..], &chain[removed..]);
        prop_assert!(forget.iter().all(|token| !chain.contains(token)));
        prop_assert_eq!(publish.len() + forget.len() + carry_out.len(), late.len());
    }

    #[test]
    fn decodes_what_it_encoded_and_nothing_cut(cut in 0..200usize) {
        let whole = Intent { is_claimed: true, ..intent(Some(7), 8) };
        let bytes = whole.encode();
        let key = Key::lone(sysd_core::Space::conditional("x"), b"p");
        prop_assert_eq!(Intent::decode(key, &bytes).unwrap(), whole);
        if cut < bytes.len() {
            prop_assert!(Intent::decode(key, &bytes.slice(..cut)).is_err());
        }
    }
}
