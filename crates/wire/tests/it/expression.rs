//! Expressions: what they mean, how they are written, what is said of those that cannot be read.

use std::net::IpAddr;

use flowtag_wire::expression::{End, Expression, Facts, Whose};
use flowtag_wire::{Experiment, Tag};
use ipnet::IpNet;
use proptest::prelude::*;

fn parse(text: &str) -> Expression {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A transfer of 2001:db8::1 to 2001:db8:1::2, tagged 3/14.
fn facts() -> Facts<'static> {
    Facts {
        protocol: Some(6),
        local: "[2001:db8::1]:40000".parse().ok(),
        remote: "[2001:db8:1::2]:1094".parse().ok(),
        tag: Tag::new(3, 14).ok(),
        pid: Some(42),
        user: Some(1000),
        process: Some("a-very-long-nam"),
        cgroup: Some("/system.slice/xrootd@cms.service"),
        interface: Some("eth0"),
    }
}

#[test]
fn conditions_hold_of_what_is_known() {
    for (text, expected) in [
        ("", true),
        ("tcp", true),
        ("udp", false),
        ("ip6", true),
        ("ip", false),
        ("proto 6 and proto tcp and proto \\tcp", true),
        ("port 1094", true),
        ("port 1095", false),
        ("tcp port 1094", true),
        ("udp port 1094", false),
        ("tcp src port 1094", false),
        ("tcp dst port 1094", true),
        ("local port 40000", true),
        ("remote port 40000", false),
        ("src or dst port 40000", true),
        ("src and dst port 40000", false),
        ("src and dst net 2001:db8::/32", true),
        ("portrange 1000-1100", true),
        ("host 2001:db8::1", true),
        ("2001:db8::1", true),
        ("src 2001:db8::1", true),
        ("dst 2001:db8::/48", false),
        ("dst host 2001:db8::1", false),
        ("net 2001:db8:1::/48", true),
        ("ip6 net 2001:db8::/32", true),
        ("ip net 2001:db8::/32", false),
        ("tag 3/14", true),
        ("tag 3/15", false),
        ("tag 3", true),
        ("tag any", true),
        ("experiment 3", true),
        ("pid 42", true),
        ("user 0", false),
        ("process a-very-long-name-of-a-program", true),
        ("process a-very", false),
        ("cgroup xrootd@cms.service", true),
        ("cgroup /system.slice", true),
        ("cgroup /user.slice", false),
        ("interface eth0", true),
    ] {
        assert_eq!(parse(text).matches(&facts()), expected, "{text}");
    }
}

#[test]
fn what_is_not_known_holds_no_condition() {
    let unknown = Facts::default();
    for text in ["tcp", "port 80", "ip", "tag any", "pid 1", "process a", "cgroup /", "interface lo"] {
        assert!(!parse(text).matches(&unknown), "{text}");
        assert!(parse(&format!("not {text}")).matches(&unknown), "not {text}");
    }
}

/// pcap-filter(7): "Negation has highest precedence. Alternation and concatenation have equal precedence and associate left
/// to right"; what it gives as examples of values without a keyword.
#[test]
fn words_bind_as_in_pcap_filter() {
    for (text, same) in [
        ("tcp or udp and port 53", "(tcp or udp) and port 53"),
        ("tcp and port 53 or udp", "(tcp and port 53) or udp"),
        ("not tcp and port 53", "(not tcp) and port 53"),
        ("! tcp && ! ( udp || icmp )", "not tcp and not (udp or icmp)"),
        ("!tcp&&!(udp||icmp)", "not tcp and not (udp or icmp)"),
        ("port 80 or 443", "port 80 or port 443"),
        ("tcp port 80 or 443", "tcp port 80 or (tcp port 443)"),
        ("tcp port (80 or 443)", "(tcp and port 80) or (tcp and port 443)"),
        ("not host 192.0.2.1 and 192.0.2.2", "not host 192.0.2.1 and host 192.0.2.2"),
        ("src 192.0.2.1 or 198.51.100.0/24", "src host 192.0.2.1 or src net 198.51.100.0/24"),
        ("192.0.2.1 or 192.0.2.2", "host 192.0.2.1 or host 192.0.2.2"),
        ("dst port 80 or src port 80", "remote port 80 or local port 80"),
        ("net 192.168", "net 192.168.0.0/16"),
        ("net 10", "net 10.0.0.0/8"),
        ("net 192.0.2.0 mask 255.255.255.0", "net 192.0.2.0/24"),
        ("host ::ffff:192.0.2.1", "host 192.0.2.1"),
        ("net ::ffff:192.0.2.0/120", "net 192.0.2.0/24"),
        ("process 'and' or \"or\"", "process \"and\" or process \"or\""),
        ("process tcp", "process \"tcp\""),
    ] {
        assert_eq!(parse(text), parse(same), "{text}");
    }
}

