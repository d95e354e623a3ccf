//! DynamoDB's errors as kind and effect: the mapping table.

use std::error::Error as StdError;
use std::fmt::Debug;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use hyper_util::client::legacy::Error as HttpError;
use sysd_core::{Effect, Error, ErrorKind};

/// A row of the table: kind, effect of a write, and what to say.
type Row = (ErrorKind, Effect, &'static str);

const NO_TABLE: &str = "there is no such table in this region of the account; DynamoStore::create_table makes it";

/// Whether the call may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Maps an error. Source and message are left out: their text can hold what was sent.
pub(super) fn map<E>(error: &SdkError<E, HttpResponse>, access: Access, table: &str) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    map_with(error, |response| response.status().as_u16(), access, table)
}

fn map_with<E, R>(error: &SdkError<E, R>, status: impl Fn(&R) -> u16, access: Access, table: &str) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: Debug + 'static,
{
    let (kind, effect, message) = classify(error, status);
    let effect = if access == Access::Read { Effect::None } else { effect };
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).filter(|code| is_name(code));
    match code {
        _ if message == NO_TABLE => Error::new(kind, effect, format!("table {table}: {message}")),
        Some(code) => Error::new(kind, effect, format!("{message} ({code})")),
        None => Error::new(kind, effect, message),
    }
}

/// Codes are names; what is none may hold anything.
fn is_name(code: &str) -> bool {
    code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn classify<E, R>(error: &SdkError<E, R>, status: impl Fn(&R) -> u16) -> Row
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: Debug + 'static,
{
    use Effect::{None, Unknown};
    match error {
        SdkError::ServiceError(answer) => {
            let (code, message) = (answer.err().code(), answer.err().message());
            classify_answer(code.unwrap_or_default(), message.unwrap_or_default(), status(answer.raw()))
        }
        SdkError::TimeoutError(_) => (ErrorKind::Timeout, Unknown, "DynamoDB gave no answer in time"),
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(error) => classify_dispatch(error, failure.is_timeout()),
            Option::None => BROKEN,
        },
        SdkError::ResponseError(_) => (ErrorKind::Unavailable, Unknown, "DynamoDB's answer broke off or can't be read"),
        SdkError::ConstructionFailure(_) => match credentials_error(error) {
            Some(row) => row,
            Option::None => (ErrorKind::Internal, None, "the AWS SDK refused the call"),
        },
        _ => (ErrorKind::Internal, Unknown, "the AWS SDK failed in a new way"),
    }
}

const BROKEN: Row = (ErrorKind::Unavailable, Effect::Unknown, "the connection to DynamoDB broke");

