//! Commands that show what happens to flows. Each probe of [`PROBES`] is one, made from its description; those that show
//! more than lines of one probe have a file here.

mod args;
mod drops;
pub(super) mod flows;
mod group;
pub(super) mod latency;
mod names;
pub(super) mod reference;
mod spans;
mod table;
mod top;
mod watch;
pub(super) mod why;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use flowtag_kernel::probes::{Description, Options, PROBES};

use self::args::Watch;

/// A probe's command line, as parsed.
#[derive(Debug)]
pub(super) struct Observe {
    probe: &'static Description,
    options: Options,
    watch: Watch,
}

impl Observe {
    pub(super) fn run(self, json: bool) -> Result<()> {
        match self.probe.name {
            "drops" => drops::run(self.probe, &self.options, &self.watch, json),
            "top" => top::run(self.probe, self.options, &self.watch, json),
            _ => watch::run(self.probe, self.options, self.watch, json),
        }
    }
}

/// Probes whose commands show more than their lines.
const OTHERS: &[&str] = &["connect", "delay", "request", "rtt", "why"];

/// Probes of which a command shows lines.
fn lines() -> impl Iterator<Item = &'static Description> {
    PROBES.iter().copied().filter(|probe| !OTHERS.contains(&probe.name))
}

impl FromArgMatches for Observe {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let chosen = matches.subcommand().and_then(|(name, matches)| {
            lines().find(|probe| probe.name == name).map(|probe| (probe, matches))
        });
        let (probe, matches) =
            chosen.ok_or_else(|| clap::Error::new(clap::error::ErrorKind::InvalidSubcommand))?;
        let on = probe.flags.iter().map(|flag| flag.name).filter(|name| matches.get_flag(name));
        let options = Options::new(on.map(str::to_owned));
        Ok(Self { probe, options, watch: Watch::from_arg_matches(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for Observe {
    fn augment_subcommands(command: Command) -> Command {
        lines().fold(command, |command, probe| command.subcommand(of_probe(probe)))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        lines().any(|probe| probe.name == name)
    }
}

fn of_probe(probe: &'static Description) -> Command {
    let command = Watch::augment_args(Command::new(probe.name)).about(probe.about);
    let command = probe.flags.iter().fold(command, |command, flag| {
        command.arg(Arg::new(flag.name).long(flag.name).help(flag.help).action(ArgAction::SetTrue))
    });
    command.after_help(help(probe))
}

/// What stands below the options: columns, then examples.
fn help(probe: &Description) -> String {
    let mut text = String::new();
    if !probe.details.is_empty() {
        text += &format!("{}\n\n", probe.details);
    }
    text += "Columns, with their keys in JSON:\n";
    for column in probe.columns {
        text += &format!("  {:<12} {:<20} {}\n", column.heading, column.name, column.help);
    }
    text += "\nExamples:\n";
    for (line, what) in probe.examples {
        text += &format!("  flowtag {line:<40} {what}\n");
    }
    text
}
