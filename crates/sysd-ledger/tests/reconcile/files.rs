//! CSV and camt.053 as they come, and as they should not.

use sysd_ledger::reconcile::{
    BadRow, CamtFormat, CamtRows, Column, CsvFormat, CsvRows, Decimals, Notation, ReconcileError, Record, Row,
};

fn csv(format: CsvFormat, text: &str) -> Result<Vec<Row>, ReconcileError> {
    CsvRows::new(text.as_bytes(), format).collect()
}

fn bad(rows: &[Row]) -> Vec<&BadRow> {
    rows.iter().filter_map(|row| row.as_ref().err()).collect()
}

fn brief(row: &Row) -> (String, String, i128, String, String, i128, u64) {
    let Record { reference, currency, amount, day, fee, kind, batch, row } = row.as_ref().unwrap();
    let day = day.0;
    (reference.to_string(), format!("{currency} {day}"), *amount, kind.to_string(), batch.to_string(), *fee, *row)
}

#[test]
fn bad_rows_are_told_with_line_column_and_reason_and_the_rest_goes_on() {
    let text = "\u{FEFF}reference,amount,currency,date\r\n\
        a,1.00,EUR,2026-01-31\r\n\
        b,1.0,EUR,2026-01-31\r\n\
        \r\n\
        \"c\nd\",1.00,XXQ,2026-01-31\r\n\
        e,1.00,EUR,2026-02-30\r\n\
        f,1.00,EUR\r\n\
        g,1.00,EUR,2026-01-31,more\r\n\
        h,,EUR,2026-01-31\r\n\
        i,\"1,00\",EUR,2026-01-31\r\n\
        j,2.00,eur,2026-01-31T23:59:59";
    let rows = csv(CsvFormat::generic(), text).unwrap();
    let bad = bad(&rows);
    let places: Vec<_> = bad.iter().map(|bad| (bad.row, bad.column.as_str())).collect();
    let expected = [(3, "amount"), (5, "currency"), (7, "date"), (8, ""), (9, ""), (10, "amount"), (11, "amount")];
    assert_eq!(places, expected, "{bad:?}");
    assert!(bad[0].why.contains("1 decimals, not 2"), "{}", bad[0].why);
    // What could be read counts in the totals.
    assert_eq!(bad[2].known.map(|(_, amount)| amount), Some(100));
    assert_eq!(brief(&rows[0]), ("a".into(), "EUR 20484".into(), 100, String::new(), String::new(), 0, 2));
    assert_eq!(brief(&rows[8]).6, 12);
    assert_eq!(rows.len(), 9);
}

#[test]
fn bytes_that_are_no_text_are_a_bad_row() {
    let text = b"reference,amount,currency,date\n\xFF,1.00,EUR,2026-01-31\nb,1.00,EUR,2026-01-31\n";
    let rows: Vec<_> = CsvRows::new(&text[..], CsvFormat::generic()).collect::<Result<_, _>>().unwrap();
    assert_eq!((bad(&rows)[0].column.as_str(), bad(&rows)[0].row), ("reference", 2));
    assert!(rows[1].is_ok());
}

#[test]
fn a_quote_that_is_not_closed_ends_in_one_bad_row_of_bounded_memory() {
    let long = "x,1.00,EUR,2026-01-31\n".repeat(50_000);
    let text = format!("reference,amount,currency,date\na,1.00,EUR,2026-01-31\n\"b,1.00,EUR,2026-01-31\n{long}");
    let rows = csv(CsvFormat::generic(), &text).unwrap();
    assert_eq!((rows.len(), bad(&rows).len()), (2, 1));
    assert!(bad(&rows)[0].why.contains("quote"), "{:?}", bad(&rows));
}

#[test]
fn a_column_that_is_not_there_ends_the_run_and_is_named() {
    let error = csv(CsvFormat::generic(), "reference,amount,date\n").unwrap_err().to_string();
    assert!(error.contains("\"currency\"") && error.contains("\"amount\""), "{error}");
    assert!(csv(CsvFormat::generic(), "").is_err());
    assert!(csv(CsvFormat::generic(), "\u{FEFF}").is_err());
    let utf16: Vec<u8> = "\u{FEFF}reference".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(CsvRows::new(&utf16[..], CsvFormat::generic()).next().unwrap().is_err());
}

