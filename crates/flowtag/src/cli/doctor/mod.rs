//! `flowtag doctor`: what works on this host, and what to do about the rest.
//!
//! The checks themselves are `flowtag_kernel::features` and the modules here; this file knows what the configuration
//! asks for, and so which lack matters. It must change nothing on the host, and must say of everything that it could
//! not look at why.

mod daemon;
mod hooks;
mod interfaces;
mod probes;
mod report;

use std::path::{Path, PathBuf};
use std::process;

use anyhow::Result;
use clap::Args;
use flowtag_kernel::features::{self, Check, Status};
use flowtag_kernel::mark::{self, Hook};

use crate::config::{Config, ConfigError, DEFAULT_PATH, Rule};

/// Say what works on this host, and what to do about the rest.
///
/// Changes nothing. The exit status is 0 when all that the configuration asks for works, and 1 when some of it does
/// not. Without root some things cannot be looked at: they are `unknown` and do not count as failures.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  flowtag doctor\n  flowtag doctor --config ./flowtag.toml\n  \
    flowtag --json doctor | jq '.checks[] | select(.status != \"ok\")'")]
pub(crate) struct Doctor {
    /// Configuration file [default: /etc/flowtag/flowtag.toml if it exists, else built-in defaults]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Doctor {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        let checks = examine(self.config.as_deref())?;
        if json {
            report::json(&checks)?
        } else {
            report::print(&checks)?
        }
        if !report::is_ok(&checks) {
            // The report has said it all: an error message would only repeat it.
            process::exit(1);
        }
        Ok(())
    }
}

/// Everything, in the order in which one thing depends on another.
fn examine(path: Option<&Path>) -> Result<Vec<Check>> {
    let (configuration, config) = configuration(path)?;
    let mut checks = vec![configuration, features::kernel(), features::btf()];
    // Before anything is loaded, which may raise the limit.
    let memlock = needed(&config, features::memlock());
    checks.extend([features::jit(), needed(&config, features::capabilities()), memlock]);
    checks.extend([features::lockdown(), features::unprivileged_bpf()]);
    let used = marking(&config, &mut checks);
    checks.extend(beyond_packets(&config));
    checks.extend(probes::checks(&config));
    checks.push(for_later(features::tracefs()));
    let (daemon, running) = daemon::check(&config);
    checks.extend(interfaces::checks(&config, used, running));
    checks.push(daemon);
    Ok(checks)
}

/// Loads and attaches; the hook that the daemon would use.
fn marking(config: &Config, checks: &mut Vec<Check>) -> Option<Hook> {
    let mut settings = mark::Settings { max_flows: config.max_flows, ..mark::Settings::default() };
    if let Some(mark) = &config.mark {
        settings.tc_priority = mark.tc_priority;
    }
    checks.push(needed(config, features::marking_program(&settings)));
    let choice = config.mark.as_ref().map(|m| m.hook);
    let hooks = hooks::judge(choice, features::tcx(), features::clsact());
    checks.extend([hooks.tcx, hooks.clsact]);
    let arrivals = config.mark.as_ref().is_some_and(|mark| mark.ingress);
    let ingress = features::ingress(choice.unwrap_or_default());
    checks.push(if arrivals { ingress } else { unneeded(ingress, "not needed, as mark.ingress = false") });
    hooks.used
}

/// What rules, options headers and marking without a daemon need.
fn beyond_packets(config: &Config) -> Vec<Check> {
    let pin = needed(config, features::pin_directory(config.pin.as_deref()));
    let names = |any: fn(&Rule) -> bool| config.mark.is_some() && config.rules.iter().any(any);
    let processes = names(|rule| !rule.processes.is_empty());
    let cgroups = processes || names(|rule| !rule.cgroups.is_empty());
    let required = |wanted: bool, check, why| if wanted { check } else { unneeded(check, why) };
    let cgroup2 = required(cgroups, features::cgroup2(), "no rule names a cgroup or a process");
    let [creation, closing] = features::sockets();
    let creation = required(processes, creation, "no rule names a process");
    let path_mtu = required(writes_headers(config), features::path_mtu(), "no strategy adds a header");
    vec![pin, cgroup2, creation, closing, path_mtu]
}

