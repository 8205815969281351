//! Developer tasks: `cargo xtask TASK`.
//!
//! Place in the flow: none, this is never shipped. The tasks run the tests under other kernels and generate what is
//! checked in; they must never change this machine beyond the repository, its `target` and the kernel cache.
//!
//! ```text
//! cargo xtask vm --kernel 6.1 -- 'uname -r; ip netns add a'
//! cargo xtask vm-test --kernel 6.1 --kernel newest
//! ```

mod r#gen;
mod kernels_doc;
mod summary;
mod vm;
mod vm_test;
mod vmlinux;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about, version, disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Generates the Rust types that kernel and user space share.
    Gen {
        /// Only fail where a checked-in file is not what its header says.
        #[arg(long)]
        check: bool,
    },
    /// Runs a command under another kernel, in an emulated machine.
    Vm(vm::Args),
    /// Runs the integration tests under other kernels.
    VmTest(vm_test::Args),
    /// Writes docs/reference/kernels.md from the results of vm-test.
    KernelsDoc {
        /// Only fail if the file is not what the results say.
        #[arg(long)]
        check: bool,
    },
    /// Says what the last run of the tests came to; its last line counts them.
    Summary(summary::Args),
    /// Writes `bpf/vmlinux/<arch>/vmlinux.h` from the types of a Debian kernel.
    Vmlinux(vmlinux::Args),
}

fn main() -> ExitCode {
    run(Cli::parse().task).unwrap_or_else(|e| {
        eprintln!("xtask: {e:#}");
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> Result<ExitCode> {
    let root = root();
    let done = |()| ExitCode::SUCCESS;
    match task {
        Task::Gen { check } => r#gen::run(&root, check).map(done),
        Task::Vm(args) => vm::run(&args),
        Task::VmTest(args) => vm_test::run(&root, &args),
        Task::KernelsDoc { check } => kernels_doc::run(&root, check).map(done),
        Task::Summary(args) => summary::run(&root, &args),
        Task::Vmlinux(args) => vmlinux::run(&root, &args).map(done),
    }
}

/// The repository: cargo says where this package is, and it is one below.
fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package.and_then(|p| Some(p.parent()?.to_owned())).unwrap_or_else(|| ".".into())
}
