use super::*;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::protocol::Role;

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

struct Session {
    client: WebSocketStream<DuplexStream>,
    backend: DuplexStream,
    running: tokio::task::JoinHandle<Result<(), Error>>,
}

async fn session(streams: Streams) -> Session {
    let (near, far) = duplex(1 << 20);
    let (inner, backend) = duplex(1 << 20);
    let dial = async { Ok::<_, Status>(inner) };
    let running = tokio::spawn(translate(far, dial, streams, Duration::from_secs(60)));
    let client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    Session { client, backend, running }
}

impl Session {
    async fn heard(&mut self) -> Vec<u8> {
        self.client.next().await.unwrap().unwrap().into_data().to_vec()
    }

    /// One frame as the runtime reads it: stream or type, flags, payload.
    async fn frame(&mut self) -> (u32, u8, Vec<u8>) {
        let head = self.backend.read_u32().await.unwrap();
        let rest = self.backend.read_u32().await.unwrap();
        let mut payload = vec![0; usize::try_from(rest & 0x00ff_ffff).unwrap()];
        self.backend.read_exact(&mut payload).await.unwrap();
        (head, u8::try_from(rest >> 24).unwrap(), payload)
    }

    async fn say(&mut self, stream: u32, data: &[u8]) {
        for (head, part) in spdy::data_frames(stream, Bytes::copy_from_slice(data)) {
            self.backend.write_all(&head).await.unwrap();
            self.backend.write_all(&part).await.unwrap();
        }
    }

    async fn end(&mut self, stream: u32) {
        self.backend.write_all(&spdy::fin(stream)).await.unwrap();
    }
}

#[tokio::test]
async fn channels_become_streams_and_the_exit_status_comes_last() {
    let mut session = session(ALL).await;
    assert_eq!(session.heard().await, [1], "the client is told that it is connected");
    for name in ["error", "stdin", "stdout", "stderr"] {
        let (head, _, payload) = session.frame().await;
        assert_eq!(head, 0x8003_0001);
        assert!(String::from_utf8_lossy(&payload).contains(name), "{name}");
    }
    session.client.send(message(0, b"input")).await.unwrap();
    assert_eq!(session.frame().await, (3, 0, b"input".to_vec()));
    session.client.send(message(255, &[0])).await.unwrap();
    assert_eq!(session.frame().await, (3, 1, Vec::new()));
    // What comes after the end of input is not passed on: the next frame is the answer to a ping.
    session.client.send(message(0, b"too late")).await.unwrap();
    session.backend.write_all(&spdy::pong(2)).await.unwrap();
    assert_eq!(session.frame().await, (0x8003_0006, 0, vec![0, 0, 0, 2]));

    session.say(5, b"out").await;
    session.say(7, b"err").await;
    session.say(1, b"{\"status\":\"Success\"}").await;
    for stream in [1, 5, 7] {
        session.end(stream).await;
    }
    assert_eq!(session.heard().await, b"\x01out");
    assert_eq!(session.heard().await, b"\x02err");
    assert_eq!(session.heard().await, b"\x03{\"status\":\"Success\"}");
    assert!(session.client.next().await.unwrap().unwrap().is_close());
    while session.client.next().await.is_some() {}
    session.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_terminal_has_no_stderr_and_its_size_is_passed_on() {
    let mut session = session(Streams { tty: true, ..ALL }).await;
    session.heard().await;
    for name in ["error", "stdin", "stdout", "resize"] {
        let (_, _, payload) = session.frame().await;
        assert!(String::from_utf8_lossy(&payload).contains(name), "{name}");
    }
    session.client.send(message(4, b"{\"Width\":80,\"Height\":24}")).await.unwrap();
    assert_eq!(session.frame().await, (9, 0, b"{\"Width\":80,\"Height\":24}".to_vec()));
    session.client.close(None).await.unwrap();
    while session.client.next().await.is_some() {}
    session.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lost_connection_is_told_apart_from_a_success() {
    let mut session = session(ALL).await;
    session.heard().await;
    for _ in 0..4 {
        session.frame().await;
    }
    drop(session.backend);
    let last = session.client.next().await.unwrap().unwrap().into_data();
    assert!(String::from_utf8_lossy(&last).contains("InternalError"), "{last:?}");
}

#[tokio::test]
async fn a_dial_that_fails_is_what_the_client_is_told() {
    let (near, far) = duplex(1 << 16);
    let dial = async { Err::<DuplexStream, _>(internal_error("no such container")) };
    let running = tokio::spawn(translate(far, dial, ALL, Duration::from_secs(60)));
    let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    client.next().await.unwrap().unwrap();
    let told = client.next().await.unwrap().unwrap().into_data();
    assert!(told[0] == 3 && String::from_utf8_lossy(&told).contains("no such container"));
    while client.next().await.is_some() {}
    running.await.unwrap().unwrap();
}
