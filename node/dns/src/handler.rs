//! One packet in, one packet out.

use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use parking_lot::RwLock;

use crate::answer::{Answer, Zone};
use crate::{Forwarder, Index, Metrics};

/// Aliases followed for one question.
const MOST_ALIASES: usize = 8;

/// Largest answer in a datagram, which fits every usual path (DNS flag day 2020).
const LARGEST_DATAGRAM: u16 = 1232;

/// Largest answer to those who do not say how much they take (RFC 1035).
const PLAIN_DATAGRAM: u16 = 512;

/// Length of a header.
const HEADER: usize = 12;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the answer may be cut off.
    Udp,
    /// Over a connection.
    Tcp,
}

/// What is done with a packet at once.
pub enum Step {
    /// It is no question; nobody waits for an answer.
    Drop,
    /// This is the answer.
    Reply(Vec<u8>),
    /// Others must be asked: [`Handler::finish`].
    Ask(Box<Pending>),
}

/// A question that others must be asked about.
pub struct Pending {
    request: Request,
    /// What is known so far: aliases.
    answer: Answer,
    /// What is asked next.
    name: Name,
    authoritative: bool,
}

struct Request {
    metadata: Metadata,
    query: Query,
    edns: Option<Edns>,
    transport: Transport,
    received: Instant,
}

/// Makes answers.
pub struct Handler {
    zone: Zone,
    index: Arc<RwLock<Index>>,
    forwarder: Forwarder,
    metrics: Metrics,
}

impl Handler {
    /// Answers from `index`, and from the forwarder what is not below the zone.
    pub fn new(zone: Zone, index: Arc<RwLock<Index>>, forwarder: Forwarder, metrics: Metrics) -> Self {
        Self { zone, index, forwarder, metrics }
    }

    /// What the answers are made from.
    pub fn index(&self) -> Arc<RwLock<Index>> {
        self.index.clone()
    }

    /// Who is asked about names of elsewhere.
    pub fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Answers a packet from memory, or says that others must be asked. Takes any bytes.
    pub fn begin(&self, packet: &[u8], transport: Transport) -> Step {
        let received = Instant::now();
        let Some(header) = packet.get(..HEADER) else { return Step::Drop };
        let id = u16::from_be_bytes([header[0], header[1]]);
        // Answers are never answered: two servers could keep that up for ever.
        if header[2] & 0x80 != 0 {
            return Step::Drop;
        }
        let op_code = OpCode::from_u8((header[2] >> 3) & 0x0f);
        if op_code != OpCode::Query {
            return self.refuse(id, op_code, ResponseCode::NotImp);
        }
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        // Before anything is parsed, and memory reserved for as much as the header claims.
        if count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 2 {
            return self.refuse(id, op_code, ResponseCode::FormErr);
        }
        let Ok(message) = Message::from_vec(packet) else { return self.refuse(id, op_code, ResponseCode::FormErr) };
        let Message { metadata, mut queries, edns, .. } = message;
        let Some(query) = queries.pop() else { return self.refuse(id, op_code, ResponseCode::FormErr) };
        self.question(Request { metadata, query, edns, transport, received })
    }

