//! `flowtag config`: what is in force, whether a file is right, the commented default, old files as new ones.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::output;
use crate::config::{Config as Settings, Converted, Finding, SAMPLE, Severity};

/// Show, check or convert the configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  flowtag config default > /etc/flowtag/flowtag.toml\n  \
    flowtag config check ./flowtag.toml\n  \
    flowtag config convert /etc/flowd-go/conf.yaml -o /etc/flowtag/flowtag.toml")]
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
    // What it is for stands at its type.
    Convert(Convert),
}

#[derive(Debug, Args)]
struct Which {
    /// Configuration file [default: /etc/flowtag/flowtag.toml if it exists, else built-in defaults]
    file: Option<PathBuf>,
}

/// Make a flowtag.toml of the configuration of flowd-go (YAML or JSON) or flowd (flowd.cfg).
///
/// Prints it, and on standard error what became of every key; with --json one object a key on standard output instead.
/// Fails if something that the old file did is lost. Nothing in the old file is run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  flowtag config convert /etc/flowd/flowd.cfg\n  \
    flowtag config convert /etc/flowd-go/conf.yaml -o /etc/flowtag/flowtag.toml\n  \
    flowtag --json config convert /etc/flowd-go/conf.yaml")]
struct Convert {
    /// Configuration of flowd-go or flowd
    old: PathBuf,
    /// Write to this file, which must not exist, instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Accept that something is lost, and overwrite the output
    #[arg(short = 'k', long)]
    force: bool,
}

impl Config {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        match self.command {
            Command::Default if json => show(&Settings::parse("", "built-in defaults")?, true),
            Command::Default => output::line(SAMPLE.trim_end()),
            Command::Show(which) => show(&load(&which)?, json),
            Command::Check(which) => check(&which, json),
            Command::Convert(convert) => convert.run(json),
        }
    }
}

/// Says on standard error what became of the keys of an old file.
fn load(which: &Which) -> Result<Settings> {
    let config = Settings::load(which.file.as_deref())?;
    config.findings.iter().filter(|f| !f.is_plain()).try_for_each(tell)?;
    Ok(config)
}

fn tell(finding: &Finding) -> Result<()> {
    let mark = match finding.severity {
        Severity::Fine => "",
        Severity::Warning => "warning: ",
        Severity::Lost => "LOST: ",
    };
    Ok(writeln!(io::stderr().lock(), "{mark}{finding}")?)
}

fn show(config: &Settings, json: bool) -> Result<()> {
    if json {
        output::json(&toml::from_str::<toml::Table>(&config.effective)?)
    } else {
        output::line(config.effective.trim_end())
    }
}

fn check(which: &Which, json: bool) -> Result<()> {
    load(which)?;
    if json {
        output::json(&serde_json::json!({ "ok": true }))
    } else {
        output::line("the configuration is right")
    }
}

impl Convert {
    fn run(&self, json: bool) -> Result<()> {
        let path = self.old.display().to_string();
        let text = fs::read_to_string(&self.old).with_context(|| format!("cannot read {path}"))?;
        let Some(converted) = Settings::convert(&text, &path)? else {
            bail!(
                "{path} is no configuration of flowd-go or flowd: `flowtag config check` checks flowtag's own"
            );
        };
        Settings::parse(&converted.toml, &format!("{path} (converted)"))
            .context("what the old file says is not possible with flowtag: correct the old file")?;
        if json {
            converted.findings.iter().try_for_each(output::json)?;
        } else {
            converted.findings.iter().try_for_each(tell)?;
        }
        let lost = converted.findings.iter().filter(|f| f.severity == Severity::Lost).count();
        match &self.output {
            Some(output) if lost == 0 || self.force => self.write(output, &converted)?,
            None if !json => output::line(converted.toml.trim_end())?,
            _ => {}
        }
        if lost > 0 && !self.force {
            bail!("{lost} of the settings of {path} would be lost: see above; --force accepts that");
        }
        Ok(())
    }

    fn write(&self, path: &Path, converted: &Converted) -> Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(self.force).truncate(self.force).create_new(!self.force);
        let file = options.open(path).and_then(|mut file| file.write_all(converted.toml.as_bytes()));
        file.with_context(|| match path.exists() {
            true if !self.force => format!("{} is there already: remove it, or use --force", path.display()),
            _ => format!("cannot write {}", path.display()),
        })
    }
}
