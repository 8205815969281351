//! `flowtag flows`: the connections of this host as they are, in the style of `top`.
//!
//! ```text
//!  kernel ── Watched::look ──► Model ──► screen (a terminal) or plain (all else)
//!                               ▲
//!                    keys ──────┘
//! ```

mod columns;
mod keys;
mod model;
mod screen;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use ratatui::crossterm::event::{self, Event};

use self::keys::Outcome;
use self::model::{Model, Sort};
use super::args::Watch;
use super::spans::Watched;
use super::table::terminal_width;
use super::watch::{self, Stop, summary};
use crate::cli::output;

/// Time between two looks where nobody says so.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a signal may wait.
const POLL: Duration = Duration::from_millis(250);

/// Show the TCP connections of this host as they are: whose, how fast, and what limits them
#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal: ? shows the keys. Otherwise, or with --json, a table each interval.\n\n\
    Examples:\n  \
    flowtag flows                          what moves now, every second\n  \
    flowtag flows --tag cms --sort retr    of an experiment; who sends most again comes first\n  \
    flowtag flows --once 'port 1094'       one table over one second\n  \
    flowtag flows --once --json -i 10      one object for each connection, over ten seconds"
)]
pub(in crate::cli) struct Flows {
    #[command(flatten)]
    watch: Watch,
    /// One table after one interval
    #[arg(long)]
    once: bool,
    /// What comes first
    #[arg(long, value_name = "COLUMN", default_value = "rate")]
    sort: Sort,
    /// Also connections on which nothing moves
    #[arg(long)]
    idle: bool,
}

impl Flows {
    pub(in crate::cli) fn run(self, json: bool) -> Result<()> {
        ensure!(
            self.watch.by.is_empty() && !self.watch.count,
            "each connection is a line here: for sums see `flowtag top`"
        );
        let mut watched = Watched::start(&self.watch)?;
        let mut model = Model::new(self.sort, self.idle);
        let stop = Stop::new(self.watch.duration)?;
        let ticks = Ticks::new(self.watch.interval.unwrap_or(INTERVAL));
        if !self.once && !json && std::io::stdout().is_terminal() {
            on_terminal(&mut watched, &mut model, &stop, ticks)?;
        } else {
            watch::tell_begin();
            self.plain(&mut watched, &mut model, &stop, ticks, json)?;
        }
        summary(watched.losses()?, json)
    }

    fn plain(
        &self,
        watched: &mut Watched,
        model: &mut Model,
        stop: &Stop,
        mut ticks: Ticks,
        json: bool,
    ) -> Result<()> {
        let mut is_first = true;
        loop {
            let is_last = stop.is_now() || (self.once && ticks.is_due());
            if is_last || ticks.is_due() {
                ticks.advance();
                model.update(watched.look()?, &watched.names);
                if json {
                    let view = watched.view();
                    model.shown().try_for_each(|row| output::json(&row.seen.json(&view)))?;
                } else {
                    print(model, is_first)?;
                }
                is_first = false;
            }
            if is_last {
                return Ok(());
            }
            std::thread::sleep(stop.wait(Some(ticks.next)).min(POLL));
        }
    }
}

fn print(model: &Model, is_first: bool) -> Result<()> {
    let layout = columns::Layout::new(terminal_width());
    if !is_first {
        output::line("")?;
    }
    output::line(layout.header())?;
    model.shown().map(|row| layout.line(row)).try_for_each(output::line)
}

/// When to look.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    interval: Duration,
    next: Instant,
}

impl Ticks {
    fn new(interval: Duration) -> Self {
        Self { interval, next: Instant::now() + interval }
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// After a machine that was busy, only once.
    fn advance(&mut self) {
        self.next = (self.next + self.interval).max(Instant::now());
    }
}

/// Gives the terminal back as it was, also after a panic (the hook of `ratatui::init`) or a signal.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn on_terminal(watched: &mut Watched, model: &mut Model, stop: &Stop, mut ticks: Ticks) -> Result<()> {
    let mut terminal = ratatui::try_init().context("cannot draw on this terminal")?;
    let _restore = Restore;
    // Something to see at once.
    model.update(watched.look()?, &watched.names);
    while !stop.is_now() {
        if ticks.is_due() {
            ticks.advance();
            model.update(watched.look()?, &watched.names);
            model.losses = watched.losses()?;
        }
        terminal.draw(|frame| screen::draw(frame, model)).context("cannot draw on this terminal")?;
        if !event::poll(stop.wait(Some(ticks.next)).min(POLL)).context("cannot read the keyboard")? {
            continue;
        }
        let Event::Key(key) = event::read().context("cannot read the keyboard")? else { continue };
        match keys::press(model, key) {
            Outcome::Quit => break,
            Outcome::Filter(text) => model.filtered(watched.filter(&text), &text),
            Outcome::Stay => {}
        }
    }
    Ok(())
}
