//! How long it takes until packets are marked.

use std::time::Instant;

use anyhow::Result;
use flowtag_kernel::mark::{HookChoice, Marker, Settings};
use flowtag_testbed::Testbed;

use crate::report::{Figure, Report};

const RUNS: usize = 9;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.section(
        "Load and attach",
        "ms from nothing to marking on one interface, egress and ingress. Aim: at most 300 ms.",
        &["hook", "load", "attach"],
    );
    let bed = Testbed::new("attach")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    bed.link(&a, "eth0", &b, "eth0")?;
    let settings = Settings { ingress: true, ..Settings::default() };
    for hook in [HookChoice::Auto, HookChoice::Clsact] {
        let (mut load, mut attach, mut name) = (Vec::new(), Vec::new(), String::new());
        for _ in 0..RUNS {
            a.run(|| -> Result<()> {
                let start = Instant::now();
                let mut marker = Marker::load(&settings)?;
                load.push(start.elapsed().as_secs_f64() * 1e3);
                let eth0 = flowtag_kernel::link::find("eth0")?;
                let start = Instant::now();
                name = marker.attach(&eth0, hook)?.to_string();
                attach.push(start.elapsed().as_secs_f64() * 1e3);
                Ok(())
            })??;
        }
        report.row(&[name, Figure::of(&load).show(1), Figure::of(&attach).show(1)]);
    }
    Ok(())
}
