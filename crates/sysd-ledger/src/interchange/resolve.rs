//! What a journal means: which accounts and transactions it comes to.

use std::collections::{BTreeMap, HashMap, HashSet};

use sha2::{Digest as _, Sha256};

use super::commodity::from_exponent;
use super::decimal::Decimal;
use super::escape::Written;
use super::import::{Imported, Importer};
use super::names::{default_id, kind_of};
use super::problem::{ImportErrors, Problem};
use super::raw::{RawAmount, RawJournal, RawPosting, RawPrice, RawTransaction};
use crate::model::{
    Account, AccountId, AccountKind, Currency, Date, Details, Posting, Side, Transaction, TransactionId,
};

/// Net amounts, debits positive, in the order in which their accounts came.
type Legs = Vec<((String, Currency), i128)>;

struct Resolver<'a> {
    importer: &'a Importer,
    /// `None`: blamed already.
    currencies: BTreeMap<String, Option<Currency>>,
    decimals: BTreeMap<String, u32>,
    opened: Option<HashSet<String>>,
    accounts: HashMap<(String, Currency), AccountId>,
    /// Names and currencies by id, to see that none has two.
    owners: HashMap<AccountId, (String, Currency)>,
    /// Names that were blamed.
    blamed: HashSet<String>,
    /// The line of each id.
    ids: HashMap<TransactionId, usize>,
    /// How many transactions had that content.
    seen: HashMap<[u8; 32], u64>,
    imported: Imported,
}

pub(super) fn resolve(importer: &Importer, journal: RawJournal, errors: &mut ImportErrors) -> Imported {
    let RawJournal { transactions, mut decimals, opened, skipped } = journal;
    let amounts = transactions.iter().flat_map(|transaction| &transaction.postings).filter_map(|p| p.amount.as_ref());
    for RawAmount { number, commodity } in amounts {
        let most = decimals.entry(commodity.clone()).or_default();
        *most = number.decimals().max(*most);
    }
    let mut resolver = Resolver {
        importer,
        currencies: BTreeMap::new(),
        decimals,
        opened: opened.as_ref().map(|opened| opened.keys().cloned().collect()),
        accounts: HashMap::new(),
        owners: HashMap::new(),
        blamed: HashSet::new(),
        ids: HashMap::new(),
        seen: HashMap::new(),
        imported: Imported { skipped, ..Imported::default() },
    };
    for (name, (line, commodities)) in opened.unwrap_or_default() {
        for commodity in commodities {
            if let Some(currency) = resolver.currency(&commodity, line, None, errors) {
                resolver.account(&name, currency, line, errors);
            }
        }
    }
    // Which ids there will be: what is reversed has to be one of them.
    let written: HashSet<TransactionId> = transactions.iter().filter_map(|found| own_id(found)?.ok()).collect();
    for transaction in transactions {
        resolver.transaction(transaction, &written, errors);
    }
    resolver.imported
}

fn parse_id(text: &str) -> Option<TransactionId> {
    let found = TransactionId(u128::from_str_radix(text.strip_prefix("0x")?, 16).ok()?);
    (found.to_string() == text).then_some(found)
}

/// The id that an export wrote.
fn own_id(transaction: &RawTransaction) -> Option<Result<TransactionId, Problem>> {
    let (key, id) = transaction.tags.iter().find(|(key, _)| key == "sysd-id")?;
    Some(parse_id(id).ok_or_else(|| Problem::Tag { key: key.clone() }))
}

/// Into 128 bits, each part with its length before it.
fn digest<'p>(kind: &'p str, parts: impl IntoIterator<Item = &'p [u8]>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [kind.as_bytes()].into_iter().chain(parts) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn first_half(digest: [u8; 32]) -> u128 {
    digest.iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

