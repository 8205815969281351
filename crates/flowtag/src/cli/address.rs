//! `flowtag address`: which address reports have in place of one of this host, and why.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::output;
use crate::client::block_on;
use crate::config::Config;
use crate::supervisor::addresses::{self, Explanation, Why};

/// Show the addresses that reports have in place of those of this host.
#[derive(Debug, Args)]
#[command(after_help = "Asks by itself, with the configuration ([addresses]); no daemon has to run.\n\n\
    Examples:\n  \
    flowtag address                    all addresses of this host\n  \
    flowtag address 10.0.0.5 fd00::5   these, also of other hosts\n  \
    flowtag --json address | jq -r 'select(.how == \"no-answer\") | .tried[].error'")]
pub(crate) struct Address {
    /// Addresses [default: all of this host but loopback and link-local]
    #[arg(value_name = "IP")]
    ips: Vec<IpAddr>,
    /// Configuration file [default: /etc/flowtag/flowtag.toml if it exists, else built-in defaults]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Address {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        let config = Config::load(self.config.as_deref())?.addresses;
        let ips = if self.ips.is_empty() { of_this_host()? } else { self.ips };
        let found = block_on(async {
            let ips = ips.into_iter().map(|ip| ip.to_canonical());
            // Side by side: one that waits for a dead server holds up no other.
            Ok(futures_util::future::join_all(
                ips.map(async |ip| (ip, addresses::explain(&config, ip).await)),
            )
            .await)
        })?;
        if json {
            return found.iter().try_for_each(|(ip, explanation)| output::json(&as_json(*ip, explanation)));
        }
        print(&found)
    }
}

fn of_this_host() -> Result<Vec<IpAddr>> {
    let all = flowtag_kernel::link::addresses().context("cannot list the addresses of this host")?;
    let is_global = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let ips: BTreeSet<IpAddr> = all.iter().map(|a| a.addr).filter(is_global).collect();
    Ok(ips.into_iter().collect())
}

fn print(found: &[(IpAddr, Explanation)]) -> Result<()> {
    let mut table = output::table(&["ADDRESS", "REPORTED AS", "WHY"]);
    for (ip, explanation) in found {
        table.add_row([ip.to_string(), explanation.public.to_string(), why(explanation)]);
    }
    output::print_table(&table)?;
    for (ip, failure) in found.iter().flat_map(|(ip, e)| e.failures.iter().map(move |f| (ip, f))) {
        output::line(format_args!("{ip}: {}: {}", failure.server, failure.error))?;
    }
    Ok(())
}

fn why(explanation: &Explanation) -> String {
    match &explanation.why {
        Why::Mapped { from, to } => format!("addresses.map: {from} to {to}"),
        Why::Answered { server, took } => format!("{server} answered in {} ms", took.as_millis()),
        Why::NotPrivate => "not private".to_owned(),
        Why::NoServers => "private, and no server is configured (addresses.stun, addresses.http)".to_owned(),
        Why::NotOurs => "private, and not of this host: only addresses.map can tell".to_owned(),
        Why::NoAnswer => "private, and no server answered".to_owned(),
    }
}

fn as_json(ip: IpAddr, explanation: &Explanation) -> serde_json::Value {
    let (how, rule, server, took) = match &explanation.why {
        Why::Mapped { from, to } => {
            let [from, to] = [from, to].map(ToString::to_string);
            ("map", Some(json!({ "from": from, "to": to })), None, None)
        }
        Why::Answered { server, took } => ("server", None, Some(server), Some(took.as_secs_f64())),
        Why::NotPrivate => ("not-private", None, None, None),
        Why::NoServers => ("no-servers", None, None, None),
        Why::NotOurs => ("not-of-this-host", None, None, None),
        Why::NoAnswer => ("no-answer", None, None, None),
    };
    json!({
        "address": ip,
        "reported_as": explanation.public,
        "how": how,
        "rule": rule,
        "server": server,
        "took_seconds": took,
        "tried": explanation.failures,
    })
}
