//! containerd's native event stream, reduced to what a node acts upon.
//!
//! containerd 1.6 has no CRI `GetContainerEvents`; its own Events service tells starts, exits and removals the moment they
//! happen. The stream reconnects by itself and says so, because what happened in between is lost and must be listed.

use std::time::Duration;

use containerd_client::events::{ContainerDelete, TaskExit, TaskOom, TaskStart};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use futures::stream::{self, Stream, StreamExt};
use prost::Message;
use tonic::Streaming;

use crate::Cri;
use crate::channel::scoped;

const CALL_TOPIC: &str = "/skep/call";
const CALL_EVERY: Duration = Duration::from_millis(50);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(3);

/// Something that happened in the runtime. Ids are those of containers or sandboxes: containerd has one space for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The stream stands (again): list now, what happened before is not told.
    Connected,
    /// The stream broke; a new attempt is under way.
    Disconnected,
    /// The main process runs.
    Started(String),
    /// The main process ended.
    Exited {
        /// Container or sandbox.
        id: String,
        /// Its exit status.
        status: u32,
    },
    /// The kernel killed something in it for lack of memory.
    OutOfMemory(String),
    /// It was removed.
    Deleted(String),
    /// An image came, changed or went.
    ImagesChanged,
}

enum State {
    Idle { wait: Duration, told: bool },
    Live(Box<Streaming<Envelope>>),
}

impl Cri {
    /// Events of the Kubernetes namespace from now on, without end. Begins with [`Event::Connected`] or, while the runtime
    /// is away, one [`Event::Disconnected`].
    pub fn events(&self) -> impl Stream<Item = Event> + Send + use<> {
        let cri = self.clone();
        let start = State::Idle { wait: Duration::ZERO, told: false };
        stream::unfold((cri, start), |(cri, mut state)| async move {
            loop {
                match state {
                    State::Idle { wait, told } => {
                        tokio::time::sleep(wait).await;
                        let next = (wait * 2).clamp(FIRST_RETRY, LAST_RETRY);
                        match cri.subscribe().await {
                            Ok(live) => return Some((Event::Connected, (cri, State::Live(Box::new(live))))),
                            Err(error) => {
                                tracing::debug!(%error, "runtime event stream is not there");
                                state = State::Idle { wait: next, told: true };
                                if !told {
                                    return Some((Event::Disconnected, (cri, state)));
                                }
                            }
                        }
                    }
                    State::Live(mut live) => match live.next().await {
                        Some(Ok(envelope)) => match decode(&envelope) {
                            Some(event) => return Some((event, (cri, State::Live(live)))),
                            None => state = State::Live(live),
                        },
                        ended => {
                            if let Some(Err(error)) = ended {
                                tracing::warn!(%error, "runtime event stream broke");
                            }
                            let state = State::Idle { wait: FIRST_RETRY, told: true };
                            return Some((Event::Disconnected, (cri, state)));
                        }
                    },
                }
            }
        })
    }

    async fn subscribe(&self) -> Result<Streaming<Envelope>, tonic::Status> {
        let filters = vec!["namespace==k8s.io".to_owned()];
        let mut client = EventsClient::new(self.channel());
        let mut publisher = client.clone();
        let mut answer = std::pin::pin!(client.subscribe(SubscribeRequest { filters }));
        let mut calls = tokio::time::interval(CALL_EVERY);
        // containerd answers a subscription with its first event and not before. An event of our own, repeated until it
        // comes back, tells that the subscription stands and that nothing is missed from now on.
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer?.into_inner()),
                _ = calls.tick() => {
                    let event = Some(Default::default());
                    let call = PublishRequest { topic: CALL_TOPIC.to_owned(), event };
                    publisher.publish(scoped(call, None)).await?;
                }
            }
        }
    }
}

fn decode(envelope: &Envelope) -> Option<Event> {
    let payload = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/start" => Some(Event::Started(TaskStart::decode(payload).ok()?.container_id)),
        "/tasks/exit" => {
            let exit = TaskExit::decode(payload).ok()?;
            // Commands run by exec report their end here too, under their own id.
            (exit.id == exit.container_id).then_some(Event::Exited { id: exit.container_id, status: exit.exit_status })
        }
        "/tasks/oom" => Some(Event::OutOfMemory(TaskOom::decode(payload).ok()?.container_id)),
        "/containers/delete" => Some(Event::Deleted(ContainerDelete::decode(payload).ok()?.id)),
        topic if topic.starts_with("/images/") => Some(Event::ImagesChanged),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(id: &str, container: &str) -> Envelope {
        let exit = TaskExit { id: id.into(), container_id: container.into(), exit_status: 3, ..Default::default() };
        let mut envelope = Envelope { topic: "/tasks/exit".into(), ..Default::default() };
        envelope.event.get_or_insert_default().value = exit.encode_to_vec();
        envelope
    }

    #[test]
    fn the_end_of_the_main_process_is_an_exit() {
        assert_eq!(decode(&exit("a", "a")), Some(Event::Exited { id: "a".into(), status: 3 }));
    }

    #[test]
    fn the_end_of_an_exec_is_not_an_exit() {
        assert_eq!(decode(&exit("exec-1", "a")), None);
    }

    #[test]
    fn an_unreadable_payload_is_skipped() {
        let mut envelope = exit("a", "a");
        if let Some(event) = &mut envelope.event {
            event.value = vec![0xff; 5];
        }
        assert_eq!(decode(&envelope), None);
    }
}
