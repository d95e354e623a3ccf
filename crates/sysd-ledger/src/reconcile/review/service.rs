//! The review queue on a store.

use sysd_core::{Durability, Effect, Error, ErrorKind, Followed, Replicated, Result, Store};

use super::super::found::Found;
use super::citation::{Citation, ResolveError};
use super::model::{Case, CaseId, FileId, Note, Person, ReviewCommand, ReviewReject, ReviewReply, Step};
use super::queue::ReviewQueue;
use crate::logic::Books;
use crate::model::TransactionId;
use crate::service::Ledger;

/// A review queue, in memory, whose log is on a store. Clones share it.
///
/// ```
/// use sysd_ledger::reconcile::{
///     CaseState, CsvFormat, CsvRows, FileId, Note, Person, Reconciliation, ReviewQueue, ReviewReply, Reviews, Step, records,
/// };
/// use sysd_ledger::{Details, Transaction, TransactionId};
/// # use sysd_ledger::{Account, AccountId, AccountKind, Books, Currency, JournalConfig, Ledger};
/// use sysd_storage::{Memory, Replica, ReplicaConfig};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (replica, driver) = Replica::<ReviewQueue>::open(Memory::new(), "reviews", ReplicaConfig::default()).await?;
/// tokio::spawn(driver);
/// let reviews = Reviews::that_may_forget(replica);
/// # let store = Memory::new();
/// # let (replica, driver) = Replica::<Books>::open(store.clone(), "books", ReplicaConfig::default()).await?;
/// # tokio::spawn(driver);
/// # let (ledger, _writer) = Ledger::that_may_forget(replica, store, "books", JournalConfig::default())?;
/// # let (provider, sales, euro) = (AccountId(1), AccountId(2), Currency::iso("EUR")?);
/// # ledger.open_account(Account::new(provider, euro, AccountKind::Asset)).await?;
/// # ledger.open_account(Account::new(sales, euro, AccountKind::Income)).await?;
/// let (ann, name) = (Person::new("ann").ok_or("no name")?, Note::new("may.csv").ok_or("no name")?);
///
/// let bytes = "reference,amount,currency,date\norder-1,10.00,EUR,2026-05-01\n".as_bytes();
/// let file = FileId::of(bytes)?;
/// let ReviewReply::Begun { run, .. } = reviews.begin(file, name.clone(), ann.clone(), false).await? else { panic!() };
/// let theirs = CsvRows::new(bytes, CsvFormat::generic());
/// let mut found = Reconciliation::new(std::env::temp_dir()).find(records([]), theirs)?;
/// let recorded = reviews.record(file, run, &mut found).await?;
/// assert_eq!((recorded.new, recorded.known), (1, 0));
///
/// // The same file again: there is nothing to do.
/// assert!(matches!(reviews.begin(file, name, ann.clone(), false).await?, ReviewReply::Seen(_)));
///
/// // A person takes it up, posts a transaction that names it, and cites that.
/// let case = reviews.cases(0, 10).await?.remove(0);
/// reviews.review(case.id, ann.clone(), Step::Take).await?;
/// let (id, record) = (TransactionId(77), &case.difference.theirs[0]);
/// let missed = Transaction {
///     details: Some(Box::new(Details::new("missed in May", vec![case.id.metadata()])?)),
///     ..Transaction::transfer(id, record.currency, record.amount.unsigned_abs(), sales, provider)
/// };
/// assert!(reviews.resolve(&ledger, case.id, ann.clone(), id, None).await.is_err(), "it was not posted yet");
/// ledger.transact(missed).await?;
/// let ReviewReply::Reviewed(case) = reviews.resolve(&ledger, case.id, ann, id, None).await? else { panic!() };
/// assert_eq!(case.state, CaseState::Resolved { transaction: id });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// Those of [`ReviewQueue`]. What was answered is in the log, exactly once; it holds as far as the store keeps what it acknowledged.
/// Every command may be sent again, and does nothing the second time but answer: a step that was the last one of its trail, by the same
/// person, adds no line.
#[derive(Clone, Debug)]
pub struct Reviews<L> {
    log: L,
}

/// What came of recording a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Recorded {
    /// Cases that are new.
    pub new: u64,
    /// Cases that were there.
    pub known: u64,
    /// Cases of the file that the run did not find any more. They are as they were.
    pub not_found: u64,
}

