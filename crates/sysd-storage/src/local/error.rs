//! The library's errors as kind and effect.

use std::io;
use std::path::Path;

use fjall::LsmError;
use sysd_core::{Effect, Error, ErrorKind};

/// What the library said of a read or of opening, sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Locked,
    Full,
    Denied,
    Damaged,
    OtherVersion,
    Poisoned,
    Io,
}

fn sort_io(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Fault::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Fault::Denied,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotFound => Fault::Damaged,
        _ => Fault::Io,
    }
}

fn sort(error: &fjall::Error) -> Fault {
    match error {
        fjall::Error::Locked => Fault::Locked,
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => sort_io(error),
        fjall::Error::InvalidVersion(_) | fjall::Error::Storage(LsmError::InvalidVersion(_)) => Fault::OtherVersion,
        fjall::Error::Poisoned => Fault::Poisoned,
        fjall::Error::KeyspaceDeleted => Fault::Io,
        _ => Fault::Damaged,
    }
}

/// Of an opening that failed: nothing was done.
pub(super) fn of_open(error: fjall::Error, path: &Path) -> Error {
    let at = path.display();
    let (kind, message) = match sort(&error) {
        Fault::Locked => {
            (ErrorKind::Unavailable, format!("another process, or another store of this one, has {at} open"))
        }
        Fault::Full => (ErrorKind::Full, format!("there is no room on the disk of {at}")),
        Fault::Denied => (ErrorKind::Denied, format!("this process may not write to {at}")),
        Fault::OtherVersion => {
            (ErrorKind::Config, format!("{at} was written in a format that this version of sysd can't read"))
        }
        Fault::Damaged => {
            (ErrorKind::Corrupt, format!("files in {at} are damaged or missing; restore them from a backup"))
        }
        Fault::Poisoned | Fault::Io => (ErrorKind::Unavailable, format!("{at} can't be opened: {error}")),
    };
    Error::new(kind, Effect::None, message).with_source(error)
}

/// Of a read that failed.
pub(super) fn of_read(error: fjall::Error) -> Error {
    let (kind, message) = match sort(&error) {
        Fault::Damaged | Fault::OtherVersion => (ErrorKind::Corrupt, "the file that it lies in is damaged"),
        _ => (ErrorKind::Unavailable, "the disk can't be read"),
    };
    Error::new(kind, Effect::None, message).with_source(error)
}

/// Of a batch that could not be made durable.
pub(super) fn of_commit(error: fjall::Error) -> Error {
    let (kind, effect, message) = match sort(&error) {
        // Refused before anything was written.
        Fault::Poisoned => {
            (ErrorKind::Unavailable, Effect::None, "the store's background work failed earlier; open it again")
        }
        Fault::Full => (ErrorKind::Full, Effect::Unknown, "the disk is full; make room and open the store again"),
        _ => (ErrorKind::Unavailable, Effect::Unknown, "the disk failed; open the store again"),
    };
    Error::new(kind, effect, message).with_source(error)
}

/// Of every write after a batch that failed: the library may hold what the disk does not.
pub(super) fn refused(failure: &Error) -> Error {
    let message = "a write to the disk failed earlier, so no more are taken; open the store again";
    Error::new(failure.kind(), Effect::None, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(kind: io::ErrorKind) -> fjall::Error {
        fjall::Error::Io(kind.into())
    }

    #[test]
    fn every_row_of_the_table() {
        type Row = (fn() -> fjall::Error, ErrorKind, ErrorKind, ErrorKind, Effect);
        let rows: [Row; 8] = [
            (
                || fjall::Error::Locked,
                ErrorKind::Unavailable,
                ErrorKind::Unavailable,
                ErrorKind::Unavailable,
                Effect::Unknown,
            ),
            (
                || io(io::ErrorKind::StorageFull),
                ErrorKind::Full,
                ErrorKind::Unavailable,
                ErrorKind::Full,
                Effect::Unknown,
            ),
            (
                || io(io::ErrorKind::FileTooLarge),
                ErrorKind::Full,
                ErrorKind::Unavailable,
                ErrorKind::Full,
                Effect::Unknown,
            ),
            (
                || io(io::ErrorKind::PermissionDenied),
                ErrorKind::Denied,
                ErrorKind::Unavailable,
                ErrorKind::Unavailable,
                Effect::Unknown,
            ),
            (
                || fjall::Error::InvalidVersion(None),
                ErrorKind::Config,
                ErrorKind::Corrupt,
                ErrorKind::Unavailable,
                Effect::Unknown,
            ),
            (
                || fjall::Error::InvalidTrailer,
                ErrorKind::Corrupt,
                ErrorKind::Corrupt,
                ErrorKind::Unavailable,
                Effect::Unknown,
            ),
            (
                || fjall::Error::Poisoned,
                ErrorKind::Unavailable,
                ErrorKind::Unavailable,
                ErrorKind::Unavailable,
                Effect::None,
            ),
            (
                || io(io::ErrorKind::Other),
                ErrorKind::Unavailable,
                ErrorKind::Unavailable,
                ErrorKind::Unavailable,
                Effect::Unknown,
            ),
        ];
        for (error, open, read, commit, effect) in rows {
            let opened = of_open(error(), Path::new("/data/x"));
            assert_eq!((opened.kind(), opened.effect()), (open, Effect::None), "{opened}");
            assert!(opened.message().contains("/data/x"), "{opened}");
            assert_eq!((of_read(error()).kind(), of_read(error()).effect()), (read, Effect::None), "{opened}");
            let committed = of_commit(error());
            assert_eq!((committed.kind(), committed.effect()), (commit, effect), "{committed}");
            let later = refused(&committed);
            assert_eq!((later.kind(), later.effect()), (commit, Effect::None), "{later}");
        }
    }
}
