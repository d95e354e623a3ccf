//! Calls that go on when their callers are gone.

use std::convert::Infallible;

use futures::future::BoxFuture;
use sysd_core::{Change, Effect, Error, ErrorKind, Expect, Key, KeyBuf, Result, Write};
use tokio::sync::oneshot;

/// Whoever waits for a call.
#[derive(Default)]
pub(super) struct Caller(Option<oneshot::Sender<Infallible>>);

impl Caller {
    /// The one who polls the call itself, and is there as long as it is.
    pub(super) fn who_polls() -> Self {
        Self::default()
    }

    /// Waits until nobody waits any more.
    pub(super) async fn left(&mut self) {
        match &mut self.0 {
            Some(caller) => caller.closed().await,
            None => std::future::pending().await,
        }
    }
}

/// Why a call is not made whose caller left before its turn. Nobody hears it.
pub(super) fn nobody() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::None, "the caller left before the call's turn")
}

/// Carries a conditional call to its end, in a task of the runtime, whether or not its caller waits for it. The call is told who
/// that is: as long as it waits for its turn, nothing was sent, and it ends with its caller.
///
/// A statement that was sent is carried out even if nobody waits for its answer. If its turn at the partition ended with its
/// caller, it could lose rounds to those who come next and take effect after all of them: a record that was created,
/// deleted and known to be gone would be there again.
///
/// It comes in a box: the driver's futures have kilobytes, and would be moved several times on their way into the task.
pub(super) async fn carried<T: Send + 'static>(call: impl FnOnce(Caller) -> BoxFuture<'static, T>) -> Result<T> {
    let (caller, _stays) = oneshot::channel();
    match tokio::spawn(call(Caller(Some(caller)))).await {
        Ok(answer) => Ok(answer),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, "the runtime shuts down")),
    }
}

/// A write that owns its key.
pub(super) struct OwnedWrite {
    key: KeyBuf,
    change: Change,
    expect: Expect,
}

impl OwnedWrite {
    pub(super) fn of(write: &Write<'_>) -> Self {
        Self { key: Key::to_owned(write.key), change: write.change.clone(), expect: write.expect }
    }

    pub(super) fn as_write(&self) -> Write<'_> {
        Write { key: self.key.as_key(), change: self.change.clone(), expect: self.expect }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::gate::Gates;
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;
    use sysd_core::Space;
    use tokio::sync::Semaphore;

    const KEY: Key<'static> = Key::row(Space::conditional("s"), b"p", b"a");

    /// A server that answers when it is told to, behind a gate.
    struct Scene {
        gates: Gates,
        sent: AtomicU32,
        answers: Semaphore,
    }

    fn scene() -> Arc<Scene> {
        let gates = Gates::new(1, Duration::from_secs(60));
        Arc::new(Scene { gates, sent: AtomicU32::new(0), answers: Semaphore::new(0) })
    }

    /// So many calls, one after the other, each in its turn.
    async fn calls(scene: &Arc<Scene>, count: u32) -> Result<()> {
        let scene = Arc::clone(scene);
        let call = |mut caller: Caller| -> BoxFuture<'static, Result<()>> {
            Box::pin(async move {
                for _ in 0..count {
                    let _turn = scene.gates.enter(KEY, &mut caller).await?;
                    scene.sent.fetch_add(1, Ordering::SeqCst);
                    scene.answers.acquire().await.unwrap().forget();
                }
                Ok(())
            })
        };
        carried(call).await?
    }

    /// Its caller leaves after a second.
    async fn is_left(call: impl Future<Output = Result<()>>) {
        assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err(), "nobody has answered yet");
    }

    impl Scene {
        fn sent(&self) -> u32 {
            self.sent.load(Ordering::SeqCst)
        }

        async fn is_free(&self) -> bool {
            let mut caller = Caller::who_polls();
            let turn = self.gates.enter(KEY, &mut caller);
            tokio::time::timeout(Duration::from_secs(1), turn).await.is_ok()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_caller_is_gone_keeps_its_turn_until_it_has_ended() {
        let scene = scene();
        is_left(calls(&scene, 1)).await;
        assert!(!scene.is_free().await, "the turn ended with its caller");
        scene.answers.add_permits(1);
        assert!(scene.is_free().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_caller_left_before_its_turn_is_not_sent() {
        let scene = scene();
        let turn = scene.gates.enter(KEY, &mut Caller::who_polls()).await.unwrap();
        is_left(calls(&scene, 1)).await;
        drop(turn);
        assert!(scene.is_free().await, "it waits on");
        assert_eq!(scene.sent(), 0);
        // Of several calls those are not sent whose turn has not come.
        is_left(calls(&scene, 3)).await;
        assert_eq!(scene.sent(), 1);
        scene.answers.add_permits(3);
        assert!(scene.is_free().await);
        assert_eq!(scene.sent(), 1);
        // A caller who stays has all of them.
        calls(&scene, 2).await.unwrap();
        assert_eq!(scene.sent(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_caller_left_before_it_began_is_not_sent() {
        let scene = scene();
        let mut call = Box::pin(calls(&scene, 1));
        assert!(futures::poll!(call.as_mut()).is_pending());
        drop(call);
        assert!(scene.is_free().await);
        assert_eq!(scene.sent(), 0);
    }
}
