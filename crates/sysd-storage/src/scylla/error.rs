//! The driver's errors as kind and effect: the mapping table.

use scylla::errors::{
    BrokenConnectionErrorKind, ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError,
    ExecutionError, MetadataError, NewSessionError, PrepareError, RequestAttemptError, WriteType,
};
use scylla::statement::Consistency;
use sysd_core::{Effect, Error, ErrorKind};

/// A row of the table: kind, effect of a write, and what to say.
type Row = (ErrorKind, Effect, &'static str);

/// CAS_WRITE_UNKNOWN of protocol version 5; earlier ones say it as a write timeout.
const CAS_WRITE_UNKNOWN: i32 = 0x1700;

const UNREACHABLE: Row = (ErrorKind::Unavailable, Effect::None, "no node can be reached");
const DENIED: Row = (ErrorKind::Denied, Effect::None, "the cluster refused the credentials");
const UNREADABLE: Row = (ErrorKind::Internal, Effect::Unknown, "the server answered something that can't be read");

/// Whether the call may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// A write without Paxos.
    Plain,
    /// A write by Paxos.
    Conditional,
}

/// Maps an error of a statement. The source is left out: a server's error text can hold what was sent.
pub(super) fn map(error: &ExecutionError, access: Access) -> Error {
    finish(classify(error, access), access)
}

/// Maps an error of preparing a statement: nothing was carried out.
pub(super) fn map_prepare(error: &PrepareError) -> Error {
    finish(classify_prepare(error), Access::Read)
}

/// Maps an error of connecting: nothing was carried out.
pub(super) fn map_connect(error: &NewSessionError) -> Error {
    let row = match error {
        NewSessionError::FailedToResolveAnyHostname(_) => {
            (ErrorKind::Unavailable, Effect::None, "no contact point has an address; is its name right?")
        }
        NewSessionError::EmptyKnownNodesList | NewSessionError::IllegalConfig(_) => {
            (ErrorKind::Config, Effect::None, "the configuration names no node, or can't be")
        }
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(error)) => classify_pool(error),
        NewSessionError::MetadataError(_) => {
            (ErrorKind::Unavailable, Effect::None, "the cluster did not tell its nodes and tables")
        }
        _ => (ErrorKind::Unavailable, Effect::None, "the cluster can't be used"),
    };
    finish(row, Access::Read)
}

/// No answer within the store's own patience.
pub(super) fn overdue(effect: Effect) -> Error {
    Error::new(ErrorKind::Timeout, effect, "no answer in time")
}

fn finish((kind, effect, message): Row, access: Access) -> Error {
    Error::new(kind, if access == Access::Read { Effect::None } else { effect }, message)
}

fn classify(error: &ExecutionError, access: Access) -> Row {
    match error {
        ExecutionError::BadQuery(_) => (ErrorKind::Internal, Effect::None, "the driver refused the statement"),
        ExecutionError::EmptyPlan => UNREACHABLE,
        ExecutionError::PrepareError(error) => classify_prepare(error),
        // Another node was tried only where nothing had been sent.
        ExecutionError::ConnectionPoolError(error) => classify_pool(error),
        ExecutionError::LastAttemptError(error) => classify_attempt(error, access),
        ExecutionError::RequestTimeout(_) => (ErrorKind::Timeout, Effect::Unknown, "no answer in time"),
        // Of changes of the schema: it was made, but not everywhere yet.
        ExecutionError::SchemaAgreementError(_) | ExecutionError::MetadataError(_) => {
            (ErrorKind::Unavailable, Effect::Unknown, "the nodes do not agree on the schema")
        }
        _ => (ErrorKind::Internal, Effect::Unknown, "the driver failed in a new way"),
    }
}

fn classify_prepare(error: &PrepareError) -> Row {
    let (kind, _, message) = match error {
        PrepareError::ConnectionPoolError(error) => classify_pool(error),
        PrepareError::AllAttemptsFailed { first_attempt } => classify_attempt(first_attempt, Access::Read),
        _ => (ErrorKind::Internal, Effect::None, "the nodes do not prepare a statement alike"),
    };
    (kind, Effect::None, message)
}

