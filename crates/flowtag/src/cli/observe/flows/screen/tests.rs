use std::borrow::Cow;
use std::fs;
use std::path::Path;

use flowtag_engine::Registry;
use flowtag_kernel::probes::{Context, Flow, Owner, Record};
use flowtag_wire::Tag;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::super::names::Names;
use super::super::super::spans::Seen;
use super::super::keys::{Outcome, press};
use super::super::model::Sort;
use super::*;
use crate::verdict::{Shares, Span, Verdict, Way};

fn seen(cookie: u64, tag: Option<(u64, u64)>, process: &str, span: Span) -> Seen {
    let end = |text: &str| text.parse().unwrap();
    let context = Context {
        cookie: Some(cookie),
        flow: Some(Flow {
            protocol: 6,
            local: end("[2001:db8:a:b:c:d:e:1]:1094"),
            remote: end(&format!("[2001:db8:1:2:3:4:5:{cookie}]:4000{cookie}")),
        }),
        tag: tag.map(|(experiment, activity)| Tag::new(experiment, activity).unwrap()),
        owner: Owner { pid: Some(4711), process: Some(process.to_owned()), ..Owner::default() },
        ..Context::default()
    };
    Seen {
        record: Record { context, values: Vec::new() },
        cookie,
        state: "ESTAB",
        verdict: Verdict::of(&span),
        span,
    }
}

fn some() -> Vec<Seen> {
    let fast = Span {
        time: 1.0,
        way: Way::Sends,
        sent: 118_000_000,
        segments: 81_000,
        retransmitted: 810,
        rtt: Some(21_000),
        min_rtt: Some(20_100),
        cwnd: 1_640,
        peer_window_min: 3_100_000,
        peer_window_max: 3_140_000,
        sndbuf: 4_000_000,
        shares: Shares { network: 0.7, recovery: 0.25, application: 0.05, ..Shares::default() },
        ..Span::default()
    };
    let reader = Span {
        time: 1.0,
        way: Way::Receives,
        received: 40_000,
        rcv_rtt: Some(40_000),
        cwnd: 10,
        window: 65_000,
        unread: 62_000,
        unread_max: 64_000,
        unread_share: 0.97,
        rcvbuf: 131_072,
        ..Span::default()
    };
    vec![
        seen(1, Some((3, 14)), "xrootd", fast),
        seen(2, None, "slowcat", reader),
        seen(3, None, "sshd", Span { time: 1.0, cwnd: 10, ..Span::default() }),
    ]
}

fn model() -> Model {
    let names = Names::new(Cow::Borrowed(Registry::embedded()));
    let mut model = Model::new(Sort::Rate, false);
    for _ in 0..30 {
        model.update(some(), &names);
    }
    model
}

fn keys(model: &mut Model, codes: &[KeyCode]) -> Vec<Outcome> {
    codes.iter().map(|code| press(model, KeyEvent::new(*code, KeyModifiers::NONE))).collect()
}

/// The screen as text, held against `tests/golden/NAME`; with FLOWTAG_BLESS=1 it is written.
#[track_caller]
fn golden(name: &str, model: &Model, width: u16, height: u16) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let row =
        |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
    let found: String = (0..height).map(row).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("FLOWTAG_BLESS").is_some_and(|v| v == "1") {
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "not as in tests/golden/{name}; FLOWTAG_BLESS=1 writes it anew\n{found}");
}

#[test]
fn the_list_fits_80_columns_and_uses_more() {
    golden("flows-80.txt", &model(), 80, 24);
    golden("flows-160.txt", &model(), 160, 8);
}

#[test]
fn enter_looks_closer_and_escape_leads_back() {
    let mut model = model();
    keys(&mut model, &[KeyCode::Enter]);
    golden("flows-detail.txt", &model, 80, 24);
    keys(&mut model, &[KeyCode::Esc, KeyCode::Down, KeyCode::Enter]);
    assert_eq!(model.mode, Mode::Detail(2));
    keys(&mut model, &[KeyCode::Esc, KeyCode::Char('?')]);
    golden("flows-help.txt", &model, 80, 24);
}

#[test]
fn keys_order_filter_and_end() {
    let mut model = model();
    let order = |model: &Model| model.shown().map(|row| row.seen.cookie).collect::<Vec<_>>();
    assert_eq!(order(&model), [1, 2]);
    keys(&mut model, &[KeyCode::Char('i'), KeyCode::Char('r')]);
    assert_eq!(order(&model), [2, 1, 3]);
    keys(&mut model, &[KeyCode::Char('r')]);
    assert_eq!(order(&model), [1, 3, 2]);
    keys(&mut model, &[KeyCode::Char('p')]);
    assert_eq!(order(&model), [2, 3, 1]);
    let typed: Vec<_> =
        "/port q".chars().map(KeyCode::Char).chain([KeyCode::Backspace, KeyCode::Enter]).collect();
    assert_eq!(keys(&mut model, &typed).last(), Some(&Outcome::Filter("port ".to_owned())));
    model.filtered(Err(anyhow::anyhow!("no port")), "port ");
    assert_eq!((&model.mode, model.filter.as_str()), (&Mode::Filter("port ".to_owned()), ""));
    keys(&mut model, &[KeyCode::Esc]);
    assert_eq!((&model.mode, &model.error), (&Mode::List, &None));
    assert_eq!(keys(&mut model, &[KeyCode::Char('q')]), [Outcome::Quit]);
}

/// A terminal may be of any size while it is changed.
#[test]
fn no_size_is_too_small() {
    let mut model = model();
    for mode in [Mode::List, Mode::Help, Mode::Detail(1), Mode::Detail(99)] {
        model.mode = mode;
        for (width, height) in [(1, 1), (10, 3), (40, 10), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &model)).unwrap();
        }
    }
}