impl Resolver<'_> {
    fn currency(
        &mut self,
        name: &str,
        line: usize,
        column: Option<usize>,
        errors: &mut ImportErrors,
    ) -> Option<Currency> {
        if let Some(found) = self.currencies.get(name) {
            return *found;
        }
        let custom = || {
            let decimals = self.decimals.get(name).copied().unwrap_or(0);
            Currency::custom(name, u8::try_from(decimals).unwrap_or(u8::MAX)).ok()
        };
        let said = self.importer.commodities.get(name).copied();
        let found = said.or_else(|| from_exponent(name)).or_else(|| Currency::iso(name).ok()).or_else(custom);
        if found.is_none() {
            errors.push(line, column, Problem::Commodity { name: name.to_owned() });
        }
        self.currencies.insert(name.to_owned(), found);
        found
    }

    fn kind(&self, name: &str) -> Option<AccountKind> {
        let is_below =
            |root: &str| name.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
        let said = self.importer.kinds.iter().filter(|(root, _)| is_below(root)).max_by_key(|(root, _)| root.len());
        said.map(|(_, kind)| *kind).or_else(|| kind_of(name))
    }

    fn account(&mut self, name: &str, currency: Currency, line: usize, errors: &mut ImportErrors) -> Option<AccountId> {
        let key = (name.to_owned(), currency);
        if let Some(found) = self.accounts.get(&key) {
            return Some(*found);
        }
        let Some(kind) = self.kind(name) else {
            if self.blamed.insert(name.to_owned()) {
                errors.push(line, None, Problem::Kind { account: name.to_owned() });
            }
            return None;
        };
        let made = || {
            let (code, exponent) = (currency.code(), [currency.exponent()]);
            AccountId(first_half(digest("sysd-ledger account", [name.as_bytes(), code.as_bytes(), &exponent])))
        };
        let said = self.importer.id_of.as_ref().and_then(|id_of| id_of(name, currency));
        let id = said.or_else(|| default_id(name)).unwrap_or_else(made);
        if let Some((other, other_currency)) = self.owners.get(&id) {
            let (account, code) = (name.to_owned(), currency.code());
            let other = format!("{other} in {}", other_currency.code());
            errors.push(line, None, Problem::SameAccount { account, code, other });
            return None;
        }
        self.owners.insert(id, key.clone());
        self.accounts.insert(key, id);
        self.imported.accounts.push(Account::new(id, currency, kind));
        self.imported.names.insert(id, name.to_owned());
        Some(id)
    }

    fn transaction(&mut self, mut raw: RawTransaction, written: &HashSet<TransactionId>, errors: &mut ImportErrors) {
        let line = raw.line;
        let Some(day) = raw.day else { return };
        let Some(legs) = self.legs(&mut raw, errors) else { return };
        let own = match own_id(&raw).transpose() {
            Ok(own) => own,
            Err(problem) => return errors.push(line, None, problem),
        };
        if legs.is_empty() {
            return self.imported.skipped.push(super::Skipped { line, what: "a transaction that moves nothing" });
        }
        if legs.len() > Transaction::POSTINGS_MAX {
            return errors.push(line, None, Problem::PostingCount { count: legs.len() });
        }
        let id = own.unwrap_or_else(|| self.made_id(day, &raw, &legs));
        if let Some(before) = self.ids.insert(id, line) {
            return errors.push(line, None, Problem::SameTransaction { id: id.to_string(), line: before });
        }
        let (details, reverses) =
            match if own.is_some() { written_details(raw) } else { details(raw).map(|d| (d, None)) } {
                Ok(found) => found,
                Err(problem) => return errors.push(line, None, problem),
            };
        if reverses.is_some_and(|reverses| !written.contains(&reverses)) {
            self.imported
                .skipped
                .push(super::Skipped { line, what: "a link to what was reversed, which is not in this file" });
        }
        let mut postings = crate::model::Postings::new();
        for ((name, currency), amount) in legs {
            let Some(account) = self.account(&name, currency, line, errors) else { return };
            let side = if amount < 0 { Side::Credit } else { Side::Debit };
            postings.push(Posting { account, amount: amount.unsigned_abs(), currency, side });
        }
        let reverses = reverses.filter(|reverses| written.contains(reverses));
        let transaction = Transaction::new(id, postings);
        self.imported.transactions.push(Transaction {
            reverses,
            effective: Some(day),
            details: details.map(Box::new),
            ..transaction
        });
        self.imported.lines.push(line);
    }

    /// From what the transaction says and how many said the same before it; a comment or a mark that is added later changes nothing.
    fn made_id(&mut self, day: Date, raw: &RawTransaction, legs: &Legs) -> TransactionId {
        let mut lines: Vec<String> = legs
            .iter()
            .map(|((name, currency), amount)| format!("{amount} {}/{} {name}", currency.code(), currency.exponent()))
            .collect();
        lines.sort_unstable();
        let day = day.0.to_be_bytes();
        let texts = [&self.importer.source, &raw.payee, &raw.memo, &raw.code];
        let parts = std::iter::once(day.as_slice()).chain(texts.into_iter().chain(&lines).map(String::as_bytes));
        let content = digest("sysd-ledger transaction", parts);
        let before = self.seen.entry(content).or_default();
        let id = first_half(digest("sysd-ledger again", [content.as_slice(), &before.to_be_bytes()]));
        *before += 1;
        TransactionId(id)
    }

    /// What each account gets, all of it balanced in every currency.
    fn legs(&mut self, raw: &mut RawTransaction, errors: &mut ImportErrors) -> Option<Legs> {
        let before = (errors.errors.len(), errors.more);
        let mut sums = BTreeMap::<String, Decimal>::new();
        let (mut lines, mut left_out) = (Vec::new(), None);
        let mut has_price = false;
        for posting in &raw.postings {
            let RawPosting { line, column, account, amount, price } = posting;
            if self.opened.as_ref().is_some_and(|opened| !opened.contains(account))
                && self.blamed.insert(account.clone())
            {
                errors.push(*line, None, Problem::NotOpened { account: account.clone() });
            }
            let Some(amount) = amount else {
                if left_out.replace((*line, account)).is_some() {
                    errors.push(*line, None, Problem::TwoLeftOut);
                }
                continue;
            };
            if let Some(price) = price {
                has_price = true;
                raw.tags.push(("price".to_owned(), show_price(amount, price)));
            }
            let result = cost(amount, price.as_ref()).and_then(|cost| {
                let sum = sums.entry(cost.commodity).or_insert(Decimal::ZERO);
                *sum = sum.plus(cost.number)?;
                Ok(())
            });
            if let Err(problem) = result {
                errors.push(*line, *column, problem);
            }
            if let Some(priced) = price {
                let (RawPrice::Each(given) | RawPrice::Total(given)) = priced;
                self.currency(&given.commodity, *line, *column, errors);
            }
            if let Some(minor) = self.minor(amount, *line, *column, errors) {
                lines.push((account.clone(), minor));
            }
        }
        if let Some((line, account)) = left_out {
            for (commodity, sum) in std::mem::take(&mut sums).into_iter().filter(|(_, sum)| !sum.is_zero()) {
                let rest = RawAmount { number: sum.negated(), commodity };
                if let Some(minor) = self.minor(&rest, line, None, errors) {
                    lines.push((account.clone(), minor));
                }
            }
        }
        if before != (errors.errors.len(), errors.more) {
            return None;
        }
        let is_off = |(name, sum): &(&String, &Decimal)| {
            let exponent = self.currencies.get(*name).copied().flatten().map_or(0, Currency::exponent);
            // What a price comes to may have more decimals than can be paid.
            !(sum.is_zero() || has_price && sum.is_within_half(exponent))
        };
        let differences: Vec<_> = sums.iter().filter(is_off).map(|(name, sum)| format!("{sum} {name}")).collect();
        if !differences.is_empty() {
            errors.push(raw.line, None, Problem::Unbalanced { differences: differences.join(", ") });
            return None;
        }
        let legs = net(lines, has_price.then_some(self.importer.trading.as_str()));
        if legs.is_none() {
            errors.push(raw.line, None, Problem::TooLarge);
        }
        legs
    }

    fn minor(
        &mut self,
        amount: &RawAmount,
        line: usize,
        column: Option<usize>,
        errors: &mut ImportErrors,
    ) -> Option<(Currency, i128)> {
        let currency = self.currency(&amount.commodity, line, column, errors)?;
        let (code, exponent) = (currency.code(), currency.exponent());
        match amount.number.to_minor(exponent) {
            Ok(Some(minor)) => return Some((currency, minor)),
            Ok(None) => {
                errors.push(line, column, Problem::TooPrecise { amount: amount.number.to_string(), code, exponent });
            }
            Err(problem) => errors.push(line, column, problem),
        }
        None
    }
}

