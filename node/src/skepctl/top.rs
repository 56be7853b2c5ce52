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
use skep_proxy::maps::{
    Reader,
    reader::{TcpTotals, TcpWatch},
};

use crate::changes::{self, Change, Look, ServiceName};

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Most connections a second.
    Connections,
    /// Most refused attempts a second.
    Refused,
    /// Most bytes a second, both ways together.
    Bytes,
    /// Longest round trips.
    Latency,
    /// Most segments sent again a second.
    Retransmits,
    /// By name.
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct TopCommand {
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// What comes first; the keys c, r, b, l, t and n change it.
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
    /// Bytes a second that TCP sockets of this node had acknowledged; [`TcpWatch`] says which.
    sent: f64,
    /// Bytes a second that they got.
    received: f64,
    /// Mean of their round trips, milliseconds; `None` if there were none.
    latency: Option<f64>,
    /// Segments a second they sent again.
    retransmits: f64,
    backends: usize,
    /// Connections that are tracked. (Those of sockets are not.)
    tracked: usize,
}

/// What [`TcpWatch`] has counted, by the service port's number.
type Totals = HashMap<u32, TcpTotals>;

/// What is on the screen.
#[derive(Clone, Debug, PartialEq)]
struct View {
    rows: Vec<Row>,
    /// Tracked connections in all.
    tracked: usize,
    /// Packets dropped a second.
    drops: f64,
    /// Why bytes, latency and retransmits are not known.
    blind: Option<String>,
}

impl TopCommand {
    /// Shows it until somebody presses `q`.
    pub(crate) fn run(&self, reader: &Reader) -> Result<()> {
        ensure!(stdout().is_terminal(), "top needs a terminal; `skepctl monitor` writes lines");
        // An older kernel has no such program; the rest is shown all the same.
        let watch = reader.watch_tcp().map_err(|error| error.to_string());
        let first = Look::take(reader)?;
        // It puts the terminal right again on a panic, too.
        let mut terminal = ratatui::try_init()?;
        let result = self.show(reader, watch, first, &mut terminal);
        ratatui::restore();
        result
    }

    fn show(
        &self,
        reader: &Reader,
        watch: Result<TcpWatch, String>,
        first: Look,
        terminal: &mut DefaultTerminal,
    ) -> Result<()> {
        let totals = || watch.as_ref().map_or_else(|_| Ok(Totals::new()), TcpWatch::totals);
        let blind = watch.as_ref().err();
        let interval = Duration::from_secs(self.interval);
        let (mut order, mut before, mut since) = (self.sort, (first, totals()?), Instant::now());
        // Nothing has happened yet.
        let mut view = View::of(&before, &before, interval, blind);
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
            let after = (Look::take(reader)?, totals()?);
            view = View::of(&before, &after, since.elapsed(), blind);
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
        KeyCode::Char('b') => Some(Order::Bytes),
        KeyCode::Char('l') => Some(Order::Latency),
        KeyCode::Char('t') => Some(Order::Retransmits),
        KeyCode::Char('n') => Some(Order::Name),
        _ => None,
    }
}

impl View {
    /// What happened from one look to the next.
    fn of(
        (before, counted): &(Look, Totals),
        (after, counts_now): &(Look, Totals),
        time: Duration,
        blind: Option<&String>,
    ) -> Self {
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
            let of = |totals: &Totals| totals.get(&service.id).copied().unwrap_or_default();
            let (old, new) = (of(counted), of(counts_now));
            let rtts = new.rtts.saturating_sub(old.rtts);
            let rtt_sum = new.rtt_sum.saturating_sub(old.rtt_sum);
            Row {
                connections: rate(connections),
                refused: rate(refused),
                sent: rate(new.sent.saturating_sub(old.sent)),
                received: rate(new.received.saturating_sub(old.received)),
                latency: (rtts > 0).then(|| rtt_sum as f64 / rtts as f64 / 1000.0),
                retransmits: rate(new.retransmits.saturating_sub(old.retransmits)),
                backends: service.backends.len(),
                tracked: tracked.get(name.as_str()).copied().unwrap_or_default(),
                service: name,
            }
        });
        Self { rows: rows.collect(), tracked: tracked.values().sum(), drops: rate(drops), blind: blind.cloned() }
    }
}

