use futures::{FutureExt, StreamExt, stream::FuturesUnordered};

use super::*;

const LONG: Duration = Duration::from_secs(3600);
const QUEUING: Queuing = Queuing { queues: 16, hand: 4, length: 50 };

fn limited(seats: usize, queuing: Option<Queuing>) -> Arc<Level> {
    Level::new(Kind::Limited { seats, queuing })
}

fn now(level: &Arc<Level>, seats: usize) -> Option<Result<Ticket, Rejection>> {
    level.enter(Work { seats, after: None }, || 1, LONG).now_or_never()
}

#[test]
fn exempt_requests_never_wait() {
    let level = Level::new(Kind::Exempt);
    let held: Vec<_> = (0..1000).map(|_| now(&level, 10).unwrap().unwrap_or_else(|_| panic!())).collect();
    assert_eq!(level.load().executing, 1000);
    drop(held);
    assert_eq!(level.load().executing, 0);
}

#[test]
fn without_queues_a_full_level_turns_away() {
    let level = limited(2, None);
    let held = now(&level, 2).unwrap().ok().unwrap();
    assert_eq!(now(&level, 1).unwrap().err(), Some(Rejection::ConcurrencyLimit));
    drop(held);
    assert!(now(&level, 1).unwrap().is_ok());
    assert!(now(&level, 5).unwrap().is_ok(), "one that is wider than the level runs alone");
}

#[tokio::test]
async fn a_flood_does_not_starve_another_flow() {
    let level = limited(2, Some(QUEUING));
    let enter = |flow: u64| {
        let level = Arc::clone(&level);
        async move { (flow, level.enter(Work::ONE, || flow, LONG).await) }
    };
    let mut requests: FuturesUnordered<_> = (0..102).map(|_| enter(1)).collect();
    // All of the flood is in place before the other comes.
    let mut first: Vec<_> = Vec::new();
    while let Some(Some(ticket)) = requests.next().now_or_never() {
        first.push(ticket);
    }
    assert_eq!((first.len(), level.load().waiting), (2, 100));
    requests.push(enter(7));
    assert!(requests.next().now_or_never().is_none());
    assert_eq!(level.load().waiting, 101);
    drop(first);
    let mut before = 0;
    while let Some((flow, ticket)) = requests.next().await {
        assert!(ticket.is_ok());
        if flow == 7 {
            break;
        }
        before += 1;
    }
    // The flood has four queues at most, and each may be served once before the newcomer's.
    assert!(before <= 5, "{before} of the flood came first");
}

#[tokio::test]
async fn a_full_queue_turns_away_and_who_gives_up_makes_room() {
    let level = limited(1, Some(Queuing { queues: 1, hand: 1, length: 2 }));
    let held = now(&level, 1).unwrap().ok().unwrap();
    let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(level.enter(Work::ONE, || 1, LONG))).collect();
    for request in &mut waiting {
        assert!(request.as_mut().now_or_never().is_none());
    }
    assert_eq!(now(&level, 1).unwrap().err(), Some(Rejection::QueueFull));
    drop(waiting.pop());
    assert_eq!(level.load().waiting, 1);
    drop(held);
    assert!(waiting.pop().unwrap().await.is_ok());
    assert_eq!(level.load(), Load { limit: 1, ..Load::default() }, "nothing is left behind");
    let _held = now(&level, 1).unwrap().ok().unwrap();
    let tired = level.enter(Work::ONE, || 1, Duration::from_millis(1)).await;
    assert_eq!(tired.err(), Some(Rejection::TimeOut));
    assert_eq!(level.load().waiting, 0);
}

#[tokio::test]
async fn a_grant_nobody_takes_goes_to_the_next() {
    let level = limited(1, Some(QUEUING));
    let held = now(&level, 1).unwrap().ok().unwrap();
    let mut first = Box::pin(level.enter(Work::ONE, || 1, LONG));
    let mut second = Box::pin(level.enter(Work::ONE, || 1, LONG));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    drop(held);
    // The seat is granted to the first, which never looks.
    drop(first);
    assert!(second.await.is_ok());
}

#[tokio::test]
async fn measures_change_while_requests_wait() {
    let level = limited(1, Some(QUEUING));
    let held = now(&level, 1).unwrap().ok().unwrap();
    let mut waiting: Vec<_> = (0..3).map(|flow| Box::pin(level.enter(Work::ONE, move || flow, LONG))).collect();
    for request in &mut waiting {
        assert!(request.as_mut().now_or_never().is_none());
    }
    level.set(Kind::Limited { seats: 2, queuing: Some(Queuing { queues: 1, hand: 1, length: 50 }) });
    let ready: Vec<_> = waiting.iter_mut().filter_map(|request| request.as_mut().now_or_never()).collect();
    assert_eq!(ready.len(), 1, "the new seat is taken at once");
    drop(waiting);
    drop((held, ready));
    assert_eq!(level.load().waiting, 0);
}

#[tokio::test]
async fn seats_for_watchers_stay_taken_for_a_while() {
    let level = limited(2, None);
    let work = Work { seats: 1, after: Some((2, Duration::from_millis(5))) };
    drop(level.enter(work, || 1, LONG).await);
    assert_eq!(level.load().seats, 2);
    while level.load().seats > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
