//! What follows from the facts of a cluster for each requirement. No I/O.

use std::fmt;

use serde::Serialize;

use super::facts::{Facts, NodeFacts};
use super::requirements::{GATEWAY_API, GATEWAY_API_TESTED, KERNEL, KUBERNETES, REQUIREMENTS, Requirement};

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it has to be.
    Ok,
    /// It may be a problem, or cannot be seen.
    Warn,
    /// The mesh would not run, or not as it should.
    Fail,
}

/// What was found of one requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The requirement's name.
    pub requirement: &'static str,
    /// What has to be.
    pub what: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{level}  {}: {}", self.what, self.found)?;
        self.fix.as_ref().map_or(Ok(()), |fix| write!(f, "\n      the fix: {fix}"))
    }
}

/// How a requirement is met, and what to do if it is not.
type Judged = (Level, String, Option<String>);

fn ok(found: impl Into<String>) -> Judged {
    (Level::Ok, found.into(), None)
}

fn warn(found: impl Into<String>, fix: impl Into<String>) -> Judged {
    (Level::Warn, found.into(), Some(fix.into()))
}

fn fail(found: impl Into<String>, fix: impl Into<String>) -> Judged {
    (Level::Fail, found.into(), Some(fix.into()))
}

/// One finding for each requirement, in their order.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    REQUIREMENTS
        .iter()
        .map(|requirement| {
            let (level, found, fix) = one(requirement, facts);
            Finding { requirement: requirement.id, what: requirement.what, level, found, fix }
        })
        .collect()
}

fn one(requirement: &Requirement, facts: &Facts) -> Judged {
    match requirement.id {
        "kubernetes" if facts.minor >= KUBERNETES => ok(&facts.version),
        "kubernetes" => fail(&facts.version, format!("upgrade the cluster to 1.{KUBERNETES} or newer")),
        "rights" if facts.denied.is_empty() => ok("all rights are there"),
        "rights" => fail(
            format!("not allowed: {}", facts.denied.join(", ")),
            "ask for the role cluster-admin, or have somebody who has it install",
        ),
        "nodes" => on_nodes(facts, "no node can be seen", nodes),
        "runtime" => on_nodes(facts, "no node can be seen", runtime),
        "cni-paths" => on_nodes(facts, "no node can be seen", paths),
        "other-cni" => other_cni(facts),
        "kube-proxy" => kube_proxy(facts),
        "gateway-api" => gateway_api(facts),
        "pod-security" => pod_security(facts),
        "other-mesh" => other_mesh(facts),
        "admission-policies" => admission_policies(facts),
        "webhook-port" => on_nodes(facts, "no node can be seen", webhook_port),
        "other-webhooks" => other_webhooks(facts),
        // A test sees to it that there is none.
        _ => warn("not checked", "report this as a bug"),
    }
}

fn on_nodes(facts: &Facts, unseen: &str, judged: impl Fn(&[NodeFacts]) -> Judged) -> Judged {
    match &facts.nodes {
        Some(nodes) if !nodes.is_empty() => judged(nodes),
        Some(_) => warn("the cluster has no nodes", "add a node"),
        None => warn(unseen, "ask again as somebody who may list nodes"),
    }
}

fn nodes(nodes: &[NodeFacts]) -> Judged {
    let linux = || nodes.iter().filter(|node| node.system == "linux");
    let wrong: Vec<String> = linux()
        .filter(|node| !["amd64", "arm64"].contains(&node.processor.as_str()) || version(&node.kernel) < KERNEL)
        .map(|node| format!("{} ({}, {})", node.name, node.processor, node.kernel))
        .collect();
    if !wrong.is_empty() {
        return fail(wrong.join(", "), "upgrade these nodes, or keep pods of the mesh off them");
    }
    let others = nodes.len() - linux().count();
    if others > 0 {
        return warn(format!("{others} of {} nodes are not Linux", nodes.len()), "label no namespace whose pods run on them");
    }
    let oldest = nodes.iter().min_by_key(|node| version(&node.kernel)).map_or("", |node| &node.kernel);
    ok(format!("{} nodes, the oldest kernel is {oldest}", nodes.len()))
}

