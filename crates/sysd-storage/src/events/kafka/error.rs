//! Kafka's errors as kind and effect: the mapping table.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use sysd_core::{Effect, Error, ErrorKind};

/// A row of the table: kind, effect where something was asked to be written, and what to say.
type Row = (ErrorKind, Effect, &'static str);

/// Whether the call may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Maps an error. Its own text is left out: that of a wrong property holds the property's value, which may be a password.
pub(super) fn map(error: &KafkaError, access: Access) -> Error {
    if let KafkaError::ClientConfig(_, _, property, _) = error {
        return Error::new(
            ErrorKind::Config,
            Effect::None,
            format!("Kafka's client takes no such value for {property}"),
        );
    }
    let Some(code) = error.rdkafka_error_code() else {
        let row = match error {
            KafkaError::ClientCreation(_) => {
                (ErrorKind::Config, Effect::None, "Kafka's client can't be made as it is configured")
            }
            KafkaError::Nul(_) => (ErrorKind::Invalid, Effect::None, "a name has a zero byte"),
            _ => (ErrorKind::Internal, Effect::Unknown, "Kafka's client failed"),
        };
        return told(row, access, None);
    };
    told(classify(code), access, Some(code))
}

/// Maps a code.
pub(super) fn map_code(code: Code, access: Access) -> Error {
    told(classify(code), access, Some(code))
}

fn told((kind, effect, message): Row, access: Access, code: Option<Code>) -> Error {
    let effect = if access == Access::Read { Effect::None } else { effect };
    match code {
        Some(code) => Error::new(kind, effect, format!("{message} ({code:?})")),
        None => Error::new(kind, effect, message),
    }
}

fn classify(code: Code) -> Row {
    use Effect::{None, Unknown};
    match code {
        Code::QueueFull => (ErrorKind::Throttled, None, "the producer's queue is full"),
        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue => {
            (ErrorKind::Timeout, Unknown, "Kafka gave no answer in time")
        }
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            (ErrorKind::TooLarge, None, "the event is longer than Kafka takes; raise the topic's max.message.bytes")
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            (ErrorKind::Config, None, "there is no such topic; create it first")
        }
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication => (ErrorKind::Denied, None, "Kafka refused the credentials, or they lack a right"),
        Code::Resolve | Code::SSL => (ErrorKind::Config, Unknown, "no broker can be reached as it is configured"),
        Code::NotEnoughReplicas => (ErrorKind::Unavailable, None, "too few replicas are in sync"),
        Code::PurgeQueue => (ErrorKind::Unavailable, None, "the producer was made anew before the event was sent"),
        Code::CoordinatorNotAvailable | Code::CoordinatorLoadInProgress | Code::NotCoordinator => {
            (ErrorKind::Unavailable, None, "no broker coordinates the group now")
        }
        // Refused by the coordinator, or known here before anything was sent: what was to be committed is not.
        Code::RebalanceInProgress
        | Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::MemberIdRequired
        | Code::AssignmentLost
        | Code::StaleMemberEpoch
        | Code::FencedMemberEpoch
        | Code::PollExceeded => {
            (ErrorKind::Unavailable, None, "the group is being shared out anew, or took this member for dead; read on")
        }
        Code::UnstableOffsetCommit => (ErrorKind::Unavailable, None, "the group's positions are just being written"),
        Code::FencedInstanceId => {
            (ErrorKind::Fenced, None, "another member of the group has the same group.instance.id")
        }
        Code::NonEmptyGroup => (ErrorKind::Contention, None, "the group has members, which alone may do this"),
        Code::GroupMaxSizeReached => (ErrorKind::Full, None, "the group has as many members as its brokers allow"),
        Code::InconsistentGroupProtocol | Code::UnsupportedAssignor => {
            (ErrorKind::Config, None, "the group's members share out its partitions in another way than this one")
        }
        Code::GroupIdNotFound | Code::InvalidGroupId | Code::InvalidSessionTimeout => {
            (ErrorKind::Config, None, "Kafka takes no such group, or no such session")
        }
        Code::FencedLeaderEpoch | Code::UnknownLeaderEpoch | Code::OffsetNotAvailable => {
            (ErrorKind::Unavailable, None, "the partition has just changed its leader")
        }
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::NotLeaderForPartition
        | Code::LeaderNotAvailable
        | Code::ReplicaNotAvailable
        | Code::NetworkException
        | Code::NotEnoughReplicasAfterAppend
        | Code::WaitingForCoordinator
        | Code::KafkaStorageError
        | Code::PurgeInflight
        | Code::BrokerDestroy => (ErrorKind::Unavailable, Unknown, "Kafka can't be reached or can't serve now"),
        Code::ThrottlingQuotaExceeded => (ErrorKind::Throttled, None, "Kafka asks for less traffic"),
        Code::PolicyViolation | Code::InvalidReplicationFactor | Code::InvalidPartitions | Code::InvalidConfig => {
            (ErrorKind::Config, None, "Kafka refuses such a topic")
        }
        Code::BadMessage | Code::InvalidMessage => (ErrorKind::Corrupt, Unknown, "a message is damaged"),
        _ => (ErrorKind::Internal, Unknown, "Kafka answered with an error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_table() {
        let rows = [
            (Code::QueueFull, ErrorKind::Throttled, Effect::None),
            (Code::MessageTimedOut, ErrorKind::Timeout, Effect::Unknown),
            (Code::MessageSizeTooLarge, ErrorKind::TooLarge, Effect::None),
            (Code::UnknownTopicOrPartition, ErrorKind::Config, Effect::None),
            (Code::TopicAuthorizationFailed, ErrorKind::Denied, Effect::None),
            (Code::NotEnoughReplicas, ErrorKind::Unavailable, Effect::None),
            (Code::NotEnoughReplicasAfterAppend, ErrorKind::Unavailable, Effect::Unknown),
            (Code::AllBrokersDown, ErrorKind::Unavailable, Effect::Unknown),
            (Code::NotCoordinator, ErrorKind::Unavailable, Effect::None),
            (Code::PurgeQueue, ErrorKind::Unavailable, Effect::None),
            (Code::PurgeInflight, ErrorKind::Unavailable, Effect::Unknown),
            (Code::OutOfOrderSequenceNumber, ErrorKind::Internal, Effect::Unknown),
            // Of groups.
            (Code::RebalanceInProgress, ErrorKind::Unavailable, Effect::None),
            (Code::IllegalGeneration, ErrorKind::Unavailable, Effect::None),
            (Code::UnknownMemberId, ErrorKind::Unavailable, Effect::None),
            (Code::MemberIdRequired, ErrorKind::Unavailable, Effect::None),
            (Code::AssignmentLost, ErrorKind::Unavailable, Effect::None),
            (Code::StaleMemberEpoch, ErrorKind::Unavailable, Effect::None),
            (Code::FencedMemberEpoch, ErrorKind::Unavailable, Effect::None),
            (Code::PollExceeded, ErrorKind::Unavailable, Effect::None),
            (Code::UnstableOffsetCommit, ErrorKind::Unavailable, Effect::None),
            (Code::FencedInstanceId, ErrorKind::Fenced, Effect::None),
            (Code::NonEmptyGroup, ErrorKind::Contention, Effect::None),
            (Code::GroupMaxSizeReached, ErrorKind::Full, Effect::None),
            (Code::InconsistentGroupProtocol, ErrorKind::Config, Effect::None),
            (Code::UnsupportedAssignor, ErrorKind::Config, Effect::None),
            (Code::GroupIdNotFound, ErrorKind::Config, Effect::None),
            (Code::InvalidGroupId, ErrorKind::Config, Effect::None),
            (Code::InvalidSessionTimeout, ErrorKind::Config, Effect::None),
            (Code::FencedLeaderEpoch, ErrorKind::Unavailable, Effect::None),
            (Code::UnknownLeaderEpoch, ErrorKind::Unavailable, Effect::None),
            (Code::OffsetNotAvailable, ErrorKind::Unavailable, Effect::None),
        ];
        for (code, kind, effect) in rows {
            let write = map(&KafkaError::MessageProduction(code), Access::Write);
            assert_eq!((write.kind(), write.effect()), (kind, effect), "{code:?}");
            let read = map_code(code, Access::Read);
            assert_eq!((read.kind(), read.effect()), (kind, Effect::None), "{code:?}");
        }
    }

    #[test]
    fn a_wrong_property_is_named_without_its_value() {
        let client: Result<rdkafka::consumer::BaseConsumer, _> =
            rdkafka::ClientConfig::new().set("socket.timeout.ms", "hunter2").create();
        let error = map(&client.map(drop).err().unwrap_or(KafkaError::Canceled), Access::Read);
        assert_eq!(error.kind(), ErrorKind::Config);
        let said = format!("{error} {error:?}");
        assert!(said.contains("socket.timeout.ms") && !said.contains("hunter2"), "{said}");
    }
}
