//! Reads what `beancount` reads, as far as it is of the cases that all share.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Date;

use super::Format;
use super::day;
use super::names;
use super::problem::{ImportErrors, Problem};
use super::raw::{Cursor, RawJournal, RawPosting, RawTransaction, Style};

/// What the indented lines belong to.
enum Block {
    Nothing,
    Transaction(Box<RawTransaction>),
    /// A commodity, whose decimals are looked for.
    Commodity(String),
    /// What was refused, or is passed over, with its lines.
    Passed,
}

pub(super) fn parse(text: &str, errors: &mut ImportErrors) -> RawJournal {
    let mut journal = RawJournal { opened: Some(BTreeMap::new()), ..RawJournal::default() };
    let mut block = Block::Nothing;
    for (at, line) in text.lines().enumerate() {
        let mut cursor = Cursor::new(line.trim_end(), at + 1);
        if cursor.is_at_end() {
            end(std::mem::replace(&mut block, Block::Nothing), &mut journal);
        } else if line.starts_with([' ', '\t']) {
            cursor.skip_spaces();
            if cursor.rest().starts_with(';') && !matches!(block, Block::Nothing) {
                comment(&mut block, cursor);
            } else if let Err(problem) = indented(&mut block, &mut cursor, &mut journal) {
                cursor.blame(errors, problem);
                block = Block::Passed;
            }
        } else {
            end(std::mem::replace(&mut block, Block::Nothing), &mut journal);
            block = begin(&mut cursor, &mut journal).unwrap_or_else(|problem| {
                cursor.blame(errors, problem);
                Block::Passed
            });
        }
    }
    end(block, &mut journal);
    journal
}

fn end(block: Block, journal: &mut RawJournal) {
    if let Block::Transaction(transaction) = block {
        journal.transactions.push(*transaction);
    }
}

fn comment(block: &mut Block, cursor: Cursor<'_>) {
    if let Block::Transaction(transaction) = block {
        let comment = cursor.rest().trim_start_matches(';').trim();
        if !comment.is_empty() {
            transaction.tags.push(("comment".to_owned(), comment.to_owned()));
        }
    }
}

/// A line that begins at its margin.
fn begin(cursor: &mut Cursor<'_>, journal: &mut RawJournal) -> Result<Block, Problem> {
    let (line, number) = (cursor.line, cursor.number);
    // Comments, and headings of outlines, which beancount passes over.
    if line.starts_with(['*', '#', ':', ';']) {
        return Ok(Block::Nothing);
    }
    if line.starts_with(|first: char| first.is_ascii_digit()) {
        let start = *cursor;
        let text = cursor.take_while(|char| char.is_ascii_digit() || "-/.".contains(char));
        let Some(day) = day::parse(text) else {
            *cursor = start;
            return Err(Problem::Day { text: text.chars().take(40).collect() });
        };
        cursor.skip_spaces();
        return dated(day, cursor, journal);
    }
    let word = line.split([' ', '\t']).next().unwrap_or(line);
    Err(match word {
        "option" if !line.contains("\"name_") => {
            journal.skip(number, "an option");
            return Ok(Block::Passed);
        }
        "option" => Problem::Refused { what: "the five roots of accounts have their usual names here" },
        "include" => {
            Problem::Refused { what: "included files are not followed; import each by itself, or put them together" }
        }
        "plugin" => {
            Problem::Refused { what: "a plugin may change what is in the file; print what it makes, and import that" }
        }
        "pushtag" | "poptag" | "pushmeta" | "popmeta" => {
            Problem::Refused { what: "this directive changes what other lines mean; write them out" }
        }
        word => Problem::Unknown { word: word.chars().take(40).collect() },
    })
}

fn dated(day: Date, cursor: &mut Cursor<'_>, journal: &mut RawJournal) -> Result<Block, Problem> {
    let start = *cursor;
    let word = cursor.take_while(|char| !char.is_whitespace());
    cursor.skip_spaces();
    let what = match word {
        "*" | "!" | "txn" => {
            let status = match word {
                "!" => "pending",
                _ => "cleared",
            };
            return header(day, status, cursor).map(|transaction| Block::Transaction(Box::new(transaction)));
        }
        "open" => return open(cursor, journal).map(|()| Block::Passed),
        "commodity" => {
            let name = cursor.take_while(|char| !char.is_whitespace() && char != ';');
            return Ok(Block::Commodity(name.to_owned()));
        }
        "pad" => {
            *cursor = start;
            return Err(Problem::Refused {
                what: "a pad makes amounts that are not in the file; write the transaction",
            });
        }
        "balance" => "an asserted balance, which was not checked",
        "close" => "the closing of an account, which stays open",
        "price" => "a market price",
        "note" => "a note on an account",
        "document" => "a document",
        "event" => "an event",
        "query" => "a query",
        "custom" => "a custom directive",
        _ => {
            *cursor = start;
            return Err(Problem::Unknown { word: word.chars().take(40).collect() });
        }
    };
    journal.skip(cursor.number, what);
    Ok(Block::Passed)
}

fn account(cursor: &mut Cursor<'_>) -> Result<String, Problem> {
    let start = *cursor;
    let name = cursor.take_while(|char| !char.is_whitespace() && char != ';');
    if names::refusal(Format::Beancount, name).is_some() {
        *cursor = start;
        return Err(Problem::Syntax { expected: "an account, such as Assets:Bank," });
    }
    Ok(name.to_owned())
}

