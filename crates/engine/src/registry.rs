//! Names of experiments and activities, as the SciTags registry has them, and their numbers.
//!
//! People and configuration files write names, packets and fireflies carry numbers; this is the only place that
//! knows both. Names are compared without case, spaces and punctuation, because the field writes `Data Challenge`,
//! `data-challenge` and `DataChallenge` for one activity. Numbers need not be registered, only in range. Must never
//! fetch anything: the registry is the one built in, or text that the caller read.
//!
//! ```
//! use flowtag_engine::Registry;
//!
//! let registry = Registry::embedded();
//! let tag = registry.resolve("CMS/analysis-input")?;
//! assert_eq!(tag.to_string(), "3/14");
//! assert_eq!(registry.describe(tag), "cms/Analysis Input");
//! # Ok::<(), flowtag_engine::ResolveError>(())
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::OnceLock;

use flowtag_wire::{Activity, Experiment, Tag};
use serde::Deserialize;

/// Longest registry text that is read, in bytes. The public one has 10 kB; 511 × 63 long entries would fit.
pub const MAX_JSON: usize = 4 << 20;

/// Longest name of an experiment or activity, in bytes.
pub const MAX_NAME: usize = 100;

/// Longest text that is looked up, in bytes: a name with generous punctuation.
const MAX_TEXT: usize = 2 * MAX_NAME;

/// How many names an error suggests.
const MAX_SUGGESTIONS: usize = 3;

/// The activity that every experiment has, registered or not (SciTags technical note: activity 1).
const DEFAULT_ACTIVITY: (&str, u64) = ("default", 1);

/// Why a text is not a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Not read at all.
    #[error("the registry has {len} bytes, more than the {MAX_JSON} that are read: is it the right file?")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
    },
    /// Not JSON, or not of the registry's shape.
    #[error("the registry is not JSON of the form that the SciTags project publishes: is it the right file?")]
    Json(#[source] serde_json::Error),
    /// Probably a failed download.
    #[error("the registry lists no experiments: fetch it again")]
    Empty,
    /// No flow label can carry the number.
    #[error("{entry} has the number {number}: use 1 to {max}, which is what a flow label can carry")]
    Number {
        /// What and where, by name.
        entry: String,
        /// The number in the registry.
        number: i64,
        /// The largest that is allowed.
        max: u16,
    },
    /// Two entries for one number.
    #[error("{entry} has the number {number}, which {other:?} has already: remove one of them")]
    DuplicateNumber {
        /// The second entry.
        entry: String,
        /// The number of both.
        number: String,
        /// The name of the first entry.
        other: String,
    },
    /// Two entries that no user could tell apart.
    #[error("{entry} has the name of number {other} but for case and punctuation: rename one of them")]
    DuplicateName {
        /// The second entry.
        entry: String,
        /// The number of the first entry.
        other: String,
    },
    /// A name that could not be looked up or printed.
    #[error(
        "{entry} is not a usable name: it needs a letter and at most {MAX_NAME} bytes, without control characters"
    )]
    Name {
        /// What and where, by name.
        entry: String,
    },
}

/// Why a text names no tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Not two parts.
    #[error("{0:?} is not a tag: write EXPERIMENT/ACTIVITY, as names or numbers: cms/Analysis Input or 3/14")]
    Form(String),
    /// No such experiment.
    #[error("experiment {name:?} is not in the registry{}", advice(.suggestions))]
    UnknownExperiment {
        /// What was asked for.
        name: String,
        /// Registered names like it, the most alike first.
        suggestions: Vec<String>,
    },
    /// No such activity of that experiment.
    #[error("activity {name:?} of experiment {experiment} is not in the registry{}", advice(.suggestions))]
    UnknownActivity {
        /// The experiment, by name where it has one.
        experiment: String,
        /// What was asked for.
        name: String,
        /// Activities of that experiment like it, the most alike first.
        suggestions: Vec<String>,
    },
    /// A number that no flow label can carry.
    #[error("{what} {text} is out of range: use 1 to {max}")]
    OutOfRange {
        /// `experiment` or `activity`.
        what: &'static str,
        /// The number as written.
        text: String,
        /// The largest that is allowed.
        max: u16,
    },
}

