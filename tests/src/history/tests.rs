//! A history of a consistent store passes; every way to corrupt it is found.

use super::*;

/// Two clients, one object each; a list and gets in between; two streams, one from the middle.
fn good() -> History {
    let clock = Clock::default();
    let mut history = History::default();
    let mut revision = 100;
    let mut state = State::new();
    for round in 0..6 {
        for key in ["a", "b"] {
            revision += 1;
            let before = state.get(key).copied();
            let value = (round != 3).then_some(revision * 10);
            let start = clock.tick();
            let outcome = match value {
                Some(_) if round == 4 => Outcome::Unknown,
                Some(_) => Outcome::Acknowledged(Some(revision)),
                None => Outcome::Acknowledged(None),
            };
            history.writes.push(Write {
                key: key.to_owned(),
                value,
                base: before.map_or(Base::Absent, |before| Base::Version(before.revision)),
                span: Span { start, end: clock.tick() },
                outcome,
            });
            // Another who wanted to change the same version.
            history.writes.push(Write {
                key: key.to_owned(),
                value: Some(revision * 10 + 1),
                base: before.map_or(Base::Absent, |before| Base::Version(before.revision)),
                span: Span { start, end: clock.tick() },
                outcome: if round == 1 { Outcome::Unknown } else { Outcome::Refused },
            });
            history.changes.push(Change { revision, key: key.to_owned(), value });
            match value {
                Some(value) => state.insert(key.to_owned(), Version { revision, value }),
                None => state.remove(key),
            };
            let start = clock.tick();
            let found = state.get(key).copied();
            history.reads.push(Read::Get { span: Span { start, end: clock.tick() }, key: key.to_owned(), found });
        }
        let start = clock.tick();
        let span = Span { start, end: clock.tick() };
        history.reads.push(Read::List { span, revision, state: state.clone() });
    }
    let log = Log::new(&history.changes);
    let check = Check { log, violations: Vec::new() };
    let events = |from: Revision| {
        let changes = history.changes.iter().filter(move |change| change.revision > from);
        changes.filter_map(|change| check.expected(change.revision)).collect::<Vec<_>>()
    };
    let streams = [100, 105].map(|from| Stream { from, to: revision, events: events(from) });
    history.streams = streams.into();
    history
}

/// The rules that `corrupt` breaks in a good history.
fn broken(corrupt: impl FnOnce(&mut History)) -> Vec<Rule> {
    let mut history = good();
    corrupt(&mut history);
    let mut rules: Vec<_> = check(&history).into_iter().map(|violation| violation.rule).collect();
    rules.dedup();
    rules
}

fn list(history: &mut History, number: usize) -> (&mut Revision, &mut State) {
    let lists = history.reads.iter_mut().filter_map(|read| match read {
        Read::List { revision, state, .. } => Some((revision, state)),
        Read::Get { .. } => None,
    });
    lists.into_iter().nth(number).unwrap()
}

#[test]
fn a_consistent_store_passes() {
    assert_eq!(check(&good()), []);
}

#[test]
fn an_acknowledged_write_that_etcd_does_not_have_is_lost() {
    // The last change of `b`, as if etcd had been set back.
    let rules = broken(|history| {
        history.changes.pop();
    });
    assert!(rules.contains(&Rule::Lost), "{rules:?}");
    let rules = broken(|history| history.writes[0].outcome = Outcome::Acknowledged(Some(7)));
    assert!(rules.contains(&Rule::Lost), "{rules:?}");
}

#[test]
fn an_acknowledged_deletion_that_was_none_is_lost() {
    let rules = broken(|history| {
        let deletion = history.changes.iter().position(|change| change.value.is_none()).unwrap();
        history.changes.remove(deletion);
    });
    assert!(rules.contains(&Rule::Lost), "{rules:?}");
}

#[test]
fn a_change_nobody_wrote_is_made_up() {
    let rules = broken(|history| {
        history.changes.push(Change { revision: 999, key: "a".to_owned(), value: Some(1) });
    });
    assert_eq!(rules, [Rule::MadeUp]);
}