fn open(cursor: &mut Cursor<'_>, journal: &mut RawJournal) -> Result<(), Problem> {
    let line = cursor.number;
    let name = account(cursor)?;
    cursor.skip_spaces();
    let codes = cursor.take_while(|char| !char.is_whitespace() && char != ';' && char != '"');
    let codes: BTreeSet<String> = codes.split(',').filter(|code| !code.is_empty()).map(str::to_owned).collect();
    if let Some(opened) = &mut journal.opened {
        opened.entry(name).or_insert((line, BTreeSet::new())).1.extend(codes);
    }
    Ok(())
}

/// A string in quotes that ends on its line.
fn string(cursor: &mut Cursor<'_>) -> Result<String, Problem> {
    let start = *cursor;
    let mut out = String::new();
    let (mut length, mut is_escaped) = (0, false);
    for char in cursor.rest().chars().skip(1) {
        length += char.len_utf8();
        if is_escaped {
            out.push(match char {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            });
            is_escaped = false;
        } else if char == '\\' {
            is_escaped = true;
        } else if char == '"' {
            cursor.advance(1 + length);
            return Ok(out);
        } else {
            out.push(char);
        }
    }
    *cursor = start;
    Err(Problem::Syntax { expected: "a string that ends on its line" })
}

fn header(day: Date, status: &'static str, cursor: &mut Cursor<'_>) -> Result<RawTransaction, Problem> {
    let mut transaction = RawTransaction { line: cursor.number, day: Some(day), status, ..RawTransaction::default() };
    let mut strings = Vec::new();
    loop {
        cursor.skip_spaces();
        let is_word = |char: char| char.is_ascii_alphanumeric() || "-_/.".contains(char);
        if cursor.is_at_end() {
            break;
        } else if cursor.eat(";") {
            transaction.tags.push(("comment".to_owned(), cursor.rest().trim().to_owned()));
            break;
        } else if cursor.rest().starts_with('"') && strings.len() < 2 {
            strings.push(string(cursor)?);
        } else if cursor.eat("#") {
            transaction.tags.push(("tag".to_owned(), cursor.take_while(is_word).to_owned()));
        } else if cursor.eat("^") {
            transaction.tags.push(("link".to_owned(), cursor.take_while(is_word).to_owned()));
        } else {
            return Err(Problem::Syntax { expected: "a string, a #tag or a ^link" });
        }
    }
    transaction.memo = strings.pop().unwrap_or_default();
    transaction.payee = strings.pop().unwrap_or_default();
    Ok(transaction)
}

/// A value of metadata, as it is written; of a string, what is in it.
fn value(cursor: &mut Cursor<'_>) -> Result<String, Problem> {
    if !cursor.rest().starts_with('"') {
        return Ok(cursor.take_while(|char| char != ';').trim().to_owned());
    }
    let value = string(cursor)?;
    cursor.skip_spaces();
    if cursor.is_at_end() || cursor.rest().starts_with(';') {
        return Ok(value);
    }
    Err(Problem::Syntax { expected: "the end of the line" })
}

fn key<'a>(cursor: &mut Cursor<'a>) -> Option<&'a str> {
    let start = *cursor;
    let key = cursor.take_while(|char| char.is_ascii_alphanumeric() || char == '-' || char == '_');
    let is_key = key.starts_with(|first: char| first.is_ascii_lowercase());
    if is_key && cursor.eat(":") {
        cursor.skip_spaces();
        return Some(key);
    }
    *cursor = start;
    None
}

fn indented(block: &mut Block, cursor: &mut Cursor<'_>, journal: &mut RawJournal) -> Result<(), Problem> {
    match block {
        Block::Transaction(transaction) => match key(cursor) {
            Some(key) => {
                let value = value(cursor)?;
                transaction.tags.push((key.to_owned(), value));
            }
            None => posting(cursor, transaction, journal)?,
        },
        Block::Commodity(name) => {
            if key(cursor) == Some("sysd-decimals")
                && let Ok(decimals) = value(cursor)?.parse()
            {
                journal.decimals.insert(name.clone(), decimals);
            }
        }
        Block::Passed => {}
        Block::Nothing => {
            return Err(Problem::Refused {
                what: "this line belongs to nothing: an empty line, a comment at the margin or a heading ends what is before it",
            });
        }
    }
    Ok(())
}

fn posting(cursor: &mut Cursor<'_>, transaction: &mut RawTransaction, journal: &mut RawJournal) -> Result<(), Problem> {
    let line = cursor.number;
    if cursor.eat("* ") || cursor.eat("! ") {
        journal.skip(line, "the mark of a single posting");
        cursor.skip_spaces();
    }
    let account = account(cursor)?;
    cursor.skip_spaces();
    let mut posting = RawPosting { line, column: None, account, amount: None, price: None };
    if !cursor.is_at_end() && !cursor.rest().starts_with(';') {
        posting.column = Some(cursor.column());
        posting.amount = Some(cursor.amount(Style::Beancount)?);
        posting.price = cursor.price(Style::Beancount)?;
        cursor.skip_spaces();
    }
    if cursor.eat(";") {
        transaction.tags.push(("comment".to_owned(), cursor.rest().trim().to_owned()));
    } else if !cursor.is_at_end() {
        return Err(Problem::Syntax { expected: "the end of the posting" });
    }
    transaction.postings.push(posting);
    Ok(())
}
