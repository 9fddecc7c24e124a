//! What the programs of a node are told: pure functions of the node's number and of the machine.

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

/// The image whose container holds the namespaces of a pod; also a small system for tests.
pub(crate) const BUSYBOX: &str = "ambit.local/busybox:1";

/// Where cluster DNS answers.
pub(crate) const DNS: &str = "10.96.0.10";

/// Addresses of all pods.
const PODS: &str = "10.244.0.0/16,fd44::/48";

/// How kube-proxy translates service addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// nftables.
    #[default]
    Nftables,
    /// iptables.
    Iptables,
}

/// The configuration of a node's kubelet.
pub(crate) fn kubelet() -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false }, "webhook": { "enabled": true }, "x509": { "clientCAFile": "/run/cluster/pki/ca.crt" },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": "/run/cluster/pki/kubelet.crt", "tlsPrivateKeyFile": "/run/cluster/pki/kubelet.key",
        "clusterDomain": "cluster.local", "clusterDNS": [DNS],
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        // A node is one control group among others of the machine, whose tree is not its own.
        "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": [], "failCgroupV1": false,
        "failSwapOn": false, "localStorageCapacityIsolation": false,
        // The machine's disk and memory are not the node's to defend.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "memory.available": "1Mi" },
        "resolvConf": "/dev/null", "serializeImagePulls": false,
        "syncFrequency": "5s", "nodeStatusUpdateFrequency": "2s",
        "volumePluginDir": "/run/cluster/volume-plugins", "healthzBindAddress": "127.0.0.1",
    })
}

/// The configuration of a node's kube-proxy.
pub(crate) fn kube_proxy(mode: ProxyMode, node: &str) -> Value {
    let mode = match mode {
        ProxyMode::Nftables => "nftables",
        ProxyMode::Iptables => "iptables",
    };
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": "/run/cluster/kube-proxy.kubeconfig" },
        "mode": mode, "clusterCIDR": PODS, "hostnameOverride": node,
        // Settings of the whole machine.
        "conntrack": { "maxPerCore": 0, "min": 0 },
    })
}

/// The configuration of a node's containerd: version 2, which 1.6 and all later ones read.
pub(crate) fn containerd(snapshotter: &str) -> String {
    let cri = r#"plugins."io.containerd.grpc.v1.cri""#;
    format!(
        "version = 2\nroot = \"/var/lib/containerd\"\nstate = \"/run/containerd\"\n\
         [grpc]\naddress = \"/run/containerd/containerd.sock\"\n\
         [{cri}]\nsandbox_image = \"{BUSYBOX}\"\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n\
         [{cri}.containerd]\nsnapshotter = \"{snapshotter}\"\ndefault_runtime_name = \"runc\"\n\
         [{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [{cri}.containerd.runtimes.runc.options]\nSystemdCgroup = false\n\
         [{cri}.cni]\nbin_dir = \"/opt/cni/bin\"\nconf_dir = \"/etc/cni/net.d\"\nmax_conf_num = 1\n"
    )
}

/// The chain of CNI plugins of a node: a route to each pod. On a bridge two pods of a node would answer each other past the node, which has to
/// translate service addresses back.
pub(crate) fn pods(v4: Ipv4Net, v6: Ipv6Net) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [
        {
            "type": "ptp",
            "ipam": {
                "type": "host-local", "dataDir": "/run/cni/addresses",
                "ranges": [[{ "subnet": v4.to_string() }], [{ "subnet": v6.to_string() }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
        },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ] })
}

/// The names and addresses in the certificate of a kubelet.
pub(crate) fn names(node: &str, addresses: &[IpAddr]) -> Vec<String> {
    let own = ["localhost".to_owned(), "127.0.0.1".to_owned(), node.to_owned()];
    own.into_iter().chain(addresses.iter().map(IpAddr::to_string)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_the_ranges_of_their_node_and_both_default_routes() {
        let chain = pods("10.244.2.0/24".parse().unwrap(), "fd44:0:0:2::/64".parse().unwrap()).to_string();
        for part in ["10.244.2.0/24", "fd44:0:0:2::/64", "0.0.0.0/0", "::/0", "portmap"] {
            assert!(chain.contains(part), "{part} is not in {chain}");
        }
    }

    #[test]
    fn nothing_of_a_nodes_configuration_names_a_place_that_nodes_share() {
        let all =
            [kubelet().to_string(), kube_proxy(ProxyMode::Iptables, "node-1").to_string(), containerd("overlayfs")].concat();
        let paths = all.split(['"', ' ', '=']).filter(|word| word.starts_with('/') || word.starts_with("unix:///"));
        let own = ["/run/", "unix:///run/", "/var/lib/containerd", "/opt/cni/", "/etc/cni/", "/dev/null"];
        for path in paths {
            assert!(own.iter().any(|start| path.starts_with(start)), "{path}");
        }
    }
}
