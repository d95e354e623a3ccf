#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use clap::ValueEnum as _;
use sysd::ratelimit::Rate;

use super::super::feed::Feeder;
use super::super::judge::Decides;
use super::super::store::{Opened, open_memory};
use super::super::traffic::Traffic;
use super::super::{Decider, KeyBy};
use super::*;

const REQUESTS: u64 = 20_000;
/// Two policies ask about ten times as much of a request.
#[cfg(feature = "policy")]
const POLICY_REQUESTS: u64 = 5_000;
/// For stores that take their time.
#[cfg(any(feature = "dynamodb", feature = "scylla"))]
const FEW: u64 = 3_000;

/// What became of each request, also under the other policy, and who was denied how often.
type Decided = (Vec<(bool, Option<bool>)>, Tally);

/// A limit that made-up traffic meets often.
fn limit(algorithm: Decider) -> Decides {
    Decides::Limit(algorithm.limit(Rate::new(6, Duration::from_secs(3)).unwrap(), 5).unwrap())
}

/// Replays made-up traffic.
async fn decide_all(opened: Opened, requests: u64, decides: &Decides) -> Decided {
    let lanes = opened.lanes(decides).unwrap();
    let (sender, mut batches) = mpsc::channel(4);
    let traffic = Traffic::new(requests, 1).unwrap();
    let wanted = decides.wanted(KeyBy::Ip);
    let feed = std::thread::spawn(move || Feeder::new(wanted, sender).feed_traffic(traffic));
    let mut verdicts = Vec::new();
    let tally = replay(&lanes, &mut batches, None, |batch| verdicts.extend_from_slice(batch)).await.unwrap();
    feed.join().unwrap();
    (verdicts, tally)
}

#[tokio::test]
async fn every_request_is_decided_and_counted() {
    let (verdicts, tally) = decide_all(open_memory(1), REQUESTS, &limit(Decider::TokenBucket)).await;
    assert_eq!(verdicts.len() as u64, REQUESTS);
    assert_eq!(tally.allowed, verdicts.iter().filter(|(is_allowed, _)| *is_allowed).count() as u64);
    assert_eq!(tally.allowed + tally.denied, REQUESTS);
    assert_eq!(tally.denied, tally.denied_by_key.values().sum::<u64>());
    assert!(tally.denied > 500 && tally.denied_by_key.len() > 10, "{} denied", tally.denied);
}

#[tokio::test]
async fn lanes_change_nothing() {
    let (one, many) = (
        decide_all(open_memory(1), REQUESTS, &limit(Decider::TokenBucket)).await,
        decide_all(open_memory(7), REQUESTS, &limit(Decider::TokenBucket)).await,
    );
    assert_same(&one, &many);
}

/// The same traffic on every other store, by every algorithm: request for request the same as on memory.
async fn decides_as_memory_does(url: &str, requests: u64) {
    for algorithm in Decider::value_variants() {
        let requests = if *algorithm == Decider::TokenBucket { requests } else { requests / 4 };
        let decides = limit(*algorithm);
        let opened = super::super::store::open(url).await.unwrap();
        let on_store = decide_all(opened, requests, &decides).await;
        let in_memory = decide_all(open_memory(1), requests, &decides).await;
        assert!(in_memory.1.denied > 0, "{algorithm:?} denies nobody");
        assert_same(&on_store, &in_memory);
    }
    #[cfg(feature = "policy")]
    {
        let decides = two_policies();
        let requests = requests / 10;
        let opened = super::super::store::open(url).await.unwrap();
        let on_store = decide_all(opened, requests, &decides).await;
        let in_memory = decide_all(open_memory(1), requests, &decides).await;
        assert!(in_memory.1.denied > 0, "nobody is denied");
        assert_same(&on_store, &in_memory);
    }
}

#[cfg(any(feature = "redis", feature = "dynamodb", feature = "scylla"))]
fn server(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run `cargo xtask servers up` and export what it prints"))
}

#[cfg(feature = "local")]
#[tokio::test]
async fn a_local_disk_decides_as_memory_does() {
    let directory = std::env::temp_dir().join(format!("sysd-replay-{}", std::process::id()));
    decides_as_memory_does(&format!("local:{}", directory.display()), REQUESTS).await;
    std::fs::remove_dir_all(directory).unwrap();
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_REDIS_URL"), REQUESTS).await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_redis_cluster_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_REDIS_CLUSTER_URL"), REQUESTS).await;
}

#[cfg(feature = "dynamodb")]
#[tokio::test]
async fn dynamodb_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_DYNAMODB_URL"), FEW).await;
}

#[cfg(feature = "scylla")]
#[tokio::test]
async fn cassandra_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_CASSANDRA_URL"), FEW).await;
}

#[track_caller]
fn assert_same(one: &Decided, other: &Decided) {
    let first_apart = one.0.iter().zip(&other.0).position(|(one, other)| one != other);
    assert_eq!((first_apart, one.0.len()), (None, other.0.len()));
    assert_eq!(one.1.denied_by_key, other.1.denied_by_key);
    assert_eq!(one.1.denied_by_cause, other.1.denied_by_cause);
    assert_eq!(one.1.would_deny, other.1.would_deny);
    assert_eq!((&one.1.newly_denied, &one.1.newly_allowed), (&other.1.newly_denied, &other.1.newly_allowed));
}

