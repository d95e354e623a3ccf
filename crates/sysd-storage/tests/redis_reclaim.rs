//! Redis drops a lone record after every clock is past its expiry, and not much later, however it was written.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use futures::future::join_all;
use sysd_core::{
    ArgumentBytes, Clock, ClockAuthority, Expect, Key, ManualClock, OutputBytes, Procedure, Script, Sleep, Space,
    StateBytes, StateChange, Step, Store as _, StoreExt as _, SystemClock, Timestamp, Undecodable, Write,
};
use sysd_storage::{RedisConfig, RedisStore};

mod support;

use support::server::Private;

const SPACE: Space = Space::conditional("redis_test");
const KEY: Key<'static> = Key::lone(SPACE, b"k");
const HOUR: u64 = 3_600_000_000;
/// Records are reclaimed one to three of these after their expiry.
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What a few calls may take.
const SLACK: Duration = Duration::from_secs(10);

/// Its state is so long, bytes, and lives so long, microseconds; for ever if zero.
#[derive(Clone, Copy)]
struct Live {
    ttl: u64,
    len: u64,
}

static LIVE: Script = Script {
    name: "live",
    source: "local ttl, len = struct.unpack('>I8I8', arguments) return 'put', 'x', string.rep('x', len), ttl > 0 and ttl or nil",
};

impl Procedure for Live {
    type Output = ();
    fn name(&self) -> &'static str {
        "live"
    }
    fn apply(&self, _: Option<&[u8]>, _: Timestamp) -> Result<Step<()>, Undecodable> {
        let ttl = (self.ttl > 0).then(|| Duration::from_micros(self.ttl));
        let state = StateBytes::from_slice(&vec![b'x'; usize::try_from(self.len).unwrap()]);
        Ok(Step { change: StateChange::Put { state, ttl }, output: () })
    }
    fn encode_output(&self, (): &(), out: &mut OutputBytes) {
        out.push(b'x');
    }
    fn decode_output(&self, _: &[u8]) -> Result<(), Undecodable> {
        Ok(())
    }
    fn script(&self) -> Option<&'static Script> {
        Some(&LIVE)
    }
    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        out.extend_from_slice(&self.ttl.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
    }
}

/// A clock that is set by hand and claims to be real, so that a test can be an hour ahead.
#[derive(Clone)]
struct SetClock(ManualClock);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        self.0.sleep_until(deadline)
    }
    fn is_real_time(&self) -> bool {
        true
    }
}

/// The ways to write a record. In those of `Among` it goes out in one call with others, and with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Alone,
    Among,
    AmongTwice,
    Put,
    PutIf,
    Many,
}

const WAYS: [Way; 6] = [Way::Alone, Way::Among, Way::AmongTwice, Way::Put, Way::PutIf, Way::Many];

impl Way {
    const fn is_update(self) -> bool {
        matches!(self, Self::Alone | Self::Among | Self::AmongTwice)
    }
}

async fn write<C: Clock>(store: &RedisStore<C>, now: Timestamp, way: Way, live: Live) {
    let others = [Key::lone(SPACE, b"b"), Key::lone(SPACE, b"c"), Key::lone(SPACE, b"d")];
    let put = || {
        let put = Write::put(KEY, vec![b'x'; usize::try_from(live.len).unwrap()]);
        if live.ttl > 0 { put.expires_at(now.saturating_add(Duration::from_micros(live.ttl))) } else { put }
    };
    match way {
        Way::Alone => store.run(KEY, &live).await.unwrap(),
        Way::Among | Way::AmongTwice => {
            let beside = if way == Way::AmongTwice { KEY } else { others[0] };
            let keys = [others[1], beside, KEY, others[2]];
            let lives = [live.ttl / 2 + 1, 0, live.ttl, 7_000_000].map(|ttl| Live { ttl, ..live });
            for ran in join_all(keys.iter().zip(&lives).map(|(&key, live)| store.run(key, live))).await {
                ran.unwrap();
            }
        }
        Way::Put => assert!(store.write(put()).await.unwrap().is_applied()),
        Way::PutIf => {
            let expect = store.get(KEY).await.unwrap().map_or(Expect::Absent, |record| Expect::Is(record.version));
            assert!(store.write(put().expect(expect)).await.unwrap().is_applied());
        }
        Way::Many => assert!(store.write_many(&[put()]).await.remove(0).unwrap().is_applied()),
    }
}

/// Looks at the server itself.
struct Probe(redis::aio::MultiplexedConnection);

impl Probe {
    async fn of(server: &Private) -> Self {
        Self(redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap())
    }

    async fn forget(&mut self) {
        let () = redis::cmd("DEL").arg("{redis_test:k}").query_async(&mut self.0).await.unwrap();
    }

    /// How long Redis keeps it; `None`: for ever.
    async fn left(&mut self) -> Option<Duration> {
        let left: i64 = redis::cmd("PTTL").arg("{redis_test:k}").query_async(&mut self.0).await.unwrap();
        assert_ne!(left, -2, "it is gone");
        u64::try_from(left).ok().map(Duration::from_millis)
    }

    async fn check(&mut self, what: &str, live: Live, grain: Duration) {
        let until = Duration::from_micros(live.ttl);
        match self.left().await {
            None => assert_eq!(live.ttl, 0, "{what}: it is never reclaimed"),
            Some(left) => {
                assert_ne!(live.ttl, 0, "{what}: it lives for ever, and is gone in {left:?}");
                assert!(left + SLACK >= until + grain, "{what}: of {until:?}, gone in {left:?}");
                assert!(left <= until + 3 * grain, "{what}: of {until:?}, stays {left:?}");
            }
        }
    }
}

