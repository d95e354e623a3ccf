//! Redis errors as kind and effect: the mapping table.

use std::error::Error as StdError;
use std::sync::Arc;

use redis::{ErrorKind as RedisKind, RedisError, ServerErrorKind};
use sysd_core::{Effect, Error, ErrorKind};

use super::link::Failure;

/// A row of the table: kind, effect if it was sent, and what to say.
type Row = (ErrorKind, Effect, &'static str);

const DENIED: Row = (ErrorKind::Denied, Effect::None, "Redis refused the credentials");
const UNEXPECTED: Row = (ErrorKind::Internal, Effect::Unknown, "Redis answered with an error");

/// Whether the call may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Maps an error. The source is left out: a client's error text can hold what was sent.
pub(super) fn map(failure: &Failure, access: Access) -> Error {
    let error = &failure.error;
    let (kind, effect, message) = classify(error, failure.was_sent);
    let effect = if access == Access::Read || !failure.was_sent { Effect::None } else { effect };
    match error.code() {
        Some(code) => Error::new(kind, effect, format!("{message} ({code})")),
        None => Error::new(kind, effect, message),
    }
}

fn classify(error: &RedisError, was_sent: bool) -> Row {
    use Effect::{None, Unknown};
    match error.kind() {
        RedisKind::Server(kind) => classify_server(kind, error.detail().unwrap_or_default()),
        RedisKind::Extension => classify_code(error.code().unwrap_or_default()),
        RedisKind::AuthenticationFailed => DENIED,
        RedisKind::InvalidClientConfig => (ErrorKind::Config, None, "the Redis URL or its options are wrong"),
        RedisKind::RESP3NotSupported => {
            (ErrorKind::Config, None, "this Redis is too old; use 6.0 or later, or add ?protocol=resp2 to the URL")
        }
        RedisKind::Io if was_sent => classify_loss(error),
        RedisKind::Io => classify_refusal(error),
        RedisKind::ClusterConnectionNotFound => (ErrorKind::Unavailable, None, "no node of the Cluster can be reached"),
        // Found before anything is sent.
        RedisKind::Client => (ErrorKind::Internal, None, "the Redis client refused the call"),
        // What is out of step stays so: the connection is given up.
        RedisKind::Parse => (ErrorKind::Internal, Unknown, "Redis answered something that can't be read"),
        _ => (ErrorKind::Internal, Unknown, "Redis answered something unexpected"),
    }
}

/// Of a call that went out. However its connection ended, it may have been carried out.
fn classify_loss(error: &RedisError) -> Row {
    use Effect::Unknown;
    if tls_error(error).is_some() {
        (ErrorKind::Unavailable, Unknown, "what Redis answered over TLS was damaged, and the connection is given up")
    } else if error.is_timeout() {
        (ErrorKind::Timeout, Unknown, "Redis gave no answer in time")
    } else {
        (ErrorKind::Unavailable, Unknown, "the connection to Redis broke")
    }
}

/// Of a connection that was not made.
fn classify_refusal(error: &RedisError) -> Row {
    use Effect::None;
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(_)) => (
            ErrorKind::Config,
            None,
            "the server's certificate is not from an authority that is trusted here, or not for this host; set tls_ca",
        ),
        Some(_) => (ErrorKind::Config, None, "the server does not speak TLS as it is spoken here"),
        _ if error.is_connection_refusal() => (ErrorKind::Unavailable, None, "no Redis answers at that address"),
        _ if error.is_timeout() => (ErrorKind::Timeout, None, "Redis gave no answer in time"),
        _ => (ErrorKind::Unavailable, None, "there is no connection to Redis, or it broke"),
    }
}

/// What went wrong with TLS, if that did.
fn tls_error(error: &RedisError) -> Option<&rustls::Error> {
    let source = error.source()?;
    // The client shares its causes.
    let io = match source.downcast_ref::<Arc<dyn StdError + Send + Sync>>() {
        Some(shared) => shared.downcast_ref::<std::io::Error>(),
        None => source.downcast_ref::<std::io::Error>(),
    };
    io?.get_ref()?.downcast_ref()
}

