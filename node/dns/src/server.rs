//! The sockets. What can be answered from memory is answered in the loop that reads; memory is bounded, whoever sends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::handler::Step;
use crate::{Error, Handler, Result, Transport};

/// Largest question read. Questions are of a few hundred bytes.
const LARGEST_QUESTION: usize = 4096;

/// Datagrams of one socket that wait for upstreams.
const MOST_WAITING: usize = 1000;

/// Connections to one address. More are closed at once.
const MOST_CONNECTIONS: usize = 256;

/// How long a connection may be quiet, and how long one question or answer may take to pass.
const PATIENCE: Duration = Duration::from_secs(5);

/// Room for datagrams while the loop is busy, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Open sockets, a pair for each address.
pub(crate) struct Sockets(Vec<(Arc<UdpSocket>, TcpListener, SocketAddr)>);

impl Sockets {
    pub(crate) async fn bind(addresses: &[SocketAddr]) -> Result<Self> {
        let mut sockets = Vec::new();
        for address in addresses {
            let failed = |source| Error::Bind { address: *address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            // If any port will do, both have the same.
            let address = listener.local_addr().map_err(failed)?;
            sockets.push((Arc::new(udp_socket(address).map_err(failed)?), listener, address));
        }
        Ok(Self(sockets))
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(.., address)| *address).collect()
    }

    pub(crate) async fn serve(self, handler: Arc<Handler>, shutdown: CancellationToken) -> Result<()> {
        let mut tasks = JoinSet::new();
        for (socket, listener, address) in self.0 {
            let broken = move |source| Error::Socket { address, source };
            let (datagrams, connections) = (handler.clone(), handler.clone());
            tasks.spawn(async move { serve_udp(socket, datagrams).await.map_err(broken) });
            tasks.spawn(async move { serve_tcp(listener, connections).await.map_err(broken) });
        }
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => ended.unwrap_or(Ok(())),
        }
    }
}

fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!(%error, "the kernel's usual receive buffer must do");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

async fn serve_udp(socket: Arc<UdpSocket>, handler: Arc<Handler>) -> io::Result<()> {
    let mut buffer = vec![0; LARGEST_QUESTION];
    let mut waiting = JoinSet::new();
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer reached nobody; that is no concern of the next question.
            Err(error) if passing(&error) => continue,
            Err(error) => return Err(error),
        };
        while waiting.try_join_next().is_some() {}
        match handler.begin(&buffer[..length], Transport::Udp) {
            Step::Drop => {}
            Step::Reply(reply) => send(&socket, &reply, peer).await,
            Step::Ask(_) if waiting.len() >= MOST_WAITING => {}
            Step::Ask(pending) => {
                let (socket, handler) = (socket.clone(), handler.clone());
                waiting.spawn(async move {
                    let reply = handler.finish(pending).await;
                    send(&socket, &reply, peer).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(reply, peer).await {
        tracing::debug!(%peer, %error, "a DNS answer could not be sent");
    }
}

fn passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
    )
}

async fn serve_tcp(listener: TcpListener, handler: Arc<Handler>) -> io::Result<()> {
    let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Such as no descriptor left: it passes.
                tracing::debug!(%error, "a DNS connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(permit) = free.clone().try_acquire_owned() else { continue };
        let handler = handler.clone();
        connections.spawn(async move {
            if let Err(error) = connection(stream, &handler).await {
                tracing::debug!(%error, "a DNS connection ended");
            }
            drop(permit);
        });
    }
}

/// One question after the other, until the peer is done or quiet for too long.
async fn connection(mut stream: TcpStream, handler: &Handler) -> io::Result<()> {
    let mut question = Vec::new();
    loop {
        let length = match timeout(PATIENCE, stream.read_u16()).await? {
            Ok(length) => usize::from(length),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        if length > LARGEST_QUESTION {
            return Ok(());
        }
        question.resize(length, 0);
        timeout(PATIENCE, stream.read_exact(&mut question)).await??;
        let Some(reply) = handler.answer(&question, Transport::Tcp).await else { return Ok(()) };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        let mut framed = Vec::with_capacity(reply.len() + 2);
        framed.extend(length.to_be_bytes());
        framed.extend(reply);
        timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
}