/// What a posting counts for in the sum that has to be zero.
fn cost(amount: &RawAmount, price: Option<&RawPrice>) -> Result<RawAmount, Problem> {
    let (number, commodity) = match price {
        None => (amount.number, &amount.commodity),
        Some(RawPrice::Each(each)) => (amount.number.times(each.number)?, &each.commodity),
        Some(RawPrice::Total(all)) => {
            (if amount.number.is_negative() { all.number.negated() } else { all.number }, &all.commodity)
        }
    };
    Ok(RawAmount { number, commodity: commodity.clone() })
}

fn show_price(amount: &RawAmount, price: &RawPrice) -> String {
    let (sign, given) = match price {
        RawPrice::Each(given) => ("@", given),
        RawPrice::Total(given) => ("@@", given),
    };
    format!("{} {} {sign} {} {}", amount.number, amount.commodity, given.number, given.commodity)
}

/// Adds up what each account gets; what is left of each currency goes through the trading account. `None` if that is too much.
fn net(lines: Vec<(String, (Currency, i128))>, trading: Option<&str>) -> Option<Legs> {
    let (mut legs, mut places) = (Legs::new(), HashMap::new());
    let mut sums = BTreeMap::<Currency, i128>::new();
    let mut add = |name: String, currency: Currency, amount: i128| {
        let at = *places.entry((name.clone(), currency)).or_insert_with(|| {
            legs.push(((name, currency), 0));
            legs.len() - 1
        });
        let (_, sum) = legs.get_mut(at)?;
        *sum = sum.checked_add(amount)?;
        Some(())
    };
    for (name, (currency, amount)) in lines {
        let sum = sums.entry(currency).or_default();
        *sum = sum.checked_add(amount)?;
        add(name, currency, amount)?;
    }
    if let Some(trading) = trading {
        for (currency, sum) in sums {
            add(trading.to_owned(), currency, sum.checked_neg()?)?;
        }
    }
    legs.retain(|(_, amount)| *amount != 0);
    // The least i128 has no opposite.
    legs.iter().all(|(_, amount)| *amount != i128::MIN).then_some(legs)
}

