//! How a log on Kafka is made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use sysd_core::{Clock, Effect, Error, ErrorKind, Result, SystemClock};

/// Room for a key, headers and framing beside an event.
const FRAME_BYTES: usize = 16 << 10;
/// How often librdkafka sends a commit before it gives it up: a constant of its own.
const COMMIT_ATTEMPTS: u32 = 3;
/// How many requests of a connection may run out of time before it is broken: three attempts of a commit, as many heartbeats
/// beside them, and the member's farewell.
const TIMEOUTS_MAX: u32 = 8;
/// librdkafka takes no shorter one.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);

/// How a [`KafkaEvents`](super::KafkaEvents) is made. Start from the default.
#[derive(Clone)]
pub struct KafkaEventsConfig {
    /// The longest event, bytes: not more than the topic's `max.message.bytes`, less 16 KiB.
    pub event_bytes_max: usize,
    /// How long an append may take; then its effect is unknown.
    pub append_wait_max: Duration,
    /// How long a commit, a look at a group or any other call may take.
    pub call_wait_max: Duration,
    /// How long an event waits for others to be sent with it.
    pub linger: Duration,
    /// How many bytes of events wait to be acknowledged at most; then appends wait for room.
    pub queue_bytes_max: usize,
    /// How many bytes a member fetches ahead at most.
    pub fetch_bytes_max: usize,
    /// How long a member that calls nothing keeps its partitions, and one that died: 6 s at least, by the broker's default.
    pub session: Duration,
    /// Properties of librdkafka, set after all others: `security.protocol`, `sasl.password`, … (TLS needs the feature `ssl` of the
    /// crate `rdkafka`, turned on in your own manifest.) `acks`, `enable.idempotence` and `enable.auto.commit` can't be set: they
    /// are what this log promises.
    pub properties: Vec<(String, String)>,
    /// The time: of waits, and of [`Delivered::appended_at`](sysd_core::event::Delivered::appended_at).
    pub clock: Arc<dyn Clock>,
}

impl Default for KafkaEventsConfig {
    /// Events of a million bytes, appended within 10 s; sessions of 45 s; 64 MiB wait to be sent and 16 MiB are fetched ahead.
    fn default() -> Self {
        Self {
            event_bytes_max: 1_000_000,
            append_wait_max: Duration::from_secs(10),
            call_wait_max: Duration::from_secs(10),
            linger: Duration::from_millis(1),
            queue_bytes_max: 64 << 20,
            fetch_bytes_max: 16 << 20,
            session: Duration::from_secs(45),
            properties: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }
}

impl fmt::Debug for KafkaEventsConfig {
    /// Of the properties the names: a value may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaEventsConfig")
            .field("event_bytes_max", &self.event_bytes_max)
            .field("append_wait_max", &self.append_wait_max)
            .field("call_wait_max", &self.call_wait_max)
            .field("linger", &self.linger)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("fetch_bytes_max", &self.fetch_bytes_max)
            .field("session", &self.session)
            .field("properties", &self.properties.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A topic to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTopic {
    /// How many partitions it has. More later put a key's new events into another partition than its old ones.
    pub partitions: u32,
    /// How many brokers keep it.
    pub replication: u16,
    /// Configuration of the topic: `retention.ms`, `min.insync.replicas`, …
    pub options: Vec<(String, String)>,
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, Effect::None, message)
}

/// `kafka://HOST[:PORT],HOST[:PORT]` as Kafka's list of brokers.
pub(super) fn brokers(url: &str) -> Result<String> {
    let hosts = url.strip_prefix("kafka://").ok_or_else(|| wrong("a URL of Kafka is kafka://HOST:PORT,HOST:PORT"))?;
    if hosts.contains('@') {
        return Err(wrong("a URL of Kafka has no user and password: set them as properties"));
    }
    let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
    if hosts.contains('/') || hosts.split(',').any(str::is_empty) {
        return Err(wrong("a URL of Kafka names brokers and nothing else: kafka://HOST:PORT,HOST:PORT"));
    }
    let with_port = |host: &str| if host.contains(':') { host.to_owned() } else { format!("{host}:9092") };
    Ok(hosts.split(',').map(with_port).collect::<Vec<_>>().join(","))
}

fn millis(duration: Duration) -> String {
    duration.as_millis().clamp(1, 1 << 30).to_string()
}

impl KafkaEventsConfig {
    pub(super) fn check(&self) -> Result<()> {
        let options = [
            ("append_wait_max", self.append_wait_max.is_zero()),
            ("call_wait_max", self.call_wait_max.is_zero()),
            ("session", self.session.is_zero()),
            ("event_bytes_max", self.event_bytes_max == 0),
        ];
        if let Some((option, _)) = options.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(wrong(format!("{option} is zero, so no call could succeed")).with_field(option));
        }
        let ours = ["acks", "request.required.acks", "enable.idempotence", "enable.auto.commit", "group.id"];
        match self.properties.iter().find(|(name, _)| ours.contains(&name.as_str())) {
            Some((name, _)) => Err(wrong(format!("{name} is what this log promises, and can't be set"))),
            None => Ok(()),
        }
    }

