//! The eBPF programs under `BPF_PROG_TEST_RUN`, and what reads the kernel: one binary of tests, a module for each part.

mod arrive;
mod common;
mod mark_options;
mod mark_program;
mod mark_rules;
mod probes;
mod statistics;
