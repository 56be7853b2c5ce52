//! Questions over real sockets on loopback, and what hostile packets do.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};
use skep_dns::{Config, Dns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

struct Server {
    address: SocketAddr,
    handler: std::sync::Arc<skep_dns::Handler>,
    _stop: DropGuard,
}

/// A server with these Services and one headless Service `many` of 300 endpoints.
async fn server(services: Value) -> Server {
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        domain: "cluster.local".to_owned(),
        reverse: vec!["10.96.0.0/12".parse().unwrap()],
        resolv_conf: None,
        metrics: skep_dns::Metrics::default(),
    };
    let dns = Dns::bind(config).await.unwrap();
    let (address, handler, stop) = (dns.addresses()[0], dns.handler(), CancellationToken::new());
    {
        let index = handler.index();
        let mut index = index.write();
        let mut services: Vec<Value> = services.as_array().unwrap().clone();
        services.push(service("many", json!({"clusterIP": "None"})));
        for service in services {
            index.apply_service(&serde_json::from_value(service).unwrap());
        }
        let endpoints: Vec<Value> =
            (0..300).map(|at| json!({"addresses": [format!("10.1.{}.{}", at / 100, at % 100)]})).collect();
        let slice = json!({
            "metadata": {"namespace": "ns", "name": "many-1", "labels": {"kubernetes.io/service-name": "many"}},
            "addressType": "IPv4",
            "endpoints": endpoints,
        });
        index.apply_slice(&serde_json::from_value(slice).unwrap());
        index.complete();
    }
    tokio::spawn(dns.serve(stop.clone()));
    Server { address, handler, _stop: stop.drop_guard() }
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn exchange(address: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut buffer = vec![0; 65536];
    let length = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.ok()?.unwrap();
    Some(buffer[..length].to_vec())
}

async fn udp(address: SocketAddr, message: &Message) -> Message {
    let reply = exchange(address, &message.to_vec().unwrap()).await.expect("an answer");
    Message::from_vec(&reply).unwrap()
}

async fn tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let packet = message.to_vec().unwrap();
    stream.write_u16(packet.len() as u16).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    let mut reply = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

#[tokio::test]
async fn questions_are_answered_over_both_transports_with_their_case_kept() {
    let server = server(json!([service("web", json!({"clusterIP": "10.96.0.7"}))])).await;
    let asked = question("WeB.ns.svc.cluster.local.", RecordType::A);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for answer in [udp(server.address, &asked).await, tcp(&mut stream, &asked).await, tcp(&mut stream, &asked).await] {
        assert_eq!(answer.metadata.id, asked.metadata.id);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.queries[0].name().to_ascii(), "WeB.ns.svc.cluster.local.");
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(answer.answers[0].name.to_ascii(), "WeB.ns.svc.cluster.local.");
        assert_eq!(answer.answers[0].data, RData::A(hickory_proto::rr::rdata::A::new(10, 96, 0, 7)));
        assert!(answer.edns.is_none());
    }
}

#[tokio::test]
async fn what_does_not_fit_is_cut_off_in_datagrams_and_whole_over_tcp() {
    let server = server(json!([])).await;
    let mut asked = question("many.ns.svc.cluster.local.", RecordType::A);
    let plain = exchange(server.address, &asked.to_vec().unwrap()).await.unwrap();
    let message = Message::from_vec(&plain).unwrap();
    assert!(message.metadata.truncation && plain.len() <= 512, "{}", plain.len());
    assert!(message.answers.len() > 10, "what fits is told: {}", message.answers.len());

    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let larger = exchange(server.address, &asked.to_vec().unwrap()).await.unwrap();
    let message = Message::from_vec(&larger).unwrap();
    assert!(message.metadata.truncation && larger.len() > 512 && larger.len() <= 1232, "{}", larger.len());
    assert!(message.edns.is_some());

    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let whole = tcp(&mut stream, &asked).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 300);
    assert!(whole.edns.is_some());
}

