//! Secrets as people, cert-manager and replicas write them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use ambit_identity::TrustDomain;
use ambit_tls::authority::{Authority, Material, blocks};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::ObjectMeta;

use crate::roots::{
    CACERTS, ROTATE, RootsConfig, STATE,
    issuer::{Issuer, Origin, unix},
    report::Report,
    rotation::{Facts, Held, Phase, Plugged},
    secret::{self, Input, REPORT, Request},
};

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn secret(name: &str, data: &[(&str, &str)]) -> Secret {
    let data: BTreeMap<_, _> = data.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), namespace: Some("istio-system".to_owned()), ..ObjectMeta::default() };
    Secret { metadata, data: Some(data), ..Secret::default() }
}

fn material() -> Material {
    Material::self_signed(&domain()).unwrap()
}

fn read(data: &[(&str, &str)]) -> Input {
    Input::read(Some(&secret(CACERTS, data)), &domain(), SystemTime::now())
}

/// What is said of a Secret that cannot be used; nothing follows from it.
fn wrong(data: &[(&str, &str)]) -> String {
    let input = read(data);
    assert_eq!(input.plugged, Plugged::Unknown);
    input.problems.join("\n")
}

#[test]
fn a_plug_in_ca_is_read_in_both_notations() {
    let Material { certificate, key, roots, .. } = material();
    let plugged = read(&[("ca-cert.pem", &certificate), ("ca-key.pem", &key), ("cert-chain.pem", ""), ("root-cert.pem", &roots)]);
    let Plugged::Is(one) = plugged.plugged else { panic!("{:?}", plugged.problems) };
    let managed = read(&[("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &roots)]);
    let Plugged::Is(other) = managed.plugged else { panic!("{:?}", managed.problems) };
    assert_eq!(one.id, other.id, "the same certificates are the same issuer");
    assert_eq!(one.anchor, one.roots[0].sha256);
    assert_eq!(Input::read(None, &domain(), SystemTime::now()).plugged, Plugged::Absent);
}

#[test]
fn what_is_wrong_with_it_names_the_key_of_the_secret_and_the_fix() {
    let (one, other) = (material(), material());
    let (certificate, key, roots) = (&*one.certificate, &*one.key, &*one.roots);
    let at = |key: &str| format!("Secret istio-system/cacerts, key {key}: ");
    let check = |data: &[(&str, &str)], key: &str, what: &str| {
        let said = wrong(data);
        assert!(said.starts_with(&at(key)) && said.contains(what) && said.matches(": ").count() >= 2, "{said}");
    };
    let with = |name: &'static str, text| {
        let mut data = vec![("ca-cert.pem", certificate), ("ca-key.pem", key), ("root-cert.pem", roots)];
        data.retain(|(key, _)| *key != name);
        data.extend(text);
        data
    };
    check(&with("ca-key.pem", None), "ca-key.pem", "it is missing");
    check(&with("root-cert.pem", None), "root-cert.pem", "it is missing");
    check(&with("ca-cert.pem", None), "ca-cert.pem", "it is missing");
    check(&with("ca-key.pem", Some(("ca-key.pem", &*other.key))), "ca-key.pem", "it is not the key of the certificate");
    check(&with("ca-key.pem", Some(("ca-key.pem", "x"))), "ca-key.pem", "it holds no PEM private key");
    check(&with("ca-cert.pem", Some(("ca-cert.pem", key))), "ca-cert.pem", "it holds no PEM certificate");
    check(&with("root-cert.pem", Some(("root-cert.pem", &*other.roots))), "cert-chain.pem", "no path of certificates leads from");
    check(&[("tls.crt", certificate), ("tls.key", key)], "ca.crt", "it is missing");
    check(&[("tls.crt", certificate), ("tls.key", &other.key), ("ca.crt", roots)], "tls.key", "it is not the key");
    check(&[("nothing", "x")], "ca-cert.pem", "put ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem there");
    let authority = Authority::create(&domain()).unwrap();
    let leaf = authority.serving_certificate(&["a.example".to_owned()], Duration::from_hours(1)).unwrap();
    check(
        &[("ca-cert.pem", &leaf.certificate_pem), ("ca-key.pem", &leaf.key_pem), ("root-cert.pem", authority.root_pem())],
        "ca-cert.pem",
        "may not sign certificates",
    );
}

#[test]
fn what_was_judged_by_the_clock_is_judged_again() {
    let Material { certificate, key, roots, .. } = material();
    let data = [("ca-cert.pem", &*certificate), ("ca-key.pem", &*key), ("root-cert.pem", &*roots)];
    let (now, secret) = (SystemTime::now(), secret(CACERTS, &data));
    let at = |time| Input::read(Some(&secret), &domain(), time);
    // The clock that made it is an hour ahead, then four minutes.
    let early = at(now - Duration::from_hours(1));
    assert!(early.problems[0].contains("is not valid yet"), "{:?}", early.problems);
    assert!(early.may_change(0), "it is read again until it is valid");
    let valid = at(now - Duration::from_mins(14));
    assert_eq!(valid.problems, Vec::<String>::new());
    let Plugged::Is(issuer) = &valid.plugged else { panic!("{valid:?}") };
    let ends = issuer.not_after;
    assert!(!valid.may_change(ends - 1) && valid.may_change(ends), "it ends at {ends}");
    assert!(!Input::read(None, &domain(), now).may_change(ends));
}

#[test]
fn revocation_lists_are_read_beside_an_issuer_or_alone() {
    let Material { certificate, key, roots, .. } = material();
    let list = Authority::create(&domain()).unwrap().revocation_list(&["0a"], Duration::from_hours(1)).unwrap();
    let all = [("ca-cert.pem", &*certificate), ("ca-key.pem", &*key), ("root-cert.pem", &*roots), ("ca-crl.pem", &*list)];
    assert_eq!(read(&all).crl.as_deref(), Some(&*list));
    let alone = read(&all[3..]);
    assert_eq!((alone.plugged, alone.crl.as_deref(), alone.problems.len()), (Plugged::Absent, Some(&*list), 0));
    for text in ["", "nonsense", &*certificate] {
        let broken = read(&[("ca-crl.pem", text)]);
        assert_eq!(broken.crl, None);
        assert!(broken.problems[0].starts_with("Secret istio-system/cacerts, key ca-crl.pem: "), "{:?}", broken.problems);
    }
}

fn rotating() -> Held {
    let issuer = || Issuer::self_signed(&domain(), SystemTime::now()).unwrap();
    let now = unix(SystemTime::now());
    let held = Held::first(issuer(), 3600, now);
    let fresh = Some(Box::new(issuer()));
    let facts = Facts { now, life: 3600, margin: 300, distributed: false, plugged: Plugged::Absent, fresh, at_once: false };
    held.advance(&facts).unwrap()
}

#[test]
fn a_state_is_read_as_it_was_written() {
    let mut held = rotating();
    assert_eq!(held.phase(), Phase::Distributing);
    held.state.roots[0].unused = Some(7);
    held.state.roots[1].distributed = Some(8);
    held.state.longer_until = 9;
    let written = secret::write(&held, "istio-system", Some("17")).unwrap();
    assert_eq!(written.metadata.resource_version.as_deref(), Some("17"));
    assert_eq!(secret::read(&written, &domain(), SystemTime::now()).unwrap(), held);
    let text = String::from_utf8(written.data.unwrap()["state.json"].0.clone()).unwrap();
    assert!(!text.contains("PRIVATE"), "{text}");
}

#[test]
fn a_secret_of_ours_that_cannot_be_used_says_so() {
    let held = rotating();
    let check = |change: &dyn Fn(&mut BTreeMap<String, ByteString>), key: &str| {
        let mut broken = secret::write(&held, "istio-system", None).unwrap();
        change(broken.data.as_mut().unwrap());
        let error = secret::read(&broken, &domain(), SystemTime::now()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("Secret istio-system/{STATE}, key {key}: ")), "{error}");
    };
    let set = |key: &'static str, text: &str| {
        let text = text.as_bytes().to_vec();
        move |data: &mut BTreeMap<String, ByteString>| drop(data.insert(key.to_owned(), ByteString(text.clone())))
    };
    check(&|data| drop(data.remove("state.json")), "state.json");
    check(&set("state.json", "{}"), "state.json");
    check(&|data| drop(data.remove("ca-key.pem")), "ca-key.pem");
    check(&set("ca-key.pem", &material().key), "ca-key.pem");
    let foreign = material();
    check(
        &|data| {
            set("ca-cert.pem", &foreign.certificate)(data);
            set("ca-key.pem", &foreign.key)(data);
            set("root-cert.pem", &foreign.roots)(data);
        },
        "state.json",
    );
    // The next issuer signs nothing yet: without it the mesh goes on.
    let mut without = secret::write(&held, "istio-system", None).unwrap();
    set("next-ca-key.pem", "x")(without.data.as_mut().unwrap());
    assert_eq!(secret::read(&without, &domain(), SystemTime::now()).unwrap().next, None);
}

