//! Redis drops a lone record after every clock is past its expiry, and not much later, however it was written.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use futures::future::join_all;
use sysd_core::{
    ArgumentBytes, Clock as _, Expect, Key, ManualClock, OutputBytes, Procedure, Script, Space, StateBytes,
    StateChange, Step, Store as _, StoreExt as _, Timestamp, Undecodable, Write,
};
use sysd_storage::{RedisConfig, RedisStore};

mod support;

use support::server::Private;

const SPACE: Space = Space::conditional("redis_test");
/// With a clock that is driven, records are reclaimed one to two days after their expiry.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What a test may take at most while a record's time runs.
const SLACK: Duration = Duration::from_secs(60);

/// Its state lives so long, microseconds, and for ever if zero.
struct Live(u64);

static LIVE: Script = Script {
    name: "live",
    source: "local ttl = struct.unpack('>I8', arguments) return 'put', 'x', 'x', ttl > 0 and ttl or nil",
};

impl Procedure for Live {
    type Output = ();
    fn name(&self) -> &'static str {
        "live"
    }
    fn apply(&self, _: Option<&[u8]>, _: Timestamp) -> Result<Step<()>, Undecodable> {
        let ttl = (self.0 > 0).then(|| Duration::from_micros(self.0));
        Ok(Step { change: StateChange::Put { state: StateBytes::from_slice(b"x"), ttl }, output: () })
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
        out.extend_from_slice(&self.0.to_be_bytes());
    }
}

/// The ways to write a record. Those of `Among` go out in one call with others.
#[derive(Clone, Copy, Debug)]
enum Way {
    Alone,
    Among,
    AmongTwice,
    Put,
    PutIf,
    Many,
}

const WAYS: [Way; 6] = [Way::Alone, Way::Among, Way::AmongTwice, Way::Put, Way::PutIf, Way::Many];

async fn write(store: &RedisStore<ManualClock>, now: Timestamp, way: Way, ttl: u64) {
    let key = Key::lone(SPACE, b"k");
    let others = [Key::lone(SPACE, b"b"), Key::lone(SPACE, b"c"), Key::lone(SPACE, b"d")];
    let put = || {
        let put = Write::put(key, "x");
        if ttl > 0 { put.expires_at(now.saturating_add(Duration::from_micros(ttl))) } else { put }
    };
    match way {
        Way::Alone => store.run(key, &Live(ttl)).await.unwrap(),
        Way::Among | Way::AmongTwice => {
            let beside = if matches!(way, Way::AmongTwice) { key } else { others[0] };
            let keys = [others[1], beside, key, others[2]];
            let lives = [ttl / 2 + 1, 0, ttl, 7_000_000].map(Live);
            for ran in join_all(keys.iter().zip(&lives).map(|(&key, live)| store.run(key, live))).await {
                ran.unwrap();
            }
        }
        Way::Put => assert!(store.write(put()).await.unwrap().is_applied()),
        Way::PutIf => {
            let expect = store.get(key).await.unwrap().map_or(Expect::Absent, |record| Expect::Is(record.version));
            assert!(store.write(put().expect(expect)).await.unwrap().is_applied());
        }
        Way::Many => assert!(store.write_many(&[put()]).await.remove(0).unwrap().is_applied()),
    }
}

/// With the deadline kept whatever comes, or set for a record that lives for ever, this fails.
#[tokio::test]
async fn a_record_is_reclaimed_one_to_two_grains_after_its_expiry_however_it_was_written() {
    let server = Private::start(&[]);
    let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
    let store = RedisStore::connect_with(&server.url(), RedisConfig::default(), clock.clone()).await.unwrap();
    let ttls = [1, 10_000_000, 0, 3_600_000_000, 50 * 3_600_000_000, 30_000_000];
    let steps = [Duration::ZERO, Duration::from_secs(30), Duration::from_secs(5 * 60 * 60), DAY];
    // Each way after each other, each life after each other: the counters' lengths share no divisor but one with the steps'.
    let mut kept = 0;
    let mut before: Option<Duration> = None;
    for round in 0..6 * 6 * 7 {
        let step = steps[round % 7 % 4];
        clock.advance(step);
        let (way, ttl) = (WAYS[round % 6], ttls[(round / 6 + round) % 6]);
        write(&store, clock.now(), way, ttl).await;
        let left: i64 = server.tell(&["PTTL", "{redis_test:k}"]).trim().parse().unwrap();
        if ttl == 0 {
            assert_eq!(left, -1, "round {round}: {way:?}: it lives for ever");
            before = None;
            continue;
        }
        let left = Duration::from_millis(u64::try_from(left).expect("it is to be reclaimed"));
        let life = Duration::from_micros(ttl);
        assert!(left + SLACK >= life + DAY, "round {round}: {way:?} of {life:?}: gone in {left:?}");
        // A kept deadline does not know how far the driven clock went since.
        assert!(left <= life + 3 * DAY, "round {round}: {way:?} of {life:?}: stays {left:?}");
        // One that is set anew ends hours earlier.
        kept += u32::from(
            step > SLACK && before.is_some_and(|before| before.checked_sub(left).is_some_and(|passed| passed < SLACK)),
        );
        before = Some(left);
    }
    assert!(kept > 0, "no deadline was kept");
}