fn advice(suggestions: &[String]) -> String {
    let names: Vec<_> = suggestions.iter().map(|name| format!("{name:?}")).collect();
    let meant =
        if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) };
    format!("{meant} (`flowtag tag list` shows all names; numbers work too)")
}

/// Experiments and activities by number and by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    experiments: Names<Experiment>,
    activities: BTreeMap<Experiment, Names<Activity>>,
    edition: Edition,
}

/// What a registry says of itself; free text of its publisher, without control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edition {
    /// `version`.
    pub version: Option<String>,
    /// `modified`, a time in RFC 3339 as published.
    pub modified: Option<String>,
}

/// What one registry has otherwise than another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As the older has it; without an activity it is about the experiment with all its activities.
    pub experiment: Experiment,
    /// See `experiment`.
    pub activity: Option<Activity>,
    /// The older's name, with that of the experiment before an activity; for what is added the newer's.
    pub name: String,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to an experiment or an activity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// Neither its number nor its name was there.
    Added,
    /// Neither its number nor its name is there any more.
    Removed,
    /// Its number has another name.
    Renamed {
        /// The newer name.
        to: String,
    },
    /// Its name has another number.
    Renumbered {
        /// The newer number, as text; `experiment/activity` for an activity.
        to: String,
        /// Whose the old number is now.
        now: Option<String>,
    },
}

impl Change {
    /// Whether a tag, or an experiment with all its activities, means something else now, or nothing.
    #[must_use]
    pub fn concerns(&self, experiment: Experiment, activity: Option<Activity>) -> bool {
        let same = match (self.activity, activity) {
            (Some(ours), Some(theirs)) => ours == theirs,
            // One activity is not all that the experiment is.
            (Some(_), None) => false,
            (None, _) => true,
        };
        self.kind != ChangeKind::Added && self.experiment == experiment && same
    }

    /// Its number, as it is written: `3` or `3/14`.
    #[must_use]
    pub fn number(&self) -> String {
        let activity = self.activity.map(|activity| format!("/{activity}")).unwrap_or_default();
        format!("{}{activity}", self.experiment)
    }
}

/// Numbers and names of one kind, each unique.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names<N> {
    by_number: BTreeMap<N, String>,
    /// Keyed by [`plain`] names.
    by_name: BTreeMap<String, N>,
}

impl<N> Default for Names<N> {
    fn default() -> Self {
        Self { by_number: BTreeMap::new(), by_name: BTreeMap::new() }
    }
}

#[derive(Deserialize)]
struct RawRegistry {
    experiments: Vec<RawExperiment>,
    /// Of whatever type: nothing depends on it.
    #[serde(default)]
    version: serde_json::Value,
    #[serde(default)]
    modified: serde_json::Value,
}

#[derive(Deserialize)]
struct RawExperiment {
    #[serde(rename = "expName")]
    name: String,
    #[serde(rename = "expId")]
    number: i64,
    #[serde(default)]
    activities: Vec<RawActivity>,
}

#[derive(Deserialize)]
struct RawActivity {
    #[serde(rename = "activityName")]
    name: String,
    #[serde(rename = "activityId")]
    number: i64,
}