#[test]
fn what_people_ask_for_is_an_annotation() {
    let mut secret = secret(STATE, &[]);
    assert_eq!(secret::request(&secret.metadata), None);
    let mut ask = |text: &str| {
        secret.metadata.annotations = Some(BTreeMap::from([(ROTATE.to_owned(), text.to_owned())]));
        secret::request(&secret.metadata)
    };
    assert_eq!(ask("2026-11-21T23:00:00Z"), Some(Request::Rotate));
    assert_eq!(ask("at-once"), Some(Request::AtOnce));
}

#[test]
fn a_report_says_where_a_rotation_is_and_shows_no_key() {
    let mut held = rotating();
    let report = |held: &Held| {
        Report::of_held(held, "Secret istio-system/ambit-ca".to_owned(), 300, vec!["something is wrong".to_owned()])
    };
    let text = report(&held).text();
    for part in [
        "distributing (1 of 2)",
        "the new root is being written to every namespace",
        "next issuer",
        "live for 1 h at most",
        "something is wrong",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    held.state.roots[1].distributed = Some(1_700_000_000);
    let distributed = report(&held);
    assert_eq!(distributed.due, Some(1_700_000_000 + 3600 + 300));
    assert!(distributed.text().contains("ended, at 2023-11-14T23:18:20Z"), "{}", distributed.text());
    let json = serde_json::to_string(&distributed).unwrap();
    assert!(!json.contains("PRIVATE") && !text.contains("PRIVATE"));
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), distributed);
}

