//! What is held, used and given back is what was taken: laws of a lease, and leases that break them.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use sysd_core::{Procedure as _, StateChange, Timestamp};

use super::*;
use crate::{FixedWindow, GiveAll, Rule};

const HOLD_US: u64 = 100;
const BATCH_MAX: u32 = 16;

#[derive(Debug, Clone, Copy)]
enum Op {
    Wait(u64),
    /// A request of this cost; one that asks is answered only so many operations later.
    Take(u32, usize),
    /// One whose future is dropped while it asks.
    Dropped(u32),
    /// Nobody waits any longer for the one that asks; it is answered later all the same.
    Overtake,
    /// One in line waits no longer.
    Leave,
    /// One that is told that it is allowed is gone by then, which is seen only so many operations later.
    Gone(u32, usize),
    /// The keeper comes round.
    Keep,
    /// It does, and the store does not answer.
    KeepInVain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// What is given back stays in hand.
    GivesAndKeeps,
    /// What is in hand is used for as long as it lasts.
    NeverExpires,
    /// A batch is asked for though one is under way.
    AsksTwice,
    /// A denial is remembered for smaller costs too.
    DeniesAll,
    /// What is left of a batch is forgotten when the next is asked for.
    ForgetsRests,
    /// A denial is remembered until there is enough by itself.
    RemembersForLong,
    /// A denial is remembered though there was enough since.
    RemembersInVain,
    /// A request waits though no batch is under way.
    WaitsForNobody,
    /// Who leaves the line is counted on.
    CountsWhoLeft,
    /// Who asks does not ask for those in line.
    ForgetsTheLine,
    /// What one did not take any more is in hand though its batch is not.
    GivesToAnother,
    /// What comes back into hand while a batch is asked for is forgotten.
    LosesWhatCameBack,
    /// What was put aside for the one that asks is forgotten.
    LosesWhatIsAside,
    /// What a batch that comes late has more than its request's cost is forgotten.
    LosesWhatIsLate,
}

fn ops() -> impl Strategy<Value = (u32, Vec<Op>)> {
    let op = prop_oneof![
        2 => (0..150_u64).prop_map(Op::Wait),
        8 => (0..6_u32, 0..10_usize).prop_map(|(cost, later)| Op::Take(cost, later)),
        1 => (1..6_u32).prop_map(Op::Dropped),
        1 => Just(Op::Overtake),
        1 => Just(Op::Leave),
        1 => (1..6_u32, 0..6_usize).prop_map(|(cost, later)| Op::Gone(cost, later)),
        2 => Just(Op::Keep),
        1 => Just(Op::KeepInVain),
    ];
    (1..80_u32, proptest::collection::vec(op, 1..120))
}

/// The store answered at once.
fn said(at_us: u64, hold_us: u64) -> Said {
    Said { asked_at_us: at_us, at_us, hold_us }
}

fn terms(now_us: u64) -> Terms<'static> {
    Terms { now_us, batch_max: BATCH_MAX, wait_max_us: HOLD_US, refill: Refill::Unknown }
}

/// A rule on a store of its own; nothing comes back by time.
struct Store {
    rule: Rule,
    state: Option<Vec<u8>>,
    left: u32,
}

const NOW_US: u64 = 1_800_000_000_000_000;

impl Store {
    fn take(&mut self, cost: u32) -> (Box<Batch>, Decision) {
        let take = TakeAll::new([(&self.rule, cost)]);
        let step = take.apply(self.state.as_deref(), Timestamp::from_micros(NOW_US).unwrap()).unwrap();
        if let StateChange::Put { state, .. } = step.change {
            self.state = Some(state.to_vec());
        }
        let decision = *take.decision(&step.output).decision();
        self.left -= if decision.is_allowed() { cost } else { 0 };
        (Box::new(Batch { take, verdict: step.output }), decision)
    }

    fn give(&mut self, rest: &Rest) {
        let give = GiveAll::part_of(&rest.batch.take, &rest.batch.verdict, |_| rest.tokens).unwrap();
        let step = give.apply(self.state.as_deref(), Timestamp::from_micros(NOW_US).unwrap()).unwrap();
        let StateChange::Put { state, .. } = step.change else { panic!("gives nothing back") };
        self.state = Some(state.to_vec());
        self.left += rest.tokens;
    }
}

