//! Everything that can't be is refused with what is wrong, and changes nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use sysd_core::{StateMachine as _, Timestamp};
use sysd_ledger::{
    Account, AccountId, AccountKind, AccountUpdate, Action, Books, Command, Currency, Date, Details, Funds, GROUP_MAX,
    Posting, Rate, Rejection, Reply, Rest, Side, Transaction, TransactionId,
};

const MAX: u128 = i128::MAX.unsigned_abs();
const BANK: AccountId = AccountId(1);
const ANN: AccountId = AccountId(2);
const BEN: AccountId = AccountId(3);
const YEN: AccountId = AccountId(4);
const CAPPED: AccountId = AccountId(5);

fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_micros(1_795_000_000_000_000).unwrap()
}

fn ask(books: &mut Books, command: &Command) -> Reply {
    books.apply(now(), command)
}

/// Whoever drives the books by a clock of his own, and not by a log.
#[test]
fn a_time_that_goes_back_counts_as_that_of_the_last_entry() {
    let mut books = books();
    let transfer = |id| Command::Transact(Transaction::transfer(TransactionId(id), euro(), 1, ANN, BEN));
    let mut recorded_at = |at, id| match books.apply(at, &transfer(id)) {
        Reply::Recorded(receipt) => receipt.recorded_at,
        other => panic!("{other:?}"),
    };
    let earlier = Timestamp::from_micros(now().as_micros() - 1_000_000).unwrap();
    assert_eq!(recorded_at(now(), 901), now());
    assert_eq!(recorded_at(earlier, 902), now());
}

/// Ann and Ben with 100 each.
fn books() -> Books {
    let mut books = Books::default();
    let yen = Currency::iso("JPY").unwrap();
    let mut capped = Account::new(CAPPED, euro(), AccountKind::Liability);
    capped.balance_max = Some(10);
    for account in [
        Account::new(BANK, euro(), AccountKind::Asset),
        Account::new(ANN, euro(), AccountKind::Liability).limited(),
        Account::new(BEN, euro(), AccountKind::Liability).limited(),
        Account::new(YEN, yen, AccountKind::Liability),
        capped,
    ] {
        assert_eq!(ask(&mut books, &Command::Open(Box::new(account))), Reply::Done);
    }
    for (id, account) in [(1, ANN), (2, BEN)] {
        assert!(matches!(ask(&mut books, &Command::Transact(transfer(id, 100, account, BANK))), Reply::Recorded(_)));
    }
    books
}

fn transfer(id: u128, amount: u128, credit: AccountId, debit: AccountId) -> Transaction {
    Transaction::transfer(TransactionId(id), euro(), amount, credit, debit)
}

fn line(account: AccountId, side: Side, amount: u128) -> Posting {
    Posting { account, amount, currency: euro(), side }
}

fn lines(postings: impl IntoIterator<Item = Posting>) -> Command {
    Command::Transact(Transaction::new(TransactionId(77), postings))
}

#[track_caller]
fn refused(books: &mut Books, command: &Command) -> Rejection {
    let bytes = |books: &Books| {
        let mut bytes = Vec::new();
        books.encode_snapshot(&mut bytes);
        bytes
    };
    let before = bytes(books);
    let Reply::Rejected(why) = ask(books, command) else { panic!("it was not refused") };
    assert!(bytes(books) == before, "{why} changed something");
    assert!(!why.to_string().is_empty());
    *why
}

