//! A call that takes too long is given up, and says what it may have done.

use std::pin::pin;
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::{Effect, Error, ErrorKind, Key, ManualClock, Scan, Store, StoreExt as _, Write};
use sysd_storage::layer::{Answer, Interceptor, LayerExt as _, Operation, Timeout, TimeoutConfig};

use crate::script::{Fault, SPACE, Scripted, scripted};

const CONFIG: TimeoutConfig = TimeoutConfig {
    read_max: Duration::from_millis(1),
    write_max: Duration::from_millis(2),
    range_max: Duration::from_millis(3),
};

/// What a call that hears nothing ends with, and after how many milliseconds.
fn given_up<T>(scripted: &Scripted, call: impl Future<Output = Result<T, Error>>) -> Option<(u32, ErrorKind, Effect)> {
    scripted.script.play([Fault::Silence]);
    let mut call = pin!(call);
    for waited_ms in 0..10 {
        if let Some(answer) = call.as_mut().now_or_never() {
            let error = answer.err()?;
            return Some((waited_ms, error.kind(), error.effect()));
        }
        scripted.clock.advance(Duration::from_millis(1));
    }
    None
}

fn every_class(store: &impl Store, scripted: &Scripted) -> Result<(), String> {
    let key = Key::lone(SPACE, b"k");
    let found = [
        given_up(scripted, store.get(key)),
        given_up(scripted, store.write(Write::put(key, "x"))),
        given_up(scripted, store.scan(Scan::partition(SPACE, b"p", 1))),
        given_up(scripted, async { store.get_many(&[key, key]).await.remove(1) }),
        given_up(scripted, async { store.write_many(&[Write::delete(key), Write::delete(key)]).await.remove(1) }),
    ];
    let expected =
        [(1, Effect::None), (2, Effect::Unknown), (3, Effect::None), (1, Effect::None), (2, Effect::Unknown)];
    let expected = expected.map(|(ms, effect)| Some((ms, ErrorKind::Timeout, effect)));
    if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
}

#[test]
fn each_class_of_calls_has_its_own_deadline_and_effect() {
    let scripted = scripted();
    let store = scripted.store.clone().layer(Timeout::with_clock(CONFIG, scripted.clock.clone()));
    every_class(&store, &scripted).unwrap();
    // What was given up has happened all the same; what answers in time is not touched.
    assert_eq!(block_on(store.get(Key::lone(SPACE, b"k"))).unwrap(), None);
    block_on(store.put(Key::lone(SPACE, b"k"), "y")).unwrap();
    assert_eq!(scripted.clock.next_deadline(), None);
}

/// Broken on purpose: takes a timeout for proof that nothing happened.
struct Harmless(Timeout<ManualClock>);

impl Interceptor for Harmless {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        let mut answer = self.0.around(operation, call).await;
        let is_timeout = answer.errors().any(|error| error.kind() == ErrorKind::Timeout);
        if is_timeout {
            answer.spoil(0, Error::new(ErrorKind::Timeout, Effect::None, "broken on purpose"));
        }
        answer
    }
}

#[test]
fn a_timeout_that_calls_writes_harmless_is_rejected() {
    let scripted = scripted();
    let store = scripted.store.clone().layer(Harmless(Timeout::with_clock(CONFIG, scripted.clock.clone())));
    assert!(every_class(&store, &scripted).is_err());
}
