//! What the runtime asks: `CNI_*` variables and the network configuration (CNI specification 1.1, sections 1 and 2).
//!
//! Our own settings in the configuration:
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `agentSocket` | `/var/run/ambit/cni.sock` | where the node agent listens |
//! | `timeoutSeconds` | 30 | how long it may take to answer, a restart included; at most an hour |
//! | `excludeNamespaces` | `["kube-system"]` | pods that start without being asked about; the agent must have the same list |

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use crate::answer::{Failure, SUPPORTED};

/// The version that is answered with when none was given.
pub const NEWEST: &str = "1.1.0";
const SOCKET: &str = "/var/run/ambit/cni.sock";
const TIMEOUT: Duration = Duration::from_secs(30);
/// More makes no sense: runtimes give up after minutes.
const LONGEST: Duration = Duration::from_hours(1);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A pod starts.
    Add,
    /// A pod ends.
    Delete,
    /// Is a pod as it should be?
    Check,
    /// Forget what is not in a list.
    Gc,
    /// Could a pod start?
    Status,
    /// Which versions are spoken?
    Version,
}

/// One call of the plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// What is to be done.
    pub command: Command,
    /// The version of the configuration, in which is answered.
    pub version: String,
    /// The sandbox.
    pub container: String,
    /// Where its network namespace shows; may be empty when it is gone.
    pub netns: String,
    /// The pod, by what the runtime says of it; empty when it is none of Kubernetes.
    pub pod: Pod,
    /// The result of the plugins before this one.
    pub previous: Option<Value>,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// How long the agent may take.
    pub timeout: Duration,
    excluded: Vec<String>,
}

/// A pod as `CNI_ARGS` names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The UID of the Kubernetes object, if the runtime tells.
    pub uid: String,
}

impl Asked {
    /// Reads a call.
    ///
    /// # Errors
    /// With the failure that is to be answered.
    pub fn read(environment: impl Fn(&str) -> Option<String>, configuration: &str) -> Result<Self, Failure> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let command = match variable("CNI_COMMAND").as_deref() {
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Delete,
            Some("CHECK") => Command::Check,
            Some("GC") => Command::Gc,
            Some("STATUS") => Command::Status,
            Some("VERSION") => Command::Version,
            other => return Err(Failure::environment(format!("CNI_COMMAND is {:?}", other.unwrap_or_default()))),
        };
        let conf: Value =
            serde_json::from_str(configuration).map_err(|error| Failure::decode(format!("configuration: {error}")))?;
        let version = conf.get("cniVersion").and_then(Value::as_str).unwrap_or(NEWEST).to_owned();
        if command != Command::Version && !SUPPORTED.contains(&version.as_str()) {
            return Err(Failure::version(&version));
        }
        let required = |name: &str, of: &[Command]| match variable(name) {
            None if of.contains(&command) => Err(Failure::environment(format!("{name} is not set"))),
            value => Ok(value.unwrap_or_default()),
        };
        let strings = |key: &str| -> Option<Vec<String>> {
            conf.get(key)?.as_array().map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        };
        Ok(Self {
            command,
            container: required("CNI_CONTAINERID", &[Command::Add, Command::Delete, Command::Check])?,
            netns: required("CNI_NETNS", &[Command::Add, Command::Check])?,
            pod: Pod::read(&variable("CNI_ARGS").unwrap_or_default()),
            previous: conf.get("prevResult").filter(|previous| !previous.is_null()).cloned(),
            socket: conf.get("agentSocket").and_then(Value::as_str).unwrap_or(SOCKET).into(),
            timeout: conf
                .get("timeoutSeconds")
                .and_then(Value::as_u64)
                .map_or(TIMEOUT, |seconds| Duration::from_secs(seconds).min(LONGEST)),
            excluded: strings("excludeNamespaces").unwrap_or_else(|| vec!["kube-system".to_owned()]),
            version,
        })
    }

    /// Whether the agent has to be asked: it is a pod, and not one of a namespace that is excluded.
    #[must_use]
    pub fn for_the_agent(&self) -> bool {
        !self.pod.name.is_empty() && !self.excluded.contains(&self.pod.namespace)
    }

    /// The pod as the agent is told of it: the document that Istio's agent takes, and what ours needs besides.
    #[must_use]
    pub fn event(&self) -> Value {
        let ips = self.previous.as_ref().and_then(|previous| previous.get("ips")?.as_array().cloned()).unwrap_or_default();
        json!({
            "Netns": self.netns,
            "PodName": self.pod.name,
            "PodNamespace": self.pod.namespace,
            "IPs": ips.iter().filter_map(address).collect::<Vec<_>>(),
            "ContainerID": self.container,
            "PodUID": self.pod.uid,
        })
    }
}