/// Each way and life and length after each other.
#[tokio::test]
async fn a_record_is_reclaimed_one_to_three_grains_after_its_expiry_however_it_was_written() {
    let server = Private::start(&[]);
    let mut probe = Probe::of(&server).await;
    let clock = SetClock(ManualClock::new(SystemClock.now()));
    let real = RedisStore::connect_with(&server.url(), RedisConfig::default(), clock.clone()).await.unwrap();
    let by_server = RedisConfig { clock: ClockAuthority::Server, ..RedisConfig::default() };
    let by_server = RedisStore::connect_with(&server.url(), by_server, SystemClock).await.unwrap();
    let driven = real.with_clock(ManualClock::new(SystemClock.now()));
    let lives = [(1, 1), (30_000_000, 50), (0, 1), (50 * HOUR, 1), (50 * HOUR, 7)].map(|(ttl, len)| Live { ttl, len });
    for (first, second) in WAYS.into_iter().flat_map(|first| WAYS.map(|second| (first, second))) {
        for (before, after) in lives.into_iter().flat_map(|before| lives.map(|after| (before, after))) {
            let what = format!("{second:?} after {first:?}");
            probe.forget().await;
            clock.0.set(SystemClock.now());
            write(&real, clock.now(), first, before).await;
            probe.check(&what, before, MINUTE).await;
            write(&real, clock.now(), second, after).await;
            probe.check(&what, after, MINUTE).await;
        }
    }
    // Those whose clock is the server's, and those whose clock is driven, have data in common with others, at worst. By the server's a
    // microsecond is over at once.
    for (way, life) in WAYS.into_iter().flat_map(|way| lives[1..].iter().map(move |life| (way, *life))) {
        probe.forget().await;
        write(&by_server, SystemClock.now(), way, life).await;
        probe.check(&format!("{way:?} by the server's clock"), life, MINUTE).await;
        for (before, grain) in [(Live { ttl: 1, len: life.len }, DAY), (Live { ttl: HOUR, len: life.len }, DAY)] {
            clock.0.set(SystemClock.now());
            write(&real, clock.now(), Way::Alone, before).await;
            write(&driven, SystemClock.now(), way, life).await;
            probe.check(&format!("{way:?} by a driven clock"), life, grain).await;
        }
    }
}

/// An update that need not set a deadline sets none: the one before stays to the millisecond.
#[tokio::test]
async fn updates_of_one_minute_keep_the_deadline_and_those_of_the_next_set_it_anew() {
    let server = Private::start(&[]);
    let mut probe = Probe::of(&server).await;
    // The first second of a minute, by this clock.
    let now = SystemClock.now().as_micros();
    let clock = SetClock(ManualClock::new(Timestamp::from_micros_saturating(now - now % 60_000_000 + 1_000_000)));
    let store = RedisStore::connect_with(&server.url(), RedisConfig::default(), clock.clone()).await.unwrap();
    for way in [Way::Alone, Way::Among] {
        for len in [1, 50] {
            probe.forget().await;
            write(&store, clock.now(), Way::Alone, Live { ttl: HOUR, len }).await;
            let first = probe.left().await.unwrap();
            write(&store, clock.now(), way, Live { ttl: HOUR + 40_000_000, len: 1 }).await;
            let kept = probe.left().await.unwrap();
            assert!(kept <= first && first <= kept + SLACK, "{way:?}: kept {kept:?} of {first:?}");
            // For an expiry in another minute it is set anew, and so it is in another minute.
            write(&store, clock.now(), way, Live { ttl: HOUR + 70_000_000, len: 1 }).await;
            let second = probe.left().await.unwrap();
            assert!(second > first + SLACK, "{way:?}: {second:?} is as before");
            clock.0.advance(MINUTE);
            write(&store, clock.now(), way, Live { ttl: HOUR + 15_000_000, len: 1 }).await;
            let third = probe.left().await.unwrap();
            assert!(third + SLACK < second, "{way:?}: {third:?} is as before");
            clock.0.set(Timestamp::from_micros_saturating(now - now % 60_000_000 + 1_000_000));
        }
    }
    // Nobody knows how fast a driven clock goes: it is always set anew.
    let driven = ManualClock::new(clock.now());
    let store = store.with_clock(driven.clone());
    write(&store, driven.now(), Way::Alone, Live { ttl: HOUR, len: 1 }).await;
    let first = probe.left().await.unwrap();
    write(&store, driven.now(), Way::Alone, Live { ttl: HOUR + 40_000_000, len: 1 }).await;
    let second = probe.left().await.unwrap();
    assert!(second > first + SLACK, "{second:?} is as before");
}

/// The daily window of a caller whose clock is ahead by two hours went two hours early, and whoever came later began it anew.
#[tokio::test]
async fn what_a_wrong_clock_set_is_set_anew_by_the_next_update_of_a_right_one() {
    let server = Private::start(&[]);
    let mut probe = Probe::of(&server).await;
    let right = SetClock(ManualClock::new(SystemClock.now()));
    let ahead = SetClock(ManualClock::new(right.now().saturating_add(Duration::from_micros(2 * HOUR))));
    let end = 20 * HOUR;
    for way in WAYS.into_iter().filter(|way| way.is_update()) {
        probe.forget().await;
        let store = RedisStore::connect_with(&server.url(), RedisConfig::default(), ahead.clone()).await.unwrap();
        write(&store, ahead.now(), Way::Alone, Live { ttl: end - 2 * HOUR, len: 1 }).await;
        write(&store.with_clock(right.clone()), right.now(), way, Live { ttl: end, len: 1 }).await;
        probe.check("after the wrong clock", Live { ttl: end, len: 1 }, MINUTE).await;
    }
}
