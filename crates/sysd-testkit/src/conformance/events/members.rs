//! What members of a group have of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{join, join_all};
use futures::poll;
use parking_lot::Mutex;
use sysd_core::event::{
    AnyMember, Committed, Delivered, Event, EventLog as _, EventSink as _, GroupMember as _, Start,
};
use sysd_core::{Clock as _, SystemClock, timeout};

use super::super::case::{Failure, Verdict, ensure, ensure_eq};
use super::case::{Deadline, LogCase, MOMENT, commit, event, ids, in_order};

/// L5.
pub(super) async fn share(case: &LogCase) -> Verdict {
    let mut members = [case.log.join("all", Start::Oldest).await?, case.other.join("all", Start::Oldest).await?];
    let deadline = Deadline::after(case.patience);
    for round in 0.. {
        // As long as partitions are on their way from one to the other, an event may be read by both.
        let wanted = ids(&case.append(32, round, round + 1).await?);
        let mut read = [BTreeSet::new(), BTreeSet::new()];
        let mut twice = 0;
        while !wanted.iter().all(|id| read.iter().any(|read| read.contains(id))) {
            let batches = case.read_each(&mut members).await?;
            for ((batch, read), member) in batches.into_iter().zip(&mut read).zip(&mut members) {
                let new = batch.iter().filter(|delivered| wanted.contains(&delivered.event.id));
                twice += new.filter(|delivered| !read.insert(delivered.event.id)).count();
                let ends = sysd_core::event::Batch { events: batch, gaps: Vec::new() }.ends();
                let _ = member.commit(&ends).await?;
            }
            ensure!(!deadline.is_over(), "not all events of a round were read");
        }
        twice += read[0].intersection(&read[1]).count();
        if twice == 0 && read.iter().all(|read| !read.is_empty()) {
            return Ok(());
        }
        let counts = read.map(|read| read.len());
        ensure!(!deadline.is_over(), "of 32 events two members have read {counts:?}, {twice} of them twice");
    }
    Ok(())
}

/// L6.
pub(super) async fn death(case: &LogCase) -> Verdict {
    let mut dying = case.log.join("all", Start::Oldest).await?;
    let old = case.append(8, 0, 10).await?;
    let seen = case.read_all(&mut dying, &ids(&old)).await?;
    commit(&mut dying, &seen).await?;
    let new = case.append(8, 10, 30).await?;
    let wanted = ids(&new);
    let seen = case.read_all(&mut dying, &wanted).await?;
    in_order(&seen, &new)?;
    let mut heir = case.other.join("all", Start::Oldest).await?;
    drop(dying);
    let later = case.append(8, 30, 40).await?;
    let all: Vec<_> = new.into_iter().chain(later).collect();
    let seen = case.read_all(&mut heir, &ids(&all)).await?;
    in_order(&seen, &all)?;
    ensure!(seen.iter().all(|it| !ids(&old).contains(&it.event.id)), "what was committed was read again");
    commit(&mut heir, &seen).await
}

/// L7.
pub(super) async fn commits(case: &LogCase) -> Verdict {
    let mut member = case.log.join("all", Start::Oldest).await?;
    let events = case.append(8, 0, 20).await?;
    let seen = case.read_all(&mut member, &ids(&events)).await?;
    let (first, rest) = seen.split_at(50);
    commit(&mut member, first).await?;
    // Less than was committed changes nothing, and twice is once.
    commit(&mut member, &first[..10]).await?;
    commit(&mut member, first).await?;
    ensure_eq!(member.commit(&[]).await?, Committed::All, "a commit of nothing");
    member.leave().await?;
    let mut next = case.other.join("all", Start::Oldest).await?;
    let left: Vec<Event> = rest.iter().map(|delivered| delivered.event.clone()).collect();
    let again = case.read_all(&mut next, &ids(&left)).await?;
    ensure_eq!(again.len(), left.len(), "events read after half was committed");
    in_order(&again, &left)?;
    commit(&mut next, &again).await?;
    next.leave().await?;
    let mut last = case.log.join("all", Start::Oldest).await?;
    case.only(&mut last, &BTreeSet::new()).await
}

/// L8.
pub(super) async fn lost(case: &LogCase) -> Verdict {
    let mut old = case.log.join("all", Start::Oldest).await?;
    let events = case.append(16, 0, 10).await?;
    let had = case.read_all(&mut old, &ids(&events)).await?;
    let mut members = [old, case.other.join("all", Start::Oldest).await?];
    let deadline = Deadline::after(case.patience);
    let mut passed_on = BTreeSet::new();
    while passed_on.is_empty() {
        let batches = case.read_each(&mut members).await?;
        passed_on.extend(batches[1].iter().map(|delivered| delivered.position.partition));
        ensure!(!deadline.is_over(), "no partition passed from one member to another that joined");
    }
    let stale: Vec<_> = had.iter().map(|delivered| delivered.position).collect();
    let stale: Vec<_> = stale.into_iter().filter(|position| passed_on.contains(&position.partition)).collect();
    let Committed::Lost { partitions } = members[0].commit(&stale).await? else {
        return Err(Failure::new("a member committed in a partition that another owns"));
    };
    ensure_eq!(partitions.into_iter().collect::<BTreeSet<_>>(), passed_on, "partitions that were lost");
    for lag in case.log.lag("all").await?.iter().filter(|lag| passed_on.contains(&lag.partition)) {
        ensure!(lag.events > 0, "a commit that was refused was made all the same: {lag:?}");
    }
    Ok(())
}

