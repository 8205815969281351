//! The host's interfaces: which would be marked on, who else sees their packets, and who may keep them from us.

use std::collections::BTreeSet;

use flowtag_kernel::features::{self, AttachedProgram, Check, Place};
use flowtag_kernel::link::{self, Address, Interface};
use flowtag_kernel::mark::Hook;
use flowtag_kernel::tc::Direction;

use crate::config::{self, Config, Pattern};

/// Why an interface is marked on, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chosen {
    /// Marking is off.
    Off,
    /// No entry of `mark.interfaces` matches.
    No,
    /// "auto" or a glob matches: one that cannot be marked on is skipped.
    ByPattern,
    /// By its name: it must work.
    ByName,
}

impl Chosen {
    fn of(config: &Config, interface: &Interface, global: bool) -> Self {
        let Some(mark) = &config.mark else { return Self::Off };
        let matching = || mark.interfaces.iter().filter(|p| p.matches(&interface.name, global));
        match matching().next() {
            None => Self::No,
            Some(_) if matching().any(|p| matches!(p, Pattern::Name(_))) => Self::ByName,
            Some(_) => Self::ByPattern,
        }
    }

    const fn is_marked(self) -> bool {
        matches!(self, Self::ByPattern | Self::ByName)
    }
}

/// What the checks of one interface's programs depend on.
#[derive(Debug, Clone, Copy)]
struct Context {
    /// The hook that the daemon uses, or would use; none: marking is off.
    used: Option<Hook>,
    /// Priority of our clsact filter.
    priority: u16,
    /// Whether packets that arrive are looked at.
    ingress: bool,
    /// Whether the daemon runs, where that is known.
    running: Option<bool>,
}

/// The lines on interfaces. `used` is the hook that the daemon would use.
pub(super) fn checks(config: &Config, used: Option<Hook>, running: Option<bool>) -> Vec<Check> {
    let (interfaces, addresses) = match (link::all(), link::addresses()) {
        (Ok(interfaces), Ok(addresses)) => (interfaces, addresses),
        (Err(error), _) | (_, Err(error)) => {
            let detail = super::super::output::chain(&error.into());
            return vec![Check::unknown(
                "interfaces",
                detail,
                "is netlink (AF_NETLINK) allowed to this process?",
            )];
        }
    };
    let chosen: Vec<_> = interfaces.iter().map(|i| choose(config, i, &addresses)).collect();
    let mut checks = selection(config, &interfaces, &chosen);
    checks.extend(interfaces.iter().zip(&chosen).map(|(i, (chosen, global))| interface(i, *chosen, *global)));
    let priority = config.mark.as_ref().map_or(0, |m| m.tc_priority);
    let ingress = config.mark.as_ref().is_some_and(|m| m.ingress);
    let context = Context { used, priority, ingress, running };
    checks.extend(programs(&interfaces, &chosen, context));
    checks
}

fn choose(config: &Config, interface: &Interface, addresses: &BTreeSet<Address>) -> (Chosen, bool) {
    let global = addresses.iter().any(|a| a.interface == interface.index && a.global && a.addr.is_ipv6());
    (Chosen::of(config, interface, global), global)
}

/// Whether `mark.interfaces` names what exists, and finds anything.
fn selection(config: &Config, interfaces: &[Interface], chosen: &[(Chosen, bool)]) -> Vec<Check> {
    const KEY: &str = "mark.interfaces";
    let Some(mark) = &config.mark else {
        return vec![Check::ok(KEY, "not used, as mark.enabled = false")];
    };
    let names: Vec<_> = interfaces.iter().map(|i| i.name.as_str()).collect();
    let missing = mark.interfaces.iter().filter_map(|pattern| match pattern {
        Pattern::Name(name) if !names.contains(&name.as_str()) => Some(no_interface(name, &names)),
        _ => None,
    });
    let mut checks: Vec<_> = missing.collect();
    let marked = interfaces.iter().zip(chosen).filter(|(_, (c, _))| c.is_marked());
    let marked: Vec<_> = marked.map(|(i, _)| i.name.as_str()).collect();
    if !marked.is_empty() {
        checks.push(Check::ok(KEY, format!("chooses {}", marked.join(", "))));
    } else if checks.is_empty() {
        let detail = "chooses no interface: nothing is marked until one appears that it matches";
        checks.push(Check::warn(
            KEY,
            detail,
            "give an interface a global IPv6 address, or name interfaces there",
        ));
    }
    checks
}

