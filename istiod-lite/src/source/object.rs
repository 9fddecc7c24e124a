//! The kinds of objects the control plane reads, and the keys they have.

use std::fmt;
use std::sync::Arc;

use gateway_api::backendtlspolicies::BackendTlsPolicy;
use gateway_api::experimental::grpcroutes::GrpcRoute;
use gateway_api::experimental::httproutes::HttpRoute;
use gateway_api::experimental::tcproutes::TcpRoute;
use gateway_api::experimental::tlsroutes::TlsRoute;
use gateway_api::experimental::xbackendtrafficpolicies::XBackendTrafficPolicy;
use gateway_api::gatewayclasses::GatewayClass;
use gateway_api::gateways::Gateway;
use gateway_api::referencegrants::ReferenceGrant;
use k8s_openapi::api::core::v1::{Namespace, Node, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::crd::destination::DestinationRule;
use super::crd::mesh::{self, MeshSettings};
use super::crd::networking::{ServiceEntry, WorkloadEntry};
use super::crd::requests::RequestPolicy;
use super::crd::secret::TlsSecret;
use super::crd::telemetry::Telemetry;
use super::crd::tokens::RequestAuthentication;
use super::crd::traffic::TrafficPolicy;
use super::crd::virtual_service::VirtualService;
use super::crd::{AuthorizationPolicy, PeerAuthentication};
use super::pod::Pod;
use crate::index::ROOT_NAMESPACE;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl NamespacedName {
    /// The key `namespace/name`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object from its metadata; what is missing there is empty.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { write!(f, "{}", self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Debug for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for NamespacedName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A kind and a name: what identifies an object in a source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace and name.
    pub name: NamespacedName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for ObjectKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One change of one object.
#[derive(Debug, Clone)]
pub enum Event {
    /// The object is new or other than before.
    Upsert(Object),
    /// The object is gone.
    Delete(ObjectKey),
}

/// Declares [`Kind`] and [`Object`] from one table: variant, type, name, plural as in the paths of the API server, API group (`""` is
/// core), versions with the preferred one first, namespaced or not.
macro_rules! kinds {
    ($($kind:ident($type:ty), $text:literal, $plural:literal, $group:literal, [$($version:literal),+], $namespaced:literal;)+) => {
        /// A kind of object the control plane reads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = concat!("`", $text, "`")] $kind,)+
        }

        impl Kind {
            /// Every kind, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The kind's name in the paths of the API server and in RBAC rules.
            #[must_use]
            pub fn plural(self) -> &'static str {
                match self { $(Self::$kind => $plural,)+ }
            }

            /// The API group; empty for the core group.
            #[must_use]
            pub fn group(self) -> &'static str {
                match self { $(Self::$kind => $group,)+ }
            }

            /// The versions that are read, the preferred one first; never empty.
            #[must_use]
            pub fn versions(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($version),+],)+ }
            }

            /// The kind's name as written in YAML.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $text,)+ }
            }

            /// Whether objects of this kind live in a namespace.
            #[must_use]
            pub fn namespaced(self) -> bool {
                match self { $(Self::$kind => $namespaced,)+ }
            }

            /// The kind with this `apiVersion` and `kind`, if it is one of ours.
            #[must_use]
            pub fn from_api(api_version: &str, kind: &str) -> Option<Self> {
                let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
                match (group, kind) {
                    $(($group, $text) if [$($version),+].contains(&version) => Some(Self::$kind),)+
                    _ => None,
                }
            }
        }

        /// An object of one of the kinds we read; cheap to clone.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Object {
            $(#[doc = concat!("`", $text, "`")] $kind(Arc<$type>),)+
        }

        impl Object {
            /// The object's kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)+ }
            }

            /// The object's metadata.
            #[must_use]
            pub fn metadata(&self) -> &ObjectMeta {
                match self { $(Self::$kind(object) => &object.metadata,)+ }
            }

            /// Reads an object of the kind from a tree of values.
            pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(kind: Kind, deserializer: D) -> Result<Self, D::Error> {
                match kind {
                    $(Kind::$kind => <$type as serde::Deserialize>::deserialize(deserializer).map(|object| Self::$kind(Arc::new(object))),)+
                }
            }
        }
    };
}