impl Registry {
    /// The registry as it was when this program was built.
    #[must_use]
    pub fn embedded() -> &'static Self {
        static EMBEDDED: OnceLock<Registry> = OnceLock::new();
        // A test reads the built-in text, so the default is never taken; a daemon must not die of a table of names.
        EMBEDDED.get_or_init(|| Self::from_json(EMBEDDED_JSON).unwrap_or_default())
    }

    /// Reads a registry in the published format. Keys that it does not know are left to later versions.
    ///
    /// # Errors
    /// Text that is too long or not of that shape; numbers outside 1 to 511 (experiments) and 1 to 63 (activities);
    /// numbers or names that occur twice; names that cannot be typed. Each names the entry.
    pub fn from_json(json: &str) -> Result<Self, RegistryError> {
        if json.len() > MAX_JSON {
            return Err(RegistryError::TooLarge { len: json.len() });
        }
        let raw: RawRegistry = serde_json::from_str(json).map_err(RegistryError::Json)?;
        if raw.experiments.is_empty() {
            return Err(RegistryError::Empty);
        }
        let edition = Edition { version: label(&raw.version), modified: label(&raw.modified) };
        let mut registry = Self { edition, ..Self::default() };
        for experiment in raw.experiments {
            registry.add(experiment)?;
        }
        Ok(registry)
    }

    /// Reads a registry that may have commas before closing brackets, as the published one had, and says whether it has.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    pub fn from_published(text: &str) -> Result<(Self, bool), RegistryError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match Self::from_json(text) {
            Err(RegistryError::Json(error)) => {
                let mended = without_trailing_commas(text).ok_or(RegistryError::Json(error))?;
                Self::from_json(&mended).map(|registry| (registry, true))
            }
            other => other.map(|registry| (registry, false)),
        }
    }

    /// What it says of itself.
    #[must_use]
    pub fn edition(&self) -> &Edition {
        &self.edition
    }

    /// What `newer` has otherwise, by number. Another way to write the same name is no change.
    #[must_use]
    pub fn changes_to(&self, newer: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (experiment, name, kind) in self.experiments.changes_to(&newer.experiments) {
            changes.push(Change { experiment, activity: None, name, kind });
        }
        let none = Names::default();
        for (experiment, name) in self.experiments.iter() {
            // Where the number is somebody else's, so are all activities: said once.
            let same = newer.experiment_name(experiment).is_some_and(|other| plain(other) == plain(name));
            if !same {
                continue;
            }
            let of = |registry: &Self| registry.activities.get(&experiment).unwrap_or(&none).clone();
            for (activity, short, kind) in of(self).changes_to(&of(newer)) {
                let kind = match kind {
                    ChangeKind::Renumbered { to, now } => {
                        ChangeKind::Renumbered { to: format!("{experiment}/{to}"), now }
                    }
                    other => other,
                };
                let name = format!("{name}/{short}");
                changes.push(Change { experiment, activity: Some(activity), name, kind });
            }
        }
        changes.sort_by_key(|change| (change.experiment, change.activity));
        changes
    }

    fn add(&mut self, raw: RawExperiment) -> Result<(), RegistryError> {
        let entry = format!("experiment {:?}", excerpt(&raw.name));
        let number = in_range(raw.number, Experiment::new)
            .ok_or_else(|| out_of_range(entry.clone(), raw.number, Experiment::MAX))?;
        let mut activities = Names::default();
        for activity in raw.activities {
            let entry = format!("activity {:?} of {entry}", excerpt(&activity.name));
            let number = in_range(activity.number, Activity::new)
                .ok_or_else(|| out_of_range(entry.clone(), activity.number, u16::from(Activity::MAX)))?;
            activities.add(entry, number, activity.name)?;
        }
        self.experiments.add(entry, number, raw.name)?;
        self.activities.insert(number, activities);
        Ok(())
    }

    /// The registered name of an experiment.
    #[must_use]
    pub fn experiment_name(&self, experiment: Experiment) -> Option<&str> {
        self.experiments.name(experiment)
    }

    /// The registered name of an activity of that experiment.
    #[must_use]
    pub fn activity_name(&self, experiment: Experiment, activity: Activity) -> Option<&str> {
        self.activities.get(&experiment)?.name(activity)
    }

    /// `cms/Analysis Input`; numbers stand where there is no name. [`Self::resolve`] takes it back.
    #[must_use]
    pub fn describe(&self, tag: Tag) -> String {
        let activity = self.activity_name(tag.experiment, tag.activity);
        let activity = activity.map_or_else(|| tag.activity.to_string(), str::to_owned);
        format!("{}/{activity}", self.display_experiment(tag.experiment))
    }

    fn display_experiment(&self, experiment: Experiment) -> String {
        self.experiment_name(experiment).map_or_else(|| experiment.to_string(), str::to_owned)
    }

    /// All experiments, by number.
    pub fn experiments(&self) -> impl Iterator<Item = (Experiment, &str)> {
        self.experiments.iter()
    }

    /// All activities of an experiment, by number; none if it is not registered.
    pub fn activities(&self, experiment: Experiment) -> impl Iterator<Item = (Activity, &str)> {
        self.activities.get(&experiment).into_iter().flat_map(Names::iter)
    }

    /// An experiment by name or number.
    ///
    /// # Errors
    /// A name that is not registered, with names like it; a number outside 1 to 511.
    pub fn resolve_experiment(&self, text: &str) -> Result<Experiment, ResolveError> {
        if let Some(number) = number("experiment", text, Experiment::MAX, Experiment::new) {
            return number;
        }
        self.experiments.find(text).ok_or_else(|| ResolveError::UnknownExperiment {
            name: excerpt(text),
            suggestions: self.experiments.suggest(text),
        })
    }

    /// An activity of `experiment` by name or number. `default` is activity 1 of every experiment.
    ///
    /// # Errors
    /// A name that the experiment does not have, with names like it; a number outside 1 to 63.
    pub fn resolve_activity(&self, experiment: Experiment, text: &str) -> Result<Activity, ResolveError> {
        if let Some(number) = number("activity", text, u16::from(Activity::MAX), Activity::new) {
            return number;
        }
        let names = self.activities.get(&experiment);
        names.and_then(|names| names.find(text)).or_else(|| default_activity(text)).ok_or_else(|| {
            ResolveError::UnknownActivity {
                experiment: self.display_experiment(experiment),
                name: excerpt(text),
                suggestions: names.map(|names| names.suggest(text)).unwrap_or_default(),
            }
        })
    }

    /// `cms/Analysis Input`, `3/14`, or one of each. The first slash divides: activities may have more of them.
    ///
    /// # Errors
    /// Text without a slash, and as [`Self::resolve_experiment`] and [`Self::resolve_activity`].
    pub fn resolve(&self, text: &str) -> Result<Tag, ResolveError> {
        let (experiment, activity) = text.split_once('/').ok_or_else(|| ResolveError::Form(excerpt(text)))?;
        let experiment = self.resolve_experiment(experiment)?;
        Ok(Tag { experiment, activity: self.resolve_activity(experiment, activity)? })
    }
}

