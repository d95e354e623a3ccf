#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::policy::request::Headers;

fn policy(rules: &str) -> Policy {
    Policy::from_toml("test.toml", &format!("name = \"test\"\n{rules}")).unwrap()
}

fn request<'a>(method: &'a str, path: &'a str, headers: &'a dyn Headers) -> RequestView<'a> {
    RequestView { method, path, peer: Some("192.0.2.7".parse().unwrap()), user: None, headers }
}

const NO_HEADERS: &dyn Headers = &[("", ""); 0];

/// The names of the rules in force, a list for each group, and of the shadows.
fn names(policy: &Policy, request: &RequestView<'_>) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let Plan::Rules { groups, shadows, .. } = policy.plan(request) else { panic!("no rules are asked") };
    let name = |(place, _): &(usize, u32)| policy.rules()[*place].rule().name().to_owned();
    let names = |groups: Vec<Group>| groups.iter().map(|group| group.rules.iter().map(name).collect()).collect();
    (names(groups), names(shadows))
}

fn forced(policy: &Policy, request: &RequestView<'_>) -> Vec<Vec<String>> {
    names(policy, request).0
}

#[test]
fn all_rules_that_match_apply_and_those_of_one_key_together() {
    let policy = policy(
        r#"
        rules = [
            { name = "all", key = "ip", rate = "100/s" },
            { name = "users", route = ["/users", "/users/{id}"], key = ["ip"], rate = "10/s", cost = 2 },
            { name = "posts", route = "/users/{id}", methods = "POST", key = ["user", "ip"], rate = "1/s" },
            { name = "also", key = ["ip", "user"], rate = "5/s" },
            { name = "reads", methods = ["GET"], key = "global", rate = "5/s" },
        ]"#,
    );
    for (method, path, expected) in [
        ("POST", "/users/7", vec![vec!["all", "users"], vec!["posts", "also"]]),
        ("PUT", "/users", vec![vec!["all", "users"], vec!["also"]]),
        ("GET", "/", vec![vec!["all"], vec!["also"], vec!["reads"]]),
        ("HEAD", "/", vec![vec!["all"], vec!["also"], vec!["reads"]]),
        ("get", "/", vec![vec!["all"], vec!["also"]]),
    ] {
        assert_eq!(forced(&policy, &request(method, path, NO_HEADERS)), expected, "{method} {path}");
    }
    let Plan::Rules { groups, .. } = policy.plan(&request("PUT", "/users", NO_HEADERS)) else { panic!() };
    assert_eq!(groups[0].rules, [(0, 1), (1, 2)]);
}

#[test]
fn keys_of_the_client_alone_are_asked_before_shared_ones() {
    let policy = policy(
        r#"
        rules = [
            { name = "all", key = "global", rate = "1000/s", priority = 9 },
            { name = "tenant", key = "header:x-tenant", rate = "100/s" },
            { name = "user", key = "user", rate = "10/s" },
            { name = "each", key = "ip", rate = "10/s" },
            { name = "each here", key = ["ip", "method"], rate = "5/s" },
        ]"#,
    );
    let headers = [("x-tenant", "acme")];
    let request = request("GET", "/", &headers);
    // Nobody is signed in: those share a key.
    assert_eq!(forced(&policy, &request), [["each"], ["each here"], ["all"], ["tenant"], ["user"]]);
    let ann = RequestView { user: Some("ann"), ..request };
    assert_eq!(forced(&policy, &ann), [["user"], ["each"], ["each here"], ["all"], ["tenant"]]);
}

