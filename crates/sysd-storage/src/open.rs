//! Any store by its URL, chosen at run time.
//!
//! | URL | store | feature |
//! |---|---|---|
//! | `memory:` | in the process | `memory` |
//! | `local:PATH` | on a local disk, in the directory PATH | `local` |
//! | `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, `rediss://…` over TLS | one node of Redis | `redis` |
//! | `redis-cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT/`, `rediss-cluster://…` over TLS | a Redis Cluster | `redis` |
//! | `dynamodb://TABLE?region=REGION&endpoint=URL` | a table of DynamoDB | `dynamodb` |
//! | `scylla://[USER:PASSWORD@]HOST[:PORT],HOST/KEYSPACE?durability=durable` | a keyspace of Cassandra or ScyllaDB | `scylla` |
//!
//! ```
//! use sysd_core::{Key, Space, StoreExt};
//!
//! const USERS: Space = Space::conditional("users");
//!
//! # futures::executor::block_on(async {
//! let url = std::env::var("STORE_URL").unwrap_or_else(|_| "memory:".to_owned());
//! # let url = "memory:";
//! let store = sysd_storage::open(&url).await?;
//! store.put(Key::lone(USERS, b"alice"), "hello").await?;
//! # Ok::<(), sysd_core::Error>(())
//! # }).unwrap();
//! ```

use sysd_core::{AnyStore, Clock, Effect, Error, ErrorKind, Result, SystemClock};

/// What a URL's scheme stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Memory,
    Local,
    Redis,
    DynamoDb,
    Scylla,
}

impl Backend {
    /// # Errors
    /// [`Config`](ErrorKind::Config) without anything of the URL but its scheme: what follows may be a secret.
    fn of(url: &str) -> Result<Self> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("memory") => Ok(Self::Memory),
            Some("local") => Ok(Self::Local),
            Some("redis" | "rediss" | "redis-cluster" | "rediss-cluster") => Ok(Self::Redis),
            Some("dynamodb") => Ok(Self::DynamoDb),
            Some("scylla") => Ok(Self::Scylla),
            _ => Err(config(
                "a store's URL starts with memory:, local:, redis://, rediss://, redis-cluster://, rediss-cluster://, \
                 dynamodb:// or scylla://"
                    .to_owned(),
            )),
        }
    }

    #[cfg_attr(
        all(feature = "memory", feature = "local", feature = "redis", feature = "dynamodb", feature = "scylla"),
        allow(dead_code, reason = "nothing is off")
    )]
    fn is_off(self) -> Error {
        let feature = match self {
            Self::Memory => "memory",
            Self::Local => "local",
            Self::Redis => "redis",
            Self::DynamoDb => "dynamodb",
            Self::Scylla => "scylla",
        };
        config(format!("this build is without that store: turn on the feature `{feature}` of sysd-storage"))
    }
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, Effect::None, message)
}

/// A handle for each clock, and the store itself.
#[cfg(any(feature = "local", feature = "redis", feature = "dynamodb", feature = "scylla"))]
macro_rules! handles {
    ($store:ident, $clocks:ident) => {{
        let mut stores: Vec<_> = $clocks.into_iter().map(|clock| AnyStore::new($store.with_clock(clock))).collect();
        stores.push(AnyStore::new($store));
        stores
    }};
}

/// Opens the store that a URL names, by the system's clock. Those on servers need a Tokio runtime.
///
/// Tables and keyspaces must be there: [`prepare`] makes them.
///
/// # Errors
/// [`Config`](ErrorKind::Config) if the URL names no store, or one whose feature is off, saying which; else those of the
/// store's own way to be opened. The URL's password is in none of them.
///
/// # Cancel safety
/// Nothing was opened; a directory may have been made.
pub async fn open(url: &str) -> Result<AnyStore> {
    open_with(url, SystemClock).await
}

/// Opens the store that a URL names, by `clock`.
///
/// # Errors
/// As [`open`].
///
/// # Cancel safety
/// As [`open`].
pub async fn open_with(url: &str, clock: impl Clock) -> Result<AnyStore> {
    open_by_clocks(url, vec![clock]).await?.pop().ok_or_else(|| config("no store was opened".to_owned()))
}

