//! What all commands that observe are asked in the same words: which flows, for how long, how often, by what.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use flowtag_engine::Registry;
use flowtag_kernel::cgroup;
use flowtag_kernel::probes::{Context, Scope, netns_of, own_netns};
use flowtag_wire::expression::{Expression, Facts, Whose};
use ipnet::IpNet;

use super::names::Names;

/// Which flows, for how long, and how they are shown.
#[derive(Debug, Args)]
pub(in crate::cli) struct Watch {
    /// Flows that are wanted, as `tcp and net 2001:db8::/32 and not port 22` (docs/observe.md)
    #[arg(value_name = "EXPRESSION")]
    expression: Vec<String>,
    /// Only of this owner: EXPERIMENT or EXPERIMENT/ACTIVITY, names or numbers; any: only of some owner
    #[arg(long, value_name = "TAG")]
    pub(super) tag: Option<String>,
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
    /// Sums by flow, tag, experiment, process, pid, cgroup, unit, user, peer, prefix, interface, netns or a column's key in JSON
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

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(365 * 86400);

/// A number alone is of seconds, as other tools of this kind have it.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let seconds = || text.parse().ok().and_then(|s: f64| Duration::try_from_secs_f64(s).ok());
    let time = seconds().map_or_else(|| humantime::parse_duration(text).map_err(|e| e.to_string()), Ok)?;
    if (SHORTEST..=LONGEST).contains(&time) { Ok(time) } else { Err("from 10ms to 365d".to_owned()) }
}

/// Which records are wanted, beyond what the kernel's programs leave out by themselves.
#[derive(Debug)]
pub(super) struct Wanted {
    /// What the command line says.
    always: Expression,
    expression: Expression,
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

    /// Whether flows are chosen by more than the programs know.
    pub(super) fn has_expression(&self) -> bool {
        !self.expression.is_empty()
    }

    /// # Errors
    /// An expression or a tag that cannot be read.
    pub(super) fn wanted(&self, names: &Names) -> Result<Wanted> {
        let text = self.expression.join(" ");
        let whose = |text: &str| whose(text, names.registry());
        let expression = Expression::parse_with(&text, &whose)
            .with_context(|| format!("cannot read the expression {text:?}; docs/observe.md has its words"))?;
        let tag = self.tag.as_deref().map(|text| match text {
            "any" => Ok(Expression::Tagged),
            _ => whose(text).map(Expression::from).map_err(|e| anyhow!(e)).context("cannot read --tag"),
        });
        let cgroup = self.cgroup.as_deref().map(|path| Expression::Cgroup(below_root(path)));
        let all = [tag.transpose()?, self.pid.map(Expression::Pid), cgroup];
        let expression = all.into_iter().flatten().fold(expression, Expression::and);
        Ok(Wanted { always: expression.clone(), expression })
    }
}

/// What a name of `tag` or `--tag` stands for.
fn whose(text: &str, registry: &Registry) -> Result<Whose, String> {
    let found = match text.contains('/') {
        true => registry.resolve(text).map(Whose::Tag),
        false => registry.resolve_experiment(text).map(Whose::Experiment),
    };
    found.map_err(|e| e.to_string())
}

/// A cgroup's directory, as shells complete it, is its path below the root of all.
fn below_root(path: &str) -> String {
    let root = cgroup::root().ok();
    let below = root.and_then(|root| Path::new(path).strip_prefix(root).ok());
    below.map_or_else(|| path.to_owned(), |below| format!("/{}", below.display()))
}

fn named_netns(name: &str) -> Result<u32> {
    if name.contains('/') {
        return netns_of(name).with_context(|| format!("{name} is no file of a network namespace"));
    }
    let named = Path::new(NAMED).join(name);
    if named.exists() {
        return Ok(netns_of(named)?);
    }
    let number: Option<u32> = name.parse().ok();
    if let Some(of_process) = number.and_then(|pid| netns_of(format!("/proc/{pid}/ns/net")).ok()) {
        return Ok(of_process);
    }
    number.filter(|number| all_netns().any(|netns| netns == *number)).ok_or_else(|| {
        anyhow!(
            "there is no network namespace {name:?}: give all, self, a name (`ip netns` lists them), the PID of a \
             process in it, or its number (`lsns -t net` lists them)"
        )
    })
}

/// Where network namespaces have names.
const NAMED: &str = "/run/netns";

/// Numbers of all network namespaces that have a name or a process.
fn all_netns() -> impl Iterator<Item = u32> {
    let list = |path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = list(NAMED).filter_map(|path| netns_of(path).ok());
    named.chain(list("/proc").filter_map(|path| netns_of(path.join("ns/net")).ok()))
}

impl Wanted {
    /// Another expression in place of the one before, beside what the command line says.
    ///
    /// # Errors
    /// One that cannot be read.
    pub(super) fn expect(&mut self, text: &str, names: &Names) -> Result<()> {
        let whose = |text: &str| whose(text, names.registry());
        let more = Expression::parse_with(text, &whose);
        let more = more.with_context(|| format!("cannot read the expression {text:?}"))?;
        self.expression = self.always.clone().and(more);
        Ok(())
    }

    /// What it was made from.
    pub(super) fn expression(&self) -> &Expression {
        &self.expression
    }

    pub(super) fn wants(&self, context: &Context, names: &Names) -> bool {
        if self.expression == Expression::Any {
            return true;
        }
        let owner = &context.owner;
        let cgroup = owner.cgroup.and_then(|id| names.cgroup(id));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        assert_eq!(time("5"), Ok(Duration::from_secs(5)));
        assert_eq!(time("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(time("1m"), Ok(Duration::from_secs(60)));
        assert!(time("0").is_err() && time("x").is_err() && time("-1").is_err());
        assert!(time("1e19").is_err() && time("366d").is_err());
    }
}