kinds! {
    Namespace(Namespace), "Namespace", "namespaces", "", ["v1"], false;
    Node(Node), "Node", "nodes", "", ["v1"], false;
    ServiceAccount(ServiceAccount), "ServiceAccount", "serviceaccounts", "", ["v1"], true;
    Pod(Pod), "Pod", "pods", "", ["v1"], true;
    Service(Service), "Service", "services", "", ["v1"], true;
    EndpointSlice(EndpointSlice), "EndpointSlice", "endpointslices", "discovery.k8s.io", ["v1"], true;
    ServiceEntry(ServiceEntry), "ServiceEntry", "serviceentries", "networking.istio.io", ["v1", "v1beta1", "v1alpha3"], true;
    WorkloadEntry(WorkloadEntry), "WorkloadEntry", "workloadentries", "networking.istio.io", ["v1", "v1beta1", "v1alpha3"], true;
    DestinationRule(DestinationRule), "DestinationRule", "destinationrules", "networking.istio.io", ["v1", "v1beta1", "v1alpha3"], true;
    VirtualService(VirtualService), "VirtualService", "virtualservices", "networking.istio.io", ["v1", "v1beta1", "v1alpha3"], true;
    GatewayClass(GatewayClass), "GatewayClass", "gatewayclasses", "gateway.networking.k8s.io", ["v1", "v1beta1"], false;
    Gateway(Gateway), "Gateway", "gateways", "gateway.networking.k8s.io", ["v1", "v1beta1"], true;
    HttpRoute(HttpRoute), "HTTPRoute", "httproutes", "gateway.networking.k8s.io", ["v1", "v1beta1"], true;
    GrpcRoute(GrpcRoute), "GRPCRoute", "grpcroutes", "gateway.networking.k8s.io", ["v1"], true;
    TlsRoute(TlsRoute), "TLSRoute", "tlsroutes", "gateway.networking.k8s.io", ["v1", "v1alpha3", "v1alpha2"], true;
    TcpRoute(TcpRoute), "TCPRoute", "tcproutes", "gateway.networking.k8s.io", ["v1", "v1alpha2"], true;
    ReferenceGrant(ReferenceGrant), "ReferenceGrant", "referencegrants", "gateway.networking.k8s.io", ["v1", "v1beta1"], true;
    BackendTlsPolicy(BackendTlsPolicy), "BackendTLSPolicy", "backendtlspolicies", "gateway.networking.k8s.io", ["v1", "v1alpha3"], true;
    AuthorizationPolicy(AuthorizationPolicy), "AuthorizationPolicy", "authorizationpolicies", "security.istio.io", ["v1", "v1beta1"], true;
    PeerAuthentication(PeerAuthentication), "PeerAuthentication", "peerauthentications", "security.istio.io", ["v1", "v1beta1"], true;
    RequestAuthentication(RequestAuthentication), "RequestAuthentication", "requestauthentications", "security.istio.io", ["v1", "v1beta1"], true;
    RequestPolicy(RequestPolicy), "RequestPolicy", "requestpolicies", "ambit.dev", ["v1alpha1"], true;
    MeshSettings(MeshSettings), "ConfigMap", "configmaps", "", ["v1"], true;
    Telemetry(Telemetry), "Telemetry", "telemetries", "telemetry.istio.io", ["v1", "v1alpha1"], true;
    TrafficPolicy(TrafficPolicy), "TrafficPolicy", "trafficpolicies", "ambit.dev", ["v1alpha1"], true;
    BackendTrafficPolicy(XBackendTrafficPolicy), "XBackendTrafficPolicy", "xbackendtrafficpolicies", "gateway.networking.x-k8s.io", ["v1alpha1"], true;
    TlsSecret(TlsSecret), "Secret", "secrets", "", ["v1"], true;
}

impl Kind {
    /// The only object of the kind that is read; `None` where all are.
    #[must_use]
    pub fn only(self) -> Option<NamespacedName> {
        (self == Self::MeshSettings).then(|| NamespacedName::new(ROOT_NAMESPACE, mesh::NAME))
    }
}

impl Object {
    /// The object's key.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind(), name: NamespacedName::of(self.metadata()) }
    }
}
