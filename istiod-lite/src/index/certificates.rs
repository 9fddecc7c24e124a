//! The certificates of listeners at the edge of the mesh.

use std::sync::Arc;

use gateway_api::gateways::{Gateway, GatewayListeners, GatewayListenersTlsCertificateRefs, GatewayListenersTlsMode};
use gateway_api::referencegrants::ReferenceGrant;

use super::Index;
use super::ingress::HTTPS;
use super::objects::in_namespace;
use crate::source::NamespacedName;
use crate::source::crd::secret::{TYPE, TlsSecret};

/// Why a listener has not a certificate that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uncertified {
    /// It names none.
    None,
    /// It names something that is no Secret: kind and group.
    Kind(String, String),
    /// No ReferenceGrant lets its Gateway name the Secret.
    NotPermitted(NamespacedName),
    /// There is no such Secret, or it is of another type.
    Missing(NamespacedName),
    /// The Secret cannot be used, and why.
    Unusable(NamespacedName, String),
}

impl Uncertified {
    /// The reason of the condition `ResolvedRefs`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted(_) => "RefNotPermitted",
            _ => "InvalidCertificateRef",
        }
    }

    /// A sentence that says what to do.
    #[must_use]
    pub fn message(&self, gateway: &NamespacedName) -> String {
        match self {
            Self::None => "tls.certificateRefs names no certificate".into(),
            Self::Kind(kind, group) => {
                format!("tls.certificateRefs: {kind} of group {group:?} holds no certificate; a Secret of type {TYPE} does")
            }
            Self::NotPermitted(secret) => format!(
                "tls.certificateRefs: a ReferenceGrant in namespace {} has to permit Gateways of namespace {} to refer to Secret {secret}",
                secret.namespace, gateway.namespace
            ),
            Self::Missing(secret) => {
                format!("tls.certificateRefs: Secret {secret} does not exist, or is not of type {TYPE}")
            }
            Self::Unusable(secret, why) => format!("tls.certificateRefs: Secret {secret} cannot be used: {why}"),
        }
    }
}

/// What of the TLS that a listener asks for is not carried out: a phrase. Nothing in it may be passed over, as all of it may narrow who is served.
pub(super) fn unspoken(gateway: &Gateway, listener: &GatewayListeners) -> Option<&'static str> {
    let tls = listener.tls.as_ref();
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let passed_on = tls.is_some_and(|tls| tls.mode == Some(GatewayListenersTlsMode::Passthrough));
    if passed_on && listener.protocol == HTTPS {
        Some("HTTPS with tls.mode Passthrough cannot be, as requests are looked at; use Terminate")
    } else if tls.and_then(|tls| tls.options.as_ref()).is_some_and(|options| !options.is_empty()) {
        Some("tls.options are not carried out; take them out")
    } else if frontend.is_some() && !passed_on {
        Some("spec.tls.frontend of the Gateway is not carried out: certificates of clients are not looked at")
    } else {
        None
    }
}

/// The Secrets that the listeners of a Gateway name.
pub(crate) fn named_secrets(gateway: &Gateway) -> impl Iterator<Item = NamespacedName> {
    let own = NamespacedName::of(&gateway.metadata);
    let tls = gateway.spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let named = tls.flat_map(|tls| tls.certificate_refs.iter().flatten()).filter(|named| is_secret(named));
    named.map(move |named| target(&own, named))
}

/// Whether a ReferenceGrant, which stands in the namespace of the Secret, lets Gateways of a namespace name it.
pub(crate) fn grants_secret(grant: &ReferenceGrant, gateways: &str, secret: &NamespacedName) -> bool {
    let from = grant
        .spec
        .from
        .iter()
        .any(|from| from.group == "gateway.networking.k8s.io" && from.kind == "Gateway" && from.namespace == gateways);
    let to = grant.spec.to.iter().any(|to| {
        matches!(to.group.as_str(), "" | "core")
            && to.kind == "Secret"
            && to.name.as_deref().is_none_or(|name| name == &*secret.name)
    });
    from && to
}

fn is_secret(named: &GatewayListenersTlsCertificateRefs) -> bool {
    named.kind.as_deref().unwrap_or("Secret") == "Secret" && matches!(named.group.as_deref(), None | Some("" | "core"))
}

fn target(gateway: &NamespacedName, named: &GatewayListenersTlsCertificateRefs) -> NamespacedName {
    NamespacedName::new(named.namespace.as_deref().unwrap_or(&gateway.namespace), named.name.as_str())
}

impl Index {
    /// The certificates that a listener of a Gateway names, in its order; never empty, as one that names none has none for that reason.
    #[must_use]
    pub fn certificates(
        &self,
        gateway: &NamespacedName,
        listener: &GatewayListeners,
    ) -> Vec<Result<(NamespacedName, &Arc<TlsSecret>), Uncertified>> {
        let named = listener.tls.as_ref().and_then(|tls| tls.certificate_refs.as_deref()).unwrap_or_default();
        if named.is_empty() {
            return vec![Err(Uncertified::None)];
        }
        named.iter().map(|named| self.certificate(gateway, named)).collect()
    }

    /// Whether a listener has a certificate to show.
    #[must_use]
    pub fn is_certified(&self, gateway: &NamespacedName, listener: &GatewayListeners) -> bool {
        self.certificates(gateway, listener).iter().any(Result::is_ok)
    }

    fn certificate(
        &self,
        gateway: &NamespacedName,
        named: &GatewayListenersTlsCertificateRefs,
    ) -> Result<(NamespacedName, &Arc<TlsSecret>), Uncertified> {
        if !is_secret(named) {
            let kind = named.kind.clone().unwrap_or_else(|| "Secret".into());
            return Err(Uncertified::Kind(kind, named.group.clone().unwrap_or_default()));
        }
        let name = target(gateway, named);
        // First, so that nobody is told which Secrets others have.
        if !self.may_show(gateway, &name) {
            return Err(Uncertified::NotPermitted(name));
        }
        let Some(secret) = self.objects().tls_secrets.get(&name) else { return Err(Uncertified::Missing(name)) };
        match &secret.pair {
            Ok(_) => Ok((name, secret)),
            Err(why) => Err(Uncertified::Unusable(name, why.clone())),
        }
    }

    /// Whether a Gateway may name a Secret: in its own namespace always, in another with a ReferenceGrant.
    fn may_show(&self, gateway: &NamespacedName, secret: &NamespacedName) -> bool {
        gateway.namespace == secret.namespace
            || in_namespace(&self.objects().reference_grants, &secret.namespace)
                .any(|(_, grant)| grants_secret(grant, &gateway.namespace, secret))
    }
}