#[test]
fn a_final_rule_ends_it_where_it_applies() {
    let policy = policy(
        r#"
        rules = [
            { name = "low", key = "ip", rate = "1/s" },
            { name = "beside", key = "ip", rate = "1/s", priority = 5 },
            { name = "final", route = "/health", key = "ip", rate = "9/s", priority = 5, final = true },
            { name = "keyed", key = "api_key", rate = "9/s", priority = 7, final = true, missing = "skip" },
            { name = "high", key = "ip", rate = "2/s", priority = 9 },
        ]"#,
    );
    let plan = |path, headers| forced(&policy, &request("GET", path, headers)).concat();
    assert_eq!(plan("/", NO_HEADERS), ["high", "beside", "low"]);
    assert_eq!(plan("/health", NO_HEADERS), ["high", "beside", "final"]);
    // A rule that is skipped ends nothing.
    assert_eq!(plan("/health", &[("x-api-key", "k")]), ["high", "keyed"]);
}

#[test]
fn shadows_change_nothing_but_among_themselves() {
    let policy = policy(
        r#"
        rules = [
            { name = "low", key = "ip", rate = "1/s" },
            { name = "shadow low", key = "ip", rate = "1/s", shadow = true },
            { name = "shadow final", key = "ip", rate = "1/s", shadow = true, final = true, priority = 1 },
            { name = "shadow key", key = "user", rate = "1/s", shadow = true, missing = "deny", priority = 2 },
        ]"#,
    );
    let request = request("GET", "/", NO_HEADERS);
    let (forced, shadows) = names(&policy, &request);
    assert_eq!((forced.concat(), shadows.concat()), (vec!["low".to_owned()], vec!["shadow final".to_owned()]));
    let Plan::Rules { shadow_missing, .. } = policy.plan(&request) else { panic!() };
    assert_eq!(shadow_missing, [Missing { rule: 3, part: KeyPart::User }]);
}

#[test]
fn what_lacks_a_part_is_limited_unless_the_rule_says_otherwise() {
    let of = |missing: &str| {
        policy(&format!("rules = [{{ name = \"r\", key = [\"ip\", \"api_key\"], rate = \"1/s\"{missing} }}]"))
    };
    let bare = request("GET", "/", NO_HEADERS);
    let headers = [("x-api-key", "k")];
    let keyed = request("GET", "/", &headers);
    for missing in ["", ", missing = \"anonymous\""] {
        let policy = of(missing);
        let (Plan::Rules { groups: bare, .. }, Plan::Rules { groups: keyed, .. }) =
            (policy.plan(&bare), policy.plan(&keyed))
        else {
            panic!()
        };
        assert_eq!((bare.len(), keyed.len()), (1, 1));
        assert_ne!(bare[0].key, keyed[0].key);
    }
    assert!(forced(&of(", missing = \"skip\""), &bare).is_empty());
    assert_eq!(of(", missing = \"deny\"").plan(&bare), Plan::Missing(Missing { rule: 0, part: KeyPart::ApiKey }));
    assert_eq!(forced(&of(", missing = \"deny\""), &keyed).len(), 1);
}

#[test]
fn lists_come_first_and_denying_before_allowing() {
    let digest = sha256(b"k2").iter().fold(String::new(), |text, byte| format!("{text}{byte:02X}"));
    let policy = policy(&format!(
        r#"
        allow = ["ip:192.0.2.0/24", "user:ann", "key:k1", "key_sha256:{digest}", "ip:10.0.0.0/8"]
        deny = ["ip:203.0.113.1", "user:bob"]
        clients = {{ trusted_proxies = "10.0.0.0/8", forwarded = "x-forwarded-for" }}
        "#
    ));
    let plan = |peer: &str, user, headers: &[(&str, &str)]| {
        let peer = Some(peer.parse().unwrap());
        policy.plan(&RequestView { method: "GET", path: "/", peer, user, headers: &headers })
    };
    let allow = |entry| Plan::Listed { listing: Listing::Allow, entry };
    let deny = |entry| Plan::Listed { listing: Listing::Deny, entry };
    assert_eq!(plan("192.0.2.9", None, &[]), allow(0));
    assert_eq!(plan("::ffff:192.0.2.9", None, &[]), allow(0));
    assert_eq!(plan("198.51.100.1", Some("ann"), &[]), allow(1));
    assert_eq!(plan("198.51.100.1", None, &[("X-API-Key", "k1")]), allow(2));
    assert_eq!(plan("198.51.100.1", None, &[("X-API-Key", "k2")]), allow(3));
    assert_eq!(plan("203.0.113.1", None, &[]), deny(0));
    assert_eq!(plan("192.0.2.9", Some("bob"), &[]), deny(1));
    let nothing = Plan::Rules { groups: Vec::new(), shadows: Vec::new(), shadow_missing: Vec::new() };
    assert_eq!(plan("198.51.100.1", Some("Ann"), &[("X-API-Key", "k3")]), nothing);
    // Through a proxy: the client counts, and a proxy that does not say for whom it speaks is not let through for its own address.
    assert_eq!(plan("10.1.1.1", None, &[("X-Forwarded-For", "192.0.2.9")]), allow(0));
    assert_eq!(plan("10.1.1.1", None, &[("X-Forwarded-For", "192.0.2.9, 203.0.113.1")]), deny(0));
    assert_eq!(plan("10.1.1.1", None, &[("X-Forwarded-For", "192.0.2.9, unknown")]), nothing);
    assert_eq!(plan("10.1.1.1", None, &[]), nothing);
}