impl Pod {
    fn read(arguments: &str) -> Self {
        let find = |key: &str| {
            let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        Self { namespace: find("K8S_POD_NAMESPACE"), name: find("K8S_POD_NAME"), uid: find("K8S_POD_UID") }
    }
}

/// An address of a result as Go writes a `net.IPNet`: the mask as base64.
fn address(ip: &Value) -> Option<Value> {
    let (ip_text, length) = ip.get("address")?.as_str()?.split_once('/')?;
    let bytes = if ip_text.parse::<IpAddr>().ok()?.is_ipv4() { 4 } else { 16 };
    let length: usize = length.parse().ok().filter(|length| *length <= bytes * 8)?;
    let mask: Vec<u8> = (0..bytes)
        .map(|byte| {
            let ones = length.saturating_sub(byte * 8).min(8);
            // `ones` is at most 8, so this is a byte.
            (0xff00_u16 >> ones).to_be_bytes()[1]
        })
        .collect();
    Some(json!({
        "Interface": ip.get("interface"),
        "Address": { "IP": ip_text, "Mask": base64(&mask) },
        "Gateway": ip.get("gateway"),
    }))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().chain([0, 0].iter()).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for place in 0..4 {
            let sixth = bits >> (18 - 6 * place) & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[sixth]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: &str, configuration: &str) -> Result<Asked, Failure> {
        let variable = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => "c1",
                "CNI_NETNS" => "/var/run/netns/x",
                "CNI_ARGS" => "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1",
                _ => return None,
            };
            Some(value.to_owned())
        };
        Asked::read(variable, configuration)
    }

    #[test]
    fn a_pod_is_told_to_the_agent_with_its_addresses_as_go_writes_them() {
        let asked = read(
            "ADD",
            r#"{"cniVersion":"1.0.0","prevResult":{"ips":[{"address":"10.0.0.5/20","gateway":"10.0.0.1"},{"address":"fd00::5/64"}]}}"#,
        )
        .unwrap();
        let event = asked.event();
        assert!(asked.for_the_agent());
        assert_eq!((event["PodName"].as_str(), event["PodUID"].as_str()), (Some("web-0"), Some("u1")));
        assert_eq!(event["IPs"][0]["Address"], json!({ "IP": "10.0.0.5", "Mask": "///wAA==" }));
        assert_eq!(event["IPs"][1]["Address"]["Mask"], "//////////8AAAAAAAAAAA==");
    }

    #[test]
    fn pods_of_excluded_namespaces_and_what_is_no_pod_are_not_asked_about() {
        let conf = r#"{"cniVersion":"1.0.0","excludeNamespaces":["shop"]}"#;
        assert!(!read("ADD", conf).unwrap().for_the_agent());
        let nobody = |name: &str| match name {
            "CNI_COMMAND" => Some("ADD".to_owned()),
            "CNI_CONTAINERID" | "CNI_NETNS" => Some("x".to_owned()),
            _ => None,
        };
        assert!(!Asked::read(nobody, r#"{"cniVersion":"1.0.0"}"#).unwrap().for_the_agent());
    }

    #[test]
    fn what_is_missing_or_unknown_is_refused_with_the_code_of_the_specification() {
        assert_eq!(read("ADD", "no json").unwrap_err().code, 6);
        assert_eq!(read("ADD", r#"{"cniVersion":"0.1.0"}"#).unwrap_err().code, 1);
        assert_eq!(read("DANCE", "{}").unwrap_err().code, 4);
        let bare = |name: &str| (name == "CNI_COMMAND").then(|| "ADD".to_owned());
        assert_eq!(Asked::read(bare, "{}").unwrap_err().code, 4);
    }
}
