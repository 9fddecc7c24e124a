//! The Secret in which the issuers and the state of a rotation are kept: all in one, so that a step is one write.

use std::{collections::BTreeMap, time::SystemTime};

use ambit_identity::TrustDomain;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{
    CACERTS, RootsError, STATE,
    issuer::{Data, NEXT, Origin, PLUGGED},
    report::Report,
    rotation::{Held, Plugged, State},
};

/// Annotation with what people are shown of the state: who may not have the keys, or need not, reads this.
pub const REPORT: &str = "ca.ambit.dev/status";
/// Annotation by which people ask for a rotation; the leader takes it away again.
pub const ROTATE: &str = "ca.ambit.dev/rotate";
/// Its value for a rotation that waits for nothing.
pub const AT_ONCE: &str = "at-once";
/// Type of the Secret.
const TYPE: &str = "ca.ambit.dev/state";
/// Key of the state beside the issuers.
const STATE_KEY: &str = "state.json";
/// Key of a revocation list in the Secret `cacerts`.
pub const CRL: &str = "ca-crl.pem";

/// What [`STATE_KEY`] says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    version: u32,
    origin: Origin,
    next_origin: Option<Origin>,
    #[serde(flatten)]
    state: State,
}

/// The form of [`Kept`] that this program writes.
const VERSION: u32 = 1;

/// What people ask of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A new root, with all the time that it takes.
    Rotate,
    /// All steps that are left, now.
    AtOnce,
}

/// What a Secret with this metadata asks for.
#[must_use]
pub fn request(metadata: &ObjectMeta) -> Option<Request> {
    let value = metadata.annotations.as_ref()?.get(ROTATE)?;
    Some(if value == AT_ONCE { Request::AtOnce } else { Request::Rotate })
}

/// What a Secret with this metadata shows people; `None` when it shows nothing that this program can read.
#[must_use]
pub fn reported(metadata: &ObjectMeta) -> Option<Report> {
    serde_json::from_str(metadata.annotations.as_ref()?.get(REPORT)?).ok()
}

/// The Secret, showing people this.
///
/// # Errors
/// When it cannot be written down, which is a defect.
pub fn with_report(mut secret: Secret, report: &Report) -> Result<Secret, RootsError> {
    let text = serde_json::to_string(report).map_err(|error| RootsError::New(error.to_string()))?;
    secret.metadata.annotations.get_or_insert_default().insert(REPORT.to_owned(), text);
    Ok(secret)
}

/// The Secret with this content.
///
/// # Errors
/// When the state cannot be written down, which is a defect.
pub fn write(held: &Held, namespace: &str, version: Option<&str>) -> Result<Secret, RootsError> {
    let mut data = Data::new();
    PLUGGED.write(&held.active.material, &mut data);
    if let Some(next) = &held.next {
        NEXT.write(&next.material, &mut data);
    }
    let next_origin = held.next.as_ref().map(|next| next.origin);
    let kept = Kept { version: VERSION, origin: held.active.origin, next_origin, state: held.state.clone() };
    let text = serde_json::to_vec_pretty(&kept).map_err(|error| RootsError::New(error.to_string()))?;
    data.insert(STATE_KEY.to_owned(), ByteString(text));
    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "istiod-lite".to_owned())]);
    let metadata = ObjectMeta {
        name: Some(STATE.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        resource_version: version.map(str::to_owned),
        ..ObjectMeta::default()
    };
    Ok(Secret { metadata, data: Some(data), type_: Some(TYPE.to_owned()), ..Secret::default() })
}

