//! `ambit waypoint apply`, `list`, `status` and `delete` as a user runs them, against a real API server on which `ambit istiod`
//! deploys. There are no nodes: the test says of the waypoint's pod that it is ready.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ambit_cluster::ApiServer;
use ambit_cluster::manifests::Channel;
use serde_json::Value;
use tokio::time::sleep;

const AMBIT: &str = env!("CARGO_BIN_EXE_ambit");
/// Long enough for a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(90);

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

struct Bed {
    api: ApiServer,
    _state: tempfile::TempDir,
    _istiod: Running,
}

impl Bed {
    async fn start() -> Self {
        let api = ApiServer::start().await.unwrap();
        api.install_gateway_api(Channel::Experimental).await.unwrap();
        api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}").await.unwrap();
        // What it may do here it may do wherever it is installed.
        let (good, said) = text(Command::new(AMBIT).args(["install", "--kubeconfig"]).arg(api.kubeconfig()).output().unwrap());
        assert!(good, "{said}");
        let kubeconfig = api.kubeconfig_of("system:serviceaccount:istio-system:istiod-lite", None).unwrap();
        let state = tempfile::tempdir().unwrap();
        let istiod = Command::new(AMBIT)
            .args([
                "istiod",
                "--kubernetes",
                "--listen",
                "127.0.0.1:0",
                "--monitoring",
                "127.0.0.1:0",
                "--waypoint-image",
                "ambit:1.2",
            ])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--state-dir")
            .arg(state.path())
            .spawn()
            .unwrap();
        let bed = Self { api, _state: state, _istiod: Running(istiod) };
        bed.until_said(
            &["get", "gatewayclass", "istio-waypoint", "--ignore-not-found", "-o", "jsonpath={.status.conditions[0].reason}"],
            "Accepted",
        )
        .await;
        bed
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(AMBIT);
        let (first, rest) = words.split_once(' ').unwrap_or((words, ""));
        command.args(["waypoint", first, "--kubeconfig"]).arg(self.api.kubeconfig()).args(rest.split_whitespace());
        command
    }

    /// Runs `ambit waypoint` with these words: whether it says yes, and all that it says.
    async fn run(&self, words: &str) -> (bool, String) {
        let mut command = self.command(words);
        text(tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap())
    }

    /// Waits until kubectl says something that has `part` in it.
    async fn until_said(&self, arguments: &[&str], part: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.api.kubectl(arguments).await.unwrap().contains(part) {
            assert!(Instant::now() < end, "{arguments:?} does not say {part}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for a pod of the waypoint to be asked for, and says that it is ready, as a node would.
    async fn pod_gets_ready(&self) {
        self.until_said(&["get", "deployment", "waypoint", "-n", "shop", "--ignore-not-found", "-o", "name"], "deployment").await;
        self.api.apply("{apiVersion: v1, kind: Pod, metadata: {name: waypoint-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}, spec: {containers: [{name: c, image: i}]}}").await.unwrap();
        let ready = r#"{"status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}}"#;
        let patch = ["patch", "pod", "waypoint-1", "-n", "shop", "--type=merge", "--subresource=status", "-p", ready];
        self.api.kubectl(&patch).await.unwrap();
    }
}

fn text(output: Output) -> (bool, String) {
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_asks_for_a_waypoint_sees_it_and_gives_it_up() {
    let bed = Bed::start().await;
    let (good, said) = bed.run("list -A").await;
    assert!(good && said.contains("there is no waypoint in the cluster; `ambit waypoint apply` asks for one"), "{said}");
    let (good, said) = bed.run("status -n shop").await;
    assert!(!good && said.contains("there is no Gateway shop/waypoint; `ambit waypoint list -n shop`"), "{said}");
    let (good, said) = bed.run("apply -n nowhere --enroll-namespace").await;
    assert!(!good && said.contains("there is no namespace nowhere; `kubectl create namespace nowhere` makes it"), "{said}");

    // Nobody makes a pod here, so that this one gives up.
    let (good, said) = bed.run("apply -n shop --wait --timeout 15").await;
    assert!(
        !good && said.contains("waypoint shop/waypoint is not ready after 15 s: No pod of the waypoint is ready yet"),
        "{said}"
    );

    let apply = bed
        .command("apply -n shop --enroll-namespace --timeout 90")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    bed.pod_gets_ready().await;
    let (good, said) = text(tokio::task::spawn_blocking(move || apply.wait_with_output()).await.unwrap().unwrap());
    assert!(good && said.contains("the services of namespace shop go through waypoint waypoint"), "{said}");
    let labels = bed.api.kubectl(&["get", "namespace", "shop", "-o", "jsonpath={.metadata.labels}"]).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&labels).unwrap()["istio.io/use-waypoint"], "waypoint");
    let (good, said) = bed.run("apply -n shop").await;
    assert!(good && said.contains("waypoint shop/waypoint is as asked for"), "{said}");

    let (good, said) = bed.run("status -n shop").await;
    assert!(good && said.contains("Programmed  True") && said.contains("used by     namespace shop"), "{said}");
    let (_, said) = bed.run("list -A").await;
    let line = said.lines().nth(1).unwrap();
    assert!(line.starts_with("shop       waypoint  service  ready  10."), "{said}");
    let (_, said) = bed.run("list -n shop --json").await;
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()[0]["state"], "ready");

    let (good, said) = bed.run("delete -n shop").await;
    assert!(
        !good && said.contains("waypoint shop/waypoint is used by namespace shop, which could not be reached without it"),
        "{said}"
    );
    bed.api.kubectl(&["label", "namespace", "shop", "istio.io/use-waypoint-"]).await.unwrap();
    let (good, said) = bed.run("delete -n shop").await;
    assert!(good && said.contains("waypoint shop/waypoint deleted"), "{said}");
    let (good, _) = bed.run("status -n shop").await;
    assert!(!good);
}

#[test]
fn without_a_cluster_the_error_says_what_to_do() {
    let ran = Command::new(AMBIT).args(["waypoint", "list", "--kubeconfig", "/nowhere/config"]).output().unwrap();
    let (good, said) = text(ran);
    assert!(!good && said.contains("it is not known which cluster is meant") && said.contains("--kubeconfig FILE"), "{said}");
    let (good, said) = text(Command::new(AMBIT).args(["waypoint", "apply", "--help"]).output().unwrap());
    assert!(good && said.contains("Examples:\n  ambit waypoint apply --namespace shop --wait"), "{said}");
}
