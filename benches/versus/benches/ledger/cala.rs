//! `cala-ledger`, in a database of its own of the same PostgreSQL, as its documentation shows: a template of two entries, whose
//! parameters are the accounts and the amount, and `post_transaction`. Its jobs are not started: they roll up sets of accounts, and
//! there are none.

use std::sync::Arc;

use cala_ledger::account::NewAccount;
use cala_ledger::job::{JobSvcConfig, Jobs};
use cala_ledger::journal::NewJournal;
use cala_ledger::tx_template::{
    NewParamDefinition, NewTxTemplate, NewTxTemplateEntry, NewTxTemplateTransaction, ParamDataType, Params,
};
use cala_ledger::{AccountId, CalaLedger, CalaLedgerConfig, JournalId, TransactionId, TxTemplateId};
use rust_decimal::Decimal;

use crate::postgres::Postgres;
use crate::{ACCOUNTS, Caller, Traffic};

const DATABASE: &str = "cala";
const TEMPLATE: &str = "TRANSFER";

#[derive(Clone)]
pub(crate) struct Cala {
    ledger: CalaLedger,
    accounts: Arc<[AccountId]>,
    traffic: Traffic,
}

impl Cala {
    pub(crate) async fn open(postgres: &Postgres) -> Self {
        postgres.execute("postgres", &format!("CREATE DATABASE {DATABASE}"));
        let url = postgres.url(DATABASE);
        let jobs = JobSvcConfig::builder().pg_con(url.as_str()).exec_migrations(false).build().unwrap();
        let mut jobs = Jobs::init(jobs).await.unwrap();
        let config =
            CalaLedgerConfig::builder().pg_con(url).max_connections(20_u32).exec_migrations(true).build().unwrap();
        let ledger = CalaLedger::init(config, &mut jobs).await.unwrap();
        let journal = JournalId::new();
        ledger.journals().create(NewJournal::builder().id(journal).name("Ledger").build()).await.unwrap();
        let accounts: Arc<[_]> = (0..ACCOUNTS).map(|_| AccountId::new()).collect();
        for (at, accounts) in accounts.chunks(1_000).enumerate() {
            let named = |(id, account): (usize, &AccountId)| {
                let name = format!("{at}.{id}");
                NewAccount::builder().id(*account).code(name.as_str()).name(name.as_str()).build()
            };
            ledger.accounts().create_all(accounts.iter().enumerate().map(named).collect()).await.unwrap();
        }
        ledger.tx_templates().create(template(journal)).await.unwrap();
        Self { ledger, accounts, traffic: Traffic::even() }
    }

    /// That it did what it says.
    pub(crate) fn verify(&self, postgres: &Postgres) {
        let count = self.traffic.count();
        let side = |side: &str| {
            format!(
                "ASSERT (SELECT sum((latest_values->'settled'->>'{side}_balance')::numeric) FROM cala_current_balances)
                    = 0.07 * {count};"
            )
        };
        let check = format!(
            "DO $$ BEGIN
                ASSERT (SELECT count(*) FROM cala_transactions) = {count};
                ASSERT (SELECT count(*) FROM cala_entries) = 2 * {count};
                {}
                {}
            END $$",
            side("dr"),
            side("cr")
        );
        postgres.execute(DATABASE, &check);
    }
}

impl Caller for Cala {
    async fn transfer(&self) {
        let (debit, credit) = self.traffic.accounts();
        let account = |id: u64| self.accounts[usize::try_from(id).unwrap()];
        let mut params = Params::new();
        params.insert("debit", account(debit));
        params.insert("credit", account(credit));
        params.insert("units", Decimal::new(7, 2));
        self.ledger.post_transaction(TransactionId::new(), TEMPLATE, params).await.unwrap();
    }
}

fn template(journal: JournalId) -> NewTxTemplate {
    let param = |name: &str, of| NewParamDefinition::builder().name(name).r#type(of).build().unwrap();
    let entry = |kind: &str, account: &str, direction: &str| {
        NewTxTemplateEntry::builder()
            .entry_type(kind)
            .account_id(account)
            .layer("SETTLED")
            .direction(direction)
            .units("params.units")
            .currency("'EUR'")
            .build()
            .unwrap()
    };
    let transaction =
        NewTxTemplateTransaction::builder().effective("date()").journal_id(format!("uuid('{journal}')")).build();
    NewTxTemplate::builder()
        .id(TxTemplateId::new())
        .code(TEMPLATE)
        .params(vec![
            param("debit", ParamDataType::Uuid),
            param("credit", ParamDataType::Uuid),
            param("units", ParamDataType::Decimal),
        ])
        .transaction(transaction.unwrap())
        .entries(vec![
            entry("'TRANSFER_DR'", "params.debit", "DEBIT"),
            entry("'TRANSFER_CR'", "params.credit", "CREDIT"),
        ])
        .build()
}
