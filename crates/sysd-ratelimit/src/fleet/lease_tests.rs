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
    /// Requests wait for more than a batch can have.
    WaitsForTooMuch,
}

fn ops() -> impl Strategy<Value = (u32, Vec<Op>)> {
    let op = prop_oneof![
        2 => (0..150_u64).prop_map(Op::Wait),
        8 => (0..6_u32, 0..10_usize).prop_map(|(cost, later)| Op::Take(cost, later)),
        1 => (1..6_u32).prop_map(Op::Dropped),
        2 => Just(Op::Keep),
        1 => Just(Op::KeepInVain),
    ];
    (1..80_u32, proptest::collection::vec(op, 1..120))
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
    tokens: u32,
}

#[allow(clippy::too_many_lines, reason = "one step of each kind")]
fn run((limit, ops): (u32, Vec<Op>), bug: Bug) -> Result<(), TestCaseError> {
    let rule = Rule::new("all", FixedWindow::new(format!("{limit}/d").parse().unwrap())).unwrap();
    let mut store = Store { rule, state: None, left: limit };
    let (mut lease, mut now_us) = (Lease::default(), 1_000_u64);
    let (mut admitted, mut given, mut taken, mut lost) = (0_u32, 0_u32, 0_u32, 0_u32);
    let mut asks: Vec<Ask> = Vec::new();
    // Costs of those who wait for a batch.
    let mut waiters: Vec<u32> = Vec::new();
    let mut held_since_us = 0;
    // Costs that were denied, and until when they may be remembered.
    let mut denials: Vec<(u32, u64)> = Vec::new();
    let sum = |rests: &[Rest]| rests.iter().map(|rest| rest.tokens).sum::<u32>();
    for op in ops {
        for ask in &mut asks {
            ask.answered_after = ask.answered_after.saturating_sub(1);
        }
        // What requests step, with after how many operations one that asks is answered, and whether it may wait.
        let mut steps: Vec<(u32, Option<usize>, bool)> = Vec::new();
        while let Some(at) = asks.iter().position(|ask| ask.answered_after == 0) {
            let Ask { cost, tokens, .. } = asks.remove(at);
            let held = lease.tokens;
            let (batch, decision) = store.take(tokens);
            if decision.is_allowed() {
                taken += tokens;
                let denied = lease.denied;
                lease.granted(now_us, HOLD_US, (tokens, cost), batch, &decision);
                if bug == Bug::RemembersInVain {
                    lease.denied = denied;
                }
                denials.retain(|(cost, _)| *cost > tokens);
                admitted += cost;
                held_since_us = now_us;
                lost += (held + tokens - cost) - lease.tokens;
            } else if tokens > cost {
                let half = (decision.remaining() / 2).max(cost);
                asks.push(Ask { answered_after: 0, cost, tokens: if half < tokens { half } else { cost } });
            } else {
                lease.refused(now_us, HOLD_US, cost, &decision);
                if bug == Bug::RemembersForLong {
                    lease.denied.until_us = lease.denied.enough_at_us;
                }
                denials.push((cost, now_us + HOLD_US));
            }
            if asks.is_empty() {
                steps.extend(waiters.drain(..).map(|cost| (cost, Some(0), false)));
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
            Op::Take(cost, later) => steps.push((cost, Some(later), true)),
            Op::Dropped(cost) => steps.push((cost, None, true)),
        }
        for (cost, later, may_wait) in steps {
            if bug == Bug::NeverExpires && lease.tokens > 0 {
                lease.until_us = u64::MAX;
            }
            match bug {
                Bug::AsksTwice => lease.is_asking = false,
                Bug::DeniesAll => lease.denied.cost = 1,
                Bug::WaitsForNobody => lease.is_asking = true,
                Bug::WaitsForTooMuch => lease.waiting = 0,
                _ => {}
            }
            let (before, oldest) = (lease.tokens, lease.rests.first().map_or(0, |rest| rest.tokens));
            let rests = lease.rests.len();
            match lease.take(now_us, cost, BATCH_MAX, may_wait, |_, _| 0) {
                Step::Decided(decision) if decision.is_allowed() => {
                    admitted += cost;
                    prop_assert!(now_us < held_since_us + HOLD_US, "used when its time was over");
                    prop_assert!(lease.tokens + cost == before, "took another number than its cost");
                }
                Step::Decided(_) => {
                    let is_known = denials.iter().any(|&(denied, until_us)| denied <= cost && now_us < until_us);
                    prop_assert!(is_known, "denied by what is not known any more");
                }
                Step::Alone => {
                    let (_, decision) = store.take(cost);
                    taken += if decision.is_allowed() { cost } else { 0 };
                    admitted += if decision.is_allowed() { cost } else { 0 };
                }
                Step::Wait => {
                    prop_assert!(may_wait && !asks.is_empty(), "it waits for nobody");
                    // A future that is dropped counts until the batch was answered.
                    waiters.push(cost);
                    let waiting = waiters.iter().sum::<u32>();
                    prop_assert!(waiting <= BATCH_MAX || lease.was_denied, "they wait for {}", waiting);
                }
                Step::Lead { tokens } => {
                    let is_full = rests == RESTS_MAX && before > 0 && lease.tokens == 0;
                    lost += if is_full { oldest } else { 0 };
                    if bug == Bug::ForgetsRests {
                        lease.rests.clear();
                    }
                    prop_assert!(asks.is_empty(), "two batches are asked for at once");
                    prop_assert!(tokens >= cost && tokens <= BATCH_MAX.max(cost), "a batch of {}", tokens);
                    if let Some(later) = later {
                        asks.push(Ask { answered_after: later, cost, tokens });
                    } else {
                        lease.gave_up();
                    }
                }
            }
        }
        prop_assert!(lease.rests.len() <= RESTS_MAX, "{} rests wait", lease.rests.len());
        let held = lease.tokens + sum(&lease.rests);
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
        Bug::WaitsForTooMuch,
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
        if let Step::Lead { tokens } = lease.take(now_us, 1, 100, true, |_, _| 0) {
            let (batch, decision) = store.take(tokens);
            lease.granted(now_us, HOLD_US, (tokens, 1), batch, &decision);
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
    let mut lease = Lease::default();
    let outcome = |lease: &mut Lease, now_us, cost| {
        let step = lease.take(now_us, cost, 8, true, |denied, cost| u64::from(cost - denied) * 10);
        if let Step::Decided(decision) = step {
            return Some(decision.outcome());
        }
        lease.gave_up();
        None
    };
    let wait = |us| Some(Outcome::Denied { retry_after: std::time::Duration::from_micros(us) });
    lease.refused(1_000, HOLD_US, 4, &denied(40));
    assert_eq!(outcome(&mut lease, 1_010, 4), wait(30));
    assert_eq!(outcome(&mut lease, 1_010, 6), wait(50));
    assert_eq!(outcome(&mut lease, 1_010, 3), None, "a smaller one may pass");
    // A smaller one takes its place, a greater one does not.
    lease.refused(1_010, HOLD_US, 2, &denied(20));
    lease.refused(1_010, HOLD_US, 9, &denied(90));
    assert_eq!(outcome(&mut lease, 1_011, 2), wait(19));
    assert_eq!(outcome(&mut lease, 1_011, 4), wait(39));
    // Its time is over: another one counts again.
    assert_eq!(outcome(&mut lease, 1_030, 9), None);
    lease.refused(1_030, HOLD_US, 9, &denied(70));
    assert_eq!(outcome(&mut lease, 1_031, 9), wait(69));
    assert_eq!(outcome(&mut lease, 1_031, 8), None);
    // There is enough in 900: it is remembered for as long as a batch would be held, and then asked for again.
    lease.refused(2_000, HOLD_US, 3, &denied(900));
    assert_eq!(outcome(&mut lease, 2_099, 3), wait(801));
    assert_eq!(outcome(&mut lease, 2_100, 3), None);
}

#[test]
fn what_those_who_wait_did_not_find_the_next_batch_has() {
    let rule = Rule::new("all", FixedWindow::new("1000000/d".parse().unwrap())).unwrap();
    let mut store = Store { rule, state: None, left: 1_000_000 };
    let mut lease = Lease::default();
    let take = |lease: &mut Lease, cost| lease.take(1_000, cost, 100, true, |_, _| 0);
    assert!(matches!(take(&mut lease, 1), Step::Lead { tokens: 1 }));
    for _ in 0..20 {
        assert!(matches!(take(&mut lease, 5), Step::Wait));
    }
    assert!(matches!(take(&mut lease, 1), Step::Alone), "no batch has so much");
    let (batch, decision) = store.take(1);
    lease.granted(1_000, HOLD_US, (1, 1), batch, &decision);
    assert!(matches!(take(&mut lease, 5), Step::Lead { tokens: 100 }));
    assert!(matches!(take(&mut lease, 1), Step::Wait));
}