#[test]
fn postings_that_cannot_be() {
    let mut books = books();
    let cases = [
        (lines([]), Rejection::PostingCount { count: 0 }),
        (lines([line(ANN, Side::Debit, 1)]), Rejection::PostingCount { count: 1 }),
        (
            lines([line(ANN, Side::Debit, 5), line(BEN, Side::Credit, 3)]),
            Rejection::Unbalanced { differences: vec![(euro(), 2)] },
        ),
        (lines([line(ANN, Side::Debit, 0), line(BEN, Side::Credit, 0)]), Rejection::ZeroAmount { account: ANN }),
        (lines([line(ANN, Side::Debit, 1), line(ANN, Side::Credit, 1)]), Rejection::DuplicateAccount { account: ANN }),
        (
            lines([line(ANN, Side::Debit, 2), line(BEN, Side::Credit, 1), line(BEN, Side::Credit, 1)]),
            Rejection::DuplicateAccount { account: BEN },
        ),
        (
            lines([line(ANN, Side::Debit, 1), line(AccountId(9), Side::Credit, 1)]),
            Rejection::UnknownAccount { account: AccountId(9) },
        ),
        (
            lines([line(ANN, Side::Debit, 1), line(YEN, Side::Credit, 1)]),
            Rejection::WrongCurrency { account: YEN, found: euro(), expected: Currency::iso("JPY").unwrap() },
        ),
        (Command::Transact(transfer(77, 101, BEN, ANN)), Rejection::InsufficientFunds { account: ANN, shortfall: 1 }),
        (Command::Transact(transfer(77, 11, CAPPED, ANN)), Rejection::BalanceMax { account: CAPPED, excess: 1 }),
        (Command::Transact(transfer(77, MAX + 1, ANN, BANK)), Rejection::Overflow { account: BANK }),
        // The bank has 200 on that side already.
        (Command::Transact(transfer(77, MAX, ANN, BANK)), Rejection::Overflow { account: BANK }),
    ];
    for (command, why) in cases {
        assert_eq!(refused(&mut books, &command), why);
    }
    let many = (0..1_001).map(|at| line(AccountId(at), Side::Debit, 1));
    assert_eq!(refused(&mut books, &lines(many)), Rejection::PostingCount { count: 1_001 });
    // Sums that no number holds are no balance either.
    let huge = [line(BANK, Side::Debit, MAX), line(ANN, Side::Debit, MAX), line(BEN, Side::Credit, MAX)];
    assert!(matches!(refused(&mut books, &lines(huge)), Rejection::Overflow { .. }));
    assert!(books.verify().is_ok());
}

#[test]
fn what_a_hold_does_not_give() {
    let mut books = books();
    let until = now().saturating_add(std::time::Duration::from_secs(1));
    let held = Command::Transact(transfer(10, 60, BEN, ANN).held_until(Some(until)));
    assert!(matches!(ask(&mut books, &held), Reply::Recorded(_)));
    let past = Command::Transact(transfer(11, 1, BEN, ANN).held_until(Some(now())));
    assert_eq!(refused(&mut books, &past), Rejection::ExpiresInPast);
    let short = Command::Transact(transfer(11, 41, BEN, ANN).held_until(None));
    assert_eq!(refused(&mut books, &short), Rejection::InsufficientFunds { account: ANN, shortfall: 1 });
    let action = Action::PostHeld { hold: TransactionId(10), rest: Rest::Keep };
    let more = Command::Transact(Transaction { action, ..transfer(11, 61, BEN, ANN) });
    assert_eq!(refused(&mut books, &more), Rejection::ExceedsHold { account: ANN, side: Side::Debit, held: 60 });
    let turned = Command::Transact(Transaction { action, ..transfer(11, 1, ANN, BEN) });
    assert_eq!(refused(&mut books, &turned), Rejection::ExceedsHold { account: BEN, side: Side::Debit, held: 0 });
    let mut void = Transaction::void(TransactionId(11), TransactionId(10));
    void.postings.push(line(ANN, Side::Debit, 1));
    assert_eq!(refused(&mut books, &Command::Transact(void)), Rejection::VoidShape);
    let unknown = Command::Transact(Transaction::post_held(TransactionId(11), TransactionId(1)));
    assert_eq!(refused(&mut books, &unknown), Rejection::NoHold { hold: TransactionId(1) });

    ask(&mut books, &Command::Update(BEN, AccountUpdate::Freeze));
    let whole = Command::Transact(Transaction::post_held(TransactionId(11), TransactionId(10)));
    assert_eq!(refused(&mut books, &whole), Rejection::Frozen { account: BEN });
    // It is over at its deadline, not before, frozen or not.
    assert_eq!(books.balance(ANN).unwrap().debits_held, 60);
    books.apply(until, &Command::Tick);
    assert_eq!(books.balance(ANN).unwrap().debits_held, 0);
    let Reply::Rejected(why) = books.apply(until, &whole) else { panic!("it is over") };
    assert_eq!(*why, Rejection::NoHold { hold: TransactionId(10) });
}