fn sort(rows: &mut [Row], order: Order) {
    rows.sort_by(|a, b| {
        let by_name = a.service.cmp(&b.service);
        match order {
            Order::Connections => b.connections.total_cmp(&a.connections).then(by_name),
            Order::Refused => b.refused.total_cmp(&a.refused).then(by_name),
            Order::Bytes => (b.sent + b.received).total_cmp(&(a.sent + a.received)).then(by_name),
            Order::Latency => b.latency.unwrap_or(-1.0).total_cmp(&a.latency.unwrap_or(-1.0)).then(by_name),
            Order::Retransmits => b.retransmits.total_cmp(&a.retransmits).then(by_name),
            Order::Name => by_name,
        }
    });
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let View { rows, tracked, drops, blind } = view;
    let mut text = format!(
        "{} service ports, {tracked} tracked connections, {drops:.0} packets dropped a second\n\
         Sort: c connections, r refused, b bytes, l latency, t retransmits, n name; q ends",
        rows.len()
    );
    if let Some(reason) = blind {
        text = format!("{text}\nNo bytes, latency and retransmits: {reason}");
    }
    let lines = if blind.is_some() { 3 } else { 2 };
    let [head, body] = Layout::vertical([Constraint::Length(lines), Constraint::Min(0)]).areas(frame.area());
    frame.render_widget(Text::from(text), head);
    let cells = rows.iter().map(|row| {
        TableRow::new([
            row.service.clone(),
            format!("{:.1}", row.connections),
            format!("{:.1}", row.refused),
            bytes(row.sent),
            bytes(row.received),
            row.latency.map_or_else(|| "-".into(), |latency| format!("{latency:.2}ms")),
            format!("{:.1}", row.retransmits),
            row.backends.to_string(),
            row.tracked.to_string(),
        ])
    });
    let mut widths = vec![Constraint::Fill(1)];
    widths.extend([8, 9, 7, 7, 8, 6, 8, 7].map(Constraint::Length));
    let titles = ["SERVICE", "CONN/S", "REFUSED/S", "SENT/S", "RECV/S", "RTT", "RETR/S", "BACKENDS", "TRACKED"];
    let header = TableRow::new(titles).bold();
    // As many rows as fit are drawn.
    frame.render_widget(Table::new(cells.take(body.height.into()), widths).header(header), body);
}

/// A number of bytes with three digits.
fn bytes(count: f64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let (mut count, mut unit) = (count, 0);
    while count >= 1000.0 && unit + 1 < UNITS.len() {
        (count, unit) = (count / 1024.0, unit + 1);
    }
    let digits = usize::from(unit > 0 && count < 10.0);
    format!("{count:.digits$}{}", UNITS[unit])
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
        let totals = |more: u64| TcpTotals {
            sent: 100 + 4 * more,
            received: 5000 * more,
            retransmits: 2 * more,
            rtt_sum: 3000 * more,
            rtts: 2 * more,
            ..TcpTotals::default()
        };
        let id = service("a", 0, 0).id;
        let (old, new) = (HashMap::from([(id, totals(0))]), HashMap::from([(id, totals(1))]));
        View::of(&(before, old), &(after, new), Duration::from_secs(2), None)
    }

    fn lines(view: &View, height: u16) -> impl Fn(u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        move |y| (0..120).map(|x| buffer[(x, y)].symbol()).collect()
    }

    #[test]
    fn bytes_have_three_digits() {
        for (count, text) in [(0.0, "0B"), (999.4, "999B"), (1024.0, "1.0KiB"), (20_480.0, "20KiB"), (3e12, "2794GiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn rates_are_what_was_added_by_the_time_it_took() {
        let View { rows, drops, .. } = view();
        assert_eq!((rows[0].connections, rows[0].refused, rows[0].retransmits), (0.0, 4.0, 1.0));
        assert_eq!((rows[0].sent, rows[0].received, rows[0].latency), (2.0, 2500.0, Some(1.5)));
        assert_eq!((rows[1].connections, rows[1].refused, rows[1].latency), (10.0, 0.0, None));
        assert!((drops - 2.0).abs() < 0.001);
    }

    #[test]
    fn the_screen_shows_the_order_that_was_asked_for_and_no_more_than_fits() {
        for (order, first, second) in [
            (Order::Connections, "b", "a"),
            (Order::Refused, "a", "b"),
            (Order::Bytes, "a", "b"),
            (Order::Latency, "a", "b"),
            (Order::Retransmits, "a", "b"),
            (Order::Name, "a", "b"),
        ] {
            let mut view = view();
            sort(&mut view.rows, order);
            let line = lines(&view, 5);
            assert!(line(0).starts_with("2 service ports, 0 tracked connections, 2 packets dropped a second"));
            assert!(line(1).starts_with("Sort: c connections"));
            assert!(line(2).starts_with("SERVICE") && line(2).contains("REFUSED/S"));
            assert!(line(3).starts_with(&format!("default/{first}:http")), "{order:?}: {}", line(3));
            assert!(line(4).starts_with(&format!("default/{second}:http")), "{order:?}: {}", line(4));
        }
        let blind = View { blind: Some("no such kernel".into()), ..view() };
        assert!(lines(&blind, 6)(2).starts_with("No bytes, latency and retransmits: no such kernel"));
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