struct Ask {
    answered_after: usize,
    cost: u32,
    least: u32,
    tokens: u32,
}

#[allow(clippy::too_many_lines, reason = "one step of each kind")]
fn run((limit, ops): (u32, Vec<Op>), bug: Bug) -> Result<(), TestCaseError> {
    let rule = Rule::new("all", FixedWindow::new(format!("{limit}/d").parse().unwrap())).unwrap();
    let mut store = Store { rule, state: None, left: limit };
    let (mut lease, mut now_us) = (Lease::default(), 1_000_u64);
    let (mut admitted, mut given, mut taken, mut lost) = (0_u32, 0_u32, 0_u32, 0_u32);
    let mut asks: Vec<Ask> = Vec::new();
    let mut late: Vec<Ask> = Vec::new();
    let mut gone: Vec<(usize, u64, u32)> = Vec::new();
    // Costs of those in line.
    let mut waiters: Vec<u32> = Vec::new();
    let (mut held_since_us, mut number) = (0, 0);
    // Costs that were denied, and until when they may be remembered.
    let mut denials: Vec<(u32, u64)> = Vec::new();
    let sum = |rests: &[Rest]| rests.iter().map(|rest| rest.tokens).sum::<u32>();
    for op in ops {
        for ask in asks.iter_mut().chain(&mut late) {
            ask.answered_after = ask.answered_after.saturating_sub(1);
        }
        while let Some(at) = gone.iter().position(|(later, ..)| *later == 0) {
            let (_, of, cost) = gone.remove(at);
            let is_there = of == lease.batch_number() && lease.batch.is_some();
            lost += if is_there { 0 } else { cost };
            if bug == Bug::GivesToAnother {
                lease.tokens += cost;
            } else {
                lease.untaken(of, cost);
            }
        }
        for (later, ..) in &mut gone {
            *later -= 1;
        }
        // What requests step, with after how many operations one that asks is answered, and whether it was in line.
        let mut steps: Vec<(u32, Option<usize>, bool)> = Vec::new();
        while let Some(at) = late.iter().position(|ask| ask.answered_after == 0) {
            let Ask { cost, tokens, .. } = late.remove(at);
            let (batch, decision) = store.take(tokens);
            if decision.is_allowed() {
                // What was put aside for it others have: it may not be enough.
                let used = if tokens >= cost { cost } else { 0 };
                (taken, admitted) = (taken + tokens, admitted + used);
                let is_full = tokens > used && lease.rests.len() == RESTS_MAX;
                lost += if is_full { lease.rests[0].tokens } else { 0 };
                lease.keep_late(batch, if bug == Bug::LosesWhatIsLate { 0 } else { tokens - used });
            }
        }
        while let Some(at) = asks.iter().position(|ask| ask.answered_after == 0) {
            let Ask { cost, least, tokens, .. } = asks.remove(at);
            let (batch, decision) = store.take(tokens);
            if decision.is_allowed() {
                taken += tokens;
                let denied = lease.denied;
                // What came back meanwhile waits for the keeper, if there is room.
                let came_back = lease.tokens > 0;
                if came_back && lease.rests.len() == RESTS_MAX {
                    lost += lease.rests[0].tokens;
                }
                if came_back && bug == Bug::LosesWhatCameBack {
                    lease.tokens = 0;
                }
                if bug == Bug::LosesWhatIsAside {
                    lease.aside = 0;
                }
                number += 1;
                let grant = Grant { tokens, cost, batch, number };
                lease.granted(said(now_us, HOLD_US), grant, &decision, |_, _| None);
                if bug == Bug::RemembersInVain {
                    lease.denied = denied;
                }
                denials.retain(|(cost, _)| *cost > tokens);
                admitted += cost;
                held_since_us = now_us;
            } else if tokens > least {
                let half = (decision.remaining() / 2).max(least);
                asks.push(Ask { answered_after: 0, cost, least, tokens: if half < tokens { half } else { least } });
            } else {
                lease.refused(said(now_us, HOLD_US), &terms(now_us), (cost, least), &decision);
                if bug == Bug::RemembersForLong {
                    lease.denied.until_us = lease.denied.enough_at_us;
                }
                denials.push((least, now_us + HOLD_US));
            }
            if asks.is_empty() {
                steps.extend(waiters.drain(..).map(|cost| (cost, Some(0), true)));
            }
        }
        match op {
            Op::Wait(us) => now_us += us,
            Op::Keep => {
                let rests = lease.expire(now_us, false);
                if let (Bug::GivesAndKeeps, Some(rest)) = (bug, rests.last()) {
                    lease.tokens = rest.tokens;
                    lease.until_us = u64::MAX;
                }
                for rest in &rests {
                    store.give(rest);
                }
                given += sum(&rests);
            }
            Op::KeepInVain => {
                let rests = lease.expire(now_us, false);
                let before = sum(&rests);
                rests.into_iter().rev().for_each(|rest| lease.put_back(rest));
                lost += before - sum(&lease.rests);
            }
            Op::Take(cost, later) => steps.push((cost, Some(later), false)),
            Op::Overtake => {
                if let Some(ask) = asks.pop() {
                    lease.abandoned();
                    late.push(ask);
                    steps.extend(waiters.drain(..).map(|cost| (cost, Some(5), true)));
                }
            }
            Op::Dropped(cost) => steps.push((cost, None, false)),
            Op::Leave => {
                if let Some(cost) = waiters.pop()
                    && bug != Bug::CountsWhoLeft
                {
                    lease.left(cost);
                }
            }
            Op::Gone(cost, later) => {
                if let Some(Outcome::Allowed) = lease.decide(&terms(now_us), cost).map(|decision| decision.outcome()) {
                    gone.push((later, lease.batch_number(), cost));
                }
            }
        }
        for (cost, later, was_in_line) in steps {
            if was_in_line && !asks.is_empty() {
                waiters.push(cost);
                continue;
            }
            if was_in_line {
                lease.left(cost);
            }
            if bug == Bug::NeverExpires && lease.tokens > 0 {
                lease.until_us = u64::MAX;
            }
            match bug {
                Bug::AsksTwice => lease.is_asking = false,
                Bug::DeniesAll => lease.denied.cost = 1,
                Bug::WaitsForNobody => lease.is_asking = true,
                Bug::ForgetsTheLine => lease.waiting = 0,
                _ => {}
            }
            let (before, oldest) = (lease.tokens, lease.rests.first().map_or(0, |rest| rest.tokens));
            let rests = lease.rests.len();
            let waiting: u32 = waiters.iter().sum();
            match lease.take(&terms(now_us), cost) {
                Step::Decided(decision) if decision.is_allowed() => {
                    admitted += cost;
                    prop_assert!(now_us < held_since_us + HOLD_US, "used when its time was over");
                    prop_assert!(lease.tokens + cost == before, "took another number than its cost");
                }
                Step::Decided(_) => {
                    let lacks = cost - lease.in_hand(now_us);
                    let is_known = denials.iter().any(|&(denied, until_us)| denied <= lacks && now_us < until_us);
                    prop_assert!(is_known, "denied by what is not known any more");
                }
                Step::Alone => prop_assert!(cost == 0 || lease.is_line_full(&terms(now_us), cost), "it asks alone"),
                Step::Wait => {
                    prop_assert!(!asks.is_empty(), "it waits for nobody");
                    waiters.push(cost);
                }
                Step::Lead { tokens, least } => {
                    let is_full = rests == RESTS_MAX && before > 0 && lease.aside == 0;
                    lost += if is_full { oldest } else { 0 };
                    if bug == Bug::ForgetsRests {
                        lease.rests.clear();
                    }
                    prop_assert!(asks.is_empty(), "two batches are asked for at once");
                    prop_assert!(least + lease.aside == cost, "it asks for {} of {}", least, cost);
                    prop_assert!(
                        tokens >= least && tokens + lease.aside <= BATCH_MAX.max(cost),
                        "a batch of {}",
                        tokens
                    );
                    let wanted = (BATCH_MAX - lease.aside.min(BATCH_MAX)).min(least + waiting);
                    prop_assert!(tokens >= wanted, "{} of {} in line", tokens, wanted);
                    if let Some(later) = later {
                        asks.push(Ask { answered_after: later, cost, least, tokens });
                    } else {
                        lease.abandoned();
                        // The first in line asks; here it is dropped too.
                        waiters.drain(..).for_each(|cost| lease.left(cost));
                    }
                }
            }
        }
        prop_assert_eq!(lease.waiting, u64::from(waiters.iter().sum::<u32>()), "who is in line is counted");
        prop_assert!(lease.rests.len() <= RESTS_MAX, "{} rests wait", lease.rests.len());
        let held = lease.tokens + lease.aside + sum(&lease.rests) + gone.iter().map(|(.., cost)| cost).sum::<u32>();
        prop_assert_eq!(admitted + given + lost + held, taken, "what is taken is used, given, lost or held");
    }
    Ok(())
}