/// What our Secret holds.
///
/// # Errors
/// With the key of the Secret that is wrong, and what to do about it.
pub fn read(secret: &Secret, trust_domain: &TrustDomain, now: SystemTime) -> Result<Held, RootsError> {
    let (name, data) = (full_name(secret), secret.data.clone().unwrap_or_default());
    let wrong = |what: String| {
        let what = format!("{what}: restore the Secret from a backup, or delete it to have a new root made");
        RootsError::Secret { secret: name.clone(), key: STATE_KEY, what }
    };
    let text = data.get(STATE_KEY).ok_or_else(|| wrong("it is missing".to_owned()))?;
    let kept: Kept = serde_json::from_slice(&text.0).map_err(|error| wrong(format!("it cannot be read ({error})")))?;
    if kept.version != VERSION {
        return Err(wrong(format!("it has the form {}, this program knows {VERSION}", kept.version)));
    }
    let active = PLUGGED.issuer(&name, &data, kept.origin, trust_domain, now)?;
    // One that cannot be used any more signs nothing; whoever wants another root asks again.
    let next = kept.next_origin.and_then(|origin| match NEXT.issuer(&name, &data, origin, trust_domain, now) {
        Ok(next) => Some(next),
        Err(error) => {
            tracing::error!(%error, "the next issuer cannot be used");
            None
        }
    });
    if kept.state.roots.iter().all(|root| root.sha256 != active.anchor) {
        return Err(wrong("the root of the issuer is not among the roots".to_owned()));
    }
    Ok(Held { active, next, state: kept.state })
}

/// What the Secret `cacerts` holds: an issuer, and revocation lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The plug-in CA.
    pub plugged: Plugged,
    /// Revocation lists, PEM.
    pub crl: Option<String>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

impl Input {
    /// Before anything was read.
    #[must_use]
    pub fn unknown() -> Self {
        Self { plugged: Plugged::Unknown, crl: None, problems: Vec::new() }
    }

    /// Whether the same Secret says something else at `now`, seconds since 1970: what was too young may be valid by now, and what was valid
    /// may have ended.
    #[must_use]
    pub fn may_change(&self, now: u64) -> bool {
        !self.problems.is_empty() || matches!(&self.plugged, Plugged::Is(issuer) if issuer.has_ended(now))
    }

    /// From the Secret, or from its absence.
    #[must_use]
    pub fn read(secret: Option<&Secret>, trust_domain: &TrustDomain, now: SystemTime) -> Self {
        let Some(secret) = secret else { return Self { plugged: Plugged::Absent, ..Self::unknown() } };
        let (name, data) = (full_name(secret), secret.data.clone().unwrap_or_default());
        let mut read = Self { plugged: Plugged::Absent, ..Self::unknown() };
        match super::issuer::Keys::of_plugged(&data) {
            Some(keys) => match keys.issuer(&name, &data, Origin::Cacerts, trust_domain, now) {
                Ok(issuer) => read.plugged = Plugged::Is(Box::new(issuer)),
                Err(error) => {
                    read.plugged = Plugged::Unknown;
                    read.problems.push(error.to_string());
                }
            },
            // A Secret of lists alone is no plug-in CA.
            None if data.contains_key(CRL) => {}
            None => {
                let key = "ca-cert.pem";
                let what = "it is missing: put ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem there, or tls.crt, tls.key and ca.crt";
                read.plugged = Plugged::Unknown;
                read.problems.push(RootsError::Secret { secret: name.clone(), key, what: what.to_owned() }.to_string());
            }
        }
        if let Some(list) = data.get(CRL) {
            match lists(&list.0) {
                Ok(text) => read.crl = Some(text),
                Err(what) => read.problems.push(RootsError::Secret { secret: name, key: CRL, what }.to_string()),
            }
        }
        read
    }
}

fn lists(bytes: &[u8]) -> Result<String, String> {
    use ambit_tls::revocation::{Revocations, Unlisted};
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text: put PEM revocation lists there".to_owned())?;
    let read =
        Revocations::from_pem(text, Unlisted::Refused).map_err(|error| format!("{error}: put PEM revocation lists there"))?;
    if read.is_empty() {
        return Err("it has no list: put PEM revocation lists there, or remove the key".to_owned());
    }
    Ok(text.to_owned())
}

fn full_name(secret: &Secret) -> String {
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", secret.metadata.name.as_deref().unwrap_or(CACERTS))
}
