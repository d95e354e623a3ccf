//! Making the table.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::operation::update_time_to_live::UpdateTimeToLiveError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableDescription, TableStatus,
    TimeToLiveSpecification, TimeToLiveStatus,
};
use sysd_core::{Clock, Effect, Error, ErrorKind, Result};

use super::error::{Access, map};
use super::layout::{PARTITION, SORT, TTL};
use super::{DynamoStore, Shared};

const POLL: Duration = Duration::from_millis(200);

impl<C: Clock> DynamoStore<C> {
    /// Makes the table, billed by the request, where there is none; waits until it can be used; and lets DynamoDB delete what
    /// has expired. What is there already is left, so it may be called at every start and by several processes.
    ///
    /// It needs the rights `dynamodb:DescribeTable`, `CreateTable`, `DescribeTimeToLive` and `UpdateTimeToLive`; no other call
    /// of a store does.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if a table of this name has other keys, or deletes by another attribute;
    /// [`Timeout`](ErrorKind::Timeout) if it is not ready within [`table_timeout`](super::DynamoConfig::table_timeout); it may
    /// become so later, call again.
    ///
    /// # Cancel safety
    /// Dropped, it may have done a part; called again, it does the rest.
    pub async fn create_table(&self) -> Result<()> {
        let deadline = Instant::now() + self.shared.config.table_timeout;
        while !self.shared.is_table_ready().await? {
            pause(deadline).await?;
        }
        while !self.shared.deletes_what_expired().await? {
            pause(deadline).await?;
        }
        Ok(())
    }
}

async fn pause(deadline: Instant) -> Result<()> {
    if Instant::now() + POLL > deadline {
        let message = "the table was not ready in time; DynamoDB may still be making it";
        return Err(Error::new(ErrorKind::Timeout, Effect::Unknown, message));
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}

impl<C: Clock> Shared<C> {
    async fn is_table_ready(&self) -> Result<bool> {
        match self.client.describe_table().table_name(&self.config.table).send().await {
            Ok(answer) => match answer.table() {
                Some(table) => self.check_table(table),
                None => Ok(false),
            },
            Err(error) if error.as_service_error().is_some_and(DescribeTableError::is_resource_not_found_exception) => {
                self.ask_for_table().await?;
                Ok(false)
            }
            Err(error) => Err(map(&error, Access::Read, &self.config.table)),
        }
    }

    fn check_table(&self, table: &TableDescription) -> Result<bool> {
        let status = table.table_status();
        if status == Some(&TableStatus::Deleting) {
            return Ok(false);
        }
        let is_key = |name: &str, key_type: &KeyType| {
            let named = table.key_schema().iter().any(|key| key.attribute_name() == name && key.key_type() == key_type);
            named
                && table.attribute_definitions().iter().any(|attribute| {
                    attribute.attribute_name() == name && attribute.attribute_type() == &ScalarAttributeType::B
                })
        };
        if !is_key(PARTITION, &KeyType::Hash) || !is_key(SORT, &KeyType::Range) {
            let message = format!(
                "table {} has other keys: it takes {PARTITION} and {SORT}, both binary; name another table",
                self.config.table
            );
            return Err(Error::new(ErrorKind::Config, Effect::None, message));
        }
        Ok(matches!(status, Some(TableStatus::Active | TableStatus::Updating)))
    }

    async fn ask_for_table(&self) -> Result<()> {
        let wrong = |_| Error::new(ErrorKind::Internal, Effect::None, "the AWS SDK refused the table's description");
        let mut call =
            self.client.create_table().table_name(&self.config.table).billing_mode(BillingMode::PayPerRequest);
        for (name, key_type) in [(PARTITION, KeyType::Hash), (SORT, KeyType::Range)] {
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::B);
            let key = KeySchemaElement::builder().attribute_name(name).key_type(key_type);
            call =
                call.attribute_definitions(attribute.build().map_err(wrong)?).key_schema(key.build().map_err(wrong)?);
        }
        match call.send().await {
            Ok(_) => Ok(()),
            // Another process was quicker.
            Err(error) if error.as_service_error().is_some_and(CreateTableError::is_resource_in_use_exception) => {
                Ok(())
            }
            Err(error) => Err(map(&error, Access::Write, &self.config.table)),
        }
    }

    /// Whether DynamoDB deletes by our attribute; if not, it is asked to.
    async fn deletes_what_expired(&self) -> Result<bool> {
        if self.has_ttl().await? {
            return Ok(true);
        }
        let wrong = |_| Error::new(ErrorKind::Internal, Effect::None, "the AWS SDK refused the table's description");
        let by = TimeToLiveSpecification::builder().attribute_name(TTL).enabled(true).build().map_err(wrong)?;
        let call = self.client.update_time_to_live().table_name(&self.config.table).time_to_live_specification(by);
        match call.send().await {
            Ok(_) => Ok(true),
            // Another process may have been quicker.
            Err(_) if self.has_ttl().await? => Ok(true),
            Err(error) if error.as_service_error().is_some_and(UpdateTimeToLiveError::is_resource_in_use_exception) => {
                Ok(false)
            }
            Err(error) => Err(map(&error, Access::Write, &self.config.table)),
        }
    }

    async fn has_ttl(&self) -> Result<bool> {
        let call = self.client.describe_time_to_live().table_name(&self.config.table);
        let answer = call.send().await.map_err(|error| map(&error, Access::Read, &self.config.table))?;
        let Some(ttl) = answer.time_to_live_description() else { return Ok(false) };
        if !matches!(ttl.time_to_live_status(), Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)) {
            return Ok(false);
        }
        if ttl.attribute_name() == Some(TTL) {
            return Ok(true);
        }
        let message =
            format!("table {} deletes by another attribute than {TTL}; name another table", self.config.table);
        Err(Error::new(ErrorKind::Config, Effect::None, message))
    }
}
