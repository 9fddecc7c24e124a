//! What a host name stands for, asked of the node's resolvers from the node itself: for endpoints that are known by a name.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use domain::{
    base::{Message, MessageBuilder, Name, Rtype, iana::Rcode},
    rdata::{A, Aaaa},
};

use super::{
    Resolver,
    message::{self, Transport},
    resolvers::Resolvers,
    upstream,
};

/// How long the resolvers may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Asks for the addresses of host names.
#[derive(Debug)]
pub struct Lookup {
    resolvers: Resolvers,
}

/// Addresses, and how long they hold.
type Found = (Vec<IpAddr>, Duration);

impl Lookup {
    /// Asks `fixed`, else the resolvers that `file` names, as resolv.conf(5).
    #[must_use]
    pub fn new(fixed: &[Resolver], file: PathBuf) -> Self {
        Self { resolvers: Resolvers::new(fixed, file) }
    }

    /// The addresses of `hostname`, of both families, and how long all of them hold. Nothing when the resolvers know of none, or do not answer.
    pub async fn addresses(&self, hostname: &str) -> Option<Found> {
        let both = futures::future::join(self.of_kind(hostname, Rtype::A), self.of_kind(hostname, Rtype::AAAA)).await;
        match both {
            (Some((mut all, ttl)), Some((more, other))) => {
                all.extend(more);
                Some((all, ttl.min(other)))
            }
            (one, other) => one.or(other),
        }
    }

    async fn of_kind(&self, hostname: &str, kind: Rtype) -> Option<Found> {
        let query = query(hostname, kind)?;
        // Each kind has its own time: what is known of one is not lost with the other.
        let answer = tokio::time::timeout(LIMIT, async {
            let over = async |transport| upstream::ask(&self.resolvers, |_| true, None, &query, transport).await;
            match over(Transport::Udp).await? {
                cut if message::is_truncated(&cut) => over(Transport::Tcp).await,
                whole => Some(whole),
            }
        });
        found(&answer.await.ok()??)
    }
}

/// The question for the addresses of one kind; nothing when it is no name of the DNS.
fn query(hostname: &str, kind: Rtype) -> Option<Vec<u8>> {
    let name = Name::<Vec<u8>>::from_chars(hostname.chars()).ok()?;
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((name, kind)).ok()?;
    Some(question.finish())
}

/// What an answer says of the name that was asked for, and of those it is an alias of (RFC 1034, section 3.6.2). It holds as long as the
/// shortest part of it.
fn found(answer: &[u8]) -> Option<Found> {
    let answer = Message::from_octets(answer).ok().filter(|answer| answer.header().rcode() == Rcode::NOERROR)?;
    let (name, asked) = (answer.canonical_name()?, answer.sole_question().ok()?.qtype());
    let (mut addresses, mut ttl) = (Vec::<IpAddr>::new(), Duration::MAX);
    for record in answer.answer().ok()? {
        let record = record.ok()?;
        let kind = record.rtype();
        if kind == asked && record.owner() == name {
            addresses.push(match kind {
                Rtype::A => record.to_record::<A>().ok()??.data().addr().into(),
                _ => record.to_record::<Aaaa>().ok()??.data().addr().into(),
            });
        } else if kind != Rtype::CNAME {
            continue;
        }
        ttl = ttl.min(record.ttl().into_duration());
    }
    (!addresses.is_empty()).then_some((addresses, ttl))
}

#[cfg(test)]
mod tests {
    use domain::{
        base::{iana::Class, record::Ttl},
        rdata::Cname,
    };

    use super::*;

    fn name(text: &str) -> Name<Vec<u8>> {
        text.parse().unwrap()
    }

    #[test]
    fn an_answer_is_followed_through_aliases_and_holds_as_long_as_its_shortest_part() {
        let query = query("db.example", Rtype::A).unwrap();
        let mut answer = MessageBuilder::new_vec().start_answer(&Message::from_octets(query).unwrap(), Rcode::NOERROR).unwrap();
        let alias = Cname::new(name("db-1.example."));
        answer.push((name("db.example."), Class::IN, Ttl::from_secs(20), alias)).unwrap();
        answer.push((name("db-1.example."), Class::IN, Ttl::from_secs(60), A::from_octets(192, 0, 2, 1))).unwrap();
        answer.push((name("db-1.example."), Class::IN, Ttl::from_secs(40), A::from_octets(192, 0, 2, 2))).unwrap();
        answer.push((name("somebody.example."), Class::IN, Ttl::from_secs(1), A::from_octets(192, 0, 2, 3))).unwrap();
        let addresses = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(found(&answer.finish()), Some((addresses, Duration::from_secs(20))));
    }

    #[test]
    fn an_answer_without_addresses_or_that_is_none_says_nothing() {
        let query = query("db.example", Rtype::AAAA).unwrap();
        for code in [Rcode::NOERROR, Rcode::NXDOMAIN, Rcode::SERVFAIL] {
            let answer = MessageBuilder::new_vec().start_error(&Message::from_octets(query.as_slice()).unwrap(), code);
            assert_eq!(found(&answer.finish()), None);
        }
        for damaged in [&[][..], &query[..11], &[0xff; 40]] {
            assert_eq!(found(damaged), None);
        }
        assert!(
            super::query(&"a".repeat(64), Rtype::A).is_none() && super::query("", Rtype::A).is_none_or(|root| root.len() == 17)
        );
    }
}
