//! docs/backends.md says what the stores say of themselves.
#![cfg(all(feature = "memory", feature = "local", feature = "redis", feature = "dynamodb", feature = "scylla"))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::Path;

use sysd::core::{Limits, Store as _};
use sysd::storage::{open, prepare};

const START: &str = "<!-- limits -->\n";
const END: &str = "<!-- /limits -->";

fn server(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run `cargo xtask servers up` and export what it prints"))
}

fn row(name: &str, limits: &Limits) -> String {
    let mut row = String::new();
    let cells = [
        limits.partition_bytes_max.to_string(),
        limits.sort_bytes_max.to_string(),
        limits.value_bytes_max.to_string(),
        limits.batch_records_max.to_string(),
        limits.page_rows_max.to_string(),
        format!("{:?}", limits.ttl_grain),
        format!("{:?}", limits.durability),
        format!("{:?}", limits.clock),
    ];
    write!(row, "| {name} |").unwrap();
    for cell in cells {
        write!(row, " {cell} |").unwrap();
    }
    row
}

#[tokio::test]
async fn the_page_shows_the_limits_of_every_store() {
    let directory = std::env::temp_dir().join(format!("sysd-backends-{}", std::process::id()));
    let stores = [
        ("memory", "memory:".to_owned()),
        ("local disk", format!("local:{}", directory.display())),
        ("Redis", server("SYSD_TEST_REDIS_URL")),
        ("DynamoDB", server("SYSD_TEST_DYNAMODB_URL")),
        ("Cassandra, ScyllaDB", server("SYSD_TEST_CASSANDRA_URL")),
    ];
    let mut table = String::from(
        "| | partition, bytes | sort, bytes | value, bytes | records in a round trip | rows in a page | grain | durability | clock |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, url) in &stores {
        prepare(url).await.unwrap();
        let store = open(url).await.unwrap();
        table.push_str(&row(name, store.limits()));
        table.push('\n');
    }
    std::fs::remove_dir_all(directory).unwrap();
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backends.md")).unwrap();
    let shown = page.split_once(START).and_then(|(_, rest)| rest.split_once(END)).map(|(shown, _)| shown);
    assert!(shown == Some(&table), "docs/backends.md is out of date; between its marks belongs:\n\n{table}");
}