fn outcome(bug: Bug) -> Result<(), String> {
    let config = Config { cases: 3_000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    match runner.run(&ops(), |history| run(history, bug)) {
        Err(TestError::Fail(reason, history)) => Err(format!("{reason}: {history:?}")),
        Err(error) => Err(error.to_string()),
        Ok(()) => Ok(()),
    }
}

#[test]
fn what_is_taken_is_used_given_back_lost_or_held() {
    outcome(Bug::None).unwrap();
}

#[test]
fn broken_leases_are_found() {
    let leases = [Bug::GivesAndKeeps, Bug::NeverExpires, Bug::AsksTwice, Bug::DeniesAll, Bug::ForgetsRests];
    for bug in leases.into_iter().chain([
        Bug::RemembersForLong,
        Bug::RemembersInVain,
        Bug::WaitsForNobody,
        Bug::CountsWhoLeft,
        Bug::ForgetsTheLine,
        Bug::GivesToAnother,
        Bug::LosesWhatCameBack,
        Bug::LosesWhatIsAside,
        Bug::LosesWhatIsLate,
    ]) {
        assert!(outcome(bug).is_err(), "{bug:?}");
    }
}

#[test]
fn batches_follow_the_demand() {
    let rule = Rule::new("all", FixedWindow::new("1000000/d".parse().unwrap())).unwrap();
    let mut store = Store { rule, state: None, left: 1_000_000 };
    let (mut lease, mut sizes) = (Lease::default(), Vec::new());
    let mut take = |lease: &mut Lease, now_us| {
        if let Step::Lead { tokens, .. } = lease.take(&Terms { batch_max: 100, ..terms(now_us) }, 1) {
            let (batch, decision) = store.take(tokens);
            let grant = Grant { tokens, cost: 1, batch, number: 1 };
            lease.granted(said(now_us, HOLD_US), grant, &decision, |_, _| None);
            sizes.push(tokens);
        }
    };
    // Two a microsecond, then ten in the time for which a batch is held, then one.
    for now_us in 1_000..1_400 {
        take(&mut lease, now_us);
        take(&mut lease, now_us);
    }
    for now_us in (2_000..3_000).step_by(10) {
        take(&mut lease, now_us);
    }
    for now_us in (10_000..11_000).step_by(200) {
        take(&mut lease, now_us);
    }
    assert_eq!(sizes[..8], [1, 2, 4, 8, 16, 32, 64, 100]);
    assert!(sizes[8..14].iter().all(|&size| size == 100), "{sizes:?}");
    assert_eq!(sizes[15..25], [10; 10], "{sizes:?}");
    assert_eq!(sizes[25..], [1; 4], "{sizes:?}");
}

#[test]
fn the_least_cost_that_is_denied_is_remembered_for_a_while_and_greater_ones_are_denied_with_it() {
    let denied = |us| Decision::new(Outcome::Denied { retry_after: std::time::Duration::from_micros(us) }, 10, 1, 90);
    let bucket = crate::TokenBucket::new("100000/s".parse().unwrap(), 10).unwrap();
    let mut lease = Lease::default();
    let outcome = |lease: &mut Lease, now_us, cost| {
        let step = lease.take(&Terms { refill: Refill::Evenly(&bucket), ..terms(now_us) }, cost);
        if let Step::Decided(decision) = step {
            return Some(decision.outcome());
        }
        lease.gave_up();
        None
    };
    let wait = |us| Some(Outcome::Denied { retry_after: std::time::Duration::from_micros(us) });
    lease.refused(said(1_000, HOLD_US), &terms(1_000), (4, 4), &denied(40));
    assert_eq!(outcome(&mut lease, 1_010, 4), wait(30));
    assert_eq!(outcome(&mut lease, 1_010, 6), wait(50));
    assert_eq!(outcome(&mut lease, 1_010, 3), None, "a smaller one may pass");
    // A smaller one takes its place, a greater one does not.
    lease.refused(said(1_010, HOLD_US), &terms(1_010), (2, 2), &denied(20));
    lease.refused(said(1_010, HOLD_US), &terms(1_010), (9, 9), &denied(90));
    assert_eq!(outcome(&mut lease, 1_011, 2), wait(19));
    assert_eq!(outcome(&mut lease, 1_011, 4), wait(39));
    // Its time is over: another one counts again.
    assert_eq!(outcome(&mut lease, 1_030, 9), None);
    lease.refused(said(1_030, HOLD_US), &terms(1_030), (9, 9), &denied(70));
    assert_eq!(outcome(&mut lease, 1_031, 9), wait(69));
    assert_eq!(outcome(&mut lease, 1_031, 8), None);
    // There is enough in 900: it is remembered for as long as a batch would be held, and then asked for again.
    lease.refused(said(2_000, HOLD_US), &terms(2_000), (3, 3), &denied(900));
    assert_eq!(outcome(&mut lease, 2_099, 3), wait(801));
    assert_eq!(outcome(&mut lease, 2_100, 3), None);
}

#[test]
fn what_those_who_wait_did_not_find_the_next_batch_has() {
    let rule = Rule::new("all", FixedWindow::new("1000000/d".parse().unwrap())).unwrap();
    let mut store = Store { rule, state: None, left: 1_000_000 };
    let mut lease = Lease::default();
    let take = |lease: &mut Lease, cost| lease.take(&Terms { batch_max: 100, ..terms(1_000) }, cost);
    assert!(matches!(take(&mut lease, 1), Step::Lead { tokens: 1, .. }));
    for _ in 0..20 {
        assert!(matches!(take(&mut lease, 5), Step::Wait));
    }
    let (batch, decision) = store.take(1);
    let grant = Grant { tokens: 1, cost: 1, batch, number: 1 };
    lease.granted(said(1_000, HOLD_US), grant, &decision, |_, _| None);
    // The first has its turn; what a batch has not the next one has.
    lease.left(5);
    assert!(matches!(take(&mut lease, 5), Step::Lead { tokens: 100, .. }));
    assert!(matches!(take(&mut lease, 1), Step::Wait));
    assert_eq!(lease.waiting, 19 * 5 + 1);
}

/// How a lease may go wrong about a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    No,
    /// The others wait for twice what the one that asks wants.
    SpeaksForTwice,
    /// What the one that asks wanted counts though its call has failed.
    SpeaksOn,
    /// The next token comes later than it says.
    NextIsLate,
    /// A denial of a greater cost than what the batch had waits no longer for it.
    ForgetsWhatItTook,
    /// The others are denied no longer than if nobody asked, but told to wait so.
    Forgets,
    /// Who is denied waits from when the store was asked on.
    CountsFromTheCall,
    /// It asks for more than a bucket has by then.
    AsksInVain,
    /// Who is denied is told to count on what is in hand though that is gone by then.
    KeepsTheHand,
}

