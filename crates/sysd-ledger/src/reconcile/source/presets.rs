//! The columns of reports that are much used.

use super::super::decimal::{Decimals, Notation};
use super::columns::{AmountIn, Column, CsvFormat, CurrencyIn, FeeIn, Header, MoneyIn};

fn columns(names: &[&str]) -> Vec<Column> {
    names.iter().map(|name| Column::from(*name)).collect()
}

fn signed(name: &str) -> AmountIn {
    AmountIn::Signed(name.into())
}

fn in_column(name: &str) -> CurrencyIn {
    CurrencyIn::Column(name.into())
}

impl CsvFormat {
    /// Columns `reference`, `amount`, `currency` and `date` (`2026-01-31`, or with a time behind it): the format to start from.
    pub fn generic() -> Self {
        Self {
            delimiter: b',',
            quote: b'"',
            header: Header::First,
            is_ragged: false,
            row_bytes_max: 64 << 10,
            reference: columns(&["reference"]),
            money: vec![MoneyIn { amount: signed("amount"), currency: in_column("currency") }],
            day: columns(&["date"]),
            day_formats: ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"].map(str::to_owned).to_vec(),
            kind: Vec::new(),
            batch: Vec::new(),
            fee: None,
            notation: Notation::default(),
            currencies: Vec::new(),
        }
    }

    /// Stripe's itemised payout reconciliation and payments activity. Our id is in the metadata of payments, under this key; where there
    /// is none, it is Stripe's id of what the row is about.
    pub fn stripe(metadata_key: &str) -> Self {
        Self {
            reference: columns(&[&format!("payment_metadata[{metadata_key}]"), "source_id"]),
            money: vec![MoneyIn { amount: signed("gross"), currency: in_column("currency") }],
            day: columns(&["created"]),
            kind: columns(&["reporting_category"]),
            batch: columns(&["automatic_payout_id"]),
            fee: Some(FeeIn { amounts: vec![signed("fee")], currency: None, is_negative: false }),
            notation: Notation { decimals: Decimals::Padded, ..Notation::default() },
            ..Self::generic()
        }
    }

    /// Adyen's settlement detail report. Our id is the merchant reference; where there is none, it is Adyen's of the payment. Rows
    /// without a gross amount, such as fees and payouts, count with their net amount.
    pub fn adyen() -> Self {
        let sides = |debit: &str, credit: &str| AmountIn::DebitCredit { debit: debit.into(), credit: credit.into() };
        let fees = ["Commission (NC)", "Markup (NC)", "Scheme Fees (NC)", "Interchange (NC)"];
        Self {
            reference: columns(&["Merchant Reference", "Psp Reference"]),
            money: vec![
                MoneyIn {
                    amount: sides("Gross Debit (GC)", "Gross Credit (GC)"),
                    currency: in_column("Gross Currency"),
                },
                MoneyIn { amount: sides("Net Debit (NC)", "Net Credit (NC)"), currency: in_column("Net Currency") },
            ],
            day: columns(&["Creation Date"]),
            kind: columns(&["Type"]),
            batch: columns(&["Batch Number"]),
            fee: Some(FeeIn {
                amounts: fees.map(signed).to_vec(),
                currency: Some(in_column("Net Currency")),
                is_negative: false,
            }),
            notation: Notation { decimals: Decimals::Padded, ..Notation::default() },
            ..Self::generic()
        }
    }

    /// PayPal's settlement report (`STL-….CSV`). Our id is the invoice id, or the custom field; where there is neither, it is PayPal's of
    /// the transaction. Amounts are in minor units there.
    pub fn paypal() -> Self {
        let indicated = |amount: &str, indicator: &str| AmountIn::Indicated {
            amount: amount.into(),
            indicator: indicator.into(),
            debit: vec!["DR".to_owned()],
            credit: vec!["CR".to_owned()],
        };
        let others = ["RH", "FH", "SH", "SF", "SC", "RF", "RC", "FF"].map(str::to_owned).to_vec();
        Self {
            header: Header::Tagged { header: "CH".to_owned(), data: "SB".to_owned(), others },
            is_ragged: true,
            reference: columns(&["Invoice ID", "Custom Field", "Transaction ID"]),
            money: vec![MoneyIn {
                amount: indicated("Gross Transaction Amount", "Transaction Debit or Credit"),
                currency: in_column("Gross Transaction Currency"),
            }],
            day: columns(&["Transaction Completion Date"]),
            day_formats: vec!["%Y/%m/%d %H:%M:%S %z".to_owned()],
            kind: columns(&["Transaction Event Code"]),
            fee: Some(FeeIn {
                amounts: vec![indicated("Fee Amount", "Fee Debit or Credit")],
                currency: Some(in_column("Fee Currency")),
                is_negative: true,
            }),
            notation: Notation { decimals: Decimals::Minor, ..Notation::default() },
            ..Self::generic()
        }
    }
}
