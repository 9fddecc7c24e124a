use domain::base::{Name, iana::OptionCode, message_builder::OptBuilder};

use super::*;

/// A query for `name`, with EDNS of this size when that is not 0.
fn query(name: &str, kind: Rtype, size: u16) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((Name::<Vec<u8>>::from_chars(name.chars()).unwrap(), kind)).unwrap();
    let mut additional = question.additional();
    if size > 0 {
        let opt = |opt: &mut OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(size);
            opt.set_dnssec_ok(true);
            opt.push_raw_option(OptionCode::COOKIE, 8, |target| {
                target.extend_from_slice(&[7; 8]);
                Ok(())
            })
        };
        additional.opt(opt).unwrap();
    }
    additional.finish()
}

fn many(count: u8) -> Vec<IpAddr> {
    (0..count).map(|last| IpAddr::from([10, 0, 0, last])).collect()
}

fn read(bytes: &[u8]) -> Message<&[u8]> {
    Message::from_octets(bytes).unwrap()
}

#[test]
fn what_is_asked_is_read_and_names_that_text_cannot_say_are_nobodys() {
    let asked = |bytes: &[u8]| Query::read(bytes).unwrap().asked;
    assert_eq!(asked(&query("Api.Shop.svc.", Rtype::A, 0)), Some(("Api.Shop.svc".to_owned(), Family::V4)));
    assert_eq!(asked(&query("api.", Rtype::AAAA, 1232)), Some(("api".to_owned(), Family::V6)));
    for kind in [Rtype::SRV, Rtype::PTR, Rtype::TXT, Rtype::CNAME, Rtype::HTTPS, Rtype::ANY] {
        assert_eq!(asked(&query("api.", kind, 0)), None);
    }
    assert_eq!(asked(&query(r"a\.b.shop.", Rtype::A, 0)), None);
    assert_eq!(asked(&query(r"a\000b.shop.", Rtype::A, 0)), None);
    assert_eq!(asked(&query(".", Rtype::A, 0)), None);
    let mut chaos = query("api.", Rtype::A, 0);
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(asked(&chaos), None);
    let mut update = query("api.", Rtype::A, 0);
    update[2] |= 5 << 3;
    assert_eq!(asked(&update), None);
}

#[test]
fn an_answer_keeps_number_question_and_flags_and_echoes_edns_only_to_those_who_speak_it() {
    for (size, records) in [(0, 0), (1232, 1)] {
        let bytes = query("aPi.shop.", Rtype::A, size);
        let answer = Query::read(&bytes).unwrap().answer(&many(2), Transport::Udp);
        let answer = read(&answer);
        let header = answer.header();
        assert!(header.qr() && header.aa() && header.rd() && header.ra() && !header.tc() && !header.ad());
        assert_eq!((header.id(), header.rcode(), answer.header_counts().ancount()), (0x1234, Rcode::NOERROR, 2));
        assert_eq!(answer.sole_question().unwrap().qname().to_string(), "aPi.shop");
        assert_eq!(answer.header_counts().arcount(), records);
        if let Some(opt) = answer.opt() {
            assert_eq!((opt.udp_payload_size(), opt.version(), opt.dnssec_ok(), opt.opt().is_empty()), (1232, 0, true, true));
        }
        let found = answer.answer().unwrap().limit_to_in::<A>().map(Result::unwrap);
        let found: Vec<_> = found.map(|record| (record.ttl().as_secs(), IpAddr::V4(record.data().addr()))).collect();
        assert_eq!(found, many(2).into_iter().map(|ip| (30, ip)).collect::<Vec<_>>());
        assert!(answers(answer.as_slice(), &bytes));
    }
}

