//! Linearizable revisions: one question to etcd serves every reader that came before it was sent.
//!
//! A reader may only use the answer of a question that was sent after it came; an earlier one might predate a write that
//! the reader knows of. So readers gather behind the next question. A few questions may be under way at once: then the
//! next one need not wait for an answer, and a reader waits for little more than one round trip.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// Questions under way at once. One is answered while one waits in etcd, whose own loop takes linearizable reads in rounds,
/// one at a time: more could only queue there, and each would serve fewer readers.
const UNDER_WAY: usize = 3;

/// Asks for etcd's revision. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ReadIndex(Arc<Shared>);

type Asking = Pin<Box<dyn Future<Output = Result<i64>> + Send>>;

struct Shared {
    ask: Box<dyn Fn() -> Asking + Send + Sync>,
    state: Mutex<State>,
}

/// While readers gather, there is an asker that will send their question.
#[derive(Default)]
struct State {
    /// The question that is yet to be sent.
    gathering: Option<Arc<Question>>,
    askers: usize,
}

#[derive(Default)]
struct Question {
    answer: OnceLock<Result<i64>>,
    answered: Notify,
}

impl ReadIndex {
    /// `ask` begins one linearizable read of the revision.
    pub(crate) fn new<F: Future<Output = Result<i64>> + Send + 'static>(
        ask: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared { ask: Box::new(move || Box::pin(ask())), state: Mutex::default() }))
    }

    /// A revision at least as new as every write that was finished before the call.
    pub(crate) async fn revision(&self) -> Result<i64> {
        let question = self.join();
        question.wait().await
    }

    /// The next question; sees to it that it will be sent.
    fn join(&self) -> Arc<Question> {
        let (question, needs_asker) = self.enlist();
        if needs_asker {
            // It ends as soon as nobody asks. Not spawned under the lock: a runtime that is shutting down drops the asker
            // at once, and that takes the lock itself.
            tokio::spawn(Asker { shared: self.0.clone(), question: None, counted: true }.run());
        }
        question
    }

    /// The next question, and whether it needs one more asker, who is counted already.
    fn enlist(&self) -> (Arc<Question>, bool) {
        let mut state = self.0.state.lock();
        if let Some(question) = &state.gathering {
            return (question.clone(), false);
        }
        let question: Arc<Question> = state.gathering.insert(Arc::default()).clone();
        let needs_asker = state.askers < UNDER_WAY;
        if needs_asker {
            state.askers += 1;
        }
        (question, needs_asker)
    }
}

impl Question {
    async fn wait(&self) -> Result<i64> {
        // Enlisted before the look at the answer, so that it cannot slip in between.
        let answered = self.answered.notified();
        if let Some(answer) = self.answer.get() {
            return answer.clone();
        }
        answered.await;
        self.answer.get().cloned().unwrap_or(Err(Error::Closed))
    }

    fn answer(&self, answer: Result<i64>) {
        // Whoever took the question is the only one to answer it.
        let _ = self.answer.set(answer);
        self.answered.notify_waiters();
    }
}

/// Sends questions until nobody waits for one.
struct Asker {
    shared: Arc<Shared>,
    /// Sent and not yet answered.
    question: Option<Arc<Question>>,
    /// Whether it is among [`State::askers`].
    counted: bool,
}

impl Asker {
    async fn run(mut self) {
        loop {
            // Lets whoever is about to ask join first: requests come several to a packet.
            tokio::task::yield_now().await;
            if !self.take() {
                return;
            }
            let answer = (self.shared.ask)().await;
            if let Some(question) = self.question.take() {
                question.answer(answer);
            }
        }
    }

    /// Closes the gathering, if there is one, and takes its question. Whoever comes now is a case for the next.
    fn take(&mut self) -> bool {
        let mut state = self.shared.state.lock();
        self.question = state.gathering.take();
        if self.question.is_none() {
            // Under the same lock, so that nobody relies on an asker that is about to leave.
            state.askers -= 1;
            self.counted = false;
        }
        self.question.is_some()
    }
}