fn details(raw: RawTransaction) -> Result<Option<Details>, Problem> {
    let told = [("payee", raw.payee.as_str()), ("code", raw.code.as_str()), ("status", raw.status)];
    let told =
        told.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.to_owned(), value.to_owned()));
    let metadata: Vec<_> = told.chain(raw.tags).collect();
    if raw.memo.is_empty() && metadata.is_empty() {
        return Ok(None);
    }
    Ok(Some(Details::new(raw.memo, metadata)?))
}

/// What an export wrote, as it was. The number, the status and the time of recording are the other books', and not taken over.
fn written_details(raw: RawTransaction) -> Result<(Option<Details>, Option<TransactionId>), Problem> {
    let (mut written, mut reverses) = (Written::default(), None);
    let mut ids = 0;
    for (key, value) in raw.tags {
        let is_ours = match key.as_str() {
            "sysd-id" => {
                ids += 1;
                ids == 1
            }
            "sysd-number" | "sysd-recorded" => true,
            "sysd-reverses" => {
                let is_first = reverses.is_none();
                reverses = parse_id(&value);
                is_first && reverses.is_some()
            }
            _ => written.take(&key, &value),
        };
        if !is_ours {
            return Err(Problem::Tag { key });
        }
    }
    let details = written.details(&raw.memo).ok_or(Problem::Tag { key: "sysd-meta".to_owned() })??;
    Ok((details, reverses))
}
