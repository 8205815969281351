//! Rules by hand, and what is compiled of random ones compared with what they mean.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{ProptestConfig, Strategy as Values, prop_assert_eq, proptest};
use proptest::sample::select;

use super::compile::{PORTS, name};
use super::*;

impl Compiled {
    /// What the program finds with these maps: as `match` in `rules.bpf.h`.
    fn first(&self, subject: &Subject) -> Option<usize> {
        let mut left: RuleSet =
            std::array::from_fn(|word| if word < self.bank.words as usize { !0 } else { 0 });
        let process = subject.process.as_ref().map_or([0, 0], |p| name(p));
        let user = subject.user.map_or(!0, u64::from);
        let exact = [
            (0, [u64::from(subject.protocol), 0]),
            (1, [u64::from(subject.interface), 0]),
            (2, [user, 0]),
            (3, process),
        ];
        for (dimension, value) in exact {
            let class = self.value(dimension, value).unwrap_or(self.bank.any[usize::from(dimension)]);
            self.narrow(&mut left, dimension, &self.set(class));
        }
        let cgroups = subject.cgroups.iter().filter_map(|id| self.value(4, [*id, 0]));
        let either = cgroups.fold(self.set(self.bank.any[4]), |mut either, class| {
            either.iter_mut().zip(self.set(class)).for_each(|(word, other)| *word |= other);
            either
        });
        self.narrow(&mut left, 4, &either);
        for (dimension, ports, end) in
            [(5, &self.local_ports, subject.local), (6, &self.remote_ports, subject.remote)]
        {
            if let Some(classes) = ports {
                self.narrow(&mut left, dimension, &self.set(classes[usize::from(end.port())]));
            }
        }
        for (dimension, end) in [(7, subject.local), (8, subject.remote)] {
            let class = self.longest(dimension == 8, end.addr());
            let class = class.unwrap_or(self.bank.any[usize::from(dimension)]);
            self.narrow(&mut left, dimension, &self.set(class));
        }
        let (word, bits) = left.iter().enumerate().find(|(_, bits)| **bits != 0)?;
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    fn narrow(&self, left: &mut RuleSet, dimension: u8, by: &RuleSet) {
        if self.bank.used >> dimension & 1 == 1 {
            left.iter_mut().zip(by).for_each(|(word, other)| *word &= other);
        }
    }

    fn set(&self, class: Class) -> RuleSet {
        self.sets[usize::from(class)]
    }

    fn value(&self, dimension: u8, value: [u64; 2]) -> Option<Class> {
        self.values.iter().find(|v| v.dimension == dimension && v.value == value).map(|v| v.class)
    }

    fn longest(&self, remote: bool, addr: IpAddr) -> Option<Class> {
        let bits = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let holds = |p: &&Prefix| {
            let differing = (u128::from_be_bytes(p.addr) ^ bits).leading_zeros();
            p.remote == remote && differing >= u32::from(p.len)
        };
        self.prefixes.iter().filter(holds).max_by_key(|p| p.len).map(|p| p.class)
    }
}

fn tag(experiment: u64, activity: u64) -> Tag {
    Tag::new(experiment, activity).unwrap()
}

fn mark() -> Action {
    Action::Mark { tags: vec![tag(3, 14)], strategy: Strategy::LABEL }
}

fn rule(name: &str) -> Rule {
    Rule::new(name, mark())
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// From `[2001:db8::1]:40000` to `remote`, by interface 2, of user 1000, process `xrootd`, cgroup 30 in 20 in 1.
fn subject(remote: &str) -> Subject {
    let remote: Endpoint = remote.parse().unwrap();
    let local = if remote.addr().is_ipv4() { "192.0.2.1:40000" } else { "[2001:db8::1]:40000" };
    Subject {
        interface: 2,
        user: Some(1000),
        process: Some("xrootd".to_owned()),
        cgroups: vec![30, 20, 1],
        ..Subject::new(6, local.parse().unwrap(), remote)
    }
}

fn compiled(rules: &[Rule]) -> Compiled {
    compile(rules, &mut |_| 7).unwrap()
}

/// By the rules themselves and by what is compiled of them.
fn matches(rule: Rule, subject: &Subject) -> bool {
    let by_maps = compiled(std::slice::from_ref(&rule)).first(subject).is_some();
    assert_eq!(rule.matches(subject), by_maps, "{rule:?}");
    by_maps
}

#[test]
fn a_rule_without_conditions_matches_everything_and_no_rules_match_nothing() {
    let anything = subject("[2001:db8::2]:1094");
    assert!(matches(rule("all"), &anything));
    assert!(matches(rule("all"), &Subject::new(58, anything.local, anything.remote)));
    assert_eq!(compiled(&[]).first(&anything), None);
    assert_eq!(first(&[], &anything), None);
}

#[test]
fn every_condition_counts_and_one_value_of_each_is_enough() {
    let subject = subject("[2001:db8::2]:1094");
    let cgroup = |id, level| Cgroup { id, level };
    let rows: [(&str, bool, Rule); 18] = [
        ("tcp of two", true, Rule { protocols: vec![17, 6], ..rule("r") }),
        ("udp only", false, Rule { protocols: vec![17], ..rule("r") }),
        ("interface", true, Rule { interfaces: Some(vec![1, 2]), ..rule("r") }),
        ("no such interface", false, Rule { interfaces: Some(vec![]), ..rule("r") }),
        ("user", true, Rule { users: vec![0, 1000], ..rule("r") }),
        ("another user", false, Rule { users: vec![0], ..rule("r") }),
        ("process", true, Rule { processes: vec!["xrootd".into()], ..rule("r") }),
        ("process that begins alike", false, Rule { processes: vec!["xroot".into()], ..rule("r") }),
        ("cgroup", true, Rule { cgroups: Some(vec![cgroup(30, 2)]), ..rule("r") }),
        ("cgroup above", true, Rule { cgroups: Some(vec![cgroup(99, 1), cgroup(20, 1)]), ..rule("r") }),
        ("cgroup beside", false, Rule { cgroups: Some(vec![cgroup(31, 2)]), ..rule("r") }),
        ("no such cgroup", false, Rule { cgroups: Some(vec![]), ..rule("r") }),
        ("port", true, Rule { remote_ports: vec![80..=90, 1094..=1094], ..rule("r") }),
        ("port of the other end", false, Rule { local_ports: vec![1094..=1094], ..rule("r") }),
        ("last port", false, Rule { remote_ports: vec![65535..=65535], ..rule("r") }),
        ("prefix", true, Rule { remote: vec![net("2001:db8::/64")], ..rule("r") }),
        ("prefix with host bits", true, Rule { local: vec![net("2001:db8::ff/64")], ..rule("r") }),
        ("prefix of the other end", false, Rule { local: vec![net("2001:db8::2/128")], ..rule("r") }),
    ];
    for (what, expected, rule) in rows {
        assert_eq!(matches(rule, &subject), expected, "{what}");
    }
}

#[test]
fn all_conditions_must_hold() {
    let both = Rule { protocols: vec![6], users: vec![1000], ..rule("r") };
    assert!(matches(both.clone(), &subject("[2001:db8::2]:1094")));
    assert!(!matches(Rule { users: vec![0], ..both.clone() }, &subject("[2001:db8::2]:1094")));
    assert!(!matches(Rule { protocols: vec![17], ..both }, &subject("[2001:db8::2]:1094")));
}

#[test]
fn what_is_not_known_meets_no_condition() {
    let known = subject("[2001:db8::2]:1094");
    let unknown = Subject::new(6, known.local, known.remote);
    for rule in [
        Rule { users: vec![0, u32::MAX], ..rule("r") },
        Rule { processes: vec!["xrootd".into()], ..rule("r") },
        Rule { cgroups: Some(vec![Cgroup { id: 0, level: 0 }]), ..rule("r") },
    ] {
        assert!(!matches(rule, &unknown));
    }
}

#[test]
fn ipv4_is_met_by_its_own_prefixes_only() {
    let rows = [
        ("0.0.0.0/0", true),
        ("::ffff:0:0/96", true),
        ("::ffff:192.0.2.0/120", true),
        ("192.0.2.0/24", true),
        ("::/0", false),
        ("::/64", false),
        ("::/96", false),
        ("198.51.100.0/24", false),
    ];
    for (prefix, expected) in rows {
        let rule = Rule { remote: vec![net(prefix)], ..rule("r") };
        assert_eq!(matches(rule, &subject("192.0.2.9:1094")), expected, "{prefix}");
    }
    let v6 = Rule { remote: vec![net("0.0.0.0/0")], ..rule("r") };
    assert!(!matches(v6, &subject("[2001:db8::2]:1094")));
}

#[test]
fn the_first_rule_that_matches_applies_also_far_down() {
    let mut rules: Vec<Rule> = (0..1000_u32)
        .map(|n| Rule { users: vec![n + 5000], processes: vec![format!("p{n}")], ..rule(&format!("r{n}")) })
        .collect();
    rules[997] = Rule { remote: vec![net("2001:db8::/32")], ..rule("here") };
    rules[998] = rule("default");
    let compiled = compiled(&rules);
    for (remote, expected) in [("[2001:db8::2]:1094", 997), ("[2001:db9::2]:1094", 998)] {
        assert_eq!(first(&rules, &subject(remote)), Some(expected));
        assert_eq!(compiled.first(&subject(remote)), Some(expected));
    }
    assert_eq!(compiled.bank.words, 16);
}

#[test]
fn a_longer_prefix_keeps_the_rules_of_shorter_ones() {
    let rules = [
        Rule { remote: vec![net("2001:db8:1::/48")], users: vec![0], ..rule("root") },
        Rule { remote: vec![net("2001:db8::/32")], ..rule("site") },
    ];
    let compiled = compiled(&rules);
    assert_eq!(compiled.prefixes.len(), 2);
    assert_eq!(compiled.first(&subject("[2001:db8:1::2]:1094")), Some(1));
}

#[test]
fn a_rule_says_what_the_program_writes() {
    let strategy = Strategy::LABEL | Strategy::HOP_BY_HOP;
    let rules = [
        Rule::new("mark", Action::Mark { tags: vec![tag(3, 14), tag(2, 9)], strategy }),
        Rule::new("random", Action::Random { strategy: Strategy::DESTINATION }),
        Rule::new("never", Action::Never),
    ];
    let compiled = compile(&rules, &mut |tag| tag.activity.get()).unwrap();
    let label = |e, a| FlowLabel::from_tag(tag(e, a), Entropy::NONE).value();
    assert_eq!(
        compiled.actions,
        [
            RuleAction {
                action: 0,
                strategy: 5 << 20,
                tags: vec![label(3, 14) | 14 << 24, label(2, 9) | 9 << 24]
            },
            RuleAction { action: 2, strategy: 2 << 20, tags: vec![] },
            RuleAction { action: 1, strategy: 0, tags: vec![] },
        ]
    );
}

#[test]
fn the_bank_says_what_is_looked_at() {
    let rules = [
        Rule { protocols: vec![6], ..rule("a") },
        Rule {
            cgroups: Some(vec![Cgroup { id: 5, level: 3 }, Cgroup { id: 1, level: 0 }]),
            remote_ports: vec![1..=2],
            ..rule("b")
        },
    ];
    let Compiled { bank, sets, values, local_ports, remote_ports, .. } = compiled(&rules);
    assert_eq!((bank.words, bank.used, bank.cgroup_levels), (1, 1 | 1 << 4 | 1 << 6, 0b1001));
    let words: Vec<u64> = bank.any.iter().map(|class| sets[usize::from(*class)][0]).collect();
    assert_eq!(words, [0b10, 0b11, 0b11, 0b11, 0b01, 0b11, 0b01, 0b11, 0b11]);
    assert_eq!(values.len(), 3);
    assert_eq!(local_ports, None);
    assert_eq!(remote_ports.map(|p| p.len()), Some(PORTS));
}

#[test]
fn equal_sets_are_kept_once() {
    let rules =
        [Rule { users: (0..5000).collect(), remote_ports: vec![1..=1, 3..=3, 5..=9], ..rule("many") }];
    let compiled = compiled(&rules);
    assert_eq!(compiled.sets.len(), 2, "the rule, and nothing");
    assert_eq!(compiled.values.len(), 5000);
}

#[test]
fn what_cannot_be_compiled_is_named_with_the_fix() {
    let many = |count: usize| (0..count).map(|n| rule(&format!("r{n}"))).collect::<Vec<_>>();
    let tags =
        |count| Rule::new("tags", Action::Mark { tags: vec![tag(1, 1); count], strategy: Strategy::LABEL });
    let process = |name: &str| Rule { processes: vec![name.into()], ..rule("process") };
    let deep = Rule { cgroups: Some(vec![Cgroup { id: 9, level: 16 }]), ..rule("deep") };
    let rows: [(Vec<Rule>, [&str; 2]); 8] = [
        (many(1025), ["\"r1024\"", "limit of 1024"]),
        (vec![rule("twice"), rule("twice")], ["\"twice\"", "another name"]),
        (vec![tags(0)], ["\"tags\" has no tag", "\"random\""]),
        (vec![tags(17)], ["\"tags\" has 17 tags", "at most 16"]),
        (vec![process("xrootd-server-one")], ["\"process\"", "comm has, here \"xrootd-server-o\""]),
        (vec![process("")], ["\"process\"", "1 to 15 bytes"]),
        (vec![deep], ["\"deep\"", "at most 15 below"]),
        (vec![Rule { users: (0..8193).collect(), ..rule("users") }], ["\"users\"", "more than 8192"]),
    ];
    for (rules, expected) in rows {
        let error = compile(&rules, &mut |_| 0).unwrap_err().to_string();
        assert!(expected.iter().all(|words| error.contains(words)), "{error}");
    }
    assert!(compile(&many(1024), &mut |_| 0).is_ok());
}

/// Each rule has ranges that overlap those of its neighbours, and two users, one of which it shares with a rule far away: more than four sets a rule.
#[test]
fn combinations_are_bounded() {
    let rules: Vec<Rule> = (0..1000_u16)
        .map(|n| Rule {
            users: vec![n.into(), u32::from(n) + 500],
            local_ports: vec![n * 60..=n * 60 + 90],
            remote_ports: vec![n * 60..=n * 60 + 200],
            ..rule(&format!("r{n}"))
        })
        .collect();
    let sets = |rules| compile(rules, &mut |_| 0).map(|c| c.sets.len());
    let error = sets(&rules).unwrap_err();
    assert!(matches!(error, RulesError::TooMany { max: 4096, .. }), "{error}");
    assert!((2800..4096).contains(&sets(&rules[..800]).unwrap()));
}

fn names(rules: Vec<Rule>) -> Vec<String> {
    order(rules).iter().map(|r| r.name.to_string()).collect()
}

#[test]
fn the_longer_prefix_goes_first() {
    let to = |name: &str, prefix: &str| Rule { remote: vec![net(prefix)], ..rule(name) };
    let rules = vec![
        rule("all"),
        to("site", "2001:db8::/32"),
        to("other", "2001:db9::/32"),
        Rule { users: vec![0], ..to("root", "2001:db8:1::/48") },
        to("host", "2001:db8:1::7/128"),
        to("room", "2001:db8:1::/48"),
    ];
    assert_eq!(names(rules), ["host", "room", "site", "other", "all", "root"]);
}

#[test]
fn rules_that_overlap_in_part_or_ask_for_more_keep_their_order() {
    let between = |name: &str, local: &str, remote: &str| Rule {
        local: vec![net(local)],
        remote: vec![net(remote)],
        ..rule(name)
    };
    let kept = vec![
        between("a", "2001:db8::/32", "2001:db8::/48"),
        between("b", "2001:db8::/48", "2001:db8::/32"),
        Rule { protocols: vec![6], ..between("c", "2001:db8::/64", "2001:db8::/64") },
    ];
    assert_eq!(names(kept), ["a", "b", "c"]);
    let equal = vec![
        Rule { remote: vec![net("2001:db8::/33"), net("2001:db8:8000::/33")], ..rule("halves") },
        Rule { remote: vec![net("2001:db8::1/32")], ..rule("whole") },
    ];
    assert_eq!(names(equal), ["halves", "whole"]);
}

#[test]
fn the_order_in_which_values_are_written_does_not_matter() {
    let general = Rule { users: vec![1, 2], remote_ports: vec![1..=2, 5..=5], ..rule("general") };
    let specific = Rule {
        users: vec![2, 1, 1],
        remote_ports: vec![5..=5, 1..=2],
        remote: vec![net("192.0.2.0/24")],
        ..rule("specific")
    };
    assert_eq!(names(vec![general, specific]), ["specific", "general"]);
}

const NETS: [&str; 14] = [
    "::/0",
    "2001:db8::/32",
    "2001:db8::/48",
    "2001:db8::1/48",
    "2001:db8:0:1::/64",
    "2001:db8::1/128",
    "fe80::/10",
    "::ffff:10.1.0.0/112",
    "::/95",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.0.0/17",
    "10.1.128.0/17",
];

fn addrs() -> impl Values<Value = IpAddr> {
    select(vec![
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped()),
        IpAddr::V4(Ipv4Addr::new(10, 1, 128, 1)),
        IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 7)),
    ])
}

