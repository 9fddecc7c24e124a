//! Certificates, requests, revocation lists and tokens that are like real ones. Nothing panics, nobody becomes somebody else by it, and
//! what was not signed as it is is not believed. And the first bytes of connections of others, of which a server name is read.

use std::{sync::Arc, time::Duration};

use ambit_fuzz::{Corpus, Target, together};
use ambit_identity::SpiffeId;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;

use crate::{
    CertificateRequest, Svid, Trust,
    authority::{Authority, LocalSource},
    peer::identity_of,
    revocation::{Revocations, Unlisted},
    token::{Bound, Claims, ObjectReference, Signer},
    verify::verify_chain,
};

const HOUR: Duration = Duration::from_hours(1);
/// Tags and lengths of DER, the URI name, object identifiers of the names and of their use.
const DER: [&[u8]; 12] = [
    b"\x30\x80",
    b"\x30\x82\xff\xff",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x86\x26spiffe://",
    b"\x86\x00",
    b"\x82\x03a.b",
    b"\x06\x03\x55\x1d\x11",
    b"\x06\x03\x55\x1d\x25",
    b"\x04\x00",
    b"\x17\x0d991231235959Z",
    b"\x18\x0f99991231235959Z",
    b"\x02\x21\x00",
];

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

fn authority() -> Arc<Authority> {
    Arc::new(Authority::create(&"cluster.local".parse().unwrap()).unwrap())
}

fn svid(authority: &Arc<Authority>, account: &str) -> Svid {
    LocalSource::new(Arc::clone(authority), HOUR).svid(&id(account)).unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut body = String::new();
    for chunk in der.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | chunk.get(at).copied().map_or(0, usize::from));
        for place in 0..4 {
            let sixth = bits >> (18 - 6 * place) & 63;
            body.push(if place <= chunk.len() { char::from(ALPHABET[sixth]) } else { '=' });
        }
    }
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

#[test]
fn nobody_becomes_somebody_else_by_bytes_that_were_changed() {
    together(&[
        a_certificate_that_was_changed_proves_nothing,
        a_request_that_was_changed_gets_a_certificate_for_nobody_else,
        an_answer_of_the_authority_that_was_changed_makes_no_other_certificate,
        a_revocation_list_that_was_changed_is_read_or_refused,
        a_token_that_was_changed_is_no_token,
        an_identity_that_is_read_reads_back_as_it_is_written,
        crate::hello::tests::random_bytes,
    ]);
}

fn a_certificate_that_was_changed_proves_nothing() {
    let authority = authority();
    let (web, api) = (svid(&authority, "web"), svid(&authority, "api"));
    let serving = authority.serving_certificate(&["istiod.local".to_owned(), "10.0.0.1".to_owned()], HOUR).unwrap();
    let corpus = Corpus::new()
        .with("a workload's", web.chain()[0].to_vec())
        .with("another workload's", api.chain()[0].to_vec())
        .with("a server's", der(&serving.certificate_pem))
        .with("the root", der(authority.root_pem()));
    let trust = web.trust().clone();
    let honest = [id("web"), id("api")];
    Target::new("certificates", corpus).tokens(DER).longest(4 << 10).run(|bytes, _| {
        let leaf = CertificateDer::from(bytes);
        let identity = identity_of(&leaf);
        if let Ok(identity) = &identity {
            assert_eq!(identity.to_string().parse::<SpiffeId>().unwrap(), *identity);
        }
        let believed = verify_chain(&trust, &leaf, &[], KeyUsage::client_auth(), UnixTime::now()).is_ok();
        if let (true, Ok(identity)) = (believed, &identity) {
            assert!(honest.contains(identity), "nobody has signed for {identity}");
        }
        identity.is_ok()
    });
}

fn a_request_that_was_changed_gets_a_certificate_for_nobody_else() {
    let authority = authority();
    let request = CertificateRequest::new(&id("web")).unwrap();
    let corpus = Corpus::new().with("a request", der(request.pem()));
    // Most changes break the signature of the request.
    let target = Target::new("certificate requests", corpus).tokens(DER).longest(4 << 10).least_read(0.0);
    target.run(|bytes, dice| {
        let text = if dice.bool() { pem("CERTIFICATE REQUEST", bytes) } else { String::from_utf8_lossy(bytes).into_owned() };
        let Ok(chain) = authority.sign(&text, &id("web"), None) else { return false };
        let leaf = der(&chain[0]);
        assert_eq!(identity_of(&CertificateDer::from(leaf.as_slice())).unwrap(), id("web"));
        true
    });
}

