//! URLs of tables.

use sysd_core::{Effect, Error, ErrorKind, Result};

use super::config::DynamoConfig;

const SHAPE: &str = "it is dynamodb://TABLE?region=REGION&endpoint=URL&prefix=PREFIX, all but the table optional";

/// Neither the URL nor a part of it is in the error: somebody may have put a secret there.
fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Config, Effect::None, format!("the DynamoDB URL {what}; {SHAPE}"))
}

pub(super) fn parse(url: &str) -> Result<DynamoConfig> {
    let rest = url.strip_prefix("dynamodb://").ok_or_else(|| wrong("begins with another scheme"))?;
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err(wrong("has credentials in it, which belong into the environment, a profile or the config"));
    }
    let table = decode(authority.strip_suffix('/').unwrap_or(authority))?;
    if !(3..=255).contains(&table.len()) || !table.bytes().all(is_of_table) {
        return Err(wrong("names no table (3 to 255 letters, digits, dots, hyphens and underscores)"));
    }
    let mut config = DynamoConfig::new(table);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| wrong("has an option without a value"))?;
        let value = decode(value)?;
        match name {
            "region" => config.region = Some(value),
            "endpoint" => {
                check_endpoint(&value).map_err(|error| wrong(error.message()))?;
                config.endpoint = Some(value);
            }
            "prefix" => config.prefix = value,
            _ => return Err(wrong("has an option that is unknown")),
        }
    }
    config.check()?;
    Ok(config)
}

fn is_of_table(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// Refuses an endpoint that can't be, or has credentials in it; no part of it is in the error.
pub(super) fn check_endpoint(endpoint: &str) -> Result<()> {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains('@') => Ok(()),
        _ => {
            let message = "has an endpoint that is no http:// or https:// URL, or one with credentials";
            Err(Error::new(ErrorKind::Config, Effect::None, message))
        }
    }
}

/// An endpoint without what may be a secret: scheme, host and port. What is no URL is not shown at all.
pub(super) fn shown(endpoint: &str) -> String {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return "(no URL)".to_owned() };
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    // A password may hold any of the characters that end a host: what follows the last @ is the host, if anything is.
    let hidden = rest.rfind('@');
    let host = rest[hidden.map_or(0, |at| at + 1)..].split(['/', '?', '#']).next().unwrap_or_default();
    if !is_plain(scheme) || !is_plain(host) {
        return "(no URL)".to_owned();
    }
    format!("{scheme}://{}{host}", if hidden.is_some() { "***@" } else { "" })
}

fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        bytes.push(if byte == b'%' {
            let (high, low) = (hex(rest.next()), hex(rest.next()));
            let byte = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
            byte.ok_or_else(|| wrong("has a % without two hexadecimal digits"))?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_every_part() {
        let url = "dynamodb://my.table-1_?region=us-east-1&endpoint=http%3A%2F%2F127.0.0.1%3A8000&prefix=a%20b";
        let config = parse(url).unwrap();
        assert_eq!(config.table, "my.table-1_");
        assert_eq!(config.region.as_deref(), Some("us-east-1"));
        assert_eq!(config.endpoint.as_deref(), Some("http://127.0.0.1:8000"));
        assert_eq!(config.prefix, "a b");
        let config = parse("dynamodb://table/").unwrap();
        assert_eq!((config.table.as_str(), config.region, config.endpoint), ("table", None, None));
    }

    #[test]
    fn an_endpoint_is_shown_without_secrets() {
        let rows = [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("https://[::1]:8000/", "https://[::1]:8000"),
            ("https://ann:hunter2@host:1/hunter2", "https://***@host:1"),
            ("https://ann:hunter2/hunter2@host", "https://***@host"),
            ("https://ann:hunter2?@hunter2@host", "https://***@host"),
            ("https://hunter2@host", "https://***@host"),
            ("https://host?token=hunter2", "https://host"),
            ("https://host#hunter2", "https://host"),
            ("hunter2", "(no URL)"),
            ("ann:hunter2@host", "(no URL)"),
            ("hunter2 is the secret://host", "(no URL)"),
            ("https://ann:hunter2%host", "(no URL)"),
        ];
        for (endpoint, expected) in rows {
            assert_eq!(shown(endpoint), expected, "{endpoint}");
            assert!(!shown(endpoint).contains("hunter2"), "{endpoint}");
        }
    }

    #[test]
    fn an_endpoint_with_a_password_is_refused_and_never_shown() {
        for endpoint in ["https://ann:hunter2@host", "hunter2@host", "ftp://ann:hunter2@host", "https://"] {
            let config = DynamoConfig { endpoint: Some(endpoint.to_owned()), ..DynamoConfig::new("records") };
            let error = config.check().unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{endpoint}");
            assert!(!format!("{config:?} {error} {error:?}").contains("hunter2"), "{config:?} {error:?}");
        }
        let config = DynamoConfig { endpoint: Some("http://host:1".to_owned()), ..DynamoConfig::new("records") };
        assert!(config.check().is_ok() && format!("{config:?}").contains("http://host:1"));
    }

    #[test]
    fn refuses_the_rest_and_repeats_no_part_of_it() {
        let urls = [
            "redis://hunter2",
            "dynamodb://",
            "dynamodb://ab",
            "dynamodb://user:hunter2@table",
            "dynamodb://table%2Fhunter2",
            "dynamodb://table/hunter2",
            "dynamodb://table?region",
            "dynamodb://table?secret=hunter2",
            "dynamodb://table?region=%hunter2",
            "dynamodb://table?region=%FF",
            "dynamodb://table?endpoint=ftp://hunter2",
            "dynamodb://table?endpoint=http://user:hunter2@host",
            "dynamodb://table?prefix=hunter2/",
        ];
        for url in urls {
            let error = parse(url).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
