//! The queue: a pure, deterministic machine.

use std::collections::BTreeMap;

use sysd_core::Timestamp;

use super::super::model::Difference;
use super::super::totals::Totals;
use super::citation::Citation;
use super::model::{
    Case, CaseId, CaseState, Event, FileId, FileState, FileView, Note, Person, ReviewCommand, ReviewReject,
    ReviewReply, Step,
};

/// The settlement files that were seen, the differences that were found in them, and all that people did about these.
///
/// # Guarantees
/// - A case changes its state by a person's [`Step`] only. A run adds cases, and notes which it found again; it never settles one, not
///   even one that it did not find any more.
/// - A case that is resolved cites a transaction, which was recorded and names the case, or of which its step says that nobody looked
///   ([`Step::ResolveUnchecked`]); one that is written off cites one, or a person says why.
/// - The same difference of the same file is one case, however often it is found.
/// - Trails only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReviewQueue {
    pub(super) files: BTreeMap<FileId, FileView>,
    pub(super) cases: BTreeMap<CaseId, Case>,
    /// By number: the order of pages.
    pub(super) order: Vec<CaseId>,
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub resolves_itself: bool,
}

impl ReviewQueue {
    /// Applies one command, as [`StateMachine::apply`](sysd_core::StateMachine::apply) does.
    pub fn apply(&mut self, now: Timestamp, command: &ReviewCommand) -> ReviewReply {
        let applied = match command {
            ReviewCommand::Begin { file, name, by, again } => Ok(self.begin(now, *file, name, by, *again)),
            ReviewCommand::Add { file, run, differences } => self.add(now, *file, *run, differences),
            ReviewCommand::Finish { file, run, totals, differences } => self.finish(*file, *run, totals, *differences),
            ReviewCommand::Review { case, by, step } => self.review(now, *case, by, step),
        };
        applied.unwrap_or_else(ReviewReply::Rejected)
    }

    fn begin(&mut self, now: Timestamp, id: FileId, name: &Note, by: &Person, again: bool) -> ReviewReply {
        let file = self.files.entry(id).or_insert_with(|| FileView {
            name: name.clone(),
            by: by.clone(),
            at: now,
            runs: 0,
            cases: 0,
            found: 0,
            state: FileState::Begun,
        });
        if matches!(file.state, FileState::Finished { .. }) && !again {
            return ReviewReply::Seen(Box::new(file.clone()));
        }
        (file.state, file.found) = (FileState::Begun, 0);
        file.runs = file.runs.saturating_add(1);
        ReviewReply::Begun { run: file.runs, known: file.cases }
    }

    fn running(&mut self, id: FileId, run: u32) -> Result<&mut FileView, ReviewReject> {
        let file = self.files.get_mut(&id).ok_or(ReviewReject::UnknownFile { file: id })?;
        if file.runs != run {
            return Err(ReviewReject::OtherRun { run, last: file.runs });
        }
        Ok(file)
    }

    fn add(
        &mut self,
        now: Timestamp,
        id: FileId,
        run: u32,
        differences: &[(CaseId, Difference)],
    ) -> Result<ReviewReply, ReviewReject> {
        let file = self.running(id, run)?;
        if matches!(file.state, FileState::Finished { .. }) {
            return Err(ReviewReject::FinishedAlready { run });
        }
        let by = file.by.clone();
        let is_other = |case: &CaseId| self.cases.get(case).is_some_and(|known| known.file != id);
        if let Some((case, _)) = differences.iter().find(|(case, _)| is_other(case)) {
            return Err(ReviewReject::OtherFile { case: *case });
        }
        let (mut new, mut known, mut again) = (0, 0, 0);
        for (case, difference) in differences {
            if let Some(case) = self.cases.get_mut(case) {
                again += u64::from(case.seen_in != run);
                case.seen_in = run;
                known += 1;
                continue;
            }
            new += 1;
            self.order.push(*case);
            let found = Event { at: now, by: by.clone(), step: None };
            let case = Case {
                id: *case,
                number: self.order.len() as u64,
                file: id,
                seen_in: run,
                difference: difference.clone(),
                state: CaseState::Open,
                trail: vec![found],
            };
            self.cases.insert(case.id, case);
        }
        if let Some(file) = self.files.get_mut(&id) {
            file.cases += new;
            file.found += new + again;
        }
        Ok(ReviewReply::Added { new, known })
    }

