//! What API server, kubelet and container runtime do about pods, in a few lines each.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use ambit_runtime::netns::NetNs;
use ambit_testbed::{
    Node, Pod, PodSpec,
    capture::{AgentFiles, PluginCall},
};
use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    app::{App, Astray, PORT, Who},
    load::Target,
    world::{proxy_object, replace},
};

/// The API server and the runtimes of both nodes.
pub struct Runtime {
    manifests: PathBuf,
    nodes: Vec<Node>,
    services: AtomicU16,
}

/// A pod that is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub node: usize,
    pub name: String,
    pub account: String,
    /// The last part of its addresses, where it is to have particular ones.
    pub number: Option<u8>,
    /// The only account that a policy lets in.
    pub admits: Option<&'static str>,
}

impl Wanted {
    pub fn new(node: usize, name: impl Into<String>, account: impl Into<String>) -> Self {
        Self { node, name: name.into(), account: account.into(), number: None, admits: None }
    }
}

impl Runtime {
    pub fn new(dir: &Path, nodes: &[Node]) -> anyhow::Result<Self> {
        let runtime = Self { manifests: dir.join("manifests"), nodes: nodes.to_vec(), services: AtomicU16::new(0) };
        let labels = json!({ "istio.io/dataplane-mode": "ambient" });
        let shop = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop", "labels": labels } });
        let system = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "istio-system" } });
        runtime.publish("namespaces", &[shop.clone(), system])?;
        for node in nodes {
            AgentFiles::create(node.dir())?;
            replace(&node.dir().join("pods/shop.json"), &shop.to_string())?;
            let place = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() } });
            runtime.publish(node.name(), &[place, proxy_object(node.name(), &node.ips())])?;
        }
        Ok(runtime)
    }

    /// Tells the control plane of these objects, in place of those of the same name before.
    pub fn publish(&self, name: &str, objects: &[Value]) -> anyhow::Result<()> {
        let text: Vec<String> = objects.iter().map(Value::to_string).collect();
        replace(&self.manifests.join(format!("{name}.yaml")), &text.join("\n---\n"))
    }

    /// A service of each family for the pods of an account, as somebody to ask. It stays when they go.
    pub fn service(&self, account: &str) -> anyhow::Result<Target> {
        let number = self.services.fetch_add(1, Ordering::Relaxed) + 10;
        let ips: [IpAddr; 2] = [format!("10.96.1.{number}").parse()?, format!("fd96::1:{number:x}").parse()?];
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": account, "namespace": "shop" },
            "spec": {
                "selector": { "app": account }, "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack", "ports": [{ "name": "tcp", "port": 80, "targetPort": PORT, "protocol": "TCP" }],
            },
        });
        self.publish(&format!("service-{account}"), &[service])?;
        Ok(Target { account: account.into(), addresses: ips.map(|ip| SocketAddr::new(ip, 80)).to_vec() })
    }

    /// A pod in the mesh with its application, started as kubelet and runtime start it.
    pub async fn add(&self, wanted: &Wanted, astray: &Arc<Astray>) -> anyhow::Result<Arc<App>> {
        self.schedule(wanted)?;
        let spec = PodSpec::new("shop", &wanted.name);
        let spec = wanted.number.into_iter().fold(spec, PodSpec::number);
        let pod = self.nodes[wanted.node].add_pod(spec).await?;
        self.run(wanted, pod, astray).await
    }

    /// As [`Runtime::add`], in the network namespace of a pod that is gone.
    pub async fn add_in(&self, wanted: &Wanted, pod: Pod, astray: &Arc<Astray>) -> anyhow::Result<Arc<App>> {
        self.schedule(wanted)?;
        self.run(wanted, pod, astray).await
    }

    /// The pod exists and has a node.
    fn schedule(&self, wanted: &Wanted) -> anyhow::Result<()> {
        let object = self.object(wanted);
        replace(&self.nodes[wanted.node].dir().join(format!("pods/{}.json", wanted.name)), &object.to_string())?;
        self.publish(&wanted.name, &[object])
    }

    async fn run(&self, wanted: &Wanted, pod: Pod, astray: &Arc<Astray>) -> anyhow::Result<Arc<App>> {
        self.show(wanted, pod.netns())?;
        let (printed, well) = self.plugin("ADD", wanted).await?;
        ensure!(well, "pod {} does not start: {printed}", wanted.name);
        let who = Who { uid: uid(&wanted.name), account: wanted.account.as_str().into(), ips: pod.ips() };
        let app = App::start(pod, wanted.node, who, wanted.admits, astray).await?;
        let mut object = self.object(wanted);
        object["metadata"]["annotations"] = json!({ "ambient.istio.io/redirection": "enabled" });
        let ips = &app.who.ips;
        object["status"] = json!({
            "phase": "Running", "podIP": ips[0], "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
        self.publish(&wanted.name, &[object])?;
        Ok(app)
    }

    /// The API server forgets a pod; its sandbox stays as it is.
    pub fn forget(&self, wanted: &Wanted) -> anyhow::Result<()> {
        std::fs::remove_file(self.manifests.join(format!("{}.yaml", wanted.name)))?;
        Ok(std::fs::remove_file(self.nodes[wanted.node].dir().join(format!("pods/{}.json", wanted.name)))?)
    }

    /// The sandbox of a pod ends, and with it its network.
    pub async fn end(&self, wanted: &Wanted, pod: &Pod) -> anyhow::Result<()> {
        let (printed, well) = self.plugin("DEL", wanted).await?;
        ensure!(well, "the sandbox of {} does not end: {printed}", wanted.name);
        std::fs::remove_file(self.netns(wanted))?;
        Ok(pod.remove().await?)
    }

    fn object(&self, wanted: &Wanted) -> Value {
        let name = &wanted.name;
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "shop", "name": name, "uid": uid(name), "labels": { "app": wanted.account } },
            "spec": {
                "nodeName": self.nodes[wanted.node].name(), "serviceAccountName": wanted.account,
                "containers": [{ "name": "app", "image": "app" }],
            },
        })
    }

    fn netns(&self, wanted: &Wanted) -> PathBuf {
        self.nodes[wanted.node].dir().join("netns").join(&wanted.name)
    }

    fn show(&self, wanted: &Wanted, netns: &NetNs) -> anyhow::Result<()> {
        let shown = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        Ok(std::os::unix::fs::symlink(shown, self.netns(wanted))?)
    }

    /// Runs the CNI plugin: what it printed, and whether the runtime may go on.
    async fn plugin(&self, command: &str, wanted: &Wanted) -> anyhow::Result<(String, bool)> {
        let node = &self.nodes[wanted.node];
        let (uid, container, netns) = (uid(&wanted.name), format!("sandbox-{}", wanted.name), self.netns(wanted));
        let pod = ("shop", wanted.name.as_str());
        let call = PluginCall { command, pod, uid: &uid, container: &container, netns: &netns, patience: 30 };
        let done = AgentFiles::create(node.dir())?.plugin(node, &call).await?;
        Ok((done.stdout + &done.stderr, done.status.success()))
    }
}

fn uid(name: &str) -> String {
    format!("uid-{name}")
}