impl Drop for Asker {
    /// Only when it was cut short, by a panic or the end of the runtime, is there anything left to do.
    fn drop(&mut self) {
        let left = if self.counted {
            let mut state = self.shared.state.lock();
            state.askers -= 1;
            if state.askers == 0 { state.gathering.take() } else { None }
        } else {
            None
        };
        for question in self.question.take().into_iter().chain(left) {
            question.answer(Err(Error::Closed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use tokio::sync::{mpsc, oneshot};

    /// An etcd that answers when the test says so, in whatever order.
    fn index() -> (ReadIndex, mpsc::UnboundedReceiver<oneshot::Sender<Result<i64>>>) {
        let (asked, questions) = mpsc::unbounded_channel();
        let index = ReadIndex::new(move || {
            let (reply, answer) = oneshot::channel();
            asked.send(reply).unwrap();
            async move { answer.await.expect("the test has gone on without an answer") }
        });
        (index, questions)
    }

    /// A reader that has come: it is part of a question when this returns.
    async fn reader(index: &ReadIndex) -> tokio::task::JoinHandle<Result<i64>> {
        let question = index.join();
        tokio::spawn(async move { question.wait().await })
    }

    #[tokio::test]
    async fn nobody_gets_the_answer_of_a_question_that_was_sent_before_he_came() {
        let (index, mut questions) = index();
        let early = reader(&index).await;
        let first = questions.recv().await.unwrap();
        let late = reader(&index).await;
        let second = questions.recv().await.unwrap();
        // The later one is answered first; the early reader goes on waiting for its own.
        second.send(Ok(8)).unwrap();
        assert_eq!(late.await.unwrap().unwrap(), 8);
        assert!(!early.is_finished());
        first.send(Ok(7)).unwrap();
        assert_eq!(early.await.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn a_few_questions_are_under_way_at_once_and_the_rest_share_the_next() {
        let (index, mut questions) = index();
        let mut under_way = Vec::new();
        for _ in 0..UNDER_WAY {
            let reader = reader(&index).await;
            under_way.push((reader, questions.recv().await.unwrap()));
        }
        let waiting = join_all((0..100).map(|_| reader(&index))).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(questions.try_recv().is_err(), "no more than that at once");
        let (served, first) = under_way.swap_remove(1);
        first.send(Ok(1)).unwrap();
        assert_eq!(served.await.unwrap().unwrap(), 1);
        questions.recv().await.unwrap().send(Ok(2)).unwrap();
        for reader in waiting {
            assert_eq!(reader.await.unwrap().unwrap(), 2);
        }
        for (reader, question) in under_way {
            question.send(Err(Error::Unavailable("gone".into()))).unwrap();
            assert!(matches!(reader.await.unwrap(), Err(Error::Unavailable(_))));
        }
        // All askers have left; the next reader finds one all the same.
        let last = reader(&index).await;
        questions.recv().await.unwrap().send(Ok(3)).unwrap();
        assert_eq!(last.await.unwrap().unwrap(), 3);
    }

    /// Asks when it is dropped, as a task may whose runtime is going away.
    struct AsksAtTheEnd(ReadIndex, std::sync::mpsc::Sender<bool>);

    impl Drop for AsksAtTheEnd {
        fn drop(&mut self) {
            let question = self.0.join();
            let _ = self.1.send(question.answer.get().is_some_and(|answer| matches!(answer, Err(Error::Closed))));
        }
    }

    #[test]
    fn a_question_to_a_runtime_that_goes_away_fails_and_does_not_block() {
        let (index, _questions) = index();
        let (done, answered) = std::sync::mpsc::channel();
        let asks = AsksAtTheEnd(index, done);
        // On a thread of its own, which a deadlock would keep.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.spawn(async move {
                let _asks = asks;
                std::future::pending::<()>().await;
            });
            runtime.block_on(tokio::task::yield_now());
        });
        let limit = std::time::Duration::from_secs(60);
        assert!(answered.recv_timeout(limit).expect("the question is answered"), "with the end of the storage");
    }

    #[tokio::test]
    async fn readers_whose_asker_died_do_not_wait_for_ever() {
        let (index, mut questions) = index();
        for _ in 0..2 * UNDER_WAY {
            let reader = reader(&index).await;
            drop(questions.recv().await.unwrap());
            assert!(matches!(reader.await.unwrap(), Err(Error::Closed)));
        }
    }
}
