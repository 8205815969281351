//! `flowtag top`: who sends and receives how much.

use anyhow::Result;
use flowtag_kernel::probes::{Description, Options, Record, Session, top};

use super::args::Watch;
use super::group::Dimension;
use super::names::Names;
use super::watch::{self, Rows};

pub(super) fn run(probe: &'static Description, options: Options, watch: &Watch, json: bool) -> Result<()> {
    let rows = Rows { by: Some(Dimension::Process), learn, choose, has_rates: true };
    watch::run_with(probe, options, watch, json, rows)
}

fn learn(session: &Session, names: &Names) -> Result<()> {
    for (netns, index, name) in
        session.probe(top::PROBE.name).map_or_else(|| Ok(Vec::new()), top::interfaces)?
    {
        names.learn_interface(Some(netns), index, name);
    }
    Ok(())
}

/// A flow once, unless it is told at which interface.
fn choose(rows: Vec<Record>, by: &[Dimension]) -> Vec<Record> {
    if by.contains(&Dimension::Interface) { rows } else { top::once(rows) }
}
