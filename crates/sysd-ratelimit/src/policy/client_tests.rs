#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

fn proxies(forwarded: Forwarded) -> Proxies {
    let trusted = ["10.0.0.0/8", "2001:db8:1::/48"].map(|text| network(text).unwrap());
    Proxies { trusted: trusted.to_vec(), forwarded }
}

fn found(forwarded: Forwarded, peer: &str, headers: &[(&str, &str)]) -> Client {
    let peer = Some(peer.parse().unwrap());
    let request = RequestView { method: "GET", path: "/", peer, user: None, headers: &headers };
    proxies(forwarded).client(&request).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const XFF: &str = "X-Forwarded-For";

#[test]
fn the_first_address_that_is_no_proxy_from_the_right_is_the_client() {
    for (list, client) in [
        ("192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7"),
        ("6.6.6.6,192.0.2.7 , 10.2.2.2,10.1.1.1", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711, 2001:db8:1::2", "2001:db8::7"),
        ("::ffff:192.0.2.7, ::ffff:10.1.1.1", "192.0.2.7"),
        ("6.6.6.6, , 192.0.2.7, ,", "192.0.2.7"),
        ("garbage, 192.0.2.7", "192.0.2.7"),
    ] {
        for peer in ["10.9.9.9", "::ffff:10.9.9.9", "2001:db8:1::1"] {
            let client = Client { address: address(client), is_certain: true };
            assert_eq!(found(Forwarded::XForwardedFor, peer, &[(XFF, list)]), client, "{list}");
        }
    }
    let lines = [(XFF, "6.6.6.6"), ("accept", "7.7.7.7"), (XFF, "192.0.2.7"), ("x-forwarded-for", "10.1.1.1")];
    assert_eq!(found(Forwarded::XForwardedFor, "10.9.9.9", &lines).address, address("192.0.2.7"));
}

#[test]
fn where_the_list_breaks_off_the_last_proxy_stands() {
    for (list, last) in [
        ("", "10.9.9.9"),
        ("10.1.1.1", "10.1.1.1"),
        ("192.0.2.7, unknown", "10.9.9.9"),
        ("192.0.2.7, nonsense, 10.1.1.1", "10.1.1.1"),
        ("192.0.2.7, 010.1.1.1", "10.9.9.9"),
        ("192.0.2.7, 10.1.1", "10.9.9.9"),
        ("192.0.2.7, [2001:db8:1::1", "10.9.9.9"),
        ("192.0.2.7, [2001:db8:1::1]x", "10.9.9.9"),
        ("192.0.2.7, 10.1.1.1:", "10.9.9.9"),
        ("192.0.2.7, 10.1.1.1:123456", "10.9.9.9"),
    ] {
        let client = Client { address: address(last), is_certain: false };
        assert_eq!(found(Forwarded::XForwardedFor, "10.9.9.9", &[(XFF, list)]), client, "{list}");
    }
    // No farther than the cap.
    let proxies = vec!["10.1.1.1"; FORWARDED_MAX - 1].join(",");
    for (more, client) in [("", "192.0.2.7"), (",10.1.1.1", "10.1.1.1")] {
        let list = format!("192.0.2.7,{proxies}{more}");
        assert_eq!(found(Forwarded::XForwardedFor, "10.9.9.9", &[(XFF, &list)]).address, address(client));
    }
}

#[test]
fn only_the_chosen_header_is_read() {
    let both = [(XFF, "1.1.1.1"), ("Forwarded", "for=2.2.2.2")];
    for (forwarded, client) in
        [(Forwarded::None, "10.9.9.9"), (Forwarded::XForwardedFor, "1.1.1.1"), (Forwarded::Rfc7239, "2.2.2.2")]
    {
        assert_eq!(found(forwarded, "10.9.9.9", &both).address, address(client));
    }
}

#[test]
fn forwarded_is_read_as_rfc_7239_has_it() {
    for (list, client) in [
        ("for=192.0.2.7", Some("192.0.2.7")),
        ("For=\"192.0.2.7:80\";proto=http;by=10.1.1.1", Some("192.0.2.7")),
        ("proto=http; for=\"[2001:db8::7]:4711\"", Some("2001:db8::7")),
        ("for=6.6.6.6, for=\"[2001:db8::7]\"", Some("2001:db8::7")),
        ("for=192.0.2.7;host=\"a, for=6.6.6.6\"", Some("192.0.2.7")),
        ("for=192.0.2.7;host=\"a\\\", for=6.6.6.6\"", Some("192.0.2.7")),
        ("for=\"6.6.6.6, for=192.0.2.7;host=\"a\"", Some("192.0.2.7")),
        ("for=192.0.2.7, for=10.1.1.1, for=\"10.1.1.2:99\"", Some("192.0.2.7")),
        ("for=\"\\1\\92.0.2.7\"", Some("192.0.2.7")),
        ("for=6.6.6.6, for=unknown", None),
        ("for=6.6.6.6, for=_hidden", None),
        ("for=6.6.6.6, for=\"_hidden:80\"", None),
        ("for=6.6.6.6, proto=http", None),
        ("for=6.6.6.6, for=1.1.1.1;for=2.2.2.2", None),
        ("for=6.6.6.6, for", None),
        ("for=6.6.6.6, for=\"1.1.1.1\"x", None),
        ("for=6.6.6.6, for=1.1.1.1\"", None),
    ] {
        let found = found(Forwarded::Rfc7239, "10.9.9.9", &[("forwarded", list)]);
        let expected = client.map_or(address("10.9.9.9"), address);
        assert_eq!(found, Client { address: expected, is_certain: client.is_some() }, "{list}");
    }
}

#[test]
fn networks_are_read_or_say_what_to_write() {
    for (text, read) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
    ] {
        assert_eq!(network(text).unwrap().to_string(), read);
    }
    for (text, hint) in [
        ("10.0.0.0/33", "write one like"),
        ("10.0.0/8", "write one like"),
        ("10.0.0.0/-1", "write one like"),
        ("example.org", "write one like"),
        ("", "write one like"),
        ("10.0.0.1/8", "write 10.0.0.0/8"),
    ] {
        assert!(network(text).unwrap_err().contains(hint), "{text}");
    }
}

/// The client's address, as some way to find it says.
type Finder = fn(&Proxies, &RequestView<'_>) -> IpAddr;

fn ours(proxies: &Proxies, request: &RequestView<'_>) -> IpAddr {
    proxies.client(request).unwrap().address
}

/// The first of the list, as the most common mistake has it.
fn leftmost(proxies: &Proxies, request: &RequestView<'_>) -> IpAddr {
    let peer = request.peer.unwrap().to_canonical();
    let name = if proxies.forwarded == Forwarded::Rfc7239 { "forwarded" } else { "x-forwarded-for" };
    let first = request.header(name).and_then(|list| std::str::from_utf8(list).ok());
    let first = first.and_then(|list| list.split(',').find_map(|entry| node(entry.trim().trim_start_matches("for="))));
    first.filter(|_| proxies.trusts(peer)).unwrap_or(peer)
}

/// The last of the list, whoever sends it.
fn from_anybody(proxies: &Proxies, request: &RequestView<'_>) -> IpAddr {
    let name = if proxies.forwarded == Forwarded::Rfc7239 { "forwarded" } else { "x-forwarded-for" };
    let mut last = None;
    request.headers.visit(name, &mut |line| {
        let line = std::str::from_utf8(line).unwrap_or_default();
        last = line.rsplit(',').find_map(|entry| node(entry.trim().trim_start_matches("for="))).or(last);
    });
    last.filter(|last| !proxies.trusts(*last)).unwrap_or(request.peer.unwrap().to_canonical())
}

/// Past the garbage, as if it were not there.
fn over_garbage(proxies: &Proxies, request: &RequestView<'_>) -> IpAddr {
    let peer = request.peer.unwrap().to_canonical();
    let mut known = Vec::new();
    request.headers.visit("x-forwarded-for", &mut |line| {
        known.extend(std::str::from_utf8(line).unwrap_or_default().split(',').filter_map(|entry| node(entry.trim())));
    });
    let client = known.into_iter().rev().find(|address| !proxies.trusts(*address));
    client.filter(|_| proxies.trusts(peer)).unwrap_or(peer)
}

/// An address that is no proxy's, as its text.
fn stranger() -> impl Strategy<Value = String> {
    prop_oneof![
        (11_u8..=255, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| format!("{a}.{b}.{c}.{d}")),
        (11_u8..=255, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| format!("::ffff:{a}.{b}.{c}.{d}")),
        any::<[u16; 5]>().prop_map(|[a, b, c, d, e]| format!("2001:db8:2:{a:x}:{b:x}:{c:x}:{d:x}:{e:x}")),
    ]
}

fn proxy() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<[u8; 3]>().prop_map(|[b, c, d]| format!("10.{b}.{c}.{d}")),
        any::<[u8; 3]>().prop_map(|[b, c, d]| format!("::ffff:10.{b}.{c}.{d}")),
        any::<u16>().prop_map(|a| format!("2001:db8:1::{a:x}")),
    ]
}

