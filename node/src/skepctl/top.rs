//! `skepctl top`: the Services that are asked most, live.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, stdout},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::Stylize as _,
    text::Text,
    widgets::{Row as TableRow, Table},
};
use skep_proxy::maps::Reader;

use crate::changes::{self, Change, Look, ServiceName};

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Most connections a second.
    Connections,
    /// Most refused attempts a second.
    Refused,
    /// By name.
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct TopCommand {
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// What comes first; the keys c, r and n change it.
    #[arg(long, value_enum, default_value_t = Order::Connections)]
    sort: Order,
}

/// One service port.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    service: String,
    /// Choices of a backend a second, at sockets and by packets.
    connections: f64,
    /// Attempts refused a second.
    refused: f64,
    backends: usize,
    /// Connections that are tracked. (Those of sockets are not.)
    tracked: usize,
    /// Choices of a backend since it is served.
    total: u64,
}

/// What is on the screen.
#[derive(Clone, Debug, PartialEq)]
struct View {
    rows: Vec<Row>,
    /// Tracked connections in all.
    tracked: usize,
    /// Packets dropped a second.
    drops: f64,
}

impl TopCommand {
    /// Shows it until somebody presses `q`.
    pub(crate) fn run(&self, reader: &Reader) -> Result<()> {
        ensure!(stdout().is_terminal(), "top needs a terminal; `skepctl monitor` writes lines");
        let first = Look::take(reader)?;
        // It puts the terminal right again on a panic, too.
        let mut terminal = ratatui::try_init()?;
        let result = self.show(reader, first, &mut terminal);
        ratatui::restore();
        result
    }

    fn show(&self, reader: &Reader, mut before: Look, terminal: &mut DefaultTerminal) -> Result<()> {
        // Nothing has happened yet.
        let (mut order, mut view) = (self.sort, View::of(&before, &before, Duration::from_secs(self.interval)));
        let mut since = Instant::now();
        let interval = Duration::from_secs(self.interval);
        loop {
            sort(&mut view.rows, order);
            terminal.draw(|frame| draw(frame, &view))?;
            let rest = interval.saturating_sub(since.elapsed());
            if event::poll(rest)? {
                match event::read()? {
                    Event::Key(key) if ends(key) => return Ok(()),
                    Event::Key(key) => order = chosen(key).unwrap_or(order),
                    _ => {}
                }
                continue;
            }
            let after = Look::take(reader)?;
            view = View::of(&before, &after, since.elapsed());
            (before, since) = (after, Instant::now());
        }
    }
}

