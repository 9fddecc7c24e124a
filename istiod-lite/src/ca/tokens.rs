//! The service account token of a request, and who verifies it.

use std::{net::IpAddr, sync::Arc};

use ambit_tls::token::{AUDIENCE, Claimed, Verifier};
use tonic::{Status, metadata::MetadataMap};

use super::{
    Caller,
    refusals::short,
    review::{Reviewer, Reviews},
};

/// Why a token says nothing. Only the caller of [`TokenError::Refused`] may be at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not to be believed.
    #[error("service account token: {0}")]
    Refused(String),
    /// Who could say is away, and nobody said so lately. Nobody is let in meanwhile.
    #[error("the token cannot be verified now: {0}")]
    Unavailable(String),
}

impl TokenError {
    /// What the caller is answered.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Refused(_) => Status::unauthenticated(short(&self.to_string())),
            Self::Unavailable(_) => Status::unavailable("tokens cannot be verified now; the log of the control plane says why"),
        }
    }
}

/// Verifies bearer tokens for the audience of the control plane. Clones share what they remember.
#[derive(Debug, Clone)]
pub struct Tokens(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// By a key that this process has: tokens of the local mesh.
    Key(Verifier),
    /// By asking the API server.
    Reviewed(Arc<Reviews<Reviewer>>),
}

impl Tokens {
    /// Trusts what `verifier` trusts.
    #[must_use]
    pub fn new(verifier: Verifier) -> Self {
        Self(Kind::Key(verifier))
    }

    /// Trusts what the API server says of a token (`TokenReview`, `authentication.k8s.io/v1`).
    #[must_use]
    pub fn reviewed(client: kube::Client) -> Self {
        Self(Kind::Reviewed(Arc::new(Reviews::new(Reviewer::new(client)))))
    }

    /// The caller of a request with these headers, which came from this address.
    ///
    /// # Errors
    /// When there is no token, it does not verify, or that cannot be said now.
    pub async fn caller(&self, headers: &MetadataMap, peer: Option<IpAddr>) -> Result<Caller, TokenError> {
        let token = bearer(headers)?;
        match &self.0 {
            Kind::Key(verifier) => {
                let claims = verifier.verify(token, &[AUDIENCE]);
                claims.and_then(Caller::try_from).map_err(|error| TokenError::Refused(plain(&error)))
            }
            Kind::Reviewed(reviews) => reviews.caller(token, peer).await,
        }
    }
}

/// Whom the token of a request claims to speak for, cut to what people read; nobody has verified it.
pub(crate) fn claimed(headers: &MetadataMap) -> String {
    match bearer(headers).ok().and_then(Claimed::read) {
        Some(claimed) if !claimed.sub.is_empty() => format!("{:?} by its own account", short(&claimed.sub)),
        _ => "unknown".to_owned(),
    }
}

/// Without the words that [`TokenError`] begins with itself.
fn plain(error: &ambit_tls::TlsError) -> String {
    match error {
        ambit_tls::TlsError::Token(reason) => reason.clone(),
        other => other.to_string(),
    }
}

fn bearer(headers: &MetadataMap) -> Result<&str, TokenError> {
    let refused = |reason: &str| TokenError::Refused(reason.to_owned());
    let header = headers.get("authorization").ok_or_else(|| refused("there is none"))?;
    let header = header.to_str().map_err(|_| refused("it is not text"))?;
    match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(refused("the authorization header is not a bearer token")),
    }
}
