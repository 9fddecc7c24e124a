//! The kinds of objects that an installation is made of, in the order in which they are applied; they are deleted the other way round.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::Value;

/// A kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// Its name.
    pub kind: &'static str,
    /// The API group, empty for core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// As it is in paths.
    pub plural: &'static str,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

macro_rules! known {
    ($($kind:literal $group:literal $version:literal $plural:literal $namespaced:literal;)+) => {
        &[$(Known { kind: $kind, group: $group, version: $version, plural: $plural, namespaced: $namespaced }),+]
    };
}

/// All kinds that the chart, with any settings, and this program write.
pub const KNOWN: &[Known] = known! {
    "Namespace" "" "v1" "namespaces" false;
    "CustomResourceDefinition" "apiextensions.k8s.io" "v1" "customresourcedefinitions" false;
    "ResourceQuota" "" "v1" "resourcequotas" true;
    "ServiceAccount" "" "v1" "serviceaccounts" true;
    "ClusterRole" "rbac.authorization.k8s.io" "v1" "clusterroles" false;
    "ClusterRoleBinding" "rbac.authorization.k8s.io" "v1" "clusterrolebindings" false;
    "Role" "rbac.authorization.k8s.io" "v1" "roles" true;
    "RoleBinding" "rbac.authorization.k8s.io" "v1" "rolebindings" true;
    "ConfigMap" "" "v1" "configmaps" true;
    "NetworkPolicy" "networking.k8s.io" "v1" "networkpolicies" true;
    "Service" "" "v1" "services" true;
    "PodDisruptionBudget" "policy" "v1" "poddisruptionbudgets" true;
    "Deployment" "apps" "v1" "deployments" true;
    "DaemonSet" "apps" "v1" "daemonsets" true;
    "PodMonitor" "monitoring.coreos.com" "v1" "podmonitors" true;
    "ValidatingAdmissionPolicy" "admissionregistration.k8s.io" "v1" "validatingadmissionpolicies" false;
    "ValidatingAdmissionPolicyBinding" "admissionregistration.k8s.io" "v1" "validatingadmissionpolicybindings" false;
    "ValidatingWebhookConfiguration" "admissionregistration.k8s.io" "v1" "validatingwebhookconfigurations" false;
};

impl Known {
    /// The kind with this name.
    #[must_use]
    pub fn named(kind: &str) -> Option<Self> {
        KNOWN.iter().copied().find(|known| known.kind == kind)
    }

    /// The kind of an object, if its group and version are ours, too.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let known = Self::named(object.get("kind")?.as_str()?)?;
        (object.get("apiVersion")?.as_str()? == known.api_version()).then_some(known)
    }

    /// As it is written in objects.
    #[must_use]
    pub fn api_version(self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Where it comes in [`KNOWN`].
    #[must_use]
    pub fn position(self) -> usize {
        KNOWN.iter().position(|known| *known == self).unwrap_or(KNOWN.len())
    }

    /// The objects of this kind: those in one namespace, if it has namespaces and one is given, else all.
    #[must_use]
    pub fn api(self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, self.plural);
        match namespace {
            Some(namespace) if self.namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
            _ => Api::all_with(client.clone(), &resource),
        }
    }
}

/// An object by its kind and name, as it is written in messages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    position: usize,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace; none for what is in none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Name {
    /// An object of a kind.
    #[must_use]
    pub fn new(known: Known, namespace: Option<&str>, name: &str) -> Self {
        let namespace = namespace.filter(|namespace| known.namespaced && !namespace.is_empty()).map(str::to_owned);
        Self { position: known.position(), kind: known.kind, namespace, name: name.to_owned() }
    }

    /// The name of an object, if it is of a known kind.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        Some(Self::new(Known::of(object)?, text("/metadata/namespace"), text("/metadata/name")?))
    }

    /// Its kind.
    #[must_use]
    pub fn known(&self) -> Option<Known> {
        KNOWN.get(self.position).copied()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}