impl<N: Copy + Ord + Display> Names<N> {
    fn add(&mut self, entry: String, number: N, name: String) -> Result<(), RegistryError> {
        let key = plain(&name);
        let numeric = key.bytes().all(|b| b.is_ascii_digit());
        if numeric || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(RegistryError::Name { entry });
        }
        if let Some(other) = self.by_number.get(&number) {
            let other = other.clone();
            return Err(RegistryError::DuplicateNumber { entry, number: number.to_string(), other });
        }
        if let Some(other) = self.by_name.insert(key, number) {
            return Err(RegistryError::DuplicateName { entry, other: other.to_string() });
        }
        self.by_number.insert(number, name);
        Ok(())
    }

    fn name(&self, number: N) -> Option<&str> {
        self.by_number.get(&number).map(String::as_str)
    }

    fn find(&self, text: &str) -> Option<N> {
        (text.len() <= MAX_TEXT).then(|| self.by_name.get(&plain(text)).copied()).flatten()
    }

    /// Number, name and what happened, for all that did not stay as it is.
    fn changes_to(&self, newer: &Self) -> Vec<(N, String, ChangeKind)> {
        let happened = |number: N, name: &str| {
            let now = newer.name(number);
            match newer.find(name) {
                Some(same) if same == number => None,
                Some(other) => {
                    let now = now.map(str::to_owned);
                    Some(ChangeKind::Renumbered { to: other.to_string(), now })
                }
                None => Some(now.map_or(ChangeKind::Removed, |to| ChangeKind::Renamed { to: to.to_owned() })),
            }
        };
        let known = self
            .iter()
            .filter_map(|(number, name)| happened(number, name).map(|kind| (number, name.to_owned(), kind)));
        let is_new = |(number, name): &(N, &str)| self.name(*number).is_none() && self.find(name).is_none();
        let added =
            newer.iter().filter(is_new).map(|(number, name)| (number, name.to_owned(), ChangeKind::Added));
        known.chain(added).collect()
    }

    fn iter(&self) -> impl Iterator<Item = (N, &str)> {
        self.by_number.iter().map(|(number, name)| (*number, name.as_str()))
    }

    /// Names that `text` may be a slip of, the most alike first.
    fn suggest(&self, text: &str) -> Vec<String> {
        const ALIKE: f64 = 0.75;
        let text = plain(text);
        // Jaro does not see two letters that changed places in a short name.
        let one_slip = |name: &str| strsim::damerau_levenshtein(&text, name) == 1;
        let likeness = |name: &str| {
            let name = plain(name);
            strsim::jaro_winkler(&text, &name).max(if one_slip(&name) { ALIKE } else { 0.0 })
        };
        let mut names: Vec<_> = self.by_number.values().map(|name| (likeness(name), name)).collect();
        names.retain(|(alike, _)| *alike >= ALIKE);
        names.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        names.into_iter().take(MAX_SUGGESTIONS).map(|(_, name)| name.clone()).collect()
    }
}