/// The first two numbers of a version.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn runtime(nodes: &[NodeFacts]) -> Judged {
    let known = |node: &&NodeFacts| node.runtime.starts_with("containerd://") || node.runtime.starts_with("cri-o://");
    let linux = || nodes.iter().filter(|node| node.system == "linux");
    let others: Vec<String> =
        linux().filter(|node| !known(node)).map(|node| format!("{} ({})", node.name, node.runtime)).collect();
    if others.is_empty() {
        let mut all: Vec<&str> = linux().map(|node| node.runtime.as_str()).collect();
        all.sort_unstable();
        all.dedup();
        let crio = all.iter().any(|runtime| runtime.starts_with("cri-o://"));
        let setting = if crio { "; on CRI-O: ambit install --set cni.keepProgram=true" } else { "" };
        return ok(format!("{}{setting}", all.join(", ")));
    }
    warn(format!("not tested: {}", others.join(", ")), "see that it reads CNI configuration from the directory of `cni.confDir`")
}

/// Distributions by what they add to the kubelet's version, with the settings that say where their CNI is.
const DISTRIBUTIONS: [(&str, &str, &str); 3] = [
    ("+k3s", "K3s", "--set cni.confDir=/var/lib/rancher/k3s/agent/etc/cni/net.d --set cni.binDir=/var/lib/rancher/k3s/data/cni"),
    ("-gke.", "GKE", "--set cni.binDir=/home/kubernetes/bin --set resourceQuota.enabled=true"),
    ("+rke2", "RKE2", "as it is, with its usual CNIs; see /etc/cni/net.d on a node"),
];

fn paths(nodes: &[NodeFacts]) -> Judged {
    let found = DISTRIBUTIONS.iter().find(|(mark, ..)| nodes.iter().any(|node| node.kubelet.contains(mark)));
    match found {
        Some((_, name, settings)) => warn(format!("the nodes look like {name}"), format!("ambit install {settings}")),
        None => ok("nothing speaks for others; `ambit install --wait` says when they are"),
    }
}

fn other_cni(facts: &Facts) -> Judged {
    if facts.cilium_exclusive == Some(true) {
        return fail("Cilium takes other plugins out of its chain", "helm upgrade cilium ... --set cni.exclusive=false");
    }
    let Some(sets) = &facts.daemon_sets else {
        return warn("DaemonSets cannot be seen", "ask again as somebody who may list DaemonSets");
    };
    let marks =
        ["cilium", "calico", "flannel", "kindnet", "aws-node", "antrea", "weave", "ovn", "kube-router", "canal", "multus"];
    let found: Vec<&str> = sets.iter().map(String::as_str).filter(|set| marks.iter().any(|mark| set.contains(mark))).collect();
    if found.iter().any(|set| set.contains("multus")) {
        return warn("Multus comes first in the chain", "put ambit-cni into the configuration of the cluster's default network");
    }
    if found.is_empty() { ok("none that is known to mind") } else { ok(found.join(", ")) }
}

fn kube_proxy(facts: &Facts) -> Judged {
    if facts.cilium_sockets == Some(true) {
        return fail(
            "Cilium translates service addresses in the sockets of pods: the mesh would see no services",
            "helm upgrade cilium ... --set socketLB.hostNamespaceOnly=true",
        );
    }
    match facts.kube_proxy.as_deref() {
        Some(mode @ ("iptables" | "nftables")) => ok(mode),
        Some(mode) => warn(format!("{mode} is not tested"), "mode: nftables in its configuration"),
        None if facts.cilium_sockets.is_some() => ok("Cilium in its place"),
        None => warn("its configuration is not where kubeadm puts it", "see that its mode is iptables or nftables"),
    }
}

