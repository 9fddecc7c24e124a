//! Certificates: the waypoint's own with the authorities of the mesh, and those at its edge. Keys are not among what can be asked for.

use std::time::{Duration, SystemTime};

use ambit_api::{
    envoy::pb::envoy::{
        admin::v3::{Certificate, CertificateDetails, Certificates, SubjectAlternateName, subject_alternate_name},
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret::Type},
    },
    type_url,
};
use ambit_runtime::admin::{Query, Reply};
use ambit_tls::authority::{self, CertificateFacts};
use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;

use super::{
    Pages,
    envoy::{self, timestamp},
};
use crate::xds::REDACTED;

/// What Envoy says of a certificate that comes from no file.
const INLINE: &str = "<inline>";
/// How long a line of PEM is.
const LINE: usize = 64;
const DAY: u64 = 24 * 60 * 60;

/// Answers `/certs`.
pub fn page(pages: &Pages, _: &Query) -> Reply {
    let mut certificates = Vec::new();
    if let Some(svid) = pages.proxy.certificates.current(&pages.proxy.identity) {
        let chain = svid.chain().iter().filter_map(|der| authority::certificate(der.as_ref()).ok());
        let roots = authority::certificates(&roots(pages)).unwrap_or_default();
        let path = pages.roots.display().to_string();
        certificates.push(Certificate {
            ca_cert: roots.iter().map(|root| details(root, &path)).collect(),
            cert_chain: chain.map(|one| details(&one, INLINE)).collect(),
        });
    }
    for chain in at_the_edge(pages) {
        let chain = authority::certificates(&chain).unwrap_or_default();
        certificates
            .push(Certificate { ca_cert: Vec::new(), cert_chain: chain.iter().map(|one| details(one, INLINE)).collect() });
    }
    envoy::page(&Certificates { certificates }, true)
}

/// How long the first certificate that expires is still good, of those at the edge and the waypoint's own.
pub fn first_expires_in(pages: &Pages) -> Option<Duration> {
    let own = pages.proxy.certificates.current(&pages.proxy.identity).map(|svid| svid.not_after());
    let edge = at_the_edge(pages).into_iter().flat_map(|chain| authority::certificates(&chain).unwrap_or_default());
    let first = edge.map(|one| one.not_after).chain(own).min()?;
    Some(first.duration_since(SystemTime::now()).unwrap_or_default())
}

/// The certificates that Envoy would be given as secrets of these names: what it presents, and whom it believes. With each its version, and
/// since when it is good.
pub fn secrets(pages: &Pages) -> Vec<(Secret, String, Option<SystemTime>)> {
    let inline = |bytes: Vec<u8>| Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..DataSource::default() });
    let mut secrets = Vec::new();
    if let Some(svid) = pages.proxy.certificates.current(&pages.proxy.identity) {
        let chain: String = svid.chain().iter().map(|der| pem(der.as_ref())).collect();
        let pair = TlsCertificate {
            certificate_chain: inline(chain.into_bytes()),
            private_key: inline(REDACTED.to_vec()),
            ..TlsCertificate::default()
        };
        let secret = Secret { name: "default".to_owned(), r#type: Some(Type::TlsCertificate(pair)) };
        secrets.push((secret, svid.serial().to_owned(), Some(svid.not_before())));
    }
    let roots = roots(pages);
    if !roots.is_empty() {
        let context = CertificateValidationContext { trusted_ca: inline(roots.into_bytes()), ..Default::default() };
        let secret = Secret { name: "ROOTCA".to_owned(), r#type: Some(Type::ValidationContext(context)) };
        secrets.push((secret, String::new(), None));
    }
    secrets
}

/// The certificates of the mesh's authorities, as they are in their file.
fn roots(pages: &Pages) -> String {
    std::fs::read_to_string(&pages.roots).unwrap_or_default()
}

/// The certificate chains in the secrets that were received, in PEM.
fn at_the_edge(pages: &Pages) -> Vec<String> {
    let received = pages.store.received();
    let held = received.of(type_url::SECRET).into_iter().flat_map(|kind| kind.resources.values());
    let chain = |secret: Secret| match secret.r#type {
        Some(Type::TlsCertificate(pair)) => match pair.certificate_chain?.specifier? {
            Specifier::InlineBytes(bytes) => String::from_utf8(bytes).ok(),
            Specifier::InlineString(text) => Some(text),
            _ => None,
        },
        _ => None,
    };
    held.filter_map(|known| Secret::decode(known.held.as_ref()?.body.clone()).ok()).filter_map(chain).collect()
}

fn details(facts: &CertificateFacts, path: &str) -> CertificateDetails {
    use subject_alternate_name::Name;

    let uris = facts.uris.iter().map(|uri| Name::Uri(uri.clone()));
    let names = uris.chain(facts.hosts.iter().map(|host| Name::Dns(host.clone())));
    let left = facts.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    CertificateDetails {
        path: path.to_owned(),
        serial_number: facts.serial.clone(),
        subject_alt_names: names.map(|name| SubjectAlternateName { name: Some(name) }).collect(),
        days_until_expiration: left.as_secs() / DAY,
        valid_from: timestamp(facts.not_before),
        expiration_time: timestamp(facts.not_after),
        ocsp_details: None,
    }
}

fn pem(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in STANDARD.encode(der).as_bytes().chunks(LINE) {
        // Base64 is ASCII.
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}
