//! How accounts are called in journals.

use crate::model::{Account, AccountId, AccountKind};

use super::Format;

/// What the root of an account's name is in all three programs.
pub(super) const fn root(kind: AccountKind) -> &'static str {
    match kind {
        AccountKind::Asset => "Assets",
        AccountKind::Liability => "Liabilities",
        AccountKind::Equity => "Equity",
        AccountKind::Income => "Income",
        AccountKind::Expense => "Expenses",
    }
}

/// What an account is called unless you say otherwise: by its kind and its id, `Assets:0x2a`. All three programs read it.
pub fn default_name(account: &Account) -> String {
    format!("{}:{}", root(account.kind), account.id)
}

/// The id of an account with such a name.
pub(super) fn default_id(name: &str) -> Option<AccountId> {
    let (root, id) = name.split_once(':')?;
    kind_of(root)?;
    let found = AccountId(u128::from_str_radix(id.strip_prefix("0x")?, 16).ok()?);
    (found.to_string() == id).then_some(found)
}

/// The kind that the programs take an account to be of, by the first part of its name.
pub(super) fn kind_of(name: &str) -> Option<AccountKind> {
    let root = name.split(':').next()?.to_ascii_lowercase();
    Some(match root.as_str() {
        "asset" | "assets" => AccountKind::Asset,
        "liability" | "liabilities" | "debt" | "debts" => AccountKind::Liability,
        "equity" => AccountKind::Equity,
        "income" | "incomes" | "revenue" | "revenues" => AccountKind::Income,
        "expense" | "expenses" => AccountKind::Expense,
        _ => return None,
    })
}

const NAME_MAX: usize = 500;

/// Why a name can't be written, if it can't.
pub(super) fn refusal(format: Format, name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Some("it is empty, or longer than 500 bytes");
    }
    match format {
        Format::Text => {
            let is_plain = |char: char| char.is_alphanumeric() || " -_.'&/+#@$%".contains(char);
            let is_part = |part: &str| {
                part.starts_with(char::is_alphanumeric)
                    && !part.ends_with(' ')
                    && !part.contains("  ")
                    && part.chars().all(is_plain)
            };
            (!name.split(':').all(is_part)).then_some(
                "its parts, which colons separate, begin with a letter or digit and have nothing but these, single spaces and -_.'&/+#@$%",
            )
        }
        Format::Beancount => {
            let mut parts = name.split(':');
            let roots = ["Assets", "Liabilities", "Equity", "Income", "Expenses"];
            let has_root = parts.next().is_some_and(|root| roots.contains(&root));
            let is_other = |char: char| !char.is_ascii() && char.is_alphanumeric();
            let is_part = |part: &str| {
                part.starts_with(|first: char| first.is_ascii_uppercase() || first.is_ascii_digit() || is_other(first))
                    && part.chars().all(|char| char.is_ascii_alphanumeric() || char == '-' || is_other(char))
            };
            let (mut count, mut all) = (0, true);
            parts.for_each(|part| {
                count += 1;
                all &= is_part(part);
            });
            (!has_root || count == 0 || !all).then_some(
                "in beancount it begins with Assets, Liabilities, Equity, Income or Expenses, and has more parts behind colons, each a \
                 capital letter or digit and then letters, digits and hyphens",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::Currency;

    #[test]
    fn a_default_name_says_the_id_and_is_read_by_all() {
        for id in [0, 1, 0xff, u128::MAX] {
            let account = Account::new(AccountId(id), Currency::iso("EUR").unwrap(), AccountKind::Liability);
            let name = default_name(&account);
            assert_eq!(default_id(&name), Some(account.id), "{name}");
            assert_eq!(kind_of(&name), Some(account.kind));
            assert_eq!((refusal(Format::Text, &name), refusal(Format::Beancount, &name)), (None, None));
        }
        for name in ["Assets", "Assets:1", "Assets:0x", "Assets:0x01", "Assets:0xFF", "Other:0x1", "Assets:0x1:0x2"] {
            assert_eq!(default_id(name), None, "{name}");
        }
    }

    #[test]
    fn what_could_be_read_otherwise_is_refused() {
        for name in ["", "A::B", "A:", "A  B", "A;B", "A\nB", "(A)", "*A", " A", "A\tB", "A:[B]"] {
            assert!(refusal(Format::Text, name).is_some(), "{name:?}");
        }
        assert_eq!(refusal(Format::Text, "Assets:Wells Fargo:Checking"), None);
        for name in ["Assets", "Foo:Bar", "Assets:bar", "Assets:Wells Fargo", "Assets:A_B", "Assets:", "Assets:A:"] {
            assert!(refusal(Format::Beancount, name).is_some(), "{name:?}");
        }
        assert_eq!(refusal(Format::Beancount, "Assets:Café:Überweisung"), None);
    }
}