#[test]
fn accounts_that_cannot_be() {
    let mut books = books();
    let other = Account::new(ANN, euro(), AccountKind::Asset);
    assert_eq!(refused(&mut books, &Command::Open(Box::new(other))), Rejection::AccountExists { account: ANN });
    let mut long = Account::new(AccountId(9), euro(), AccountKind::Asset);
    long.metadata = vec![0; Account::METADATA_MAX + 1].into();
    let why = refused(&mut books, &Command::Open(Box::new(long)));
    assert_eq!(why, Rejection::MetadataTooLong { account: AccountId(9), bytes: Account::METADATA_MAX + 1 });
    let new = Account::new(AccountId(9), euro(), AccountKind::Asset);
    for beyond in [
        Account { balance_max: Some(MAX + 1), ..new.clone() },
        Account { funds: Funds::DebitsWithinCredits { overdraft: u128::MAX }, ..new.clone() },
        Account { funds: Funds::CreditsWithinDebits { overdraft: MAX + 1 }, ..new },
    ] {
        assert_eq!(
            refused(&mut books, &Command::Open(Box::new(beyond))),
            Rejection::Overflow { account: AccountId(9) }
        );
    }
    let close = |id| Command::Update(id, AccountUpdate::Close);
    assert_eq!(refused(&mut books, &close(ANN)), Rejection::NotEmpty { account: ANN });
    assert_eq!(refused(&mut books, &close(AccountId(9))), Rejection::UnknownAccount { account: AccountId(9) });
    assert_eq!(ask(&mut books, &close(CAPPED)), Reply::Done);
    assert_eq!(ask(&mut books, &close(CAPPED)), Reply::Done);
    let thaw = Command::Update(CAPPED, AccountUpdate::Unfreeze);
    assert_eq!(refused(&mut books, &thaw), Rejection::Closed { account: CAPPED });
    let to_closed = Command::Transact(transfer(77, 1, CAPPED, BANK));
    assert_eq!(refused(&mut books, &to_closed), Rejection::Closed { account: CAPPED });
}

#[test]
fn reversals_periods_and_groups_that_cannot_be() {
    let mut books = books();
    let reversal = |id, of| Transaction { reverses: Some(TransactionId(of)), ..transfer(id, 1, BANK, ANN) };
    let unknown = Command::Transact(reversal(77, 99));
    assert_eq!(refused(&mut books, &unknown), Rejection::UnknownTransaction { reverses: TransactionId(99) });
    let held = Command::Transact(reversal(77, 1).held_until(None));
    assert_eq!(refused(&mut books, &held), Rejection::ReversalShape);
    assert!(matches!(ask(&mut books, &Command::Transact(reversal(20, 1))), Reply::Recorded(_)));
    let again = Command::Transact(reversal(77, 1));
    assert_eq!(refused(&mut books, &again), Rejection::AlreadyReversed { reverses: TransactionId(1), by: 3 });

    let free =
        Transaction { action: Action::PostUpTo, ..Transaction::transfer(TransactionId(77), euro(), 1, CAPPED, BANK) };
    assert_eq!(refused(&mut books, &Command::Transact(free)), Rejection::UpToShape);

    assert_eq!(refused(&mut books, &Command::Group(Vec::new())), Rejection::GroupCount { count: 0, max: GROUP_MAX });
    let many: Vec<_> = (0..=GROUP_MAX as u128).map(|at| transfer(1_000 + at, 1, BEN, ANN)).collect();
    let why = refused(&mut books, &Command::Group(many));
    assert_eq!(why, Rejection::GroupCount { count: GROUP_MAX + 1, max: GROUP_MAX });
    let group = Command::Group(vec![transfer(30, 50, BEN, ANN), transfer(31, 60, BEN, ANN)]);
    let cause = Box::new(Rejection::InsufficientFunds { account: ANN, shortfall: 11 });
    assert_eq!(refused(&mut books, &group), Rejection::InGroup { index: 1, cause });
    let twice = Command::Group(vec![transfer(30, 5, BEN, ANN), transfer(30, 5, BEN, ANN)]);
    assert!(matches!(refused(&mut books, &twice), Rejection::InGroup { index: 1, .. }));

    let today = Date::of(now());
    for through in [today.0 + 2, i32::MAX].map(Date) {
        let latest = Date(today.0 + 1);
        assert_eq!(refused(&mut books, &Command::ClosePeriod(through)), Rejection::PeriodAhead { through, latest });
        assert_eq!(books.closed_through(), None);
    }
    assert_eq!(ask(&mut books, &Command::ClosePeriod(today)), Reply::Done);
    // It opens no more.
    assert_eq!(ask(&mut books, &Command::ClosePeriod(Date(0))), Reply::Done);
    let late = Command::Transact(transfer(77, 1, BEN, ANN));
    assert_eq!(refused(&mut books, &late), Rejection::PeriodClosed { through: today });
    let tomorrow = Transaction { effective: Some(Date(today.0 + 1)), ..transfer(77, 1, BEN, ANN) };
    assert!(matches!(ask(&mut books, &Command::Transact(tomorrow)), Reply::Recorded(_)));
}

