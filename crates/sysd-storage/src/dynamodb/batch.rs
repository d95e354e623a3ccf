//! Many records a call, and what DynamoDB left unprocessed sent again.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, KeysAndAttributes, PutRequest, WriteRequest};
use futures::{StreamExt as _, stream};
use sysd_core::entropy::{SystemEntropy, below};
use sysd_core::{Change, Clock, Discipline, Effect, Error, ErrorKind, Expect, Key, Outcome, Record, Result, Write};

use super::Shared;
use super::error::{Access, map};
use super::layout::{Item, PARTITION, SORT};

/// What DynamoDB takes in a call.
pub(super) const KEYS_MAX: usize = 100;
pub(super) const WRITES_MAX: usize = 25;
/// A call ends when its values have this many bytes.
const CALL_BYTES: usize = 1 << 20;
/// How many calls of a batch are in flight at once.
const CALLS: usize = 4;
/// The bounds of the first wait before what was left is sent again, and of every wait.
const WAIT_BASE: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The place of a question in its batch, with its answer.
type Placed<T> = (usize, Result<T>);

/// The key of an item as the table has it.
type Name = (Vec<u8>, Vec<u8>);

/// Waits between rounds with full jitter, until a deadline.
struct Patience {
    deadline: Instant,
    round: u32,
}

impl Patience {
    fn new(total: Duration) -> Self {
        Self { deadline: Instant::now() + total, round: 0 }
    }

    /// Whether there was time for another round.
    async fn wait(&mut self, has_progress: bool) -> bool {
        self.round = if has_progress { 0 } else { self.round + 1 };
        let bound = WAIT_BASE.saturating_mul(2_u32.saturating_pow(self.round)).min(WAIT_MAX);
        let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(below(&SystemEntropy, bound_us + 1));
        if Instant::now() + wait >= self.deadline {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }
}

fn left_unprocessed(key: Key<'_>) -> Error {
    let message = "DynamoDB left it unprocessed until the deadline of the batch";
    Error::new(ErrorKind::Throttled, Effect::None, message).with_key(key)
}

fn nameless(effect: Effect) -> Error {
    Error::new(ErrorKind::Internal, effect, "DynamoDB left something unprocessed that has no key")
}

/// A batch of which nothing was processed is refused as a whole.
fn is_all_unprocessed(error: &Error) -> bool {
    error.kind() == ErrorKind::Throttled && error.effect() == Effect::None
}

fn name(item: &Item) -> Option<Name> {
    let bytes = |name| match item.get(name) {
        Some(AttributeValue::B(blob)) => Some(blob.as_ref().to_vec()),
        _ => None,
    };
    Some((bytes(PARTITION)?, bytes(SORT)?))
}

/// Answers in the order of the questions.
fn in_order<T>(count: usize, placed: impl IntoIterator<Item = Placed<T>>) -> Vec<Result<T>> {
    let mut answers: Vec<Option<Result<T>>> = std::iter::repeat_with(|| None).take(count).collect();
    for (place, answer) in placed {
        answers[place] = Some(answer);
    }
    let missing = || Err(Error::new(ErrorKind::Internal, Effect::Unknown, "an answer is missing"));
    answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
}

/// A key asked for once or more.
struct Question<'a> {
    key: Key<'a>,
    places: Vec<usize>,
}

