#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use sysd_core::{StateMachine as _, Timestamp};

use super::*;

fn text() -> impl Strategy<Value = Box<str>> {
    prop_oneof![Just(""), Just("a"), Just("ä\0b")].prop_map(Into::into)
}

prop_compose! {
    fn a_record()(
        texts in (text(), text(), text()),
        amounts in (any::<i128>(), -2..2_i128),
        day in any::<i32>(),
        row in any::<u64>(),
        is_euro in any::<bool>(),
    ) -> Record {
        let ((reference, kind, batch), (amount, fee)) = (texts, amounts);
        let currency = Currency::iso(if is_euro { "EUR" } else { "JPY" }).unwrap();
        Record { reference, currency, amount, day: Date(day), fee, kind, batch, row }
    }
}

fn a_difference() -> impl Strategy<Value = Difference> {
    let what = prop_oneof![
        any::<i128>().prop_map(|by| Differs::AmountDiffers { by }),
        Just(Differs::CurrencyDiffers),
        Just(Differs::MissingHere),
        Just(Differs::MissingThere),
        any::<u64>().prop_map(|of| Differs::Duplicate { party: Party::Ours, of }),
        any::<u64>().prop_map(|of| Differs::Duplicate { party: Party::Theirs, of }),
        Just(Differs::Ambiguous),
    ];
    let records = || proptest::collection::vec(a_record(), 0..3).prop_map(Records::from);
    let rows = || proptest::collection::vec(any::<u64>(), 0..3);
    let candidates = proptest::collection::vec((rows(), rows()), 0..3);
    (what, records(), records(), candidates).prop_map(|(what, ours, theirs, candidates)| {
        let candidates = candidates.into_iter().map(|(ours, theirs)| Candidate { ours, theirs }).collect();
        Difference { what, ours, theirs, candidates }
    })
}

fn a_citation() -> impl Strategy<Value = Citation> {
    (any::<[u128; 2]>(), any::<u64>()).prop_map(|([case, of], number)| Citation {
        case: CaseId(case),
        transaction: TransactionId(of),
        number,
    })
}

fn a_step() -> impl Strategy<Value = Step> {
    let note = || Just(Note::new("why").unwrap());
    let id = || proptest::option::of(any::<u128>().prop_map(TransactionId));
    prop_oneof![
        Just(Step::Take),
        Just(Step::Release),
        (id(), proptest::option::of(note()))
            .prop_map(|(transaction, note)| Step::ResolveUnchecked { transaction, note }),
        (a_citation(), proptest::option::of(note())).prop_map(|(citation, note)| Step::Resolve { citation, note }),
        (proptest::option::of(a_citation()), proptest::option::of(note()))
            .prop_map(|(citation, reason)| Step::WriteOff { citation, reason }),
        note().prop_map(|reason| Step::Reopen { reason }),
        note().prop_map(|note| Step::Comment { note }),
    ]
}

fn some_totals() -> impl Strategy<Value = Totals> {
    let records = || proptest::collection::vec(a_record(), 0..3);
    (records(), records(), any::<[u64; 2]>()).prop_map(|(ours, theirs, unreadable)| {
        let mut totals = Totals { unreadable, ..Totals::default() };
        for (party, records) in [(Party::Ours, ours), (Party::Theirs, theirs)] {
            for record in records {
                _ = totals.read(party, &record);
            }
        }
        totals
    })
}

fn a_file() -> impl Strategy<Value = FileId> {
    (0..2_u8).prop_map(|byte| FileId([byte; 32]))
}

fn a_command() -> impl Strategy<Value = ReviewCommand> {
    let person = || prop_oneof![Just("ann"), Just("ben")].prop_map(|name| Person::new(name).unwrap());
    let case = || (0..3_u128).prop_map(CaseId);
    let differences = proptest::collection::vec((case(), a_difference()), 0..3);
    prop_oneof![
        (a_file(), person(), any::<bool>()).prop_map(|(file, by, again)| ReviewCommand::Begin {
            file,
            name: Note::new("a file").unwrap(),
            by,
            again
        }),
        (a_file(), 1..3_u32, differences).prop_map(|(file, run, differences)| ReviewCommand::Add {
            file,
            run,
            differences
        }),
        (a_file(), 1..3_u32, some_totals(), 0..4_u64).prop_map(|(file, run, totals, differences)| {
            ReviewCommand::Finish { file, run, totals: Box::new(totals), differences }
        }),
        (case(), person(), a_step()).prop_map(|(case, by, step)| ReviewCommand::Review { case, by, step }),
    ]
}

