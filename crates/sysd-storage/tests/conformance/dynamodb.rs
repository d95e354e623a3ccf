//! DynamoDB.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::{Client, Config};
use sysd_core::{Effect, Error, ErrorKind, Key, ManualClock, Result};
use sysd_storage::{DynamoConfig, DynamoCredentials, DynamoStore};
use sysd_testkit::conformance::Harness;
use tokio::sync::OnceCell;

use crate::RUNTIME;

pub(crate) const DYNAMODB: OnDynamo = OnDynamo { variable: "SYSD_TEST_DYNAMODB_URL" };

const PREFIX: &str = "conformance";
/// DynamoDB Local takes any, of letters and digits.
const ACCESS_KEY_ID: &str = "sysd";
const SECRET_ACCESS_KEY: &str = "sysd";

/// The table that a variable names; made if it is missing.
pub(crate) struct OnDynamo {
    variable: &'static str,
}

/// The clauses' stores differ in their clocks only.
static STORE: OnceCell<DynamoStore> = OnceCell::const_new();

impl OnDynamo {
    fn config(&self) -> Result<DynamoConfig> {
        let url = std::env::var(self.variable).map_err(|_| {
            let message =
                format!("{} is not set: run `cargo xtask servers up` and export what it prints", self.variable);
            Error::new(ErrorKind::Config, Effect::None, message)
        })?;
        let mut config = DynamoConfig::from_url(&url)?;
        config.credentials = DynamoCredentials::from_keys(ACCESS_KEY_ID, SECRET_ACCESS_KEY);
        PREFIX.clone_into(&mut config.prefix);
        // The server takes its time on a busy machine.
        config.response_timeout = Duration::from_secs(20);
        config.connection_timeout = Duration::from_secs(10);
        Ok(config)
    }
}

impl Harness for OnDynamo {
    type Store = DynamoStore<ManualClock>;

    async fn connect(&self, clock: ManualClock) -> Result<Self::Store> {
        let make = || async {
            let store = DynamoStore::connect(self.config()?).await?;
            store.create_table().await?;
            Ok::<_, Error>(store)
        };
        Ok(STORE.get_or_try_init(make).await?.with_clock(clock))
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        RUNTIME.block_on(future)
    }

    async fn corrupt(&self, key: Key<'_>) -> Result<()> {
        let config = self.config()?;
        let client = Client::from_conf(
            Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .http_client(aws_smithy_http_client::Builder::new().build_http())
                .credentials_provider(Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "test"))
                .region(config.region.map(Region::new))
                .endpoint_url(config.endpoint.unwrap_or_default())
                .build(),
        );
        let partition = [PREFIX.as_bytes(), b"/", key.space().name().as_bytes(), b":", key.partition()].concat();
        let sort = if key.is_lone() { vec![0] } else { [&[1], key.sort()].concat() };
        let bytes = |bytes| AttributeValue::B(Blob::new(bytes));
        let item = HashMap::from([
            ("p".to_owned(), bytes(partition)),
            ("s".to_owned(), bytes(sort)),
            ("v".to_owned(), AttributeValue::S("foreign".to_owned())),
        ]);
        match client.put_item().table_name(config.table).set_item(Some(item)).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, format!("{error:?}"))),
        }
    }
}
