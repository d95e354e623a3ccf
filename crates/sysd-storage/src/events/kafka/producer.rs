//! The producer: idempotent, acknowledged by all replicas in sync.

use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use sysd_core::event::Event;
use sysd_core::{Clock, Effect, Error, ErrorKind, Result, timeout};

use super::error::{Access, map};

/// The header that carries an event's id.
pub(super) const ID_HEADER: &str = "sysd-id";
/// How often an append looks for room in the queue.
const ROOM_EVERY: Duration = Duration::from_millis(2);
/// How much later than its time librdkafka may say that a message is overdue.
const GRACE: Duration = Duration::from_secs(2);

type Delivery = oneshot::Sender<Result<(), KafkaError>>;

/// Told by librdkafka, on its threads.
pub(super) struct Context;

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.clone()),
        };
        // Nobody waits where the append was dropped.
        let _ = delivery.send(result);
    }
}

type Threaded = ThreadedProducer<Context>;

/// Appends to one topic. It has a thread of librdkafka's for each broker, and one that hands out what these say.
pub(super) struct Producer {
    topic: String,
    config: ClientConfig,
    current: RwLock<Arc<Threaded>>,
    wait_max: Duration,
    clock: Arc<dyn Clock>,
}

/// An event on its way.
pub(super) struct Sent {
    delivered: oneshot::Receiver<Result<(), KafkaError>>,
    by: Arc<Threaded>,
}

impl Producer {
    pub(super) fn new(config: ClientConfig, topic: &str, wait_max: Duration, clock: Arc<dyn Clock>) -> Result<Self> {
        let current = Threaded::from_config_and_context(&config, Context).map_err(|error| map(&error, Access::Read))?;
        Ok(Self { topic: topic.to_owned(), config, current: RwLock::new(Arc::new(current)), wait_max, clock })
    }

    /// Hands an event to the producer, waiting for room.
    pub(super) async fn send(&self, event: &Event) -> Result<Sent> {
        let start = self.clock.steady();
        loop {
            let by = Arc::clone(&self.current.read());
            let (sender, delivered) = oneshot::channel();
            let id = event.id.to_bytes();
            let headers = OwnedHeaders::new_with_capacity(1).insert(Header { key: ID_HEADER, value: Some(&id[..]) });
            let at_ms = i64::try_from(self.clock.now().as_micros() / 1_000).unwrap_or(i64::MAX);
            let record = BaseRecord::with_opaque_to(&self.topic, Box::new(sender))
                .key(&event.key[..])
                .payload(&event.bytes[..])
                .headers(headers)
                .timestamp(at_ms);
            let error = match by.send(record) {
                Ok(()) => return Ok(Sent { delivered, by }),
                Err((error, _)) => error,
            };
            let is_over = self.clock.steady().saturating_sub(start) >= self.wait_max;
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if !is_over => {
                    self.clock.sleep_until(self.clock.now().saturating_add(ROOM_EVERY)).await;
                }
                Some(RDKafkaErrorCode::Fatal) if !is_over && self.renew(&by)? => {}
                // What was refused at once was not sent.
                _ => return Err(map(&error, Access::Read)),
            }
        }
    }

    /// Waits until an event is acknowledged.
    pub(super) async fn wait(&self, sent: Sent) -> Result<()> {
        match timeout(&self.clock, self.wait_max + GRACE, sent.delivered).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => {
                if sent.by.client().fatal_error().is_some()
                    && let Err(error) = self.renew(&sent.by)
                {
                    // That there is no other producer now says nothing of this event; the next append tries again.
                    tracing::warn!(topic = self.topic, %error, "no producer can be made in the stead of a broken one");
                }
                Err(map(&error, Access::Write))
            }
            Ok(Err(oneshot::Canceled)) => {
                Err(Error::new(ErrorKind::Internal, Effect::Unknown, "the producer ended without an answer"))
            }
            Err(_) => Err(Error::new(ErrorKind::Timeout, Effect::Unknown, "Kafka gave no answer in time")),
        }
    }

    /// Makes another producer in the stead of one that can do nothing more; `false` if that is not the current one's state.
    fn renew(&self, old: &Arc<Threaded>) -> Result<bool> {
        let mut current = self.current.write();
        if !Arc::ptr_eq(&current, old) {
            return Ok(true);
        }
        if old.client().fatal_error().is_none() {
            return Ok(false);
        }
        tracing::warn!(topic = self.topic, "the producer met an error that it can't go on after, and is made anew");
        let made =
            Threaded::from_config_and_context(&self.config, Context).map_err(|error| map(&error, Access::Read))?;
        *current = Arc::new(made);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use sysd_core::event::EventId;
    use sysd_core::{KeyBytes, SystemClock, Version};

    fn event() -> Event {
        let id = EventId { version: Version::from_u128(1), index: 0 };
        Event { id, key: KeyBytes::from_slice(b"k"), bytes: Bytes::from_static(b"x") }
    }

    /// A producer whose first event meets an error that it can't go on after.
    fn fatal(cluster: &MockCluster<'_, rdkafka::producer::DefaultProducerContext>) -> Producer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("enable.idempotence", "true");
        cluster.create_topic("topic", 1, 1).unwrap();
        // Told of the first message, it says that one before it is missing.
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
        Producer::new(config, "topic", Duration::from_secs(20), Arc::new(SystemClock)).unwrap()
    }

    #[tokio::test]
    async fn an_event_of_unknown_effect_stays_so_though_no_other_producer_can_be_made() {
        let cluster = MockCluster::new(1).unwrap();
        let mut producer = fatal(&cluster);
        producer.config.set("socket.timeout.ms", "none");
        let sent = producer.send(&event()).await.unwrap();
        let by = Arc::clone(&sent.by);
        let error = producer.wait(sent).await.unwrap_err();
        assert!(by.client().fatal_error().is_some(), "{error}");
        assert_eq!(error.effect(), Effect::Unknown, "{error}");
        // Nothing of the next one is sent, and it says why.
        let error = producer.send(&event()).await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{error}");
    }

    #[tokio::test]
    async fn a_producer_that_broke_is_made_anew() {
        let cluster = MockCluster::new(1).unwrap();
        let producer = fatal(&cluster);
        let sent = producer.send(&event()).await.unwrap();
        assert_eq!(producer.wait(sent).await.unwrap_err().effect(), Effect::Unknown);
        let sent = producer.send(&event()).await.unwrap();
        producer.wait(sent).await.unwrap();
    }
}