#[test]
fn an_answer_is_never_longer_than_the_client_takes_and_says_so_over_udp_alone() {
    for (size, limit) in [(0, 512), (100, 512), (600, 600), (4096, 4096)] {
        let bytes = query("headless.shop.svc.cluster.local.", Rtype::A, size);
        let query = Query::read(&bytes).unwrap();
        let answer = query.answer(&many(250), Transport::Udp);
        let fits = size == 4096;
        assert!(answer.len() <= limit && (fits || answer.len() + 16 > limit), "{} of {limit}", answer.len());
        assert_eq!(read(&answer).header().tc(), !fits);
        assert_eq!(read(&answer).opt().is_some(), size > 0);
        let whole = query.answer(&many(250), Transport::Tcp);
        assert_eq!((read(&whole).header().tc(), read(&whole).header_counts().ancount()), (false, 250));
    }
    let bytes = query("a.", Rtype::A, 0);
    let huge = vec![IpAddr::from([10, 0, 0, 1]); 10_000];
    let answer = Query::read(&bytes).unwrap().answer(&huge, Transport::Tcp);
    assert!(answer.len() <= LONGEST && !read(&answer).header().tc());
}

#[test]
fn no_data_is_an_answer_without_records_and_an_unknown_version_of_edns_is_told_so() {
    let bytes = query("api.", Rtype::AAAA, 1232);
    let answer = Query::read(&bytes).unwrap().answer(&[], Transport::Udp);
    assert_eq!((read(&answer).header().rcode(), read(&answer).header_counts().ancount()), (Rcode::NOERROR, 0));
    let mut later = query("api.", Rtype::A, 1232);
    let version = later.len() - 12 - 5;
    later[version] = 1;
    let answer = Query::read(&later).unwrap().answer(&many(1), Transport::Udp);
    assert_eq!(read(&answer).opt_rcode(), OptRcode::BADVERS);
    assert_eq!(read(&answer).header_counts().ancount(), 0);
}

#[test]
fn what_is_no_query_is_ignored_and_a_malformed_one_refused() {
    let good = query("api.", Rtype::A, 1232);
    let why = |bytes: &[u8]| Query::read(bytes).err();
    assert_eq!(why(&[]), Some(Unreadable::Ignore));
    assert_eq!(why(&good[..11]), Some(Unreadable::Ignore));
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(why(&response), Some(Unreadable::Ignore));
    let refused = Some(Unreadable::Refuse(Rcode::FORMERR));
    for length in 12..good.len() {
        assert_eq!(why(&good[..length]), refused, "{length}");
        let refusal = refusal(&good[..length], Rcode::FORMERR).unwrap();
        assert_eq!((read(&refusal).header().rcode(), read(&refusal).header().id()), (Rcode::FORMERR, 0x1234));
    }
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(why(&two), refused);
    let mut twice = good.clone();
    twice.extend_from_slice(&good[good.len() - 23..]);
    twice[11] = 2;
    assert_eq!(why(&twice), refused);
    assert_eq!(why(&query("a.", Rtype::AXFR, 0)), Some(Unreadable::Refuse(Rcode::REFUSED)));
    // A name that points to itself.
    let looped = [&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
    assert_eq!(why(&looped), refused);
}

#[test]
fn an_answer_belongs_to_its_query_by_number_and_question() {
    let asked = query("api.shop.", Rtype::A, 0);
    let answer = Query::read(&asked).unwrap().answer(&many(1), Transport::Udp);
    assert!(answers(&answer, &asked));
    let mut other = answer.clone();
    set_id(&mut other, [1, 2]);
    assert!(!answers(&other, &asked));
    assert!(!answers(&asked, &asked), "a query is no answer");
    assert!(!answers(&answer, &query("api.data.", Rtype::A, 0)));
    assert!(!answers(&answer, &query("api.shop.", Rtype::AAAA, 0)));
    // A server that failed may leave the question out.
    let mut bare = answer[..12].to_vec();
    bare[4..12].fill(0);
    assert!(!answers(&bare, &asked));
    bare[3] |= 2;
    assert!(answers(&bare, &asked) && is_failure(&bare));
}

#[test]
fn what_does_not_fit_is_cut_to_its_header_and_question() {
    let asked = query("api.shop.", Rtype::A, 1232);
    let mut answer = Query::read(&asked).unwrap().answer(&many(60), Transport::Tcp);
    answer[3] |= 3;
    let cut = Query::read(&asked).unwrap().truncated(&answer);
    let (cut, counts) = (read(&cut), read(&cut).header_counts());
    assert!(cut.header().tc() && cut.header().qr() && cut.header().rcode() == Rcode::NXDOMAIN);
    assert_eq!((counts.qdcount(), counts.ancount(), counts.arcount(), cut.header().id()), (1, 0, 1, 0x1234));
}
