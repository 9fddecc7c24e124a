//! DNS messages as the proxy needs them: what is asked, an answer of its own, whether a message answers another one. What is forwarded
//! is never written anew.

use std::net::IpAddr;

use ambit_model::resolve::{Family, TTL};
use domain::{
    base::{
        Message, MessageBuilder, Rtype, StaticCompressor,
        iana::{Class, Opcode, OptRcode, Rcode},
        name::ToLabelIter,
        opt::OptRecord,
        record::Ttl,
    },
    rdata::{A, Aaaa},
};

/// What we tell clients that we take (DNS flag day 2020); what fits into one packet everywhere.
const OUR_SIZE: u16 = 1232;
/// What a client takes that says nothing (RFC 1035, section 4.2.1).
const PLAIN_SIZE: usize = 512;
/// An OPT record without options.
const OPT_LENGTH: usize = 11;
/// The longest message there is.
pub(super) const LONGEST: usize = u16::MAX as usize;

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// The value of a metric's label.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Why a message is not a query that can be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// No header, or not a query: to be dropped, for what answers answers may do so for ever.
    Ignore,
    /// To be answered with this code.
    Refuse(Rcode),
}

/// What a client said of its EDNS (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edns {
    size: u16,
    version: u8,
    dnssec_ok: bool,
}

/// A query.
pub(super) struct Query<'a> {
    message: Message<&'a [u8]>,
    edns: Option<Edns>,
    /// The name and the kind of addresses, when that is what is asked for.
    pub(super) asked: Option<(String, Family)>,
}

impl<'a> Query<'a> {
    /// Reads a query.
    ///
    /// # Errors
    /// When it is none, or malformed, or of a kind that cannot be forwarded in one message.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let message = Message::from_octets(bytes).map_err(|_| Unreadable::Ignore)?;
        if message.header().qr() {
            return Err(Unreadable::Ignore);
        }
        if message.header().opcode() != Opcode::QUERY {
            return Ok(Self { message, edns: None, asked: None });
        }
        let malformed = Unreadable::Refuse(Rcode::FORMERR);
        let question = message.sole_question().map_err(|_| malformed)?;
        if matches!(question.qtype(), Rtype::AXFR | Rtype::IXFR) {
            // Its answer is any number of messages.
            return Err(Unreadable::Refuse(Rcode::REFUSED));
        }
        let edns = edns(&message).map_err(|()| malformed)?;
        let family = match question.qtype() {
            Rtype::A => Some(Family::V4),
            Rtype::AAAA => Some(Family::V6),
            _ => None,
        };
        let family = family.filter(|_| question.qclass() == Class::IN);
        let asked = family.and_then(|family| Some((text(question.qname())?, family)));
        Ok(Self { message, edns, asked })
    }

    /// The kind of addresses, when that is what is asked for.
    pub(super) fn family(&self) -> Option<Family> {
        self.asked.as_ref().map(|(_, family)| *family)
    }

    /// What the client takes in one message.
    pub(super) fn limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => LONGEST,
            (Transport::Udp, Some(edns)) => usize::from(edns.size).max(PLAIN_SIZE),
            (Transport::Udp, None) => PLAIN_SIZE,
        }
    }

    /// An answer with these addresses, as many as the client takes; with none, that there is no such address.
    pub(super) fn answer(&self, addresses: &[IpAddr], transport: Transport) -> Vec<u8> {
        match self.edns {
            Some(edns) if edns.version > 0 => self.write(Rcode::NOERROR, Some(OptRcode::BADVERS), &[], transport),
            _ => self.write(Rcode::NOERROR, None, addresses, transport),
        }
    }

    /// An answer with this code and nothing else.
    pub(super) fn error(&self, code: Rcode) -> Vec<u8> {
        self.write(code, None, &[], Transport::Udp)
    }

    fn write(&self, code: Rcode, extended: Option<OptRcode>, addresses: &[IpAddr], transport: Transport) -> Vec<u8> {
        let Ok(mut builder) = MessageBuilder::from_target(StaticCompressor::new(Vec::new()));
        builder.set_push_limit(self.room(transport));
        let mut answer = builder.start_error(&self.message, code);
        let asked = self.message.header();
        answer.header_mut().set_ra(true);
        answer.header_mut().set_cd(asked.cd());
        answer.header_mut().set_aa(code == Rcode::NOERROR && extended.is_none());
        if let (Ok(question), false) = (self.message.sole_question(), addresses.is_empty()) {
            let (name, ttl) = (*question.qname(), Ttl::from_secs(TTL));
            let pushed = addresses.iter().try_for_each(|address| match address {
                IpAddr::V4(ip) => answer.push((name, Class::IN, ttl, A::new(*ip))),
                IpAddr::V6(ip) => answer.push((name, Class::IN, ttl, Aaaa::new(*ip))),
            });
            // Over TCP, where there is nothing larger to turn to, those that fit are the answer.
            answer.header_mut().set_tc(pushed.is_err() && transport == Transport::Udp);
        }
        self.finish(answer.additional(), extended)
    }

    /// What the sections before the OPT record may take.
    fn room(&self, transport: Transport) -> usize {
        self.limit(transport) - if self.edns.is_some() { OPT_LENGTH } else { 0 }
    }

    /// An answer of somebody else without what did not fit: the client is to ask again over TCP.
    pub(super) fn truncated(&self, answer: &[u8]) -> Vec<u8> {
        let Ok(mut builder) = MessageBuilder::from_target(StaticCompressor::new(Vec::new()));
        builder.set_push_limit(self.room(Transport::Udp));
        let mut built = builder.start_error(&self.message, Rcode::NOERROR);
        if let Ok(answer) = Message::from_octets(answer) {
            let header = built.header_mut();
            header.set_flags(answer.header().flags());
            header.set_rcode(answer.header().rcode());
        }
        built.header_mut().set_tc(true);
        self.finish(built.additional(), None)
    }

    fn finish(&self, mut built: Additional, extended: Option<OptRcode>) -> Vec<u8> {
        built.clear_push_limit();
        if let Some(edns) = self.edns {
            // There is room for it, and a vector takes what it is given.
            let _pushed = built.opt(|opt| {
                opt.set_udp_payload_size(OUR_SIZE);
                opt.set_dnssec_ok(edns.dnssec_ok);
                if let Some(code) = extended {
                    opt.set_rcode(code);
                }
                Ok(())
            });
        }
        built.finish().into_target()
    }
}

