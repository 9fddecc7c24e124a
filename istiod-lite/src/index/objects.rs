//! The objects themselves, by kind and name.

use std::collections::BTreeMap;
use std::ops::Bound;
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

use crate::source::crd::destination::DestinationRule;
use crate::source::crd::mesh::MeshSettings;
use crate::source::crd::networking::{ServiceEntry, WorkloadEntry};
use crate::source::crd::requests::RequestPolicy;
use crate::source::crd::secret::TlsSecret;
use crate::source::crd::telemetry::Telemetry;
use crate::source::crd::tokens::RequestAuthentication;
use crate::source::crd::traffic::TrafficPolicy;
use crate::source::crd::virtual_service::VirtualService;
use crate::source::crd::{AuthorizationPolicy, PeerAuthentication};
use crate::source::{Kind, NamespacedName, Object, ObjectKey, Pod};

/// Objects of one kind.
pub type Store<T> = BTreeMap<NamespacedName, Arc<T>>;

macro_rules! objects {
    ($($field:ident: $kind:ident($type:ty),)+) => {
        /// Every object of the mesh; cluster-scoped kinds have an empty namespace in their key.
        #[derive(Debug, Default)]
        pub struct Objects {
            $(#[doc = concat!("Objects of kind ", stringify!($kind), ".")] pub $field: Store<$type>,)+
        }

        impl Objects {
            /// The object with this key.
            #[must_use]
            pub fn get(&self, key: &ObjectKey) -> Option<Object> {
                match key.kind { $(Kind::$kind => self.$field.get(&key.name).cloned().map(Object::$kind),)+ }
            }

            /// Puts an object in its place, over the one that may be there.
            pub(super) fn insert(&mut self, object: Object) {
                let name = NamespacedName::of(object.metadata());
                match object { $(Object::$kind(object) => { self.$field.insert(name, object); })+ }
            }

            /// Takes an object out.
            pub(super) fn remove(&mut self, key: &ObjectKey) {
                match key.kind { $(Kind::$kind => { self.$field.remove(&key.name); })+ }
            }

            /// The keys of all objects.
            pub fn keys(&self) -> impl Iterator<Item = ObjectKey> + '_ {
                std::iter::empty()$(.chain(self.$field.keys().map(|name| ObjectKey { kind: Kind::$kind, name: name.clone() })))+
            }
        }
    };
}

objects! {
    namespaces: Namespace(Namespace),
    nodes: Node(Node),
    service_accounts: ServiceAccount(ServiceAccount),
    pods: Pod(Pod),
    services: Service(Service),
    endpoint_slices: EndpointSlice(EndpointSlice),
    service_entries: ServiceEntry(ServiceEntry),
    workload_entries: WorkloadEntry(WorkloadEntry),
    destination_rules: DestinationRule(DestinationRule),
    virtual_services: VirtualService(VirtualService),
    gateway_classes: GatewayClass(GatewayClass),
    gateways: Gateway(Gateway),
    http_routes: HttpRoute(HttpRoute),
    grpc_routes: GrpcRoute(GrpcRoute),
    tls_routes: TlsRoute(TlsRoute),
    tcp_routes: TcpRoute(TcpRoute),
    reference_grants: ReferenceGrant(ReferenceGrant),
    backend_tls_policies: BackendTlsPolicy(BackendTlsPolicy),
    authorization_policies: AuthorizationPolicy(AuthorizationPolicy),
    peer_authentications: PeerAuthentication(PeerAuthentication),
    request_authentications: RequestAuthentication(RequestAuthentication),
    request_policies: RequestPolicy(RequestPolicy),
    mesh_settings: MeshSettings(MeshSettings),
    telemetries: Telemetry(Telemetry),
    traffic_policies: TrafficPolicy(TrafficPolicy),
    backend_traffic_policies: BackendTrafficPolicy(XBackendTrafficPolicy),
    tls_secrets: TlsSecret(TlsSecret),
}

/// The objects of one namespace, in the order of their names.
pub fn in_namespace<'a, T>(
    store: &'a Store<T>,
    namespace: &str,
) -> impl Iterator<Item = (&'a NamespacedName, &'a Arc<T>)> + use<'a, T> {
    let first = NamespacedName::new(namespace, "");
    let namespace = first.namespace.clone();
    store.range((Bound::Included(first), Bound::Unbounded)).take_while(move |(key, _)| key.namespace == namespace)
}

/// A cluster-scoped object by its name.
pub fn cluster_scoped<'a, T>(store: &'a Store<T>, name: &str) -> Option<&'a Arc<T>> {
    store.get(&NamespacedName::new("", name))
}
