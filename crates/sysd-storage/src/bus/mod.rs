//! Buses: [`sysd_core::bus::Bus`] in the process, on Redis and on NATS.
//!
//! | URL | bus | feature | `Ok` of a publication means |
//! |---|---|---|---|
//! | `memory:` | [`MemoryBus`] | always there | it lies in the buffers of all who listen |
//! | `redis://…`, `rediss://…`, `redis-cluster://…`, `rediss-cluster://…` | `RedisBus` | `redis` | the server passed it to the connections of all who listen |
//! | `nats://[USER:PASSWORD@]HOST[:PORT],HOST…`, `tls://…` | `NatsBus` | `nats` | the server has it, and passes it on |
//!
//! What is lost on the way, and how a subscriber is told, is in docs/bus.md.
//!
//! A bus on a server comes with a [driver](BusDriver), a future that the application runs: it subscribes, reconnects, subscribes
//! again. The clients of Redis and NATS run a task of their own for each connection, which they offer no way around.

#[cfg_attr(not(all(feature = "redis", feature = "nats")), allow(dead_code, reason = "the server's side of it"))]
pub(crate) mod hub;
mod mailbox;
mod memory;
#[cfg(feature = "nats")]
mod nats;
#[cfg_attr(not(any(feature = "redis", feature = "nats")), allow(dead_code, reason = "only servers lose messages"))]
pub(crate) mod numbers;

use futures::future::BoxFuture;
use sysd_core::bus::AnyBus;
use sysd_core::{Effect, Error, ErrorKind, Result};

pub use crate::bus::hub::Listener;
pub use crate::bus::memory::MemoryBus;
#[cfg(feature = "nats")]
pub use crate::bus::nats::{NatsBus, NatsBusConfig};
#[cfg(feature = "redis")]
pub use crate::redis::bus::{RedisBus, RedisBusConfig};

/// What keeps a bus going: spawn it, or poll it beside the rest. It never ends by itself; when it is dropped, the bus ends
/// and its subscriptions say so.
pub type BusDriver = BoxFuture<'static, ()>;

/// Opens the bus that a URL names, with its defaults. Those on servers need a Tokio runtime. The driver of `memory:` does
/// nothing.
///
/// ```
/// use sysd_core::bus::{Bus, Channel};
///
/// # futures::executor::block_on(async {
/// let url = std::env::var("BUS_URL").unwrap_or_else(|_| "memory:".to_owned());
/// # let url = "memory:";
/// let (bus, driver) = sysd_storage::bus::open(&url).await?;
/// # drop(driver);
/// # #[cfg(any())]
/// tokio::spawn(driver);
/// bus.publish(&Channel::new("node 7")?, "hello".into()).await?;
/// # Ok::<(), sysd_core::Error>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// [`Config`](ErrorKind::Config) if the URL names no bus, or one whose feature is off, saying which; else those of the bus's own
/// way to be made. The URL's password is in none of them.
///
/// # Cancel safety
/// Nothing was opened.
#[allow(clippy::unused_async, reason = "where features are off")]
pub async fn open(url: &str) -> Result<(AnyBus, BusDriver)> {
    match url.split_once(':') {
        Some(("memory", "" | "//")) => Ok((AnyBus::new(MemoryBus::new()), Box::pin(std::future::pending()))),
        #[cfg(feature = "redis")]
        Some(("redis" | "rediss" | "redis-cluster" | "rediss-cluster", _)) => {
            let (bus, driver) = RedisBus::connect(url, RedisBusConfig::default()).await?;
            Ok((AnyBus::new(bus), driver))
        }
        #[cfg(feature = "nats")]
        Some(("nats" | "tls", _)) => {
            let (bus, driver) = NatsBus::connect(url, NatsBusConfig::default()).await?;
            Ok((AnyBus::new(bus), driver))
        }
        #[cfg(not(feature = "redis"))]
        Some(("redis" | "rediss" | "redis-cluster" | "rediss-cluster", _)) => Err(is_off("redis")),
        #[cfg(not(feature = "nats"))]
        Some(("nats" | "tls", _)) => Err(is_off("nats")),
        _ => Err(config(
            "a bus's URL is memory:, or starts with redis://, rediss://, redis-cluster://, rediss-cluster://, nats:// or tls://"
                .to_owned(),
        )),
    }
}

#[cfg(not(all(feature = "redis", feature = "nats")))]
fn is_off(feature: &str) -> Error {
    config(format!("this build is without that bus: turn on the feature `{feature}` of sysd-storage"))
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, Effect::None, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::executor::block_on;

    #[test]
    fn a_url_that_names_no_bus_is_refused_without_its_secrets() {
        for url in ["", "memory", "memory:hunter2", "postgres://ann:hunter2@host/", "ann:hunter2@host"] {
            let error = block_on(open(url)).map(drop).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
