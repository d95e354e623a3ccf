//! Many holds with one deadline: no command takes long, and none is decided by what should have ended.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sysd_core::{Durability, Followed, ManualClock, Replicated, Result as CallResult, StateMachine as _, Timestamp};
use sysd_ledger::logic::Bug;
use sysd_ledger::{
    Account, AccountId, AccountKind, AccountUpdate, Books, Command, Currency, JournalConfig, Ledger, Posting, Reply,
    Side, Transaction, TransactionId,
};
use sysd_storage::{Memory, Replica, ReplicaConfig};

const BANK: AccountId = AccountId(1);
const ANN: AccountId = AccountId(2);
const NONE: AccountId = AccountId(3);
const HOLDS: u128 = 3_500;

fn transfer(id: u128, amount: u128, credit: AccountId, debit: AccountId) -> Transaction {
    Transaction::transfer(TransactionId(id), Currency::iso("EUR").unwrap(), amount, credit, debit)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000).unwrap()
}

fn accounts() -> Vec<Command> {
    let wallet = |id| Account::new(id, Currency::iso("EUR").unwrap(), AccountKind::Liability);
    let all = [wallet(BANK), wallet(ANN).limited(), wallet(NONE)];
    all.into_iter().map(|account| Command::Open(Box::new(account))).collect()
}

/// All that Ann has is held until one moment.
fn held() -> Vec<Command> {
    let mut all = accounts();
    all.push(Command::Transact(transfer(1, HOLDS, ANN, BANK)));
    all.extend((0..HOLDS).map(|id| Command::Transact(transfer(100 + id, 1, BANK, ANN).held_until(Some(at(60))))));
    all
}

fn bytes(books: &Books) -> Vec<u8> {
    let mut bytes = Vec::new();
    books.encode_snapshot(&mut bytes);
    bytes
}