/// Opens the store that a URL names once, and gives a handle for each clock: the same records over the same connections, by
/// different times. For replays, in which each caller has its own time.
///
/// # Errors
/// As [`open`]; [`Config`](ErrorKind::Config) if `clocks` is empty, or has more than the one that memory can have.
///
/// # Cancel safety
/// As [`open`].
#[allow(unused_variables, unused_mut, clippy::unused_async, reason = "where features are off")]
pub async fn open_by_clocks<C: Clock>(url: &str, mut clocks: Vec<C>) -> Result<Vec<AnyStore>> {
    let backend = Backend::of(url)?;
    let Some(first) = clocks.pop() else { return Err(config("a store needs a clock".to_owned())) };
    match backend {
        #[cfg(feature = "memory")]
        Backend::Memory => match url {
            "memory:" | "memory://" if clocks.is_empty() => Ok(vec![AnyStore::new(crate::Memory::with_clock(first))]),
            "memory:" | "memory://" => Err(config("a store in memory has one clock".to_owned())),
            _ => Err(config("nothing follows memory: in a URL".to_owned())),
        },
        #[cfg(feature = "local")]
        Backend::Local => {
            let store = crate::LocalStore::open_with(local_path(url)?, crate::LocalConfig::default(), first).await?;
            Ok(handles!(store, clocks))
        }
        #[cfg(feature = "redis")]
        Backend::Redis => {
            let store = crate::RedisStore::connect_with(url, crate::RedisConfig::default(), first).await?;
            Ok(handles!(store, clocks))
        }
        #[cfg(feature = "dynamodb")]
        Backend::DynamoDb => {
            let store = crate::DynamoStore::connect_with(crate::DynamoConfig::from_url(url)?, first).await?;
            Ok(handles!(store, clocks))
        }
        #[cfg(feature = "scylla")]
        Backend::Scylla => {
            let store = crate::ScyllaStore::connect_with(crate::ScyllaConfig::from_url(url)?, first).await?;
            Ok(handles!(store, clocks))
        }
        #[cfg(not(all(
            feature = "memory",
            feature = "local",
            feature = "redis",
            feature = "dynamodb",
            feature = "scylla"
        )))]
        other => Err(other.is_off()),
    }
}

/// Makes what the store of a URL needs before it is opened: DynamoDB's table, a keyspace and its tables. What is there stays
/// as it is; the others need nothing.
///
/// DynamoDB's table is billed by request. A keyspace gets one copy of everything, which is for a single node: make that of a
/// real cluster with `ScyllaStore::create_schema`.
///
/// # Errors
/// As [`open`], and those of making it.
///
/// # Cancel safety
/// Some of it may have been made; call it again.
#[allow(clippy::unused_async, reason = "where features are off")]
pub async fn prepare(url: &str) -> Result<()> {
    match Backend::of(url)? {
        #[cfg(feature = "dynamodb")]
        Backend::DynamoDb => {
            let store = crate::DynamoStore::connect(crate::DynamoConfig::from_url(url)?).await?;
            store.create_table().await
        }
        #[cfg(feature = "scylla")]
        Backend::Scylla => {
            let config = crate::ScyllaConfig::from_url(url)?;
            crate::ScyllaStore::create_schema(&config, &crate::ScyllaSchema::replicated(1)).await
        }
        _ => Ok(()),
    }
}

/// The directory of `local:PATH`. Paths are taken as they are: `local:///var/lib/x` and `local:/var/lib/x` are the same.
#[cfg(feature = "local")]
fn local_path(url: &str) -> Result<&str> {
    let path = url.strip_prefix("local:").unwrap_or_default();
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err(config("name a directory: local:PATH".to_owned()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::executor::block_on;
    use sysd_core::{Key, Space, StoreExt as _};

    const SPACE: Space = Space::conditional("open");

    #[test]
    fn a_url_that_names_no_store_is_refused_without_its_secrets() {
        for url in
            ["", "memory", "postgres://ann:hunter2@host/", "ann:hunter2@host", "memory:hunter2", "local:", "local://"]
        {
            let error = block_on(open(url)).map(drop).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn what_is_off_says_which_feature_to_turn_on() {
        for (url, feature) in
            [("redis-cluster://h:1/", "redis"), ("scylla://h/k", "scylla"), ("dynamodb://t", "dynamodb")]
        {
            let error = Backend::of(url).unwrap().is_off();
            assert!(error.to_string().contains(&format!("`{feature}`")), "{error}");
        }
    }

    #[cfg(feature = "memory")]
    #[test]
    fn each_memory_is_its_own() {
        let (one, other) = (block_on(open("memory:")).unwrap(), block_on(open("memory:")).unwrap());
        block_on(one.put(Key::lone(SPACE, b"k"), "x")).unwrap();
        assert!(block_on(sysd_core::Store::get(&other, Key::lone(SPACE, b"k"))).unwrap().is_none());
    }

    #[cfg(feature = "local")]
    #[test]
    fn both_forms_of_a_path_are_the_same() {
        assert_eq!(local_path("local:///var/lib/x").unwrap(), "/var/lib/x");
        assert_eq!(local_path("local:/var/lib/x").unwrap(), "/var/lib/x");
        assert_eq!(local_path("local:data").unwrap(), "data");
    }
}