fn ends(key: KeyEvent) -> bool {
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

/// The order a key asks for.
fn chosen(key: KeyEvent) -> Option<Order> {
    match key.code {
        KeyCode::Char('c') => Some(Order::Connections),
        KeyCode::Char('r') => Some(Order::Refused),
        KeyCode::Char('n') => Some(Order::Name),
        _ => None,
    }
}

impl View {
    /// What happened from one look to the next.
    fn of(before: &Look, after: &Look, time: Duration) -> Self {
        let rate = |count: u64| count as f64 / time.as_secs_f64().max(0.001);
        let mut counts: HashMap<String, (u64, u64)> = HashMap::new();
        let mut drops = 0;
        for change in changes::between(before, after) {
            match change {
                Change::Served { service, connections, .. } => {
                    counts.entry(service.to_string()).or_default().0 += connections;
                }
                Change::Refused { service, attempts } => counts.entry(service.to_string()).or_default().1 += attempts,
                Change::Dropped(dropped) => drops += dropped.packets,
                Change::Opened(_) | Change::Moved(_) | Change::Forgotten(_) => {}
            }
        }
        let mut tracked: HashMap<&str, usize> = HashMap::new();
        for flow in after.flows.iter().filter(|flow| !flow.over) {
            *tracked.entry(flow.service.as_deref().unwrap_or_default()).or_default() += 1;
        }
        let rows = after.services.iter().map(|service| {
            let name = ServiceName::of(service).to_string();
            let (connections, refused) = counts.get(&name).copied().unwrap_or_default();
            Row {
                connections: rate(connections),
                refused: rate(refused),
                backends: service.backends.len(),
                tracked: tracked.get(name.as_str()).copied().unwrap_or_default(),
                total: service.connections,
                service: name,
            }
        });
        Self { rows: rows.collect(), tracked: tracked.values().sum(), drops: rate(drops) }
    }
}

fn sort(rows: &mut [Row], order: Order) {
    rows.sort_by(|a, b| {
        let by_name = a.service.cmp(&b.service);
        match order {
            Order::Connections => b.connections.total_cmp(&a.connections).then(by_name),
            Order::Refused => b.refused.total_cmp(&a.refused).then(by_name),
            Order::Name => by_name,
        }
    });
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let [head, body] = Layout::vertical([Constraint::Length(2), Constraint::Min(0)]).areas(frame.area());
    let View { rows, tracked, drops } = view;
    let text = format!(
        "{} service ports, {tracked} tracked connections, {drops:.0} packets dropped a second\n\
         Sort: c connections, r refused, n name; q ends",
        rows.len()
    );
    frame.render_widget(Text::from(text), head);
    let cells = rows.iter().map(|row| {
        TableRow::new([
            row.service.clone(),
            format!("{:.1}", row.connections),
            format!("{:.1}", row.refused),
            row.backends.to_string(),
            row.tracked.to_string(),
            row.total.to_string(),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(12),
    ];
    let header = TableRow::new(["SERVICE", "CONN/S", "REFUSED/S", "BACKENDS", "TRACKED", "TOTAL"]).bold();
    // As many rows as fit are drawn.
    frame.render_widget(Table::new(cells.take(body.height.into()), widths).header(header), body);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};
    use skep_proxy::maps::reader::{ServiceRecord, status::DropRecord};

    use super::*;

    fn service(name: &str, connections: u64, refused: u64) -> ServiceRecord {
        ServiceRecord {
            namespace: "default".into(),
            name: name.into(),
            port_name: "http".into(),
            frontends: Vec::new(),
            // Apart from the others'.
            id: name.bytes().map(u32::from).sum(),
            generation: 1,
            connections,
            refused,
            affinity_seconds: None,
            backends: Vec::new(),
        }
    }

    fn view() -> View {
        let drops = |packets| vec![DropRecord { reason: "no-route", packets }];
        let look = |services, packets| Look { flows: Vec::new(), drops: drops(packets), services };
        let before = look(vec![service("a", 10, 0), service("b", 10, 0)], 5);
        let after = look(vec![service("a", 10, 8), service("b", 30, 0)], 9);
        View::of(&before, &after, Duration::from_secs(2))
    }

    #[test]
    fn rates_are_what_was_added_by_the_time_it_took() {
        let View { rows, drops, .. } = view();
        assert_eq!((rows[0].connections, rows[0].refused, rows[0].total), (0.0, 4.0, 10));
        assert_eq!((rows[1].connections, rows[1].refused, rows[1].total), (10.0, 0.0, 30));
        assert!((drops - 2.0).abs() < 0.001);
    }

    #[test]
    fn the_screen_shows_the_order_that_was_asked_for_and_no_more_than_fits() {
        for (order, first, second) in
            [(Order::Connections, "b", "a"), (Order::Refused, "a", "b"), (Order::Name, "a", "b")]
        {
            let mut view = view();
            sort(&mut view.rows, order);
            let mut terminal = Terminal::new(TestBackend::new(90, 5)).unwrap();
            terminal.draw(|frame| draw(frame, &view)).unwrap();
            let buffer = terminal.backend().buffer().clone();
            let line = |y: u16| (0..90).map(|x| buffer[(x, y)].symbol()).collect::<String>();
            assert!(line(0).starts_with("2 service ports, 0 tracked connections, 2 packets dropped a second"));
            assert!(line(1).starts_with("Sort: c connections"));
            assert!(line(2).starts_with("SERVICE") && line(2).contains("REFUSED/S"));
            assert!(line(3).starts_with(&format!("default/{first}:http")), "{order:?}: {}", line(3));
            assert!(line(4).starts_with(&format!("default/{second}:http")), "{order:?}: {}", line(4));
        }
        // A terminal of no size is no panic.
        Terminal::new(TestBackend::new(1, 1)).unwrap().draw(|frame| draw(frame, &view())).unwrap();
    }

    #[test]
    fn keys_end_it_or_change_the_order() {
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
        assert!(ends(key(KeyCode::Char('q'))) && ends(key(KeyCode::Esc)) && !ends(key(KeyCode::Char('c'))));
        assert!(ends(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert_eq!(chosen(key(KeyCode::Char('r'))), Some(Order::Refused));
        assert_eq!(chosen(key(KeyCode::Up)), None);
    }
}
