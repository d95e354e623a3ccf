//! The review queue: who may do what, and that nothing happens by itself, whatever crashes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sysd_core::{StateMachine as _, Timestamp};
use sysd_ledger::reconcile::{
    Case, CaseId, CaseState, Citation, CitationError, FileId, FileState, Found, Note, Person, ReconcileError,
    Reconciliation, Record, RecordError, ResolveError, ReviewCommand, ReviewQueue, ReviewReject, ReviewReply, Reviews,
    Step, records,
};
use sysd_ledger::{Details, Transaction, TransactionId};
use sysd_storage::{Memory, Replica, ReplicaConfig};

use super::books::{ledger, pays_in, record_it};
use super::support::record;

const FILE: FileId = FileId([7; 32]);

fn person(name: &str) -> Person {
    Person::new(name).unwrap()
}

fn note(text: &str) -> Note {
    Note::new(text).unwrap()
}

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

fn find(ours: &[Record], theirs: &[Record]) -> Found {
    Reconciliation::new(std::env::temp_dir()).find(records(ours.to_vec()), records(theirs.to_vec())).unwrap()
}

/// Three differences, two of which say the same.
fn some() -> Found {
    find(&[record("b", 2, 0), record("", 5, 0), record("", 5, 0)], &[record("b", 3, 0)])
}

fn begin(again: bool) -> ReviewCommand {
    ReviewCommand::Begin { file: FILE, name: note("may.csv"), by: person("ann"), again }
}

/// All differences of a run as commands, one difference each.
fn adds(found: &mut Found, run: u32) -> Vec<ReviewCommand> {
    found.rewind().unwrap();
    let mut all = Vec::new();
    while let Some(some) = found.next(FILE).unwrap() {
        all.extend(some);
    }
    all.into_iter().map(|one| ReviewCommand::Add { file: FILE, run, differences: vec![one] }).collect()
}

fn finish(found: &Found, run: u32) -> ReviewCommand {
    let (totals, differences) = (Box::new(found.summary().totals.clone()), found.cases_len());
    ReviewCommand::Finish { file: FILE, run, totals, differences }
}

fn recorded(found: &mut Found) -> ReviewQueue {
    let mut queue = ReviewQueue::default();
    queue.apply(at(1), &begin(false));
    for add in adds(found, 1) {
        queue.apply(at(2), &add);
    }
    assert_eq!(queue.apply(at(3), &finish(found, 1)), ReviewReply::Finished { not_found: 0 });
    queue
}

fn review(queue: &mut ReviewQueue, case: CaseId, by: &str, step: Step) -> Result<CaseState, ReviewReject> {
    match queue.apply(at(9), &ReviewCommand::Review { case, by: person(by), step }) {
        ReviewReply::Reviewed(case) => Ok(case.state),
        ReviewReply::Rejected(why) => Err(why),
        reply => panic!("{reply:?}"),
    }
}

#[test]
fn a_run_that_is_cut_off_anywhere_is_gone_on_with_and_nothing_is_doubled() {
    let mut found = some();
    assert_eq!(found.cases_len(), 3);
    let whole = recorded(&mut found);
    for cut in 0..=3 {
        let mut queue = ReviewQueue::default();
        queue.apply(at(1), &begin(false));
        for add in adds(&mut found, 1).into_iter().take(cut) {
            queue.apply(at(2), &add);
        }
        // The process is gone. Our records come in another order the next time.
        let mut again = find(&[record("", 5, 0), record("b", 2, 0), record("", 5, 0)], &[record("b", 3, 0)]);
        let known = cut as u64;
        assert_eq!(queue.apply(at(4), &begin(false)), ReviewReply::Begun { run: 2, known });
        // What the first one sends late is refused.
        let late = queue.apply(at(4), &adds(&mut found, 1)[0]);
        assert_eq!(late, ReviewReply::Rejected(ReviewReject::OtherRun { run: 1, last: 2 }));
        for add in adds(&mut again, 2) {
            queue.apply(at(5), &add);
            // The reply was lost: it is sent again.
            assert_eq!(queue.apply(at(5), &add), ReviewReply::Added { new: 0, known: 1 });
        }
        assert_eq!(queue.apply(at(6), &finish(&again, 2)), ReviewReply::Finished { not_found: 0 });
        assert_eq!(queue.apply(at(6), &finish(&again, 2)), ReviewReply::Finished { not_found: 0 });
        let ids = |queue: &ReviewQueue| {
            let mut ids: Vec<_> = queue.cases_after(0).map(|case| case.id).collect();
            ids.sort();
            ids
        };
        assert_eq!(ids(&queue), ids(&whole), "cut after {cut}");
    }
}