#[test]
fn routes_are_counted_by_pattern() {
    let policy =
        policy(r#"rules = [{ name = "r", route = ["/a/{id}", "/b/*"], key = ["ip", "route"], rate = "1/s" }]"#);
    let key = |path| match policy.plan(&request("GET", path, NO_HEADERS)) {
        Plan::Rules { groups, .. } => groups[0].key.clone(),
        _ => panic!(),
    };
    assert_eq!(key("/a/1"), key("/a/2"));
    assert_eq!(key("/b"), key("/b/1/2"));
    assert_ne!(key("/a/1"), key("/b/1"));
}

#[test]
fn two_routes_of_one_path_are_two_keys() {
    let policy = policy(
        r#"
        rules = [
            { name = "all", route = "/*", key = ["ip", "route"], rate = "9/s" },
            { name = "a", route = "/a", key = ["ip", "route"], rate = "1/s" },
            { name = "also a", route = ["/b", "/a"], key = ["route", "ip"], rate = "2/s" },
        ]"#,
    );
    assert_eq!(forced(&policy, &request("GET", "/a", NO_HEADERS)), [vec!["all"], vec!["a", "also a"]]);
}

#[test]
fn within_a_line_an_ipv6_client_has_one_key() {
    let policy = policy("rules = [{ name = \"r\", key = \"ip\", rate = \"1/s\" }]");
    let key = |peer: &str| {
        let peer = Some(peer.parse().unwrap());
        match policy.plan(&RequestView { method: "GET", path: "/", peer, user: None, headers: NO_HEADERS }) {
            Plan::Rules { groups, .. } => groups[0].key.clone(),
            _ => panic!(),
        }
    };
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
    assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
}

proptest! {
    /// Whatever a client that is no proxy puts into a request but the API key, it is counted by the same keys.
    #[test]
    fn no_client_chooses_its_key(
        method in "(GET|POST|[A-Z]{1,5})", path in "(/[a-c%{}*.]{0,3}){0,4}",
        headers in prop::collection::vec(("(x-forwarded-for|forwarded|x-real-ip|[a-z]{1,4})", ".{0,20}"), 0..5),
    ) {
        let policy = policy(
            "clients = { trusted_proxies = \"10.0.0.0/8\", forwarded = \"forwarded\" }
             rules = [
                { name = \"a\", key = [\"ip\", \"user\"], rate = \"1/s\" },
                { name = \"b\", key = [\"ip\", \"route\"], route = \"/*\", rate = \"1/s\" },
             ]",
        );
        let keys = |request: &RequestView<'_>| match policy.plan(request) {
            Plan::Rules { groups, .. } => groups.into_iter().map(|group| group.key).collect::<Vec<_>>(),
            _ => Vec::new(),
        };
        prop_assert_eq!(keys(&request(&method, &path, &headers)), keys(&request("GET", "/", NO_HEADERS)));
    }
}
