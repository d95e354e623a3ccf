//! What is missing, and what must not be.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use sysd_core::bus::{Bus as _, Delivery, Subscription as _};

use super::Checked;
use super::case::{Case, SMALL, expect, publish, read_to};
use crate::conformance::case::{ensure, ensure_eq};

pub(super) async fn slow(case: &Case) -> Checked {
    let channel = case.channel("slow")?;
    let mut slow = case.one.subscribe(std::slice::from_ref(&channel)).await?;
    let mut quick = case.one.subscribe(std::slice::from_ref(&channel)).await?;
    let buffer = case.one.limits().buffer_messages_max;
    ensure!(buffer <= SMALL, "a buffer of {SMALL} messages was asked for, and it has {buffer}");
    let (mut first, total) = (0, u64::try_from(5 * buffer + 3).unwrap_or(u64::MAX));
    // More than fit, exactly as many, one more; the slow one reads after each.
    let fits = u64::try_from(buffer).unwrap_or(u64::MAX);
    for count in [total, fits, fits + 1, 1, total] {
        for at in first..first + count {
            publish(&case.other, &channel, at).await?;
            ensure!(read_to(&mut quick, at, at).await? == 0, "who reads at once has lost something");
        }
        let lost = read_to(&mut slow, first, first + count - 1).await?;
        let over = count.saturating_sub(fits);
        ensure!(
            lost >= over,
            "{count} messages lay in a buffer of {buffer}: it lost {lost}, and must have lost {over}"
        );
        ensure!(count > fits || lost == 0, "{count} messages fit into a buffer of {buffer}, and {lost} are lost");
        first += count;
    }
    Ok(())
}

/// Polls a future so often at most, and drops it; `None` if it was not ready.
async fn abandon<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

pub(super) async fn dropped(case: &Case) -> Checked {
    let (channel, noise, quiet) = (case.channel("dropped")?, case.channel("noise")?, case.channel("quiet")?);
    let mut subscription = case.one.subscribe(std::slice::from_ref(&channel)).await?;
    for (due, polls) in (0_u64..40).zip((1..6).cycle()) {
        // Publications to a channel of their own, dropped wherever they wait.
        if let Some(answer) = abandon(case.other.publish(&noise, Bytes::from_static(b"x")), polls).await {
            answer?;
        }
        if let Some(answer) = abandon(case.one.subscribe(&[channel.clone(), noise.clone()]), polls).await {
            answer?;
        }
        let heard = match abandon(subscription.add(&quiet), polls).await {
            Some(answer) => {
                answer?;
                true
            }
            None => false,
        };
        ensure!(subscription.remove(&quiet) == heard, "a dropped call left a channel heard, or a finished one did not");
        publish(&case.other, &channel, due).await?;
        // What a dropped `next` would have handed out is handed out next.
        match abandon(subscription.next(), polls).await {
            Some(delivery) => {
                let expected =
                    Delivery::Message { channel: channel.clone(), payload: Bytes::copy_from_slice(&due.to_be_bytes()) };
                ensure_eq!(delivery?, expected, "of a call that was ready");
            }
            None => expect(&mut subscription, &channel, due).await?,
        }
    }
    Ok(())
}