#[test]
fn what_the_secret_shows_people_is_read_without_its_content() {
    let config =
        RootsConfig { margin: Duration::from_secs(7), ..RootsConfig::new("istio-system", domain(), Duration::from_hours(1)) };
    let mut held = rotating();
    held.state.roots[1].distributed = Some(1_700_000_000);
    let report = Report::of_kept(&held, &config, vec!["something is wrong".to_owned()]);
    assert_eq!((report.kept.as_str(), report.due), ("Secret istio-system/ambit-ca", Some(1_700_000_000 + 3600 + 7)));
    let written = secret::write(&held, "istio-system", None).unwrap();
    assert_eq!(secret::reported(&written.metadata), None);
    let mut written = secret::with_report(written, &report).unwrap();
    assert_eq!(secret::reported(&written.metadata), Some(report));
    let shown = written.metadata.annotations.as_mut().unwrap();
    assert!(shown.values().all(|text| !text.contains("PRIVATE")));
    shown.insert(REPORT.to_owned(), "{}".to_owned());
    assert_eq!(secret::reported(&written.metadata), None);
}

#[test]
fn an_issuer_of_somebody_else_that_ends_soon_is_a_problem() {
    let mut held = rotating();
    let problems = |held: &Held, now| Report::of_held(held, String::new(), 300, Vec::new()).at(now).problems;
    held.active.not_after = 1_000_000;
    assert_eq!(problems(&held, 999_999), Vec::<String>::new(), "our own is followed by another in time");
    held.active.origin = Origin::Cacerts;
    assert_eq!(problems(&held, 1_000_000 - 3 * 3600 - 1), Vec::<String>::new());
    let said = problems(&held, 1_000_000 - 3 * 3600);
    assert!(said.len() == 1 && said[0].contains("ends at 1970-01-12T13:46:40Z"), "{said:?}");
}

#[test]
fn a_bundle_is_taken_apart_by_certificate() {
    let (one, other) = (material().roots, material().roots);
    assert_eq!(blocks(&format!("# a comment\n{one}\n{other}")), [one, other]);
    assert!(blocks("nothing").is_empty());
}
