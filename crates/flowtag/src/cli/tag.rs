//! `flowtag tag`: names, numbers and the encodings of tags, without a daemon and without packets.
//!
//! The field keeps taking one encoding for another (a flow label sent as `scitag.flow`, a scitag integer put into
//! the label), so no number is printed here without the name of its encoding, and a number that could be read in two
//! ways is read in both.

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use flowtag_engine::Registry;
use flowtag_wire::option::{self, Found, HEADER_LEN, OPTION_LEN, OPTION_TYPE};
use flowtag_wire::{self as wire, Entropy, FlowLabel, ScitagInteger};
use serde::Serialize;

use super::output;

/// Next header of the sample option header: TCP, as most tagged traffic.
const TCP: u8 = 6;

/// Convert tags between names, numbers and encodings.
#[derive(Debug, Args)]
#[command(
    after_help = "A tag is an experiment (1 to 511) and an activity (1 to 63). It is written in three ways that are\n\
    easily mixed up, so each line says which it is:\n  \
    pair            fireflies, configuration\n  \
    scitag integer  HTTP header SciTag, scitag.flow of XRootD, FTS, gfal\n  \
    flow label      IPv6 header\n\n\
    Examples:\n  \
    flowtag tag encode 'cms/Analysis Input'\n  \
    flowtag tag decode 0x30038\n  \
    flowtag tag list cms"
)]
pub(crate) struct Tag {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a tag in all its encodings
    Encode(Encode),
    /// Say which tag a label, a scitag integer, a pair or an option header is
    Decode(Decode),
    /// List the registered tags
    List(List),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowtag tag encode 'cms/Analysis Input' atlas/staging\n  \
    flowtag tag encode 3/14\n  \
    flowtag tag encode --scitag 206\n  \
    flowtag --json tag encode 3/14 | jq .flow_label")]
struct Encode {
    /// EXPERIMENT/ACTIVITY, names or numbers; case, blanks, - and _ do not matter
    #[arg(value_name = "TAG", required_unless_present = "scitag")]
    tags: Vec<String>,
    /// The tag as scitag integer: experiment × 64 + activity
    #[arg(long, value_name = "N")]
    scitag: Vec<u64>,
    #[command(flatten)]
    registry: RegistryFile,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without --as the form decides: 0x30038 is a flow label, 3/14 a pair, '06 00 1e 03 ...' an\n\
    option header. A plain number can be a scitag integer or a flow label: both readings are shown.\n\n\
    Examples:\n  \
    flowtag tag decode 0x30038\n  \
    flowtag tag decode 206 196664\n  \
    flowtag tag decode --as label 196664\n  \
    flowtag tag decode '06 00 1e 03 00 03 0e 00'"
)]
struct Decode {
    /// What a packet, a header or a log has; 0x begins a hexadecimal number
    #[arg(value_name = "VALUE", required = true)]
    values: Vec<String>,
    /// Which encoding the values have
    #[arg(long = "as", value_name = "ENCODING")]
    encoding: Option<Encoding>,
    #[command(flatten)]
    registry: RegistryFile,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowtag tag list\n  \
    flowtag tag list atlas\n  \
    flowtag tag list --registry ./scitags.json\n  \
    flowtag --json tag list cms | jq -r '[.scitag_integer, .activity_name] | @tsv'")]
struct List {
    /// Only tags of this experiment, name or number
    experiment: Option<String>,
    #[command(flatten)]
    registry: RegistryFile,
}

/// Which names are used.
#[derive(Debug, Args)]
pub(super) struct RegistryFile {
    /// SciTags registry to take names from, in its published JSON form [default: the one in force here, see
    /// `flowtag registry list`]
    #[arg(long, value_name = "FILE")]
    registry: Option<PathBuf>,
}

impl RegistryFile {
    /// Fails if the file cannot be read or is no registry.
    pub(super) fn load(&self) -> Result<Cow<'static, Registry>> {
        let Some(path) = &self.registry else { return Ok(super::registry::of_this_host()) };
        let what = || format!("cannot use --registry {}", path.display());
        crate::registry::read(path).map(|(registry, _)| Cow::Owned(registry)).with_context(what)
    }
}

/// Whether both numbers of the tag have a name.
pub(super) fn is_registered(registry: &Registry, tag: wire::Tag) -> bool {
    registry.activity_name(tag.experiment, tag.activity).is_some()
}

/// A tag with its names, as all JSON of this program spells it.
#[derive(Debug, Serialize)]
pub(super) struct Named<'a> {
    experiment: u16,
    activity: u8,
    experiment_name: Option<&'a str>,
    activity_name: Option<&'a str>,
    registered: bool,
}

