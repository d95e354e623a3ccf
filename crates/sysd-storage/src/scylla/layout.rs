//! The stored form of a record, and the values of statements.

use bytes::{Buf as _, Bytes};
use scylla::deserialize::row::ColumnIterator;
use scylla::response::query_result::QueryResult;
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;
use sysd_core::{Effect, Error, ErrorKind, Key, Record, Result, Timestamp, Version};

use super::error::Access;

/// The first byte of a stored record. Statements name it as the range from `01` to `02`.
const FORMAT: u8 = 1;
/// The expiry of what never expires: later than any, so that one comparison does for both.
const NEVER: i64 = i64::MAX;
/// The sort key that a lone record is stored under: it lies in a partition of its own.
const LONE_SORT: &[u8] = &[0];

/// The values that a statement may name.
#[derive(Clone, Debug, Default)]
pub(super) struct Values<'a> {
    pub(super) space: &'a str,
    pub(super) partition: &'a [u8],
    pub(super) is_lone: bool,
    pub(super) sort: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) version: [u8; 16],
    pub(super) expires_at: i64,
    /// Seconds, zero: never.
    pub(super) ttl: i32,
    pub(super) expected: [u8; 16],
    pub(super) now: i64,
    /// Bounds of sort keys.
    pub(super) low: &'a [u8],
    pub(super) high: &'a [u8],
}

impl<'a> Values<'a> {
    pub(super) fn of(key: Key<'a>) -> Self {
        let sort = if key.is_lone() { LONE_SORT } else { key.sort() };
        let (space, is_lone) = (key.space().name(), key.is_lone());
        Self { space, partition: key.partition(), is_lone, sort, ..Self::default() }
    }
}

/// An expiry as it is stored and compared.
pub(super) fn stored_expiry(at: Option<Timestamp>) -> i64 {
    at.map_or(NEVER, |at| i64::try_from(at.as_micros()).unwrap_or(NEVER))
}

