//! What is assumed of a cluster. The table of the README says the same, and [`super::judge`] decides each; tests hold the three together.

/// The oldest minor version of Kubernetes 1 that is supported.
pub const KUBERNETES: u32 = 31;
/// The oldest kernel that routing rules can be written in as they are (`docs/adr/0010`).
pub const KERNEL: (u32, u32) = (4, 18);
/// The oldest version of the Gateway API whose kinds are read as they are written.
pub const GATEWAY_API: (u32, u32) = (1, 2);
/// The version of the Gateway API that the tests run with, and that is recommended.
pub const GATEWAY_API_TESTED: &str = "v1.6.3";

/// One thing that is assumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    /// Its name, for programs.
    pub id: &'static str,
    /// What has to be.
    pub what: &'static str,
    /// What it is needed for, or what happens without.
    pub why: &'static str,
}

/// All of them, in the order in which they are checked.
pub const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        id: "kubernetes",
        what: "Kubernetes 1.31 or newer",
        why: "`appArmorProfile` of pods, `unhealthyPodEvictionPolicy`, strict server-side apply",
    },
    Requirement {
        id: "rights",
        what: "who installs may write CRDs, roles and DaemonSets",
        why: "cluster-admin may; roles can only be given by who has their rights",
    },
    Requirement {
        id: "nodes",
        what: "Linux nodes, amd64 or arm64, kernel 4.18 or newer",
        why: "routing rules and `fib` expressions of nftables; nodes with another system get no proxy",
    },
    Requirement { id: "runtime", what: "containerd or CRI-O", why: "pods start through a chain of CNI plugins, which theirs is" },
    Requirement {
        id: "cni-paths",
        what: "CNI configuration in `/etc/cni/net.d` and `/opt/cni/bin`, or settings that say where",
        why: "K3s, RKE2, MicroK8s and GKE have other paths: `cni.confDir`, `cni.binDir`",
    },
    Requirement {
        id: "other-cni",
        what: "the cluster's CNI leaves other plugins in its chain",
        why: "Cilium takes them out unless `cni.exclusive=false`",
    },
    Requirement {
        id: "kube-proxy",
        what: "kube-proxy by iptables or nftables",
        why: "IPVS is not tested; a CNI that translates service addresses in the pods' sockets hides services from the mesh",
    },
    Requirement {
        id: "gateway-api",
        what: "CRDs of the Gateway API, v1.2 or newer",
        why: "for waypoints, routes and L7 policies; encryption and L4 policies do without",
    },
    Requirement {
        id: "pod-security",
        what: "the mesh's namespace may run privileged pods",
        why: "the node proxy enters the network namespaces of pods",
    },
    Requirement {
        id: "other-mesh",
        what: "no other mesh's parts of the same names",
        why: "two meshes would capture the same pods",
    },
    Requirement {
        id: "admission-policies",
        what: "ValidatingAdmissionPolicies of the API server",
        why: "labels of the mesh are checked by them; they are there since 1.30 unless somebody has switched them off",
    },
    Requirement {
        id: "webhook-port",
        what: "the API server reaches port 15017 of pods",
        why: "objects are checked as they are written; behind a firewall, as of private clusters, each would be stored 3 s late and unchecked",
    },
    Requirement {
        id: "other-webhooks",
        what: "no other webhook judges the mesh's objects",
        why: "Istio's has other rules, and one that was left behind refuses them all",
    },
];

/// The requirement with this name.
#[must_use]
pub fn named(id: &str) -> Option<&'static Requirement> {
    REQUIREMENTS.iter().find(|requirement| requirement.id == id)
}
