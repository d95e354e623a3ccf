//! The lock of a store's directory: one store has it open at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// The file that is locked.
pub(super) const LOCK: &str = "lock";

/// Held until it is dropped, or until the process ends.
pub(super) struct Lock(File);

impl Lock {
    /// Locks the directory, or answers [`Locked`](fjall::Error::Locked).
    pub(super) fn acquire(directory: &Path) -> fjall::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(fjall::Error::Locked),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a process that this one has forked, and that has not yet begun its program, has
    /// the same file open, and the lock would last until it does.
    fn drop(&mut self) {
        // What can't be unlocked is so once all have closed it.
        drop(self.0.unlock());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_held_once_and_free_once_dropped_though_a_fork_has_the_file_open() {
        let directory = std::env::temp_dir().join(format!("sysd-lock-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let lock = Lock::acquire(&directory).unwrap();
        // As a fork has it: the same open file, not another one of the same path.
        let forked = lock.0.try_clone().unwrap();
        assert!(matches!(Lock::acquire(&directory), Err(fjall::Error::Locked)));
        drop(lock);
        assert!(Lock::acquire(&directory).is_ok());
        drop(forked);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