#[test]
fn a_file_that_was_gone_through_is_not_again_unless_it_is_wanted() {
    let mut found = some();
    let mut queue = recorded(&mut found);
    let ReviewReply::Seen(file) = queue.apply(at(4), &begin(false)) else { panic!("it was seen") };
    assert!(matches!(file.state, FileState::Finished { differences: 3, .. }));
    // One of ours was put right meanwhile. What is not found any more stays as it is, and can be told.
    let mut now = find(&[record("b", 3, 0), record("", 5, 0), record("", 5, 0)], &[record("b", 3, 0)]);
    assert_eq!(queue.apply(at(5), &begin(true)), ReviewReply::Begun { run: 2, known: 3 });
    for add in adds(&mut now, 2) {
        assert_eq!(queue.apply(at(6), &add), ReviewReply::Added { new: 0, known: 1 });
    }
    assert_eq!(queue.apply(at(7), &finish(&now, 2)), ReviewReply::Finished { not_found: 1 });
    assert_eq!(queue.states(), BTreeMap::from([("open", 3)]));
    let gone: Vec<_> = queue.cases_after(0).filter(|case| case.seen_in == 1).collect();
    assert_eq!((gone.len(), gone[0].difference.what.name()), (1, "amount_differs"));
}

#[test]
fn what_is_not_all_there_or_not_even_is_not_finished() {
    let mut found = some();
    let mut queue = ReviewQueue::default();
    queue.apply(at(1), &begin(false));
    queue.apply(at(2), &adds(&mut found, 1)[0]);
    let rejected = queue.apply(at(3), &finish(&found, 1));
    assert_eq!(rejected, ReviewReply::Rejected(ReviewReject::NotAllAdded { found: 3, added: 1 }));
    let ReviewCommand::Finish { mut totals, .. } = finish(&found, 1) else { panic!() };
    totals.rows[0] += 1;
    let uneven = ReviewCommand::Finish { file: FILE, run: 1, totals, differences: 3 };
    assert!(matches!(queue.apply(at(3), &uneven), ReviewReply::Rejected(ReviewReject::Uneven(_))));
    // An id of another file's case is none of this file's.
    let other = FileId([8; 32]);
    queue.apply(at(3), &ReviewCommand::Begin { file: other, name: note("f"), by: person("ann"), again: false });
    let ReviewCommand::Add { differences, .. } = adds(&mut found, 1).remove(0) else { panic!() };
    let before = queue.clone();
    let stray = queue.apply(at(3), &ReviewCommand::Add { file: other, run: 1, differences });
    assert!(matches!(stray, ReviewReply::Rejected(ReviewReject::OtherFile { .. })), "{stray:?}");
    assert_eq!(queue, before);
    let unknown = ReviewCommand::Add { file: FileId([0; 32]), run: 1, differences: Vec::new() };
    assert!(matches!(queue.apply(at(3), &unknown), ReviewReply::Rejected(ReviewReject::UnknownFile { .. })));
}

