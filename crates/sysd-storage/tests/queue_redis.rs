//! Queue and lease on real servers: eight consumers, some of whom are dropped in the middle, none of whose jobs is lost.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sysd_core::lease::{Acquired, FencingToken, HolderId, Leases as _};
use sysd_core::queue::{Held, NewJob, Queue as _, Settlement};
use sysd_core::{ArgumentBytes, OutputBytes, Procedure as _, StateChange, Store, SystemClock, Timestamp};
use sysd_storage::lease::{Ask, AskLease};
use sysd_storage::{LeaseConfig, QueueConfig, RecordLeases, RecordQueue, RedisStore};

use support::{cluster_url, config, server_url};

const CONSUMERS: u64 = 8;

async fn connect(url: &str) -> RedisStore {
    RedisStore::connect_with(url, config(), SystemClock).await.unwrap()
}

#[derive(Default)]
struct Tally {
    acked: Mutex<BTreeMap<u64, u32>>,
    dropped: AtomicU64,
}

/// Leases and acks until everything was acked; now and then it is dropped with jobs in hand.
async fn consume<S: Store>(queue: RecordQueue<S>, tally: Arc<Tally>, jobs: u64, consumer: u64) {
    for turn in consumer.. {
        if tally.acked.lock().unwrap().len() as u64 == jobs {
            return;
        }
        let leased = queue.lease(64, Duration::from_millis(700)).await.unwrap();
        if leased.is_empty() {
            // real-time: jobs of those who were dropped come back by the clock.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        if turn % 23 == 7 {
            tally.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let acks: Vec<_> = leased.iter().map(|job| (job.lease.clone(), Settlement::Ack)).collect();
        for (job, answer) in leased.iter().zip(queue.settle_many(&acks).await) {
            if answer.unwrap() == Held::Held {
                let number = u64::from_be_bytes(job.payload.as_ref().try_into().unwrap());
                *tally.acked.lock().unwrap().entry(number).or_default() += 1;
            }
        }
    }
}

/// All jobs are acked, each once, though consumers are dropped with jobs in hand, and in the middle of calls.
async fn no_job_is_lost(store: impl Store + Clone, jobs: u64) {
    let queue = RecordQueue::open(store, "work", QueueConfig::default()).await.unwrap();
    let numbers: Vec<u64> = (0..jobs).collect();
    let tally = Arc::new(Tally::default());
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|consumer| tokio::spawn(consume(queue.clone(), Arc::clone(&tally), jobs, consumer)))
        .collect();
    // Two more, that die in the middle of whatever call they are at.
    let dying: Vec<_> = (0..2)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move {
                for _ in 0..6 {
                    drop(queue.lease(16, Duration::from_millis(300)).await);
                }
            })
        })
        .collect();
    for numbers in numbers.chunks(500) {
        let batch: Vec<_> = numbers.iter().map(|number| NewJob::new(number.to_be_bytes().to_vec())).collect();
        assert!(queue.enqueue_many(&batch).await.into_iter().all(|answer| answer.is_ok()));
    }
    for dying in dying {
        dying.abort();
        drop(dying.await);
    }
    for consumer in consumers {
        tokio::time::timeout(Duration::from_secs(120), consumer).await.expect("jobs are missing").unwrap();
    }
    let acked = tally.acked.lock().unwrap().clone();
    assert_eq!(acked.len() as u64, jobs);
    assert!(acked.values().all(|&times| times == 1), "a job was acked twice");
    assert!(tally.dropped.load(Ordering::Relaxed) > 0, "no consumer was dropped");
    assert!(queue.lease(10, Duration::from_secs(1)).await.unwrap().is_empty());
    let depth = queue.depth(1_000).await.unwrap();
    assert_eq!((depth.waiting, depth.leased, depth.delayed), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_lost_on_redis() {
    no_job_is_lost(connect(&server_url()).await, 40_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_lost_on_a_cluster() {
    no_job_is_lost(connect(&cluster_url()).await, 10_000).await;
}

/// Eight holders, one name: at every moment one, and tokens rise.
#[tokio::test(flavor = "multi_thread")]
async fn one_holder_at_a_time_on_redis() {
    let leases = RecordLeases::new(connect(&server_url()).await, LeaseConfig::default());
    let seen: Arc<Mutex<Vec<FencingToken>>> = Arc::default();
    let inside = Arc::new(AtomicU64::new(0));
    let holders: Vec<_> = (0..8)
        .map(|_| {
            let (leases, seen, inside) = (leases.clone(), Arc::clone(&seen), Arc::clone(&inside));
            tokio::spawn(async move {
                let (holder, start, mut turns) = (leases.mint_holder(), Instant::now(), 0);
                while turns < 20 {
                    assert!(start.elapsed() < Duration::from_secs(60), "it never came to its turn");
                    let hold = Duration::from_secs(10);
                    let Acquired::Held(lease) = leases.acquire(b"one", holder, hold).await.unwrap() else { continue };
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    seen.lock().unwrap().push(lease.token);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(leases.release(&lease).await.unwrap(), None);
                    turns += 1;
                }
            })
        })
        .collect();
    for holder in holders {
        holder.await.unwrap();
    }
    assert!(seen.lock().unwrap().windows(2).all(|pair| pair[0] < pair[1]), "tokens rise");
}

/// Folds the twin over a history: each call is a time (eight bytes) and arguments; answers action, output, state, ttl.
const FOLD: &str = r"
local state = nil
local answers = {}
for i = 1, #ARGV, 2 do
  local now = struct.unpack('>I8', ARGV[i])
  local action, output, new_state, ttl = twin(state, now, ARGV[i + 1])
  if action == 'put' then state = new_state end
  answers[#answers + 1] = {action, output, new_state or '', ttl and struct.pack('>I8', ttl) or ''}
end
return answers
";

type Answer = (String, Vec<u8>, Vec<u8>, Vec<u8>);

fn in_rust(history: &[(Timestamp, AskLease)]) -> Vec<Answer> {
    let mut state: Option<Vec<u8>> = None;
    let mut answers = Vec::new();
    for (now, ask) in history {
        let step = ask.apply(state.as_deref(), *now).unwrap();
        let mut output = OutputBytes::new();
        ask.encode_output(&step.output, &mut output);
        answers.push(match step.change {
            StateChange::Put { state: new, ttl } => {
                state = Some(new.to_vec());
                let ttl = ttl.map(|ttl| u64::try_from(ttl.as_micros()).unwrap().to_be_bytes().to_vec());
                ("put".to_owned(), output.to_vec(), new.to_vec(), ttl.unwrap_or_default())
            }
            _ => ("keep".to_owned(), output.to_vec(), vec![], vec![]),
        });
    }
    answers
}

fn histories() -> impl Strategy<Value = Vec<(Timestamp, AskLease)>> {
    let edge = prop_oneof![Just(1_u64), Just(50), 1..200_u64, Just(Timestamp::MAX.as_micros())];
    // Steps of time; which question, by whom, under the how manieth latest token, for how long, kept how long.
    let call = (-100..200_i64, 0..3u8, 1..4u128, 0..3usize, edge.clone(), edge);
    let start = prop_oneof![Just(1_000_u64), Just(1 << 52), Just(Timestamp::MAX.as_micros() - 500)];
    (start, proptest::collection::vec(call, 1..30)).prop_map(|(mut now, calls)| {
        let mut tokens = vec![FencingToken::from_u64(5)];
        let (mut history, mut state): (Vec<(Timestamp, AskLease)>, Option<Vec<u8>>) = (Vec::new(), None);
        for (step, which, holder, back, hold, keep) in calls {
            now = now.saturating_add_signed(step).min(Timestamp::MAX.as_micros());
            let token = tokens[tokens.len().saturating_sub(1 + back)];
            let hold = Duration::from_micros(hold);
            let ask = match which {
                0 => Ask::Acquire(hold),
                1 => Ask::Renew(token, hold),
                _ => Ask::Release(token),
            };
            let holder = HolderId::from_u128(holder).unwrap();
            let keep_for = Duration::from_micros(keep);
            #[cfg(feature = "seeded-bugs")]
            let ask = AskLease { holder, ask, keep_for, bug: None };
            #[cfg(not(feature = "seeded-bugs"))]
            let ask = AskLease { holder, ask, keep_for };
            let at = Timestamp::from_micros(now).unwrap();
            let applied = ask.apply(state.as_deref(), at).unwrap();
            if let StateChange::Put { state: new, .. } = &applied.change {
                tokens.push(FencingToken::from_u64(u64::from_be_bytes(new[1..9].try_into().unwrap())));
                state = Some(new.to_vec());
            }
            history.push((at, ask));
        }
        history
    })
}

#[test]
fn the_lua_twin_of_a_lease_is_its_equal() {
    let mut connection = redis::Client::open(server_url()).unwrap().get_connection().unwrap();
    let sample = histories();
    let script = {
        let holder = HolderId::from_u128(1).unwrap();
        let keep_for = Duration::from_secs(1);
        #[cfg(feature = "seeded-bugs")]
        let ask = AskLease { holder, ask: Ask::Acquire(keep_for), keep_for, bug: None };
        #[cfg(not(feature = "seeded-bugs"))]
        let ask = AskLease { holder, ask: Ask::Acquire(keep_for), keep_for };
        ask.script().unwrap().source
    };
    let script = format!("local twin = function(state, now, arguments)\n{script}\nend\n{FOLD}");
    let mut runner = TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() });
    let connection = std::cell::RefCell::new(&mut connection);
    runner
        .run(&sample, |history| {
            let mut command = redis::cmd("EVAL");
            command.arg(&script).arg(0);
            for (now, ask) in &history {
                let mut arguments = ArgumentBytes::new();
                ask.encode_arguments(&mut arguments);
                command.arg(&now.as_micros().to_be_bytes()[..]).arg(&arguments[..]);
            }
            let answers: Vec<Answer> = command.query(&mut **connection.borrow_mut()).unwrap();
            prop_assert_eq!(answers, in_rust(&history));
            Ok(())
        })
        .unwrap();
}