#[tokio::test]
async fn aliases_are_followed_within_the_cluster_and_circles_end() {
    let server = server(json!([
        service("web", json!({"clusterIP": "10.96.0.7"})),
        service("in", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"})),
        service("circle", json!({"type": "ExternalName", "externalName": "circle.ns.svc.cluster.local"})),
        service("out", json!({"type": "ExternalName", "externalName": "example.org"})),
    ]))
    .await;
    let answer = udp(server.address, &question("in.ns.svc.cluster.local.", RecordType::A)).await;
    let kinds: Vec<RecordType> = answer.answers.iter().map(|record| record.record_type()).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    let answer = udp(server.address, &question("circle.ns.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    // Without an upstream the alias itself is still told.
    let answer = udp(server.address, &question("out.ns.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn names_of_elsewhere_are_asked_of_upstreams_and_kept() {
    // The upstream is a second server: of another domain.
    let upstream = Dns::bind(Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        domain: "example.org".to_owned(),
        reverse: Vec::new(),
        resolv_conf: None,
        metrics: skep_dns::Metrics::default(),
    })
    .await
    .unwrap();
    let stop = CancellationToken::new();
    let web = service("web", json!({"clusterIP": "192.0.2.1"}));
    {
        let index = upstream.handler().index();
        index.write().apply_service(&serde_json::from_value(web.clone()).unwrap());
        index.write().complete();
    }
    let (upstream_address, upstream_handler) = (upstream.addresses()[0], upstream.handler());
    tokio::spawn(upstream.serve(stop.clone()));
    let alias = json!({"type": "ExternalName", "externalName": "web.ns.svc.example.org"});
    let server = server(json!([service("alias", alias)])).await;
    server.handler.forwarder().set(&[server.address, upstream_address]);

    let there = question("web.ns.svc.example.org.", RecordType::A);
    let answer = udp(server.address, &there).await;
    assert_eq!(answer.answers[0].data, RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 1)), "{answer:?}");
    assert!(!answer.metadata.authoritative);
    let answer = udp(server.address, &question("alias.ns.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 2, "{answer:?}");
    let absent = question("no.ns.svc.example.org.", RecordType::A);
    let answer = udp(server.address, &absent).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities.len(), 1, "a resolver keeps an absence as long as the SOA says");
    // Kept: gone upstream, still known here.
    upstream_handler.index().write().delete_service(&serde_json::from_value(web).unwrap());
    let answer = udp(server.address, &there).await;
    assert_eq!(answer.answers.len(), 1, "{answer:?}");
    drop(stop);
}

#[tokio::test]
async fn hostile_packets_get_an_error_or_nothing_and_the_server_lives() {
    let server = server(json!([])).await;
    let good = question("many.ns.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    // A name that points to itself.
    let mut circle = good[..12].to_vec();
    circle.extend([0xc0, 12, 0, 1, 0, 1]);
    let mut any = question("many.ns.svc.cluster.local.", RecordType::ANY);
    any.metadata.id = 7;
    let mut future = question("many.ns.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    future.set_edns(edns);
    for (packet, code) in [
        (circle, ResponseCode::FormErr),
        (good[..20].to_vec(), ResponseCode::FormErr),
        (with(4, 0xff), ResponseCode::FormErr),
        (with(6, 0xff), ResponseCode::FormErr),
        (with(10, 0xff), ResponseCode::FormErr),
        (with(2, 0x28), ResponseCode::NotImp),
        (any.to_vec().unwrap(), ResponseCode::Refused),
        (future.to_vec().unwrap(), ResponseCode::BADVERS),
    ] {
        let reply = exchange(server.address, &packet).await.expect("an answer");
        let message = Message::from_vec(&reply).unwrap();
        // By number: BADVERS has another name in signed messages.
        assert_eq!(u16::from(message.metadata.response_code), u16::from(code), "{packet:?}");
        assert_eq!(reply[..2], packet[..2]);
    }
    // Answers and scraps are dropped: the next question is the first that is answered.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    for packet in [with(2, 0x81), vec![], vec![1; 11]] {
        socket.send(&packet).await.unwrap();
    }
    socket.send(&with(0, 0x77)).await.unwrap();
    let mut buffer = [0; 512];
    tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(buffer[0], 0x77);
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_and_datagrams_go_on() {
    let server = server(json!([])).await;
    let mut quiet = Vec::new();
    for _ in 0..300 {
        quiet.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut closed = 0;
    for stream in &mut quiet[256..] {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut byte)).await;
        closed += usize::from(!matches!(read, Ok(Ok(1)) | Err(_)));
    }
    assert_eq!(closed, 44);
    let answer = udp(server.address, &question("many.ns.svc.cluster.local.", RecordType::A)).await;
    assert!(answer.metadata.truncation);
}