#[test]
fn an_expression_that_cannot_be_read_says_where_and_what_would_do() {
    for (text, expected) in [
        ("port 8o", "at character 6, \"8o\": no port: it must be a number from 0 to 65535"),
        ("port 80-90", "at character 6, \"80-90\": no port: write `portrange` for several"),
        ("portrange 90-80", "at character 11, \"90-80\": the first port is above the last: write 80-90"),
        ("tcp and pport 80", "at character 9, \"pport\": no word of expressions: did you mean \"port\"?"),
        (
            "port 80 and hots 192.0.2.1",
            "at character 13, \"hots\": no port: it must be a number from 0 to 65535; or did you mean \"host\"?",
        ),
        ("port", "at character 5, its end: a port must stand here"),
        ("tcp and", "at character 8, its end: a condition must stand here, such as `port 443`"),
        ("(tcp", "at character 5, its end: a parenthesis is still open: close it with )"),
        ("tcp)", "at character 4, \")\": it closes nothing: leave it out, or open with ("),
        ("()", "at character 2, \")\": a condition must stand before it, such as `port 443`"),
        (
            "tcp udp",
            "at character 5, \"udp\": `and` or `or` must stand between conditions, and a name with blanks in quotes",
        ),
        (
            "host 192.0.2.0/24",
            "at character 6, \"192.0.2.0/24\": a host has no prefix length: write `net` for a prefix",
        ),
        (
            "net 192.0.2.1/24",
            "at character 5, \"192.0.2.1/24\": it has bits beyond its prefix: write `net 192.0.2.0/24`, or `host \
             192.0.2.1`",
        ),
        (
            "host example.org",
            "at character 6, \"example.org\": no address: it must be as 192.0.2.1 or 2001:db8::1, as names are not \
             looked up",
        ),
        (
            "tag cms",
            "at character 5, \"cms\": no number: names are not known here, write EXPERIMENT/ACTIVITY in numbers",
        ),
        ("tag 512/1", "at character 5, \"512/1\": experiment 512 is out of range: use 1 to 511"),
        ("src pid 1", "at character 1, \"src\": only host, net, port and portrange are of one end"),
        ("process \"a", "at character 9, \": a quote begins here and does not end: close it with \""),
        (
            "process and tcp",
            "at character 9, \"and\": the name of a process (in quotes, if it is a word of expressions) must stand here",
        ),
    ] {
        assert_eq!(text.parse::<Expression>().map_err(|e| e.to_string()), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn tags_may_have_names_that_somebody_else_knows() {
    let names = |text: &str| match text {
        "cms" => Ok(Whose::Experiment(Experiment::new(3).unwrap())),
        "cms/Analysis Input" => Ok(Whose::Tag(Tag::new(3, 14).unwrap())),
        other => Err(format!("{other} is not in the registry")),
    };
    let parse = |text: &str| Expression::parse_with(text, &names);
    assert_eq!(parse("tag cms"), parse("experiment cms"));
    assert_eq!(parse("tag \"cms/Analysis Input\"").unwrap().to_string(), "tag 3/14");
    let message = parse("tag atlas").unwrap_err().to_string();
    assert_eq!(message, "at character 5, \"atlas\": atlas is not in the registry");
    assert!(parse("experiment 'cms/Analysis Input'").is_err());
}

#[test]
fn an_expression_has_bounds() {
    let deep = |n: usize| "(".repeat(n) + "tcp" + &")".repeat(n);
    assert!(deep(Expression::MAX_DEPTH).parse::<Expression>().is_ok());
    assert!(deep(Expression::MAX_DEPTH + 1).parse::<Expression>().is_err());
    assert!("!".repeat(100_000).parse::<Expression>().is_err());
    let long = |n: usize| vec!["tcp"; n].join(" or ");
    assert!(long(Expression::MAX_CONDITIONS).parse::<Expression>().is_ok());
    assert!(long(Expression::MAX_CONDITIONS + 1).parse::<Expression>().is_err());
}

fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| IpNet::new(IpAddr::V4(bits.into()), len));
    let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, len)| IpNet::new(IpAddr::V6(bits.into()), len));
    prop_oneof![v4, v6].prop_map(|net| net.expect("the length fits").trunc())
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Either), Just(End::Local), Just(End::Remote), Just(End::Both)]
}

