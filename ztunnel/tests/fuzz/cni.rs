//! What a container runtime tells the CNI plugin, and what a plugin tells the agent.

use std::time::Duration;

use ambit_cni::asked::Asked;
use ambit_fuzz::{Corpus, Target};
use ambit_node_agent::node::Event;

const CONFIGURATION: &str = r#"{"cniVersion":"1.0.0","name":"ambit","type":"ambit-cni","agentSocket":"/run/ambit/cni.sock","timeoutSeconds":30,
"excludeNamespaces":["kube-system"],"prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24","gateway":"10.0.0.1","interface":2},
{"address":"fd00::5/64"}]}}"#;
const ARGUMENTS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1";
const TOKENS: [&str; 14] = [
    "null",
    "[]",
    "{}",
    "\"\"",
    "-1",
    "1e999",
    "18446744073709551615",
    "/",
    "/128",
    "[[[[",
    "\\u0000",
    ";K8S_POD_NAME=",
    ":",
    "ü",
];

pub fn calls() {
    let corpus = Corpus::new()
        .with("a pod starts", format!("ADD\n{ARGUMENTS}\n{CONFIGURATION}"))
        .with("a pod ends", format!("DEL\n{ARGUMENTS}\n{{\"cniVersion\":\"0.4.0\"}}"))
        .with("which versions", "VERSION\n\n{\"cniVersion\":\"1.1.0\"}");
    Target::new("calls of the CNI plugin", corpus).tokens(TOKENS).run(|bytes, _| {
        let text = String::from_utf8_lossy(bytes);
        let mut parts = text.splitn(3, '\n');
        let (command, arguments) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let variable = |name: &str| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            "CNI_ARGS" => Some(arguments.to_owned()),
            "CNI_CONTAINERID" | "CNI_NETNS" => Some("c1".to_owned()),
            _ => None,
        };
        let Ok(asked) = Asked::read(variable, parts.next().unwrap_or_default()) else { return false };
        assert!(asked.timeout <= Duration::from_hours(24));
        let event = asked.event();
        // The agent reads what the plugin writes.
        let read: Event = serde_json::from_str(&event.to_string()).unwrap();
        assert_eq!(
            (read.pod_name, read.pod_namespace, read.uid),
            (asked.pod.name.clone(), asked.pod.namespace.clone(), asked.pod.uid)
        );
        true
    });
}

pub fn events() {
    let event = r#"{"Netns":"/var/run/netns/cni-1","PodName":"web-0","PodNamespace":"shop","ContainerID":"c1","PodUID":"u1",
"IPs":[{"Interface":2,"Address":{"IP":"10.0.0.5","Mask":"////AA=="},"Gateway":"10.0.0.1"}]}"#;
    let corpus = Corpus::new()
        .with("ours", event)
        .with("Istio's", r#"{"Netns":"/proc/1/ns/net","PodName":"a","PodNamespace":"b","IPs":null}"#);
    Target::new("what a CNI plugin tells", corpus)
        .least_read(0.02)
        .tokens(TOKENS)
        .run(|bytes, _| serde_json::from_slice::<Event>(bytes).is_ok());
}