/// Refusals by code. What a script's command is refused for comes with that command's code (Redis 7), or as `ERR` with the code
/// in the text (Redis 6). Every script of this store checks first, and what it changes first can be refused as a whole,
/// so nothing was done.
fn classify_server(kind: ServerErrorKind, detail: &str) -> Row {
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
        ServerErrorKind::NoScript => (ErrorKind::Unavailable, None, "Redis forgot a script that was just loaded"),
        ServerErrorKind::NoPerm => (ErrorKind::Denied, None, "the Redis user may not run this command"),
        ServerErrorKind::CrossSlot => (ErrorKind::Internal, None, "the keys of a partition lie in two slots"),
        ServerErrorKind::ResponseError => classify_text(detail),
        ServerErrorKind::ExecAbort | ServerErrorKind::NotBusy | ServerErrorKind::NoSub => UNEXPECTED,
        _ => (ErrorKind::Internal, Unknown, "Redis answered with an error of a new kind"),
    }
}

fn classify_text(detail: &str) -> Row {
    use Effect::None;
    let denials = ["ACL failure in script", "The user executing the script can't", "NOPERM"];
    if denials.iter().any(|denial| detail.contains(denial)) {
        return (ErrorKind::Denied, None, "the Redis user may not run this command");
    }
    if detail.starts_with("max number of clients") {
        return (ErrorKind::Unavailable, None, "Redis has as many clients as it takes");
    }
    let code = ["WRONGTYPE", "OOM", "READONLY", "MISCONF", "NOREPLICAS", "BUSY"]
        .into_iter()
        .find(|code| detail.split(|letter: char| !letter.is_ascii_uppercase()).any(|word| word == *code));
    code.map_or(UNEXPECTED, classify_code)
}

