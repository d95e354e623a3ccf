//! What a group is from outside.

use std::time::Duration;

use sysd_core::event::{EventLog as _, GroupMember as _, Position, Sought, Start};
use sysd_core::{Clock as _, Effect, ErrorKind, SystemClock, Timestamp};

use super::super::case::{Verdict, ensure, ensure_eq};
use super::case::{LogCase, MOMENT, commit, ids, in_order, pause};

/// L4.
pub(super) async fn fan_out(case: &LogCase) -> Verdict {
    let events = case.append(8, 0, 20).await?;
    for group in ["one", "other"] {
        let mut member = case.log.join(group, Start::Oldest).await?;
        let seen = case.read_all(&mut member, &ids(&events)).await?;
        in_order(&seen, &events)?;
        commit(&mut member, &seen).await?;
    }
    Ok(())
}

async fn waiting(case: &LogCase, group: &str) -> Verdict<u64> {
    Ok(case.other.lag(group).await?.iter().map(|lag| lag.events).sum())
}

/// L9.
pub(super) async fn lag(case: &LogCase) -> Verdict {
    ensure_eq!(case.log.lag("nobody").await?.len(), 0, "partitions of a group that is not there");
    let mut member = case.log.join("all", Start::Oldest).await?;
    ensure_eq!(waiting(case, "all").await?, 0, "the lag in an empty log");
    let events = case.append(8, 0, 10).await?;
    ensure_eq!(waiting(case, "all").await?, 80, "the lag before anything was committed");
    let seen = case.read_all(&mut member, &ids(&events)).await?;
    ensure_eq!(waiting(case, "all").await?, 80, "the lag of what was read and not committed");
    // Half of it: of each partition some.
    let mut half = seen;
    half.truncate(40);
    commit(&mut member, &half).await?;
    ensure_eq!(waiting(case, "all").await?, 40, "the lag after half was committed");
    let lags = case.log.lag("all").await?;
    ensure!(lags.len() >= 4, "the log has {} partitions", lags.len());
    for lag in lags {
        ensure!(lag.end >= lag.next && lag.events <= lag.end - lag.next, "{lag:?}");
    }
    Ok(())
}

/// L10.
pub(super) async fn starts(case: &LogCase) -> Verdict {
    let early = case.append(8, 0, 5).await?;
    // real-time: two times must differ by the coarsest grain that a log keeps.
    pause(Duration::from_millis(30)).await;
    let time = SystemClock.now();
    pause(Duration::from_millis(30)).await;
    let mut newest = case.log.join("newest", Start::Newest).await?;
    let late = case.append(8, 5, 10).await?;
    let mut from_time = case.log.join("time", Start::Time(time)).await?;
    for member in [&mut newest, &mut from_time] {
        let seen = case.read_all(member, &ids(&late)).await?;
        in_order(&seen, &late)?;
        ensure_eq!(seen.len(), late.len(), "events read by a group that began later");
        commit(member, &seen).await?;
    }
    newest.leave().await?;
    // The group is there: where to begin is said in vain.
    let mut again = case.log.join("newest", Start::Oldest).await?;
    case.only(&mut again, &ids([])).await?;
    let all: Vec<_> = early.into_iter().chain(late).collect();
    for (group, start) in [("oldest", Start::Oldest), ("epoch", Start::Time(Timestamp::UNIX_EPOCH))] {
        let mut member = case.log.join(group, start).await?;
        let seen = case.read_all(&mut member, &ids(&all)).await?;
        in_order(&seen, &all)?;
    }
    // A group that began at the end, and whose first member dies at once, still has what came after its beginning.
    drop(case.log.join("short", Start::Newest).await?);
    let last = case.append(8, 10, 12).await?;
    let mut member = case.log.join("short", Start::Newest).await?;
    let seen = case.read_all(&mut member, &ids(&last)).await?;
    in_order(&seen, &last)
}

/// L11.
pub(super) async fn seeks(case: &LogCase) -> Verdict {
    let events = case.append(8, 0, 10).await?;
    let mut member = case.log.join("all", Start::Oldest).await?;
    let first = case.read_all(&mut member, &ids(&events)).await?;
    commit(&mut member, &first).await?;
    ensure_eq!(case.other.seek("all", Start::Oldest).await?, Sought::HasMembers, "a seek while a member reads");
    member.leave().await?;
    ensure_eq!(case.other.seek("all", Start::Oldest).await?, Sought::Moved, "a seek of a group without members");
    let mut member = case.log.join("all", Start::Newest).await?;
    let seen = case.read_all(&mut member, &ids(&events)).await?;
    in_order(&seen, &events)?;
    commit(&mut member, &seen).await?;
    member.leave().await?;
    // One partition back to one of its events, the others stay.
    let Some(back) = first.iter().find(|delivered| delivered.event.bytes == 5_u32.to_be_bytes().as_slice()) else {
        return Err(super::Failure::new("the fifth event was not read"));
    };
    let Position { partition, number } = back.position;
    let moved = case.log.seek("all", Start::Positions(vec![back.position])).await?;
    ensure_eq!(moved, Sought::Moved, "a seek to a position");
    let behind = first.iter().filter(|it| it.position.partition == partition && it.position.number >= number);
    let behind: Vec<_> = behind.map(|delivered| delivered.event.clone()).collect();
    let mut member = case.log.join("all", Start::Oldest).await?;
    let seen = case.read_all(&mut member, &ids(&behind)).await?;
    in_order(&seen, &behind)?;
    case.only(&mut member, &ids([])).await?;
    ensure_eq!(seen.len(), behind.len(), "events behind a position");
    member.leave().await?;
    ensure_eq!(case.log.seek("all", Start::Newest).await?, Sought::Moved, "a seek to the end");
    ensure_eq!(waiting(case, "all").await?, 0, "the lag at the end");
    Ok(())
}

/// L13.
pub(super) async fn refusals(case: &LogCase) -> Verdict {
    let long = "x".repeat(129);
    for name in ["", "..", "a b", "a/b", "{a}", &long] {
        let refused = case.log.join(name, Start::Oldest).await.err();
        let found = refused.map(|error| (error.kind(), error.effect(), error.field()));
        ensure_eq!(found, Some((ErrorKind::Invalid, Effect::None, Some("group"))), "the name {name:?}");
    }
    let nowhere = vec![Position { partition: 1 << 20, number: 0 }];
    let refused = case.log.join("all", Start::Positions(nowhere.clone())).await.err();
    ensure_eq!(refused.and_then(|error| error.field()), Some("positions"), "a start in a partition that is not there");
    let mut member = case.log.join("all", Start::Oldest).await?;
    let refused = member.read(0, MOMENT).await.err();
    ensure_eq!(refused.and_then(|error| error.field()), Some("limit"), "a read of nothing");
    let refused = member.commit(&nowhere).await.err();
    ensure_eq!(refused.and_then(|error| error.field()), Some("positions"), "a commit in a partition that is not there");
    Ok(())
}
