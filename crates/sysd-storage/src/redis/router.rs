//! Calls to the nodes where they belong.

use std::sync::Arc;

use futures::future::join_all;
use redis::{Pipeline, RedisError, ServerErrorKind, Value};

use super::address::Target;
use super::call::Call;
use super::cluster::Cluster;
use super::link::{Failure, Link};

/// Knows the way of every call.
pub(super) enum Router {
    One(Arc<Link>),
    Cluster(Arc<Cluster>),
}

impl Router {
    /// Connects: to the one node, or to those of a Cluster that are needed to learn its map.
    ///
    /// # Errors
    /// If nobody can be reached, or the CA's certificates can't be read.
    pub(super) async fn connect(target: Target) -> Result<Self, Failure> {
        let mut links = Vec::new();
        for addr in target.nodes {
            links.push(Arc::new(target.connector.link_to(addr).map_err(Failure::unsent)?));
        }
        if target.is_cluster {
            let cluster = Cluster::new(target.connector, links);
            cluster.learn(None).await?;
            return Ok(Self::Cluster(cluster));
        }
        match links.pop() {
            Some(link) => {
                link.send(&redis::cmd("PING")).await?;
                Ok(Self::One(link))
            }
            None => Err(Failure::unsent((redis::ErrorKind::InvalidClientConfig, "the URL names no node"))),
        }
    }

    /// Whether one call reaches one slot only.
    pub(super) fn is_by_slot(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Sends a call that runs several things, and answers each. `alone` is what runs one of them: what can't be done together, while
    /// a slot moves or because one of the keys is forbidden, can be done one by one. Nothing was done then.
    pub(super) async fn send_combined(
        &self,
        call: &Call,
        count: usize,
        alone: impl Fn() -> Vec<Call>,
    ) -> Vec<Result<Value, Failure>> {
        match self.send(call).await {
            Ok(answer) if count == 1 => vec![Ok(answer)],
            Ok(Value::Array(answers)) if answers.len() == count => {
                answers.into_iter().map(|answer| refused(Ok(answer))).collect()
            }
            Ok(_) => {
                let error = RedisError::from((redis::ErrorKind::Parse, "answers are missing"));
                vec![Err(Failure { error, was_sent: true }); count]
            }
            Err(Failure { error, .. })
                if count > 1
                    && matches!(
                        error.kind(),
                        redis::ErrorKind::Server(ServerErrorKind::TryAgain | ServerErrorKind::NoPerm)
                    ) =>
            {
                self.send_many(alone()).await
            }
            Err(failure) => vec![Err(failure); count],
        }
    }

    /// The links to all nodes that take writes.
    pub(super) fn masters(&self) -> Vec<Arc<Link>> {
        match self {
            Self::One(link) => vec![Arc::clone(link)],
            Self::Cluster(cluster) => cluster.masters(),
        }
    }

    /// Connects to where a call goes, if there is no connection.
    pub(super) async fn ready(&self, call: impl FnOnce() -> Call + Send) -> Result<(), Failure> {
        match self {
            Self::One(link) => link.ready().await,
            Self::Cluster(cluster) => {
                cluster.freshen().await;
                // A holder that can't be reached may have a successor: sending finds it.
                if let Some(link) = cluster.holder(&call()) {
                    let _ = link.ready().await;
                }
                Ok(())
            }
        }
    }

    /// Sends a call; what the server refuses is an error, too.
    pub(super) async fn send(&self, call: &Call) -> Result<Value, Failure> {
        let answer = match self {
            Self::One(link) => send_to_one(link, call).await,
            Self::Cluster(cluster) => cluster.send(call).await,
        };
        refused(answer)
    }

    /// Sends calls together, a pipeline to each node; one answer each, in their order.
    pub(super) async fn send_many(&self, mut calls: Vec<Call>) -> Vec<Result<Value, Failure>> {
        if let (Self::One(_), [call]) = (self, calls.as_slice()) {
            return vec![self.send(call).await];
        }
        if let Self::Cluster(cluster) = self {
            cluster.freshen().await;
        }
        let mut answers: Vec<Option<Result<Value, Failure>>> = Vec::new();
        answers.resize_with(calls.len(), || None);
        let groups = join_all(self.group(&calls).into_iter().map(|group| group.send(&calls))).await;
        for (group, sent) in groups {
            for (index, answer) in group.indexes.into_iter().zip(sent) {
                answers[index] = Some(answer);
            }
        }
        let answers = calls.drain(..).zip(answers).map(|(call, answer)| async move {
            match answer {
                Some(answer) if !self.can_send_on(&answer) => refused(self.judge(answer)),
                _ => self.send(&call).await,
            }
        });
        join_all(answers).await
    }

    fn group(&self, calls: &[Call]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            let link = match self {
                Self::One(link) => Some(Arc::clone(link)),
                Self::Cluster(cluster) => cluster.holder(call),
            };
            let Some(link) = link else { continue };
            match groups.iter_mut().find(|group| Arc::ptr_eq(&group.link, &link)) {
                Some(group) => group.indexes.push(index),
                None => groups.push(Group { link, indexes: vec![index] }),
            }
        }
        groups
    }