impl<'a> Named<'a> {
    pub(super) fn new(registry: &'a Registry, tag: wire::Tag) -> Self {
        Self {
            experiment: tag.experiment.get(),
            activity: tag.activity.get(),
            experiment_name: registry.experiment_name(tag.experiment),
            activity_name: registry.activity_name(tag.experiment, tag.activity),
            registered: is_registered(registry, tag),
        }
    }
}

/// A tag in all encodings.
#[derive(Debug, Serialize)]
struct Encodings<'a> {
    kind: &'static str,
    #[serde(flatten)]
    named: Named<'a>,
    scitag_integer: u16,
    /// Entropy bits 0.
    flow_label: String,
    flow_label_decimal: u32,
    flow_label_entropy_mask: String,
    /// Followed by TCP.
    option_header: String,
}

impl<'a> Encodings<'a> {
    fn new(registry: &'a Registry, tag: wire::Tag) -> Self {
        let label = FlowLabel::from_tag(tag, Entropy::NONE);
        Self {
            kind: "tag",
            named: Named::new(registry, tag),
            scitag_integer: ScitagInteger::from(tag).get(),
            flow_label: label.to_string(),
            flow_label_decimal: label.value(),
            flow_label_entropy_mask: format!("{:#07x}", Entropy::MASK),
            option_header: hex(&option::header(tag, TCP)),
        }
    }

    fn print(&self) -> Result<()> {
        let Named { experiment, activity, registered, .. } = self.named;
        let known = if registered { "" } else { ", not in the registry" };
        output::line(format_args!(
            "  pair            {experiment}/{activity}: experiment {experiment}, activity {activity}{known}"
        ))?;
        output::line(format_args!("  scitag integer  {}", self.scitag_integer))?;
        output::line(format_args!(
            "  flow label      {} = {} with entropy 0",
            self.flow_label, self.flow_label_decimal
        ))?;
        let mask = &self.flow_label_entropy_mask;
        output::line(format_args!("  entropy bits    {mask} of the label: random in each flow"))?;
        output::line(format_args!("  option header   {} before TCP (next header {TCP})", self.option_header))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

impl Tag {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        match self.command {
            Command::Encode(command) => command.run(json),
            Command::Decode(command) => command.run(json),
            Command::List(command) => command.run(json),
        }
    }
}

impl Encode {
    fn run(self, json: bool) -> Result<()> {
        let registry = self.registry.load()?;
        let names = self.tags.iter().map(|text| Ok(registry.resolve(text)?));
        let numbers = self
            .scitag
            .iter()
            .map(|number| scitag(*number).with_context(|| format!("--scitag {number} is no tag")));
        // All are read before any is printed: no half an answer.
        let tags = names.chain(numbers).collect::<Result<Vec<_>>>()?;
        tags.into_iter().try_for_each(|tag| show(&registry, tag, json))
    }
}

fn show(registry: &Registry, tag: wire::Tag, json: bool) -> Result<()> {
    let encodings = Encodings::new(registry, tag);
    if json {
        return output::json(&encodings);
    }
    output::line(registry.describe(tag))?;
    encodings.print()
}

impl List {
    fn run(self, json: bool) -> Result<()> {
        let registry = self.registry.load()?;
        let only =
            self.experiment.as_deref().map(|text| registered_experiment(&registry, text)).transpose()?;
        let tags = registered(&registry).filter(|tag| only.is_none_or(|only| tag.experiment == only));
        if json {
            return tags.into_iter().try_for_each(|tag| output::json(&Encodings::new(&registry, tag)));
        }
        let mut table = output::table(&["TAG", "PAIR", "SCITAG INTEGER", "FLOW LABEL (ENTROPY 0)"]);
        for tag in tags {
            let encodings = Encodings::new(&registry, tag);
            let integer = encodings.scitag_integer.to_string();
            table.add_row([registry.describe(tag), tag.to_string(), integer, encodings.flow_label]);
        }
        output::print_table(&table)
    }
}

/// A number that nobody registered is in range, but there is nothing to list.
fn registered_experiment(registry: &Registry, text: &str) -> Result<wire::tag::Experiment> {
    let experiment = registry.resolve_experiment(text)?;
    if registry.experiment_name(experiment).is_none() {
        bail!("experiment {experiment} is not in the registry (`flowtag tag list` shows all that are)");
    }
    Ok(experiment)
}

/// All tags of the registry, by number. An experiment without activities still has the default one.
pub(super) fn registered(registry: &Registry) -> impl Iterator<Item = wire::Tag> {
    registry.experiments().flat_map(|(experiment, _)| {
        let activities: Vec<_> = registry.activities(experiment).map(|(activity, _)| activity).collect();
        let default = wire::tag::Activity::new(1).ok().filter(|_| activities.is_empty());
        activities.into_iter().chain(default).map(move |activity| wire::Tag { experiment, activity })
    })
}

/// The ways in which a tag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Encoding {
    /// 20 bits of the IPv6 header
    Label,
    /// experiment × 64 + activity
    Scitag,
    /// EXPERIMENT/ACTIVITY, names or numbers
    Pair,
    /// Bytes of a hop-by-hop or destination options header, in hexadecimal
    Option,
}

