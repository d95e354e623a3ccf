#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use sysd_core::{StateMachine as _, Timestamp};

use super::*;
use crate::logic::Books;
use crate::model::{Currency, Date, Transaction};

fn id() -> impl Strategy<Value = u128> {
    prop_oneof![0..4_u128, any::<u128>()]
}

fn currency() -> impl Strategy<Value = Currency> {
    prop_oneof![Just(Currency::iso("EUR").unwrap()), Just(Currency::custom("ABCDEF9", 38).unwrap())]
}

fn posting() -> impl Strategy<Value = Posting> {
    (id(), prop_oneof![0..300_u128, any::<u128>()], currency(), any::<bool>()).prop_map(
        |(account, amount, currency, is_debit)| {
            let side = if is_debit { Side::Debit } else { Side::Credit };
            Posting { account: AccountId(account), amount, currency, side }
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let time = (0..1_u64 << 53).prop_map(|micros| Timestamp::from_micros(micros).unwrap());
    prop_oneof![
        Just(Action::Post),
        Just(Action::PostUpTo),
        proptest::option::of(time).prop_map(|expires_at| Action::Hold { expires_at }),
        (id(), any::<bool>()).prop_map(|(hold, keeps)| Action::PostHeld {
            hold: TransactionId(hold),
            rest: if keeps { Rest::Keep } else { Rest::Release },
        }),
        id().prop_map(|hold| Action::Void { hold: TransactionId(hold) }),
    ]
}

fn transaction() -> impl Strategy<Value = Transaction> {
    let details = ("[a-zä]{0,9}", proptest::collection::vec(("[a-z]{0,4}", "[a-zß]{0,4}"), 0..3))
        .prop_map(|(memo, metadata)| Details::new(memo, metadata).unwrap());
    let rate = (currency(), currency(), any::<u64>(), any::<u8>());
    let rate =
        proptest::option::of(rate.prop_map(|(from, to, mantissa, decimals)| Rate { from, to, mantissa, decimals }));
    let details = (details, rate).prop_map(|(details, rate)| match rate {
        Some(rate) => Box::new(details.with_rate(rate)),
        None => Box::new(details),
    });
    let postings = prop_oneof![
        proptest::collection::vec(posting(), 0..4),
        (posting(), id()).prop_map(|(posting, other)| {
            let debit = Posting { side: Side::Debit, ..posting };
            vec![debit, Posting { side: Side::Credit, account: AccountId(other), ..posting }]
        }),
    ];
    let rest = (proptest::option::of(id()), proptest::option::of(any::<i32>()), proptest::option::of(details));
    (id(), action(), postings, rest).prop_map(|(id, action, postings, (reverses, effective, details))| Transaction {
        id: TransactionId(id),
        action,
        postings: postings.into(),
        reverses: reverses.map(TransactionId),
        effective: effective.map(Date),
        details,
    })
}

fn an_account() -> impl Strategy<Value = Account> {
    let kinds =
        [AccountKind::Asset, AccountKind::Liability, AccountKind::Equity, AccountKind::Income, AccountKind::Expense];
    let funds = prop_oneof![
        Just(Funds::Unlimited),
        id().prop_map(|overdraft| Funds::DebitsWithinCredits { overdraft }),
        id().prop_map(|overdraft| Funds::CreditsWithinDebits { overdraft }),
    ];
    let max = proptest::option::of(0..=i128::MAX.unsigned_abs());
    (id(), currency(), 0..5_usize, funds, max, proptest::collection::vec(any::<u8>(), 0..9)).prop_map(
        move |(id, currency, kind, funds, balance_max, metadata)| Account {
            id: AccountId(id),
            currency,
            kind: kinds[kind],
            funds,
            balance_max,
            metadata: metadata.into(),
        },
    )
}

fn by_id() -> impl Strategy<Value = Vec<(TransactionId, u64)>> {
    proptest::collection::vec((id().prop_map(TransactionId), any::<u64>()), 0..3)
}

fn command() -> impl Strategy<Value = Command> {
    let updates = [AccountUpdate::Freeze, AccountUpdate::Unfreeze, AccountUpdate::Close];
    prop_oneof![
        an_account().prop_map(|account| Command::Open(Box::new(account))),
        (id(), 0..3_usize).prop_map(move |(id, at)| Command::Update(AccountId(id), updates[at])),
        transaction().prop_map(Command::Transact),
        proptest::collection::vec(transaction(), 0..4).prop_map(Command::Group),
        any::<i32>().prop_map(|through| Command::ClosePeriod(Date(through))),
        Just(Command::Tick),
        proptest::collection::vec(transaction(), 0..4).prop_map(|transactions| Command::Batch(Arc::new(transactions))),
        (any::<u64>(), any::<[u8; 32]>()).prop_map(|(through, hash)| Command::Wrote { through, hash: ChunkHash(hash) }),
        any::<u64>().prop_map(|through| Command::Forget { through }),
        (any::<u64>(), by_id(), by_id(), transaction()).prop_map(|(through, numbers, reversed, transaction)| {
            Command::Looked(Looked::new(through, numbers, reversed), Box::new(Command::Transact(transaction)))
        }),
    ]
}

fn encoded(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    Books::encode_command(command, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn commands_round_trip(command in command()) {
        let bytes = encoded(&command);
        prop_assert_eq!(Books::decode_command(1, &bytes).unwrap(), command);
        // A part of one is none, and neither is one with more behind it.
        for end in 0..bytes.len() {
            prop_assert!(Books::decode_command(1, &bytes[..end]).is_err());
        }
        prop_assert!(Books::decode_command(1, &[&bytes[..], &[0]].concat()).is_err());
        prop_assert!(Books::decode_command(2, &bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
        let read = Books::decode_command(1, &bytes);
        // What is read at all is written in one way.
        if let Ok(command) = read {
            prop_assert_eq!(Books::decode_command(1, &encoded(&command)).unwrap(), command);
        }
        _ = Books::decode_snapshot(1, &bytes);
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn a_look_within_another_is_refused() {
    let inner = Box::new(Command::Looked(Looked::default(), Box::new(Command::Tick)));
    let bytes = encoded(&Command::Looked(Looked::default(), inner));
    assert!(Books::decode_command(1, &bytes).is_err());
}

/// What is stored once is read for ever.
#[test]
fn the_format_is_pinned() {
    let euro = Currency::iso("EUR").unwrap();
    let transfer = Transaction::transfer(TransactionId(0xA1), euro, 300, AccountId(2), AccountId(1));
    let at = Timestamp::from_micros(1_795_000_000_000_000).unwrap();
    let mut odd = transfer.clone().held_until(Some(at));
    odd.postings[1].amount = 5;
    odd.reverses = Some(TransactionId(3));
    odd.effective = Some(Date(-2));
    let rate = Rate { from: euro, to: Currency::iso("USD").unwrap(), mantissa: 107_529, decimals: 5 };
    let details = Details::new("memo", vec![("k".to_owned(), "v".to_owned())]).unwrap();
    odd.details = Some(Box::new(details.with_rate(rate)));
    let mut account = Account::new(AccountId(7), euro, AccountKind::Liability).limited();
    (account.balance_max, account.metadata) = (Some(1_000), b"m".as_slice().into());
    let zeros = |count: usize| "00".repeat(count);
    let of = |id: &str| format!("{}{id}", zeros(15));
    let eur = "4555520000000002";
    let pinned = [
        (Command::Transact(transfer), format!("0208{}{eur}ac02{}{}", of("a1"), of("01"), of("02"))),
        (
            Command::Group(vec![odd]),
            format!(
                "0301f2{}80e0fc8ab0919803{}{}{}{}fffffffe046d656d6f01016b0176014555520000000002555344000000000289c80605",
                of("a1"),
                format_args!("0200{eur}ac02{}", of("01")),
                format_args!("01{eur}05{}", of("02")),
                of("03"),
                ""
            ),
        ),
        (Command::Open(Box::new(account)), format!("00{}{eur}010100e907016d", of("07"))),
        (Command::Update(AccountId(7), AccountUpdate::Close), format!("01{}02", of("07"))),
        (Command::ClosePeriod(Date(20_000)), "0400004e20".to_owned()),
        (Command::Tick, "05".to_owned()),
        (Command::Batch(Arc::default()), "0600".to_owned()),
        (Command::Wrote { through: 300, hash: ChunkHash([0xAB; 32]) }, format!("07ac02{}", "ab".repeat(32))),
        (Command::Forget { through: 8_192 }, "088040".to_owned()),
        (
            Command::Looked(
                Looked::new(8_192, vec![(TransactionId(0xA1), 300)], vec![(TransactionId(0xA2), 301)]),
                Box::new(Command::Tick),
            ),
            format!("09804001{}ac0201{}ad0205", of("a1"), of("a2")),
        ),
    ];
    for (command, bytes) in pinned {
        assert_eq!(hex(&encoded(&command)), bytes, "{command:?}");
    }
}