/// Why a run was not recorded to its end. What was recorded stays; [`Reviews::begin`] and a new run go on with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The differences could not be read back.
    #[error(transparent)]
    Found(#[from] super::super::error::ReconcileError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] Error),
    /// The queue refused.
    #[error(transparent)]
    Rejected(#[from] ReviewReject),
}

impl<L: Replicated<ReviewQueue>> Reviews<L> {
    /// The queue of a log: a replica of [`ReviewQueue`].
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the log's store may forget what it acknowledged.
    pub fn new(log: L) -> Result<Self> {
        let durability = log.durability();
        if durability == Durability::Durable {
            return Ok(Self { log });
        }
        let message = format!(
            "the store's durability is {durability:?}, so it may forget reviews that were answered; have it sync before it answers, \
             or make the queue with that_may_forget"
        );
        Err(Error::new(ErrorKind::Config, Effect::None, message))
    }

    /// The same on a store that may forget what it acknowledged, such as memory: for tests.
    pub fn that_may_forget(log: L) -> Self {
        Self { log }
    }

    /// Asks the queue. The other methods are this one with a command.
    ///
    /// # Errors
    /// Those of [`Replicated::submit`]; whatever their effect, the same command may be sent again.
    ///
    /// # Cancel safety
    /// It may be carried out all the same.
    pub async fn ask(&self, command: ReviewCommand) -> Result<ReviewReply> {
        self.log.submit(command).await
    }

    /// Begins a run over a file, or goes on with one that was cut off; a file that was gone through is [`ReviewReply::Seen`], unless it
    /// is wanted `again`.
    ///
    /// # Errors
    /// As [`Reviews::ask`].
    pub async fn begin(&self, file: FileId, name: Note, by: Person, again: bool) -> Result<ReviewReply> {
        self.ask(ReviewCommand::Begin { file, name, by, again }).await
    }

    /// Records what a run found, and that it is through. Between the commands it reads a little from a temporary file.
    ///
    /// # Errors
    /// [`RecordError`].
    ///
    /// # Cancel safety
    /// What was recorded until then stays. A new run goes on with it: nothing is recorded twice.
    pub async fn record(&self, file: FileId, run: u32, found: &mut Found) -> Result<Recorded, RecordError> {
        let mut recorded = Recorded::default();
        found.rewind()?;
        while let Some(differences) = found.next(file)? {
            match self.ask(ReviewCommand::Add { file, run, differences }).await? {
                ReviewReply::Added { new, known } => {
                    recorded.new += new;
                    recorded.known += known;
                }
                reply => return Err(unexpected(reply)),
            }
        }
        let (totals, differences) = (Box::new(found.summary().totals.clone()), found.cases_len());
        match self.ask(ReviewCommand::Finish { file, run, totals, differences }).await? {
            ReviewReply::Finished { not_found } => Ok(Recorded { not_found, ..recorded }),
            reply => Err(unexpected(reply)),
        }
    }

    /// What a person does about a case.
    ///
    /// # Errors
    /// As [`Reviews::ask`].
    pub async fn review(&self, case: CaseId, by: Person, step: Step) -> Result<ReviewReply> {
        self.ask(ReviewCommand::Review { case, by, step }).await
    }

    /// Resolves a case by a transaction that was posted for it: looks that the ledger has recorded it, that it posted something, that
    /// its metadata names the case ([`CaseId::metadata`]), and that it was not taken back by now; only then takes the step. For books that are no [`Ledger`]'s there is
    /// [`Step::ResolveUnchecked`].
    ///
    /// # Errors
    /// [`ResolveError`]. A ledger that is a follower's, or whose reads may be old, may not have seen the transaction yet. What the queue
    /// refuses is a reply, as of [`Reviews::review`].
    ///
    /// # Cost
    /// Two or three reads of the ledger and a command of the queue's.
    ///
    /// # Cancel safety
    /// It may be carried out all the same; the same again does nothing more.
    pub async fn resolve<B: Followed<Books>, S: Store>(
        &self,
        ledger: &Ledger<B, S>,
        case: CaseId,
        by: Person,
        transaction: TransactionId,
        note: Option<Note>,
    ) -> Result<ReviewReply, ResolveError> {
        let citation = cite(ledger, case, transaction).await?;
        Ok(self.review(case, by, Step::Resolve { citation, note }).await?)
    }

    /// Writes a case off by a transaction that was posted for it, which is looked for as [`Reviews::resolve`] does. Without a transaction
    /// there is [`Step::WriteOff`] with a reason.
    ///
    /// # Errors
    /// As [`Reviews::resolve`].
    ///
    /// # Cost
    /// Two or three reads of the ledger and a command of the queue's.
    ///
    /// # Cancel safety
    /// It may be carried out all the same; the same again does nothing more.
    pub async fn write_off<B: Followed<Books>, S: Store>(
        &self,
        ledger: &Ledger<B, S>,
        case: CaseId,
        by: Person,
        transaction: TransactionId,
        reason: Option<Note>,
    ) -> Result<ReviewReply, ResolveError> {
        let citation = Some(cite(ledger, case, transaction).await?);
        Ok(self.review(case, by, Step::WriteOff { citation, reason }).await?)
    }

    /// A page of cases, behind a number; 0: from the first. Everything counts that was answered anywhere before this was called.
    ///
    /// # Errors
    /// Those of reading the store.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn cases(&self, after: u64, len_max: usize) -> Result<Vec<Case>> {
        self.log.read_latest(move |queue| queue.cases_after(after).take(len_max).cloned().collect()).await
    }

    /// Reads the queue, everything counted that was answered anywhere before this was called.
    ///
    /// # Errors
    /// As [`Reviews::cases`].
    pub async fn read_latest<R: Send>(&self, read: impl FnOnce(&ReviewQueue) -> R + Send) -> Result<R> {
        self.log.read_latest(read).await
    }

    /// Where the queue is kept: for snapshots, fencing and the like.
    pub fn log(&self) -> &L {
        &self.log
    }
}

/// Reads in the ledger that a transaction was recorded, posted something, names the case, and was not taken back.
async fn cite<B: Followed<Books>, S: Store>(
    ledger: &Ledger<B, S>,
    case: CaseId,
    transaction: TransactionId,
) -> Result<Citation, ResolveError> {
    let entry = ledger.transaction(transaction).await?.ok_or(ResolveError::NotRecorded { transaction })?;
    let citation = Citation::of(&entry, case)?;
    match ledger.reversed_by(transaction).await? {
        Some(by) => Err(ResolveError::Reversed { transaction, by }),
        None => Ok(citation),
    }
}

fn unexpected(reply: ReviewReply) -> RecordError {
    match reply {
        ReviewReply::Rejected(why) => why.into(),
        reply => {
            Error::new(ErrorKind::Internal, Effect::Unknown, format!("an answer to another question: {reply:?}")).into()
        }
    }
}
