//! The local authority: what it signs, and what is made of its answers.

#![allow(missing_docs)]

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ambit_identity::SpiffeId;
use ambit_tls::{
    CertificateRequest, TlsError,
    authority::{self, Authority, LocalSource},
};

const HOUR: Duration = Duration::from_hours(1);

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn api() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/api".parse().unwrap()
}

fn new_authority() -> Authority {
    Authority::create(&"cluster.local".parse().unwrap()).unwrap()
}

#[test]
fn an_authority_is_made_once_and_its_key_is_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let first = Authority::load_or_create(&state, &"cluster.local".parse().unwrap()).unwrap();
    let again = Authority::load_or_create(&state, &"cluster.local".parse().unwrap()).unwrap();
    assert_eq!(first.root_pem(), again.root_pem());
    assert_eq!(first.root_pem(), std::fs::read_to_string(state.join(authority::CERTIFICATE_FILE)).unwrap());
    let mode = std::fs::metadata(state.join(authority::KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 2, "temporary files were left behind");

    let request = CertificateRequest::new(&web()).unwrap();
    let chain = again.sign(request.pem(), &web(), None).unwrap();
    let svid = request.complete(&[chain[0].clone(), first.root_pem().to_owned()]).unwrap();
    assert_eq!(*svid.id(), web());

    let request = CertificateRequest::new(&web()).unwrap();
    let chain = again.sign(request.pem(), &web(), None).unwrap();
    let error = request.complete(&[chain[0].clone(), new_authority().root_pem().to_owned()]).unwrap_err();
    assert!(error.to_string().starts_with("certificate chain"), "{error}");
}

#[test]
fn a_root_that_does_not_belong_to_its_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    Authority::load_or_create(directory.path(), &"cluster.local".parse().unwrap()).unwrap();
    std::fs::write(directory.path().join(authority::CERTIFICATE_FILE), new_authority().root_pem()).unwrap();
    let error = Authority::load_or_create(directory.path(), &"cluster.local".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("does not belong to the root key"), "{error}");
}

#[test]
fn a_certificate_begins_before_now_and_lives_no_longer_than_allowed() {
    let authority = new_authority().with_max_lifetime(HOUR);
    let request = CertificateRequest::new(&web()).unwrap();
    let chain = authority.sign(request.pem(), &web(), Some(HOUR * 1000)).unwrap();
    let svid = request.complete(&chain).unwrap();
    let now = SystemTime::now();
    assert!(svid.not_before() <= now - Duration::from_secs(60));
    assert!(svid.not_after() <= now + HOUR && svid.not_after() > now + HOUR - Duration::from_secs(60));
}

#[test]
fn a_request_for_another_name_or_with_a_broken_signature_is_not_signed() {
    let authority = new_authority();
    let request = CertificateRequest::new(&web()).unwrap();
    assert!(authority.sign(request.pem(), &api(), None).is_err());
    assert!(authority.sign("nonsense", &web(), None).is_err());
    // Change one bit of the signature, which is the end of the request.
    let pem: Vec<&str> = request.pem().trim().lines().collect();
    let body = pem[1..pem.len() - 1].concat();
    let flip = body.len() - 8;
    let replacement = if &body[flip..=flip] == "A" { "B" } else { "A" };
    let broken = format!("{}{replacement}{}", &body[..flip], &body[flip + 1..]);
    let broken = format!("{}\n{broken}\n{}\n", pem[0], pem[pem.len() - 1]);
    assert!(authority.sign(&broken, &web(), None).is_err());
}

#[test]
fn an_answer_for_somebody_else_for_another_key_or_out_of_date_is_not_accepted() {
    let authority = new_authority();
    let other = CertificateRequest::new(&api()).unwrap();
    let chain = authority.sign(other.pem(), &api(), None).unwrap();
    let error = CertificateRequest::new(&web()).unwrap().complete(&chain).unwrap_err();
    assert!(matches!(error, TlsError::WrongIdentity { .. }), "{error}");

    let error = CertificateRequest::new(&api()).unwrap().complete(&chain).unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");

    let late = new_authority().with_backdate(Duration::ZERO).with_max_lifetime(Duration::from_secs(1));
    let request = CertificateRequest::new(&web()).unwrap();
    let chain = late.sign(request.pem(), &web(), None).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert!(matches!(request.complete(&chain).unwrap_err(), TlsError::NotValidNow { .. }));

    assert!(CertificateRequest::new(&web()).unwrap().complete(&[]).is_err());
}

#[test]
fn a_key_is_never_printed() {
    let svid = LocalSource::new(Arc::new(new_authority()), HOUR).svid(&web()).unwrap();
    let printed = format!("{svid:?}");
    assert!(printed.contains("spiffe://cluster.local/ns/shop/sa/web") && !printed.to_lowercase().contains("key"), "{printed}");
}
