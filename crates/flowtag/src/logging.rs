//! Log lines on standard error: level from the configuration, changed by a reload; FLOWTAG_LOG goes before it.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// Environment variable with levels per module.
const VARIABLE: &str = "FLOWTAG_LOG";

/// Changes the level of a running program.
pub(crate) struct Level(Option<reload::Handle<Targets, Registry>>);

impl Level {
    /// Starts logging.
    ///
    /// # Errors
    /// FLOWTAG_LOG is set and says no levels.
    pub(crate) fn start(level: &str) -> anyhow::Result<Self> {
        let from_environment = std::env::var(VARIABLE).ok().map(|text| {
            text.parse::<Targets>()
                .with_context(|| format!("{VARIABLE}={text:?}: write info, or info,flowtag=debug"))
        });
        let from_environment = from_environment.transpose()?;
        let fixed = from_environment.is_some();
        let filter = from_environment.unwrap_or_else(|| at(level));
        let (filter, handle) = reload::Layer::new(filter);
        let terminal = std::io::stderr().is_terminal();
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(terminal).with_target(false);
        // The journal stamps lines itself.
        if std::env::var_os("JOURNAL_STREAM").is_some() {
            tracing_subscriber::registry().with(filter).with(lines.without_time()).init();
        } else {
            tracing_subscriber::registry().with(filter).with(lines).init();
        }
        Ok(Self((!fixed).then_some(handle)))
    }

    /// The level from now on, unless the environment said otherwise at start.
    pub(crate) fn set(&self, level: &str) {
        if let Some(handle) = &self.0 {
            let _ = handle.reload(at(level)); // fails only when the program ends
        }
    }
}

/// One level for all modules; the configuration has checked it.
fn at(level: &str) -> Targets {
    level.parse().unwrap_or_default()
}