impl<C: Clock> Shared<C> {
    pub(super) async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let mut refused = Vec::new();
        let mut questions: Vec<Question<'_>> = Vec::new();
        let mut known: HashMap<Key<'_>, usize> = HashMap::new();
        for (place, &key) in keys.iter().enumerate() {
            if let Err(error) = self.limits.check_key(key) {
                refused.push((place, Err(error)));
                continue;
            }
            let at = *known.entry(key).or_insert_with(|| {
                questions.push(Question { key, places: Vec::new() });
                questions.len() - 1
            });
            questions[at].places.push(place);
        }
        // How strongly to read is said once a call.
        let (strong, weak): (Vec<_>, Vec<_>) =
            questions.into_iter().partition(|question| question.key.space().discipline() == Discipline::Conditional);
        let calls: Vec<_> = [&strong, &weak]
            .into_iter()
            .flat_map(|questions| questions.chunks(KEYS_MAX))
            .map(|questions| self.get_some(questions))
            .collect();
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(CALLS).collect().await;
        in_order(keys.len(), refused.into_iter().chain(answers.into_iter().flatten()))
    }

    /// Up to a hundred different keys of spaces of one discipline.
    async fn get_some(&self, questions: &[Question<'_>]) -> Vec<Placed<Option<Record>>> {
        let is_strong = questions.first().is_some_and(|question| question.key.space().is_conditional());
        let mut open: HashMap<Name, &Question<'_>> = HashMap::with_capacity(questions.len());
        for question in questions {
            open.extend(name(&self.layout.key(question.key)).map(|name| (name, question)));
        }
        let mut answers = Vec::with_capacity(questions.len());
        let mut answer = |question: &Question<'_>, result: Result<Option<Record>>| {
            for &place in &question.places {
                let copy = match &result {
                    Ok(record) => Ok(record.clone()),
                    Err(error) => Err(error.share().with_key(question.key)),
                };
                answers.push((place, copy));
            }
        };
        let mut patience = Patience::new(self.config.batch_timeout);
        while !open.is_empty() {
            let before = open.len();
            let keys = open.values().map(|question| self.layout.key(question.key)).collect();
            let (found, left) = match self.ask_for(keys, is_strong).await {
                Ok(answered) => answered,
                Err(error) if is_all_unprocessed(&error) => (Vec::new(), open.keys().cloned().collect()),
                Err(error) => {
                    for (_, question) in open.drain() {
                        answer(question, Err(error.share()));
                    }
                    break;
                }
            };
            for item in found {
                if let Some(question) = name(&item).and_then(|name| open.remove(&name)) {
                    answer(question, self.read(question.key, item));
                }
            }
            // What is neither there nor left is absent.
            let has_progress = left.len() < before;
            let (still, absent): (HashMap<_, _>, HashMap<_, _>) =
                open.into_iter().partition(|(name, _)| left.contains(name));
            for question in absent.into_values() {
                answer(question, Ok(None));
            }
            open = still;
            if !open.is_empty() && !patience.wait(has_progress).await {
                for (_, question) in open.drain() {
                    answer(question, Err(left_unprocessed(question.key)));
                }
            }
        }
        answers
    }

    /// The items that are there, and the names of those that were left.
    async fn ask_for(&self, keys: Vec<Item>, is_strong: bool) -> Result<(Vec<Item>, HashSet<Name>)> {
        let table = &self.config.table;
        let refused = |_| Error::new(ErrorKind::Internal, Effect::None, "the AWS SDK refused the keys");
        let asked =
            KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(is_strong).build().map_err(refused)?;
        let call = self.client.batch_get_item().request_items(table, asked);
        let mut answer = call.send().await.map_err(|error| map(&error, Access::Read, table))?;
        let found = answer.responses.as_mut().and_then(|tables| tables.remove(table)).unwrap_or_default();
        let left = answer.unprocessed_keys.as_mut().and_then(|tables| tables.remove(table));
        let left = left.iter().flat_map(KeysAndAttributes::keys).map(name).collect::<Option<_>>();
        Ok((found, left.ok_or_else(|| nameless(Effect::None))?))
    }

    pub(super) async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let now = self.clock.now();
        let mut refused = Vec::new();
        let (mut plain, mut single) = (Vec::new(), Vec::new());
        let mut known = HashSet::new();
        for (place, write) in writes.iter().enumerate() {
            match self.limits.check_write(write, now) {
                Err(error) => refused.push((place, Err(error))),
                // A call of many takes no conditions and no record twice.
                Ok(()) if write.expect == Expect::Any && known.insert(write.key) => plain.push(place),
                Ok(()) => single.push(place),
            }
        }
        let mut calls = cut(writes, &plain);
        calls.retain(|call| {
            if let [place] = **call {
                single.push(place);
            }
            call.len() > 1
        });
        let calls: Vec<_> = calls.into_iter().map(|places| self.write_some(writes, places)).collect();
        let calls = stream::iter(calls).buffer_unordered(CALLS).collect::<Vec<_>>();
        let singles: Vec<_> =
            single.into_iter().map(|place| async move { (place, self.write(writes[place].clone()).await) }).collect();
        let singles =
            stream::iter(singles).buffer_unordered(self.config.batch_in_flight_max.max(1)).collect::<Vec<_>>();
        let (calls, singles) = futures::join!(calls, singles);
        in_order(writes.len(), refused.into_iter().chain(singles).chain(calls.into_iter().flatten()))
    }

    /// Up to 25 writes without conditions, of different records.
    async fn write_some(&self, writes: &[Write<'_>], places: &[usize]) -> Vec<Placed<Outcome>> {
        let mut open: HashMap<Name, usize> = HashMap::with_capacity(places.len());
        for &place in places {
            open.extend(name(&self.layout.key(writes[place].key)).map(|name| (name, place)));
        }
        let mut answers = Vec::with_capacity(places.len());
        let mut patience = Patience::new(self.config.batch_timeout);
        while !open.is_empty() {
            let requests = open.values().map(|&place| self.request(&writes[place])).collect::<Result<Vec<_>>>();
            let answer = match requests {
                Ok(requests) => self.ask_to_write(requests).await,
                Err(error) => Err(error),
            };
            let left = match answer {
                Ok(left) => left,
                Err(error) if is_all_unprocessed(&error) => open.keys().cloned().collect(),
                Err(error) => {
                    answers.extend(open.values().map(|&place| (place, Err(error.share().with_key(writes[place].key)))));
                    break;
                }
            };
            let has_progress = left.len() < open.len();
            open.retain(|name, place| {
                let is_left = left.contains(name);
                if !is_left {
                    answers.push((*place, Ok(Outcome::Applied)));
                }
                is_left
            });
            if !open.is_empty() && !patience.wait(has_progress).await {
                answers.extend(open.values().map(|&place| (place, Err(left_unprocessed(writes[place].key)))));
                break;
            }
        }
        answers
    }

    fn request(&self, write: &Write<'_>) -> Result<WriteRequest> {
        let refused = |_| Error::new(ErrorKind::Internal, Effect::None, "the AWS SDK refused the write");
        let request = WriteRequest::builder();
        Ok(match &write.change {
            Change::Put { value, version, expires_at } => {
                let item = self.layout.item(write.key, value, *version, *expires_at);
                request.put_request(PutRequest::builder().set_item(Some(item)).build().map_err(refused)?)
            }
            Change::Delete => {
                let key = self.layout.key(write.key);
                request.delete_request(DeleteRequest::builder().set_key(Some(key)).build().map_err(refused)?)
            }
        }
        .build())
    }

    /// The names of those that were left.
    async fn ask_to_write(&self, requests: Vec<WriteRequest>) -> Result<HashSet<Name>> {
        let table = &self.config.table;
        let call = self.client.batch_write_item().request_items(table, requests);
        let mut answer = call.send().await.map_err(|error| map(&error, Access::Write, table))?;
        let left = answer.unprocessed_items.as_mut().and_then(|tables| tables.remove(table)).unwrap_or_default();
        let name_of = |request: &WriteRequest| match (request.put_request(), request.delete_request()) {
            (Some(put), _) => name(put.item()),
            (None, Some(delete)) => name(delete.key()),
            (None, None) => None,
        };
        left.iter().map(name_of).collect::<Option<_>>().ok_or_else(|| nameless(Effect::Unknown))
    }

    /// Removes rows whatever they are, or says why not all of them went.
    pub(super) async fn remove(&self, keys: &[Key<'_>]) -> Result<()> {
        let writes: Vec<_> = keys.iter().map(|&key| Write::delete(key)).collect();
        all_or_error(self.write_many(&writes).await)
    }
}

/// One answer for writes that were asked for as one: their first error, of unknown effect as soon as any of them may have
/// happened.
fn all_or_error(outcomes: Vec<Result<Outcome>>) -> Result<()> {
    let may_have = outcomes
        .iter()
        .any(|outcome| outcome.as_ref().map_or_else(Error::effect, |_| Effect::Unknown) == Effect::Unknown);
    let effect = if may_have { Effect::Unknown } else { Effect::None };
    outcomes.into_iter().try_for_each(|outcome| outcome.map(drop)).map_err(|error| error.with_effect(effect))
}

/// Cuts a batch into calls, by count and by size.
fn cut<'a>(writes: &[Write<'_>], mut places: &'a [usize]) -> Vec<&'a [usize]> {
    let bytes = |place: &usize| match &writes[*place].change {
        Change::Put { value, .. } => value.len(),
        Change::Delete => 0,
    };
    let mut cuts = Vec::new();
    while !places.is_empty() {
        let mut sum = 0;
        let fits = |place: &&usize| {
            sum += bytes(place);
            sum <= CALL_BYTES
        };
        let length = places.iter().take(WRITES_MAX).take_while(fits).count().max(1);
        let (call, rest) = places.split_at(length);
        cuts.push(call);
        places = rest;
    }
    cuts
}
