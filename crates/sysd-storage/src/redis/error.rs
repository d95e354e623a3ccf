//! Redis errors as kind and effect: the mapping table.

use redis::{ErrorKind as RedisKind, RedisError, ServerErrorKind};
use sysd_core::{Effect, Error, ErrorKind};

use super::link::Failure;

/// Whether the call may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Maps an error. The source is left out: a client's error text can hold what was sent.
pub(super) fn map(failure: &Failure, access: Access) -> Error {
    let error = &failure.error;
    let (kind, effect, message) = classify(error);
    let effect = if access == Access::Read || !failure.was_sent { Effect::None } else { effect };
    match error.code() {
        Some(code) => Error::new(kind, effect, format!("{message} ({code})")),
        None => Error::new(kind, effect, message),
    }
}

fn classify(error: &RedisError) -> (ErrorKind, Effect, &'static str) {
    use Effect::{None, Unknown};
    match error.kind() {
        RedisKind::Server(kind) => classify_server(kind, error),
        RedisKind::Extension => classify_code(error.code().unwrap_or_default()),
        RedisKind::AuthenticationFailed => (ErrorKind::Denied, None, "Redis refused the credentials"),
        RedisKind::InvalidClientConfig => (ErrorKind::Config, None, "the Redis URL or its options are wrong"),
        RedisKind::RESP3NotSupported => (ErrorKind::Config, None, "this Redis is too old; use 6.0 or later"),
        RedisKind::Io if error.is_connection_refusal() => {
            (ErrorKind::Unavailable, None, "no Redis answers at that address")
        }
        RedisKind::Io if error.is_timeout() => (ErrorKind::Timeout, Unknown, "Redis gave no answer in time"),
        RedisKind::Io => (ErrorKind::Unavailable, Unknown, "the connection to Redis broke"),
        RedisKind::ClusterConnectionNotFound => (ErrorKind::Unavailable, None, "no node of the Cluster can be reached"),
        _ => (ErrorKind::Internal, Unknown, "Redis answered something unexpected"),
    }
}

fn classify_server(kind: ServerErrorKind, error: &RedisError) -> (ErrorKind, Effect, &'static str) {
    use Effect::{None, Unknown};
    match kind {
        ServerErrorKind::BusyLoading => (ErrorKind::Unavailable, None, "Redis is loading its data"),
        ServerErrorKind::TryAgain | ServerErrorKind::Moved | ServerErrorKind::Ask => {
            (ErrorKind::Unavailable, None, "the Cluster is moving this slot")
        }
        ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown => {
            (ErrorKind::Unavailable, None, "the Cluster or its master is down")
        }
        ServerErrorKind::ReadOnly => (ErrorKind::Unavailable, None, "this node is a replica; a failover is under way"),
        ServerErrorKind::NoPerm => (ErrorKind::Denied, None, "the Redis user may not run this command"),
        // Every command of this store checks before it changes anything, so a script's error means nothing was done.
        ServerErrorKind::ResponseError if error.detail().is_some_and(|detail| detail.contains("WRONGTYPE")) => {
            (ErrorKind::Corrupt, None, "the key holds another type; was it written by another program?")
        }
        ServerErrorKind::ResponseError if error.detail().is_some_and(|detail| detail.contains("OOM")) => {
            (ErrorKind::Full, None, "Redis has reached its maxmemory")
        }
        _ => (ErrorKind::Internal, Unknown, "Redis answered with an error"),
    }
}

fn classify_code(code: &str) -> (ErrorKind, Effect, &'static str) {
    use Effect::{None, Unknown};
    match code {
        "WRONGTYPE" => (ErrorKind::Corrupt, None, "the key holds another type; was it written by another program?"),
        "OOM" => (ErrorKind::Full, None, "Redis has reached its maxmemory"),
        "NOAUTH" | "WRONGPASS" => (ErrorKind::Denied, None, "Redis refused the credentials"),
        "BUSY" => (ErrorKind::Unavailable, None, "Redis is busy with a script that does not end"),
        "MISCONF" => (ErrorKind::Unavailable, None, "Redis can't persist and refuses writes; look at its disk"),
        "NOREPLICAS" => (ErrorKind::Unavailable, None, "Redis has too few replicas and refuses writes"),
        _ => (ErrorKind::Internal, Unknown, "Redis answered with an error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Effect::{None as Nothing, Unknown};

    fn reply(line: &str) -> RedisError {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).and_then(redis::Value::extract_error) {
            Err(error) => error,
            Ok(value) => unreachable!("{value:?} is no error"),
        }
    }

    fn io(kind: std::io::ErrorKind) -> RedisError {
        std::io::Error::from(kind).into()
    }

    #[test]
    fn every_row_of_the_table() {
        let rows = [
            (reply("LOADING Redis is loading"), ErrorKind::Unavailable, Nothing),
            (reply("TRYAGAIN Multiple keys"), ErrorKind::Unavailable, Nothing),
            (reply("MOVED 1 127.0.0.1:1"), ErrorKind::Unavailable, Nothing),
            (reply("ASK 1 127.0.0.1:1"), ErrorKind::Unavailable, Nothing),
            (reply("CLUSTERDOWN Hash slot"), ErrorKind::Unavailable, Nothing),
            (reply("MASTERDOWN Link"), ErrorKind::Unavailable, Nothing),
            (reply("READONLY You can't"), ErrorKind::Unavailable, Nothing),
            (reply("NOPERM this user"), ErrorKind::Denied, Nothing),
            (reply("NOAUTH Authentication"), ErrorKind::Denied, Nothing),
            (reply("WRONGPASS invalid"), ErrorKind::Denied, Nothing),
            (reply("WRONGTYPE Operation"), ErrorKind::Corrupt, Nothing),
            (reply("OOM command not allowed"), ErrorKind::Full, Nothing),
            (reply("BUSY Redis is busy"), ErrorKind::Unavailable, Nothing),
            (reply("MISCONF Redis is"), ErrorKind::Unavailable, Nothing),
            (reply("NOREPLICAS Not enough"), ErrorKind::Unavailable, Nothing),
            (reply("ERR unknown command"), ErrorKind::Internal, Unknown),
            (reply("WHATEVER it is"), ErrorKind::Internal, Unknown),
            (io(std::io::ErrorKind::ConnectionRefused), ErrorKind::Unavailable, Nothing),
            (io(std::io::ErrorKind::TimedOut), ErrorKind::Timeout, Unknown),
            (io(std::io::ErrorKind::BrokenPipe), ErrorKind::Unavailable, Unknown),
            (io(std::io::ErrorKind::UnexpectedEof), ErrorKind::Unavailable, Unknown),
        ];
        for (error, kind, effect) in rows {
            let failure = Failure { error, was_sent: true };
            let error = &failure.error;
            let write = map(&failure, Access::Write);
            assert_eq!((write.kind(), write.effect()), (kind, effect), "{error}");
            let read = map(&failure, Access::Read);
            assert_eq!((read.kind(), read.effect()), (kind, Nothing), "{error}");
        }
    }
}
