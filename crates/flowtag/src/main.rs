//! flowtag: whose traffic a flow is, on every packet of it, and how that flow fares.
//!
//! The binary is thin: [`cli`] reads the command line, [`supervisor`] runs the daemon by wiring [`inputs`], the
//! engine, the kernel and [`outputs`] together. What is decided is in `flowtag-engine`, what is written on the wire in
//! `flowtag-wire`, what touches eBPF in `flowtag-kernel`.

mod cli;
mod client;
mod config;
mod http;
mod https;
mod inputs;
mod logging;
mod names;
mod outputs;
mod registry;
mod rules;
mod supervisor;
mod verdict;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
