//! Calls that go on when their callers are gone.

use futures::future::BoxFuture;
use sysd_core::{Change, Effect, Error, ErrorKind, Expect, Key, KeyBuf, Result, Write};

/// Carries a conditional call to its end, in a task of the runtime, whether or not its caller waits for it.
///
/// A statement that was sent is carried out even if nobody waits for its answer. If its turn at the partition ended with its
/// caller, it could lose rounds to those who come next and take effect after all of them: a record that was created,
/// deleted and known to be gone would be there again.
///
/// It comes in a box: the driver's futures have kilobytes, and would be moved several times on their way into the task.
pub(super) async fn carried<T: Send + 'static>(call: BoxFuture<'static, T>) -> Result<T> {
    match tokio::spawn(call).await {
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
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_caller_is_gone_keeps_its_turn_until_it_has_ended() {
        let (turns, server) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(0)));
        let call = carried({
            let (turns, server) = (Arc::clone(&turns), Arc::clone(&server));
            Box::pin(async move {
                let _turn = turns.acquire().await.unwrap();
                let _answer = server.acquire().await.unwrap();
            })
        });
        let waited = tokio::time::timeout(std::time::Duration::from_secs(1), call).await;
        assert!(waited.is_err(), "nobody has answered yet");
        assert_eq!(turns.available_permits(), 0, "the turn ended with its caller");
        server.add_permits(1);
        drop(turns.acquire().await.unwrap());
    }
}
