//! How commands print: tables for people, JSON for programs, errors with their causes.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Command;
use comfy_table::{Table, presets};
use serde::Serialize;

/// One line on standard output.
pub(crate) fn line(text: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// One JSON object on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string(value).context("cannot write JSON")?)
}

/// A table without borders, as `ss` or `ip` print.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// Prints a table without blanks at the ends of lines.
pub(crate) fn print_table(table: &Table) -> Result<()> {
    table_lines(table).into_iter().try_for_each(line)
}

/// Two blanks between columns and none before the first: the preset pads each cell by one on both sides.
pub(crate) fn table_lines(table: &Table) -> Vec<String> {
    table.lines().map(|row| row.strip_prefix(' ').unwrap_or(&row).trim_end().to_owned()).collect()
}

/// Only a terminal that can, and whose user has not said no (no-color.org).
pub(crate) fn wants_colour() -> bool {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    io::stdout().is_terminal() && !unwanted && env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Breaks at blanks; a word that is too long stays whole, so that it can be copied. At least one line.
pub(crate) fn wrap(text: &str, first: usize, others: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    // What others named (programs, files) must not move the cursor or forge a line.
    let text = text.replace(|c: char| c.is_control(), " ");
    for word in text.split_whitespace() {
        let room = if lines.len() == 1 { first } else { others };
        let line = lines.last().map_or(0, |l| l.chars().count());
        if line > 0 && line + 1 + word.chars().count() > room {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// An error and its causes, one a line.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut lines = vec![error.to_string()];
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Some libraries repeat their cause in their own words.
        if !lines.iter().any(|line| line.contains(&text)) {
            lines.push(text);
        }
    }
    lines.join("\n  because: ")
}

/// Printed for packages; users need not know of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// `man`, `reference` (docs/reference/probes.md) or a shell: bash, zsh, fish
    what: String,
    /// With `man`: write a page for each command into this directory
    #[arg(long, value_name = "DIRECTORY")]
    to: Option<PathBuf>,
}

impl Generate {
    pub(crate) fn run(&self, mut command: Command) -> Result<()> {
        let mut out = io::stdout().lock();
        if let ("man", Some(dir)) = (self.what.as_str(), &self.to) {
            return clap_mangen::generate_to(command, dir)
                .with_context(|| format!("cannot write man pages into {}", dir.display()));
        }
        if self.what == "reference" {
            return Ok(out.write_all(super::observe::reference::page().as_bytes())?);
        }
        if self.what == "man" {
            return Ok(clap_mangen::Man::new(command).render(&mut out)?);
        }
        let shell: clap_complete::Shell = self.what.parse().map_err(anyhow::Error::msg)?;
        clap_complete::generate(shell, &mut command, "flowtag", &mut out);
        Ok(())
    }
}