#[test]
fn details_that_are_too_long_are_refused_where_they_are_made() {
    let error = Details::new("x".repeat(Details::BYTES_MAX + 1), Vec::new()).unwrap_err();
    assert_eq!(error.bytes, Details::BYTES_MAX + 1);
}

#[test]
fn up_to_moves_what_is_there() {
    let mut books = books();
    let sweep =
        |id, amount| Command::Transact(Transaction { action: Action::PostUpTo, ..transfer(id, amount, BANK, ANN) });
    let Reply::Recorded(receipt) = ask(&mut books, &sweep(40, 30)) else { panic!("there is enough") };
    assert_eq!(receipt.moved, 30);
    let Reply::Recorded(receipt) = ask(&mut books, &sweep(41, 500)) else { panic!("there is some") };
    assert_eq!(receipt.moved, 70);
    assert_eq!(refused(&mut books, &sweep(42, 1)), Rejection::InsufficientFunds { account: ANN, shortfall: 1 });
}

#[test]
fn an_exchange_keeps_its_rate() {
    let mut books = books();
    let yen = Currency::iso("JPY").unwrap();
    // The bank's trading accounts: it takes euros and gives yen.
    let (takes, gives) = (AccountId(20), AccountId(21));
    for (id, currency) in [(takes, euro()), (gives, yen)] {
        ask(&mut books, &Command::Open(Box::new(Account::new(id, currency, AccountKind::Equity))));
    }
    let exchange = |id: u128, cents: u128, got: u128, mantissa: u64| {
        let line = |account, side, currency, amount| Posting { account, amount, currency, side };
        let postings = [
            line(ANN, Side::Debit, euro(), cents),
            line(takes, Side::Credit, euro(), cents),
            line(gives, Side::Debit, yen, got),
            line(YEN, Side::Credit, yen, got),
        ];
        let rate = Rate { from: euro(), to: yen, mantissa, decimals: 3 };
        let details = Details::new("", vec![]).unwrap().with_rate(rate);
        Transaction { details: Some(Box::new(details)), ..Transaction::new(TransactionId(id), postings) }
    };
    // 0.10 EUR at 161.734 is 16.1734 JPY.
    // What is held keeps it when it is posted, all of it or in part.
    let held = Transaction { details: None, ..exchange(80, 10, 16, 161_734) }.held_until(None);
    ask(&mut books, &Command::Transact(held));
    let post = |id, asked: Transaction, postings: usize| {
        let details = asked.details;
        let postings = asked.postings.into_iter().take(postings).collect();
        let post = Transaction::post_held(TransactionId(id), TransactionId(80));
        Command::Transact(Transaction { details, postings, ..post })
    };
    let wrong = Rejection::Rate { from: (euro(), 10), to: (yen, 16) };
    assert_eq!(refused(&mut books, &post(81, exchange(80, 10, 16, 171_734), 0)), wrong);
    assert_eq!(refused(&mut books, &post(81, exchange(80, 10, 16, 171_734), 4)), wrong);
    assert!(matches!(ask(&mut books, &post(81, exchange(80, 10, 16, 161_734), 0)), Reply::Recorded(_)));
    for (got, is_kept) in [(15, false), (16, true), (17, true), (18, false)] {
        let asked = Command::Transact(exchange(100 + got, 10, got, 161_734));
        if is_kept {
            assert!(matches!(ask(&mut books, &asked), Reply::Recorded(_)), "{got}");
        } else {
            assert_eq!(refused(&mut books, &asked), Rejection::Rate { from: (euro(), 10), to: (yen, got) });
        }
    }
    // What can't be compared is no rate that was kept.
    let rate = |mantissa, decimals| Rate { from: euro(), to: yen, mantissa, decimals };
    assert!(!rate(u64::MAX, 0).is_kept(MAX, MAX) && !rate(1, 255).is_kept(1, 2));
    // Next to nothing is rounded down to nothing or up to one.
    assert!(rate(1, 38).is_kept(1, 0) && rate(1, 38).is_kept(1, 1) && !rate(1, 38).is_kept(1, 2));
    assert!(!rate(1, 0).is_kept(0, 0));
    assert!(rate(100, 0).is_kept(100, 100));
}