#[test]
fn only_who_took_it_up_settles_it_and_only_with_a_transaction_or_a_reason() {
    let mut queue = recorded(&mut some());
    let id = queue.cases_after(0).next().unwrap().id;
    let resolve =
        |transaction: Option<u128>| Step::ResolveUnchecked { transaction: transaction.map(TransactionId), note: None };
    let write_off = |reason: Option<Note>| Step::WriteOff { citation: None, reason };
    let reopen = Step::Reopen { reason: note("it was the wrong one") };
    let reviewed = |queue: &mut ReviewQueue, by: &str, step: &Step| review(queue, id, by, step.clone());

    for step in [resolve(Some(1)), write_off(Some(note("a cent"))), Step::Release, reopen.clone()] {
        assert_eq!(reviewed(&mut queue, "ann", &step), Err(ReviewReject::NoStep { state: "open" }), "{step:?}");
    }
    assert_eq!(reviewed(&mut queue, "ann", &Step::Take), Ok(CaseState::InReview { by: person("ann") }));
    let taken = Err(ReviewReject::TakenBy { by: person("ann") });
    for step in [Step::Take, resolve(Some(1)), write_off(Some(note("a cent")))] {
        assert_eq!(reviewed(&mut queue, "ben", &step), taken, "{step:?}");
    }
    assert_eq!(reviewed(&mut queue, "ann", &resolve(None)), Err(ReviewReject::NoTransaction));
    assert_eq!(reviewed(&mut queue, "ann", &write_off(None)), Err(ReviewReject::NoReason));
    let resolved = Ok(CaseState::Resolved { transaction: TransactionId(1) });
    assert_eq!(reviewed(&mut queue, "ann", &resolve(Some(1))), resolved);
    // The answer was lost: the same again is the same, and no second line.
    assert_eq!(reviewed(&mut queue, "ann", &resolve(Some(1))), resolved);
    assert_eq!(reviewed(&mut queue, "ann", &resolve(Some(2))), Err(ReviewReject::NoStep { state: "resolved" }));
    assert_eq!(reviewed(&mut queue, "ben", &reopen), Ok(CaseState::Reopened));
    assert_eq!(reviewed(&mut queue, "ben", &Step::Take), Ok(CaseState::InReview { by: person("ben") }));
    assert_eq!(reviewed(&mut queue, "ann", &Step::Release), Ok(CaseState::Open));
    assert_eq!(reviewed(&mut queue, "ann", &Step::Take), Ok(CaseState::InReview { by: person("ann") }));
    let written_off = Ok(CaseState::WrittenOff { transaction: None });
    assert_eq!(reviewed(&mut queue, "ann", &write_off(Some(note("a cent")))), written_off);
    assert_eq!(reviewed(&mut queue, "ann", &Step::Comment { note: note("as agreed") }), written_off);
    let trail: Vec<_> = queue.case(id).unwrap().trail.iter().map(|event| event.by.to_string()).collect();
    assert_eq!(trail, ["ann", "ann", "ann", "ben", "ben", "ann", "ann", "ann", "ann"]);
    assert!(Person::new("  ").is_none() && Note::new("").is_none() && Note::new(&"x".repeat(1_025)).is_none());
}

fn settles(id: u128, case: CaseId) -> Transaction {
    let details = Details::new("", vec![("why".to_owned(), "a mistake".to_owned()), case.metadata()]).unwrap();
    Transaction { details: Some(Box::new(details)), ..pays_in(id, 5) }
}

