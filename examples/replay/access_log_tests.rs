#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;

use super::*;

/// 2023-11-14 22:13:20 UTC.
const AT_S: u64 = 1_700_000_000;

fn parse(format: Format, line: &[u8]) -> Result<(u64, String, String, String), Malformed> {
    match Parser::new(format).parse(line)? {
        Line::Request(entry) => {
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            Ok((entry.at.as_micros() / 1_000_000, text(entry.client), text(entry.path), text(entry.agent)))
        }
        Line::Other => Err("other"),
    }
}

fn read(line: &str) -> (u64, String, String, String) {
    parse(Format::Auto, line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[track_caller]
fn assert_read(line: &str, client: &str, path: &str, agent: &str) {
    assert_eq!(read(line), (AT_S, client.to_owned(), path.to_owned(), agent.to_owned()), "{line}");
}

const TIME: &str = "[14/Nov/2023:23:13:20 +0100]";

#[test]
fn common_and_combined_are_read() {
    assert_read(&format!("10.0.0.1 - - {TIME} \"GET /a?b=c HTTP/1.1\" 200 12"), "10.0.0.1", "/a", "-");
    let combined = format!("2001:db8::1 - ann {TIME} \"POST /x HTTP/2.0\" 404 - \"-\" \"agent (x; y)\"");
    assert_read(&combined, "2001:db8::1", "/x", "agent (x; y)");
    assert_read(&format!("{combined} \"more\" 17"), "2001:db8::1", "/x", "agent (x; y)");
    assert_read(&format!("h - ann [the first] b {TIME} \"GET / HTTP/1.0\" - -"), "h", "/", "-");
}

#[test]
fn quotes_are_kept_together() {
    let line = format!(r#"h - - {TIME} "GET /a\"b HTTP/1.1" 200 1 "r\\" "say \"hi\" x" "#);
    assert_read(&line, "h", r#"/a\\\"b"#, r#"say \\\"hi\\\" x"#);
    assert_read(&format!(r#"h - - {TIME} "GET / HTTP/1.1" 200 1 "-" "an od"d one""#), "h", "/", r#"an od\"d one"#);
}

#[test]
fn strange_requests_stand_for_themselves() {
    assert_read(&format!("h - - {TIME} \"\" 400 0"), "h", "", "-");
    assert_read(&format!("h - - {TIME} \"-\" 408 0"), "h", "-", "-");
    assert_read(&format!("h - - {TIME} \"GET /old\" 200 0"), "h", "/old", "-");
    assert_read(&format!(r#"h - - {TIME} "\x16\x03\x01 \x02" 400 0"#), "h", r"\\x16\\x03\\x01 \\x02", "-");
    let raw = [format!("h - - {TIME} \"").as_bytes(), b"\x16\x03\xFF\x00", b"\" 400 0"].concat();
    assert_eq!(parse(Format::Auto, &raw).unwrap().2, r"\x16\x03\xff\x00");
}

#[test]
fn comma_separated_is_read() {
    let line = format!(
        r#"example.com,443,10.0.0.9,-,-,{TIME},1,2,3,4,5,6,-,200,"HTTP/1.1","GET","/p,q","?x=1","-","a, \"b\"",-"#
    );
    assert_read(&line, "10.0.0.9", "/p,q", r#"a, \\\"b\\\""#);
}

#[test]
fn what_policies_look_at_is_read() {
    let parts = |line: &str| {
        let mut parser = Parser::new(Format::Auto);
        let Ok(Line::Request(entry)) = parser.parse(line.as_bytes()) else { panic!("{line}") };
        [entry.method, entry.user, entry.referer, entry.host].map(|part| String::from_utf8_lossy(part).into_owned())
    };
    let combined = format!("h - ann smith {TIME} \"PUT /x HTTP/2.0\" 200 1 \"http://a/\" \"agent\"");
    assert_eq!(parts(&combined), ["PUT", "ann smith", "http://a/", "-"]);
    assert_eq!(parts(&format!("h - - {TIME} \"\" 400 0")), ["-", "-", "-", "-"]);
    let csv = format!(
        r#"example.com,443,10.0.0.9,-,bob,{TIME},1,2,3,4,5,6,-,200,"HTTP/1.1","POST","/p","","http://b/","agent",-"#
    );
    assert_eq!(parts(&csv), ["POST", "bob", "http://b/", "example.com"]);
    let sshd = "Dec 10 06:55:46 host sshd[17]: Failed password for root from 10.0.0.7 port 2 ssh2";
    assert_eq!(parts(sshd), ["-"; 4]);
}

#[test]
fn sshd_attempts_are_read() {
    let head = "Dec 10 06:55:46 host sshd[17]: ";
    let client = |message: &str| read(&format!("{head}{message}")).1;
    assert_eq!(client("Failed password for root from 10.0.0.7 port 2 ssh2"), "10.0.0.7");
    assert_eq!(client("Failed none for invalid user a from 10.9.9.9 from ::1 port 2 ssh2"), "::1");
    assert_eq!(client("Accepted publickey for ann from 10.0.0.8 port 2 ssh2"), "10.0.0.8");
    let other = Parser::new(Format::Auto).parse(b"Dec  1 06:55:46 host sshd[17]: Connection closed by 10.0.0.7");
    assert_eq!(other, Ok(Line::Other));
    let repeated = format!("{head}message repeated 5 times: [ Failed password for root from 10.0.0.7 port 2 ssh2]");
    let Ok(Line::Request(entry)) = Parser::new(Format::Auto).parse(repeated.as_bytes()) else { panic!("{repeated}") };
    assert_eq!((entry.client, entry.path, entry.repeats), (&b"10.0.0.7"[..], &b"root"[..], 5));
}

#[test]
fn a_new_year_is_later() {
    let mut parser = Parser::new(Format::Sshd);
    let mut at = |stamp: &str| {
        let line = format!("{stamp} host sshd[1]: Failed password for a from 10.0.0.1 port 1 ssh2");
        match parser.parse(line.as_bytes()) {
            Ok(Line::Request(entry)) => entry.at,
            other => panic!("{other:?}"),
        }
    };
    let before = at("Dec 31 23:59:59");
    assert_eq!(at("Jan  1 00:00:00").saturating_since(before).as_secs(), 1);
}

#[test]
fn what_is_missing_is_named() {
    for (line, why) in [
        ("", "no [time]: neither an access log's line nor sshd's"),
        ("h - - [14/Nov/2023:23:13:20 +0100] GET /", "no \"request\""),
        ("h [14/Nov/2023:23:13:20 +0100] \"GET /\" 200 1", "no identity or no user before the time"),
        ("h - - [14/Nix/2023:23:13:20 +0100] \"GET /\" 200 1", "no [time]"),
        ("h - - [14/Nov/1923:23:13:20 +0100] \"GET /\" 200 1", "no [time]"),
        ("h - - [14/Nov/2023:23:13:20 +0100] \"GET /\" two 1", "no status and bytes behind the request"),
        ("h - - [14/Nov/2023:23:13:20 +0100] \"GET /\" 200 1 \"-\"", "a referer but no \"agent\""),
        ("h - - [14/Nov/2023:23:13:20 +0100] \"GET /\" 200 1 more", "no \"referer\" behind the bytes"),
        ("a,1,c,-,-,[14/Nov/2023:23:13:20 +0100],1,2", "not seven counts behind the time"),
        ("Dec 10 06:55:46 h sshd[1]: Failed password for root from nowhere port 1", "the address is none"),
    ] {
        assert_eq!(parse(Format::Auto, line.as_bytes()), Err(why), "{line}");
    }
}

/// Bytes that look like a line, with anything put in.
fn near_lines() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        Just(b"10.0.0.1 - - ".to_vec()),
        Just(TIME.as_bytes().to_vec()),
        Just(b"a,1,h,-,-,".to_vec()),
        Just(b" \"GET / HTTP/1.1\" 200 1".to_vec()),
        Just(b",1,2,3,4,5,6,7,200,\"a\",\"b\",\"c\",\"d\",\"e\",\"f\"".to_vec()),
        Just(b"Dec 10 06:55:46 host sshd[17]: Failed password for ".to_vec()),
        Just(b"message repeated 5 times: [ ".to_vec()),
        Just(b" from 10.0.0.1".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
        proptest::sample::select(b"\"\\[] ,-".to_vec()).prop_map(|byte| vec![byte]),
    ];
    proptest::collection::vec(pieces, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_line_panics(line in near_lines(), noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        for format in [Format::Auto, Format::Combined, Format::Csv, Format::Sshd] {
            let _ = Parser::new(format).parse(&line);
            let _ = Parser::new(format).parse(&noise);
        }
    }

    /// Whatever a request, referer and agent hold, escaped as servers do it comes back.
    #[test]
    fn any_texts_come_back(texts in proptest::collection::vec("[ -~]{0,30}", 3)) {
        let escaped: Vec<String> = texts.iter().map(|text| text.replace('\\', "\\\\").replace('"', "\\\"")).collect();
        let line = format!("h - - {TIME} \"{}\" 200 1 \"{}\" \"{}\"", escaped[0], escaped[1], escaped[2]);
        let mut parser = Parser::new(Format::Combined);
        let Ok(Line::Request(entry)) = parser.parse(line.as_bytes()) else { panic!("{line}") };
        prop_assert_eq!(entry.agent, escaped[2].as_bytes());
    }
}
