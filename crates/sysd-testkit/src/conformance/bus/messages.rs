//! Who gets which message, and how.

use bytes::Bytes;
use futures::future::try_join_all;
use futures::try_join;
use sysd_core::bus::{AnyBus, Bus as _, Channel, Subscription as _};
use sysd_core::{Effect, ErrorKind};

use super::Checked;
use super::case::{Case, expect, message, number, publish};
use crate::conformance::case::{Failure, ensure, ensure_eq};

/// Publishes numbers, each after the one before was taken.
async fn publish_run(bus: &AnyBus, channel: &Channel, first: u64, count: u64) -> Checked {
    for at in first..first + count {
        publish(bus, channel, at).await?;
    }
    Ok(())
}

pub(super) async fn order(case: &Case) -> Checked {
    const EACH: u64 = 15;
    const PUBLISHERS: u64 = 64;
    let channel = case.channel("order")?;
    let mut subscription = case.one.subscribe(std::slice::from_ref(&channel)).await?;
    // So many in one task that a runtime makes it pause between two of them: numbers and order came apart there once.
    // Thirty-two publishers on each bus at the same time; each one's numbers are a thousand of their own.
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let bus = if publisher % 2 == 0 { &case.one } else { &case.other };
        publish_run(bus, &channel, publisher * 1_000, EACH)
    });
    let read = async {
        let mut due = vec![0; usize::try_from(PUBLISHERS).unwrap_or_default()];
        for _ in 0..PUBLISHERS * EACH {
            let number = number(&message(&mut subscription).await?.1)?;
            let (publisher, at) = (usize::try_from(number / 1_000).unwrap_or(usize::MAX), number % 1_000);
            let due = due.get_mut(publisher).ok_or_else(|| Failure::new("a number that nobody published"))?;
            ensure_eq!(at, *due, "the next of publisher {publisher}");
            *due += 1;
        }
        Ok(())
    };
    try_join!(try_join_all(publishers), read)?;
    Ok(())
}

pub(super) async fn everybody(case: &Case) -> Checked {
    let channel = case.channel("everybody")?;
    let mut subscriptions = Vec::new();
    for bus in [&case.one, &case.one, &case.other] {
        subscriptions.push(bus.subscribe(std::slice::from_ref(&channel)).await?);
    }
    publish_run(&case.one, &channel, 0, 20).await?;
    for subscription in &mut subscriptions {
        for at in 0..20 {
            expect(subscription, &channel, at).await?;
        }
    }
    // Of two subscriptions that one process drops, the other goes on.
    subscriptions.remove(0);
    publish_run(&case.other, &channel, 20, 20).await?;
    for subscription in &mut subscriptions {
        for at in 20..40 {
            expect(subscription, &channel, at).await?;
        }
    }
    Ok(())
}

pub(super) async fn earlier(case: &Case) -> Checked {
    let channel = case.channel("earlier")?;
    publish_run(&case.one, &channel, 0, 5).await?;
    for round in 1..4 {
        let mut subscription = case.other.subscribe(std::slice::from_ref(&channel)).await?;
        publish(&case.one, &channel, round * 10).await?;
        expect(&mut subscription, &channel, round * 10).await?;
    }
    Ok(())
}

pub(super) async fn bytes(case: &Case) -> Checked {
    let mut names: Vec<Vec<u8>> = [
        "", "*", ">", ".*", ".>", ".", "..", "a", "A", "a.b", "a b", "a\r\nb", "[ab]", "?", "\\*", "{a}", "{a", "=2E",
        "%2A", "\t", "\u{e9}", "$SYS.>", "a*",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    names.extend([vec![0], vec![0, 0], vec![0xFF, 0xFE], (0..=u8::MAX).take(200).collect(), vec![b'x'; 200]]);
    let channels = names.iter().map(case_channel(case)).collect::<Result<Vec<_>, _>>()?;
    let mut subscriptions = Vec::new();
    for channel in &channels {
        subscriptions.push(case.other.subscribe(std::slice::from_ref(channel)).await?);
    }
    let payload = |at: usize| match at {
        0 => Bytes::new(),
        1 => Bytes::from_static(b"\0\0\0"),
        2 => (0..=u8::MAX).collect(),
        _ => Bytes::from(format!("\r\n+OK {at}\0")),
    };
    for (at, channel) in channels.iter().enumerate() {
        case.one.publish(channel, payload(at)).await?;
    }
    for (at, (channel, subscription)) in channels.iter().zip(&mut subscriptions).enumerate() {
        ensure_eq!(message(subscription).await?, (channel.clone(), payload(at)), "on {channel}");
        // What else came there lies before this.
        case.one.publish(channel, Bytes::from_static(b"end")).await?;
        ensure_eq!(message(subscription).await?, (channel.clone(), Bytes::from_static(b"end")), "on {channel}");
    }
    Ok(())
}

fn case_channel(case: &Case) -> impl Fn(&Vec<u8>) -> Result<Channel, Failure> + '_ {
    |name| case.channel(name)
}

pub(super) async fn sizes(case: &Case) -> Checked {
    let channel = case.channel("sizes")?;
    let mut subscription = case.other.subscribe(std::slice::from_ref(&channel)).await?;
    let largest = case.one.limits().payload_bytes_max;
    ensure!(largest > 0, "it takes no payload at all");
    match case.one.publish(&channel, Bytes::from(vec![1; largest + 1])).await {
        Ok(()) => return Err(Failure::new(format!("a payload of {} bytes is taken", largest + 1))),
        Err(error) => ensure_eq!(
            (error.kind(), error.effect(), error.field()),
            (ErrorKind::TooLarge, Effect::None, Some("payload")),
            "of a payload over the limit"
        ),
    }
    case.one.publish(&channel, Bytes::from(vec![2; largest])).await?;
    let (_, payload) = message(&mut subscription).await?;
    ensure!(payload.len() == largest && payload.iter().all(|&byte| byte == 2), "the largest payload is another");
    ensure!(subscription.remove(&channel), "the channel was heard");
    Ok(())
}
