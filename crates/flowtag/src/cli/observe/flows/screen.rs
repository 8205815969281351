//! What the terminal shows.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout as Split, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline, Wrap};

use super::super::table::{duration, flow_text, scaled};
use super::super::why::{evidence, limits};
use super::columns::{Layout, rate};
use super::keys::HELP;
use super::model::{Mode, Model, Point, Row};
use crate::verdict::advice;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let parts = [Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)];
    let [head, body, foot] = Split::vertical(parts).areas(frame.area());
    frame.render_widget(Line::styled(heading(model), BOLD), head);
    match &model.mode {
        Mode::Help => help(frame, body),
        Mode::Detail(cookie) => detail(frame, body, model, *cookie),
        Mode::List | Mode::Filter(_) => list(frame, body, model),
    }
    frame.render_widget(Line::raw(footing(model)), foot);
}

fn heading(model: &Model) -> String {
    let (tx, rx) = model.rates();
    let (shown, total) = (model.shown().count(), model.total());
    let filter = if model.filter.is_empty() { String::new() } else { format!("  filter: {}", model.filter) };
    format!("flowtag flows  {shown} of {total}  out {}bit/s  in {}bit/s{filter}", rate(tx), rate(rx))
}

fn footing(model: &Model) -> String {
    if let Some(error) = &model.error {
        return error.clone();
    }
    let losses = &model.losses;
    match &model.mode {
        Mode::Filter(text) => format!("/{text}█"),
        Mode::Detail(_) => "Esc back   q end".to_owned(),
        Mode::Help => "any key leads back".to_owned(),
        Mode::List => format!(
            "? help  / filter  Enter look closer  q end   events {}, lost {}, evicted {}",
            scaled(losses.events as f64),
            losses.lost,
            losses.evicted
        ),
    }
}

fn list(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let layout = Layout::new(area.width.into());
    let height = usize::from(area.height.saturating_sub(1)).max(1);
    let cursor = model.cursor();
    // The cursor's page.
    let first = cursor / height * height;
    let rows = model.shown().skip(first).take(height).enumerate();
    let rows = rows.map(|(n, row)| {
        let style = if first + n == cursor { REVERSED } else { Style::new() };
        Line::styled(layout.line(row), style)
    });
    let lines: Vec<_> = [header(&layout, model)].into_iter().chain(rows).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

/// The heading that lines are ordered by stands out.
fn header(layout: &Layout, model: &Model) -> Line<'static> {
    let text = layout.header();
    let Some((start, end)) = layout.sorted(model.sort) else { return Line::styled(text, BOLD) };
    let part = |from: usize, to: usize| text.chars().skip(from).take(to - from).collect::<String>();
    let rest = part(end, text.chars().count().max(end));
    Line::from(vec![
        Span::styled(part(0, start), BOLD),
        Span::styled(part(start, end), BOLD.add_modifier(Modifier::UNDERLINED)),
        Span::styled(rest, BOLD),
    ])
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<_> = HELP.iter().map(|(keys, what)| Line::raw(format!("  {keys:<20} {what}"))).collect();
    let block = Block::new().borders(Borders::TOP).title(" keys ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn detail(frame: &mut Frame<'_>, area: Rect, model: &Model, cookie: u64) {
    let parts = [Constraint::Min(8), Constraint::Length(4), Constraint::Length(4), Constraint::Length(4)];
    let [text, rates, rtts, cwnds] = Split::vertical(parts).areas(area);
    let Some(row) = model.row(cookie) else {
        frame.render_widget(Paragraph::new("This connection has ended, or the filter hides it."), text);
        return;
    };
    let lines: Vec<_> = about(row, area.width.into()).into_iter().map(Line::raw).collect();
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), text);
    let points: Vec<_> = model.points(cookie).copied().collect();
    spark(frame, rates, "rate", &points, |p| f64::from(p.rate), |bytes| format!("{}bit/s", rate(bytes)));
    spark(frame, rtts, "RTT", &points, |p| p.rtt.into(), |micros| duration(micros * 1e3));
    spark(frame, cwnds, "cwnd", &points, |p| p.cwnd.into(), scaled);
}

fn about(row: &Row, width: usize) -> Vec<String> {
    let seen = &row.seen;
    let flow = seen.record.context.flow;
    let tag = row.tag.as_ref().map(|tag| format!("  {tag}")).unwrap_or_default();
    vec![
        flow.map_or_else(|| "-".to_owned(), |flow| flow_text(&flow, width)),
        format!("{}{tag}  {}", row.process, seen.state),
        String::new(),
        format!("{}{}", seen.verdict.words(), limits(&seen.span)),
        evidence(&seen.span),
        format!("→ {}", advice(seen.verdict, &seen.span)),
    ]
}

/// The latest at the right end.
fn spark(
    frame: &mut Frame<'_>,
    area: Rect,
    what: &str,
    points: &[Point],
    value: fn(&Point) -> f64,
    text: impl Fn(f64) -> String,
) {
    let room = usize::from(area.width);
    let values: Vec<f64> = points.iter().skip(points.len().saturating_sub(room)).map(value).collect();
    let most = values.iter().copied().fold(0.0, f64::max);
    let now = values.last().copied().unwrap_or(0.0);
    let title = format!(" {what} {}, at most {} ", text(now), text(most));
    let bars = values.iter().map(|value| Some(value.round() as u64));
    let before = std::iter::repeat_n(None, room.saturating_sub(values.len()));
    let bars: Vec<Option<u64>> = before.chain(bars).collect();
    let block = Block::new().borders(Borders::TOP).title(title);
    frame.render_widget(Sparkline::default().absent_value_symbol(" ").data(bars).block(block), area);
}

#[cfg(test)]
mod tests;
