//! Buses whose servers are killed, stopped and lost: nothing is missing without a word of it, and no error says too much.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(feature = "redis", feature = "nats"))]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use sysd_core::bus::{AnyBus, AnySubscription, Bus as _, Channel, Delivery, Lost, Subscription as _};
use sysd_core::{Effect, Error, ErrorKind, SystemEntropy, random_base62};
use sysd_storage::bus::{NatsBus, NatsBusConfig, RedisBus, RedisBusConfig};
use tokio::task::JoinHandle;

use support::nats::PrivateNats;
use support::proxy::{Mode, Proxy};
use support::server::{Private, PrivateCluster};

/// How long a bus may take to be itself again.
const RECOVERY: Duration = Duration::from_secs(20);
const RESPONSE: Duration = Duration::from_millis(500);
const PING: Duration = Duration::from_millis(200);

/// A server of the test's own, with what is done to it.
trait Server: Send {
    fn kill(&mut self);
    fn restart(&mut self);
    fn signal(&self, name: &str);
}

impl Server for Private {
    fn kill(&mut self) {
        Private::kill(self);
    }
    fn restart(&mut self) {
        Private::restart(self);
    }
    fn signal(&self, name: &str) {
        Private::signal(self, name);
    }
}

impl Server for PrivateNats {
    fn kill(&mut self) {
        PrivateNats::kill(self);
    }
    fn restart(&mut self) {
        PrivateNats::restart(self);
    }
    fn signal(&self, name: &str) {
        PrivateNats::signal(self, name);
    }
}

async fn redis(url: &str) -> (AnyBus, JoinHandle<()>) {
    let config = RedisBusConfig { response_timeout: RESPONSE, ping_interval: PING, ..RedisBusConfig::default() };
    let (bus, driver) = RedisBus::connect(url, config).await.unwrap();
    (AnyBus::new(bus), tokio::spawn(driver))
}

async fn nats(url: &str) -> (AnyBus, JoinHandle<()>) {
    let config = NatsBusConfig { response_timeout: RESPONSE, ping_interval: PING, ..NatsBusConfig::default() };
    let (bus, driver) = NatsBus::connect(url, config).await.unwrap();
    (AnyBus::new(bus), tokio::spawn(driver))
}

fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

fn payload(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

async fn next(subscription: &mut AnySubscription) -> Delivery {
    tokio::time::timeout(RECOVERY, subscription.next()).await.expect("nothing came").unwrap()
}

/// Publishes numbers until one is taken; answers it, and what the others failed with.
async fn publish_until_taken(bus: &AnyBus, channel: &Channel, first: u64) -> (u64, Vec<Error>) {
    let (start, mut errors) = (Instant::now(), Vec::new());
    for number in first.. {
        match bus.publish(channel, payload(number)).await {
            Ok(()) => return (number, errors),
            Err(error) => errors.push(error),
        }
        assert!(start.elapsed() < RECOVERY, "not itself again: {:?}", errors.last());
        // real-time: the server is waited for.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!()
}

/// Reads until a number that is at least this; answers it, and whether a loss was told before it.
async fn read_past(subscription: &mut AnySubscription, after: u64) -> (u64, bool) {
    let (mut last, mut is_told) = (0, false);
    loop {
        match next(subscription).await {
            Delivery::Lost { .. } => is_told = true,
            Delivery::Message { payload, .. } => {
                let number = number(&payload);
                assert!(last == 0 || number > last, "{number} came after {last}");
                last = number;
                if number >= after {
                    return (number, is_told);
                }
            }
        }
    }
}

fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload.try_into().unwrap())
}

/// Publishes numbers until one of them comes: while a channel is not heard again they are lost. Answers the last that was
/// published, the one that came, and whether a loss was told before it.
async fn publish_until_seen(
    bus: &AnyBus,
    channel: &Channel,
    subscription: &mut AnySubscription,
    first: u64,
) -> (u64, u64, bool) {
    let stop = tokio::sync::Notify::new();
    let publish = async {
        let mut last = first;
        loop {
            let (taken, errors) = publish_until_taken(bus, channel, last).await;
            for error in errors {
                assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
            }
            // real-time: the server is waited for.
            let pause = tokio::time::sleep(Duration::from_millis(20));
            tokio::select! {
                () = stop.notified() => return taken,
                () = pause => last = taken + 1,
            }
        }
    };
    let read = async {
        let seen = read_past(subscription, first).await;
        stop.notify_one();
        seen
    };
    let (last, (seen, is_told)) = tokio::join!(publish, read);
    (last, seen, is_told)
}

