//! Reads what `hledger` and `ledger` both read.

use crate::model::Date;

use super::day;
use super::problem::{ImportErrors, Problem};
use super::raw::{Cursor, RawJournal, RawPosting, RawTransaction, Style};

/// What the indented lines belong to.
enum Block {
    Nothing,
    Transaction(Box<RawTransaction>),
    /// A commodity, whose format is looked for.
    Commodity(String),
    /// What was refused, or is passed over, with its lines.
    Passed,
    /// Until that line.
    Comment(&'static str),
}

pub(super) fn parse(text: &str, errors: &mut ImportErrors) -> RawJournal {
    let mut journal = RawJournal::default();
    let mut block = Block::Nothing;
    for (at, line) in text.lines().enumerate() {
        let cursor = Cursor::new(line.trim_end(), at + 1);
        if let Block::Comment(end) = block {
            if cursor.line == end {
                block = Block::Nothing;
            }
            continue;
        }
        if cursor.line.is_empty() || !line.starts_with([' ', '\t']) {
            end(block, &mut journal);
            block = if cursor.is_at_end() { Block::Nothing } else { begin(cursor, &mut journal, errors) };
        } else if indented(&mut block, cursor, &mut journal, errors).is_none() {
            block = Block::Passed;
        }
    }
    if let Block::Comment(end) = block {
        errors.push(text.lines().count(), None, Problem::Syntax { expected: end });
    }
    end(block, &mut journal);
    journal
}

fn end(block: Block, journal: &mut RawJournal) {
    if let Block::Transaction(transaction) = block {
        journal.transactions.push(*transaction);
    }
}

/// A line that begins at its margin.
fn begin(mut cursor: Cursor<'_>, journal: &mut RawJournal, errors: &mut ImportErrors) -> Block {
    let line = cursor.line;
    if line.starts_with([';', '#', '*']) {
        return Block::Nothing;
    }
    if line.starts_with(|first: char| first.is_ascii_digit()) {
        return header(cursor, errors).map_or(Block::Passed, |transaction| Block::Transaction(Box::new(transaction)));
    }
    let word = line.split([' ', '\t']).next().unwrap_or(line);
    let refused = match word {
        "comment" => return Block::Comment("end comment"),
        "test" => return Block::Comment("end test"),
        // They say what there is, and change nothing.
        "account" | "payee" | "tag" => return Block::Passed,
        "commodity" => {
            cursor.advance(word.len());
            cursor.skip_spaces();
            return Block::Commodity(commodity(cursor, journal));
        }
        "P" => {
            journal.skip(cursor.number, "a market price");
            return Block::Nothing;
        }
        "N" => return Block::Nothing,
        "decimal-mark" if line.ends_with('.') => return Block::Nothing,
        "include" | "!include" | "@include" => {
            "included files are not followed; import each by itself, or put them together"
        }
        word if word.starts_with('~') => {
            journal.skip(cursor.number, "a rule for periodic transactions");
            return Block::Passed;
        }
        word if word.starts_with('=') => {
            "automated transactions change balances in ledger and not in hledger; write down what they would"
        }
        "alias" | "apply" | "end" | "bucket" | "A" | "D" | "Y" | "year" | "decimal-mark" | "define" | "capture" => {
            "this directive changes what other lines mean; write them out"
        }
        word => {
            cursor.blame(errors, Problem::Unknown { word: word.chars().take(40).collect() });
            return Block::Passed;
        }
    };
    cursor.blame(errors, Problem::Refused { what: refused });
    Block::Passed
}

/// A commodity, or an amount that shows its form.
fn commodity(mut cursor: Cursor<'_>, journal: &mut RawJournal) -> String {
    let rest = cursor.rest().split(';').next().unwrap_or("").trim();
    if let Ok(amount) = cursor.amount(Style::Text) {
        declare(&amount.commodity, rest, journal);
        return amount.commodity;
    }
    rest.trim_matches('"').to_owned()
}

/// How many decimals a format shows; whoever writes more in an amount has more.
fn declare(commodity: &str, format: &str, journal: &mut RawJournal) {
    let digits = format.split_once('.').map_or("", |(_, rest)| rest);
    let count = digits.bytes().take_while(u8::is_ascii_digit).count();
    let decimals = journal.decimals.entry(commodity.to_owned()).or_default();
    *decimals = (*decimals).max(u32::try_from(count).unwrap_or(u32::MAX));
}

fn header(mut cursor: Cursor<'_>, errors: &mut ImportErrors) -> Option<RawTransaction> {
    let (line, day) = (cursor.number, Some(date(&mut cursor, errors)?));
    let mut transaction = RawTransaction { line, day, ..RawTransaction::default() };
    if cursor.eat("=") {
        // The day that it counts for elsewhere; balances are by the first.
        let start = cursor;
        date(&mut cursor, errors)?;
        let other = start.rest().get(..start.rest().len() - cursor.rest().len()).unwrap_or("");
        transaction.tags.push(("date2".to_owned(), other.to_owned()));
    }
    if !cursor.is_at_end() && !cursor.rest().starts_with([' ', '\t', ';']) {
        cursor.blame(errors, Problem::Syntax { expected: "a space behind the day" });
        return None;
    }
    cursor.skip_spaces();
    transaction.status = status(&mut cursor);
    if cursor.rest().starts_with('(') {
        let start = cursor;
        cursor.advance(1);
        cursor.take_while(|char| char != ')').trim().clone_into(&mut transaction.code);
        if !cursor.eat(")") {
            start.blame(errors, Problem::Syntax { expected: "a code that ends with )" });
            return None;
        }
        cursor.skip_spaces();
    }
    let (memo, comment) = cursor.rest().split_once(';').unwrap_or((cursor.rest(), ""));
    memo.trim().clone_into(&mut transaction.memo);
    tags(comment, &mut transaction.tags);
    Some(transaction)
}

fn date(cursor: &mut Cursor<'_>, errors: &mut ImportErrors) -> Option<Date> {
    let start = *cursor;
    let text = cursor.take_while(|char| char.is_ascii_digit() || "-/.".contains(char));
    let day = day::parse(text);
    if day.is_none() {
        start.blame(errors, Problem::Day { text: text.chars().take(40).collect() });
    }
    day
}

fn status(cursor: &mut Cursor<'_>) -> &'static str {
    let status = if cursor.eat("*") {
        "cleared"
    } else if cursor.eat("!") {
        "pending"
    } else {
        return "";
    };
    cursor.skip_spaces();
    status
}

/// What a comment says: `key: value`, `:tag:tag:`, or words.
pub(super) fn tags(comment: &str, into: &mut Vec<(String, String)>) {
    let comment = comment.trim();
    if comment.is_empty() {
        return;
    }
    let is_tag = |tag: &str| !tag.is_empty() && !tag.contains(char::is_whitespace);
    if let Some(inner) = comment.strip_prefix(':').and_then(|rest| rest.strip_suffix(':'))
        && inner.split(':').all(is_tag)
    {
        into.extend(inner.split(':').map(|tag| ("tag".to_owned(), tag.to_owned())));
        return;
    }
    let is_key = |key: &str| {
        key.starts_with(|first: char| first.is_ascii_alphabetic())
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    match comment.split_once(':') {
        Some((key, value)) if is_key(key) && (value.is_empty() || value.starts_with([' ', '\t'])) => {
            into.push((key.to_owned(), value.trim().to_owned()));
        }
        _ => into.push(("comment".to_owned(), comment.to_owned())),
    }
}

/// `None` after an error that leaves the rest of the block without a meaning.
fn indented(
    block: &mut Block,
    mut cursor: Cursor<'_>,
    journal: &mut RawJournal,
    errors: &mut ImportErrors,
) -> Option<()> {
    cursor.skip_spaces();
    match block {
        Block::Transaction(transaction) => {
            if cursor.eat(";") {
                tags(cursor.rest(), &mut transaction.tags);
                return Some(());
            }
            if let Err(problem) = posting(&mut cursor, transaction, journal) {
                cursor.blame(errors, problem);
                return None;
            }
        }
        Block::Commodity(name) => {
            if cursor.eat("format") {
                declare(name, cursor.rest(), journal);
            }
        }
        Block::Passed | Block::Comment(_) => {}
        Block::Nothing if cursor.rest().starts_with([';', '#', '*']) => {}
        Block::Nothing => {
            cursor.blame(errors, Problem::Syntax { expected: "a transaction, to which an indented line" });
        }
    }
    Some(())
}

fn posting(cursor: &mut Cursor<'_>, transaction: &mut RawTransaction, journal: &mut RawJournal) -> Result<(), Problem> {
    let line = cursor.number;
    if !status(cursor).is_empty() {
        journal.skip(line, "the mark of a single posting");
    }
    if cursor.rest().starts_with(['(', '[']) {
        return Err(Problem::Refused {
            what: "virtual postings are no postings of double entry; write an account that balances them",
        });
    }
    let rest = cursor.rest();
    let end = rest.find("  ").unwrap_or(rest.len());
    let account = rest.get(..end).unwrap_or("");
    if account.contains('\t') {
        // To hledger the amount is a part of the name then, and is left out.
        return Err(Problem::Refused { what: "behind an account a tab is not enough for hledger; write two spaces" });
    }
    if account.is_empty() || account.contains([';', '"', '{', '}']) || account.chars().any(char::is_control) {
        return Err(Problem::Syntax { expected: "an account, and two spaces behind it," });
    }
    cursor.advance(end);
    cursor.skip_spaces();
    let mut posting = RawPosting { line, column: None, account: account.to_owned(), amount: None, price: None };
    if cursor.rest().starts_with('=') {
        return Err(Problem::Refused { what: "a balance instead of an amount; write the amount" });
    }
    if !cursor.is_at_end() && !cursor.rest().starts_with(';') {
        posting.column = Some(cursor.column());
        posting.amount = Some(cursor.amount(Style::Text)?);
        posting.price = cursor.price(Style::Text)?;
        cursor.skip_spaces();
        if cursor.eat("=") {
            journal.skip(line, "an asserted balance, which was not checked");
            cursor.take_while(|char| char != ';');
        }
    }
    if cursor.eat(";") {
        let comment = cursor.rest();
        if comment.contains('[') && comment.contains(']') {
            journal.skip(line, "the day of a single posting; it is in the metadata");
        }
        tags(comment, &mut transaction.tags);
    } else if !cursor.is_at_end() {
        return Err(Problem::Syntax { expected: "the end of the posting" });
    }
    transaction.postings.push(posting);
    Ok(())
}
