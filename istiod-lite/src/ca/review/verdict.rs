//! What the answer to a `TokenReview` means. Pure.

use ambit_identity::{Namespace, ServiceAccount};
use ambit_tls::token::{AUDIENCE, ObjectReference};
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

use crate::{ca::Caller, config::Account};

/// Fields of `user.extra` by which the API server says what a token is bound to
/// (kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin, "Bound service account tokens").
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The caller, if the API server says that the token is good, and for us.
pub(super) fn caller(status: TokenReviewStatus) -> Result<Caller, String> {
    let TokenReviewStatus { audiences, authenticated, error, user } = status;
    if authenticated != Some(true) {
        let said = error.filter(|error| !error.is_empty()).unwrap_or_else(|| "it gives no reason".to_owned());
        return Err(format!("the API server does not accept it: {said}"));
    }
    // An authenticator that knows nothing of audiences answers without ours, and has checked none.
    if !audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE) {
        return Err(format!("the API server does not say that it is for {AUDIENCE:?}"));
    }
    let UserInfo { username, extra, .. } = user.unwrap_or_default();
    let account = account(username.as_deref().unwrap_or_default())?;
    let extra = extra.unwrap_or_default();
    let one = |name: &str| match extra.get(name).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([value]) => Ok(Some(value.clone()).filter(|value| !value.is_empty())),
        Some(_) => Err(format!("the API server says several things as {name}")),
    };
    let pod = match (one(POD_NAME)?, one(POD_UID)?) {
        (Some(name), Some(uid)) => Some(ObjectReference::new(name, uid)),
        (None, None) => None,
        _ => return Err("the API server says only half of which pod it is bound to".to_owned()),
    };
    Ok(Caller { account, pod, node: one(NODE_NAME)? })
}

fn account(user: &str) -> Result<Account, String> {
    let wrong = || format!("it is that of {user:?}, which is no service account");
    let mut parts = user.strip_prefix("system:serviceaccount:").ok_or_else(wrong)?.split(':');
    let (Some(namespace), Some(name), None) = (parts.next(), parts.next(), parts.next()) else { return Err(wrong()) };
    let namespace = Namespace::new(namespace).map_err(|error| error.to_string())?;
    let name = ServiceAccount::new(name).map_err(|error| error.to_string())?;
    Ok(Account { namespace, name })
}
