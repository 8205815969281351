//! `flowtag registry`: which names tags have on this host, where they are from, and what another registry would change.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use flowtag_engine::Registry as Names;
use flowtag_engine::registry::{Change, ChangeKind};
use flowtag_wire::{ScitagInteger, Tag};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::output;
use super::tag::registered;
use crate::client::block_on;
use crate::config::Config;
use crate::registry::{self, Copy, Source};

/// Show, check and fetch the registry of experiments and activities.
#[derive(Debug, Args)]
#[command(
    after_help = "Names are taken without case, blanks, - and _; `flowtag tag` has the encodings of a tag.\n\n\
    Examples:\n  \
    flowtag registry list\n  \
    flowtag registry show cms\n  \
    flowtag registry check ./scitags.json    is it right, and what would it change?\n  \
    flowtag registry refresh                 fetch registry.url now\n  \
    flowtag --json registry list | jq -r 'select(.kind == \"experiment\") | .name'"
)]
pub(crate) struct Registry {
    #[command(subcommand)]
    command: Command,
    /// Configuration file [default: /etc/flowtag/flowtag.toml if it exists, else built-in defaults]
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say where the registry is from, and list its experiments
    List,
    /// List the activities of one experiment
    Show {
        /// Name or number
        #[arg(value_name = "EXPERIMENT")]
        name: String,
    },
    /// Check a file, and say what it has otherwise than the registry in force
    Check {
        /// Registry in the form that the SciTags project publishes
        file: PathBuf,
    },
    /// Fetch registry.url now, for the next start or reload of the daemon
    Refresh,
}

impl Registry {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        let config = Config::load(self.config.as_deref())?;
        match self.command {
            Command::List => list(&in_force(&config), json),
            Command::Show { name } => show(&in_force(&config).names, &name, json),
            Command::Check { file } => check(&in_force(&config).names, &file, json),
            Command::Refresh => refresh(&config, json),
        }
    }
}

/// The registry that a daemon on this host would have; the built-in one where its configuration is wrong, which is for
/// `flowtag config check` to say.
pub(super) fn of_this_host() -> Cow<'static, Names> {
    let Ok(config) = Config::load(None) else { return Cow::Borrowed(Names::embedded()) };
    let InForce { names, source, .. } = in_force(&config);
    if source == Source::BuiltIn { Cow::Borrowed(Names::embedded()) } else { Cow::Owned(names) }
}

/// The registry that a daemon with this configuration has until it fetches a newer one.
struct InForce {
    names: Names,
    source: Source,
    notes: Vec<String>,
}

fn in_force(config: &Config) -> InForce {
    let url = config.registry_url.as_ref().map(|from| from.url.as_str());
    match registry::newest(url, &config.runtime_dir) {
        Some(copy) => InForce { names: (*copy.registry).clone(), source: copy.source, notes: copy.notes },
        None => InForce {
            names: (*config.registry).clone(),
            source: config.registry_source.clone(),
            notes: config.registry_notes.clone(),
        },
    }
}

fn list(InForce { names, source, notes }: &InForce, json: bool) -> Result<()> {
    let counts =
        || names.experiments().map(|(number, name)| (number, name, names.activities(number).count()));
    let edition = names.edition();
    if json {
        let mut about = about(source);
        about["kind"] = "registry".into();
        about["version"] = edition.version.clone().into();
        about["modified"] = edition.modified.clone().into();
        about["notes"] = notes.clone().into();
        output::json(&about)?;
        return counts().try_for_each(|(number, name, activities)| {
            output::json(&json!({
                "kind": "experiment", "experiment": number.get(), "name": name, "activities": activities,
            }))
        });
    }
    output::line(format_args!("registry  {source}{}", age(source)))?;
    let version = edition.version.as_deref().unwrap_or("none");
    let modified = edition.modified.as_deref().unwrap_or("unknown");
    output::line(format_args!("edition   version {version}, modified {modified}"))?;
    notes.iter().try_for_each(|note| output::line(format_args!("note      {note}")))?;
    output::line("")?;
    let mut table = output::table(&["NUMBER", "EXPERIMENT", "ACTIVITIES"]);
    for (number, name, activities) in counts() {
        table.add_row([number.to_string(), name.to_owned(), activities.to_string()]);
    }
    output::print_table(&table)
}

fn about(source: &Source) -> Value {
    match source {
        Source::BuiltIn => json!({ "source": "built-in" }),
        Source::File(path) => json!({ "source": "file", "file": path }),
        Source::Url { url, at } => json!({ "source": "url", "url": url, "checked": at }),
    }
}

/// Hours and days, as people say it.
fn age(source: &Source) -> String {
    let at = match source {
        Source::BuiltIn => return String::new(),
        Source::File(path) => path.metadata().and_then(|m| m.modified()).ok().map(Timestamp::try_from),
        Source::Url { at, .. } => Some(Ok(*at)),
    };
    let Some(Ok(at)) = at else { return String::new() };
    let hours = Timestamp::now().duration_since(at).as_hours();
    match hours {
        ..1 => ", less than an hour old".to_owned(),
        1..48 => format!(", {hours} h old"),
        _ => format!(", {} days old", hours / 24),
    }
}