fn classify_pool(error: &ConnectionPoolError) -> Row {
    let ConnectionPoolError::Broken { last_connection_error } = error else { return UNREACHABLE };
    let ConnectionError::ConnectionSetupRequestError(error) = last_connection_error else { return UNREACHABLE };
    match error.get_error() {
        ConnectionSetupRequestErrorKind::MissingAuthentication => {
            (ErrorKind::Denied, Effect::None, "the cluster asks for a user and a password")
        }
        ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError | DbError::Unauthorized, _)
        | ConnectionSetupRequestErrorKind::StartAuthSessionError(_)
        | ConnectionSetupRequestErrorKind::AuthChallengeEvaluationError(_)
        | ConnectionSetupRequestErrorKind::AuthFinishError(_) => DENIED,
        _ => UNREACHABLE,
    }
}

fn classify_attempt(error: &RequestAttemptError, access: Access) -> Row {
    match error {
        RequestAttemptError::DbError(error, text) => classify_server(error, text, access),
        RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => {
            (ErrorKind::Internal, Effect::None, "the driver can't encode the statement")
        }
        RequestAttemptError::UnableToAllocStreamId => {
            (ErrorKind::Throttled, Effect::None, "too many statements are in flight on a connection")
        }
        RequestAttemptError::BrokenConnectionError(error) => match error.downcast_ref() {
            // Nobody answers on it, though it is open.
            Some(BrokenConnectionErrorKind::KeepaliveTimeout(_)) => {
                (ErrorKind::Timeout, Effect::Unknown, "the connection has fallen silent")
            }
            _ => (ErrorKind::Unavailable, Effect::Unknown, "the connection broke"),
        },
        // The statement was not known, so it was not carried out.
        RequestAttemptError::RepreparedIdChanged { .. } | RequestAttemptError::RepreparedIdMissingInBatch => {
            (ErrorKind::Internal, Effect::None, "the server prepares a statement under another name than before")
        }
        RequestAttemptError::BodyExtensionsParseError(_)
        | RequestAttemptError::CqlResultParseError(_)
        | RequestAttemptError::CqlErrorParseError(_)
        | RequestAttemptError::UnexpectedResponse(_)
        | RequestAttemptError::NonfinishedPagingState => UNREADABLE,
        _ => (ErrorKind::Internal, Effect::Unknown, "the driver failed in a new way"),
    }
}

/// What a coordinator refuses. `text` is looked at, and told to nobody.
fn classify_server(error: &DbError, text: &str, access: Access) -> Row {
    use Effect::{None, Unknown};
    match error {
        DbError::Unavailable { consistency, .. } => unavailable(*consistency, access),
        DbError::Overloaded => classify_overloaded(text),
        DbError::IsBootstrapping => (ErrorKind::Unavailable, None, "the node is starting"),
        DbError::WriteTimeout { write_type, .. } => classify_write(write_type, Miss::Late, access),
        DbError::WriteFailure { write_type, .. } => classify_write(write_type, Miss::Failed, access),
        // Of a conditional write: it is the look at the row that failed, before anything was proposed.
        DbError::ReadTimeout { .. } => (ErrorKind::Timeout, None, "too few replicas answered in time"),
        DbError::ReadFailure { .. } => {
            (ErrorKind::Unavailable, None, "replicas failed to read; a partition may hold too many tombstones")
        }
        DbError::RateLimitReached { rejected_by_coordinator: true, .. } => {
            (ErrorKind::Throttled, None, "the partition's rate limit is reached")
        }
        DbError::RateLimitReached { .. } => (ErrorKind::Throttled, Unknown, "the partition's rate limit is reached"),
        DbError::AuthenticationError => DENIED,
        DbError::Unauthorized => (ErrorKind::Denied, None, "the user lacks a right on the tables"),
        DbError::Invalid if is_missing(text) => {
            (ErrorKind::Config, None, "the keyspace or its tables are missing; call ScyllaStore::create_schema")
        }
        DbError::AlreadyExists { .. } | DbError::ConfigError => {
            (ErrorKind::Config, None, "the schema can't be made as asked")
        }
        DbError::SyntaxError | DbError::Invalid => (ErrorKind::Internal, None, "the server refused the statement"),
        DbError::Unprepared { .. } => (ErrorKind::Unavailable, None, "the server forgot a statement"),
        DbError::Other(CAS_WRITE_UNKNOWN) => {
            (ErrorKind::Timeout, Unknown, "the coordinator does not know whether it was accepted")
        }
        DbError::ServerError => (ErrorKind::Internal, Unknown, "the server failed"),
        DbError::ProtocolError => (ErrorKind::Internal, Unknown, "the server did not understand the driver"),
        _ => (ErrorKind::Internal, Unknown, "the server answered with an error of a new kind"),
    }
}

