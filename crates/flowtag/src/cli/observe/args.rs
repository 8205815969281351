//! What all commands that observe are asked in the same words: which flows, for how long, how often, by what.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use flowtag_kernel::probes::{Context, Scope, netns_of, own_netns};
use flowtag_wire::expression::{Expression, Facts};
use flowtag_wire::tag::{Experiment, Tag};
use ipnet::IpNet;

use super::names::Names;

/// Which flows, for how long, and how they are shown.
#[derive(Debug, Args)]
pub(in crate::cli) struct Watch {
    /// Flows that are wanted, as `tcp and net 2001:db8::/32 and not port 22` (docs/observe.md)
    #[arg(value_name = "EXPRESSION")]
    expression: Vec<String>,
    /// Only of this owner: EXPERIMENT or EXPERIMENT/ACTIVITY, names or numbers
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Only of this process
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Only of this cgroup and those in it: a path, or a unit's name
    #[arg(long, value_name = "CGROUP")]
    cgroup: Option<String>,
    /// Only in this network namespace: all, self, a name, a PID or a number [default: all if the command runs in that of
    /// the host, else self]
    #[arg(long, value_name = "NETNS")]
    netns: Option<String>,
    /// Only with this port at either end
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only with peers of this address or prefix
    #[arg(long, value_name = "ADDRESS[/LEN]", value_parser = peer)]
    peer: Option<IpNet>,
    /// Sums every so often, in place of a line for each event: `5s`, or a number of seconds
    #[arg(short, long, value_name = "TIME", value_parser = time)]
    pub(super) interval: Option<Duration>,
    /// End after this time: `1m`, or a number of seconds
    #[arg(short, long, value_name = "TIME", value_parser = time)]
    pub(super) duration: Option<Duration>,
    /// Sums by flow, tag, experiment, process, pid, cgroup, unit, user, peer, interface, netns or a column's key in JSON
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(super) by: Vec<String>,
    /// Sums by flow
    #[arg(short, long, conflicts_with = "by")]
    pub(super) count: bool,
    /// Socket of the daemon, which knows tags [default: inputs.control.path of the configuration]
    #[arg(long, value_name = "PATH", env = "FLOWTAG_SOCKET")]
    pub(super) socket: Option<PathBuf>,
}

fn peer(text: &str) -> Result<IpNet, String> {
    let addr = || text.parse().map(|addr: std::net::IpAddr| IpNet::from(addr));
    text.parse()
        .or_else(|_| addr())
        .map_err(|_| "neither an address nor a prefix as 2001:db8::/32".to_owned())
}

/// A number alone is of seconds, as other tools of this kind have it.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let seconds = || text.parse().ok().and_then(|s: f64| Duration::try_from_secs_f64(s).ok());
    let time = seconds().map_or_else(|| humantime::parse_duration(text).map_err(|e| e.to_string()), Ok)?;
    if time < Duration::from_millis(10) { Err("at least 10ms".to_owned()) } else { Ok(time) }
}

/// Which records are wanted, beyond what the kernel's programs leave out by themselves.
#[derive(Debug)]
pub(super) struct Wanted {
    expression: Expression,
    experiment: Option<Experiment>,
    tag: Option<Tag>,
    pid: Option<u32>,
    cgroup: Option<String>,
}

impl Watch {
    /// What the kernel's programs are told.
    pub(super) fn scope(&self) -> Result<Scope> {
        let netns = match self.netns.as_deref() {
            None => {
                let own = own_netns()?;
                (netns_of("/proc/1/ns/net").ok() != Some(own)).then_some(own)
            }
            Some("all") => None,
            Some("self") => Some(own_netns()?),
            Some(name) => Some(named_netns(name)?),
        };
        Ok(Scope { netns, port: self.port, peer: self.peer, ..Scope::default() })
    }

    /// # Errors
    /// An expression or a tag that cannot be read.
    pub(super) fn wanted(&self, names: &Names) -> Result<Wanted> {
        let text = self.expression.join(" ");
        let expression = text.parse().with_context(|| format!("cannot read the expression {text:?}"))?;
        let (experiment, tag) = match self.tag.as_deref() {
            None => (None, None),
            Some(text) if text.contains('/') => (None, Some(names.registry().resolve(text)?)),
            Some(text) => (Some(names.registry().resolve_experiment(text)?), None),
        };
        Ok(Wanted { expression, experiment, tag, pid: self.pid, cgroup: self.cgroup.clone() })
    }
}

fn named_netns(name: &str) -> Result<u32> {
    let named = Path::new("/run/netns").join(name);
    if name.contains('/') {
        return netns_of(name).with_context(|| format!("{name} is no file of a network namespace"));
    }
    if named.exists() {
        return Ok(netns_of(named)?);
    }
    let Ok(number) = name.parse() else {
        bail!(
            "there is no network namespace {name:?}: `ip netns` lists those with names; a PID or a number will do, too"
        )
    };
    Ok(netns_of(format!("/proc/{number}/ns/net")).unwrap_or(number))
}

impl Wanted {
    pub(super) fn wants(&self, context: &Context, names: &Names) -> bool {
        let owner = &context.owner;
        if self.tag.is_some_and(|tag| context.tag != Some(tag))
            || self.experiment.is_some_and(|e| context.tag.map(|tag| tag.experiment) != Some(e))
            || self.pid.is_some_and(|pid| owner.pid != Some(pid))
        {
            return false;
        }
        let cgroup = owner.cgroup.and_then(|id| names.cgroup(id));
        if let Some(wanted) = &self.cgroup
            && !cgroup.as_deref().is_some_and(|path| is_in(path, wanted))
        {
            return false;
        }
        if self.expression == Expression::Any {
            return true;
        }
        let interface = context.interface.and_then(|index| names.interface(context.netns, index));
        self.expression.matches(&Facts {
            protocol: context.flow.map(|f| f.protocol),
            local: context.flow.map(|f| f.local),
            remote: context.flow.map(|f| f.remote),
            tag: context.tag,
            pid: owner.pid,
            user: owner.user,
            process: owner.process.as_deref(),
            cgroup: cgroup.as_deref(),
            interface: interface.as_deref(),
        })
    }
}

/// A path means all below it; a name any directory on the way.
fn is_in(path: &str, wanted: &str) -> bool {
    match wanted.strip_prefix('/') {
        Some(wanted) => {
            let wanted = wanted.trim_end_matches('/');
            path.trim_start_matches('/')
                .strip_prefix(wanted)
                .is_some_and(|r| r.is_empty() || r.starts_with('/'))
        }
        None => path.split('/').any(|part| part == wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_a_path_or_a_name_on_it() {
        for (path, wanted, expected) in [
            ("/system.slice/xrootd.service", "xrootd.service", true),
            ("/system.slice/xrootd.service/worker", "xrootd.service", true),
            ("/system.slice/xrootd.service", "xrootd", false),
            ("/system.slice/xrootd.service", "/system.slice", true),
            ("/system.slices", "/system.slice", false),
            ("/", "/", true),
        ] {
            assert_eq!(is_in(path, wanted), expected, "{path} in {wanted}");
        }
    }

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        assert_eq!(time("5"), Ok(Duration::from_secs(5)));
        assert_eq!(time("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(time("1m"), Ok(Duration::from_secs(60)));
        assert!(time("0").is_err() && time("x").is_err() && time("-1").is_err());
    }
}
