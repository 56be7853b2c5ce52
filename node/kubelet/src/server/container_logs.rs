//! `/containerLogs/<namespace>/<pod>/<container>`: what `kubectl logs` reads.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, text};
use crate::context::Context;
use crate::logs::{LogOptions, Renderer, tail_offset};
use crate::podext::PodExt;
use crate::view::{ContainerRecord, State};

const CHUNK: usize = 64 * 1024;
/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(100);

pub(super) async fn answer(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &str,
) -> Response<Body> {
    let options = match parse_query(query, Timestamp::now()) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, &message),
    };
    let Some(known) = context.snapshot(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, &format!("pod {pod:?} does not exist\n"));
    };
    if known.pod.any_container(container).is_none() {
        return text(StatusCode::NOT_FOUND, &format!("container {container:?} not found in pod {pod:?}\n"));
    }
    let record = if options.previous { previous(&known.view, container) } else { known.view.latest(container) };
    let Some(record) = record.filter(|record| record.state != State::Created) else {
        let message = if options.previous {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        } else {
            let waiting = waiting_reason(&known.status, container);
            format!("container {container:?} in pod {pod:?} is waiting to start: {waiting}")
        };
        return text(StatusCode::BAD_REQUEST, &message);
    };
    stream(context.clone(), record.clone(), options)
}

/// The last one that ended: the one before the latest, or the latest itself while it waits for its restart.
fn previous<'a>(view: &'a crate::view::PodView, container: &str) -> Option<&'a ContainerRecord> {
    match view.latest(container) {
        Some(latest) if latest.state == State::Exited && view.previous(container).is_none() => Some(latest),
        _ => view.previous(container),
    }
}

fn waiting_reason(status: &k8s_openapi::api::core::v1::PodStatus, container: &str) -> String {
    let state = crate::status::previous_of(status, container).and_then(|status| status.state.as_ref());
    let waiting = state.and_then(|state| state.waiting.as_ref());
    waiting.and_then(|waiting| waiting.message.clone().or_else(|| waiting.reason.clone())).unwrap_or_default()
}

fn stream(context: Arc<Context>, record: ContainerRecord, options: LogOptions) -> Response<Body> {
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(8);
    tokio::spawn(async move {
        if let Err(error) = copy(&context, record, options, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    let frames = ReceiverStream::new(receiver).map(|chunk| chunk.map(Frame::data));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

async fn copy(
    context: &Context,
    record: ContainerRecord,
    options: LogOptions,
    to: &mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    let path = PathBuf::from(&record.log_path);
    let (follow, tail) = (options.follow, options.tail_lines);
    let mut renderer = Renderer::new(options);
    let mut file = blocking(move || {
        let mut file = File::open(path)?;
        let offset = match tail {
            Some(lines) => tail_offset(&mut file, lines)?,
            None => 0,
        };
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    })
    .await?;
    // Asked before the read: what is written before an exit is read after it was seen.
    let mut ended = !follow;
    loop {
        let (back, bytes) = blocking(move || {
            let mut bytes = Vec::new();
            (&mut file).take(CHUNK as u64).read_to_end(&mut bytes)?;
            Ok((file, bytes))
        })
        .await?;
        file = back;
        let mut out = Vec::new();
        renderer.feed(&bytes, &mut out);
        if !out.is_empty() && to.send(Ok(Bytes::from(out))).await.is_err() {
            return Ok(());
        }
        if renderer.is_full() {
            return Ok(());
        }
        if !bytes.is_empty() {
            continue;
        }
        if ended {
            return Ok(());
        }
        ended = !is_running(context, &record.id).await;
        if !ended {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = to.closed() => return Ok(()),
            }
        }
    }
}

/// Asks what the worker knows; only a container it does not know (any more) costs a question to the runtime.
async fn is_running(context: &Context, id: &str) -> bool {
    let known = context.snapshots().into_iter().find_map(|known| {
        known.view.containers.iter().find(|record| record.id == id).map(|record| record.state == State::Running)
    });
    match known {
        Some(running) => running,
        None => context
            .cri
            .container_status(id)
            .await
            .is_ok_and(|status| status.state() == skep_cri::api::ContainerState::ContainerRunning),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

fn parse_query(query: &str, now: Timestamp) -> Result<LogOptions, String> {
    let mut options = LogOptions::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value);
        let number = || value.parse::<u64>().map_err(|_| format!("invalid value {value:?} for {name}"));
        match name {
            "follow" => options.follow = truth(name, &value)?,
            "previous" => options.previous = truth(name, &value)?,
            "timestamps" => options.timestamps = truth(name, &value)?,
            "tailLines" => options.tail_lines = Some(number()?),
            "limitBytes" => options.limit_bytes = Some(number()?),
            "sinceSeconds" => {
                let seconds = i64::try_from(number()?).unwrap_or(i64::MAX);
                options.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
            }
            "sinceTime" => {
                let time =
                    value.parse().map_err(|_| format!("invalid value {value:?} for {name}: must be RFC 3339"))?;
                options.since = Some(time);
            }
            "stream" => {
                options.stderr_only = match value.as_str() {
                    "Stdout" => Some(false),
                    "Stderr" => Some(true),
                    _ => None,
                }
            }
            // Unknown parameters are ignored, as upstream decodes them.
            _ => {}
        }
    }
    Ok(options)
}

fn truth(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "true" | "True" | "TRUE" | "t" => Ok(true),
        "0" | "false" | "False" | "FALSE" | "f" => Ok(false),
        other => Err(format!("invalid value {other:?} for {name}")),
    }
}

/// Percent-decoding of a query value; what is not valid stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_becomes_options() {
        let now: Timestamp = "2024-01-01T00:01:00Z".parse().unwrap();
        let options = parse_query("follow=true&tailLines=5&sinceSeconds=60&timestamps=1&x=y", now).unwrap();
        assert!(options.follow && options.timestamps && !options.previous);
        assert_eq!((options.tail_lines, options.since), (Some(5), "2024-01-01T00:00:00Z".parse().ok()));
        let time = parse_query("sinceTime=2024-01-01T00%3A00%3A00Z", now).unwrap().since;
        assert_eq!(time, "2024-01-01T00:00:00Z".parse().ok());
        assert!(parse_query("tailLines=-1", now).is_err());
    }
}
