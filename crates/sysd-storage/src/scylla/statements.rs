//! The statements, prepared once.

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use sysd_core::{Order, Result};

use super::config::ScyllaConfig;
use super::error::map_prepare;
use super::schema;

const THIS_PARTITION: &str = "space = :space AND partition = :partition AND lone = :lone";
const THIS_ROW: &str = "space = :space AND partition = :partition AND lone = :lone AND sort = :sort";
/// No version is empty, so this always holds; and it makes a write go through Paxos.
pub(super) const ALWAYS: &str = "IF version != 0x";
/// All three, for a refusal shows the columns that its condition named.
const NOTHING: &str = "IF record = NULL AND version = NULL AND expires_at = NULL";
/// That version, live and readable.
const THIS_VERSION: &str = "IF version = :expected AND expires_at > :now AND record >= 0x01 AND record < 0x02";

/// Those of one table.
pub(super) struct Table {
    pub(super) get: PreparedStatement,
    /// With Paxos or without, as the table is written.
    pub(super) put: PreparedStatement,
    pub(super) delete: PreparedStatement,
    /// Without a condition of its own: in the conditional table only for batches, whose first statement has one.
    pub(super) put_in_batch: PreparedStatement,
    pub(super) delete_in_batch: PreparedStatement,
    /// The rows from `low` up to `high`, both included.
    pub(super) delete_between: PreparedStatement,
    /// The rows from `low` up.
    pub(super) delete_from: PreparedStatement,
    scans: [PreparedStatement; 4],
    sorts: [PreparedStatement; 2],
}

/// The conditional table's, beyond those of every table.
pub(super) struct Conditions {
    pub(super) put_absent: PreparedStatement,
    pub(super) put_is: PreparedStatement,
    pub(super) delete_is: PreparedStatement,
    /// Begins a batch that removes rows: of one that is there or not.
    pub(super) delete_always: PreparedStatement,
}

pub(super) struct Statements {
    pub(super) plain: Table,
    pub(super) conditional: Table,
    pub(super) conditions: Conditions,
}

impl Table {
    pub(super) fn scan(&self, order: Order, has_end: bool) -> &PreparedStatement {
        &self.scans[usize::from(order == Order::Descending) * 2 + usize::from(has_end)]
    }

    /// Sort keys and expiries.
    pub(super) fn sorts(&self, order: Order) -> &PreparedStatement {
        &self.sorts[usize::from(order == Order::Descending)]
    }
}

/// Prepares statements on one table.
struct Preparer<'a> {
    session: &'a Arc<Session>,
    table: String,
    read: Consistency,
    write: Consistency,
    serial: Option<SerialConsistency>,
    is_conditional: bool,
}

impl Preparer<'_> {
    /// A read: it may be sent again, though this store's policy is never to.
    async fn read(&self, text: String) -> Result<PreparedStatement> {
        let mut statement = self.prepare(text).await?;
        statement.set_consistency(self.read);
        statement.set_is_idempotent(true);
        // The columns are named, so they stay what they were when it was prepared.
        statement.set_use_cached_result_metadata(true);
        Ok(statement)
    }

    /// A write. Without Paxos it may be sent again: it carries its own timestamp. With Paxos it may not: the first may have
    /// been applied, and the second would be told of a conflict with it.
    async fn write(&self, text: String) -> Result<PreparedStatement> {
        let mut statement = self.prepare(text).await?;
        statement.set_consistency(self.write);
        statement.set_serial_consistency(self.serial);
        statement.set_is_idempotent(!self.is_conditional);
        Ok(statement)
    }

    async fn prepare(&self, text: String) -> Result<PreparedStatement> {
        self.session.prepare(text).await.map_err(|error| map_prepare(&error))
    }

    fn put(&self, condition: &str) -> String {
        format!(
            "UPDATE {} USING TTL :ttl SET record = :record, version = :version, expires_at = :expires_at \
             WHERE {THIS_ROW} {condition}",
            self.table
        )
    }

    fn delete(&self, condition: &str) -> String {
        format!("DELETE FROM {} WHERE {THIS_ROW} {condition}", self.table)
    }

    async fn scan(&self, direction: &str, end: &str) -> Result<PreparedStatement> {
        let text = format!(
            "SELECT sort, record, version, expires_at FROM {} WHERE {THIS_PARTITION} AND sort >= :low {end} \
             ORDER BY sort {direction}",
            self.table
        );
        self.read(text).await
    }

    async fn sorts(&self, direction: &str) -> Result<PreparedStatement> {
        let table = &self.table;
        self.read(format!("SELECT sort, expires_at FROM {table} WHERE {THIS_PARTITION} ORDER BY sort {direction}"))
            .await
    }

    async fn table(&self) -> Result<Table> {
        let table = &self.table;
        let (always, exists) = if self.is_conditional { (ALWAYS, "IF EXISTS") } else { ("", "") };
        let end = "AND sort < :high";
        Ok(Table {
            get: self.read(format!("SELECT record, version, expires_at FROM {table} WHERE {THIS_ROW}")).await?,
            put: self.write(self.put(always)).await?,
            delete: self.write(self.delete(exists)).await?,
            put_in_batch: self.write(self.put("")).await?,
            delete_in_batch: self.write(self.delete("")).await?,
            delete_between: self
                .write(format!("DELETE FROM {table} WHERE {THIS_PARTITION} AND sort >= :low AND sort <= :high"))
                .await?,
            delete_from: self.write(format!("DELETE FROM {table} WHERE {THIS_PARTITION} AND sort >= :low")).await?,
            scans: [
                self.scan("ASC", "").await?,
                self.scan("ASC", end).await?,
                self.scan("DESC", "").await?,
                self.scan("DESC", end).await?,
            ],
            sorts: [self.sorts("ASC").await?, self.sorts("DESC").await?],
        })
    }
}

impl Statements {
    pub(super) async fn prepare(session: &Arc<Session>, config: &ScyllaConfig) -> Result<Self> {
        let plain = Preparer {
            session,
            table: schema::table(&config.keyspace, schema::PLAIN),
            read: config.plain_consistency(),
            write: config.plain_consistency(),
            serial: None,
            is_conditional: false,
        };
        let (serial, commit) = config.conditional_write();
        let conditional = Preparer {
            session,
            table: schema::table(&config.keyspace, schema::CONDITIONAL),
            read: config.conditional_read(),
            write: commit,
            serial: Some(serial),
            is_conditional: true,
        };
        Ok(Self {
            conditions: Conditions {
                put_absent: conditional.write(conditional.put(NOTHING)).await?,
                put_is: conditional.write(conditional.put(THIS_VERSION)).await?,
                delete_is: conditional.write(conditional.delete(THIS_VERSION)).await?,
                delete_always: conditional.write(conditional.delete(ALWAYS)).await?,
            },
            plain: plain.table().await?,
            conditional: conditional.table().await?,
        })
    }
}
