#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const DOCS: &str = include_str!("../../../../docs/ratelimit.md");

/// The example of the docs.
fn example(language: &str) -> &'static str {
    let (_, policies) = DOCS.split_once("\n## Policies\n").unwrap();
    let (_, from) = policies.split_once(&format!("\n```{language}\n")).unwrap();
    from.split_once("\n```\n").unwrap().0
}

fn toml(text: &str) -> Result<Policy, PolicyError> {
    Policy::from_toml("p.toml", text)
}

#[test]
fn what_is_billed_fails_closed_unless_it_says_otherwise() {
    for (terms, expected) in [
        ("", OnError::Allow),
        ("billing = true", OnError::Deny),
        ("billing = true\non_error = \"allow\"", OnError::Allow),
        ("on_error = \"deny\"", OnError::Deny),
    ] {
        let text = format!("name = \"api\"\n[[rules]]\nname = \"all\"\nkey = \"global\"\nrate = \"1/s\"\n{terms}\n");
        assert_eq!(Policy::from_toml("t.toml", &text).unwrap().rules()[0].on_error(), expected, "{terms}");
    }
}

#[test]
fn the_example_of_the_docs_is_a_policy_and_the_same_in_both_languages() {
    let policy = Policy::from_toml("limits.toml", example("toml")).unwrap();
    assert_eq!(policy, Policy::from_yaml("limits.yaml", example("yaml")).unwrap());
    assert_eq!((policy.name(), policy.rules().len()), ("api", 6));
    let rule = &policy.rules()[1];
    assert!(rule.is_billing() && !rule.is_shadow() && !rule.is_final());
    assert_eq!((rule.on_error(), rule.missing(), rule.cost()), (OnError::Deny, WhenMissing::Deny, 1));
    let rule = &policy.rules()[2];
    assert_eq!(rule.routes().collect::<Vec<_>>(), ["/login", "/users/{id}/password"]);
    assert_eq!((rule.key(), rule.priority()), (&[KeyPart::Ip, KeyPart::Route][..], 0));
}

