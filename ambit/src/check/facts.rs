//! What a cluster says of itself, as far as whoever asks may see it.

mod admission;

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::{ConfigMap, Namespace, Node},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Resource,
    api::{ListParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::install::{
    chart::{MANAGER, NAME},
    cluster::{failed, is_missing},
    kinds::KNOWN,
};

pub use admission::Webhooks;

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// `linux` or another system.
    pub system: String,
    /// `amd64`, `arm64` or another processor.
    pub processor: String,
    /// Release of the kernel, as `uname -r` says.
    pub kernel: String,
    /// `containerd://1.7.0`
    pub runtime: String,
    /// Version of the kubelet; distributions add their name.
    pub kubelet: String,
}

/// What there is. `None` is what whoever asks may not see.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Minor version of Kubernetes 1.
    pub minor: u32,
    /// The whole version.
    pub version: String,
    /// What whoever asks may not do, `create daemonsets`.
    pub denied: Vec<String>,
    /// All nodes.
    pub nodes: Option<Vec<NodeFacts>>,
    /// All DaemonSets, `namespace/name`, without ours.
    pub daemon_sets: Option<Vec<String>>,
    /// Whether Cilium takes other plugins out of its chain, if it is there.
    pub cilium_exclusive: Option<bool>,
    /// Whether Cilium translates service addresses in the sockets of pods, if it is there.
    pub cilium_sockets: Option<bool>,
    /// The mode of kube-proxy, if its configuration is where kubeadm puts it.
    pub kube_proxy: Option<String>,
    /// Version of the Gateway API's CRDs; `Some(None)` when there are none.
    pub gateway_api: Option<Option<String>>,
    /// Whether the API server has ValidatingAdmissionPolicies.
    pub admission_policies: Option<bool>,
    /// Webhooks of others that are asked about objects of the mesh.
    pub webhooks: Option<Vec<Webhooks>>,
    /// The namespace of the mesh.
    pub namespace: String,
    /// What pod security lets run there; nothing when nothing is said.
    pub pod_security: Option<String>,
}

/// Asks the cluster.
///
/// # Errors
/// When it does not answer. What may not be seen is none.
pub async fn gather(client: &Client, namespace: &str) -> Result<Facts> {
    let version = client.apiserver_version().await.map_err(|error| failed("asking for the version of the API server", error))?;
    // Some add a sign, as `31+`.
    let minor = version.minor.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    let cilium = config(client, "kube-system", "cilium-config").await?;
    let setting = |key: &str| cilium.as_ref()?.data.as_ref()?.get(key).map(|value| value == "true");
    let proxy = config(client, "kube-system", "kube-proxy").await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let there = seen(namespaces.get_opt(namespace).await, "reading the namespace")?.flatten();
    Ok(Facts {
        minor,
        version: version.git_version,
        denied: denied(client, namespace).await?,
        nodes: nodes(client).await?,
        daemon_sets: daemon_sets(client).await?,
        // Both are so when nothing is said.
        cilium_exclusive: cilium.as_ref().map(|_| setting("cni-exclusive").unwrap_or(true)),
        cilium_sockets: cilium.as_ref().map(|_| {
            let on = setting("bpf-lb-sock").unwrap_or(false) || setting("kube-proxy-replacement").unwrap_or(false);
            on && !setting("bpf-lb-sock-hostns-only").unwrap_or(false)
        }),
        kube_proxy: proxy.and_then(|proxy| Some(mode(proxy.data?.get("config.conf")?))),
        gateway_api: gateway_api(client).await?,
        admission_policies: admission::policies(client).await?,
        webhooks: admission::webhooks(client).await?,
        namespace: namespace.to_owned(),
        pod_security: there.and_then(|there| there.metadata.labels?.remove("pod-security.kubernetes.io/enforce")),
    })
}

/// The mode that a configuration of kube-proxy names; nothing said is iptables.
fn mode(configuration: &str) -> String {
    let said = configuration.lines().find_map(|line| line.strip_prefix("mode:"));
    let said = said.unwrap_or_default().trim().trim_matches(['"', '\'']);
    if said.is_empty() { "iptables".to_owned() } else { said.to_owned() }
}