async fn killed_and_restarted(mut server: impl Server, bus: AnyBus) {
    let (quiet, busy) = (channel("quiet"), channel("busy"));
    let mut silent = bus.subscribe(std::slice::from_ref(&quiet)).await.unwrap();
    let mut subscription = bus.subscribe(&[quiet.clone(), busy.clone()]).await.unwrap();
    for number in 0..10 {
        bus.publish(&busy, payload(number)).await.unwrap();
        assert_eq!(
            next(&mut subscription).await,
            Delivery::Message { channel: busy.clone(), payload: payload(number) }
        );
    }
    server.kill();
    let refused = bus.publish(&busy, payload(10)).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{refused}");
    let error = bus.subscribe(&[channel("other")]).await.map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
    assert_eq!(error.effect(), Effect::None, "{error}");
    tokio::task::block_in_place(|| server.restart());
    // Who hears a channel on which nothing is published is told, too.
    assert_eq!(next(&mut silent).await, Delivery::Lost { channel: quiet.clone(), lost: Lost::Unknown });
    let (taken, seen, is_told) = publish_until_seen(&bus, &busy, &mut subscription, 100).await;
    assert!(is_told, "number {seen} came, and nobody told of a gap");
    for number in taken + 1..taken + 10 {
        bus.publish(&busy, payload(number)).await.unwrap();
    }
    assert_eq!(read_past(&mut subscription, taken + 9).await.0, taken + 9);
    bus.publish(&quiet, payload(1)).await.unwrap();
    let (last, _) = read_past(&mut silent, 1).await;
    assert_eq!(last, 1);
}