fn condition() -> impl Strategy<Value = Expression> {
    let tag = (1..=511u64, 1..=63u64).prop_map(|(e, a)| Tag::new(e, a).expect("in range"));
    prop_oneof![
        (end(), net()).prop_map(|(end, net)| Expression::Net(end, net)),
        (end(), any::<u16>(), any::<u16>()).prop_map(|(end, a, b)| Expression::Ports(
            end,
            a.min(b),
            a.max(b)
        )),
        (end(), any::<u16>()).prop_map(|(end, port)| Expression::Ports(end, port, port)),
        any::<u8>().prop_map(Expression::Protocol),
        Just(Expression::Ipv4),
        Just(Expression::Ipv6),
        Just(Expression::Tagged),
        tag.clone().prop_map(Expression::Tag),
        tag.prop_map(|tag| Expression::Experiment(tag.experiment)),
        any::<u32>().prop_map(Expression::Pid),
        any::<u32>().prop_map(Expression::User),
        any::<String>().prop_map(Expression::Process),
        any::<String>().prop_map(Expression::Cgroup),
        "and|or|not|tcp|any|[a-z0-9@.:-]{1,15}".prop_map(Expression::Interface),
    ]
}

fn expression() -> impl Strategy<Value = Expression> {
    condition().prop_recursive(6, 64, 2, |inner| {
        let pair = (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        prop_oneof![
            inner.prop_map(|one| Expression::Not(Box::new(one))),
            pair.clone().prop_map(|(a, b)| Expression::And(a, b)),
            pair.prop_map(|(a, b)| Expression::Or(a, b)),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same(expression in expression()) {
        let text = expression.to_string();
        prop_assert_eq!(text.parse::<Expression>(), Ok(expression), "{}", text);
    }

    #[test]
    fn no_text_is_too_much(text in any::<String>()) {
        let _ = text.parse::<Expression>();
    }

    #[test]
    fn no_words_are_too_much(words in prop::collection::vec(
        prop::sample::select(vec![
            "tcp", "ip6", "src", "dst", "or", "and", "not", "!", "(", ")", "host", "net", "port", "portrange", "proto",
            "tag", "any", "pid", "process", "80", "1-2", "192.0.2.0/24", "10", "mask", "255.0.0.0", "::1", "3/14", "\"a b\"",
        ]), 0..12)) {
        let text = words.join(" ");
        if let Ok(expression) = text.parse::<Expression>() {
            prop_assert_eq!(expression.to_string().parse::<Expression>(), Ok(expression.clone()), "{}", text);
            let _ = expression.matches(&facts());
        }
    }
}