/// A tree of cgroups: `n` is in `n / 2`, up to 1.
fn cgroup_tree(id: u64) -> Vec<u64> {
    std::iter::successors(Some(id), |n| (*n > 1).then_some(n / 2)).collect()
}

/// Mostly without condition, so that rules match.
fn few<T: std::fmt::Debug>(value: impl Values<Value = T>) -> impl Values<Value = Vec<T>> {
    option::weighted(0.25, vec(value, 1..4)).prop_map(Option::unwrap_or_default)
}

fn ports() -> impl Values<Value = Vec<RangeInclusive<u16>>> {
    let edge = || select(vec![0_u16, 1, 99, 100, 101, 200, 65534, 65535]);
    few((edge(), edge()).prop_map(|(from, to)| from..=to))
}

fn nets() -> impl Values<Value = Vec<IpNet>> {
    option::weighted(0.5, vec(select(&NETS[..]).prop_map(net), 1..4)).prop_map(Option::unwrap_or_default)
}

fn rules() -> impl Values<Value = Vec<Rule>> {
    let cgroup = (1..16_u64).prop_map(|id| Cgroup { id, level: cgroup_tree(id).len() as u32 - 1 });
    let one = (
        (few(0..4_u8), option::weighted(0.25, vec(0..4_u32, 0..3)), few(0..4_u32)),
        (few(select(vec!["a", "b", "c"])), option::weighted(0.25, vec(cgroup, 0..3))),
        (ports(), ports()),
        (nets(), nets()),
    );
    let one = one.prop_map(|((protocols, interfaces, users), (processes, cgroups), ports, nets)| Rule {
        protocols,
        interfaces,
        users,
        processes: processes.into_iter().map(str::to_owned).collect(),
        cgroups,
        local_ports: ports.0,
        remote_ports: ports.1,
        local: nets.0,
        remote: nets.1,
        ..rule("")
    });
    vec(one, 0..130).prop_map(|mut rules| {
        rules.iter_mut().enumerate().for_each(|(n, rule)| rule.name = format!("r{n}").into());
        rules
    })
}