/// What a value says in one encoding.
#[derive(Debug, Clone, Copy)]
struct Reading {
    tag: wire::Tag,
    entropy: Option<Entropy>,
}

/// One line of JSON for each reading; either the tag or why there is none.
#[derive(Debug, Serialize)]
struct ReadingLine<'a> {
    kind: &'static str,
    value: &'a str,
    read_as: &'static str,
    /// Whether the value makes a tag in another encoding, too.
    ambiguous: bool,
    flow_label_entropy: Option<String>,
    tag: Option<Encodings<'a>>,
    error: Option<String>,
}

impl Decode {
    fn run(self, json: bool) -> Result<()> {
        let registry = self.registry.load()?;
        let answers = self.values.iter().map(|value| Answer::new(&registry, value, self.encoding));
        let answers = answers.collect::<Result<Vec<_>>>()?;
        answers.iter().try_for_each(|answer| if json { answer.print_json() } else { answer.print() })
    }
}

/// All readings of one value; at least one of them is a tag.
struct Answer<'a> {
    registry: &'a Registry,
    value: &'a str,
    readings: Vec<(Encoding, Result<Reading>)>,
}

impl<'a> Answer<'a> {
    fn new(registry: &'a Registry, value: &'a str, encoding: Option<Encoding>) -> Result<Self> {
        let encodings = encoding.map_or_else(|| guess(value), |encoding| Ok(vec![encoding]))?;
        let readings: Vec<_> = encodings.into_iter().map(|e| (e, e.read(registry, value))).collect();
        if readings.iter().any(|(_, reading)| reading.is_ok()) {
            return Ok(Self { registry, value, readings });
        }
        Err(no_tag(registry, value, &readings))
    }

    fn is_ambiguous(&self) -> bool {
        self.readings.iter().filter(|(_, reading)| reading.is_ok()).count() > 1
    }

    fn print(&self) -> Result<()> {
        let value = self.value;
        if self.is_ambiguous() {
            output::line(format_args!(
                "{value} can be read in two ways; --as label or --as scitag chooses:"
            ))?;
        }
        for (encoding, reading) in &self.readings {
            let read_as = encoding.name();
            match reading {
                Ok(reading) => self.print_reading(read_as, *reading)?,
                Err(error) => {
                    output::line(format_args!("{value} as {read_as}: no tag: {}", output::chain(error)))?
                }
            }
        }
        self.nginx_mistake().map_or(Ok(()), output::line)
    }

    fn print_reading(&self, read_as: &str, reading: Reading) -> Result<()> {
        let name = self.registry.describe(reading.tag);
        let entropy =
            reading.entropy.map(|e| format!(", entropy bits {:#07x}", e.bits())).unwrap_or_default();
        output::line(format_args!("{} as {read_as}: {name}{entropy}", self.value))?;
        Encodings::new(self.registry, reading.tag).print()
    }

    fn print_json(&self) -> Result<()> {
        self.readings.iter().try_for_each(|(encoding, reading)| {
            let read = reading.as_ref().ok();
            output::json(&ReadingLine {
                kind: "reading",
                value: self.value,
                read_as: encoding.name(),
                ambiguous: self.is_ambiguous(),
                flow_label_entropy: read.and_then(|r| r.entropy).map(|e| format!("{:#07x}", e.bits())),
                tag: read.map(|r| Encodings::new(self.registry, r.tag)),
                error: reading.as_ref().err().map(output::chain),
            })
        })
    }

    /// One web server set the label to `1 << 16 | scitag integer`; worth a word where that makes more sense.
    fn nginx_mistake(&self) -> Option<String> {
        let number = integer(self.value).ok().filter(|n| n >> 16 == 1)? & 0xffff;
        let tag = scitag(number).ok().filter(|tag| is_registered(self.registry, *tag))?;
        let makes_sense = |r: &Reading| is_registered(self.registry, r.tag);
        let is_explained = self.readings.iter().any(|(_, r)| r.as_ref().is_ok_and(makes_sense));
        let (value, name) = (self.value, self.registry.describe(tag));
        (!is_explained).then(|| {
            format!(
                "{value} is also 65536 + scitag integer {number} ({name}), which is no encoding but is seen"
            )
        })
    }
}

