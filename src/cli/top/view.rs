//! How `top` looks. Drawn from what [`App`] knows, and nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use millstream::inspect::{EventView, JobView, Stats};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::super::stats::per_second;
use super::super::{jobs, output};
use super::app::{App, Pane, Popup};

const KEYS: &str = "↑↓ select  Tab pane  Enter look  p pause/resume  r redrive  q quit";
/// Looks that a sparkline shows.
const SPARKS: usize = 20;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let queues = app.look.queues.len().clamp(1, 12) as u16;
    let [head, upper, middle, lower, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(queues + 3),
        Constraint::Min(4),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, app);
    draw_queues(frame, upper, app);
    let halves = [Constraint::Percentage(60), Constraint::Percentage(40)];
    let [left, right] = Layout::horizontal(halves).areas(middle);
    draw_running(frame, left, app);
    draw_workers(frame, right, app);
    draw_failures(frame, lower, app);
    let said = if app.said.is_empty() { KEYS } else { &app.said };
    frame.render_widget(Paragraph::new(output::clean(said).into_owned()), foot);
    match &app.popup {
        Some(Popup::Job(job)) => draw_job(frame, job),
        Some(Popup::Question(question, _)) => draw_question(frame, question),
        None => {}
    }
}

/// A colour, unless `NO_COLOR` asks for none.
fn coloured(colour: Color) -> Style {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match plain {
        true => Style::new(),
        false => Style::new().fg(colour),
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let mut spans = vec![
        Span::styled("millstream top", bold()),
        Span::raw(format!("  {}", app.server)),
    ];
    if let Some(error) = &app.away {
        let error = format!("  cannot look: {}", output::clean(error));
        spans.push(Span::styled(error, coloured(Color::Red)));
    }
    frame.render_widget(Line::from(spans), area);
}

fn block(title: String, active: bool) -> Block<'static> {
    let block = Block::new().borders(Borders::TOP).title(title);
    match active {
        true => block
            .border_style(coloured(Color::Cyan))
            .title_style(bold()),
        false => block,
    }
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

/// From here on all columns of the queues have their room.
const WIDE: u16 = 120;
/// Below this the sparklines and the failures' rate make room for the counts.
const NARROW: u16 = 100;

fn draw_queues(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let count = if area.width < WIDE { 7 } else { 9 };
    let columns = [
        ("queue", Constraint::Fill(2)),
        ("state", Constraint::Length(7)),
        ("ready", Constraint::Length(count)),
        ("running", Constraint::Length(count)),
        ("scheduled", Constraint::Length(9)),
        ("held", Constraint::Length(count)),
        ("dead", Constraint::Length(count)),
        ("in/s", Constraint::Length(6)),
        ("done/s", Constraint::Length(6)),
        ("oldest", Constraint::Length(count)),
        ("failed/s", Constraint::Length(8)),
        ("done", Constraint::Length(SPARKS as u16)),
    ];
    // What comes last is left out first.
    let shown = if area.width < NARROW {
        10
    } else {
        columns.len()
    };
    let (header, widths): (Vec<&str>, Vec<Constraint>) = columns.into_iter().take(shown).unzip();
    let queues = app.look.queues.iter();
    let rows = queues.map(|stats| Row::new(queue_cells(stats, app).into_iter().take(shown)));
    let table = Table::new(rows, widths)
        .header(Row::new(header).style(bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block(
            format!("queues ({})", app.look.queues.len()),
            app.pane == Pane::Queues,
        ));
    let mut state = TableState::new().with_selected(app.selected_queue());
    frame.render_stateful_widget(table, area, &mut state);
    if app.look.queues.is_empty() {
        let below = Rect {
            y: area.y + 2.min(area.height.saturating_sub(1)),
            height: 1.min(area.height),
            ..area
        };
        frame.render_widget("no queues yet", below);
    }
}

fn queue_cells(stats: &Stats, app: &App) -> [Cell<'static>; 12] {
    let trend = app.trends.of.get(&stats.queue);
    let rates = trend.and_then(|trend| trend.rates.as_ref());
    let rate = |rate: Option<f64>| right(rate.map_or_else(|| "-".into(), per_second));
    let dead = right(output::count(stats.dead));
    let state = match (stats.paused, stats.open_circuits.is_empty()) {
        (true, _) => Cell::from("paused").style(coloured(Color::Yellow)),
        // Workers wait for what their jobs need.
        (false, false) => Cell::from("circuit").style(coloured(Color::Red)),
        (false, true) => Cell::from("open"),
    };
    [
        Cell::from(stats.queue.clone()),
        state,
        right(output::count(stats.ready)),
        right(output::count(stats.running)),
        right(output::count(stats.scheduled)),
        right(output::count(stats.held)),
        if stats.dead > 0 {
            dead.style(coloured(Color::Red))
        } else {
            dead
        },
        rate(rates.map(|rates| rates.enqueued)),
        rate(rates.map(|rates| rates.completed)),
        right(short_age(stats.oldest_ready_ms)),
        rate(rates.map(|rates| rates.failed)),
        Cell::from(
            trend
                .map(|trend| sparks(trend.completed.iter().copied()))
                .unwrap_or_default(),
        )
        .style(coloured(Color::Green)),
    ]
}

/// The newest numbers as bars, the largest as the highest.
fn sparks(numbers: impl DoubleEndedIterator<Item = u64>) -> String {
    let mut newest: Vec<u64> = numbers.rev().take(SPARKS).collect();
    newest.reverse();
    let most = newest.iter().copied().max().unwrap_or_default().max(1);
    let bar = |number: u64| match number {
        0 => ' ',
        number => BARS[((number * 7).div_ceil(most) as usize).min(7)],
    };
    newest.into_iter().map(bar).collect()
}

/// The two largest units, so that it fits a column.
fn short_age(ms: Option<u64>) -> String {
    let text = output::age(ms);
    let mut parts = text.split(' ');
    match (parts.next(), parts.next()) {
        (Some(first), Some(second)) => format!("{first} {second}"),
        _ => text,
    }
}

fn draw_running(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let detail = &app.look.detail;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_millis() as u64);
    let rows = detail.running.iter().map(|job| {
        Row::new([
            Cell::from(job.id.to_string()),
            Cell::from(output::clean(&job.name).into_owned()),
            right(job.attempt.to_string()),
            right(short_age(
                since_ready(job).map(|ready| now.saturating_sub(ready)),
            )),
            right(short_age(job.idle_ms)),
        ])
    });
    let widths = [
        Constraint::Fill(2),
        Constraint::Fill(2),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    let title = format!(
        "running jobs of {} ({})",
        detail.queue,
        detail.running.len()
    );
    let table = Table::new(rows, widths)
        .header(Row::new(["job", "name", "attempt", "age", "renewed"]).style(bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block(title, app.pane == Pane::Running));
    let selected = (app.pane == Pane::Running).then_some(app.rows[0]);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

/// When the job was put on its stream, unix ms: its entry's id says so, and its cursor ends in it.
fn since_ready(job: &JobView) -> Option<u64> {
    let entry = job.cursor.as_deref()?.rsplit('.').next()?;
    entry.split('-').next()?.parse().ok()
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let workers = &app.look.detail.workers;
    let rows = workers.iter().map(|worker| {
        let style = match worker.idle_ms {
            0..30_000 => Style::new(),
            _ => coloured(Color::Yellow),
        };
        Row::new([
            Cell::from(output::clean(&worker.worker).into_owned()),
            right(output::count(worker.running)),
            right(short_age(Some(worker.idle_ms))),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Length(10),
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(["worker", "running", "heard of"]).style(bold()))
        .block(block(format!("workers ({})", workers.len()), false));
    frame.render_widget(table, area);
}

fn draw_failures(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let failures = &app.look.detail.failures;
    let rows = failures.iter().map(failure_row);
    let widths = [
        Constraint::Length(24),
        Constraint::Length(8),
        Constraint::Fill(1),
        Constraint::Fill(2),
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(["at", "what", "job", "detail"]).style(bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block("recent failures".into(), app.pane == Pane::Failures));
    let selected = (app.pane == Pane::Failures).then_some(app.rows[1]);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

fn failure_row(event: &EventView) -> Row<'static> {
    let detail = event.detail.lines().next().unwrap_or_default();
    Row::new([
        Cell::from(output::time(Some(event.at_ms))),
        Cell::from(event.event.name().to_owned()),
        Cell::from(
            event
                .job
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
        Cell::from(output::clean(detail).into_owned()),
    ])
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
}

fn draw_question(frame: &mut Frame<'_>, question: &str) {
    let width = (question.chars().count() as u16).saturating_add(6).max(30);
    let area = centred(frame.area(), width, 4);
    let text = vec![
        Line::from(output::clean(question).into_owned()),
        Line::styled("y: yes, any other key: no", bold()),
    ];
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(text).block(Block::bordered()), area);
}

fn draw_job(frame: &mut Frame<'_>, job: &JobView) {
    let mut text = Vec::new();
    for (label, value) in jobs::facts(job) {
        for (number, line) in value.lines().enumerate() {
            let label = if number == 0 { label.as_str() } else { "" };
            text.push(Line::from(vec![
                Span::styled(format!("{label:<18} "), bold()),
                Span::raw(line.to_owned()),
            ]));
        }
    }
    text.push(Line::default());
    // What does not fit a screen is not worth the time to lay it out.
    let payload = jobs::payload_text(job);
    text.extend(
        payload
            .lines()
            .take(200)
            .map(|line| Line::raw(line.chars().take(500).collect::<String>())),
    );
    let area = frame.area();
    let area = centred(
        area,
        area.width.saturating_sub(6),
        area.height.saturating_sub(4),
    );
    let block = Block::bordered()
        .title(format!("job {}", job.id))
        .title_bottom("r redrive, any other key closes");
    frame.render_widget(Clear, area);
    frame.render_widget(
        Paragraph::new(text).wrap(Wrap { trim: false }).block(block),
        area,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparks_rise_with_the_numbers_and_the_newest_is_last() {
        assert_eq!(sparks([0, 1, 4, 8].into_iter()), " ▂▅█");
        assert_eq!(sparks([].into_iter()), "");
        assert_eq!(sparks([0; 3].into_iter()), "   ");
        assert_eq!(sparks(0..100).chars().count(), SPARKS);
    }

    #[test]
    fn ages_are_cut_to_two_units() {
        assert_eq!(short_age(Some(93_784_000)), "1day 2h");
        assert_eq!(short_age(Some(5_000)), "5s");
        assert_eq!(short_age(None), "-");
    }

    #[test]
    fn a_popup_stays_within_the_smallest_terminal() {
        let area = Rect::new(0, 0, 10, 3);
        assert_eq!(centred(area, 100, 100), area);
        assert_eq!(centred(area, 4, 1), Rect::new(3, 1, 4, 1));
    }
}
