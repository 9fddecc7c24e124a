//! GRPCRoutes as HTTPRoutes: a method is a path, and everything else the two kinds have in common has the same fields.

use std::sync::Arc;

use gateway_api::experimental::grpcroutes::{GrpcRoute, GrpcRouteRulesMatchesMethodType as MethodType};
use gateway_api::experimental::httproutes::HttpRoute;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::super::rbac::escape;
use crate::index::RouteKey;
use crate::source::{Kind, NamespacedName};

/// What decides between two matches of GRPCRoutes before headers do: the characters of the service's name, then of the method's
/// (precedence of GRPCRoute in the Gateway API).
pub type MethodRank = (usize, usize);

/// A route for requests.
#[derive(Debug, Clone)]
pub struct RequestRoute {
    /// Its kind: [`Kind::HttpRoute`] or [`Kind::GrpcRoute`].
    pub kind: Kind,
    /// The route, as an HTTPRoute; of a GRPCRoute with no more metadata than its name, and when it was made.
    pub route: Arc<HttpRoute>,
    /// Of a GRPCRoute: by rule and match.
    ranks: Vec<Vec<MethodRank>>,
}

impl RequestRoute {
    /// An HTTPRoute.
    pub fn http(route: &Arc<HttpRoute>) -> Self {
        Self { kind: Kind::HttpRoute, route: route.clone(), ranks: Vec::new() }
    }

    /// A GRPCRoute; `None` when it says what no HTTPRoute can.
    pub fn grpc(route: &GrpcRoute) -> Option<Self> {
        let mut spec = serde_json::to_value(&route.spec).ok()?;
        let mut ranks = Vec::new();
        for (at, rule) in route.spec.rules.iter().flatten().enumerate() {
            let mut of_rule = Vec::new();
            for (entry, condition) in rule.matches.iter().flatten().enumerate() {
                let fields = spec.get_mut("rules")?.get_mut(at)?.get_mut("matches")?.get_mut(entry)?.as_object_mut()?;
                fields.remove("method");
                let Some(method) = &condition.method else {
                    of_rule.push((0, 0));
                    continue;
                };
                let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
                let (service, method_name) = (given(&method.service), given(&method.method));
                let (service, method_name) = (service.as_deref(), method_name.as_deref());
                let regular = matches!(method.r#type, Some(MethodType::RegularExpression));
                if let Some(path) = path(service, method_name, regular) {
                    fields.insert("path".into(), path);
                }
                let length = |text: Option<&str>| text.map_or(0, |text| text.chars().count());
                of_rule.push((length(service), length(method_name)));
            }
            ranks.push(of_rule);
        }
        let spec = serde_json::from_value(spec).ok()?;
        // The GRPCRoute is kept as well: of its metadata, where there may be a whole route in an annotation, only what somebody asks for is there twice.
        let ObjectMeta { name, namespace, creation_timestamp, .. } = &route.metadata;
        let (name, namespace, creation_timestamp) = (name.clone(), namespace.clone(), creation_timestamp.clone());
        let metadata = ObjectMeta { name, namespace, creation_timestamp, ..Default::default() };
        let route = HttpRoute { metadata, spec, status: None };
        Some(Self { kind: Kind::GrpcRoute, route: Arc::new(route), ranks })
    }

    /// Its kind and name.
    pub fn key(&self) -> RouteKey {
        RouteKey { kind: self.kind, name: NamespacedName::of(&self.route.metadata) }
    }

    /// Whether it is translated to the same as another one of its kind and name: of its metadata only the time that it was made says anything to that.
    pub fn says_as(&self, other: &Self) -> bool {
        let (own, its) = (&self.route, &other.route);
        let created = |route: &HttpRoute| route.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // One that nobody has touched is the same object.
        Arc::ptr_eq(own, its) || (own.spec == its.spec && created(own) == created(its) && self.ranks == other.ranks)
    }

    /// The rank of a match; `None` for HTTPRoutes, which go by path.
    pub fn rank(&self, rule: usize, position: usize) -> Option<MethodRank> {
        if self.kind == Kind::HttpRoute {
            return None;
        }
        Some(self.ranks.get(rule).and_then(|ranks| ranks.get(position)).copied().unwrap_or_default())
    }
}

/// A GRPCRoute as the HTTPRoute that is carried out in its place; `None` when it says what no HTTPRoute can.
pub(crate) fn grpc_as_http(route: &GrpcRoute) -> Option<Arc<HttpRoute>> {
    RequestRoute::grpc(route).map(|route| route.route)
}

/// `/service/method`, either of which may be left open; `None` for any.
fn path(service: Option<&str>, method: Option<&str>, regular: bool) -> Option<Value> {
    const ANY: &str = "[^/]+";
    let (kind, value) = match (service, method) {
        (None, None) => return None,
        (service, method) if regular => {
            // In groups, as an alternative would otherwise reach over the slash.
            let group = |name: Option<&str>| name.map_or_else(|| ANY.to_owned(), |name| format!("(?:{name})"));
            ("RegularExpression", format!("/{}/{}", group(service), group(method)))
        }
        (Some(service), Some(method)) => ("Exact", format!("/{service}/{method}")),
        (Some(service), None) => ("PathPrefix", format!("/{service}")),
        (None, Some(method)) => ("RegularExpression", format!("/{ANY}/{}", escape(method))),
    };
    Some(json!({"type": kind, "value": value}))
}
