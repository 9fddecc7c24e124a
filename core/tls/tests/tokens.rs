//! Service-account tokens: what is accepted and every reason not to.

#![allow(missing_docs)]

use std::time::Duration;

use ambit_tls::{
    TlsError,
    token::{self, Bound, Claims, ObjectReference, Signer, Verifier},
};

const HOUR: Duration = Duration::from_hours(1);

fn bound() -> Bound {
    Bound {
        namespace: "istio-system".parse().unwrap(),
        pod: Some(ObjectReference::new("ztunnel-1", "uid-1")),
        serviceaccount: ObjectReference::new("ztunnel", "uid-2"),
        node: Some(ObjectReference::new("node-1", "")),
    }
}

fn claims() -> Claims {
    Claims::new(&[token::AUDIENCE, "another"], bound(), HOUR)
}

/// The verifier's word on a token of `claims`.
fn verdict(claims: &Claims) -> Result<Claims, TlsError> {
    let signer = Signer::create().unwrap();
    signer.verifier().unwrap().verify(&signer.sign(claims).unwrap(), &[token::AUDIENCE])
}

fn refused(change: impl FnOnce(&mut Claims), why: &str) {
    let mut claims = claims();
    change(&mut claims);
    let error = verdict(&claims).unwrap_err().to_string();
    assert!(error.contains(why), "{error:?} does not say {why:?}");
}

#[test]
fn a_token_says_whose_it_is_and_where_it_runs() {
    let read = verdict(&claims()).unwrap();
    assert_eq!(read, claims_like(&read));
    assert_eq!(read.sub, "system:serviceaccount:istio-system:ztunnel");
    let (namespace, account) = read.service_account().unwrap();
    assert_eq!((namespace.as_str(), account.as_str()), ("istio-system", "ztunnel"));
    assert_eq!(read.kubernetes, bound());
}

/// The same claims with the times of `read`.
fn claims_like(read: &Claims) -> Claims {
    Claims { exp: read.exp, nbf: read.nbf, iat: read.iat, ..claims() }
}

#[test]
fn a_token_that_is_expired_early_misdirected_or_foreign_is_refused() {
    refused(|c| c.exp -= 2 * 3600, "expired");
    refused(|c| c.nbf += 3600, "not valid yet");
    refused(|c| c.aud = vec!["another".to_owned()], "audience");
    refused(|c| c.iss = "https://elsewhere".to_owned(), "issuer");
    refused(|c| c.sub = "system:serviceaccount:istio-system:other".to_owned(), "not its service account");
    refused(|c| c.sub = "system:serviceaccount:default:ztunnel".to_owned(), "not its service account");
    refused(|c| c.sub = "admin".to_owned(), "not its service account");
}

#[test]
fn a_token_with_another_signature_or_algorithm_is_refused() {
    let (signer, stranger) = (Signer::create().unwrap(), Signer::create().unwrap());
    let verifier = signer.verifier().unwrap();
    let good = signer.sign(&claims()).unwrap();
    let error = verifier.verify(&stranger.sign(&claims()).unwrap(), &[token::AUDIENCE]).unwrap_err();
    assert!(error.to_string().contains("signature is wrong"), "{error}");

    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none","typ":"JWT"} and {"alg":"HS256","typ":"JWT"}
    for header in ["eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"] {
        for signature in ["", parts[2]] {
            assert!(verifier.verify(&format!("{header}.{}.{signature}", parts[1]), &[token::AUDIENCE]).is_err());
        }
    }
    for broken in ["", ".", "..", "a.b.c", &good[..good.len() - 2], &format!("{good}.x")] {
        assert!(verifier.verify(broken, &[token::AUDIENCE]).is_err(), "{broken:?} was accepted");
    }
}

#[test]
fn the_key_is_made_once_whoever_comes_first_and_is_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let signers: Vec<Signer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Signer::load_or_create(directory.path()).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let verifier = Verifier::load(&directory.path().join(token::PUBLIC_KEY_FILE)).unwrap();
    for signer in &signers {
        verifier.verify(&signer.sign(&claims()).unwrap(), &[token::AUDIENCE]).unwrap();
    }
    let mode = std::fs::metadata(directory.path().join(token::KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "temporary files were left behind");
}