fn no_interface(name: &str, names: &[&str]) -> Check {
    let detail = format!("{name:?} is not an interface of this host: the daemon would not start");
    let hint = config::suggest(name, names.iter().copied()).map(|h| format!("did you mean {h:?}? else "));
    let hint = hint.unwrap_or_default();
    let fix = format!("{hint}take it out, or write \"{name}*\" for one that comes later");
    Check::missing("mark.interfaces", detail, fix)
}

fn interface(interface: &Interface, chosen: Chosen, global: bool) -> Check {
    let name = format!("interface {}", interface.name);
    let address = if global { "global IPv6 address" } else { "no global IPv6 address" };
    let plan = match chosen {
        Chosen::Off => "marking is off",
        Chosen::No => "not marked on",
        Chosen::ByPattern | Chosen::ByName => "marked on",
    };
    let Some(kind) = kind(interface) else {
        let kind = format!("link type {} (ARPHRD) is not supported", interface.link_type);
        let fix = "mark on the Ethernet or tunnel device that carries its packets, or take it out of mark.interfaces";
        return match chosen {
            Chosen::ByName => Check::missing(
                name,
                format!("{kind}, {address}; named in mark.interfaces, so the daemon would not start"),
                fix,
            ),
            Chosen::ByPattern => {
                Check::warn(name, format!("{kind}, {address}; the daemon would skip it"), fix)
            }
            Chosen::Off | Chosen::No => Check::ok(name, format!("{kind}, {address}; {plan}")),
        };
    };
    Check::ok(name, format!("{kind}, {address}; {plan}"))
}

/// None: not supported.
fn kind(interface: &Interface) -> Option<&'static str> {
    match interface.link_header_len() {
        Ok(_) if interface.is_loopback() => Some("loopback"),
        Ok(0) => Some("no link header"),
        Ok(_) => Some("Ethernet"),
        Err(_) => None,
    }
}