    fn question(&self, request: Request) -> Step {
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Step::Reply(self.reply(&request, Answer::failed(ResponseCode::BADVERS), false));
        }
        let kind = request.query.query_type();
        // Neither everything about a name nor whole zones (RFC 8482).
        let refused = matches!(kind, RecordType::ANY | RecordType::AXFR | RecordType::IXFR);
        if refused || request.query.query_class() != DNSClass::IN {
            return Step::Reply(self.reply(&request, Answer::failed(ResponseCode::Refused), false));
        }
        let mut name = request.query.name().clone();
        name.set_fqdn(true);
        let mut answer = Answer::default();
        let mut authoritative = false;
        for _ in 0..=MOST_ALIASES {
            let known = self.zone.answer(&self.index.read(), &name, kind);
            let Some(mut known) = known else {
                return Step::Ask(Box::new(Pending { request, answer, name, authoritative }));
            };
            authoritative = true;
            known.answers.splice(0..0, std::mem::take(&mut answer.answers));
            answer = known;
            match answer.next.take() {
                Some(next) => name = next,
                None => return Step::Reply(self.reply(&request, answer, authoritative)),
            }
        }
        // Aliases in a circle.
        Step::Reply(self.reply(&request, Answer::failed(ResponseCode::ServFail), false))
    }

    /// Asks others, then answers.
    pub async fn finish(&self, pending: Box<Pending>) -> Vec<u8> {
        let Pending { request, answer, name, authoritative } = *pending;
        let mut asked = self.forwarder.ask(&name, request.query.query_type()).await;
        asked.answers.splice(0..0, answer.answers);
        self.reply(&request, asked, authoritative)
    }

    /// [`Handler::begin`], and [`Handler::finish`] if need be.
    pub async fn answer(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match self.begin(packet, transport) {
            Step::Drop => None,
            Step::Reply(reply) => Some(reply),
            Step::Ask(pending) => Some(self.finish(pending).await),
        }
    }

    /// The answer to what cannot be read: a header.
    fn refuse(&self, id: u16, op_code: OpCode, code: ResponseCode) -> Step {
        self.metrics.broken(code);
        match Message::error_msg(id, op_code, code).to_vec() {
            Ok(reply) => Step::Reply(reply),
            Err(_) => Step::Drop,
        }
    }

    fn reply(&self, request: &Request, answer: Answer, authoritative: bool) -> Vec<u8> {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.message_type = MessageType::Response;
        metadata.authoritative = authoritative && answer.code != ResponseCode::ServFail;
        metadata.recursion_available = true;
        metadata.response_code = answer.code;
        let mut message = Message::new(metadata.id, MessageType::Response, OpCode::Query);
        message.metadata = metadata;
        message.queries.push(request.query.clone());
        message.answers = answer.answers;
        message.authorities = answer.authorities;
        message.additionals = answer.additionals;
        let mut largest = PLAIN_DATAGRAM;
        if let Some(asked) = &request.edns {
            largest = asked.max_payload().clamp(PLAIN_DATAGRAM, LARGEST_DATAGRAM);
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST_DATAGRAM).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
            message.edns = Some(edns);
        }
        if request.transport == Transport::Tcp {
            largest = u16::MAX;
        }
        let zone = if self.zone.contains(request.query.name()) { Some(self.zone.domain()) } else { None };
        self.metrics.answered(&request.query, request.transport, zone, answer.code, request.received);
        encode(&mut message, largest)
    }
}

/// The message in as many bytes. What does not fit is left out: of the further records without a word, of the answer with
/// the flag that says so.
fn encode(message: &mut Message, largest: u16) -> Vec<u8> {
    let emit = |message: &Message| {
        let mut bytes = Vec::with_capacity(PLAIN_DATAGRAM.into());
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(largest);
        message.emit(&mut encoder).map(|()| bytes)
    };
    let cut = |bytes: &[u8]| bytes.get(2).is_some_and(|flags| flags & 0x02 != 0);
    let whole = emit(message);
    match whole {
        Ok(bytes) if !cut(&bytes) => bytes,
        _ => {
            // Further records are a courtesy; without them the answer may be whole. The EDNS record must stay.
            message.additionals.clear();
            let plain = emit(message);
            match plain {
                Ok(bytes) if !cut(&bytes) => return bytes,
                _ => {}
            }
            // Room for the EDNS record: half of the answers at a time.
            while message.answers.len() > 1 || !message.authorities.is_empty() {
                message.authorities.clear();
                message.answers.truncate(message.answers.len() * 3 / 4);
                message.metadata.truncation = false;
                if let Ok(bytes) = emit(message)
                    && !cut(&bytes)
                {
                    break;
                }
            }
            message.metadata.truncation = true;
            emit(message).unwrap_or_else(|error| {
                tracing::debug!(%error, "an answer cannot be written");
                let failed = Message::error_msg(message.metadata.id, OpCode::Query, ResponseCode::ServFail);
                failed.to_vec().unwrap_or_default()
            })
        }
    }
}
