//! Who calls: the service account token of a request, verified.

use ambit_tls::{
    TlsError,
    token::{AUDIENCE, Claims, ObjectReference, Verifier},
};
use tonic::metadata::MetadataMap;

use crate::config::Account;

/// A verified caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The service account it speaks for.
    pub account: Account,
    /// The pod its token was given to.
    pub pod: Option<ObjectReference>,
    /// The node its token says that the pod runs on.
    pub node: Option<String>,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.account)?;
        match &self.pod {
            Some(pod) => write!(f, " in pod {}", pod.name),
            None => f.write_str(" without a pod"),
        }
    }
}

impl TryFrom<Claims> for Caller {
    type Error = TlsError;

    fn try_from(claims: Claims) -> Result<Self, TlsError> {
        let (namespace, name) = claims.service_account()?;
        let Claims { kubernetes, .. } = claims;
        Ok(Self { account: Account { namespace, name }, pod: kubernetes.pod, node: kubernetes.node.map(|node| node.name) })
    }
}

/// Verifies bearer tokens for the audience of the control plane.
#[derive(Debug, Clone)]
pub struct Tokens {
    verifier: Verifier,
}

impl Tokens {
    /// Trusts what `verifier` trusts.
    #[must_use]
    pub fn new(verifier: Verifier) -> Self {
        Self { verifier }
    }

    /// The caller of a request with these headers.
    ///
    /// # Errors
    /// When there is no token, or it does not verify.
    pub fn caller(&self, headers: &MetadataMap) -> Result<Caller, TlsError> {
        let header = headers.get("authorization").ok_or_else(|| TlsError::Token("there is none".to_owned()))?;
        let header = header.to_str().map_err(|_| TlsError::Token("it is not text".to_owned()))?;
        let token = match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(TlsError::Token("the authorization header is not a bearer token".to_owned())),
        };
        self.verifier.verify(token, &[AUDIENCE])?.try_into()
    }
}
