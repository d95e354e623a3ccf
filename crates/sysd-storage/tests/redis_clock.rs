//! The Redis store by the server's clock. The store's own stands still in 1970 here: whoever asked it would be found out.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use sysd_core::{
    Clock as _, ClockAuthority, Effect, ErrorKind, Expect, Key, ManualClock, OutputBytes, Procedure, Scan, Script,
    Space, StateBytes, StateChange, Step, Store as _, StoreExt as _, SystemClock, Timestamp, Undecodable, Write,
};
use sysd_storage::{RedisConfig, RedisStore};

mod support;

use support::{cluster_url, config, server_url, suite};

const SPACE: Space = Space::conditional("redis_test");
const LIFE: Duration = Duration::from_millis(200);

async fn store(url: &str) -> RedisStore<ManualClock> {
    let config = RedisConfig { clock: ClockAuthority::Server, ..config() };
    RedisStore::connect_with(url, config, ManualClock::new(Timestamp::UNIX_EPOCH)).await.unwrap()
}

/// Answers the time that it is given; its state lives for [`LIFE`].
struct Now;

const NOW: Script = Script { name: "now", source: "return 'put', struct.pack('>I8', now), 'x', 200000" };

impl Procedure for Now {
    type Output = Timestamp;

    fn name(&self) -> &'static str {
        "now"
    }

    fn apply(&self, _: Option<&[u8]>, now: Timestamp) -> Result<Step<Timestamp>, Undecodable> {
        Ok(Step { change: StateChange::Put { state: StateBytes::from_slice(b"x"), ttl: Some(LIFE) }, output: now })
    }

    fn encode_output(&self, output: &Timestamp, out: &mut OutputBytes) {
        out.extend_from_slice(&output.as_micros().to_be_bytes());
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<Timestamp, Undecodable> {
        Ok(Timestamp::from_micros_saturating(u64::from_be_bytes(bytes.try_into().unwrap())))
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&NOW)
    }
}

/// The server runs on this machine, so its clock is this one.
fn now() -> Timestamp {
    SystemClock.now()
}

#[tokio::test]
async fn expiry_is_exact_in_every_call() {
    for url in [server_url(), cluster_url()] {
        let store = store(&url).await;
        assert_eq!(store.limits().clock, ClockAuthority::Server);
        for key in [Key::lone(SPACE, b"p"), Key::row(SPACE, b"p", b"a")] {
            let at = now().saturating_add(LIFE);
            let put = Write::put(key, "x").expires_at(at);
            assert!(store.write(put.clone()).await.unwrap().is_applied());
            // Seen before its time, and never at or after it.
            loop {
                let before = now();
                let found = [
                    store.get(key).await.unwrap().is_some(),
                    store.get_many(&[key]).await.remove(0).unwrap().is_some(),
                    !key.is_lone() && !store.scan(Scan::partition(SPACE, b"p", 9)).await.unwrap().rows.is_empty(),
                    !store.write(Write::delete(key).expect(Expect::Absent)).await.unwrap().is_applied(),
                ];
                assert!(found == [false; 4] || before < at, "seen after its time: {found:?}");
                assert!(found[0] || now() >= at, "gone before its time");
                if found == [false; 4] {
                    break;
                }
            }
            let error = store.write(put).await.unwrap_err();
            let expected = (ErrorKind::Invalid, Effect::None, Some("expires_at"));
            assert_eq!((error.kind(), error.effect(), error.field()), expected, "{error}");
            assert_eq!(store.get(key).await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn procedures_get_the_time_of_the_server() {
    let store = store(&server_url()).await;
    for key in [Key::lone(SPACE, b"p"), Key::row(SPACE, b"p", b"a")] {
        let before = now();
        let given = store.run(key, &Now).await.unwrap();
        assert!(before <= given && given <= now(), "{before} {given}");
        assert_eq!(store.get(key).await.unwrap().unwrap().expires_at, Some(given.saturating_add(LIFE)));
    }
}

#[tokio::test]
async fn all_else_is_the_same() {
    suite::batches(&store(&server_url()).await).await;
    suite::concurrent_writes(&store(&server_url()).await).await;
}