/// Too few replicas are alive: told before anything is sent. But a conditional write may find so at its commit, when its
/// proposal stands already; then the consistency that can't be met is not the rounds' but the commit's.
fn unavailable(consistency: Consistency, access: Access) -> Row {
    let is_commit =
        access == Access::Conditional && !matches!(consistency, Consistency::Serial | Consistency::LocalSerial);
    let effect = if is_commit { Effect::Unknown } else { Effect::None };
    (ErrorKind::Unavailable, effect, "too few replicas are alive")
}

/// Why a coordinator could not confirm a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Miss {
    /// Replicas gave no answer in time.
    Late,
    /// Replicas said that they could not.
    Failed,
}

/// A write that the coordinator had begun, by the step that it was at. No step is without effect: whichever it was, some
/// replica may have it, or be about to.
fn classify_write(write_type: &WriteType, miss: Miss, access: Access) -> Row {
    let kind = match (write_type, miss) {
        // Until somebody reads the change log there is no room on those replicas; others may have room.
        (WriteType::Cdc, _) => ErrorKind::Full,
        (_, Miss::Late) => ErrorKind::Timeout,
        (_, Miss::Failed) => ErrorKind::Unavailable,
    };
    let message = match (write_type, miss) {
        // A coordinator commits what Paxos decided as a simple write: it did happen, or the next round sees to it.
        (WriteType::Simple, _) if access == Access::Conditional => {
            "it was decided, and too few replicas confirmed its commit"
        }
        (WriteType::Simple, Miss::Late) => "too few replicas confirmed the write in time",
        (WriteType::Simple, Miss::Failed) => "replicas failed to write",
        // In the batch log already: it is carried out sooner or later.
        (WriteType::Batch, _) => "the batch is logged, and not everywhere carried out yet",
        // Any part of it, on any replica.
        (WriteType::UnloggedBatch, _) => "too few replicas confirmed the batch; a part of it may be there",
        // A replica of the log that has it all the same carries it out.
        (WriteType::BatchLog, _) => "too few replicas confirmed the batch log",
        // If a replica accepted the proposal, the next round on the partition, a read's too, may commit it.
        (WriteType::Cas, _) => "too few replicas took part in the round; it may have been accepted",
        // A replica holds the row's lock for a view; those without a view to build have written.
        (WriteType::View, _) => "a replica could not lock the row for a materialized view",
        (WriteType::Cdc, _) => "a replica's change log (CDC) is full",
        (WriteType::Counter, _) => "too few replicas confirmed the counter",
        (_, Miss::Late) => "too few replicas confirmed a write of a new type in time",
        (_, Miss::Failed) => "replicas failed a write of a new type",
    };
    (kind, Effect::Unknown, message)
}

/// A coordinator sheds load before it looks at a statement, and says so in these words. With too many hints in flight it gives
/// up a write that other replicas may have.
fn classify_overloaded(text: &str) -> Row {
    let effect = if text.starts_with("Server is in overloaded state") || text.starts_with("Request breached") {
        Effect::None
    } else {
        Effect::Unknown
    };
    (ErrorKind::Throttled, effect, "the coordinator is overloaded")
}