fn classify_dispatch(error: &(dyn StdError + 'static), is_timeout: bool) -> Row {
    if let Some(row) = credentials_error(error) {
        return row;
    }
    let was_connected = !find::<HttpError>(error).is_some_and(HttpError::is_connect);
    match (was_connected, is_timeout) {
        (false, true) => (ErrorKind::Timeout, Effect::None, "there was no connection to DynamoDB in time"),
        (false, false) => (ErrorKind::Unavailable, Effect::None, "no DynamoDB answers at that address"),
        (true, true) => (ErrorKind::Timeout, Effect::Unknown, "DynamoDB gave no answer in time"),
        (true, false) => BROKEN,
    }
}

/// Without credentials nothing is sent.
fn credentials_error(error: &(dyn StdError + 'static)) -> Option<Row> {
    use Effect::None;
    Some(match find::<CredentialsError>(error)? {
        CredentialsError::CredentialsNotLoaded(_) => (ErrorKind::Denied, None, "the AWS SDK found no credentials"),
        CredentialsError::InvalidConfiguration(_) => {
            (ErrorKind::Config, None, "the configuration of AWS credentials is wrong")
        }
        _ => (ErrorKind::Unavailable, None, "the provider of AWS credentials did not give any"),
    })
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// By the code; by the status where the code is new.
fn classify_answer(code: &str, message: &str, status: u16) -> Row {
    use Effect::{None, Unknown};
    match code {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "LimitExceededException" => (ErrorKind::Throttled, None, "DynamoDB asks for less traffic"),
        "InternalServerError" | "InternalFailure" => {
            (ErrorKind::Unavailable, Unknown, "DynamoDB failed inside; a write may have happened")
        }
        "ServiceUnavailable" | "ServiceUnavailableException" => {
            (ErrorKind::Unavailable, Unknown, "DynamoDB can't serve now")
        }
        "ResourceNotFoundException" | "TableNotFoundException" => (ErrorKind::Config, None, NO_TABLE),
        "ResourceInUseException" => (ErrorKind::Unavailable, None, "the table is being made, changed or removed"),
        "AccessDeniedException" | "NotAuthorized" | "OptInRequired" => {
            (ErrorKind::Denied, None, "these credentials lack the right to do this")
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature"
        | "IncompleteSignatureException" => (ErrorKind::Denied, None, "DynamoDB does not know these credentials"),
        "InvalidSignatureException" | "RequestExpired" => {
            (ErrorKind::Denied, None, "the secret is wrong, or this machine's clock is")
        }
        "ExpiredTokenException" | "ExpiredToken" => (ErrorKind::Denied, None, "the credentials have expired"),
        "TransactionConflictException" | "TransactionInProgressException" | "ReplicatedWriteConflictException" => {
            (ErrorKind::Contention, None, "another writer holds the record; try again")
        }
        "ItemCollectionSizeLimitExceededException" => {
            (ErrorKind::Full, None, "the partition is over the 10 GB that a table with local indexes allows")
        }
        "RequestEntityTooLarge" => (ErrorKind::TooLarge, None, "DynamoDB found the call too large"),
        "ValidationException" => classify_validation(message),
        _ => classify_status(status),
    }
}

/// The texts are those of DynamoDB and of DynamoDB Local, which differ.
fn classify_validation(message: &str) -> Row {
    use Effect::None;
    let of_keys =
        ["key element", "key schema", "Missing the key", "mismatch for key", "required keys", "conditions on the keys"];
    if message.contains("Item size") {
        (ErrorKind::TooLarge, None, "DynamoDB found the record too large")
    } else if of_keys.iter().any(|part| message.contains(part)) {
        let message = "the table has other keys than p and s, both binary; DynamoStore::create_table makes one";
        (ErrorKind::Config, None, message)
    } else {
        (ErrorKind::Internal, None, "DynamoDB found the call invalid")
    }
}

fn classify_status(status: u16) -> Row {
    use Effect::{None, Unknown};
    match status {
        413 => (ErrorKind::TooLarge, None, "DynamoDB found the call too large"),
        429 => (ErrorKind::Throttled, None, "DynamoDB asks for less traffic"),
        401 | 403 => (ErrorKind::Denied, None, "DynamoDB refused the credentials"),
        500..=599 => (ErrorKind::Unavailable, Unknown, "DynamoDB, or what stands before it, can't serve now"),
        400..=499 => (ErrorKind::Internal, None, "DynamoDB refused the call"),
        _ => (ErrorKind::Internal, Unknown, "DynamoDB answered something unexpected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Effect::{None as Nothing, Unknown};
    use aws_sdk_dynamodb::error::{ConnectorError, ErrorMetadata};
    use aws_sdk_dynamodb::operation::put_item::PutItemError;

    type Failure = SdkError<PutItemError, u16>;

    fn answer(code: &str, status: u16) -> Failure {
        told(code, "told with a hunter2", status)
    }

    fn told(code: &str, message: &str, status: u16) -> Failure {
        let metadata = ErrorMetadata::builder().code(code).message(message).build();
        SdkError::service_error(PutItemError::generic(metadata), status)
    }

    fn dispatch(error: ConnectorError) -> Failure {
        SdkError::dispatch_failure(error)
    }

    fn no_credentials(error: CredentialsError) -> Failure {
        dispatch(ConnectorError::other(error.into(), None))
    }

    #[test]
    fn every_row_of_the_table() {
        use ErrorKind::{Config, Contention, Denied, Full, Internal, Throttled, Timeout, TooLarge, Unavailable};
        let rows = [
            (answer("ProvisionedThroughputExceededException", 400), Throttled, Nothing),
            (answer("ThrottlingException", 400), Throttled, Nothing),
            (answer("Throttling", 400), Throttled, Nothing),
            (answer("RequestLimitExceeded", 400), Throttled, Nothing),
            (answer("LimitExceededException", 400), Throttled, Nothing),
            (answer("InternalServerError", 500), Unavailable, Unknown),
            (answer("InternalFailure", 500), Unavailable, Unknown),
            (answer("ServiceUnavailable", 503), Unavailable, Unknown),
            (answer("ServiceUnavailableException", 503), Unavailable, Unknown),
            (answer("ResourceNotFoundException", 400), Config, Nothing),
            (answer("TableNotFoundException", 400), Config, Nothing),
            (answer("ResourceInUseException", 400), Unavailable, Nothing),
            (answer("AccessDeniedException", 400), Denied, Nothing),
            (answer("NotAuthorized", 400), Denied, Nothing),
            (answer("OptInRequired", 403), Denied, Nothing),
            (answer("UnrecognizedClientException", 400), Denied, Nothing),
            (answer("InvalidClientTokenId", 403), Denied, Nothing),
            (answer("InvalidAccessKeyId", 403), Denied, Nothing),
            (answer("MissingAuthenticationToken", 403), Denied, Nothing),
            (answer("MissingAuthenticationTokenException", 400), Denied, Nothing),
            (answer("IncompleteSignature", 400), Denied, Nothing),
            (answer("IncompleteSignatureException", 400), Denied, Nothing),
            (answer("InvalidSignatureException", 400), Denied, Nothing),
            (answer("RequestExpired", 400), Denied, Nothing),
            (answer("ExpiredTokenException", 400), Denied, Nothing),
            (answer("ExpiredToken", 400), Denied, Nothing),
            (answer("TransactionConflictException", 400), Contention, Nothing),
            (answer("TransactionInProgressException", 400), Contention, Nothing),
            (answer("ReplicatedWriteConflictException", 400), Contention, Nothing),
            (answer("ItemCollectionSizeLimitExceededException", 400), Full, Nothing),
            (answer("RequestEntityTooLarge", 413), TooLarge, Nothing),
            (told("ValidationException", "Item size has exceeded the maximum", 400), TooLarge, Nothing),
            (told("ValidationException", "The provided key element does not match", 400), Config, Nothing),
            (told("ValidationException", "One of the required keys was not in the key schema", 400), Config, Nothing),
            (told("ValidationException", "Missing the key p in the item", 400), Config, Nothing),
            (told("ValidationException", "One of the required keys was not given a value", 400), Config, Nothing),
            (told("ValidationException", "The number of conditions on the keys is invalid", 400), Config, Nothing),
            (told("ValidationException", "Type mismatch for key p", 400), Config, Nothing),
            (answer("ValidationException", 400), Internal, Nothing),
            (answer("New", 413), TooLarge, Nothing),
            (answer("New", 429), Throttled, Nothing),
            (answer("New", 401), Denied, Nothing),
            (answer("New", 403), Denied, Nothing),
            (answer("New", 418), Internal, Nothing),
            (answer("New", 500), Unavailable, Unknown),
            (answer("New", 504), Unavailable, Unknown),
            (answer("New", 302), Internal, Unknown),
            (answer("a hunter2 code", 400), Internal, Nothing),
            (SdkError::timeout_error("hunter2"), Timeout, Unknown),
            (SdkError::response_error("hunter2", 200), Unavailable, Unknown),
            (SdkError::construction_failure("hunter2"), Internal, Nothing),
            (SdkError::construction_failure(CredentialsError::not_loaded("hunter2")), Denied, Nothing),
            (dispatch(ConnectorError::timeout("hunter2".into())), Timeout, Unknown),
            (dispatch(ConnectorError::io("hunter2".into())), Unavailable, Unknown),
            (dispatch(ConnectorError::user("hunter2".into())), Unavailable, Unknown),
            (dispatch(ConnectorError::other("hunter2".into(), None)), Unavailable, Unknown),
            (no_credentials(CredentialsError::not_loaded("hunter2")), Denied, Nothing),
            (no_credentials(CredentialsError::invalid_configuration("hunter2")), Config, Nothing),
            (no_credentials(CredentialsError::provider_error("hunter2")), Unavailable, Nothing),
            (no_credentials(CredentialsError::unhandled("hunter2")), Unavailable, Nothing),
        ];
        for (error, kind, effect) in rows {
            let write = map_with(&error, |status| *status, Access::Write, "records");
            assert_eq!((write.kind(), write.effect()), (kind, effect), "{error:?}");
            let read = map_with(&error, |status| *status, Access::Read, "records");
            assert_eq!((read.kind(), read.effect()), (kind, Nothing), "{error:?}");
            assert!(!format!("{write} {write:?}").contains("hunter2"), "{write:?}");
        }
        let error = map_with(&answer("ResourceNotFoundException", 400), |status| *status, Access::Read, "records");
        assert!(error.to_string().contains("table records"), "{error}");
    }
}
