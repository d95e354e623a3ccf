//! The buses of this crate against every clause of docs/bus.md, each bare and erased.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use sysd_core::bus::{AnyBus, BusLimits};
use sysd_core::{Effect, Error, ErrorKind, Result, SystemEntropy, random_base62};
use sysd_storage::TlsCa;
use sysd_storage::bus::{BusDriver, MemoryBus, NatsBus, NatsBusConfig, RedisBus, RedisBusConfig};
use sysd_testkit::conformance::{Suite, bus::Harness};
use tokio::runtime::Runtime;

/// One for all clauses: their threads only wait for it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// A busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(20);

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| {
        let message = format!("{name} is not set: run `cargo xtask servers up` and export what it prints");
        Error::new(ErrorKind::Config, Effect::None, message)
    })
}

/// Drives two.
fn both(one: BusDriver, other: BusDriver) -> BusDriver {
    Box::pin(async {
        futures::future::join(one, other).await;
    })
}

struct InMemory;

impl Harness for InMemory {
    type Bus = MemoryBus;

    async fn connect_twice(&self, limits: BusLimits) -> Result<([MemoryBus; 2], BusDriver)> {
        let bus = MemoryBus::with_limits(limits);
        Ok(([bus.clone(), bus], Box::pin(std::future::pending())))
    }
}

/// The server that a variable names, and the file of its authority.
struct OnRedis(&'static str, Option<&'static str>);

impl Harness for OnRedis {
    type Bus = RedisBus;

    async fn connect_twice(&self, limits: BusLimits) -> Result<([RedisBus; 2], BusDriver)> {
        let url = variable(self.0)?;
        let tls_ca = self.1.map(|name| TlsCa::from_file(variable(name)?)).transpose()?;
        let prefix = format!("bus:{}:", random_base62(8, &SystemEntropy));
        let config = RedisBusConfig {
            prefix,
            response_timeout: PATIENCE,
            connection_timeout: PATIENCE,
            limits,
            tls_ca,
            ..RedisBusConfig::default()
        };
        let (one, driver) = RedisBus::connect(&url, config.clone()).await?;
        let (other, other_driver) = RedisBus::connect(&url, config).await?;
        Ok(([one, other], both(driver, other_driver)))
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        RUNTIME.block_on(future)
    }
}

struct OnNats;

impl Harness for OnNats {
    type Bus = NatsBus;

    async fn connect_twice(&self, limits: BusLimits) -> Result<([NatsBus; 2], BusDriver)> {
        let url = variable("SYSD_TEST_NATS_URL")?;
        let prefix = random_base62(8, &SystemEntropy);
        let config = NatsBusConfig {
            prefix,
            response_timeout: PATIENCE,
            connection_timeout: PATIENCE,
            limits,
            ..NatsBusConfig::default()
        };
        let (one, driver) = NatsBus::connect(&url, config.clone()).await?;
        let (other, other_driver) = NatsBus::connect(&url, config).await?;
        Ok(([one, other], both(driver, other_driver)))
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        RUNTIME.block_on(future)
    }
}

struct Erased<H>(H);

impl<H: Harness> Harness for Erased<H> {
    type Bus = AnyBus;

    async fn connect_twice(&self, limits: BusLimits) -> Result<([AnyBus; 2], BusDriver)> {
        let (buses, driver) = self.0.connect_twice(limits).await?;
        Ok((buses.map(AnyBus::new), driver))
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }
}

fn main() -> ExitCode {
    Suite::from_args()
        .certify_bus("memory", InMemory)
        .certify_bus("memory_erased", Erased(InMemory))
        .certify_bus("redis", OnRedis("SYSD_TEST_REDIS_URL", None))
        .certify_bus("redis_erased", Erased(OnRedis("SYSD_TEST_REDIS_URL", None)))
        .certify_bus("redis_tls", OnRedis("SYSD_TEST_REDIS_TLS_URL", Some("SYSD_TEST_REDIS_TLS_CA")))
        .certify_bus("redis_cluster", OnRedis("SYSD_TEST_REDIS_CLUSTER_URL", None))
        .certify_bus("nats", OnNats)
        .certify_bus("nats_erased", Erased(OnNats))
        .run()
}