/// What a client may send: well-formed, nearly so, anything.
fn junk() -> impl Strategy<Value = String> {
    let element = prop_oneof![
        stranger(),
        proxy(),
        stranger().prop_map(|address| format!("for={address}")),
        proxy().prop_map(|address| format!("for=\"[{address}]:80\"")),
        "[for=\"\\\\,; a-f0-9:.\\[\\]_]{0,12}",
        ".{0,8}",
    ];
    prop::collection::vec(element, 0..5).prop_map(|elements| elements.join(","))
}

fn element(forwarded: Forwarded, address: &str) -> String {
    match forwarded {
        Forwarded::Rfc7239 if address.contains(':') => format!("for=\"[{address}]:80\";proto=https"),
        Forwarded::Rfc7239 => format!("proto=https;for={address}"),
        _ => address.to_owned(),
    }
}

fn forms() -> impl Strategy<Value = Forwarded> {
    prop_oneof![Just(Forwarded::XForwardedFor), Just(Forwarded::Rfc7239)]
}

fn holds<S: Strategy>(given: &S, law: impl Fn(S::Value) -> Result<(), TestCaseError>) -> bool {
    TestRunner::new(Config { failure_persistence: None, ..Config::default() }).run(given, law).is_ok()
}

/// Whatever one that is no proxy sends, it is who connects.
fn strangers_are_who_connects(find: Finder) -> bool {
    holds(&(forms(), stranger(), prop::collection::vec(junk(), 0..3)), |(forwarded, peer, lines)| {
        let headers: Vec<_> =
            lines.iter().flat_map(|line| [("x-forwarded-for", line.as_str()), ("forwarded", line.as_str())]).collect();
        let peer = address(&peer);
        let request = RequestView { method: "GET", path: "/", peer: Some(peer), user: None, headers: &headers };
        prop_assert_eq!(find(&proxies(forwarded), &request), peer.to_canonical());
        Ok(())
    })
}

