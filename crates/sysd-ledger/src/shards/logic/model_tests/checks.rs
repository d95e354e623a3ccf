//! What must hold of callers and books.

use super::*;

impl World {
    /// What must hold at any time.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        for (shard, books) in self.books.iter().enumerate() {
            books.verify().map_err(|what| format!("shard {shard}: {what}"))?;
            for (currency, wallet) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
                let id = account(u16::try_from(shard).unwrap(), currency, wallet);
                let Balance { debits_posted, credits_posted, debits_held, .. } = books.balance(id).unwrap();
                if debits_posted + debits_held > credits_posted {
                    return Err(format!("wallet {id} is beyond its funds"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_end(&self) -> std::result::Result<(), String> {
        let mut expected = BTreeMap::<AccountId, i128>::new();
        let mut posted_ids = BTreeMap::<TransactionId, u32>::new();
        for ((id, attempt), parts) in &self.held {
            let is_posted = |shard: &ShardId| {
                let recorded = self.journals.get(&(*shard, *id));
                recorded.is_some_and(|recorded| attempt_of(&recorded.transaction, *shard) == Some(*attempt))
            };
            let posted: BTreeSet<_> = parts.keys().copied().filter(is_posted).collect();
            if posted.is_empty() {
                continue;
            }
            let all: BTreeSet<_> = parts.keys().copied().collect();
            if posted != all {
                return Err(format!("{id}, attempt {attempt}: held in {all:?}, posted in {posted:?}"));
            }
            *posted_ids.entry(self.used[id]).or_default() += 1;
            let mut sums = BTreeMap::<Currency, i128>::new();
            for posting in parts.values().flatten().filter(|posting| !is_reserved(posting.account)) {
                let amount = i128::try_from(posting.amount).unwrap();
                let signed = if posting.side == Side::Credit { amount } else { -amount };
                *sums.entry(posting.currency).or_default() += signed;
                if posting.account.0 & 0xff != 0 {
                    *expected.entry(posting.account).or_default() += signed;
                }
            }
            if sums.values().any(|sum| *sum != 0) {
                return Err(format!("{id} was posted in part: {sums:?}"));
            }
        }
        for ((_, id), recorded) in &self.journals {
            if self.contents.get(id).is_some_and(|all| all.contains(&recorded.transaction)) {
                *posted_ids.entry(*id).or_default() += 1;
            }
        }
        if let Some((id, count)) = posted_ids.iter().find(|(_, count)| **count > 1) {
            return Err(format!("{id} was recorded {count} times"));
        }
        self.check_balances(&expected)?;
        if self.bug != Some(Bug::FreshIds) {
            for id in self.contents.keys() {
                self.check_shown(*id, posted_ids.contains_key(id))?;
            }
        }
        for caller in &self.callers {
            let is_posted = posted_ids.contains_key(&caller.id);
            let callers = self.callers.iter().filter(|other| other.id == caller.id).count();
            match &caller.outcome {
                Some(Ok(ShardsReply::Recorded { .. } | ShardsReply::Conflict(_))) if !is_posted => {
                    return Err(format!("{} was answered and is not there", caller.id));
                }
                Some(Ok(ShardsReply::Within { shard, reply: Reply::Recorded(receipt) })) => {
                    let recorded = Recorded { transaction: caller.asked.clone(), receipt: receipt.clone() };
                    if self.journals.get(&(*shard, caller.id)) != Some(&recorded) {
                        return Err(format!("{} was answered by {shard} and is not there", caller.id));
                    }
                }
                Some(Ok(ShardsReply::Refused(Refusal::Claimed { id, shard }))) => {
                    let is_theirs = split(layout(), &caller.asked) == Ok(Split::Within(*shard));
                    if self.claim_of(*id) != Some(*shard) || is_theirs {
                        return Err(format!("{id} is not claimed for {shard}, or for who asked"));
                    }
                }
                Some(Ok(ShardsReply::Recorded { receipts, in_transit })) => {
                    self.check_recorded(&caller.asked, receipts, in_transit)?;
                }
                Some(Ok(ShardsReply::Conflict(conflict))) => {
                    if sorted(&conflict.asked) != sorted(&caller.asked) {
                        return Err(format!("{}: the conflict shows other content than was asked", caller.id));
                    }
                    let all = &self.contents[&caller.id];
                    let is_other = |content: &Transaction| sorted(content) == sorted(&conflict.recorded);
                    if sorted(&conflict.recorded) == sorted(&caller.asked) || !all.iter().any(is_other) {
                        return Err(format!("{}: the conflict shows what nobody else asked", caller.id));
                    }
                }
                Some(Ok(ShardsReply::Rejected(why))) if is_posted && callers == 1 => {
                    return Err(format!("{} was rejected ({why}) and is there", caller.id));
                }
                Some(Err(error)) if error.effect() == Effect::None && is_posted && callers == 1 => {
                    return Err(format!("{} had no effect ({error}) and is there", caller.id));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// For which shard an id was claimed at its home.
    pub(super) fn claim_of(&self, id: TransactionId) -> Option<ShardId> {
        let recorded = self.journals.get(&(home(layout(), id).unwrap(), id))?;
        claimed_for(&recorded.transaction)
    }

    /// Reads an id as the shell does.
    fn check_shown(&self, id: TransactionId, is_posted: bool) -> std::result::Result<(), String> {
        let mut lookup = Lookup::new(id, home(layout(), id).unwrap(), None);
        let found = loop {
            let read = |id: (ShardId, TransactionId)| Ok(self.journals.get(&id).cloned());
            if let Some(found) = lookup.recalled(lookup.recalls().into_iter().map(read).collect()).unwrap() {
                break found;
            }
        };
        match found.entry(id) {
            None if is_posted => Err(format!("{id} is there and is not shown")),
            Some(entry) => {
                let all = &self.contents[&id];
                let is_known = all.iter().any(|content| sorted(content) == sorted(&entry.transaction));
                let is_whole = entry.in_transit.is_empty() && is_posted && is_known;
                if is_whole { Ok(()) } else { Err(format!("{id} is shown as {entry:?}")) }
            }
            None => Ok(()),
        }
    }

    /// What was answered as recorded is what was asked, in each of its shards.
    fn check_recorded(
        &self,
        asked: &Transaction,
        receipts: &[ShardReceipt],
        in_transit: &[ShardId],
    ) -> std::result::Result<(), String> {
        let Ok(Split::Across(parts)) = split(layout(), asked) else { return Err("it lies across".to_owned()) };
        let mut told: Vec<_> = receipts.iter().map(|told| told.shard).chain(in_transit.iter().copied()).collect();
        told.sort_unstable();
        let mut all: Vec<_> = parts.iter().map(|part| part.shard).collect();
        all.sort_unstable();
        if told != all || receipts.iter().all(|told| told.shard != parts[0].shard) {
            return Err(format!("{}: {told:?} were told", asked.id));
        }
        for ShardReceipt { shard, receipt } in receipts {
            let posted = &self.journals[&(*shard, receipt.id)];
            let Action::PostHeld { hold, .. } = posted.transaction.action else { return Err("no post".to_owned()) };
            let held = &self.journals[&(*shard, hold)].transaction;
            let part = parts.iter().find(|part| part.shard == *shard).unwrap();
            if posted.receipt != *receipt || held.postings != part.postings || held.effective != asked.effective {
                return Err(format!("{}: {shard} has recorded something else", asked.id));
            }
        }
        Ok(())
    }

    /// Accounts in transit add up to zero by pairs; and all others, with what was posted within shards, to what was posted across them.
    fn check_balances(&self, expected: &BTreeMap<AccountId, i128>) -> std::result::Result<(), String> {
        let mut pairs = BTreeMap::<_, i128>::new();
        let mut totals = BTreeMap::<Currency, i128>::new();
        let mut crossed = BTreeMap::<(ShardId, Currency), i128>::new();
        for (shard, books) in (0..SHARDS).map(ShardId).zip(&self.books) {
            for view in books.accounts() {
                let balance = view.balance.posted(Side::Credit);
                let currency = view.account.currency;
                if let Some(Own::InTransit { shard, peer, .. }) = Own::of(view.account.id) {
                    *pairs.entry((shard.min(peer), shard.max(peer), currency)).or_default() += balance;
                } else if !is_reserved(view.account.id) {
                    *totals.entry(currency).or_default() += balance;
                    *crossed.entry((shard, currency)).or_default() += balance;
                }
            }
            for sum in in_transit(books).into_values() {
                // It is what the accounts of the application lack.
                let theirs: i128 = crossed.iter().filter(|((at, _), _)| *at == shard).map(|(_, sum)| *sum).sum();
                if sum != 0 && theirs == 0 {
                    return Err(format!("{shard}: in transit are {sum}, the others lack nothing"));
                }
            }
        }
        if let Some((pair, sum)) = pairs.iter().find(|(_, sum)| **sum != 0) {
            return Err(format!("{pair:?}: {sum} are in transit for ever"));
        }
        if let Some((currency, sum)) = totals.iter().find(|(_, sum)| **sum != 0) {
            return Err(format!("{sum} of {currency} came from nowhere"));
        }
        for ((shard, currency), sum) in crossed {
            let of_shard = |account: &AccountId| account.0 >> 112 == u128::from(shard.0);
            let in_currency = |account: &AccountId| currencies()[usize::from(account.0 & 0xff >= 10)] == currency;
            let asked = expected.iter().filter(|(account, _)| of_shard(account) && in_currency(account));
            let asked: i128 = asked.map(|(_, sum)| *sum).sum();
            if sum != asked {
                return Err(format!("{shard}: {sum} of {currency} came across, not {asked}"));
            }
        }
        Ok(())
    }
}