impl SerializeRow for Values<'_> {
    fn serialize(
        &self,
        context: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> std::result::Result<(), SerializationError> {
        for column in context.columns() {
            let cell = writer.make_cell_writer();
            let written = match column.name() {
                "space" => cell.set_value(self.space.as_bytes()),
                "partition" => cell.set_value(self.partition),
                "lone" => cell.set_value(&[u8::from(self.is_lone)]),
                "sort" => cell.set_value(self.sort),
                "record" => {
                    let mut cell = cell.into_value_builder();
                    cell.append_bytes(&[FORMAT]);
                    cell.append_bytes(self.value);
                    cell.finish()
                }
                "version" => cell.set_value(&self.version),
                "expires_at" => cell.set_value(&self.expires_at.to_be_bytes()),
                "ttl" => cell.set_value(&self.ttl.to_be_bytes()),
                "expected" => cell.set_value(&self.expected),
                "now" => cell.set_value(&self.now.to_be_bytes()),
                "low" => cell.set_value(self.low),
                "high" => cell.set_value(self.high),
                name => {
                    return Err(SerializationError::new(std::io::Error::other(format!("no value is named {name}"))));
                }
            };
            written.map_err(SerializationError::new)?;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// The three columns of a record, as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) record: Option<Bytes>,
    pub(super) version: Option<[u8; 16]>,
    pub(super) expires_at: Option<i64>,
    /// A column had a length that it can't have.
    pub(super) is_torn: bool,
}

impl Columns {
    /// The record, also an expired one; `None` if there is none.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if it is no record of this store.
    pub(super) fn decode(self, key: Key<'_>) -> Result<Option<Record>> {
        let foreign = || Error::corrupt(key, "not a record of this store; was the row written by another program?");
        if self.is_torn {
            return Err(foreign());
        }
        let (mut stored, version, expires_at) = match (self.record, self.version, self.expires_at) {
            (None, None, None) => return Ok(None),
            (Some(record), Some(version), Some(expires_at)) => (record, version, expires_at),
            _ => return Err(foreign()),
        };
        if stored.is_empty() || stored.get_u8() != FORMAT {
            return Err(foreign());
        }
        let expires_at = match expires_at {
            NEVER => None,
            micros => {
                let at = u64::try_from(micros).ok().and_then(|micros| Timestamp::from_micros(micros).ok());
                Some(at.ok_or_else(foreign)?)
            }
        };
        Ok(Some(Record { value: stored, version: Version::from_bytes(version), expires_at }))
    }

    /// Takes a cell by its column's name; others pass.
    pub(super) fn take(&mut self, name: &str, cell: &[u8], bytes: impl FnOnce() -> Bytes) {
        match name {
            "record" => self.record = Some(bytes()),
            "version" => match cell.try_into() {
                Ok(version) => self.version = Some(version),
                Err(_) => self.is_torn = true,
            },
            "expires_at" => match cell.try_into() {
                Ok(micros) => self.expires_at = Some(i64::from_be_bytes(micros)),
                Err(_) => self.is_torn = true,
            },
            _ => {}
        }
    }
}

/// The answer to a conditional statement.
#[derive(Debug)]
pub(super) enum Answer {
    Applied,
    /// What is there, as far as the condition named it.
    Refused(Columns),
}

/// Reads the answer to a conditional statement; of a batch, its first row tells.
///
/// ScyllaDB sends the columns also where it applied; Cassandra leaves them out also where there is no row.
pub(super) fn read_answer(result: QueryResult, key: Key<'_>) -> Result<Answer> {
    let unexpected = || unexpected(Access::Conditional).with_key(key);
    let rows = result.into_rows_result().map_err(|_| unexpected())?;
    let row = rows.maybe_first_row::<ColumnIterator<'_, '_>>().map_err(|_| unexpected())?.ok_or_else(unexpected)?;
    let mut columns = Columns::default();
    let mut applied = None;
    for column in row {
        let column = column.map_err(|_| unexpected())?;
        let Some(slice) = column.slice else { continue };
        match column.spec.name() {
            "[applied]" => applied = Some(slice.as_slice() == [1]),
            name => columns.take(name, slice.as_slice(), || slice.to_bytes()),
        }
    }
    Ok(if applied.ok_or_else(unexpected)? { Answer::Applied } else { Answer::Refused(columns) })
}

/// One row of a read: its sort key and the columns that were asked for. Where `copies`, it does not hold on to the page.
pub(super) fn read_row(row: ColumnIterator<'_, '_>, copies: bool) -> Result<(Bytes, Columns)> {
    let mut columns = Columns::default();
    let mut sort = Bytes::new();
    for column in row {
        let column = column.map_err(|_| unexpected(Access::Read))?;
        let Some(slice) = column.slice else { continue };
        let bytes = || if copies { Bytes::copy_from_slice(slice.as_slice()) } else { slice.to_bytes() };
        match column.spec.name() {
            "sort" => sort = bytes(),
            name => columns.take(name, slice.as_slice(), bytes),
        }
    }
    Ok((sort, columns))
}

pub(super) fn unexpected(access: Access) -> Error {
    let effect = if access == Access::Read { Effect::None } else { Effect::Unknown };
    Error::new(ErrorKind::Internal, effect, "the server answered in an unexpected shape")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sysd_core::Space;

    const SPACE: Space = Space::conditional("s");

    fn columns(record: &[u8], version: &[u8], expires_at: &[u8]) -> Columns {
        let mut columns = Columns::default();
        for (name, cell) in [("record", record), ("version", version), ("expires_at", expires_at)] {
            columns.take(name, cell, || Bytes::copy_from_slice(cell));
        }
        columns
    }

    #[test]
    fn reads_what_it_wrote_and_refuses_all_else() {
        let key = Key::lone(SPACE, b"k");
        let version = Version::from_u128(7);
        let decode = |record: &[u8], expires_at: i64| {
            columns(record, &version.to_bytes(), &expires_at.to_be_bytes()).decode(key)
        };
        for at in [None, Some(Timestamp::MAX), Some(Timestamp::UNIX_EPOCH)] {
            let record = decode(b"\x01v", stored_expiry(at)).unwrap().unwrap();
            assert_eq!(record, Record { value: "v".into(), version, expires_at: at });
        }
        assert_eq!(Columns::default().decode(key).unwrap(), None);
        let whole = columns(b"\x01", &version.to_bytes(), &NEVER.to_be_bytes());
        let broken = [
            columns(b"", &version.to_bytes(), &NEVER.to_be_bytes()),
            columns(b"\x02v", &version.to_bytes(), &NEVER.to_be_bytes()),
            columns(b"\x01v", b"short", &NEVER.to_be_bytes()),
            columns(b"\x01v", &version.to_bytes(), b"short"),
            columns(b"\x01v", &version.to_bytes(), &(-1_i64).to_be_bytes()),
            columns(b"\x01v", &version.to_bytes(), &(1_i64 << 53).to_be_bytes()),
            Columns { record: None, ..whole.clone() },
            Columns { version: None, ..whole.clone() },
            Columns { expires_at: None, ..whole },
        ];
        for columns in broken {
            let what = format!("{columns:?}");
            assert_eq!(columns.decode(key).map_err(|error| error.kind()), Err(ErrorKind::Corrupt), "{what}");
        }
    }

    #[test]
    fn a_lone_record_lies_in_a_partition_of_its_own() {
        let lone = Values::of(Key::lone(SPACE, b"p"));
        let row = Values::of(Key::row(SPACE, b"p", b"\x00"));
        assert!(lone.is_lone && !row.is_lone);
        assert_eq!((lone.partition, lone.sort), (row.partition, row.sort));
    }
}