/// What a client sends is before what the proxies add, and so does not matter.
fn proxies_have_the_last_word(find: Finder) -> bool {
    let given = (forms(), junk(), stranger(), prop::collection::vec(proxy(), 0..3), proxy(), any::<bool>());
    holds(&given, |(forwarded, junk, client, hops, peer, in_lines)| {
        let name = if forwarded == Forwarded::Rfc7239 { "forwarded" } else { "x-forwarded-for" };
        let mut lines = vec![junk];
        for added in [&client].into_iter().chain(&hops).map(|address| element(forwarded, address)) {
            match lines.last_mut() {
                Some(line) if !in_lines => *line = format!("{line}, {added}"),
                _ => lines.push(added),
            }
        }
        let headers: Vec<_> = lines.iter().map(|line| (name, line)).collect();
        let peer = Some(address(&peer));
        let request = RequestView { method: "GET", path: "/", peer, user: None, headers: &headers };
        prop_assert_eq!(find(&proxies(forwarded), &request), address(&client).to_canonical());
        Ok(())
    })
}

/// Where a proxy could not say whom it speaks for, nothing that stands before is believed.
fn nothing_before_garbage_counts(find: Finder) -> bool {
    holds(&(junk(), "(unknown|_[a-z]{1,6}|[0-9]{4}\\.1)", proxy()), |(junk, garbage, peer)| {
        let peer = address(&peer);
        let headers = [("x-forwarded-for", format!("{junk},{garbage}"))];
        let request = RequestView { method: "GET", path: "/", peer: Some(peer), user: None, headers: &headers };
        prop_assert_eq!(find(&proxies(Forwarded::XForwardedFor), &request), peer.to_canonical());
        Ok(())
    })
}

#[test]
fn no_client_chooses_its_address() {
    assert!(strangers_are_who_connects(ours));
    assert!(proxies_have_the_last_word(ours));
    assert!(nothing_before_garbage_counts(ours));
}

#[test]
fn broken_ways_to_find_the_client_are_found_out() {
    assert!(!strangers_are_who_connects(from_anybody));
    assert!(!proxies_have_the_last_word(leftmost));
    assert!(!nothing_before_garbage_counts(over_garbage));
    // Mapped addresses taken as IPv6: a client would have two addresses, and a proxy two faces.
    let as_it_is: Finder = |_, request| request.peer.unwrap();
    assert!(!strangers_are_who_connects(as_it_is));
}

/// `Forwarded` cut at its commas from the left, quotes and all: one that is left open reaches over the rest.
#[test]
fn a_quote_left_open_would_hide_what_follows_if_read_from_the_left() {
    let line = "for=\"6.6.6.6, for=192.0.2.7";
    let mut is_quoted = false;
    let cuts = line.bytes().filter(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b',' && !is_quoted
    });
    assert_eq!(cuts.count(), 0);
    assert_eq!(found(Forwarded::Rfc7239, "10.9.9.9", &[("forwarded", line)]).address, address("192.0.2.7"));
}