/// A step: time passes, and a request of this cost comes; one that asks is answered so many steps later, so many of them after the store has
/// decided, or fails.
type BucketStep = (u64, u32, usize, usize, bool);

const BUCKET_HOLD_US: u64 = 400;

struct BucketAsk {
    sent_us: u64,
    cost: u32,
    /// What it lacks beside what was in hand.
    least: u32,
    tokens: u32,
    answered_after: usize,
    /// So many steps before the answer the store decides.
    back: usize,
    fails: bool,
    /// What the bucket has was known.
    is_known: bool,
    decided: Option<(u64, u32, Box<Batch>, Decision)>,
}

fn buckets() -> impl Strategy<Value = (u32, u64, u32, Vec<BucketStep>)> {
    let step = (
        prop_oneof![40 => 0..10_u64, 10 => 0..60_u64, 1 => 0..1_000_u64],
        prop_oneof![3 => Just(1_u32), 1 => 1..6_u32],
        0..6_usize,
        0..6_usize,
        any::<bool>(),
    );
    (1..=4_u32, 20..200_u64, 6..20_u32, proptest::collection::vec(step, 1..150))
}

/// One process has a bucket for itself: what the lease denies by itself the store would deny, if the one that asks comes first, and who waits as
/// long as it says is admitted then.
#[allow(clippy::too_many_lines, reason = "one step of each kind")]
fn of_a_bucket(
    (count, period_us, burst, steps): (u32, u64, u32, Vec<BucketStep>),
    wrong: Wrong,
) -> Result<(u32, u32), TestCaseError> {
    let rate = crate::Rate::new(count, std::time::Duration::from_micros(period_us)).unwrap();
    let bucket = crate::TokenBucket::new(rate, burst).unwrap();
    let rule = Rule::new("all", bucket).unwrap();
    let mut state: Option<Vec<u8>> = None;
    // Of what is stored then: a take, whether it was allowed, and when the next token comes.
    let take_at = |state: &mut Option<Vec<u8>>, now_us: u64, cost: u32| {
        let take = TakeAll::new([(&rule, cost)]);
        let step = take.apply(state.as_deref(), Timestamp::from_micros(NOW_US + now_us).unwrap()).unwrap();
        if let StateChange::Put { state: put, .. } = step.change {
            *state = Some(put.to_vec());
        }
        let decision = *take.decision(&step.output).decision();
        (Box::new(Batch { take, verdict: step.output }), decision)
    };
    let wait_us = |verdict: &JointVerdict, tokens| {
        let debt = verdict.first().unwrap().debt();
        let owed = debt.plus(bucket.price(tokens)?, bucket.denominator());
        let wait_us = owed.minus(bucket.capacity(), bucket.denominator()).ceil_us();
        Some(if wrong == Wrong::NextIsLate { wait_us + 20 } else { wait_us })
    };
    let of = |now_us| Terms {
        batch_max: burst.min(16),
        wait_max_us: u64::MAX,
        refill: Refill::Evenly(&bucket),
        ..terms(now_us)
    };
    let spoken_us = |lease: &Lease| bucket.price(lease.ahead()).unwrap().ceil_us();
    let (mut lease, mut now_us, mut own, mut by_hand) = (Lease::default(), 0_u64, 0, 0);
    let mut ask: Option<BucketAsk> = None;
    // Between a call and the store's decision, and between that and its answer, at most.
    let (mut there_us, mut back_us) = (0, 0);
    let mut for_others: Option<Option<Vec<u8>>> = None;
    for (pause_us, cost, later, back, fails) in steps {
        now_us += pause_us;
        if let Some(ask) = &mut ask
            && ask.answered_after <= ask.back
            && ask.decided.is_none()
            && !ask.fails
        {
            // What it takes beyond its own cost is there for the others, in hand.
            let mut others = state.clone();
            take_at(&mut others, now_us, ask.least);
            for_others = Some(others);
            let (mut batch, mut decision) = take_at(&mut state, now_us, ask.tokens);
            // A call that is quicker than the last one may come before what that one told.
            let is_in_vain =
                now_us - ask.sent_us >= there_us && ask.is_known && !decision.is_allowed() && ask.tokens > ask.least;
            prop_assert!(!is_in_vain, "{} are asked for in vain", ask.tokens);
            let mut taken = ask.tokens;
            if !decision.is_allowed() && ask.tokens > ask.least {
                taken = ask.least;
                (batch, decision) = take_at(&mut state, now_us, taken);
            }
            ask.decided = Some((now_us, taken, batch, decision));
        }
        if let Some(BucketAsk { sent_us, cost, least, decided, .. }) = ask.take_if(|ask| ask.answered_after == 0) {
            let (spoken_us, denied) = (spoken_us(&lease), lease.denied);
            for_others = None;
            let said = Said { asked_at_us: sent_us, at_us: now_us, hold_us: BUCKET_HOLD_US };
            if let Some((decided_us, taken, batch, decision)) = decided {
                if decision.is_allowed() {
                    lease.granted(said, Grant { tokens: taken, cost, batch, number: 1 }, &decision, wait_us);
                    if wrong == Wrong::ForgetsWhatItTook && denied.until_us > now_us {
                        lease.denied = denied;
                    }
                } else {
                    lease.refused(said, &of(now_us), (cost, least), &decision);
                }
                (there_us, back_us) = (there_us.max(decided_us - sent_us), back_us.max(now_us - decided_us));
            } else {
                lease.gave_up();
                if wrong == Wrong::SpeaksOn {
                    lease.denied.enough_at_us += spoken_us;
                    lease.denied.until_us += spoken_us;
                }
            }
            if wrong == Wrong::CountsFromTheCall {
                lease.denied.enough_at_us = lease.denied.maybe_at_us;
            }
        }
        if let Some(ask) = &mut ask {
            ask.answered_after -= 1;
        }
        // What there is for others than the one that asks.
        let spoken = ask.as_ref().filter(|ask| ask.decided.is_none()).map_or(0, |ask| ask.least);
        // The one that asks came too early: who waits for what it wanted waits too long.
        let decided = ask.as_ref().and_then(|ask| ask.decided.as_ref());
        let is_refused = decided.is_some_and(|(.., decision)| !decision.is_allowed());
        let others = for_others.as_ref().unwrap_or(&state);
        let has = |at_us, tokens: u32| take_at(&mut others.clone(), at_us, tokens).1.is_allowed();
        let (hand, hand_until_us) = (lease.tokens, lease.until_us);
        if wrong == Wrong::KeepsTheHand {
            lease.until_us = lease.until_us.saturating_add(BUCKET_HOLD_US);
        }
        let step = lease.take(&of(now_us), cost);
        lease.until_us = hand_until_us;
        match step {
            Step::Decided(decision) if decision.is_allowed() => {}
            Step::Decided(decision) => {
                own += 1;
                let mut wait_us = super::super::micros(decision.retry_after().unwrap());
                wait_us = if wrong == Wrong::Forgets { wait_us.saturating_sub(spoken_us(&lease)) } else { wait_us };
                // What is in hand then it does not lack.
                let lacks = cost - if now_us + wait_us < hand_until_us { hand } else { 0 };
                // A bucket that never holds both has enough later, by how long the call takes.
                let is_both = lacks + ask.as_ref().map_or(0, |ask| ask.least) <= burst;
                let is_enough = !is_both || has(now_us + wait_us, lacks + spoken);
                by_hand += u32::from(lacks < cost);
                prop_assert!(is_enough, "not there after {} at {}", wait_us, now_us);
                // What one waits for is rounded up, and so is what the one that asks wants: by a microsecond each.
                let early_us = (now_us + wait_us).saturating_sub(3 + back_us);
                let is_late = is_both && !is_refused && has(early_us, lacks + spoken);
                prop_assert!(!is_late, "there before {} at {}", wait_us, now_us);
            }
            Step::Lead { tokens, least } => {
                if wrong == Wrong::SpeaksForTwice {
                    lease.spoken *= 2;
                }
                let is_known = lease.denied.cost > 0 && now_us < lease.denied.known_until_us;
                let tokens = if wrong == Wrong::AsksInVain { tokens * 2 } else { tokens };
                let (sent_us, decided) = (now_us, None);
                ask = Some(BucketAsk {
                    sent_us,
                    cost,
                    least,
                    tokens,
                    answered_after: later,
                    back,
                    fails,
                    is_known,
                    decided,
                });
            }
            Step::Alone => prop_assert!(false, "it asks alone"),
            // It waits no longer, and comes again or not.
            Step::Wait => lease.left(cost),
        }
    }
    Ok((own, by_hand))
}

fn of_buckets(wrong: Wrong) -> Result<(u32, u32), String> {
    let counts = std::cell::Cell::new((0, 0));
    let config = Config { cases: 3_000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let run = |case| {
        let ((own, by_hand), (all, all_by_hand)) = (of_a_bucket(case, wrong)?, counts.get());
        counts.set((all + own, all_by_hand + by_hand));
        Ok(())
    };
    runner.run(&buckets(), run).map_err(|error| error.to_string())?;
    Ok(counts.into_inner())
}

#[test]
fn what_it_denies_by_itself_a_bucket_does_not_have() {
    let (own, by_hand) = of_buckets(Wrong::No).unwrap();
    assert!(own > 10_000 && by_hand > 100, "{own}, of them {by_hand} that lack less than their cost");
    let others = [Wrong::NextIsLate, Wrong::ForgetsWhatItTook, Wrong::Forgets];
    let of_time = [Wrong::CountsFromTheCall, Wrong::AsksInVain, Wrong::KeepsTheHand];
    for wrong in [Wrong::SpeaksForTwice, Wrong::SpeaksOn].into_iter().chain(others).chain(of_time) {
        assert!(of_buckets(wrong).is_err(), "{wrong:?}");
    }
}