    /// A server that sends on although it was named alone is named wrongly.
    fn judge(&self, answer: Result<Value, Failure>) -> Result<Value, Failure> {
        match self {
            Self::One(_) => unless_redirected(answer),
            Self::Cluster(_) => answer,
        }
    }

    /// Whether nothing was done and another way may lead on.
    fn can_send_on(&self, answer: &Result<Value, Failure>) -> bool {
        match (answer, self) {
            (Ok(Value::ServerError(refusal)), Self::One(_)) => refusal.kind() == Some(ServerErrorKind::NoScript),
            (Ok(Value::ServerError(refusal)), Self::Cluster(_)) => matches!(
                refusal.kind(),
                Some(ServerErrorKind::NoScript | ServerErrorKind::Moved | ServerErrorKind::Ask)
            ),
            (Err(failure), Self::Cluster(cluster)) => {
                cluster.doubt();
                !failure.was_sent
            }
            _ => false,
        }
    }
}

/// Calls of a batch that go to one node.
struct Group {
    link: Arc<Link>,
    indexes: Vec<usize>,
}

impl Group {
    async fn send(self, calls: &[Call]) -> (Self, Vec<Result<Value, Failure>>) {
        let mut pipeline = Pipeline::with_capacity(self.indexes.len());
        for &index in &self.indexes {
            pipeline.add_command(calls[index].command.clone());
        }
        let answers = match self.link.send_many(&pipeline).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(failure) => self.indexes.iter().map(|_| Err(failure.clone())).collect(),
        };
        (self, answers)
    }
}

async fn send_to_one(link: &Link, call: &Call) -> Result<Value, Failure> {
    let answer = link.send(&call.command).await;
    match &answer {
        Ok(Value::ServerError(refusal)) if refusal.kind() == Some(ServerErrorKind::NoScript) => {
            link.send(&call.loading()).await
        }
        _ => unless_redirected(answer),
    }
}

fn unless_redirected(answer: Result<Value, Failure>) -> Result<Value, Failure> {
    match &answer {
        Ok(Value::ServerError(refusal))
            if matches!(refusal.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::Ask)) =>
        {
            Err(Failure::unsent((
                redis::ErrorKind::InvalidClientConfig,
                "this server is a node of a Cluster; give it a redis-cluster:// URL",
            )))
        }
        _ => answer,
    }
}

/// What a server refuses, as an error.
fn refused(answer: Result<Value, Failure>) -> Result<Value, Failure> {
    match answer {
        Ok(Value::ServerError(refusal)) => Err(Failure { error: RedisError::from(refusal), was_sent: true }),
        other => other,
    }
}