/// `text` without the commas that stand before a closing bracket outside strings; none: there are no such.
fn without_trailing_commas(text: &str) -> Option<String> {
    let mut kept = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        let ends_a_list = || text[at + 1..].trim_start().starts_with([']', '}']);
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            ',' if !in_string && ends_a_list() => continue,
            _ => {}
        }
        kept.push(c);
    }
    (kept.len() < text.len()).then_some(kept)
}

/// What a publisher wrote of a registry, if it is short and can be printed.
fn label(value: &serde_json::Value) -> Option<String> {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)).then_some(text)
}

/// What makes a name the same name: its letters and digits, without case. Reads no more than [`MAX_TEXT`] characters.
fn plain(name: &str) -> String {
    let letters = name.chars().take(MAX_TEXT).filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// `text` as it may stand in an error.
fn excerpt(text: &str) -> String {
    text.trim().chars().take(60).collect()
}

fn default_activity(text: &str) -> Option<Activity> {
    let (name, number) = DEFAULT_ACTIVITY;
    Activity::new(number).ok().filter(|_| plain(text) == name)
}

fn in_range<N, E>(number: i64, new: impl Fn(u64) -> Result<N, E>) -> Option<N> {
    u64::try_from(number).ok().and_then(|number| new(number).ok())
}

fn out_of_range(entry: String, number: i64, max: u16) -> RegistryError {
    RegistryError::Number { entry, number, max }
}

/// `text` as a number, if it is written as one: then it is that number or out of range, never a name.
fn number<N, E>(
    what: &'static str,
    text: &str,
    max: u16,
    new: impl Fn(u64) -> Result<N, E>,
) -> Option<Result<N, ResolveError>> {
    let digits = text.trim();
    let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let parse = || digits.parse().ok().and_then(|number| new(number).ok());
    numeric.then(|| parse().ok_or_else(|| ResolveError::OutOfRange { what, text: excerpt(digits), max }))
}

/// The public registry, from the data folder of this repository.
const EMBEDDED_JSON: &str = include_str!("../../../data/scitags-registry.json");