#[test]
fn columns_by_place_and_the_continental_notation() {
    let mut format = CsvFormat::generic();
    format.delimiter = b';';
    format.header = sysd_ledger::reconcile::Header::None;
    format.reference = vec![Column::Place(1)];
    format.money = vec![sysd_ledger::reconcile::MoneyIn {
        amount: sysd_ledger::reconcile::AmountIn::Indicated {
            amount: 2.into(),
            indicator: 3.into(),
            debit: vec!["S".to_owned()],
            credit: vec!["H".to_owned()],
        },
        currency: sysd_ledger::reconcile::CurrencyIn::Fixed("EUR".parse().unwrap()),
    }];
    (format.day, format.day_formats) = (vec![Column::Place(0)], vec!["%d.%m.%Y".to_owned()]);
    format.notation = Notation { decimal: ',', thousands: Some('.'), decimals: Decimals::Exact };
    let rows = csv(format, "31.01.2026;a;1.234,56;S\n01.02.2026;b;7,00;H\n01.02.2026;b;7,00;?\n").unwrap();
    assert_eq!(rows[0].as_ref().unwrap().amount, -123_456);
    assert_eq!(rows[1].as_ref().unwrap().amount, 700);
    assert_eq!(bad(&rows)[0].column, "3");
}

#[test]
fn stripe() {
    let text = "source_id,payment_metadata[order],created,currency,gross,fee,net,reporting_category,automatic_payout_id\n\
        ch_1,o-1,2026-01-30 10:11:12,USD,25,0.95,24.05,charge,po_1\n\
        po_1,,2026-01-31 10:11:12,usd,-24.05,0,-24.05,payout,po_1\n\
        ,,2026-01-31 10:11:12,JPY,-50,0,-50,fee,\n";
    let rows = csv(CsvFormat::stripe("order"), text).unwrap();
    let brief: Vec<_> = rows.iter().map(brief).collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(brief[0], (text("o-1"), text("USD 20483"), 2_500, text("charge"), text("po_1"), 95, 2));
    assert_eq!(brief[1], (text("po_1"), text("USD 20484"), -2_405, text("payout"), text("po_1"), 0, 3));
    assert_eq!(brief[2], (text(""), text("JPY 20484"), -50, text("fee"), text(""), 0, 4));
}

#[test]
fn adyen() {
    let header = "Psp Reference,Merchant Reference,Creation Date,Type,Gross Currency,Gross Debit (GC),Gross Credit (GC),\
        Net Currency,Net Debit (NC),Net Credit (NC),Commission (NC),Markup (NC),Scheme Fees (NC),Interchange (NC),Batch Number";
    let text = format!(
        "{header}\n\
        P1,o-1,2026-02-10 10:25:36,Settled,USD,,1.00,USD,,0.76,,,0.02,0.22,2\n\
        P2,o-2,2026-02-10 10:25:36,Chargeback,USD,1.00,,USD,3.00,,2.00,,,,2\n\
        P3,,2026-02-10 10:25:36,Settled,EUR,,5.35,USD,,5.43,0.27,,,,2\n\
        ,,2026-02-11 10:25:36,MerchantPayout,EUR,,,USD,4.03,,,,,,2\n\
        P4,o-4,2026-02-10 10:25:36,Settled,USD,1.00,1.00,USD,,0.76,,,,,2\n"
    );
    let rows = csv(CsvFormat::adyen(), &text).unwrap();
    let fields: Vec<_> = rows.iter().flatten().map(|r| (&*r.reference, r.currency.code(), r.amount, r.fee)).collect();
    let text = |text: &str| text.to_owned();
    // A fee in another currency can't be taken off.
    let expected = [
        ("o-1", text("USD"), 100, 24),
        ("o-2", text("USD"), -100, 200),
        ("P3", text("EUR"), 535, 0),
        ("", text("USD"), -403, 0),
    ];
    assert_eq!(fields, expected);
    assert!(bad(&rows)[0].why.contains("both"), "{:?}", bad(&rows));
}

#[test]
fn paypal() {
    let text = "\"SH\",2026/01/06 00:00:00 -0800\n\
        \"CH\",\"Transaction ID\",\"Invoice ID\",\"Custom Field\",\"Transaction Event Code\",\"Transaction Completion Date\",\
        \"Transaction Debit or Credit\",\"Gross Transaction Amount\",\"Gross Transaction Currency\",\"Fee Debit or Credit\",\"Fee Amount\",\"Fee Currency\"\n\
        \"SB\",T1,o-1,,T0006,2026/01/06 00:00:30 -0800,CR,5200,AUD,DR,225,AUD\n\
        \"SB\",T2,,o-2,T1107,2026/01/06 23:31:39 -0800,DR,134,GBP,CR,47,GBP\n\
        \"SB\",T3,,,T0400,2026/01/06 23:31:39 -0800,DR,100,GBP\n\
        \"SB\",T4,,,T0400,2026/01/06 23:31:39 -0800,XX,100,GBP\n\
        \"ZZ\",1\n\
        \"SF\",GBP,834\n";
    let rows = csv(CsvFormat::paypal(), text).unwrap();
    let fields: Vec<_> = rows.iter().flatten().map(|r| (&*r.reference, r.amount, r.fee, r.day.0)).collect();
    assert_eq!(fields, [("o-1", 5_200, 225, 20_459), ("o-2", -134, -47, 20_459), ("T3", -100, 0, 20_459)]);
    assert_eq!(bad(&rows).iter().map(|bad| bad.row).collect::<Vec<_>>(), [6, 7]);
    assert!(csv(CsvFormat::paypal(), "\"SB\",T1,o-1\n").is_err());
}

