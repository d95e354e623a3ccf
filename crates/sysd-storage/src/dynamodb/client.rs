//! The AWS SDK, set up.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{Builder, Credentials, Region, SharedHttpClient};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use sysd_core::{Effect, Error, ErrorKind, Result};

use super::config::{DynamoConfig, DynamoCredentials};

/// Sooner than the other end gives up a connection: a call that meets its closing is of unknown effect.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// A client that sends every call once: a delete or an unconditional put that was sent again could undo what somebody else
/// wrote meanwhile.
pub(super) async fn connect(config: &DynamoConfig) -> Result<Client> {
    let region = config.region.clone().map(Region::new);
    let builder = match &config.credentials {
        DynamoCredentials::Chain => {
            let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(https());
            if let Some(region) = region {
                loader = loader.region(region);
            }
            Builder::from(&loader.load().await)
        }
        DynamoCredentials::Static { access_key_id, secret_access_key, session_token } => {
            let token = session_token.clone();
            let credentials = Credentials::new(access_key_id, secret_access_key, token, None, "sysd");
            let is_plain = config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
            // Reading the system's certificates takes its time.
            let http = if is_plain { http().build_http() } else { https() };
            Builder::new()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .http_client(http)
                .credentials_provider(credentials)
                .region(region)
        }
    };
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connection_timeout)
        .operation_timeout(config.response_timeout)
        .build();
    let mut builder = builder
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        // The deadline of the call does it.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    let config = builder.build();
    if config.region().is_none() {
        let message = "no region: set DynamoConfig::region, or AWS_REGION in the environment";
        return Err(Error::new(ErrorKind::Config, Effect::None, message));
    }
    Ok(Client::from_conf(config))
}

fn http() -> HttpBuilder {
    HttpBuilder::new().pool_idle_timeout(IDLE_MAX)
}

fn https() -> SharedHttpClient {
    http().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}