fn an_answer_of_the_authority_that_was_changed_makes_no_other_certificate() {
    let authority = authority();
    let request = CertificateRequest::new(&id("web")).unwrap();
    let chain = authority.sign(request.pem(), &id("web"), None).unwrap();
    let roots = chain[1].clone();
    let corpus = Corpus::new().with("an answer", chain[0].clone()).with("its root", roots.clone());
    let target =
        Target::new("answers of the authority", corpus).tokens(["-----BEGIN CERTIFICATE-----\n", "=", "\n"]).longest(4 << 10);
    target.least_read(0.0).run(|bytes, _| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        // The key of this one is another, so none fits; what matters is that each says so.
        let other = CertificateRequest::new(&id("web")).unwrap();
        other.complete(&[text.clone(), roots.clone()]).unwrap_err();
        let _either_way = CertificateRequest::new(&id("api")).unwrap().complete(&[text.clone(), text]).unwrap_err();
        false
    });
}

fn a_revocation_list_that_was_changed_is_read_or_refused() {
    let authority = authority();
    let web = svid(&authority, "web");
    let list = authority.revocation_list(&[web.serial(), "01"], HOUR).unwrap();
    let corpus = Corpus::new().with("a list", der(&list));
    let trust = Trust::new(web.trust().roots());
    Target::new("revocation lists", corpus).tokens(DER).longest(4 << 10).least_read(0.01).run(|bytes, dice| {
        let text = if dice.u8(..8) > 0 { pem("X509 CRL", bytes) } else { String::from_utf8_lossy(bytes).into_owned() };
        let Ok(lists) = Revocations::from_pem(&text, Unlisted::Refused) else { return false };
        let read = !lists.is_empty();
        trust.revoke(lists);
        // Revoked, or no list that is believed: never believed because of a list that somebody changed.
        verify_chain(&trust, &web.chain()[0], &[], KeyUsage::client_auth(), UnixTime::now()).unwrap_err();
        read
    });
}

fn a_token_that_was_changed_is_no_token() {
    let signer = Signer::create().unwrap();
    let bound = Bound {
        namespace: "shop".parse().unwrap(),
        pod: Some(ObjectReference::new("web-0", "u1")),
        serviceaccount: ObjectReference::new("web", "u2"),
        node: Some(ObjectReference::new("node-1", "")),
    };
    let claims = Claims::new(&["istio-ca"], bound, HOUR);
    let (token, verifier) = (signer.sign(&claims).unwrap(), signer.verifier().unwrap());
    let corpus = Corpus::new().with("a token", token);
    let tokens = [".", "eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9", "=", "-", "_"];
    Target::new("tokens", corpus).tokens(tokens).longest(4 << 10).least_read(0.0).run(|bytes, _| {
        let Ok(read) = verifier.verify(&String::from_utf8_lossy(bytes), &["istio-ca"]) else { return false };
        assert_eq!(read, claims);
        true
    });
}

fn an_identity_that_is_read_reads_back_as_it_is_written() {
    let corpus = Corpus::new()
        .with("a workload", "spiffe://cluster.local/ns/shop/sa/web")
        .with("with dots", "spiffe://a.b-c_d/ns/e.f/sa/g");
    let tokens = ["spiffe://", "/ns/", "/sa/", "/", ":80", "%41", "?", "#", "@", "..", "A", "\u{0}", "ü"];
    Target::new("identities", corpus).tokens(tokens).longest(3000).least_read(0.01).run(|bytes, _| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let Ok(read) = text.parse::<SpiffeId>() else { return false };
        assert_eq!(read.to_string(), text);
        assert!(text.len() <= 2048 && text.chars().all(|c| c.is_ascii_graphic() && !c.is_ascii_uppercase()), "{text:?}");
        assert!(!text.split('/').any(|part| matches!(part, "." | "..")), "{text:?}");
        true
    });
}
