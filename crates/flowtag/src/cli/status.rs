//! `flowtag status`: one screen on what the running daemon does.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::{Control, output};
use crate::client::{Client, block_on};

/// Show what the running daemon does: flows, packets by what became of them, fireflies, collectors.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  flowtag status\n  flowtag --json status | jq .interfaces")]
pub(crate) struct Status {
    #[command(flatten)]
    control: Control,
}

impl Status {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        let status: Value = block_on(async {
            Client::connect(self.control.socket.as_deref()).await?.get("/v1/status").await
        })?;
        if json { output::json(&status) } else { print(&status) }
    }
}

fn print(status: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    output::line(format_args!(
        "flowtag {} (pid {}) since {}",
        text(&status["version"]),
        status["pid"],
        started(&text(&status["started"]))
    ))?;
    output::line(format_args!("flows     {} of at most {}", status["flows"], status["max_flows"]))?;
    output::line(format_args!("events    {}", counters(&status["engine"])))?;
    if !status["pipe"].is_null() {
        output::line(format_args!("pipe      {}", counters(&status["pipe"])))?;
    }
    if !status["fireflies"].is_null() {
        output::line(format_args!("fireflies {}", counters(&status["fireflies"])))?;
    }
    for collector in status["collectors"].as_array().into_iter().flatten() {
        let state =
            collector["address"].as_str().or(collector["error"].as_str()).unwrap_or("not resolved yet");
        output::line(format_args!("collector {} ({state})", text(&collector["collector"])))?;
    }
    match status["interfaces"].as_array() {
        None => output::line("marking is off (mark.enabled)"),
        Some(interfaces) if interfaces.is_empty() => {
            output::line("marking on no interface (mark.interfaces)")
        }
        Some(interfaces) => print_interfaces(interfaces),
    }
}

/// To the second: nobody reads nanoseconds.
fn started(time: &str) -> String {
    time.parse::<jiff::Timestamp>().map_or_else(|_| time.to_owned(), |at| format!("{at:.0}"))
}

/// Only what is not zero, most readers want no more.
fn counters(value: &Value) -> String {
    let all = value.as_object().into_iter().flatten();
    let some: Vec<_> = all.filter(|(_, v)| v.as_u64() != Some(0)).map(|(k, v)| format!("{k} {v}")).collect();
    if some.is_empty() { "none".to_owned() } else { some.join(", ") }
}

fn print_interfaces(interfaces: &[Value]) -> Result<()> {
    let mut table = output::table(&["INTERFACE", "HOOK", "PACKETS", "VERDICT", "COUNT", "BYTES"]);
    for interface in interfaces {
        let counts = || interface["counts"].as_object().into_iter().flatten();
        let total: u64 = counts().filter_map(|(_, c)| c["packets"].as_u64()).sum();
        let cell = |key: &str| interface[key].as_str().unwrap_or_default().to_owned();
        let mut first = [cell("name"), cell("hook"), total.to_string()];
        for (verdict, count) in counts().filter(|(_, c)| c["packets"] != 0) {
            let row = [verdict.replace('_', " "), count["packets"].to_string(), count["bytes"].to_string()];
            table.add_row(std::mem::take(&mut first).into_iter().chain(row));
        }
        if total == 0 {
            table.add_row(first);
        }
    }
    output::line("")?;
    output::print_table(&table)
}