/// An answer; none if whoever asks may not have it.
fn seen<T>(answer: Result<T, kube::Error>, doing: &str) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(failed(doing, error)),
    }
}

async fn config(client: &Client, namespace: &str, name: &str) -> Result<Option<ConfigMap>> {
    Ok(one(client, namespace, name).await?.flatten())
}

async fn one<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<Option<K>>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    seen(api.get_opt(name).await, &format!("reading {namespace}/{name}"))
}

async fn denied(client: &Client, namespace: &str) -> Result<Vec<String>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut denied = Vec::new();
    let verbs = ["get", "list", "create", "patch", "delete"];
    let asked = KNOWN.iter().flat_map(|known| verbs.map(|verb| (verb, *known)));
    // Roles can only be given by who has what is in them, or may give more.
    let escalate = KNOWN.iter().filter(|known| known.kind == "ClusterRole").map(|known| ("escalate", *known));
    for (verb, known) in asked.chain(escalate) {
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            group: Some(known.group.to_owned()),
            resource: Some(known.plural.to_owned()),
            namespace: known.namespaced.then(|| namespace.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec =
            SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let answer = reviews.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| failed("asking for one's own rights", error))?;
        if !answer.status.is_some_and(|status| status.allowed) {
            denied.push(format!("{verb} {}", known.plural));
        }
    }
    Ok(denied)
}

async fn nodes(client: &Client) -> Result<Option<Vec<NodeFacts>>> {
    let api: Api<Node> = Api::all(client.clone());
    let Some(list) = seen(api.list(&ListParams::default()).await, "listing nodes")? else { return Ok(None) };
    let facts = list.items.into_iter().map(|node| {
        let info = node.status.and_then(|status| status.node_info).unwrap_or_default();
        NodeFacts {
            name: node.metadata.name.unwrap_or_default(),
            system: info.operating_system,
            processor: info.architecture,
            kernel: info.kernel_version,
            runtime: info.container_runtime_version,
            kubelet: info.kubelet_version,
        }
    });
    Ok(Some(facts.collect()))
}

async fn daemon_sets(client: &Client) -> Result<Option<Vec<String>>> {
    let api: Api<DaemonSet> = Api::all(client.clone());
    let Some(list) = seen(api.list(&ListParams::default()).await, "listing DaemonSets")? else { return Ok(None) };
    let others = list.items.into_iter().filter(|set| {
        let label = |key: &str| set.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        label("app.kubernetes.io/part-of") != Some(NAME) || label("app.kubernetes.io/managed-by") != Some(MANAGER)
    });
    let named = others.map(|set| {
        let text = |part: Option<String>| part.unwrap_or_default();
        format!("{}/{}", text(set.metadata.namespace), text(set.metadata.name))
    });
    Ok(Some(named.collect()))
}

async fn gateway_api(client: &Client) -> Result<Option<Option<String>>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let answer = match api.get_opt("gateways.gateway.networking.k8s.io").await {
        Err(error) if is_missing(&error) => Ok(None),
        answer => answer,
    };
    let Some(crd) = seen(answer, "reading the CRD of gateways")? else { return Ok(None) };
    let version = crd.map(|crd| {
        let annotations = crd.metadata.annotations.unwrap_or_default();
        annotations.get("gateway.networking.k8s.io/bundle-version").cloned().unwrap_or_else(|| "an unknown version".to_owned())
    });
    Ok(Some(version))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mode_of_kube_proxy_is_iptables_when_nothing_is_said() {
        for (text, mode) in [
            ("mode: \"\"\n", "iptables"),
            ("a: b\nmode: nftables\n", "nftables"),
            ("ipvs:\n  mode: x\n", "iptables"),
            ("mode: 'ipvs'", "ipvs"),
        ] {
            assert_eq!(super::mode(text), mode, "{text}");
        }
    }
}