/// One that counts by address and agent, and one that is stricter there and knows no agents; a key that many share, and shadows.
#[cfg(feature = "policy")]
fn two_policies() -> Decides {
    let policy = |text| sysd::ratelimit::Policy::from_toml("test.toml", text).unwrap();
    let first = policy(
        r#"
        name = "today"
        deny = "ip:203.0.113.0/29"
        rules = [
            { name = "address", key = "ip", rate = "6/3s", burst = 5 },
            { name = "agent", key = "header:user-agent", algorithm = "fixed_window", rate = "40/m" },
            { name = "page", key = ["ip", "route"], route = "/page/{number}", algorithm = "sliding_log", rate = "9/h", shadow = true },
            { name = "first pages", key = "global", route = ["/page/1", "/page/2"], algorithm = "sliding_window", rate = "3/m" },
        ]"#,
    );
    let candidate = policy(
        r#"
        name = "today"
        rules = [
            { name = "address", key = "ip", rate = "4/3s", burst = 3 },
            { name = "first pages", key = "global", route = ["/page/1", "/page/2"], algorithm = "sliding_window", rate = "2/m" },
        ]"#,
    );
    Decides::Policies { first, candidate: Some(candidate) }
}

#[cfg(feature = "policy")]
#[tokio::test]
async fn a_policy_beside_another_is_as_it_is_alone() {
    let Decides::Policies { first, candidate: Some(candidate) } = two_policies() else { panic!() };
    let alone = |policy| Decides::Policies { first: policy, candidate: None };
    let (first, candidate) = (
        decide_all(open_memory(1), POLICY_REQUESTS, &alone(first)).await,
        decide_all(open_memory(1), POLICY_REQUESTS, &alone(candidate)).await,
    );
    let both = decide_all(open_memory(1), POLICY_REQUESTS, &two_policies()).await;
    let expected: Vec<_> = first.0.iter().zip(&candidate.0).map(|(one, other)| (one.0, Some(other.0))).collect();
    assert!(both.0 == expected);
    let changed =
        |from: bool, to: bool| expected.iter().filter(|verdicts| **verdicts == (from, Some(to))).count() as u64;
    let Tally { newly_denied, newly_allowed, denied_by_cause, .. } = &both.1;
    assert_eq!((newly_denied.requests(), newly_allowed.requests()), (changed(true, false), changed(false, true)));
    assert!(newly_denied.requests() > 20 && newly_allowed.requests() > 20, "{newly_denied:?} {newly_allowed:?}");
    // Every request that was denied was denied by something; what is newly denied, by rules of the candidate.
    assert_eq!(denied_by_cause.values().sum::<u64>(), both.1.denied);
    assert_eq!(newly_denied.by_cause.values().sum::<u64>(), newly_denied.requests());
    assert_eq!(newly_allowed.by_cause.values().sum::<u64>(), newly_allowed.requests());
    assert!(newly_denied.by_cause.keys().all(|place| *place < 2), "{newly_denied:?}");
    // The deny list stands behind the rules.
    assert!(denied_by_cause.contains_key(&4) && !both.1.would_deny.is_empty(), "{denied_by_cause:?}");
}

#[cfg(feature = "policy")]
#[test]
fn who_would_fare_otherwise_is_said_to_people_and_to_machines() {
    use super::super::feed::Notes;
    use super::super::report::{Names, Summary};

    let tally = futures::executor::block_on(decide_all(open_memory(1), POLICY_REQUESTS, &two_policies())).1;
    let Decides::Policies { first, candidate: Some(candidate) } = two_policies() else { panic!() };
    let names = super::super::policies::names;
    let names = Names { first: names(&first), candidate: Some(names(&candidate)) };
    let summary = Summary::new(&tally, &Notes::default(), "memory".to_owned(), &names);
    let (mut text, mut json) = (Vec::new(), Vec::new());
    summary.print(&tally, &mut text).unwrap();
    summary.print_json(&mut json).unwrap();
    let text = String::from_utf8(text).unwrap();
    let denied = format!("newly denied  {} requests of", tally.newly_denied.requests());
    assert!(text.contains(&denied) && text.contains("(deny list)") && text.contains("denied now by:"), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let change = &json["compared"]["newly_denied"];
    assert_eq!(change["requests"], tally.newly_denied.requests());
    assert_eq!(change["clients"], tally.newly_denied.by_client.len());
    let top = change["top"].as_array().unwrap();
    assert!(top.len() == 10 && top[0]["requests"].as_u64() >= top[9]["requests"].as_u64(), "{top:?}");
    let rules = change["by_rule"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["rule"] == "address"), "{rules:?}");
}

#[test]
fn speed_scales_time() {
    let hour = Duration::from_secs(3_600);
    assert_eq!(scaled(hour, 60.0), Duration::from_secs(60));
    assert_eq!(scaled(hour, 0.5), 2 * hour);
    assert_eq!(scaled(hour, f64::MIN_POSITIVE), Duration::MAX);
}
