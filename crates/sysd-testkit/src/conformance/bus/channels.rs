//! Which channels are heard.

use std::collections::BTreeSet;

use sysd_core::bus::{Bus as _, Subscription as _};

use super::Checked;
use super::case::{Case, expect, message, number, publish};
use crate::conformance::case::{ensure, ensure_eq};

pub(super) async fn left(case: &Case) -> Checked {
    let (gone, kept) = (case.channel("gone")?, case.channel("kept")?);
    let mut subscription = case.one.subscribe(&[gone.clone(), kept.clone()]).await?;
    let mut watch = case.one.subscribe(std::slice::from_ref(&gone)).await?;
    publish(&case.other, &gone, 1).await?;
    expect(&mut subscription, &gone, 1).await?;
    ensure!(subscription.remove(&gone), "a channel that was heard was not");
    ensure!(!subscription.remove(&gone), "a channel was left twice");
    publish(&case.other, &gone, 2).await?;
    // Where this process hears it, all its subscriptions have it.
    expect(&mut watch, &gone, 1).await?;
    expect(&mut watch, &gone, 2).await?;
    publish(&case.other, &kept, 3).await?;
    expect(&mut subscription, &kept, 3).await?;
    // The last that hears a channel leaves it, and comes back.
    drop(watch);
    publish(&case.other, &gone, 4).await?;
    subscription.add(&gone).await?;
    publish(&case.other, &gone, 5).await?;
    // What was on its way when it was wanted again may come.
    let (_, payload) = message(&mut subscription).await?;
    if number(&payload)? == 4 {
        return expect(&mut subscription, &gone, 5).await;
    }
    ensure_eq!(number(&payload)?, 5, "of a channel that was left and wanted again");
    Ok(())
}

pub(super) async fn changing(case: &Case) -> Checked {
    const CHANNELS: u64 = 40;
    let mut subscription = case.one.subscribe(&[]).await?;
    let mut channels = Vec::new();
    for at in 0..CHANNELS {
        let channel = case.channel(format!("changing {at}"))?;
        subscription.add(&channel).await?;
        // Once more changes nothing.
        subscription.add(&channel).await?;
        publish(&case.other, &channel, at).await?;
        expect(&mut subscription, &channel, at).await?;
        channels.push(channel);
    }
    let (odd, even): (Vec<_>, Vec<_>) = channels.into_iter().enumerate().partition(|(at, _)| at % 2 == 1);
    for (_, channel) in &odd {
        ensure!(subscription.remove(channel), "{channel} was not heard");
    }
    for round in 0..3 {
        for (_, channel) in odd.iter().chain(&even) {
            publish(&case.other, channel, round).await?;
        }
        // Channels may overtake each other.
        let mut missing: BTreeSet<_> = even.iter().map(|(_, channel)| channel.clone()).collect();
        while !missing.is_empty() {
            let (channel, payload) = message(&mut subscription).await?;
            ensure!(missing.remove(&channel), "a second message on {channel}, or one that was left");
            ensure_eq!(number(&payload)?, round, "on {channel}");
        }
    }
    // Left and wanted again in one breath.
    for (_, channel) in &even {
        ensure!(subscription.remove(channel), "{channel} was not heard");
        subscription.add(channel).await?;
        publish(&case.other, channel, 9).await?;
        expect(&mut subscription, channel, 9).await?;
    }
    Ok(())
}
