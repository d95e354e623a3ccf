//! What can be chosen.

use std::fmt;
use std::time::Duration;

use sysd_core::{Effect, Error, ErrorKind, Result};

use super::address;

/// How a [`DynamoStore`](super::DynamoStore) behaves.
#[derive(Clone)]
pub struct DynamoConfig {
    /// The table that holds every space.
    pub table: String,
    /// The region, such as `eu-central-1`; `None`: the one that the environment, the profile or the machine names.
    pub region: Option<String>,
    /// Where to send calls instead of the region's own endpoint: DynamoDB Local, a VPC endpoint. One with a user or a password in
    /// it is refused: calls are signed with [`credentials`](Self::credentials). Printed without them, and without its query.
    pub endpoint: Option<String>,
    /// Who calls.
    pub credentials: DynamoCredentials,
    /// Sets the records of one user of a table apart from those of another; without `/` and `:`. It shortens the longest
    /// partition.
    pub prefix: String,
    /// The longest wait for an answer, a connection included. A write that gets none has an unknown effect.
    pub response_timeout: Duration,
    /// The longest wait for a connection.
    pub connection_timeout: Duration,
    /// How long a batch goes on sending what DynamoDB left unprocessed; what is left then is
    /// [`Throttled`](ErrorKind::Throttled), without effect.
    pub batch_timeout: Duration,
    /// How many single writes of a batch are in flight at once.
    pub batch_in_flight_max: usize,
    /// The longest wait for a table that is being made.
    pub table_timeout: Duration,
}

impl DynamoConfig {
    /// Everything as usual, with the credentials and the region that the AWS SDK finds.
    pub fn new(table: impl Into<String>) -> Self {
        Self {
            table: table.into(),
            region: None,
            endpoint: None,
            credentials: DynamoCredentials::Chain,
            prefix: String::new(),
            response_timeout: Duration::from_secs(3),
            connection_timeout: Duration::from_secs(1),
            batch_timeout: Duration::from_secs(10),
            batch_in_flight_max: 32,
            table_timeout: Duration::from_secs(60),
        }
    }

    /// From `dynamodb://TABLE[?region=REGION&endpoint=URL&prefix=PREFIX]`, its values percent-encoded.
    ///
    /// ```
    /// use sysd_storage::DynamoConfig;
    /// let config = DynamoConfig::from_url("dynamodb://records?region=us-east-1&endpoint=http%3A%2F%2F127.0.0.1%3A8000")?;
    /// assert_eq!(config.table, "records");
    /// assert_eq!(config.endpoint.as_deref(), Some("http://127.0.0.1:8000"));
    /// # Ok::<(), sysd_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if it is none, or has credentials in it: they have no place there. No part of the URL
    /// is in the error.
    pub fn from_url(url: &str) -> Result<Self> {
        address::parse(url)
    }

    pub(super) fn check(&self) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::new(ErrorKind::Config, Effect::None, message));
        if self.table.is_empty() {
            return wrong("the table has no name");
        }
        if let Some(endpoint) = &self.endpoint {
            address::check_endpoint(endpoint)?;
        }
        if self.prefix.contains(['/', ':']) || self.prefix.len() > 255 {
            return wrong("a prefix has at most 255 bytes and no / and :, which end it in stored keys");
        }
        Ok(())
    }
}

impl fmt::Debug for DynamoConfig {
    /// Without what may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table,
            region,
            endpoint,
            credentials,
            prefix,
            response_timeout,
            connection_timeout,
            batch_timeout,
            batch_in_flight_max,
            table_timeout,
        } = self;
        f.debug_struct("DynamoConfig")
            .field("table", table)
            .field("region", region)
            .field("endpoint", &endpoint.as_deref().map(address::shown))
            .field("credentials", credentials)
            .field("prefix", prefix)
            .field("response_timeout", response_timeout)
            .field("connection_timeout", connection_timeout)
            .field("batch_timeout", batch_timeout)
            .field("batch_in_flight_max", batch_in_flight_max)
            .field("table_timeout", table_timeout)
            .finish()
    }
}

/// Who calls DynamoDB.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DynamoCredentials {
    /// Whoever the AWS SDK finds: in the environment, the profile, the role of a container or machine.
    Chain,
    /// These.
    Static {
        /// The access key's id.
        access_key_id: String,
        /// The access key's secret.
        secret_access_key: String,
        /// The token of temporary credentials.
        session_token: Option<String>,
    },
}

impl DynamoCredentials {
    /// An access key's id and secret.
    pub fn from_keys(access_key_id: impl Into<String>, secret_access_key: impl Into<String>) -> Self {
        Self::Static {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token: None,
        }
    }
}

impl fmt::Debug for DynamoCredentials {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "Chain",
            Self::Static { .. } => "Static(..)",
        })
    }
}
