//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Mode, Model, Sort};

/// Rows of a page.
const PAGE: isize = 15;

/// What is to be done beyond the model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stay,
    Quit,
    /// Only connections that match this expression.
    Filter(String),
}

/// Keys and what they do, as help has them.
pub(super) const HELP: &[(&str, &str)] = &[
    ("↑ ↓ j k  PgUp PgDn", "choose a connection"),
    ("Enter", "look closer: rate, RTT, cwnd over time; evidence, advice"),
    ("Esc", "back; in the list: take the filter away"),
    ("/", "only those that match: port 1094 and tag cms"),
    ("a t r", "order by rate both ways, sent, received"),
    ("m l c", "order by RTT, retransmitted parts, congestion window"),
    ("o p n s v", "order by tag, process, other end, state, verdict"),
    ("", "the same key again turns the order round"),
    ("i", "also connections on which nothing moves"),
    ("q", "end"),
];

const SORTS: [(char, Sort); 11] = [
    ('a', Sort::Rate),
    ('t', Sort::Tx),
    ('r', Sort::Rx),
    ('m', Sort::Rtt),
    ('l', Sort::Retr),
    ('c', Sort::Cwnd),
    ('o', Sort::Tag),
    ('p', Sort::Process),
    ('n', Sort::Remote),
    ('s', Sort::State),
    ('v', Sort::Verdict),
];

pub(super) fn press(model: &mut Model, key: KeyEvent) -> Outcome {
    if key.kind == KeyEventKind::Release {
        return Outcome::Stay;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Outcome::Quit;
    }
    match std::mem::replace(&mut model.mode, Mode::List) {
        Mode::Filter(text) => typed(model, text, key.code),
        Mode::List => in_list(model, key.code),
        // Any key leads back, as does that which ends all.
        Mode::Help | Mode::Detail(_) if key.code == KeyCode::Char('q') => Outcome::Quit,
        Mode::Help => Outcome::Stay,
        Mode::Detail(cookie) => {
            if !matches!(key.code, KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace) {
                model.mode = if key.code == KeyCode::Char('?') { Mode::Help } else { Mode::Detail(cookie) };
            }
            Outcome::Stay
        }
    }
}

fn in_list(model: &mut Model, code: KeyCode) -> Outcome {
    match code {
        KeyCode::Char('q') => return Outcome::Quit,
        KeyCode::Esc if !model.filter.is_empty() => return Outcome::Filter(String::new()),
        KeyCode::Char('?' | 'h') => model.mode = Mode::Help,
        KeyCode::Char('/') => model.mode = Mode::Filter(model.filter.clone()),
        KeyCode::Char('i') => model.shows_idle = !model.shows_idle,
        KeyCode::Up | KeyCode::Char('k') => model.move_by(-1),
        KeyCode::Down | KeyCode::Char('j') => model.move_by(1),
        KeyCode::PageUp => model.move_by(-PAGE),
        KeyCode::PageDown => model.move_by(PAGE),
        KeyCode::Home => model.move_by(isize::MIN),
        KeyCode::End => model.move_by(isize::MAX),
        KeyCode::Enter => model.mode = model.at_cursor().map_or(Mode::List, Mode::Detail),
        KeyCode::Char(letter) => {
            let sort = SORTS.iter().find(|(key, _)| *key == letter);
            sort.iter().for_each(|(_, sort)| model.sort_by(*sort));
        }
        _ => {}
    }
    Outcome::Stay
}

fn typed(model: &mut Model, mut text: String, code: KeyCode) -> Outcome {
    match code {
        KeyCode::Enter => {
            // Stays open where the expression cannot be read.
            model.mode = Mode::Filter(text.clone());
            return Outcome::Filter(text);
        }
        KeyCode::Esc => {
            model.error = None;
            return Outcome::Stay;
        }
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(letter) => text.push(letter),
        _ => {}
    }
    model.mode = Mode::Filter(text);
    Outcome::Stay
}