#[test]
fn a_refused_write_that_was_done_is_made_up() {
    let rules = broken(|history| {
        let last = history.writes.iter_mut().rev().find(|write| write.outcome != Outcome::Refused).unwrap();
        last.outcome = Outcome::Refused;
    });
    assert!(rules.contains(&Rule::MadeUp), "{rules:?}");
}

#[test]
fn two_writes_on_one_version_cannot_both_be_done() {
    let rules = broken(|history| {
        // The rival of the last write of `b`, done a revision later.
        let rival = history.writes.last_mut().unwrap();
        rival.outcome = Outcome::Acknowledged(Some(113));
        history.changes.push(Change { revision: 113, key: "b".to_owned(), value: rival.value });
    });
    // It was told before a read that does not show it, too.
    assert_eq!(rules, [Rule::TwoWinners, Rule::BackInTime]);
}

#[test]
fn a_creation_over_an_object_is_no_creation() {
    let rules = broken(|history| {
        history.writes.push(Write {
            key: "a".to_owned(),
            value: Some(5),
            base: Base::Absent,
            span: Span { start: 1_000, end: 1_001 },
            outcome: Outcome::Unknown,
        });
        history.changes.push(Change { revision: 113, key: "a".to_owned(), value: Some(5) });
    });
    assert_eq!(rules, [Rule::TwoWinners]);
}

#[test]
fn a_list_older_than_what_was_acknowledged_travels_back_in_time() {
    let rules = broken(|history| {
        let (revision, state) = list(history, 1);
        let old = (*revision, state.clone());
        let (revision, state) = list(history, 2);
        (*revision, *state) = old;
    });
    assert_eq!(rules, [Rule::BackInTime]);
}

#[test]
fn a_get_of_a_version_that_was_already_replaced_travels_back_in_time() {
    let rules = broken(|history| {
        let mut gets = history.reads.iter_mut().filter_map(|read| match read {
            Read::Get { key, found, .. } if key == "a" => Some(found),
            _ => None,
        });
        let first = *gets.next().unwrap();
        *gets.next().unwrap() = first;
    });
    assert_eq!(rules, [Rule::BackInTime]);
    let rules = broken(|history| {
        let absent = history.reads.iter_mut().find_map(|read| match read {
            Read::Get { key, found: found @ Some(_), span } if key == "a" && span.start > 60 => Some(found),
            _ => None,
        });
        *absent.unwrap() = None;
    });
    assert_eq!(rules, [Rule::BackInTime]);
}

#[test]
fn a_read_of_what_never_was_is_wrong() {
    let rules = broken(|history| {
        let (_, state) = list(history, 2);
        state.remove("a");
    });
    assert_eq!(rules, [Rule::WrongRead]);
    let rules = broken(|history| {
        let (_, state) = list(history, 2);
        state.get_mut("a").unwrap().value = 3;
    });
    assert_eq!(rules, [Rule::WrongRead]);
}

#[test]
fn a_stream_that_misses_repeats_reorders_or_lies_is_found() {
    let rules = broken(|history| drop(history.streams[0].events.remove(4)));
    assert_eq!(rules, [Rule::WatchMissed]);
    let rules = broken(|history| drop(history.streams[1].events.pop()));
    assert_eq!(rules, [Rule::WatchMissed]);
    let rules = broken(|history| {
        let twice = history.streams[0].events[4].clone();
        history.streams[0].events.insert(5, twice);
    });
    assert_eq!(rules, [Rule::WatchRepeated]);
    let rules = broken(|history| history.streams[0].events.swap(4, 5));
    assert_eq!(rules, [Rule::WatchWrong]);
    let rules = broken(|history| history.streams[0].events[0].kind = Kind::Modified);
    assert_eq!(rules, [Rule::WatchWrong]);
    let rules = broken(|history| history.streams[1].events[0].version.value += 1);
    assert_eq!(rules, [Rule::WatchWrong]);
}