fn encoded(command: &ReviewCommand) -> Vec<u8> {
    let mut bytes = Vec::new();
    ReviewQueue::encode_command(command, &mut bytes);
    bytes
}

fn snapshot(queue: &ReviewQueue) -> Vec<u8> {
    let mut bytes = Vec::new();
    queue.encode_snapshot(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn commands_round_trip(command in a_command()) {
        let bytes = encoded(&command);
        prop_assert_eq!(ReviewQueue::decode_command(1, &bytes).unwrap(), command);
        for end in 0..bytes.len() {
            prop_assert!(ReviewQueue::decode_command(1, &bytes[..end]).is_err());
        }
        prop_assert!(ReviewQueue::decode_command(1, &[&bytes[..], &[0]].concat()).is_err());
        prop_assert!(ReviewQueue::decode_command(2, &bytes).is_err());
    }

    #[test]
    fn snapshots_round_trip(commands in proptest::collection::vec(a_command(), 0..30)) {
        let mut queue = ReviewQueue::default();
        for (at, command) in (0..).zip(&commands) {
            queue.apply(Timestamp::from_micros(at).unwrap(), command);
        }
        let bytes = snapshot(&queue);
        let again = ReviewQueue::decode_snapshot(1, &bytes).unwrap();
        prop_assert_eq!(snapshot(&again), &bytes[..]);
        prop_assert_eq!(again, queue);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
        _ = ReviewQueue::decode_command(1, &bytes);
        _ = ReviewQueue::decode_snapshot(1, &bytes);
        _ = read_difference(&bytes);
    }
}

/// What is stored once is read for ever.
#[test]
fn the_format_is_pinned() {
    use std::fmt::Write as _;
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let (file, by) = (FileId([0xAB; 32]), Person::new("ann").unwrap());
    let mut record = Record::new("o-1", Currency::iso("EUR").unwrap(), -300, Date(20_484), 7);
    (record.fee, record.kind, record.batch) = (2, "k".into(), "b".into());
    let difference = Difference {
        what: Differs::Duplicate { party: Party::Theirs, of: 6 },
        ours: Records::new(),
        theirs: Records::from_elem(record.clone(), 1),
        candidates: vec![Candidate { ours: vec![1], theirs: vec![300] }],
    };
    let mut totals = Totals { unreadable: [0, 1], rows: [0, 2], ..Totals::default() };
    totals.read(Party::Theirs, &record).unwrap();
    let (files, eur) = ("ab".repeat(32), "4555520000000002");
    let id = difference_id(file, &difference, 0);
    let pinned = [
        (
            ReviewCommand::Begin { file, name: Note::new("f").unwrap(), by: by.clone(), again: true },
            format!("00{files}016603616e6e01"),
        ),
        (
            ReviewCommand::Add { file, run: 1, differences: vec![(id, difference)] },
            format!("01{files}0101{:032x}05060001036f2d31{eur}d70488c00204016b0162070101{}", id.0, "0101ac02"),
        ),
        (
            ReviewCommand::Finish { file, run: 1, totals: Box::new(totals), differences: 0 },
            format!("02{files}010001{eur}01d704{}0001000200", "0000".repeat(7)),
        ),
        (
            ReviewCommand::Review {
                case: CaseId(5),
                by: by.clone(),
                step: Step::ResolveUnchecked { transaction: Some(TransactionId(9)), note: None },
            },
            format!("03{:032x}03616e6e0201{:032x}00", 5, 9),
        ),
        (
            ReviewCommand::Review {
                case: CaseId(5),
                by: by.clone(),
                step: Step::WriteOff {
                    citation: Some(Citation { case: CaseId(5), transaction: TransactionId(9), number: 3 }),
                    reason: Some(Note::new("r").unwrap()),
                },
            },
            format!("03{:032x}03616e6e0301{:032x}{:032x}03010172", 5, 5, 9),
        ),
        (
            ReviewCommand::Review {
                case: CaseId(5),
                by,
                step: Step::Resolve {
                    citation: Citation { case: CaseId(5), transaction: TransactionId(9), number: 3 },
                    note: None,
                },
            },
            format!("03{:032x}03616e6e06{:032x}{:032x}0300", 5, 5, 9),
        ),
    ];
    for (command, bytes) in pinned {
        assert_eq!(hex(&encoded(&command)), bytes, "{command:?}");
    }
    // An id is stored too: it must not change.
    assert_eq!(id.to_string(), "0x78e0a27ea04156a93d1c900b47a308ce");
}
