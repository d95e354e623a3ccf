//! A bus in the process.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use sysd_core::Result;
use sysd_core::bus::{Bus, BusLimits, Channel};

use super::hub::{Hub, Listener};

/// A bus in the process. Clones are the same bus.
///
/// Publishing puts the message into the buffer of every subscription, under a lock each, and waits for nobody: `Ok` means that it
/// lies there. Nothing is lost but by an overflow, which is counted.
///
/// ```
/// use sysd_core::bus::{Bus, Channel, Delivery, Subscription};
/// use sysd_storage::bus::MemoryBus;
///
/// # futures::executor::block_on(async {
/// let bus = MemoryBus::new();
/// let (ann, bob) = (Channel::new("user/ann")?, Channel::new("user/bob")?);
///
/// // A node listens to the channels of the users that are connected to it.
/// let mut node = bus.subscribe(&[ann.clone()]).await?;
/// node.add(&bob).await?;
/// bus.publish(&bob, "hello".into()).await?;
///
/// match node.next().await? {
///     Delivery::Message { channel, payload } => assert_eq!((channel, payload), (bob, "hello".into())),
///     // Something is missing here: read the user's messages from the store.
///     Delivery::Lost { channel, .. } => unreachable!("{channel}"),
/// }
/// # Ok::<(), sysd_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryBus {
    hub: Arc<Hub>,
}

impl MemoryBus {
    /// With the limits [`BusLimits::PROCESS`].
    pub fn new() -> Self {
        Self::with_limits(BusLimits::PROCESS)
    }

    /// With these limits.
    pub fn with_limits(limits: BusLimits) -> Self {
        Self { hub: Arc::new(Hub::local(limits)) }
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBus").field("limits", &self.hub.limits).finish_non_exhaustive()
    }
}

impl Bus for MemoryBus {
    type Subscription = Listener;

    fn limits(&self) -> &BusLimits {
        &self.hub.limits
    }

    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<()> {
        self.hub.limits.check_payload(&payload)?;
        self.hub.put(channel, &payload);
        Ok(())
    }

    async fn subscribe(&self, channels: &[Channel]) -> Result<Listener> {
        Listener::open(&self.hub, channels).await
    }
}