fn statement(entries: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Document xmlns=\"urn:iso:std:iso:20022:tech:xsd:camt.053.001.08\">\
        <BkToCstmrStmt><GrpHdr><MsgId>1</MsgId></GrpHdr><Stmt><Id>1</Id>\
        <Bal><Amt Ccy=\"EUR\">9.99</Amt><CdtDbtInd>CRDT</CdtDbtInd></Bal>{entries}</Stmt></BkToCstmrStmt></Document>"
    )
}

fn entry(amount: &str, indicator: &str, rest: &str) -> String {
    format!(
        "<Ntry><Amt Ccy=\"EUR\">{amount}</Amt><CdtDbtInd>{indicator}</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>\
        <BookgDt><Dt>2026-01-31</Dt></BookgDt>{rest}</Ntry>"
    )
}

fn camt(text: &str) -> Result<Vec<Row>, ReconcileError> {
    CamtRows::new(text.as_bytes(), CamtFormat::default()).collect()
}

fn details(reference: &str, amount: &str) -> String {
    format!("<TxDtls><Refs><EndToEndId>{reference}</EndToEndId></Refs>{amount}</TxDtls>")
}

#[test]
fn camt_entries() {
    let amount = |amount: &str| format!("<AmtDtls><TxAmt><Amt Ccy=\"EUR\">{amount}</Amt></TxAmt></AmtDtls>");
    let several = format!(
        "<NtryDtls><Btch><PmtInfId>B-1</PmtInfId></Btch>{}{}</NtryDtls>",
        details("o-3", &amount("1.00")),
        details("NOTPROVIDED", &amount("2.00000"))
    );
    let text = statement(
        &[
            entry(
                "8.850",
                "CRDT",
                &format!("<NtryDtls>{}</NtryDtls>", details("o-1&amp;&#x41;", "<Amt Ccy=\"SEK\">0</Amt>")),
            ),
            entry(
                "7.00",
                "DBIT",
                "<BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>RCDT</Cd><SubFmlyCd>BOOK</SubFmlyCd></Fmly></Domn></BkTxCd>",
            ),
            entry("3.00", "CRDT", &several),
            entry("4.00", "CRDT", &several),
            entry("1.234", "CRDT", ""),
            entry("1.00", "CRDT", "").replace("BOOK", "PDNG"),
            entry("1.00", "XXXX", ""),
        ]
        .concat(),
    );
    let rows = camt(&text).unwrap();
    let brief: Vec<_> = rows[..4].iter().map(brief).collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(brief[0], (text("o-1&A"), text("EUR 20484"), 885, text(""), text(""), 0, 1));
    assert_eq!(brief[1], (text(""), text("EUR 20484"), -700, text("PMNT.RCDT.BOOK"), text(""), 0, 2));
    assert_eq!(brief[2], (text("o-3"), text("EUR 20484"), 100, text(""), text("B-1"), 0, 3));
    assert_eq!(brief[3], (text(""), text("EUR 20484"), 200, text(""), text("B-1"), 0, 4));
    let bad = bad(&rows);
    let places: Vec<_> = bad.iter().map(|bad| (bad.row, bad.column.as_str(), bad.known.is_some())).collect();
    assert_eq!(places, [(5, "NtryDtls", true), (6, "Amt", false), (7, "Sts", true), (8, "CdtDbtInd", false)]);
}

#[test]
fn what_is_no_statement_or_breaks_off_ends_the_run() {
    let whole = statement(&entry("1.00", "CRDT", ""));
    assert_eq!(camt(&whole).unwrap().len(), 1);
    for end in 0..whole.len() {
        assert!(camt(&whole[..end]).is_err(), "cut at {end}");
    }
    let cases = [
        "<Document><Other/></Document>".to_owned(),
        whole.replace("</Stmt>", "</Other>"),
        whole.replace("<Id>", &format!("{}<Id>", "<a>".repeat(80))),
        whole.replace("1.00", &"1".repeat(200_000)),
        whole.replace("1.00", &"&#49;".repeat(100_000)),
        whole.replace("1.00", "&mine;"),
    ];
    for case in cases {
        assert!(matches!(camt(&case), Err(ReconcileError::Malformed { .. })), "{case:.300}");
    }
}