    fn finish(&mut self, id: FileId, run: u32, totals: &Totals, differences: u64) -> Result<ReviewReply, ReviewReject> {
        totals.check().map_err(ReviewReject::Uneven)?;
        let file = self.running(id, run)?;
        let not_found = file.cases.saturating_sub(file.found);
        if matches!(file.state, FileState::Finished { .. }) {
            return Ok(ReviewReply::Finished { not_found });
        }
        if file.found != differences {
            return Err(ReviewReject::NotAllAdded { found: differences, added: file.found });
        }
        file.state = FileState::Finished { totals: Box::new(totals.clone()), differences };
        #[cfg(feature = "seeded-bugs")]
        if self.resolves_itself {
            for case in self.cases.values_mut().filter(|case| case.file == id && case.seen_in != run) {
                case.state = CaseState::Resolved { transaction: crate::model::TransactionId(0) };
            }
        }
        Ok(ReviewReply::Finished { not_found })
    }

    fn review(&mut self, now: Timestamp, id: CaseId, by: &Person, step: &Step) -> Result<ReviewReply, ReviewReject> {
        let case = self.cases.get_mut(&id).ok_or(ReviewReject::UnknownCase { case: id })?;
        // The answer was lost, and it is asked again.
        if case.trail.last().is_some_and(|last| last.by == *by && last.step.as_ref() == Some(step)) {
            return Ok(ReviewReply::Reviewed(Box::new(case.clone())));
        }
        let state = next(case, by, step)?;
        if case.trail.len() >= Case::TRAIL_MAX {
            return Err(ReviewReject::TrailFull);
        }
        case.state = state;
        case.trail.push(Event { at: now, by: by.clone(), step: Some(step.clone()) });
        Ok(ReviewReply::Reviewed(Box::new(case.clone())))
    }

    /// A case.
    pub fn case(&self, id: CaseId) -> Option<&Case> {
        self.cases.get(&id)
    }

    /// Cases behind a number, in order; 0: from the first.
    pub fn cases_after(&self, number: u64) -> impl Iterator<Item = &Case> {
        let from = usize::try_from(number).unwrap_or(usize::MAX).min(self.order.len());
        self.order[from..].iter().filter_map(|id| self.cases.get(id))
    }

    /// How many cases there are.
    pub fn cases_len(&self) -> u64 {
        self.order.len() as u64
    }

    /// How many cases are in each state, by its name.
    pub fn states(&self) -> BTreeMap<&'static str, u64> {
        let mut states = BTreeMap::new();
        for case in self.cases.values() {
            *states.entry(case.state.name()).or_default() += 1;
        }
        states
    }

    /// A file that was seen.
    pub fn file(&self, id: FileId) -> Option<&FileView> {
        self.files.get(&id)
    }

    /// All files that were seen.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &FileView)> {
        self.files.iter().map(|(id, file)| (*id, file))
    }
}

/// Where a step leads.
fn next(case: &Case, by: &Person, step: &Step) -> Result<CaseState, ReviewReject> {
    let (id, state) = (case.id, &case.state);
    let no_step = || ReviewReject::NoStep { state: state.name() };
    let is_mine = || match state {
        CaseState::InReview { by: holder } if holder == by => Ok(()),
        CaseState::InReview { by } => Err(ReviewReject::TakenBy { by: by.clone() }),
        _ => Err(no_step()),
    };
    let is_of_case = |citation: &Citation| {
        if citation.case == id { Ok(()) } else { Err(ReviewReject::OtherCase { case: citation.case }) }
    };
    match step {
        Step::Take => match state {
            CaseState::Open | CaseState::Reopened => Ok(CaseState::InReview { by: by.clone() }),
            CaseState::InReview { by: holder } if holder != by => Err(ReviewReject::TakenBy { by: holder.clone() }),
            _ => Err(no_step()),
        },
        // Anybody may: who took it up may be away. The trail says who did.
        Step::Release if matches!(state, CaseState::InReview { .. }) => Ok(CaseState::Open),
        Step::Release => Err(no_step()),
        Step::Resolve { citation, .. } => {
            is_mine()?;
            is_of_case(citation)?;
            Ok(CaseState::Resolved { transaction: citation.transaction })
        }
        Step::ResolveUnchecked { transaction, .. } => {
            is_mine()?;
            let transaction = transaction.ok_or(ReviewReject::NoTransaction)?;
            Ok(CaseState::Resolved { transaction })
        }
        Step::WriteOff { citation, reason } => {
            is_mine()?;
            if citation.is_none() && reason.is_none() {
                return Err(ReviewReject::NoReason);
            }
            citation.as_ref().map_or(Ok(()), is_of_case)?;
            Ok(CaseState::WrittenOff { transaction: citation.map(|citation| citation.transaction) })
        }
        Step::Reopen { .. } if state.is_open() => Err(no_step()),
        Step::Reopen { .. } => Ok(CaseState::Reopened),
        Step::Comment { .. } => Ok(state.clone()),
    }
}