/// Any number resolved a case, whether there was such a transaction or not.
#[tokio::test]
async fn a_case_is_resolved_by_a_transaction_that_was_recorded_and_names_it() {
    let (ledger, reviews) = (ledger().await, open(&Memory::new()).await);
    let ann = || person("ann");
    let ReviewReply::Begun { run, .. } = reviews.begin(FILE, note("f"), ann(), false).await.unwrap() else { panic!() };
    reviews.record(FILE, run, &mut some()).await.unwrap();
    let cases = reviews.cases(0, 10).await.unwrap();
    let (case, other) = (cases[0].id, cases[1].id);
    for id in [case, other] {
        reviews.review(id, ann(), Step::Take).await.unwrap();
    }
    let resolve = |id: u128| reviews.resolve(&ledger, case, ann(), TransactionId(id), Some(note("found it")));
    let write_off = |id: u128| reviews.write_off(&ledger, case, ann(), TransactionId(id), None);
    let why = |reply: Result<ReviewReply, ResolveError>| match reply {
        Err(ResolveError::NotRecorded { transaction }) => format!("not recorded: {}", transaction.0),
        Err(ResolveError::Citation(why)) => format!("{why:?}"),
        Err(ResolveError::Reversed { transaction, by }) => format!("{} was reversed by {by}", transaction.0),
        reply => panic!("{reply:?}"),
    };
    record_it(&ledger, pays_in(1, 5)).await;
    record_it(&ledger, settles(2, other)).await;
    record_it(&ledger, settles(3, case).held_until(None)).await;
    for (id, expected) in [
        (77, "not recorded: 77".to_owned()),
        (1, format!("{:?}", CitationError::NotCited { number: 1, case })),
        (2, format!("{:?}", CitationError::NotCited { number: 2, case })),
        (3, format!("{:?}", CitationError::PostedNothing { number: 3 })),
    ] {
        assert_eq!(why(resolve(id).await), expected);
        assert_eq!(why(write_off(id).await), expected);
    }
    record_it(&ledger, settles(40, case)).await;
    let entry = ledger.transaction(TransactionId(40)).await.unwrap().unwrap();
    record_it(&ledger, Transaction::reversal_of(&entry, TransactionId(41)).unwrap()).await;
    assert_eq!(ledger.reversed_by(TransactionId(40)).await.unwrap(), Some(5));
    assert_eq!(why(resolve(40).await), "40 was reversed by 5");
    assert_eq!(why(write_off(40).await), "40 was reversed by 5");
    // Not even by hand: what names another case.
    let entry = ledger.transaction(TransactionId(2)).await.unwrap().unwrap();
    let citation = Citation::of(&entry, other).unwrap();
    for step in
        [Step::Resolve { citation, note: None }, Step::WriteOff { citation: Some(citation), reason: Some(note("x")) }]
    {
        let reply = reviews.review(case, ann(), step).await.unwrap();
        assert_eq!(reply, ReviewReply::Rejected(ReviewReject::OtherCase { case: other }));
    }
    // Nothing of that was recorded.
    let trail = |cases: Vec<Case>| cases.into_iter().find(|one| one.id == case).unwrap().trail.len();
    assert_eq!(trail(reviews.cases(0, 10).await.unwrap()), 2);

    record_it(&ledger, settles(4, case)).await;
    for _ in 0..2 {
        // The second time: the answer was lost.
        let ReviewReply::Reviewed(now) = resolve(4).await.unwrap() else { panic!() };
        assert_eq!((now.state, now.trail.len()), (CaseState::Resolved { transaction: TransactionId(4) }, 3));
        let Some(Step::Resolve { citation, .. }) = &now.trail[2].step else { panic!("{:?}", now.trail) };
        assert_eq!((citation.case(), citation.transaction(), citation.number()), (case, TransactionId(4), 6));
    }
    // Only who took it up does; and only once.
    let ben = reviews.resolve(&ledger, other, person("ben"), TransactionId(2), None).await.unwrap();
    assert_eq!(ben, ReviewReply::Rejected(ReviewReject::TakenBy { by: ann() }));
    record_it(&ledger, settles(5, case)).await;
    assert_eq!(resolve(5).await.unwrap(), ReviewReply::Rejected(ReviewReject::NoStep { state: "resolved" }));
    assert_eq!(write_off(5).await.unwrap(), ReviewReply::Rejected(ReviewReject::NoStep { state: "resolved" }));
    // The other is written off, by a transaction that says so.
    let ReviewReply::Reviewed(now) = reviews.write_off(&ledger, other, ann(), TransactionId(2), None).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(now.state, CaseState::WrittenOff { transaction: Some(TransactionId(2)) });
    let Some(Step::WriteOff { citation: Some(citation), .. }) = &now.trail[2].step else { panic!("{:?}", now.trail) };
    assert_eq!((citation.case(), citation.number()), (other, 2));
}

#[derive(Clone, Debug)]
enum Doing {
    /// A run with some of our records, cut off after so many commands.
    Run {
        ours: Vec<i128>,
        cut: usize,
    },
    Review {
        case: usize,
        by: bool,
        step: Step,
    },
}

fn doing() -> impl Strategy<Value = Doing> {
    let step = prop_oneof![
        3 => Just(Step::Take),
        1 => Just(Step::Release),
        2 => Just(Step::ResolveUnchecked { transaction: Some(TransactionId(1)), note: None }),
        1 => Just(Step::ResolveUnchecked { transaction: None, note: None }),
        1 => Just(Step::WriteOff { citation: None, reason: Some(note("small")) }),
        1 => Just(Step::Reopen { reason: note("no") }),
    ];
    prop_oneof![
        (proptest::collection::vec(0..4_i128, 0..4), 0..9_usize).prop_map(|(ours, cut)| Doing::Run { ours, cut }),
        (0..6_usize, any::<bool>(), step).prop_map(|(case, by, step)| Doing::Review { case, by, step }),
    ]
}