#[test]
fn a_file_is_read_by_its_ending() {
    let dir = std::env::temp_dir().join(format!("sysd-policy-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for (name, text) in [("a.toml", "name = \"a\"\n"), ("a.yaml", "name: a\n"), ("a.yml", "name: a\n")] {
        std::fs::write(dir.join(name), text).unwrap();
        assert_eq!(Policy::read(dir.join(name)).unwrap().name(), "a");
    }
    std::fs::write(dir.join("bad.yaml"), "name: [").unwrap();
    for (name, kind) in [
        ("a.json", PolicyErrorKind::Unreadable),
        ("a", PolicyErrorKind::Unreadable),
        ("absent.toml", PolicyErrorKind::Unreadable),
        ("bad.yaml", PolicyErrorKind::Malformed),
    ] {
        let error = Policy::read(dir.join(name)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A rule in both languages, from its third line on a field a line.
fn rule_with(fields: &[(&str, &str)]) -> [Result<Policy, PolicyError>; 2] {
    let mut all = vec![("name", "\"r\""), ("key", "\"ip\""), ("rate", "\"1/s\"")];
    for field in fields {
        match all.iter_mut().find(|(name, _)| name == &field.0) {
            Some(known) => known.1 = field.1,
            None => all.push(*field),
        }
    }
    let lines = |separator: &str, begin: &str| {
        all.iter().map(|(name, value)| format!("{begin}{name}{separator}{value}\n")).collect::<Vec<_>>().concat()
    };
    let as_toml = format!("name = \"p\"\n[[rules]]\n{}", lines(" = ", ""));
    let as_yaml = format!("name: p\nrules:\n  -\n{}", lines(": ", "    ")).replace("  -\n    ", "  - ");
    let as_yaml = as_yaml.replace(" nan", " .nan");
    [toml(&as_toml), Policy::from_yaml("p.yaml", &as_yaml)]
}

/// What of an error is not as it should be. The value's place on its line follows from the syntax: `NAME = VALUE`,
/// `    NAME: VALUE`.
fn slips(fields: &[(&str, &str)], at: &str, line: u64, hint: &str) -> Vec<String> {
    let [in_toml, in_yaml] = rule_with(fields);
    let name_columns = at.split('[').next().unwrap_or_default().chars().count() as u64;
    let mut slips = Vec::new();
    for (read, column) in [(in_toml, name_columns + 4), (in_yaml, name_columns + 7)] {
        let Err(error) = read else {
            slips.push(format!("{fields:?}: no error"));
            continue;
        };
        let place = format!("{}:{line}:", error.file().unwrap());
        let is_right = error.field() == format!("rules[0].{at}")
            && error.line() == Some(line)
            && (at.contains('[') || error.column() == Some(column))
            && error.problem().contains(hint)
            && error.to_string().starts_with(&place);
        if !is_right {
            slips.push(error.to_string());
        }
    }
    slips
}

#[test]
fn numbers_that_no_rule_can_have_are_refused_with_their_line() {
    let whole = "expected a whole number from 0";
    let mut all = Vec::new();
    for (field, value, hint) in [
        ("cost", "0", "give at least 1"),
        ("cost", "2", "would admit nothing"),
        ("cost", "-1", whole),
        ("cost", "nan", ""),
        ("cost", "1.5", whole),
        ("cost", "\"1\"", whole),
        ("cost", "4294967296", whole),
        ("burst", "0", "give at least 1"),
        ("burst", "4294967295", "lower the burst"),
        ("burst", "-5", whole),
        ("burst", "nan", ""),
        ("queue", "1", "leave it away"),
        ("priority", "nan", ""),
        ("shadow", "7", ""),
    ] {
        all.extend(slips(&[(field, value)], field, 6, hint));
    }
    for (rate, hint) in [
        ("\"0/s\"", "give at least 1"),
        ("\"-1/s\"", "is not a rate"),
        ("\"NaN/s\"", "is not a rate"),
        ("\"1.5/s\"", "is not a rate"),
        ("\"1/0s\"", "is not usable"),
        ("\"1/2000000w\"", "100 years"),
        ("10", "expected a rate like"),
        ("nan", ""),
    ] {
        all.extend(slips(&[("rate", rate)], "rate", 5, hint));
    }
    all.extend(slips(&[("rate", "\"1001/s\""), ("algorithm", "\"sliding_log\"")], "rate", 5, "at most 1000"));
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn words_that_no_rule_knows_are_refused_with_their_line() {
    let mut all = Vec::new();
    for (field, value, hint) in [
        ("algorithm", "\"bucket\"", "token_bucket"),
        ("on_error", "\"open\"", "allow"),
        ("missing", "\"pass\"", "anonymous"),
        ("route", "\"users\"", "begin with /"),
        ("route", "[]", "leave it away"),
        ("methods", "\"get\"", "in capitals"),
        ("methods", "[]", "leave it away"),
    ] {
        all.extend(slips(&[(field, value)], field, 6, hint));
    }
    for (key, at, hint) in [
        ("\"adress\"", "key", "nothing to count by"),
        ("[\"ip\", \"adress\"]", "key[1]", "nothing to count by"),
        ("\"header:x y\"", "key", "no name of a header"),
        ("\"header:\"", "key", "no name of a header"),
        ("\"header:x-forwarded-for\"", "key", "count by ip"),
        ("[\"ip\", \"ip\"]", "key[1]", "twice"),
        ("[\"ip\", \"global\"]", "key", "leave it away"),
        ("[]", "key", "global"),
        ("\"route\"", "key", "give it a route"),
        ("7", "key", "a text or a list"),
    ] {
        all.extend(slips(&[("key", key)], at, 4, hint));
    }
    all.extend(slips(&[("name", "\"a\\\"b\"")], "name", 3, "is no name"));
    all.extend(slips(&[("route", "[\"/a\", \"/a/\"]")], "route[1]", 6, "none at the end"));
    all.extend(slips(&[("algorithm", "\"fixed_window\""), ("burst", "3")], "burst", 7, "leave it away"));
    all.extend(slips(&[("algorithm", "\"leaky_bucket\""), ("queue", "4294967295")], "queue", 7, "lower the burst"));
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn what_is_unknown_twice_or_absent_is_refused_with_its_line() {
    for (text, line, field, hint) in [
        ("name = \"p\"\nrulez = []", 2, "", "no field of a policy; here it may be one of `name`, `clients`"),
        ("name = \"p\"\n[clients]\nproxies = []", 3, "clients", "may be one of `trusted_proxies`"),
        ("name = \"p\"\n[[rules]]\nname = \"r\"\nlimit = 3", 4, "rules[0]", "`queue`, `cost`"),
        ("name = \"p\"\n[[rules]]\nname = \"r\"\nkey = \"ip\"", 2, "rules[0]", "missing field `rate`"),
        ("name = \"\"", 1, "name", "give 1 to 64"),
        ("name = \"p\"\nname = \"q\"", 2, "", "twice"),
        ("name = \"p\"\nallow = [", 2, "", "no TOML: "),
        ("name = \"p\"\nrules = 3", 2, "rules", "expected a list"),
        ("name = \"p\"\nclients = 3", 2, "clients", "expected fields with values"),
        ("name = 3", 1, "name", "expected a text"),
        ("allow = []", 1, "", "missing field `name`"),
    ] {
        let error = toml(text).unwrap_err();
        assert_eq!((error.line(), error.field()), (Some(line), field), "{error}");
        assert!(error.problem().contains(hint), "{error}");
    }
    for (text, line, field, hint) in [
        ("name: p\nrulez: []", 2, "", "no field of a policy; here it may be one of `name`, `clients`"),
        ("name: p\nclients:\n  proxies: []", 3, "clients", "may be one of `trusted_proxies`"),
        ("name: p\nrules:\n  - name: r\n    limit: 3", 4, "rules[0]", "`queue`, `cost`"),
        ("name: p\nname: q", 2, "", "twice"),
        ("name: p\nallow: [", 2, "allow", "no YAML"),
        ("name: p\nrules: 3", 2, "rules", "expected a list"),
        ("name: p\nclients: 3", 2, "clients", "expected fields with values"),
        ("name: p\nallow: *a", 2, "", "an anchor"),
        ("name: p\nallow: !a b", 2, "allow", ""),
        ("clients:\n  ipv4_prefix: 8", 1, "", "missing field `name`"),
    ] {
        let error = Policy::from_yaml("p.yaml", text).unwrap_err();
        assert_eq!((error.line(), error.field()), (Some(line), field), "{error}");
        assert!(error.problem().contains(hint), "{error}");
    }
}

#[test]
fn rules_that_can_t_be_told_apart_are_refused_with_the_line_of_the_second() {
    let rules = "name = \"p\"\n[[rules]]\nname = \"a\"\nkey = \"ip\"\nrate = \"1/s\"\n[[rules]]\nname = \"a\"\nkey = \"user\"\nrate = \"1/s\"\n";
    let error = toml(rules).unwrap_err();
    assert_eq!((error.line(), error.column(), error.field()), (Some(7), Some(8), "rules[1].name"));
    assert!(error.problem().contains("rules[0] too"), "{error}");
    let rules = "name: p\nrules:\n- { name: a, key: ip, rate: 1/s }\n- { name: a, key: user, rate: 1/s }\n";
    let error = Policy::from_yaml("p.yaml", rules).unwrap_err();
    assert_eq!((error.line(), error.column(), error.field()), (Some(4), Some(11), "rules[1].name"));
}

#[test]
fn clients_and_lists_are_checked_with_their_line() {
    for (text, field, hint) in [
        (
            "[clients]\ntrusted_proxies = [\"10.0.0.0/8\", \"10.0.0.0/40\"]",
            "clients.trusted_proxies[1]",
            "write one like",
        ),
        ("[clients]\ntrusted_proxies = [\"10.0.0.1/8\"]", "clients.trusted_proxies[0]", "write 10.0.0.0/8"),
        ("[clients]\ntrusted_proxies = \"0.0.0.0/0\"", "clients.trusted_proxies", "trusts everybody"),
        ("[clients]\nforwarded = \"forwarded\"", "clients.forwarded", "set trusted_proxies"),
        ("[clients]\ntrusted_proxies = \"10.0.0.0/8\"", "clients.trusted_proxies", "set forwarded"),
        ("\ndeny = \"user: mallory\"", "deny", "leave it away"),
        ("\ndeny = [\"key:abc \"]", "deny[0]", "leave it away"),
        ("[clients]\nforwarded = \"xff\"", "clients.forwarded", "x-forwarded-for"),
        ("[clients]\nipv6_prefix = 129", "clients.ipv6_prefix", "1 to 128"),
        ("[clients]\nipv4_prefix = 0", "clients.ipv4_prefix", "1 to 32"),
        ("[clients]\nipv4_prefix = -1", "clients.ipv4_prefix", "whole number"),
        ("[clients]\napi_key_header = \"x key\"", "clients.api_key_header", "no name of a header"),
        ("\nallow = [\"user:ann\", \"ip:10.0.0.0/x\"]", "allow[1]", "write one like"),
        ("\nallow = \"ip:::/0\"", "allow", "lists everybody"),
        ("\ndeny = [\"user:\"]", "deny[0]", "nothing after"),
        ("\ndeny = [\"key_sha256:abc\"]", "deny[0]", "64 hexadecimal digits"),
        ("\ndeny = [\"ann\"]", "deny[0]", "write ip:NETWORK"),
    ] {
        let error = toml(&format!("name = \"p\"\n{text}")).unwrap_err();
        assert_eq!((error.line(), error.field()), (Some(3), field), "{error}");
        assert!(error.problem().contains(hint), "{error}");
    }
}

#[test]
fn no_error_and_no_debug_output_has_an_api_key() {
    for (text, yaml) in [
        ("name = \"p\"\nallow = [\"key:s3cret\"]\nx = 1", "name: p\nallow: [\"key:s3cret\"]\nx: 1"),
        ("name = \"p\"\nallow = [\"keys3cret\"]", "name: p\nallow: [keys3cret]"),
        ("name = \"p\"\nallow = [\"kye:s3cret\"]", "name: p\nallow: [\"kye:s3cret\"]"),
        ("name = \"p\"\nallow = [\"key_sha256:s3cret\"]", "name: p\nallow: [\"key_sha256:s3cret\"]"),
        ("name = \"p\"\nallow = [\"key:s3cret\", 7]", "name: p\nallow: [\"key:s3cret\", {}]"),
        ("name = \"p\"\nallow = [\"key:s3cret]", "name: p\nallow: [\"key:s3cret]"),
    ] {
        for error in [toml(text).unwrap_err(), Policy::from_yaml("p.yaml", yaml).unwrap_err()] {
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }
    // In a wrong place: as the name of a field, as what a rule counts by, as an anchor, where a number belongs.
    let rule = |fields: &str| format!("name = \"p\"\n[[rules]]\nname = \"r\"\nrate = \"1/s\"\n{fields}");
    let yaml = |fields: &str| format!("name: p\nrules:\n  - name: r\n    rate: 1/s\n    {fields}");
    for (text, yaml) in [
        ("name = \"p\"\n\"key:s3cret\" = 1".to_owned(), "name: p\n\"key:s3cret\": 1".to_owned()),
        ("name = \"p\"\ns3cret = 1".to_owned(), "name: p\ns3cret: 1".to_owned()),
        ("name = \"p\"\ns3cret = 1\ns3cret = 2".to_owned(), "name: p\ns3cret: 1\ns3cret: 2".to_owned()),
        ("name = \"p\"\n[allow]\ns3cret = 1".to_owned(), "name: p\nallow: { s3cret: 1 }".to_owned()),
        ("name = \"p\"\n[clients]\n\"a, expected s3cret\" = 1".to_owned(), "name: p\nclients:\n  s3cret: 1".to_owned()),
        ("name = \"p\"\nallow = \"ip:s3cret\"".to_owned(), "name: p\nallow: !s3cret x".to_owned()),
        (
            "name = \"p\"\nclients = { api_key_header = \"s3cret s3cret\" }".to_owned(),
            "name: p\nallow: *s3cret".to_owned(),
        ),
        (rule("key = \"s3cret\""), yaml("key: s3cret")),
        (rule("key = \"api_key:s3cret\""), yaml("key: [ip, api_key:s3cret]")),
        (rule("key = \"header:s3 cret s3cret\""), yaml("key: \"header:s3cret s3cret\"")),
        (rule("key = \"api_key\"\ns3cret = 1"), yaml("key: api_key\n    s3cret: 1")),
        (rule("key = \"api_key\"\ncost = \"s3cret\""), yaml("key: api_key\n    cost: s3cret")),
        (rule("key = \"api_key\"\npriority = \"s3cret\""), yaml("key: api_key\n    priority: s3cret")),
        (rule("key = \"api_key\"\nshadow = \"s3cret\""), yaml("key: api_key\n    shadow: s3cret")),
        (rule("key = \"api_key\"\nmissing = \"s3cret\""), yaml("key: api_key\n    missing: s3cret")),
        (rule("key = { s3cret = 1 }"), yaml("key: { s3cret: 1 }")),
    ] {
        for error in [toml(&text).unwrap_err(), Policy::from_yaml("p.yaml", &yaml).unwrap_err()] {
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
            assert!(error.line().is_some() && !error.problem().is_empty(), "{error}");
        }
    }
    let config = ListedClient("key:s3cret".to_owned());
    assert!(!format!("{config:?}").contains("s3cret"));
    assert!(!format!("{:?}", toml("name = \"p\"\nallow = \"key:s3cret\"").unwrap()).contains("s3cret"));
}

#[test]
fn what_one_record_can_t_hold_is_refused() {
    let rules = |count: usize, route: fn(usize) -> String, key: &str| {
        let rule =
            |at| format!("[[rules]]\nname = \"r{at}\"\nroute = \"{}\"\nkey = {key}\nrate = \"1/s\"\n", route(at));
        toml(&format!("name = \"p\"\n{}", (0..count).map(rule).collect::<Vec<_>>().concat()))
    };
    let same = |_| "/*".to_owned();
    let own = |at| format!("/{at}");
    assert!(rules(16, same, "\"ip\"").is_ok());
    let error = rules(17, same, "\"ip\"").unwrap_err();
    assert_eq!((error.field(), error.line()), ("rules[16].key", Some(2 + 16 * 5 + 3)), "{error}");
    assert!(rules(64, own, "\"ip\"").is_ok());
    assert_eq!(rules(65, own, "\"ip\"").unwrap_err().field(), "rules[64].key");
    assert!(rules(100, own, "[\"ip\", \"route\"]").is_ok());
    assert_eq!(rules(POLICY_RULES_MAX + 1, own, "[\"ip\", \"route\"]").unwrap_err().field(), "rules");
}

#[test]
fn changes_say_which_rules_begin_anew() {
    let rule = |name: &str, rest: &str| format!("[[rules]]\nname = \"{name}\"\n{rest}\n");
    let policy = |rules: &[String]| toml(&format!("name = \"p\"\n{}", rules.concat())).unwrap();
    let old = policy(&[
        rule("same", "key = \"ip\"\nrate = \"1/s\""),
        rule("gone", "key = \"ip\"\nrate = \"1/s\""),
        rule("rate", "key = [\"user\", \"ip\"]\nrate = \"1/s\""),
        rule("algorithm", "key = \"ip\"\nrate = \"1/s\""),
        rule("key", "key = \"ip\"\nrate = \"1/s\""),
        rule("terms", "key = \"ip\"\nrate = \"1/s\""),
    ]);
    let new = policy(&[
        rule("new", "key = \"global\"\nrate = \"1/s\""),
        rule("same", "key = [\"ip\"]\nrate = \"1/s\"\nburst = 1"),
        rule("rate", "key = [\"ip\", \"user\"]\nrate = \"2/s\""),
        rule("algorithm", "key = \"ip\"\nrate = \"1/s\"\nalgorithm = \"fixed_window\""),
        rule("key", "key = \"user\"\nrate = \"1/s\""),
        rule("terms", "key = \"ip\"\nrate = \"1/s\"\nshadow = true"),
    ]);
    let changes = new.changes(&old);
    let named = |change: fn(String) -> RuleChange, name: &str| change(name.to_owned());
    assert_eq!(
        changes.rules,
        [
            named(RuleChange::Added, "new"),
            named(RuleChange::Limit, "rate"),
            named(RuleChange::Algorithm, "algorithm"),
            named(RuleChange::Key, "key"),
            named(RuleChange::Terms, "terms"),
            named(RuleChange::Removed, "gone"),
        ]
    );
    let anew: Vec<_> = changes.rules.iter().filter(|change| change.begins_anew()).map(RuleChange::rule).collect();
    assert_eq!(anew, ["algorithm", "key"]);
    assert!(changes.to_string().contains("rule \"key\" counts by another key and begins anew\n"), "{changes}");
    assert!(old.changes(&old).is_empty() && old.changes(&old).to_string().is_empty());

    let other = toml("name = \"q\"\nallow = \"user:a\"\ndeny = \"user:b\"\nclients = { ipv6_prefix = 56 }").unwrap();
    let changes = other.changes(&policy(&[]));
    let whole = [WholeChange::Name, WholeChange::Clients, WholeChange::Allow, WholeChange::Deny];
    assert_eq!(changes, Changes { rules: Vec::new(), whole: whole.to_vec() });
}

#[test]
fn errors_speak_of_policies_and_not_of_parsers() {
    let rule = "name: p\nrules:\n  - { name: r, key: ip, rate: 1/s";
    for text in [
        "",
        "name: p\n  x: [",
        "name: p\nallow: {",
        "name: p\nrules: {}",
        "name: p\nrules: [7]",
        "name: [p]",
        "name:",
        "name: ~",
        "- p",
        "p",
        "name: p\n---\nname: q",
        "name: &a p\nrules: *b",
        "name: p\n<<: 3",
        "name: !!binary x",
        "\"name",
        &format!("{rule}, priority: x }}"),
        &format!("{rule}, priority: 1.5 }}"),
        &format!("{rule}, shadow: 3 }}"),
        &format!("{rule}, algorithm: 3 }}"),
        &format!("{rule}, algorithm: [] }}"),
        &format!("{rule}, missing: {{}} }}"),
        &format!("{rule}, cost: .nan }}"),
        &format!("{rule}, on_error: !x y }}"),
    ] {
        let Err(error) = Policy::from_yaml("p.yaml", text) else { continue };
        let problem = error.problem();
        let jargon = [
            "scalar",
            "mapping",
            "struct ",
            "i32",
            "unit",
            "variant",
            "serde",
            "Options",
            "sequence",
            "node",
            "enum",
            "deserialize",
            "budget",
            "policy`",
        ];
        assert!(jargon.iter().all(|word| !problem.contains(word)), "{text:?}: {error}");
        assert!(problem.len() > 5 && error.line().is_some(), "{text:?}: {error}");
    }
}

#[cfg(feature = "calendar")]
#[test]
fn windows_of_the_calendar_are_read_and_what_is_wrong_with_them_has_its_line() {
    let (_, docs) = DOCS.rsplit_once("\n**Windows of the calendar**").unwrap();
    let text = docs.split_once("```toml\n").unwrap().1.split_once("\n```\n").unwrap().0;
    let policy = toml(&format!("name = \"p\"\n{text}")).unwrap();
    let crate::RuleLimit::Calendar(window) = policy.rules()[0].rule().by() else { panic!("{policy:?}") };
    assert_eq!((window.limit(), window.unit(), window.zone()), (1_000, crate::CalendarUnit::Month, "Europe/Berlin"));

    let calendar = ("algorithm", "\"calendar_window\"");
    for (rate, unit) in [("\"7/minute\"", "Minute"), ("\"7/h\"", "Hour"), ("\" 7 / d \"", "Day"), ("\"7/mo\"", "Month")]
    {
        for read in rule_with(&[("rate", rate), calendar]) {
            let policy = read.unwrap();
            let rule = &policy.rules()[0];
            let crate::RuleLimit::Calendar(window) = rule.rule().by() else { panic!("{rule:?}") };
            assert_eq!((format!("{:?}", window.unit()).as_str(), window.zone()), (unit, "UTC"));
        }
    }
    let mut all = Vec::new();
    for (rate, hint) in [
        ("\"7/s\"", "minutes, hours, days and months"),
        ("\"7/2d\"", "minutes, hours, days and months"),
        ("\"7/w\"", "minutes, hours, days and months"),
        ("\"x/d\"", "minutes, hours, days and months"),
        ("\"7\"", "minutes, hours, days and months"),
        ("\"0/d\"", "give at least 1"),
    ] {
        all.extend(slips(&[("rate", rate), calendar], "rate", 5, hint));
    }
    let daily = ("rate", "\"7/d\"");
    all.extend(slips(&[daily, calendar, ("zone", "\"Europe/Atlantis\"")], "zone", 7, "no time zone"));
    all.extend(slips(&[daily, calendar, ("zone", "\"\"")], "zone", 7, "no time zone"));
    all.extend(slips(&[daily, calendar, ("zone", "7")], "zone", 7, ""));
    all.extend(slips(&[daily, ("zone", "\"UTC\"")], "zone", 6, "leave it away"));
    all.extend(slips(&[daily, calendar, ("burst", "7")], "burst", 7, "leave it away"));
    all.extend(slips(&[daily, calendar, ("cost", "8")], "cost", 7, "would admit nothing"));
    assert!(all.is_empty(), "{}", all.join("\n"));

    // Another zone is another limit, and keeps the counts.
    let [berlin, tokyo] = ["Europe/Berlin", "Asia/Tokyo"].map(|zone| {
        let [policy, _] = rule_with(&[daily, calendar, ("zone", &format!("\"{zone}\""))]);
        policy.unwrap()
    });
    assert_eq!(tokyo.changes(&berlin).rules, [RuleChange::Limit("r".to_owned())]);
    assert!(berlin.changes(&berlin.by_clock(&sysd_core::ManualClock::new(sysd_core::Timestamp::MAX))).is_empty());
}

#[cfg(not(feature = "calendar"))]
#[test]
fn windows_of_the_calendar_say_which_feature_they_need() {
    let slips = slips(&[("algorithm", "\"calendar_window\"")], "algorithm", 6, "feature calendar");
    assert!(slips.is_empty(), "{slips:?}");
}