fn classify_code(code: &str) -> Row {
    use Effect::None;
    match code {
        "WRONGTYPE" => (ErrorKind::Corrupt, None, "the key holds another type; was it written by another program?"),
        "OOM" => (ErrorKind::Full, None, "Redis has reached its maxmemory"),
        "NOAUTH" | "WRONGPASS" => DENIED,
        "DENIED" => (ErrorKind::Denied, None, "Redis is in protected mode and lets nobody in from other machines"),
        "READONLY" => (ErrorKind::Unavailable, None, "this node is a replica; a failover is under way"),
        "BUSY" => (ErrorKind::Unavailable, None, "Redis is busy with a script that does not end"),
        "MISCONF" => (ErrorKind::Unavailable, None, "Redis can't persist and refuses writes; look at its disk"),
        "NOREPLICAS" => (ErrorKind::Unavailable, None, "Redis has too few replicas and refuses writes"),
        "NOPROTO" => (ErrorKind::Config, None, "this Redis speaks no RESP3; add ?protocol=resp2 to the URL"),
        _ => UNEXPECTED,
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

    fn tls(error: rustls::Error) -> RedisError {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error).into()
    }

    fn client(kind: RedisKind) -> RedisError {
        (kind, "told with a secret").into()
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
            (reply("DENIED Redis is running in protected mode"), ErrorKind::Denied, Nothing),
            (reply("NOPROTO unsupported protocol version"), ErrorKind::Config, Nothing),
            (reply("NOSCRIPT No matching script"), ErrorKind::Unavailable, Nothing),
            (reply("CROSSSLOT Keys in request"), ErrorKind::Internal, Nothing),
            (reply("EXECABORT Transaction discarded"), ErrorKind::Internal, Unknown),
            (reply("NOTBUSY No scripts in execution"), ErrorKind::Internal, Unknown),
            (reply("NOSUB 'unsubscribe' not allowed"), ErrorKind::Internal, Unknown),
            // Raised inside a script, by Redis 7 and by Redis 6.
            (reply("WRONGTYPE Operation against a key script: ab, on @user_script:1."), ErrorKind::Corrupt, Nothing),
            (reply("OOM command not allowed script: ab, on @user_script:1."), ErrorKind::Full, Nothing),
            (reply("READONLY You can't write script: ab, on @user_script:1."), ErrorKind::Unavailable, Nothing),
            (reply("ERR ACL failure in script: User x has no permissions"), ErrorKind::Denied, Nothing),
            (
                reply("ERR Error running script (call to f_ab): @user_script:1: WRONGTYPE Op"),
                ErrorKind::Corrupt,
                Nothing,
            ),
            (reply("ERR Error running script (call to f_ab): @user_script:1: -OOM command"), ErrorKind::Full, Nothing),
            (reply("ERR Error running script (call to f_ab): @user_script:1: ROOM"), ErrorKind::Internal, Unknown),
            (reply("ERR max number of clients reached"), ErrorKind::Unavailable, Nothing),
            (reply("ERR unknown command"), ErrorKind::Internal, Unknown),
            (reply("WHATEVER it is"), ErrorKind::Internal, Unknown),
            (client(RedisKind::Parse), ErrorKind::Internal, Unknown),
            (client(RedisKind::AuthenticationFailed), ErrorKind::Denied, Nothing),
            (client(RedisKind::UnexpectedReturnType), ErrorKind::Internal, Unknown),
            (client(RedisKind::InvalidClientConfig), ErrorKind::Config, Nothing),
            (client(RedisKind::Client), ErrorKind::Internal, Nothing),
            (client(RedisKind::MasterNameNotFoundBySentinel), ErrorKind::Internal, Unknown),
            (client(RedisKind::NoValidReplicasFoundBySentinel), ErrorKind::Internal, Unknown),
            (client(RedisKind::EmptySentinelList), ErrorKind::Internal, Unknown),
            (client(RedisKind::ClusterConnectionNotFound), ErrorKind::Unavailable, Nothing),
            (client(RedisKind::RESP3NotSupported), ErrorKind::Config, Nothing),
        ];
        for (error, kind, effect) in rows {
            let failure = Failure { error, was_sent: true };
            let error = &failure.error;
            let write = map(&failure, Access::Write);
            assert_eq!((write.kind(), write.effect()), (kind, effect), "{error}");
            let read = map(&failure, Access::Read);
            assert_eq!((read.kind(), read.effect()), (kind, Nothing), "{error}");
            let unsent = map(&Failure { was_sent: false, ..failure.clone() }, Access::Write);
            assert_eq!((unsent.kind(), unsent.effect()), (kind, Nothing), "{error}");
            assert!(!format!("{write} {write:?}").contains("secret"));
        }
    }

    #[test]
    fn what_breaks_after_the_call_went_out_is_never_without_effect() {
        use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, NotFound, TimedOut, UnexpectedEof};
        let rows = [
            // The kind if it was not sent, and if it was.
            (io(ConnectionRefused), ErrorKind::Unavailable, ErrorKind::Unavailable),
            (io(NotFound), ErrorKind::Unavailable, ErrorKind::Unavailable),
            (io(TimedOut), ErrorKind::Timeout, ErrorKind::Timeout),
            (io(BrokenPipe), ErrorKind::Unavailable, ErrorKind::Unavailable),
            (io(UnexpectedEof), ErrorKind::Unavailable, ErrorKind::Unavailable),
            (tls(rustls::CertificateError::UnknownIssuer.into()), ErrorKind::Config, ErrorKind::Unavailable),
            (tls(rustls::Error::HandshakeNotComplete), ErrorKind::Config, ErrorKind::Unavailable),
            (tls(rustls::Error::DecryptError), ErrorKind::Config, ErrorKind::Unavailable),
        ];
        for (error, unsent, sent) in rows {
            for (was_sent, access, expected) in [
                (false, Access::Read, (unsent, Nothing)),
                (false, Access::Write, (unsent, Nothing)),
                (true, Access::Read, (sent, Nothing)),
                (true, Access::Write, (sent, Unknown)),
            ] {
                let mapped = map(&Failure { error: error.clone(), was_sent }, access);
                assert_eq!((mapped.kind(), mapped.effect()), expected, "{error} {was_sent} {access:?}");
            }
        }
    }
}