fn gateway_api(facts: &Facts) -> Judged {
    let fix = format!(
        "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/{GATEWAY_API_TESTED}/standard-install.yaml"
    );
    match &facts.gateway_api {
        None => warn("CRDs cannot be seen", "ask again as somebody who may read CRDs"),
        Some(None) => warn("they are not there: no waypoints, no routes", fix),
        Some(Some(there)) if version(there) >= GATEWAY_API => ok(there),
        Some(Some(there)) => fail(there, fix),
    }
}

fn pod_security(facts: &Facts) -> Judged {
    let namespace = &facts.namespace;
    match facts.pod_security.as_deref() {
        Some("privileged") => ok(format!("{namespace} lets them run")),
        None => ok(format!("{namespace}: nothing is said; a default of the API server's own cannot be seen")),
        Some(level) => fail(
            format!("{namespace} has the level {level}"),
            format!("kubectl label --overwrite namespace {namespace} pod-security.kubernetes.io/enforce=privileged"),
        ),
    }
}

fn other_mesh(facts: &Facts) -> Judged {
    let Some(sets) = &facts.daemon_sets else {
        return warn("DaemonSets cannot be seen", "ask again as somebody who may list DaemonSets");
    };
    let names = ["ztunnel", "istio-cni-node", "ambit-node", "linkerd-cni"];
    let found: Vec<&str> =
        sets.iter().map(String::as_str).filter(|set| names.iter().any(|name| set.ends_with(&format!("/{name}")))).collect();
    if found.is_empty() { ok("none") } else { fail(found.join(", "), "remove what they are part of before `ambit install`") }
}

fn admission_policies(facts: &Facts) -> Judged {
    match facts.admission_policies {
        Some(true) => ok("they are there"),
        Some(false) => fail(
            "the API server does not have them",
            "take admissionregistration.k8s.io out of its --runtime-config, or ambit install --set validation.policies=false",
        ),
        None => warn("it cannot be seen which kinds there are", "ask again as somebody who may ask for /apis"),
    }
}

/// Where what is in the way is by default closed to what nobody has asked for: by a part of the kubelet's version, what it is and how it
/// is opened.
const FIREWALLS: [(&str, &str, &str); 2] = [
    (
        "-gke.",
        "GKE, where private clusters have a firewall in between",
        "a firewall rule from the control plane's range to the nodes",
    ),
    (
        "-eks-",
        "EKS, where security groups of the nodes may be in between",
        "a rule from the cluster's security group to the nodes'",
    ),
];

/// The way itself cannot be tried before somebody listens at its end.
fn webhook_port(nodes: &[NodeFacts]) -> Judged {
    match FIREWALLS.iter().find(|(mark, ..)| nodes.iter().any(|node| node.kubelet.contains(mark))) {
        Some((_, found, rule)) => {
            warn(format!("the nodes look like {found}"), format!("{rule}, TCP 15017; or --set validation.webhook=false"))
        }
        None => ok("nothing speaks against it; `kubectl apply --dry-run=server` of a broken policy shows it"),
    }
}

fn other_webhooks(facts: &Facts) -> Judged {
    let Some(webhooks) = &facts.webhooks else {
        return warn("webhooks cannot be seen", "ask again as somebody who may list ValidatingWebhookConfigurations");
    };
    if webhooks.is_empty() {
        return ok("none");
    }
    let names = webhooks.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", ");
    // The Service by this name is about to be ours, and does not have their port.
    let ours = format!("{}/istiod", facts.namespace);
    if webhooks.iter().any(|found| found.blocks && found.services.contains(&ours)) {
        return fail(
            format!("{names}: they ask {ours} and refuse everything without an answer"),
            "remove the Istio that they are part of, or kubectl delete validatingwebhookconfiguration of what it has left behind",
        );
    }
    warn(names, "see that these let objects of the mesh pass")
}

#[cfg(test)]
mod tests;