/// Whether no case ever changes its state, or its trail loses a line, but by a step of a person on that case.
fn nothing_is_resolved_by_itself(bug: bool, all: &[Doing]) -> bool {
    let mut queue = ReviewQueue::default();
    queue.resolves_itself = bug;
    let mut commands = Vec::new();
    for doing in all {
        match doing {
            Doing::Review { case, by, step } => {
                if let Some(case) = queue.cases_after(*case as u64).next() {
                    let by = person(if *by { "ann" } else { "ben" });
                    commands.push(ReviewCommand::Review { case: case.id, by, step: step.clone() });
                }
            }
            Doing::Run { ours, cut } => {
                let ours: Vec<_> = ours.iter().map(|amount| record(&format!("r{amount}"), *amount, 0)).collect();
                let theirs: Vec<_> = (0..4).map(|at| record(&format!("r{at}"), 1, 0)).collect();
                let mut found = find(&ours, &theirs);
                let run = queue.file(FILE).map_or(0, |file| file.runs) + 1;
                commands.push(begin(true));
                commands.extend(adds(&mut found, run).into_iter().chain([finish(&found, run)]).take(*cut));
            }
        }
        for command in commands.drain(..) {
            let before = queue.clone();
            queue.apply(at(1), &command);
            for was in before.cases_after(0) {
                let is = queue.case(was.id).unwrap();
                let is_meant = matches!(&command, ReviewCommand::Review { case, .. } if *case == was.id);
                let has_changed = is.state != was.state || is.trail != was.trail;
                let is_settled_well = match &is.state {
                    CaseState::Resolved { transaction } => *transaction == TransactionId(1),
                    _ => true,
                };
                if has_changed && !is_meant || !is.trail.starts_with(&was.trail) || !is_settled_well {
                    return false;
                }
            }
        }
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_is_ever_resolved_by_itself(all in proptest::collection::vec(doing(), 0..12)) {
        prop_assert!(nothing_is_resolved_by_itself(false, &all));
    }
}

#[test]
fn a_queue_that_resolves_what_was_not_found_any_more_is_found_out() {
    let all = [Doing::Run { ours: vec![], cut: 9 }, Doing::Run { ours: vec![1], cut: 9 }];
    assert!(nothing_is_resolved_by_itself(false, &all));
    assert!(!nothing_is_resolved_by_itself(true, &all));
}

async fn open(store: &Memory) -> Reviews<Replica<ReviewQueue>> {
    let (replica, driver) = Replica::open(store.clone(), "reviews", ReplicaConfig::default()).await.unwrap();
    tokio::spawn(driver);
    Reviews::that_may_forget(replica)
}

fn encoded(queue: &ReviewQueue) -> Vec<u8> {
    let mut bytes = Vec::new();
    queue.encode_snapshot(&mut bytes);
    bytes
}

#[tokio::test]
async fn what_was_reviewed_is_there_for_who_opens_it_next_by_log_and_by_snapshot() {
    let store = Memory::new();
    let (replica, _driver) = Replica::open(store.clone(), "reviews", ReplicaConfig::default()).await.unwrap();
    assert!(Reviews::<Replica<ReviewQueue>>::new(replica).is_err(), "memory forgets");
    let reviews = open(&store).await;
    let ReviewReply::Begun { run, .. } = reviews.begin(FILE, note("f"), person("ann"), false).await.unwrap() else {
        panic!("it is new")
    };
    let mut found = some();
    let recorded = reviews.record(FILE, run, &mut found).await.unwrap();
    assert_eq!((recorded.new, recorded.known, recorded.not_found), (3, 0, 0));
    // Once more is refused: this run is through.
    let error = reviews.record(FILE, run, &mut found).await.unwrap_err();
    assert!(matches!(error, RecordError::Rejected(ReviewReject::FinishedAlready { run: 1 })), "{error}");
    let case = reviews.cases(1, 1).await.unwrap().remove(0);
    assert_eq!(case.number, 2);
    reviews.review(case.id, person("ben"), Step::Take).await.unwrap();
    let before = reviews.read_latest(encoded).await.unwrap();
    drop(reviews);
    let reviews = open(&store).await;
    assert_eq!(reviews.read_latest(encoded).await.unwrap(), before);
    reviews.log().snapshot().await.unwrap();
    drop(reviews);
    assert_eq!(open(&store).await.read_latest(encoded).await.unwrap(), before);
}

#[test]
fn more_differences_than_people_could_review_are_an_error_and_large_ones_become_several() {
    let ours: Vec<_> = (0..11).map(|at| record(&at.to_string(), 1, 0)).collect();
    let run = Reconciliation { differences_max: 10, ..Reconciliation::new(std::env::temp_dir()) };
    let error = run.find(records(ours), records([])).unwrap_err();
    assert!(matches!(error, ReconcileError::TooManyDifferences { max: 10 }), "{error}");
    let lines = |from: i128| (from..from + 120).map(|amount| record("a", amount * amount, 0)).collect::<Vec<_>>();
    let mut found = find(&lines(0), &lines(200));
    assert_eq!((found.summary().differences_len(), found.cases_len()), (1, 3));
    let mut queue = ReviewQueue::default();
    queue.apply(at(1), &begin(false));
    for add in adds(&mut found, 1) {
        assert_eq!(queue.apply(at(1), &add), ReviewReply::Added { new: 1, known: 0 });
    }
}