    fn client(&self, brokers: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", brokers);
        client.set("client.id", "sysd");
        client.set("socket.timeout.ms", millis(self.call_wait_max));
        client.set("socket.keepalive.enable", "true");
        client.set("reconnect.backoff.ms", "50");
        client.set("reconnect.backoff.max.ms", "1000");
        client.set("allow.auto.create.topics", "false");
        client
    }

    /// Of a client that commits.
    ///
    /// librdkafka counts a commit's attempts only where they were sent, and closes no consumer before its commits have an end. At
    /// the first request that ran out of time it would break the connection; a broker that hangs lets it connect again and says
    /// nothing, so the commit would wait to be sent, without an end. So the connection outlasts all attempts of a commit,
    /// and these fit into a call's time.
    fn committer(&self, brokers: &str, group: &str) -> ClientConfig {
        let mut client = self.client(brokers);
        client.set("group.id", group);
        client.set("enable.auto.commit", "false");
        client.set("socket.timeout.ms", millis((self.call_wait_max / COMMIT_ATTEMPTS).max(SHORTEST_TIMEOUT)));
        client.set("socket.max.fails", TIMEOUTS_MAX.to_string());
        client
    }

    fn with_properties(&self, mut client: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }

    pub(super) fn producer(&self, brokers: &str) -> ClientConfig {
        let mut client = self.client(brokers);
        client.set("acks", "all");
        client.set("enable.idempotence", "true");
        // As the clients of Java place keys, so that theirs and ours lie together.
        client.set("partitioner", "murmur2_random");
        client.set("message.timeout.ms", millis(self.append_wait_max));
        client.set("linger.ms", self.linger.as_millis().to_string());
        client.set("message.max.bytes", (self.event_bytes_max + FRAME_BYTES).to_string());
        client.set("queue.buffering.max.kbytes", (self.queue_bytes_max >> 10).max(1).to_string());
        client.set("queue.buffering.max.messages", "100000");
        self.with_properties(client)
    }

    /// One that looks: at a topic, or at a group without being in it.
    pub(super) fn inspector(&self, brokers: &str, group: Option<&str>) -> ClientConfig {
        let client = group.map_or_else(|| self.client(brokers), |group| self.committer(brokers, group));
        let mut client = self.with_properties(client);
        client.set("enable.auto.commit", "false");
        client
    }

    pub(super) fn member(&self, brokers: &str, group: &str) -> ClientConfig {
        let mut client = self.committer(brokers, group);
        client.set("enable.auto.offset.store", "false");
        client.set("auto.offset.reset", "earliest");
        // Partitions that stay with a member go on where they are when others come and go.
        client.set("partition.assignment.strategy", "cooperative-sticky");
        client.set("session.timeout.ms", millis(self.session));
        client.set("max.poll.interval.ms", millis(self.session));
        client.set("heartbeat.interval.ms", millis((self.session / 10).min(Duration::from_secs(3))));
        client.set("fetch.wait.max.ms", "100");
        client.set("fetch.message.max.bytes", (self.event_bytes_max + FRAME_BYTES).to_string());
        client.set("queued.max.messages.kbytes", (self.fetch_bytes_max >> 10).max(1).to_string());
        let mut client = self.with_properties(client);
        client.set("enable.auto.commit", "false");
        client
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_urls_and_refuses_others_without_their_secrets() {
        assert_eq!(brokers("kafka://a,b:1").unwrap(), "a:9092,b:1");
        assert_eq!(brokers("kafka://127.0.0.1:9/").unwrap(), "127.0.0.1:9");
        for url in ["", "redis://h", "kafka://", "kafka://a,,b", "kafka://a/topic", "kafka://ann:hunter2@h"] {
            let error = brokers(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn what_the_log_promises_can_not_be_set_and_values_are_not_shown() {
        let with = |name: &str| KafkaEventsConfig {
            properties: vec![(name.to_owned(), "hunter2".to_owned())],
            ..KafkaEventsConfig::default()
        };
        for name in ["acks", "enable.idempotence", "enable.auto.commit", "group.id"] {
            assert!(with(name).check().unwrap_err().to_string().contains(name));
        }
        let good = with("sasl.password");
        good.check().unwrap();
        assert!(!format!("{good:?}").contains("hunter2"));
        let zero = KafkaEventsConfig { session: Duration::ZERO, ..KafkaEventsConfig::default() };
        assert_eq!(zero.check().unwrap_err().field(), Some("session"));
    }
}