fn is_missing(text: &str) -> bool {
    ["unconfigured table", "does not exist", "unknown keyspace"].iter().any(|part| text.to_lowercase().contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Effect::{None as Nothing, Unknown};
    use scylla::errors::{BadQuery, OperationType};

    fn server(error: DbError, text: &str) -> ExecutionError {
        RequestAttemptError::DbError(error, format!("{text} secret")).into()
    }

    fn unavailable(consistency: Consistency) -> ExecutionError {
        server(DbError::Unavailable { consistency, required: 2, alive: 1 }, "Cannot achieve consistency level")
    }

    fn write_timeout(write_type: WriteType) -> ExecutionError {
        let consistency = Consistency::Quorum;
        server(DbError::WriteTimeout { consistency, received: 1, required: 2, write_type }, "Operation timed out")
    }

    fn write_failure(write_type: WriteType) -> ExecutionError {
        let (consistency, numfailures) = (Consistency::Quorum, 1);
        server(DbError::WriteFailure { consistency, received: 1, required: 2, numfailures, write_type }, "failed")
    }

    fn rate(rejected_by_coordinator: bool) -> ExecutionError {
        server(DbError::RateLimitReached { op_type: OperationType::Write, rejected_by_coordinator }, "rate")
    }

    fn pool() -> ConnectionPoolError {
        let last_connection_error = ConnectionError::ConnectTimeout;
        ConnectionPoolError::Broken { last_connection_error }
    }

    /// Kind, effect of a plain write, effect of a conditional one.
    fn rows() -> Vec<(ExecutionError, ErrorKind, Effect, Effect)> {
        let consistency = Consistency::Quorum;
        let read_timeout = DbError::ReadTimeout { consistency, received: 1, required: 2, data_present: false };
        let read_failure =
            DbError::ReadFailure { consistency, received: 1, required: 2, numfailures: 1, data_present: false };
        let exists = DbError::AlreadyExists { keyspace: String::new(), table: String::new() };
        let mut rows = vec![
            (unavailable(Consistency::LocalQuorum), ErrorKind::Unavailable, Nothing, Unknown),
            (unavailable(Consistency::Quorum), ErrorKind::Unavailable, Nothing, Unknown),
            (unavailable(Consistency::Serial), ErrorKind::Unavailable, Nothing, Nothing),
            (unavailable(Consistency::LocalSerial), ErrorKind::Unavailable, Nothing, Nothing),
            (server(DbError::Other(CAS_WRITE_UNKNOWN), "CAS"), ErrorKind::Timeout, Unknown, Unknown),
            (server(read_timeout, "Operation timed out"), ErrorKind::Timeout, Nothing, Nothing),
            (server(read_failure, "Operation failed"), ErrorKind::Unavailable, Nothing, Nothing),
            (
                server(DbError::Overloaded, "Server is in overloaded state. Cannot"),
                ErrorKind::Throttled,
                Nothing,
                Nothing,
            ),
            (server(DbError::Overloaded, "Request breached global limit"), ErrorKind::Throttled, Nothing, Nothing),
            (server(DbError::Overloaded, "Too many in flight hints"), ErrorKind::Throttled, Unknown, Unknown),
            (server(DbError::IsBootstrapping, "Bootstrapping"), ErrorKind::Unavailable, Nothing, Nothing),
            (rate(true), ErrorKind::Throttled, Nothing, Nothing),
            (rate(false), ErrorKind::Throttled, Unknown, Unknown),
            (server(DbError::AuthenticationError, "bad"), ErrorKind::Denied, Nothing, Nothing),
            (server(DbError::Unauthorized, "no right"), ErrorKind::Denied, Nothing, Nothing),
            (server(DbError::Invalid, "unconfigured table x"), ErrorKind::Config, Nothing, Nothing),
            (server(DbError::Invalid, "Keyspace x does not exist"), ErrorKind::Config, Nothing, Nothing),
            (server(DbError::Invalid, "Undefined column name"), ErrorKind::Internal, Nothing, Nothing),
            (server(DbError::SyntaxError, "line 1"), ErrorKind::Internal, Nothing, Nothing),
            (server(DbError::ConfigError, "strategy"), ErrorKind::Config, Nothing, Nothing),
            (server(exists, "exists"), ErrorKind::Config, Nothing, Nothing),
            (
                server(DbError::Unprepared { statement_id: bytes::Bytes::new() }, ""),
                ErrorKind::Unavailable,
                Nothing,
                Nothing,
            ),
            (server(DbError::ServerError, "null"), ErrorKind::Internal, Unknown, Unknown),
            (server(DbError::ProtocolError, "frame"), ErrorKind::Internal, Unknown, Unknown),
            (server(DbError::TruncateError, "x"), ErrorKind::Internal, Unknown, Unknown),
            (server(DbError::Other(0x4242), "x"), ErrorKind::Internal, Unknown, Unknown),
            (RequestAttemptError::UnableToAllocStreamId.into(), ErrorKind::Throttled, Nothing, Nothing),
            (RequestAttemptError::NonfinishedPagingState.into(), ErrorKind::Internal, Unknown, Unknown),
            (RequestAttemptError::RepreparedIdMissingInBatch.into(), ErrorKind::Internal, Nothing, Nothing),
            (ExecutionError::RequestTimeout(std::time::Duration::ZERO), ErrorKind::Timeout, Unknown, Unknown),
            (ExecutionError::EmptyPlan, ErrorKind::Unavailable, Nothing, Nothing),
            (ExecutionError::ConnectionPoolError(pool()), ErrorKind::Unavailable, Nothing, Nothing),
            (
                ExecutionError::ConnectionPoolError(ConnectionPoolError::Initializing),
                ErrorKind::Unavailable,
                Nothing,
                Nothing,
            ),
            (ExecutionError::PrepareError(pool().into()), ErrorKind::Unavailable, Nothing, Nothing),
            (ExecutionError::BadQuery(BadQuery::PartitionKeyExtraction), ErrorKind::Internal, Nothing, Nothing),
        ];
        for (write_type, late, failed, ..) in write_types() {
            rows.push((write_timeout(write_type.clone()), late, Unknown, Unknown));
            rows.push((write_failure(write_type), failed, Unknown, Unknown));
        }
        rows
    }

    /// Kind of a timeout and of a failure, and what is said of a plain write and of a conditional one.
    fn write_types() -> [(WriteType, ErrorKind, ErrorKind, &'static str, &'static str); 9] {
        use ErrorKind::{Full, Timeout, Unavailable};
        [
            (WriteType::Simple, Timeout, Unavailable, "write", "it was decided"),
            (WriteType::Batch, Timeout, Unavailable, "the batch is logged", "the batch is logged"),
            (WriteType::UnloggedBatch, Timeout, Unavailable, "a part of it", "a part of it"),
            (WriteType::Counter, Timeout, Unavailable, "the counter", "the counter"),
            (WriteType::BatchLog, Timeout, Unavailable, "the batch log", "the batch log"),
            (WriteType::Cas, Timeout, Unavailable, "may have been accepted", "may have been accepted"),
            (WriteType::View, Timeout, Unavailable, "materialized view", "materialized view"),
            (WriteType::Cdc, Full, Full, "change log", "change log"),
            (WriteType::Other("NEW".to_owned()), Timeout, Unavailable, "a new type", "a new type"),
        ]
    }

    #[test]
    fn a_write_that_was_not_confirmed_may_have_happened_and_says_at_which_step_it_was() {
        for (write_type, late, failed, plain, conditional) in write_types() {
            for (access, said) in [(Access::Plain, plain), (Access::Conditional, conditional)] {
                for (error, kind) in
                    [(write_timeout(write_type.clone()), late), (write_failure(write_type.clone()), failed)]
                {
                    let mapped = map(&error, access);
                    assert_eq!((mapped.kind(), mapped.effect()), (kind, Unknown), "{write_type:?} {access:?}");
                    assert!(mapped.message().contains(said), "{write_type:?} {access:?}: {mapped}");
                }
            }
        }
    }

    #[test]
    fn every_row_of_the_table() {
        for (error, kind, plain, conditional) in rows() {
            for (access, effect) in
                [(Access::Read, Nothing), (Access::Plain, plain), (Access::Conditional, conditional)]
            {
                let mapped = map(&error, access);
                assert_eq!((mapped.kind(), mapped.effect()), (kind, effect), "{access:?}: {error}");
                assert!(!format!("{mapped} {mapped:?}").contains("secret"));
            }
        }
    }

    #[test]
    fn a_statement_that_is_not_prepared_had_no_effect() {
        for (error, kind, ..) in rows() {
            let ExecutionError::LastAttemptError(first_attempt) = error else { continue };
            let error = map(&PrepareError::AllAttemptsFailed { first_attempt }.into(), Access::Conditional);
            assert_eq!((error.kind(), error.effect()), (kind, Nothing));
        }
    }

    #[test]
    fn connecting_fails_by_kind_and_without_effect() {
        let rows = [
            (NewSessionError::FailedToResolveAnyHostname(Vec::new()), ErrorKind::Unavailable),
            (NewSessionError::EmptyKnownNodesList, ErrorKind::Config),
            (NewSessionError::MetadataError(pool().into()), ErrorKind::Unavailable),
        ];
        for (error, kind) in rows {
            let mapped = map_connect(&error);
            assert_eq!((mapped.kind(), mapped.effect()), (kind, Nothing), "{error}");
        }
    }
}
