//! How a store is made.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use sysd_core::{ClockAuthority, Durability, Effect, Error, ErrorKind, Result};

/// How a [`RedisStore`](crate::RedisStore) is made.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Begins every key, so that several applications can share a server; without `{` and `}`.
    pub prefix: String,
    /// The longest wait for an answer. A write that gets none has an unknown effect.
    pub response_timeout: Duration,
    /// The longest wait for a connection, or for a Cluster's map.
    pub connection_timeout: Duration,
    /// What an acknowledged write survives on this server. [`Durability::Durable`] is yours to promise: it is true with
    /// `appendonly yes` and `appendfsync always`, on one node without failover.
    pub durability: Durability,
    /// How many calls of a batch are in flight at once.
    pub batch_in_flight_max: usize,
    /// Whose clock decides what is expired. With [`ClockAuthority::Server`] it is that of the node that holds the record, read
    /// inside each call, so callers' clocks need not agree; the store's own clock is then not asked. A failover changes
    /// clocks: keep the servers' in step.
    pub clock: ClockAuthority,
    /// Who must have signed the server's certificate, for `rediss://` and `rediss-cluster://`; `None`: whom the system trusts.
    pub tls_ca: Option<TlsCa>,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            response_timeout: Duration::from_secs(2),
            connection_timeout: Duration::from_secs(1),
            durability: Durability::BestEffort,
            batch_in_flight_max: 256,
            clock: ClockAuthority::Client,
            tls_ca: None,
        }
    }
}

impl RedisConfig {
    /// Refuses what no call could succeed with.
    pub(super) fn check(&self) -> Result<()> {
        let options = [
            ("response_timeout", self.response_timeout.is_zero()),
            ("connection_timeout", self.connection_timeout.is_zero()),
            ("batch_in_flight_max", self.batch_in_flight_max == 0),
        ];
        match options.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((option, _)) => {
                let message = format!("{option} is zero, so no call could succeed");
                Err(Error::new(ErrorKind::Config, Effect::None, message).with_field(option))
            }
            None => Ok(()),
        }
    }
}

/// Certificates of authorities that may sign the server's.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsCa(Vec<u8>);

impl TlsCa {
    /// From PEM text: one certificate or several. What can't be read is told when the store connects.
    pub fn from_pem(pem: impl Into<Vec<u8>>) -> Self {
        Self(pem.into())
    }

    /// From a PEM file.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the file can't be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        std::fs::read(path).map(Self).map_err(|error| {
            Error::new(ErrorKind::Config, Effect::None, format!("the CA file {} can't be read", path.display()))
                .with_source(error)
        })
    }

    pub(super) fn pem(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TlsCa {
    /// Certificates are long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsCa({} bytes)", self.0.len())
    }
}