/// The error for a value without any tag in it, with the encoding that was perhaps meant.
fn no_tag(registry: &Registry, value: &str, readings: &[(Encoding, Result<Reading>)]) -> anyhow::Error {
    let why = |(encoding, reading): &(Encoding, Result<Reading>)| {
        let error = reading.as_ref().err().map(output::chain).unwrap_or_default();
        format!("{value:?} is no {}: {error}", encoding.name())
    };
    let mut text = readings.iter().map(why).collect::<Vec<_>>().join("\n  and ");
    let others = [Encoding::Scitag, Encoding::Label].into_iter();
    for other in others.filter(|other| readings.iter().all(|(tried, _)| tried != other)) {
        if let Ok(reading) = other.read(registry, value) {
            let name = registry.describe(reading.tag);
            text.push_str(&format!("\n  as {} it is {name}: was that meant?", other.name()));
        }
    }
    anyhow!(text)
}

/// Which encodings the form of the value allows, never none.
fn guess(value: &str) -> Result<Vec<Encoding>> {
    let text = value.trim();
    if text.contains('/') {
        return Ok(vec![Encoding::Pair]);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(vec![Encoding::Scitag, Encoding::Label]);
    }
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    if digits.is_some_and(|digits| digits.len() < 2 * HEADER_LEN) {
        return Ok(vec![Encoding::Label]);
    }
    if bytes(text).is_ok() {
        return Ok(vec![Encoding::Option]);
    }
    bail!(
        "{value:?} is no encoding of a tag: write 0x30038 (flow label), 206 (scitag integer), 3/14 (pair) or \
         '06 00 1e 03 00 03 0e 00' (option header)"
    )
}

impl Encoding {
    /// As it stands in every line that has a number in it.
    const fn name(self) -> &'static str {
        match self {
            Self::Label => "flow label",
            Self::Scitag => "scitag integer",
            Self::Pair => "pair",
            Self::Option => "option header",
        }
    }

    fn read(self, registry: &Registry, value: &str) -> Result<Reading> {
        let certain = |tag| Reading { tag, entropy: None };
        match self {
            Self::Label => label(integer(value)?),
            Self::Scitag => scitag(integer(value)?).map(certain),
            Self::Pair => Ok(certain(registry.resolve(value)?)),
            Self::Option => option_header(&bytes(value)?).map(certain),
        }
    }
}

fn scitag(number: u64) -> Result<wire::Tag> {
    Ok(wire::Tag::try_from(ScitagInteger::new(number)?)?)
}

fn label(number: u64) -> Result<Reading> {
    let label = FlowLabel::new(number)?;
    let tag = label.tag().ok_or_else(|| {
        anyhow!("the experiment or the activity in flow label {label} is 0: it was not set as a tag")
    })?;
    Ok(Reading { tag, entropy: Some(label.entropy()) })
}

fn option_header(bytes: &[u8]) -> Result<wire::Tag> {
    // The option without its header, as a dissector shows it.
    let bare = matches!(bytes, [OPTION_TYPE, OPTION_LEN, _, _, _]).then(|| [&[TCP, 0], bytes, &[0]].concat());
    match option::find(bare.as_deref().unwrap_or(bytes))? {
        Some(Found::Tag(tag)) => Ok(tag),
        Some(Found::OutOfRange { experiment, activity }) => {
            wire::Tag::new(experiment.into(), activity.into()).map_err(Into::into)
        }
        None => bail!("it has no option of type {OPTION_TYPE:#04x} with {OPTION_LEN} bytes"),
    }
}

fn integer(text: &str) -> Result<u64> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    // A sign is no part of a number here.
    let is_number = digits.unwrap_or(text).bytes().all(|b| b.is_ascii_hexdigit());
    let parsed = digits.map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    parsed
        .ok()
        .filter(|_| is_number)
        .ok_or_else(|| anyhow!("write a number below 2^64, as 196664 or 0x30038"))
}

/// Hexadecimal digits, two for each byte, with or without separators.
fn bytes(text: &str) -> Result<Vec<u8>> {
    let text = text.trim();
    let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let digits = text.chars().filter(|c| !matches!(c, ' ' | ':' | '-'));
    let digits = digits.map(|c| c.to_digit(16)).collect::<Option<Vec<_>>>();
    let digits = digits.filter(|d| !d.is_empty() && d.len().is_multiple_of(2));
    let digits = digits.context("write two hexadecimal digits for each byte, as 06 00 1e 03 00 03 0e 00")?;
    Ok(digits
        .chunks_exact(2)
        .filter_map(|pair| u8::try_from(pair.iter().fold(0, |n, d| n << 4 | d)).ok())
        .collect())
}