/// Whether packets get longer, by the configuration; a program may still announce a flow so.
fn writes_headers(config: &Config) -> bool {
    config.mark.as_ref().is_some_and(|mark| {
        let of_rules = config.rules.iter().filter_map(|rule| rule.strategy);
        of_rules.chain([mark.strategy]).any(|strategy| strategy.header_len() > 0)
    })
}

/// The file's check and what is in force; the defaults where the file cannot be used.
fn configuration(path: Option<&Path>) -> Result<(Check, Config)> {
    const NAME: &str = "configuration";
    let shown = path.unwrap_or(Path::new(DEFAULT_PATH)).display();
    let error = match Config::load(path) {
        Ok(config) if path.is_none() && !Path::new(DEFAULT_PATH).exists() => {
            return Ok((Check::ok(NAME, format!("built-in defaults: there is no {shown}")), config));
        }
        Ok(config) => return Ok((Check::ok(NAME, format!("{shown}")), config)),
        Err(error) => error,
    };
    let defaults = Config::parse("", "built-in defaults")?;
    Ok((unusable(&error, nix::unistd::geteuid().is_root()), defaults))
}

fn unusable(error: &ConfigError, root: bool) -> Check {
    const NAME: &str = "configuration";
    const INSTEAD: &str = "; the lines below are for the built-in defaults";
    match error {
        ConfigError::Read { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied && !root =>
        {
            Check::unknown(NAME, format!("{error} ({source}){INSTEAD}"), "run `flowtag doctor` as root")
        }
        ConfigError::Read { source, .. } => {
            let fix = "name a file that exists, or `flowtag config default` to make one";
            Check::missing(NAME, format!("{error} ({source}){INSTEAD}"), fix)
        }
        ConfigError::Syntax { .. } | ConfigError::Value { .. } | ConfigError::Rule { .. } => {
            let fix = "correct that line; `flowtag config default` tells what each key means";
            Check::missing(NAME, format!("{error}{INSTEAD}"), fix)
        }
    }
}

/// What only marking needs is no fault where marking is off.
fn needed(config: &Config, check: Check) -> Check {
    if config.mark.is_some() { check } else { unneeded(check, "not needed, as mark.enabled = false") }
}

/// A lack that the configuration does not ask to be filled.
fn unneeded(mut check: Check, why: &str) -> Check {
    if check.status == Status::Missing {
        check.status = Status::Warn;
        check.detail = format!("{}; {why}", check.detail);
    }
    check
}

/// Nothing that can be configured today needs it.
fn for_later(mut check: Check) -> Check {
    if check.status == Status::Missing {
        check.status = Status::Ok;
        check.detail += "; marking does not need it";
    }
    check
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_lack_counts_only_where_it_is_asked_for() {
        let lack = || Check::missing("x", "not there", "get it");
        let off = Config::parse("[mark]\nenabled = false", "t").expect("right");
        let on = Config::parse("", "t").expect("right");
        assert_eq!(needed(&on, lack()).status, Status::Missing);
        assert_eq!(needed(&off, lack()).status, Status::Warn);
        assert_eq!(for_later(lack()).status, Status::Ok);
        assert_eq!(for_later(lack()).remedy.as_deref(), Some("get it"));
        assert_eq!(needed(&off, Check::ok("x", "fine")), Check::ok("x", "fine"));
    }

    #[test]
    fn options_headers_are_asked_for_by_the_strategy_of_all_or_of_a_rule() {
        for (text, expected) in [
            ("", false),
            ("[mark]\nstrategy = \"label+destination\"", true),
            ("[[rules]]\ntag = \"3/14\"\nstrategy = \"hop-by-hop\"", true),
            ("[[rules]]\ntag = \"3/14\"\nstrategy = \"label\"", false),
            ("[mark]\nenabled = false\nstrategy = \"destination\"", false),
        ] {
            assert_eq!(writes_headers(&Config::parse(text, "t").expect("right")), expected, "{text}");
        }
    }

    #[test]
    fn a_file_that_only_root_may_read_is_not_wrong() {
        let refused = |kind: io::ErrorKind| ConfigError::Read { path: "f".into(), source: kind.into() };
        assert_eq!(unusable(&refused(io::ErrorKind::PermissionDenied), false).status, Status::Unknown);
        assert_eq!(unusable(&refused(io::ErrorKind::PermissionDenied), true).status, Status::Missing);
        assert_eq!(unusable(&refused(io::ErrorKind::NotFound), false).status, Status::Missing);
    }
}
