#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// A request as far as keys go.
#[derive(Debug, Clone)]
struct Given {
    address: Option<IpAddr>,
    user: Option<String>,
    headers: Vec<(&'static str, Vec<u8>)>,
    route: &'static str,
    method: &'static str,
}

fn with_asked<T>(given: &Given, look: impl FnOnce(&Asked<'_>) -> T) -> T {
    let request = RequestView {
        method: given.method,
        path: "/",
        peer: given.address,
        user: given.user.as_deref(),
        headers: &given.headers,
    };
    let (address, api_key_header) = (given.address, "x-api-key");
    look(&Asked { request: &request, address, ipv4_prefix: 24, ipv6_prefix: 64, api_key_header })
}

fn key(given: &Given, parts: &[KeyPart]) -> KeyBytes {
    with_asked(given, |asked| {
        let (key, _): Keyed<'_> = asked.key(parts, given.route);
        key
    })
}

fn given() -> Given {
    Given { address: None, user: None, headers: Vec::new(), route: "/", method: "GET" }
}

fn parts(texts: &[&str]) -> Vec<KeyPart> {
    texts.iter().map(|text| KeyPart::parse(text).unwrap()).collect()
}

#[test]
fn parts_are_read_or_say_what_to_write() {
    for text in ["ip", "user", "api_key", "header:x-tenant", "route", "method", "global"] {
        assert_eq!(KeyPart::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(KeyPart::parse("header:X-Tenant").unwrap(), KeyPart::Header("x-tenant".into()));
    for (text, hint) in [
        ("", "nothing to count by"),
        ("IP", "nothing to count by"),
        ("header", "nothing to count by"),
        ("header:", "no name of a header"),
        ("header:x tenant", "no name of a header"),
        ("header:x:y", "no name of a header"),
        ("header:X-Forwarded-For", "count by ip"),
    ] {
        assert!(KeyPart::parse(text).unwrap_err().contains(hint), "{text}");
    }
}

/// They are stored: these bytes must never change.
#[test]
fn keys_are_pinned() {
    let all = Given {
        address: Some("192.0.2.7".parse().unwrap()),
        user: Some("ann".to_owned()),
        headers: vec![("x-t", b" v\0 ".to_vec()), ("x-t", b"second".to_vec())],
        route: "/a/{id}",
        method: "GET",
    };
    for (part, bytes) in [
        ("ip", &b"\x01\x18\xC0\x00\x02\x00"[..]),
        ("user", b"\x03ann\x00\x01"),
        ("header:x-t", b"\x06x-t\x00\x01v\x00\xFF\x00\x01"),
        ("route", b"\x08/a/{id}\x00\x01"),
        ("method", b"\x09GET\x00\x01"),
        ("global", b"\x0A"),
        ("api_key", b"\x0D"),
    ] {
        assert_eq!(&key(&all, &parts(&[part]))[..], bytes, "{part}");
    }
    let v6 = Given { address: Some("2001:db8::7".parse().unwrap()), ..given() };
    assert_eq!(&key(&v6, &parts(&["ip"]))[..], b"\x02\x40\x20\x01\x0D\xB8\0\0\0\0\0\0\0\0\0\0\0\0");
    for (part, bytes) in [("ip", &b"\x0B"[..]), ("user", b"\x0C"), ("header:x-t", b"\x0Ex-t\x00\x01")] {
        assert_eq!(&key(&given(), &parts(&[part]))[..], bytes, "{part}");
    }
    let api_key = Given { headers: vec![("X-Api-Key", b"abc".to_vec())], ..given() };
    let made = key(&api_key, &parts(&["api_key"]));
    // The digest of "abc", FIPS 180-2, appendix B.1.
    assert_eq!((made[0], &made[1..5], made.len()), (5, &[0xBA, 0x78, 0x16, 0xBF][..], 33));
}

#[test]
fn methods_that_nobody_defined_are_one() {
    let of = |method| key(&Given { method, ..given() }, &parts(&["method"]));
    assert_eq!(of("BREW"), of("get"));
    assert_ne!(of("BREW"), of("GET"));
}

#[test]
fn secrets_are_in_no_key() {
    for (name, part) in [("x-api-key", "api_key"), ("x-api-key", "header:x-api-key"), ("cookie", "header:cookie")] {
        let secret = Given { headers: vec![(name, b"s3cret".to_vec())], ..given() };
        let made = key(&secret, &parts(&[part]));
        assert!(!made.windows(6).any(|bytes| bytes == b"s3cret"), "{part}");
    }
}

#[test]
fn a_value_that_is_empty_is_none() {
    let empty = Given { user: Some(String::new()), headers: vec![("x-t", b"  ".to_vec())], ..given() };
    let list = parts(&["user", "header:x-t"]);
    assert_eq!(with_asked(&empty, |asked| asked.key(&list, "").1.cloned()), Some(KeyPart::User));
    assert_eq!(key(&empty, &list), key(&given(), &list));
}

/// Values from so few letters that they are alike often, and those that separate or end something among them.
fn any_given() -> impl Strategy<Value = Given> {
    let value = || "[a|\u{0}\u{1}:,]{0,3}";
    let header = |name| prop::option::of(value()).prop_map(move |value| value.map(|value| (name, value.into_bytes())));
    let address = prop_oneof![Just("192.0.2.0"), Just("::"), Just("2001:db8::")].prop_map(|text| text.parse().unwrap());
    (
        prop::option::of(address),
        prop::option::of(value()),
        header("x-a"),
        header("x-b"),
        header("x-api-key"),
        prop_oneof![Just("/"), Just("/a"), Just("/{a}")],
    )
        .prop_map(|(address, user, a, b, api_key, route)| Given {
            address,
            user,
            headers: [a, b, api_key].into_iter().flatten().collect(),
            route,
            method: "GET",
        })
}

fn any_parts() -> impl Strategy<Value = Vec<KeyPart>> {
    let all = ["ip", "user", "api_key", "header:x-a", "header:x-b", "route"].map(|text| KeyPart::parse(text).unwrap());
    prop::sample::subsequence(all.to_vec(), 1..=3)
}

/// What a key is of, written out without any encoding.
fn meaning(given: &Given, parts: &[KeyPart]) -> Vec<(KeyPart, Option<Vec<u8>>)> {
    let header = |wanted: &str| {
        let value = given.headers.iter().find(|(name, _)| *name == wanted)?.1.trim_ascii();
        (!value.is_empty()).then(|| value.to_vec())
    };
    let value = |part: &KeyPart| match part {
        KeyPart::Ip => given.address.map(|address| address.to_string().into_bytes()),
        KeyPart::User => given.user.clone().map(String::into_bytes).filter(|user| !user.is_empty()),
        KeyPart::ApiKey => header("x-api-key"),
        KeyPart::Header(name) => header(name),
        _ => Some(given.route.as_bytes().to_vec()),
    };
    parts.iter().map(|part| (part.clone(), value(part))).collect()
}

/// With what separates user and header moved from one to the other.
fn shifted(given: &Given) -> Given {
    let mut other = given.clone();
    let Some((user, (name, value))) = given.user.as_ref().zip(given.headers.first()) else { return other };
    let joined = [user.as_bytes(), b"|", value].concat();
    let at = joined.iter().position(|byte| *byte == b'|').filter(|at| *at != user.len());
    let at = at.or_else(|| joined.iter().rposition(|byte| *byte == b'|')).unwrap_or(user.len());
    other.user = Some(String::from_utf8_lossy(&joined[..at]).into_owned());
    other.headers[0] = (name, joined[at + 1..].to_vec());
    other
}

/// Two keys are the same exactly if what they are of is.
fn keys_tell_apart(key: fn(&Given, &[KeyPart]) -> Vec<u8>) -> bool {
    let given = (any_given(), any_given(), any_parts(), any_parts(), any::<bool>(), any::<bool>());
    let config = Config { cases: 4_000, failure_persistence: None, ..Config::default() };
    let law = |(one, other, parts, others, is_same_list, is_shifted): (Given, Given, Vec<_>, Vec<_>, bool, bool)| {
        // Else few pairs would be alike, or nearly so.
        let others = if is_same_list { parts.clone() } else { others };
        let other = if is_shifted { shifted(&one) } else { other };
        let is_same = meaning(&one, &parts) == meaning(&other, &others);
        prop_assert_eq!(key(&one, &parts) == key(&other, &others), is_same);
        Ok(())
    };
    TestRunner::new(config).run(&given, law).is_ok()
}

#[test]
fn different_clients_have_different_keys() {
    assert!(keys_tell_apart(|given, parts| key(given, parts).to_vec()));
}

#[test]
fn keys_that_collide_are_found_out() {
    // Values side by side, whatever they are of.
    assert!(!keys_tell_apart(|given, parts| {
        let text = |(_, value): &(_, Option<Vec<u8>>)| value.clone().unwrap_or_default();
        meaning(given, parts).iter().map(text).collect::<Vec<_>>().join(&b'|')
    }));
    // With what they are of, but a value may hold what separates them.
    assert!(!keys_tell_apart(|given, parts| {
        let values = meaning(given, parts).into_iter().map(|(_, value)| value.unwrap_or_default());
        let values = values.collect::<Vec<_>>().join(&b'|');
        [format!("{parts:?}").as_bytes(), &values].concat()
    }));
    // With their lengths, but without what they are of.
    assert!(!keys_tell_apart(|given, parts| {
        let sized = |(_, value): (_, Option<Vec<u8>>)| {
            value.map_or(vec![0xFF], |value| [&[u8::try_from(value.len()).unwrap()], &value[..]].concat())
        };
        meaning(given, parts).into_iter().flat_map(sized).collect()
    }));
}

proptest! {
    #[test]
    fn no_client_makes_a_key_too_long(
        user in prop::collection::vec(any::<char>(), 0..300), a in prop::collection::vec(1_u8.., 0..700),
    ) {
        let user: String = user.into_iter().collect();
        let long = Given { user: Some(user), headers: vec![("x-a", a.clone()), ("x-b", a)], ..given() };
        for list in [&["user"][..], &["header:x-a"], &["user", "header:x-a", "header:x-b"]] {
            prop_assert!(key(&long, &parts(list)).len() <= KEY_MAX);
        }
    }

    #[test]
    fn long_values_are_told_apart(a in prop::collection::vec(b'a'..=b'z', 250..260), at in 0_usize..250) {
        let mut b = a.clone();
        b[at] = b[at].wrapping_add(1);
        let of = |value: &Vec<u8>| key(&Given { headers: vec![("x-a", value.clone())], ..given() }, &parts(&["header:x-a"]));
        prop_assert_ne!(of(&a), of(&b));
        prop_assert_eq!(of(&a), of(&a));
    }
}
