//! `flowtag config`: what is in force, whether a file is right, the commented default.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::output;
use crate::config::{Config as Settings, SAMPLE};

/// Show or check the configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  flowtag config default > /etc/flowtag/flowtag.toml\n  \
    flowtag config check ./flowtag.toml")]
pub(crate) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print all keys with the values in force
    Show(Which),
    /// Check a configuration file; the exit status tells
    Check(Which),
    /// Print the default configuration with what each key means
    Default,
}

#[derive(Debug, Args)]
struct Which {
    /// Configuration file [default: /etc/flowtag/flowtag.toml if it exists, else built-in defaults]
    file: Option<PathBuf>,
}

impl Config {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        match self.command {
            Command::Default if json => show(&Settings::parse("", "built-in defaults")?, true),
            Command::Default => output::line(SAMPLE.trim_end()),
            Command::Show(which) => show(&Settings::load(which.file.as_deref())?, json),
            Command::Check(which) => check(&which, json),
        }
    }
}

fn show(config: &Settings, json: bool) -> Result<()> {
    if json {
        output::json(&toml::from_str::<toml::Table>(&config.effective)?)
    } else {
        output::line(config.effective.trim_end())
    }
}

fn check(which: &Which, json: bool) -> Result<()> {
    Settings::load(which.file.as_deref())?;
    if json {
        output::json(&serde_json::json!({ "ok": true }))
    } else {
        output::line("the configuration is right")
    }
}