/// L12.
pub(super) async fn dropped(case: &LogCase) -> Verdict {
    let events: Vec<_> = (0..60).map(|number| event(number % 4, number)).collect();
    for (event, at) in events.iter().zip(0..) {
        {
            let mut append = std::pin::pin!(case.log.append(event));
            for _ in 0..at % 3 {
                if poll!(append.as_mut()).is_ready() {
                    break;
                }
            }
        }
        case.log.append(event).await?;
    }
    let mut member = case.log.join("all", Start::Oldest).await?;
    let mut seen: Vec<Delivered> = Vec::new();
    for round in 0..100_u64 {
        let waited = if round % 2 == 0 {
            let mut read = std::pin::pin!(member.read(3, MOMENT));
            poll!(read.as_mut()).map(Ok)
        } else {
            let wait = Duration::from_micros(round * 50);
            std::task::Poll::Ready(timeout(&SystemClock, wait, member.read(3, MOMENT)).await)
        };
        if let std::task::Poll::Ready(Ok(batch)) = waited {
            seen.extend(batch?.events);
        }
    }
    let known = ids(seen.iter().map(|delivered| &delivered.event));
    let missing = ids(&events).difference(&known).copied().collect();
    seen.extend(case.read_all(&mut member, &missing).await?);
    for delivered in &seen {
        ensure!(events.contains(&delivered.event), "{delivered:?} was never appended");
    }
    in_order(&seen, &events)?;
    commit(&mut member, &seen).await
}

/// L14.
pub(super) async fn waits(case: &LogCase) -> Verdict {
    let mut member = case.log.join("all", Start::Oldest).await?;
    let wait = Duration::from_millis(300);
    let start = SystemClock.steady();
    let batch = member.read(10, wait).await?;
    let took = SystemClock.steady().saturating_sub(start);
    ensure!(batch.events.is_empty() && batch.gaps.is_empty(), "an empty log has {batch:?}");
    ensure!(took >= wait && took < wait + Duration::from_secs(15), "a wait of {wait:?} took {took:?}");
    // Until the member has its partitions.
    let first = case.append(8, 0, 1).await?;
    case.read_all(&mut member, &ids(&first)).await?;
    let late = event(0, 1);
    let append = async {
        super::case::pause(Duration::from_millis(300)).await;
        case.other.append(&late).await
    };
    let start = SystemClock.steady();
    let (batch, appended) = join(member.read(10, Duration::from_secs(30)), append).await;
    appended?;
    let took = SystemClock.steady().saturating_sub(start);
    ensure_eq!(ids(batch?.events.iter().map(|it| &it.event)), ids([&late]), "what came while it waited");
    ensure!(took < Duration::from_secs(15), "it waited on for {took:?} though there was an event");
    Ok(())
}

/// L15.
pub(super) async fn churn(case: &LogCase) -> Verdict {
    const KEYS: u32 = 12;
    const NUMBERS: u32 = 300;
    let (appended, seen, is_done) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()), Mutex::new(false));
    let write = async |writer: u32| {
        let log = if writer == 0 { &case.log } else { &case.other };
        let mut number = 0;
        while number < NUMBERS && !*is_done.lock() {
            for key in (0..KEYS).filter(|key| key % 2 == writer) {
                let batch = [event(key, number), event(key, number + 1)];
                for answer in log.append_many(&batch).await {
                    answer?;
                }
                appended.lock().extend(batch);
            }
            number += 2;
            super::case::pause(Duration::from_millis(10)).await;
        }
        Ok::<_, Failure>(())
    };
    let read = async |lives: u32| {
        for _ in 0..lives {
            let mut member = case.log.join("all", Start::Oldest).await?;
            let (mut had, deadline) = (0, Deadline::after(case.patience));
            while had < 200 && !deadline.is_over() && !*is_done.lock() {
                had += read_once(&mut member, &seen).await?;
            }
            // What it reads last it takes with it.
            member.read(50, MOMENT).await.map(|batch| seen.lock().extend(batch.events))?;
        }
        Ok::<_, Failure>(())
    };
    let reading = async {
        let ended = join_all([read(3), read(2)]).await;
        *is_done.lock() = true;
        ended.into_iter().collect::<Verdict<Vec<()>>>()
    };
    let (written, read) = join(join_all([write(0), write(1)]), reading).await;
    written.into_iter().collect::<Verdict<Vec<()>>>()?;
    read?;
    let mut last = case.other.join("all", Start::Oldest).await?;
    let appended = appended.into_inner();
    let mut deadline = Deadline::after(case.patience);
    loop {
        if read_once(&mut last, &seen).await? > 0 {
            deadline = Deadline::after(case.patience);
        }
        let known = ids(seen.lock().iter().map(|delivered: &Delivered| &delivered.event));
        let missing = appended.iter().filter(|event| !known.contains(&event.id)).count();
        if missing == 0 {
            break;
        }
        ensure!(!deadline.is_over(), "{missing} of {} events were never read", appended.len());
    }
    in_order(&seen.into_inner(), &appended)
}

/// Reads, notes what it read, and commits; answers how many.
async fn read_once(member: &mut AnyMember, seen: &Mutex<Vec<Delivered>>) -> Verdict<usize> {
    let batch = member.read(50, MOMENT).await?;
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    for delivered in &batch.events {
        let number = last.insert(delivered.position.partition, delivered.position.number);
        ensure!(number.is_none_or(|number| number < delivered.position.number), "a batch goes back in a partition");
    }
    let (ends, count) = (batch.ends(), batch.events.len());
    seen.lock().extend(batch.events);
    let _ = member.commit(&ends).await?;
    Ok(count)
}