/// Who is attached where.
fn programs(interfaces: &[Interface], chosen: &[(Chosen, bool)], context: Context) -> Vec<Check> {
    const NAME: &str = "attached programs";
    let mut checks = Vec::new();
    let mut failed = None;
    for (interface, (chosen, _)) in interfaces.iter().zip(chosen) {
        match features::attached(interface.index) {
            Ok(found) => {
                for direction in [Direction::Ingress, Direction::Egress] {
                    let found: Vec<_> = found.iter().filter(|p| p.direction == direction).collect();
                    let context = Context { used: context.used.filter(|_| chosen.is_marked()), ..context };
                    checks.extend((!found.is_empty()).then(|| hook(interface, direction, &found, context)));
                }
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => {
            let detail = super::super::output::chain(&error.into()).replace("\n  because: ", ": ");
            checks.push(Check::unknown(
                NAME,
                format!("not all can be listed: {detail}"),
                "run `flowtag doctor` as root",
            ));
        }
        None if checks.is_empty() => {
            checks.push(Check::ok(NAME, "none on the ingress or egress of any interface"));
        }
        None => {}
    }
    checks
}

/// One direction of one interface, with at least one program.
fn hook(
    interface: &Interface,
    direction: Direction,
    programs: &[&AttachedProgram],
    context: Context,
) -> Check {
    let way = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let name = format!("{way} {}", interface.name);
    let shown: Vec<_> = programs.iter().map(|p| describe(p)).collect();
    let shown = shown.join(", then ");
    if programs.iter().any(|p| p.is_ours()) && context.running == Some(false) {
        let detail =
            format!("{shown}; no flowtag runs: an earlier one left this, which goes on until its lease ends");
        return Check::warn(name, detail, "start flowtag, which takes it over, or `flowtag detach`");
    }
    if direction == Direction::Ingress && !context.ingress {
        return Check::ok(name, shown); // only what leaves is looked at
    }
    match obstacle(programs, context) {
        None => Check::ok(name, shown),
        Some((problem, fix)) if problem.fatal => {
            Check::missing(name, format!("{shown}; {}", problem.text), fix)
        }
        Some((problem, fix)) => Check::warn(name, format!("{shown}; {}", problem.text), fix),
    }
}

/// `tcx cil_to_netdev (id 9)`, `clsact 3 u32`, and whose it is if it is ours.
fn describe(program: &AttachedProgram) -> String {
    let ours = if program.is_ours() { " = flowtag" } else { "" };
    let name = program.name.as_deref();
    match &program.place {
        Place::Tcx { id } => format!("tcx {} (id {id}){ours}", name.unwrap_or("without a name")),
        Place::Clsact { priority, kind } => {
            let name = name.map(|n| format!(" {n}")).unwrap_or_default();
            format!("clsact {kind}{name} (priority {priority}){ours}")
        }
    }
}

/// What keeps us from the packets.
struct Problem {
    text: &'static str,
    /// The daemon cannot attach at all.
    fatal: bool,
}

/// Whether somebody who is asked before us can keep packets from us: all but a verdict to go on ends the list.
fn obstacle(programs: &[&AttachedProgram], context: Context) -> Option<(Problem, String)> {
    const PASS: &str = "have its owner let packets go on to the next (TC_ACT_UNSPEC, tc: action continue)";
    let foreign = || programs.iter().filter(|p| !p.is_ours());
    match context.used? {
        // The head of the list is taken by who came last: only once we are there can anybody be before us.
        Hook::Tcx => {
            let ours = programs.iter().position(|p| p.is_ours())?;
            let before = programs[..ours].iter().any(|p| !p.is_ours());
            let text = "what runs before flowtag may hide packets from it";
            before.then(|| {
                (
                    Problem { text, fatal: false },
                    format!(
                        "stop flowtag, `flowtag detach`, and start it, which goes to the head; or {PASS}"
                    ),
                )
            })
        }
        Hook::Clsact => {
            let taken = |p: &&&AttachedProgram| matches!(&p.place, Place::Clsact { priority, kind } if *priority == context.priority && kind != "bpf");
            if foreign().any(|p| taken(&p)) {
                let text = "a filter of another kind has flowtag's priority, so flowtag cannot attach";
                return Some((Problem { text, fatal: true }, "set mark.tc_priority to a free one".into()));
            }
            let before = foreign().filter_map(|p| before_ours(&p.place, context.priority)).min()?;
            let text = "what runs before flowtag may hide packets from it";
            let lower =
                if before > 1 { format!("set mark.tc_priority below {before}; or ") } else { String::new() };
            Some((Problem { text, fatal: false }, format!("{lower}{PASS}")))
        }
    }
}

/// Priority of a program that runs before our clsact filter; 0 for tcx, which no clsact filter can precede. Filters
/// of one priority run as they were added.
fn before_ours(place: &Place, ours: u16) -> Option<u16> {
    match place {
        Place::Tcx { .. } => Some(0),
        Place::Clsact { priority, .. } => (*priority <= ours).then_some(*priority),
    }
}

#[cfg(test)]
mod tests {
    use flowtag_kernel::features::Status;

    use super::*;

    const ETHERNET: u16 = 1;
    const INFINIBAND: u16 = 32;

    fn device(name: &str, link_type: u16) -> Interface {
        Interface { index: 2, name: name.into(), link_type, mtu: 1500 }
    }

    fn config(interfaces: &str) -> Config {
        Config::parse(&format!("[mark]\ninterfaces = [{interfaces}]"), "t").expect("right")
    }

    fn program(place: Place, name: Option<&str>) -> AttachedProgram {
        AttachedProgram { direction: Direction::Egress, place, name: name.map(str::to_owned) }
    }

    fn filter(priority: u16, kind: &str, name: Option<&str>) -> AttachedProgram {
        program(Place::Clsact { priority, kind: kind.into() }, name)
    }

    #[test]
    fn an_interface_that_cannot_be_marked_on_matters_as_far_as_it_was_asked_for() {
        for (interfaces, link_type, global, expected) in [
            ("\"auto\"", ETHERNET, true, (Status::Ok, "marked on")),
            ("\"auto\"", ETHERNET, false, (Status::Ok, "not marked on")),
            ("\"auto\"", INFINIBAND, true, (Status::Warn, "skip")),
            ("\"auto\"", INFINIBAND, false, (Status::Ok, "not supported")),
            ("\"x*\", \"x0\"", INFINIBAND, true, (Status::Missing, "not start")),
            ("\"x*\"", ETHERNET, false, (Status::Ok, "marked on")),
        ] {
            let device = device("x0", link_type);
            let check = interface(&device, Chosen::of(&config(interfaces), &device, global), global);
            assert_eq!(check.status, expected.0, "{interfaces} {check:?}");
            assert!(check.detail.contains(expected.1), "{interfaces} {check:?}");
        }
    }

    #[test]
    fn a_name_that_is_no_interface_is_missing_and_the_nearest_is_named() {
        let (devices, chosen) = ([device("eth0", ETHERNET)], [(Chosen::No, false)]);
        let [check] = selection(&config("\"eth1\""), &devices, &chosen).try_into().expect("one");
        assert_eq!(check.status, Status::Missing);
        assert!(check.remedy.expect("a fix").contains("did you mean \"eth0\"?"));
        let [check] = selection(&config("\"auto\""), &devices, &chosen).try_into().expect("one");
        assert_eq!(check.status, Status::Warn);
    }

    #[test]
    fn who_runs_before_us_is_told_by_hook_and_order() {
        let (tcx, clsact) = (Some(Hook::Tcx), Some(Hook::Clsact));
        let ours_tcx = program(Place::Tcx { id: 2 }, Some("flowtag_mark"));
        let other_tcx = program(Place::Tcx { id: 1 }, Some("other"));
        let nameless_tcx = program(Place::Tcx { id: 1 }, None);
        let ours = filter(7, "bpf", Some("flowtag_mark:[2]"));
        let [low, high] = [3, 9].map(|priority| filter(priority, "u32", None));
        let same = filter(7, "matchall", None);
        for (description, used, programs, expected) in [
            ("alone", tcx, vec![&ours_tcx], Status::Ok),
            ("we are first", tcx, vec![&ours_tcx, &other_tcx], Status::Ok),
            ("another came later", tcx, vec![&other_tcx, &ours_tcx], Status::Warn),
            ("one without a name", tcx, vec![&nameless_tcx, &ours_tcx], Status::Warn),
            ("we would go to the head", tcx, vec![&other_tcx], Status::Ok),
            ("clsact runs after tcx", tcx, vec![&low], Status::Ok),
            ("a lower priority", clsact, vec![&low], Status::Warn),
            ("a lower priority, and ours", clsact, vec![&low, &ours], Status::Warn),
            ("a higher priority", clsact, vec![&ours, &high], Status::Ok),
            ("our priority by another kind", clsact, vec![&same], Status::Missing),
            ("tcx before clsact", clsact, vec![&other_tcx, &ours], Status::Warn),
            ("not marked on", None, vec![&low], Status::Ok),
        ] {
            let context = Context { used, priority: 7, ingress: true, running: None };
            let check = hook(&device("eth0", ETHERNET), Direction::Egress, &programs, context);
            assert_eq!(check.status, expected, "{description}: {check:?}");
            assert_eq!(check.remedy.is_some(), expected != Status::Ok, "{description}: {check:?}");
        }
    }

    #[test]
    fn what_runs_before_us_on_arrival_matters_only_where_arrivals_are_looked_at() {
        let low = filter(3, "u32", None);
        for (ingress, expected) in [(true, Status::Warn), (false, Status::Ok)] {
            let context = Context { used: Some(Hook::Clsact), priority: 7, ingress, running: None };
            let check = hook(&device("eth0", ETHERNET), Direction::Ingress, &[&low], context);
            assert_eq!(check.status, expected, "{check:?}");
        }
    }

    #[test]
    fn a_free_priority_is_named_where_there_is_one() {
        let context = Context { used: Some(Hook::Clsact), priority: 7, ingress: true, running: None };
        let fix = |priority| obstacle(&[&filter(priority, "u32", None)], context).expect("an obstacle").1;
        assert!(fix(3).starts_with("set mark.tc_priority below 3; or "));
        assert!(fix(1).starts_with("have its owner"), "there is no priority below 1");
    }

    #[test]
    fn what_is_attached_without_a_daemon_was_left_behind() {
        let ours = filter(7, "bpf", Some("flowtag_mark:[2]"));
        for (running, expected) in [(Some(false), Status::Warn), (Some(true), Status::Ok), (None, Status::Ok)]
        {
            let context = Context { used: Some(Hook::Clsact), priority: 7, ingress: true, running };
            let check = hook(&device("eth0", ETHERNET), Direction::Egress, &[&ours], context);
            assert_eq!(check.status, expected, "{running:?}");
            assert!(check.detail.contains("= flowtag"), "{check:?}");
        }
    }
}