type Additional = domain::base::message_builder::AdditionalBuilder<StaticCompressor<Vec<u8>>>;

/// The answer to a message that could not be read as a query: a header alone, for its questions may be wrong or too many to repeat.
pub(super) fn refusal(bytes: &[u8], code: Rcode) -> Option<Vec<u8>> {
    let asked = Message::from_octets(bytes).ok()?.header();
    let mut answer = MessageBuilder::new_vec();
    let header = answer.header_mut();
    header.set_id(asked.id());
    header.set_opcode(asked.opcode());
    header.set_qr(true);
    header.set_rd(asked.rd());
    header.set_ra(true);
    header.set_rcode(code);
    Some(answer.finish())
}

/// The OPT record of a query, if it has one.
fn edns(message: &Message<&[u8]>) -> Result<Option<Edns>, ()> {
    let mut found = None;
    for record in message.additional().map_err(drop)? {
        let record = record.map_err(drop)?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        let read = record.to_record::<domain::base::opt::Opt<_>>().map_err(drop)?.ok_or(())?;
        let opt = OptRecord::from(read);
        let edns = Edns { size: opt.udp_payload_size(), version: opt.version(), dnssec_ok: opt.dnssec_ok() };
        if found.replace(edns).is_some() {
            return Err(());
        }
    }
    Ok(found)
}

/// The name as text without the dot at its end; nothing when it has a character that would have to be written otherwise.
fn text(name: &impl ToLabelIter) -> Option<String> {
    let mut text = String::new();
    for label in name.iter_labels().filter(|label| !label.is_root()) {
        let plain = label.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'.' | b'\\'));
        let label = std::str::from_utf8(label.as_slice()).ok().filter(|_| plain)?;
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(label);
    }
    (!text.is_empty()).then_some(text)
}

/// Whether `answer` answers `query`, as it was sent: by its number and its question, of which a server that failed may say nothing.
pub(super) fn answers(answer: &[u8], query: &[u8]) -> bool {
    let (Ok(answer), Ok(query)) = (Message::from_octets(answer), Message::from_octets(query)) else { return false };
    let (ours, theirs) = (query.header(), answer.header());
    let failed = theirs.rcode() != Rcode::NOERROR && answer.header_counts().qdcount() == 0;
    let same = theirs.id() == ours.id() && theirs.qr() && theirs.opcode() == ours.opcode();
    same && (failed || answer.is_answer(&query))
}

/// Whether another resolver may know better than this answer.
pub(super) fn is_failure(answer: &[u8]) -> bool {
    Message::from_octets(answer).is_ok_and(|answer| matches!(answer.header().rcode(), Rcode::SERVFAIL | Rcode::REFUSED))
}

/// Whether a message is only the part that fitted into a datagram.
pub(super) fn is_truncated(answer: &[u8]) -> bool {
    Message::from_octets(answer).is_ok_and(|answer| answer.header().tc())
}

/// The number of a message.
pub(super) fn id(message: &[u8]) -> Option<[u8; 2]> {
    message.first_chunk().copied()
}

/// Gives a message another number.
pub(super) fn set_id(message: &mut [u8], id: [u8; 2]) {
    if let Some(first) = message.first_chunk_mut() {
        *first = id;
    }
}

#[cfg(test)]
mod tests;