/// Asks once all deadlines have come. What is wrong with the answers.
fn after_the_deadline(bug: Option<Bug>) -> Result<(), String> {
    let mut books = Books::default();
    books.bug = bug;
    for command in held() {
        assert!(!matches!(books.apply(at(0), &command), Reply::Rejected(_)));
    }
    let mut again = Books::decode_snapshot(Books::FORMAT, &bytes(&books)).unwrap();
    again.bug = bug;
    let due = [
        Command::Transact(transfer(10_000, 1, BANK, ANN)),
        // It is there still, and may not be posted any more.
        Command::Transact(Transaction::post_held(TransactionId(10_001), TransactionId(100 + HOLDS - 1))),
        Command::Update(ANN, AccountUpdate::Close),
        // They wait for no hold.
        Command::Update(NONE, AccountUpdate::Freeze),
        Command::Batch(Arc::new(vec![transfer(10_002, HOLDS, BANK, ANN), transfer(10_003, 1, BANK, ANN)])),
    ];
    let mut replies = Vec::new();
    for command in &due {
        let before = books.journal_len();
        replies.push(books.apply(at(60), command));
        let ended = books.journal_len() - before;
        if ended > 1_002 {
            return Err(format!("one command ended {ended} holds"));
        }
        books.verify().map_err(|why| why.to_string())?;
        // Whoever begins from a snapshot in between goes on with the same.
        again.apply(at(60), command);
        if bytes(&books) != bytes(&again) {
            return Err("a replica has other bytes".to_owned());
        }
        again = Books::decode_snapshot(Books::FORMAT, &bytes(&again)).map_err(|error| error.to_string())?;
        again.bug = bug;
    }
    let expected = [Reply::HoldsDue, Reply::HoldsDue, Reply::HoldsDue, Reply::Done];
    if replies[..4] != expected {
        return Err(format!("{:?}", &replies[..4]));
    }
    // By then all have ended: everything is there, once.
    match &replies[4] {
        Reply::Batch(each) if matches!(each[..], [Reply::Recorded(_), Reply::Rejected(_)]) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn no_command_ends_more_than_a_thousand_holds_and_none_is_decided_while_more_are_due() {
    assert_eq!(after_the_deadline(None), Ok(()));
    for bug in [Bug::EndAll, Bug::DecideEarly, Bug::ForgetDeadlines] {
        assert!(after_the_deadline(Some(bug)).is_err(), "{bug:?} was not noticed");
    }
}

/// Holds of a thousand postings each: a command frees some thousands of them, not a million.
#[test]
fn no_command_frees_more_than_some_thousand_postings() {
    let mut books = Books::default();
    let euro = Currency::iso("EUR").unwrap();
    for id in 0..1_000 {
        let opened = Account::new(AccountId(id), euro, AccountKind::Liability);
        assert_eq!(books.apply(at(0), &Command::Open(Box::new(opened))), Reply::Done);
    }
    for id in 0..10 {
        let mut hold =
            Transaction::transfer(TransactionId(id), euro, 999, AccountId(0), AccountId(1)).held_until(Some(at(60)));
        let all = *hold.postings.iter().find(|posting| posting.account == AccountId(0)).unwrap();
        let side = if all.side == Side::Debit { Side::Credit } else { Side::Debit };
        let each = |id| Posting { account: AccountId(id), side, amount: 1, ..all };
        hold.postings = (1..1_000).map(each).chain([all]).collect();
        assert!(matches!(books.apply(at(0), &Command::Transact(hold)), Reply::Recorded(_)));
    }
    for left in [6, 2] {
        assert_eq!(books.apply(at(60), &Command::Tick), Reply::HoldsDue);
        assert_eq!(books.holds_len(), left);
        books.verify().unwrap();
    }
    assert_eq!(books.apply(at(60), &Command::Tick), Reply::Done);
    assert_eq!(books.holds_len(), 0);
}

/// A tail that is full takes no ends either: what is asked then is told so, and goes on once the store has caught up.
#[test]
fn holds_wait_for_the_journal_too() {
    let mut books = Books::default();
    for command in held() {
        books.apply(at(0), &command);
    }
    let memo = "x".repeat(16 << 10);
    let fat = |id| {
        let mut transaction = transfer(id, 1, NONE, BANK);
        transaction.details = Some(Box::new(sysd_ledger::Details::new(memo.clone(), vec![]).unwrap()));
        Command::Transact(transaction)
    };
    let mut id = 20_000;
    while matches!(books.apply(at(1), &fat(id)), Reply::Recorded(_)) {
        id += 1;
    }
    let before = books.journal_len();
    for command in [fat(id), Command::Update(ANN, AccountUpdate::Close)] {
        assert!(matches!(books.apply(at(60), &command), Reply::Rejected(_)));
    }
    assert_eq!(
        books.apply(at(60), &Command::Transact(transfer(1, HOLDS, ANN, BANK))),
        Reply::Exists { id: TransactionId(1), number: 1 }
    );
    assert_eq!(books.journal_len(), before);
    let through = books.journal_full();
    books.apply(at(60), &Command::Wrote { through, hash: sysd_ledger::ChunkHash::default() });
    assert_eq!(books.apply(at(60), &fat(id)), Reply::HoldsDue);
    while books.apply(at(60), &Command::Tick) == Reply::HoldsDue {}
    assert_eq!(books.holds_len(), 0);
    assert!(matches!(books.apply(at(60), &fat(id)), Reply::Recorded(_)));
}

/// Books in a log on a store, by a clock that stands still, and what a ledger of them is made with.
async fn replicated() -> (Arc<ManualClock>, Memory, Replica<Books>, JournalConfig) {
    let clock = Arc::new(ManualClock::new(at(0)));
    let store = Memory::new();
    let replica_config = ReplicaConfig { clock: Arc::clone(&clock) as Arc<_>, ..ReplicaConfig::default() };
    let (replica, driver) = Replica::<Books>::open(store.clone(), "books", replica_config).await.unwrap();
    tokio::spawn(driver);
    let config = JournalConfig { clock: Arc::clone(&clock) as Arc<_>, ..JournalConfig::default() };
    (clock, store, replica, config)
}

#[tokio::test]
async fn a_ledger_lets_them_end_and_then_answers() {
    let (clock, store, replica, config) = replicated().await;
    let (ledger, _writer) = Ledger::that_may_forget(replica, store, "books", config).unwrap();
    for command in held() {
        ledger.ask(command).await.unwrap();
    }
    clock.advance(Duration::from_secs(60));
    let all = ledger.transact(transfer(10_000, HOLDS, BANK, ANN)).await.unwrap();
    let Reply::Recorded(receipt) = all else { panic!("{all:?}") };
    assert_eq!(u128::from(receipt.number), 2 + 2 * HOLDS);
    assert_eq!(ledger.verify().await.unwrap().entries, receipt.number);
}

/// A log whose holds come to their deadline just after somebody has looked, once; then others write the journal.
#[derive(Clone)]
struct Ending {
    replica: Replica<Books>,
    others: Ledger<Replica<Books>, Memory>,
    clock: Arc<ManualClock>,
    is_next: Arc<AtomicBool>,
}

impl Followed<Books> for Ending {
    fn durability(&self) -> Durability {
        Followed::durability(&self.replica)
    }

    async fn read_latest<R: Send, F: FnOnce(&Books) -> R + Send>(&self, read: F) -> CallResult<R> {
        let seen = self.replica.read_latest(read).await?;
        if self.is_next.swap(false, Ordering::Relaxed) {
            self.clock.advance(Duration::from_secs(60));
            while self.replica.submit(Command::Tick).await? == Reply::HoldsDue {}
            self.others.write_journal().await?;
        }
        Ok(seen)
    }

    fn read_within<R>(&self, staleness_max: Duration, read: impl FnOnce(&Books) -> R) -> CallResult<R> {
        self.replica.read_within(staleness_max, read)
    }
}

impl Replicated<Books> for Ending {
    async fn submit(&self, command: Command) -> CallResult<Reply> {
        self.replica.submit(command).await
    }
}

/// An audit in the simulation proved one entry less than there was after it, though nobody asked for anything: a hold had ended while it
/// ran. So it is: an audit proves the books as they were when it began, and the next one what came meanwhile.
#[tokio::test]
async fn an_audit_during_which_holds_end_proves_what_was_there_before() {
    for is_written in [false, true] {
        let (clock, store, replica, config) = replicated().await;
        let (others, _) = Ledger::that_may_forget(replica.clone(), store.clone(), "books", config.clone()).unwrap();
        let is_next = Arc::new(AtomicBool::new(false));
        let log = Ending { replica, others: others.clone(), clock, is_next: Arc::clone(&is_next) };
        let (ledger, _writer) = Ledger::that_may_forget(log, store, "books", config).unwrap();
        for command in held() {
            ledger.ask(command).await.unwrap();
        }
        if is_written {
            others.write_journal().await.unwrap();
        }
        let (written_before, _) = ledger.read(Books::journal_written).await.unwrap();
        is_next.store(true, Ordering::Relaxed);
        let holds = u64::try_from(HOLDS).unwrap();
        assert_eq!(ledger.verify().await.unwrap().entries, 1 + holds);
        // All of that came while it ran.
        assert!(!is_next.load(Ordering::Relaxed));
        assert_eq!(ledger.read(|books| (books.journal_len(), books.holds_len())).await.unwrap(), (1 + 2 * holds, 0));
        assert!(ledger.read(Books::journal_written).await.unwrap().0 > written_before);
        assert_eq!(ledger.verify().await.unwrap().entries, 1 + 2 * holds);
    }
}