async fn stopped(server: impl Server, bus: AnyBus) {
    let name = channel("stopped");
    let mut subscription = bus.subscribe(std::slice::from_ref(&name)).await.unwrap();
    bus.publish(&name, payload(1)).await.unwrap();
    server.signal("-STOP");
    let (start, error) = (Instant::now(), bus.publish(&name, payload(2)).await.unwrap_err());
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
    assert!(start.elapsed() < RESPONSE + Duration::from_secs(2), "it took {:?}", start.elapsed());
    let error = bus.subscribe(&[channel("another")]).await.map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error}");
    assert_eq!(error.effect(), Effect::None, "{error}");
    // real-time: long enough for pings to be missed.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.signal("-CONT");
    // Whatever came of the connection: nothing comes twice or out of order, and what is missing is told.
    bus.publish(&name, payload(3)).await.ok();
    let (mut last, mut is_told) = (0, false);
    loop {
        match tokio::time::timeout(Duration::from_secs(3), subscription.next()).await {
            Ok(Ok(Delivery::Lost { .. })) => is_told = true,
            Ok(Ok(Delivery::Message { payload, .. })) => {
                let number = number(&payload);
                assert!(number > last, "{number} came after {last}");
                assert!(is_told || number == last + 1, "{number} came after {last}, without a word");
                last = number;
            }
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => break,
        }
    }
    assert!(is_told || last >= 2, "{last} was the last, and nothing was told");
    publish_until_seen(&bus, &name, &mut subscription, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_and_restarted() {
    let server = Private::start(&[]);
    let (bus, _driver) = redis(&server.url()).await;
    killed_and_restarted(server, bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_and_restarted() {
    let server = PrivateNats::start();
    let (bus, _driver) = nats(&server.url()).await;
    killed_and_restarted(server, bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_stopped_for_longer_than_the_timeout() {
    let server = Private::start(&[]);
    let (bus, _driver) = redis(&server.url()).await;
    stopped(server, bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_stopped_for_longer_than_the_timeout() {
    let server = PrivateNats::start();
    let (bus, _driver) = nats(&server.url()).await;
    stopped(server, bus).await;
}

// Redis cuts a listener whose output it can't get rid of; the messages in that output are gone, and only the cut shows it.
#[tokio::test(flavor = "multi_thread")]
async fn redis_cuts_the_connection_of_a_listener() {
    let server = Private::start(&[]);
    let (bus, _driver) = redis(&server.url()).await;
    let name = channel("cut");
    let mut subscription = bus.subscribe(std::slice::from_ref(&name)).await.unwrap();
    for round in 0..3 {
        server.tell(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert_eq!(next(&mut subscription).await, Delivery::Lost { channel: name.clone(), lost: Lost::Unknown });
        bus.publish(&name, payload(round)).await.unwrap();
        assert_eq!(next(&mut subscription).await, Delivery::Message { channel: name.clone(), payload: payload(round) });
    }
}

// A connection on which nothing comes any more looks like a channel on which nothing is published.
#[tokio::test(flavor = "multi_thread")]
async fn a_mute_connection_is_found_and_replaced() {
    let server = Private::start(&[]);
    let proxy = Proxy::start(server.port);
    let (bus, _driver) = redis(&proxy.url()).await;
    let name = channel("mute");
    let mut subscription = bus.subscribe(std::slice::from_ref(&name)).await.unwrap();
    let before = proxy.connections();
    proxy.set(Mode::Silent);
    // real-time: pings must be missed.
    tokio::time::sleep(PING + RESPONSE + Duration::from_millis(300)).await;
    proxy.set(Mode::Pass);
    assert_eq!(next(&mut subscription).await, Delivery::Lost { channel: name.clone(), lost: Lost::Unknown });
    assert!(proxy.connections() > before);
    let (taken, _) = publish_until_taken(&bus, &name, 1).await;
    assert_eq!(next(&mut subscription).await, Delivery::Message { channel: name, payload: payload(taken) });
}

// One call on it was overdue, so the connection is given up; another is answered on it, and ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_confirmed_on_a_connection_that_was_given_up_is_asked_for_again() {
    let server = Private::start(&[]);
    // Pings would hide it.
    let ping_interval = Duration::from_secs(600);
    let config = RedisBusConfig { response_timeout: RESPONSE, ping_interval, ..RedisBusConfig::default() };
    let (bus, driver) = RedisBus::connect(&server.url(), config).await.unwrap();
    let (bus, _driver) = (AnyBus::new(bus), tokio::spawn(driver));
    let (early, late) = (channel("early"), channel("late"));
    server.signal("-STOP");
    let subscribe = |channel: Channel, wait: Duration| {
        let bus = bus.clone();
        async move {
            // real-time: the server does not answer meanwhile.
            tokio::time::sleep(wait).await;
            bus.subscribe(&[channel]).await
        }
    };
    let first = tokio::spawn(subscribe(early, Duration::ZERO));
    let second = tokio::spawn(subscribe(late.clone(), RESPONSE / 2));
    assert_eq!(first.await.unwrap().map(drop).unwrap_err().kind(), ErrorKind::Timeout);
    server.signal("-CONT");
    let mut subscription = second.await.unwrap().unwrap();
    publish_until_seen(&bus, &late, &mut subscription, 1).await;
}

// What another program drops in silence shows in the numbers: here by messages that are published behind the bus's back.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_numbers_is_told_and_foreign_messages_too() {
    let server = Private::start(&[]);
    let (bus, _driver) = redis(&server.url()).await;
    let name = channel("gap");
    let mut subscription = bus.subscribe(std::slice::from_ref(&name)).await.unwrap();
    let raw = |run: u64, number: u64, text: &str| {
        [&[1_u8][..], &run.to_be_bytes(), &number.to_be_bytes(), text.as_bytes()].concat()
    };
    let mut connection = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    for message in
        [raw(7, 5, "a"), raw(7, 6, "b"), raw(7, 9, "c"), raw(7, 8, "late"), b"foreign".to_vec(), raw(8, 3, "d")]
    {
        let () = redis::cmd("PUBLISH").arg("gap").arg(message).query_async(&mut connection).await.unwrap();
    }
    let message = |text: &'static str| Delivery::Message { channel: name.clone(), payload: Bytes::from(text) };
    let lost = |lost| Delivery::Lost { channel: name.clone(), lost };
    let expected = [message("a"), message("b"), lost(Lost::Count(2)), message("c"), lost(Lost::Unknown), message("d")];
    for expected in expected {
        assert_eq!(next(&mut subscription).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_follows_its_slot_to_the_node_that_takes_over() {
    let mut cluster = PrivateCluster::start(1);
    let (bus, _driver) = redis(&cluster.url()).await;
    // One on each master, so that one dies and the others stay.
    let names: Vec<_> = (0..12).map(|at| channel(&format!("failover {at}"))).collect();
    let mut subscription = bus.subscribe(&names).await.unwrap();
    let dead = cluster.holder("failover 0");
    let is_hit: Vec<_> = (0..12).map(|at| cluster.holder(&format!("failover {at}")) == dead).collect();
    assert!(is_hit.iter().any(|is_hit| !is_hit));
    cluster.nodes[dead].kill();
    let mut told = vec![false; names.len()];
    while told != is_hit {
        let Delivery::Lost { channel, lost: Lost::Unknown } = next(&mut subscription).await else { panic!() };
        let at = names.iter().position(|name| *name == channel).unwrap();
        assert!(is_hit[at], "{channel} is on a node that lives");
        told[at] = true;
    }
    for (at, name) in names.iter().enumerate() {
        let (taken, _) = publish_until_taken(&bus, name, at as u64 * 1_000).await;
        loop {
            match next(&mut subscription).await {
                Delivery::Message { channel, payload: seen } if channel == *name && seen == payload(taken) => break,
                Delivery::Message { channel, .. } => assert_eq!(channel, *name),
                Delivery::Lost { channel, .. } => assert!(names.contains(&channel)),
            }
        }
    }
}

// The server ends the subscriptions of a slot that moves, by itself; the client takes that for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_follows_its_slot_when_it_moves() {
    let cluster = PrivateCluster::start(0);
    let (bus, _driver) = redis(&cluster.url()).await;
    let name = channel("moving");
    let mut subscription = bus.subscribe(std::slice::from_ref(&name)).await.unwrap();
    let from = cluster.holder("moving");
    let to = (from + 1) % cluster.nodes.len();
    let slot = cluster.nodes[from].tell(&["CLUSTER", "KEYSLOT", "moving"]).trim().to_owned();
    let id = |at: usize| cluster.nodes[at].tell(&["CLUSTER", "MYID"]).trim().to_owned();
    let (from_id, to_id) = (id(from), id(to));
    cluster.nodes[to].tell(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    cluster.nodes[from].tell(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    for node in [to, from] {
        cluster.nodes[node].tell(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
    assert_eq!(next(&mut subscription).await, Delivery::Lost { channel: name.clone(), lost: Lost::Unknown });
    let (taken, _) = publish_until_taken(&bus, &name, 1).await;
    assert_eq!(read_past(&mut subscription, taken).await.0, taken);
    // Answers are in step again.
    let mut other = bus.subscribe(&[channel("other")]).await.unwrap();
    bus.publish(&channel("other"), payload(5)).await.unwrap();
    assert_eq!(read_past(&mut other, 5).await.0, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_without_its_driver_says_so() {
    let (redis_server, nats_server) = (Private::start(&[]), PrivateNats::start());
    for (bus, driver) in [redis(&redis_server.url()).await, nats(&nats_server.url()).await] {
        let mut subscription = bus.subscribe(&[channel("ended")]).await.unwrap();
        bus.publish(&channel("ended"), payload(1)).await.unwrap();
        assert!(matches!(next(&mut subscription).await, Delivery::Message { .. }));
        let mut empty = bus.subscribe(&[]).await.unwrap();
        driver.abort();
        assert_eq!(
            tokio::time::timeout(RECOVERY, empty.next()).await.unwrap().unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        let error = tokio::time::timeout(RECOVERY, subscription.next()).await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
        let error = bus.subscribe(&[channel("ended")]).await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    }
}

/// What a user of NATS may do, in its server's words.
fn permissions(denied: &str) -> String {
    let rules = format!("{{ allow: [\"sysd.*\", \"_INBOX.>\"], deny: [{denied}] }}");
    let user = format!("user: ann, password: secret, permissions: {{ publish: {rules}, subscribe: {rules} }}");
    format!("authorization: {{ users: [ {{ {user} }} ] }}\n")
}

async fn guarded_nats(denied: &str) -> (PrivateNats, std::path::PathBuf, AnyBus, JoinHandle<()>) {
    let name = format!("sysd-nats-{}-{}", std::process::id(), random_base62(12, &SystemEntropy));
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, permissions(denied)).unwrap();
    let server = PrivateNats::start_with(&["-c", file.to_str().unwrap()]);
    let (bus, driver) = nats(&format!("nats://ann:secret@127.0.0.1:{}", server.port)).await;
    (server, file, bus, driver)
}

fn assert_denied<T>(answer: Result<T, Error>) {
    let error = answer.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Denied, Effect::None), "{error}");
}

// The server says so by the way, and to nobody in particular: `Ok` would be a subscription that never hears anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_nats_forbids_is_denied() {
    let (_server, file, bus, _driver) = guarded_nats("\"sysd.vault\"").await;
    let (open, vault) = (channel("open"), channel("vault"));
    for _ in 0..50 {
        match bus.subscribe(&[open.clone(), vault.clone()]).await {
            // Word of it came late.
            Ok(mut late) => {
                assert_denied(tokio::time::timeout(RECOVERY, late.next()).await.expect("nobody told"));
            }
            denied => assert_denied(denied),
        }
    }
    let mut subscription = bus.subscribe(std::slice::from_ref(&open)).await.unwrap();
    match subscription.add(&vault).await {
        Ok(()) => assert_denied(tokio::time::timeout(RECOVERY, subscription.next()).await.expect("nobody told")),
        denied => assert_denied(denied),
    }
    let answers = [bus.publish(&vault, payload(1)).await, bus.publish(&vault, payload(2)).await];
    let denied =
        answers.into_iter().find(Result::is_err).expect("two publications, and no word that they are forbidden");
    assert_denied(denied);
    // The rest is as if nothing had been.
    for number in 0..10 {
        bus.publish(&open, payload(number)).await.unwrap();
        assert_eq!(
            next(&mut subscription).await,
            Delivery::Message { channel: open.clone(), payload: payload(number) }
        );
    }
    std::fs::remove_file(file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_nats_forbids_while_it_is_heard_is_told_and_the_others_go_on() {
    let (server, file, bus, _driver) = guarded_nats("").await;
    let (open, vault) = (channel("open"), channel("vault"));
    let mut subscription = bus.subscribe(&[open.clone(), vault.clone()]).await.unwrap();
    std::fs::write(&file, permissions("\"sysd.vault\"")).unwrap();
    server.signal("-HUP");
    assert_denied(tokio::time::timeout(RECOVERY, subscription.next()).await.expect("nobody told"));
    bus.publish(&open, payload(1)).await.unwrap();
    assert_eq!(next(&mut subscription).await, Delivery::Message { channel: open, payload: payload(1) });
    // Granted again, it is there for whoever asks.
    std::fs::write(&file, permissions("")).unwrap();
    server.signal("-HUP");
    let start = Instant::now();
    loop {
        if let Ok(mut granted) = bus.subscribe(std::slice::from_ref(&vault)).await {
            bus.publish(&vault, payload(1)).await.ok();
            if let Ok(Ok(Delivery::Message { .. })) = tokio::time::timeout(RECOVERY, granted.next()).await {
                break;
            }
        }
        assert!(start.elapsed() < RECOVERY, "it is granted, and not heard");
        // real-time: the server reads its file.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_file(file).unwrap();
}

// All answers are echoes of the inbox: without it, every call would time out.
#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_that_nats_forbids_is_named() {
    let (_server, file, bus, _driver) = guarded_nats("\"_INBOX.>\"").await;
    let name = channel("a");
    for error in [bus.subscribe(std::slice::from_ref(&name)).await.map(drop), bus.publish(&name, payload(1)).await] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains("_INBOX.>"), "{error}");
    }
    std::fs::remove_file(file).unwrap();
}

// The client has room for 128 events, and drops what comes beside that: here all of them.
#[cfg(feature = "seeded-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_seen_without_the_clients_word() {
    let mut server = PrivateNats::start();
    let config = NatsBusConfig {
        response_timeout: RESPONSE,
        ping_interval: PING,
        drops_events: true,
        ..NatsBusConfig::default()
    };
    let (bus, driver) = NatsBus::connect(&server.url(), config).await.unwrap();
    let _driver = tokio::spawn(driver);
    let quiet = channel("quiet");
    let mut silent = AnyBus::new(bus).subscribe(std::slice::from_ref(&quiet)).await.unwrap();
    server.kill();
    tokio::task::block_in_place(|| server.restart());
    assert_eq!(next(&mut silent).await, Delivery::Lost { channel: quiet, lost: Lost::Unknown });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_reached_or_is_wrong_is_told_without_secrets() {
    let locked = Private::start(&["--requirepass", "other"]);
    let nats_locked = PrivateNats::start_with(&["--user", "ann", "--pass", "other"]);
    let cases = [
        (format!("redis://:hunter2@127.0.0.1:{}/", locked.port), ErrorKind::Denied),
        (format!("nats://ann:hunter2@127.0.0.1:{}", nats_locked.port), ErrorKind::Denied),
        ("redis://:hunter2@127.0.0.1:1/".to_owned(), ErrorKind::Unavailable),
        ("nats://ann:hunter2@127.0.0.1:1".to_owned(), ErrorKind::Unavailable),
        ("redis://:hunter2@127.0.0.1:1/?protocol=resp2".to_owned(), ErrorKind::Config),
        ("nats://ann:hunter2@".to_owned(), ErrorKind::Config),
        ("nats://ann:hunter2@a,,b".to_owned(), ErrorKind::Config),
        ("nats://ann:hunter2@a:none".to_owned(), ErrorKind::Config),
    ];
    for (url, kind) in cases {
        let error = sysd_storage::bus::open(&url).await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    let (bus, _driver) =
        sysd_storage::bus::open(&format!("nats://ann:other@127.0.0.1:{}", nats_locked.port)).await.unwrap();
    assert!(!format!("{bus:?}").contains("other"));
    // A server that takes less lowers the limit.
    assert!(bus.limits().payload_bytes_max < 1 << 20);
}