fn show(names: &Names, name: &str, json: bool) -> Result<()> {
    let experiment = names.resolve_experiment(name)?;
    let Some(registered_name) = names.experiment_name(experiment) else {
        bail!("experiment {experiment} is not in the registry (`flowtag registry list` shows all that are)");
    };
    let tags = registered(names).filter(|tag| tag.experiment == experiment);
    if json {
        return tags.into_iter().try_for_each(|tag| output::json(&activity(names, tag)));
    }
    output::line(format_args!("experiment {experiment}: {registered_name}"))?;
    output::line("")?;
    let mut table = output::table(&["NUMBER", "ACTIVITY", "SCITAG INTEGER"]);
    for tag in tags {
        let name = names.activity_name(experiment, tag.activity).unwrap_or("default");
        table.add_row([
            tag.activity.to_string(),
            name.to_owned(),
            ScitagInteger::from(tag).get().to_string(),
        ]);
    }
    output::print_table(&table)
}

fn activity(names: &Names, tag: Tag) -> Value {
    json!({
        "kind": "activity",
        "experiment": tag.experiment.get(),
        "experiment_name": names.experiment_name(tag.experiment),
        "activity": tag.activity.get(),
        "name": names.activity_name(tag.experiment, tag.activity),
        "scitag_integer": ScitagInteger::from(tag).get(),
    })
}

fn check(in_force: &Names, file: &Path, json: bool) -> Result<()> {
    let (names, mended) =
        registry::read(file).with_context(|| format!("{} is not a usable registry", file.display()))?;
    let changes = in_force.changes_to(&names);
    let note = mended.then(|| registry::mended_note(&Source::File(file.to_owned())));
    if json {
        let changes: Vec<_> = changes.iter().map(change_json).collect();
        let about = json!({
            "ok": true,
            "experiments": names.experiments().count(),
            "modified": names.edition().modified,
            "notes": note.into_iter().collect::<Vec<_>>(),
            "changes": changes,
        });
        return output::json(&about);
    }
    output::line(format_args!("the registry is right: {} experiments", names.experiments().count()))?;
    note.map_or(Ok(()), output::line)?;
    print_changes(&changes)
}

fn print_changes(changes: &[Change]) -> Result<()> {
    if changes.is_empty() {
        return output::line("it has the same names and numbers as the one in force");
    }
    output::line("")?;
    let mut table = output::table(&["NUMBER", "NAME", "WHAT CHANGES"]);
    for change in changes {
        table.add_row([change.number(), change.name.clone(), what(&change.kind)]);
    }
    output::print_table(&table)
}

fn what(kind: &ChangeKind) -> String {
    match kind {
        ChangeKind::Added => "added".to_owned(),
        ChangeKind::Removed => "removed".to_owned(),
        ChangeKind::Renamed { to } => format!("the number is {to} now"),
        ChangeKind::Renumbered { to, now: None } => format!("the name has number {to} now"),
        ChangeKind::Renumbered { to, now: Some(now) } => {
            format!("the name has number {to} now, the number is {now}")
        }
    }
}

fn change_json(change: &Change) -> Value {
    let (kind, name, number) = match &change.kind {
        ChangeKind::Added => ("added", None, None),
        ChangeKind::Removed => ("removed", None, None),
        ChangeKind::Renamed { to } => ("renamed", Some(to), None),
        ChangeKind::Renumbered { to, now } => ("renumbered", now.as_ref(), Some(to)),
    };
    json!({
        "kind": kind,
        "experiment": change.experiment.get(),
        "activity": change.activity.map(|a| a.get()),
        "name": change.name,
        "number_has_name_now": name,
        "name_has_number_now": number,
    })
}

fn refresh(config: &Config, json: bool) -> Result<()> {
    let Some(from) = &config.registry_url else {
        bail!("there is nothing to fetch: set registry.url in the configuration");
    };
    let before = Copy::load(&config.runtime_dir, &from.url);
    let fetched = block_on(async { Ok(registry::fetch(from, before.as_ref()).await?) })?;
    let dir = config.runtime_dir.display();
    fetched.save(&config.runtime_dir).with_context(|| {
        format!("cannot keep what was fetched in {dir} (runtime_dir): run as the daemon's user")
    })?;
    let Some(new) = fetched.sourced() else { bail!("what was fetched is no registry") };
    let old = before.and_then(|copy| copy.sourced()).map_or_else(|| config.registry.clone(), |s| s.registry);
    let changes = old.changes_to(&new.registry);
    if json {
        let changes: Vec<_> = changes.iter().map(change_json).collect();
        return output::json(&json!({ "ok": true, "url": from.url, "notes": new.notes, "changes": changes }));
    }
    output::line(format_args!("fetched {}", from.url))?;
    new.notes.iter().try_for_each(output::line)?;
    print_changes(&changes)?;
    if old == new.registry {
        return Ok(());
    }
    output::line("")?;
    output::line("a daemon that runs takes it with the next reload (`systemctl reload flowtag`)")
}
