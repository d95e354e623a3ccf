//! Any log by its URL, chosen at run time.

use sysd_core::event::{AnyEventLog, check_name};
use sysd_core::{Effect, Error, ErrorKind, Result};

fn config(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, Effect::None, message)
}

#[cfg_attr(all(feature = "memory", feature = "redis", feature = "kafka"), allow(dead_code, reason = "nothing is off"))]
fn is_off(feature: &str) -> Error {
    config(format!("this build is without that log: turn on the feature `{feature}` of sysd-storage"))
}

/// Opens the log of this name where a URL points, as its defaults say.
///
/// | URL | log | feature |
/// |---|---|---|
/// | `memory:` | in the process, a new one each time | `memory` |
/// | `redis://…`, `rediss://…`, `redis-cluster://…`, `rediss-cluster://…` | on Redis | `redis` |
/// | `kafka://HOST[:PORT],HOST[:PORT]` | the topic of this name, which must be there | `kafka` |
///
/// # Errors
/// [`Invalid`](ErrorKind::Invalid) naming `name`; [`Config`](ErrorKind::Config) if the URL names no log, or one whose feature is
/// off, saying which; else those of the log's own way to be opened. The URL's password is in none of them.
///
/// # Cancel safety
/// Nothing was opened.
#[allow(clippy::unused_async, reason = "where features are off")]
pub async fn open_events(url: &str, name: &str) -> Result<AnyEventLog> {
    check_name("name", name)?;
    match url.split_once(':').map(|(scheme, rest)| (scheme, rest.trim_start_matches('/'))) {
        #[cfg(feature = "memory")]
        Some(("memory", "")) => Ok(AnyEventLog::new(super::MemoryEvents::new(super::MemoryEventsConfig::default())?)),
        #[cfg(not(feature = "memory"))]
        Some(("memory", "")) => Err(is_off("memory")),
        Some(("memory", _)) => Err(config("nothing follows memory: in a URL")),
        #[cfg(feature = "redis")]
        Some(("redis" | "rediss" | "redis-cluster" | "rediss-cluster", _)) => {
            let log = super::RedisEvents::connect(url, name, super::RedisEventsConfig::default()).await?;
            Ok(AnyEventLog::new(log))
        }
        #[cfg(not(feature = "redis"))]
        Some(("redis" | "rediss" | "redis-cluster" | "rediss-cluster", _)) => Err(is_off("redis")),
        #[cfg(feature = "kafka")]
        Some(("kafka", _)) => {
            let log = super::KafkaEvents::connect(url, name, super::KafkaEventsConfig::default()).await?;
            Ok(AnyEventLog::new(log))
        }
        #[cfg(not(feature = "kafka"))]
        Some(("kafka", _)) => Err(is_off("kafka")),
        _ => Err(config(
            "a log's URL starts with memory:, redis://, rediss://, redis-cluster://, rediss-cluster:// or kafka://",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::executor::block_on;

    #[test]
    fn a_url_that_names_no_log_is_refused_without_its_secrets() {
        for url in ["", "memory", "local:x", "amqp://ann:hunter2@host/", "ann:hunter2@host", "memory:hunter2"] {
            let error = block_on(open_events(url, "log")).map(drop).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert_eq!(block_on(open_events("memory:", "a/b")).unwrap_err().field(), Some("name"));
        assert!(is_off("kafka").to_string().contains("`kafka`"));
    }
}