fn subjects() -> impl Values<Value = Vec<Subject>> {
    let port = || select(vec![0_u16, 1, 99, 100, 150, 201, 65535]);
    let one = (
        (0..5_u8, 0..5_u32, option::of(0..5_u32)),
        (option::of(select(vec!["a", "b", "d", "", "a-name-that-is-too-long"])), option::of(1..20_u64)),
        (addrs(), port(), addrs(), port()),
    );
    let one = one.prop_map(|((protocol, interface, user), (process, cgroup), ends)| Subject {
        interface,
        user,
        process: process.map(str::to_owned),
        cgroups: cgroup.map(cgroup_tree).unwrap_or_default(),
        ..Subject::new(protocol, Endpoint::new(ends.0, ends.1), Endpoint::new(ends.2, ends.3))
    });
    vec(one, 20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_program_finds_the_rule_that_is_meant(rules in rules(), subjects in subjects()) {
        let compiled = compiled(&rules);
        for subject in subjects {
            prop_assert_eq!(compiled.first(&subject), first(&rules, &subject), "{:?}", subject);
        }
    }

    /// Only a more specific rule takes packets from another, and one that was ordered already stays.
    #[test]
    fn ordering_gives_packets_to_more_specific_rules_only(
        nets in vec((nets(), nets(), 0..2_u32), 0..40),
        subjects in subjects(),
    ) {
        let rules: Vec<Rule> = nets.into_iter().enumerate().map(|(n, (local, remote, user))| {
            Rule { local, remote, users: vec![user], ..rule(&format!("r{n}")) }
        }).collect();
        let ordered = order(rules.clone());
        prop_assert_eq!(&order(ordered.clone()), &ordered);
        for subject in subjects {
            let before = first(&rules, &subject).map(|n| &rules[n]);
            let after = first(&ordered, &subject).map(|n| &ordered[n]);
            prop_assert_eq!(before.is_some(), after.is_some());
            if let (Some(before), Some(after)) = (before, after) && before != after {
                prop_assert_eq!(&order(vec![before.clone(), after.clone()]), &[after.clone(), before.clone()]);
            }
        }
    }
}
