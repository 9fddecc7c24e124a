//! `ambit up --kubernetes` ended in the middle of its start, on a real API server without nodes: nothing is left, or a command takes it out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ambit::install::kinds::KNOWN;
use ambit_cluster::ApiServer;
use ambit_cluster::manifests::Channel;
use kube::Client;
use kube::api::ListParams;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Generous, since tests share two processors with builds.
const PATIENCE: Duration = Duration::from_secs(120);

struct Up {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Up {
    fn start(api: &ApiServer, directory: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
        command.args(["up", "--kubernetes", "--manifests"]).arg(directory).arg("--kubeconfig").arg(api.kubeconfig());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().map(BufReader::new);
        Self { child, output }
    }

    /// Waits until there are the parts of the mesh in the cluster, which nobody makes ready.
    async fn installs(&mut self, api: &ApiServer) {
        let began = Instant::now();
        while api.kubectl(&["get", "daemonset", "ztunnel", "-n", "istio-system"]).await.is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {:?}", self.end());
            assert!(began.elapsed() < PATIENCE, "nothing is installed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Reads until it says this. The reader ends with it, or with the process.
    fn says(&mut self, part: &'static str) {
        let (mut output, (heard, hears)) = (self.output.take().unwrap(), mpsc::channel());
        std::thread::spawn(move || {
            let mut said = String::new();
            while !said.lines().any(|line| line.contains(part)) {
                if output.read_line(&mut said).unwrap_or(0) == 0 {
                    return heard.send(Err(said));
                }
            }
            heard.send(Ok(output))
        });
        match hears.recv_timeout(PATIENCE) {
            Ok(Ok(output)) => self.output = Some(output),
            Ok(Err(said)) => panic!("it never said {part:?}:\n{said}"),
            Err(late) => panic!("it has not said {part:?} in {} s: {late}", PATIENCE.as_secs()),
        }
    }

    /// Waits for its end, and gives what it said of errors.
    fn end(&mut self) -> (ExitStatus, String) {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(began.elapsed() < PATIENCE, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (status, errors)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// All objects of the kinds that an installation, or the directory, is made of, with their versions; of definitions, which the API server
/// itself writes the status of, those of what is asked for.
async fn objects(client: &Client) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for known in KNOWN {
        let Ok(list) = known.api(client, None).list(&ListParams::default()).await else { continue };
        for object in list.items {
            let metadata = object.metadata;
            // The API server's own.
            let own = metadata.labels.is_some_and(|labels| labels.contains_key("kubernetes.io/bootstrapping"))
                || metadata.namespace.as_ref().is_some_and(|namespace| namespace.starts_with("kube-"))
                || (known.kind, metadata.name.as_deref()) == ("Service", Some("kubernetes"));
            if !own && known.kind != "Namespace" {
                let name = format!("{} {:?}/{:?}", known.kind, metadata.namespace, metadata.name);
                let version = match known.kind {
                    "CustomResourceDefinition" => metadata.generation.unwrap_or_default().to_string(),
                    _ => metadata.resource_version.unwrap_or_default(),
                };
                found.insert(name, version);
            }
        }
    }
    found
}

/// Sets what holds one of the definitions of an installation when it is deleted, and with it `ambit uninstall`.
async fn hold(api: &ApiServer, finalizers: &str) {
    let patch = format!(r#"{{"metadata": {{"finalizers": {finalizers}}}}}"#);
    let definition = ["patch", "customresourcedefinition", "telemetries.telemetry.istio.io", "--type=merge", "-p", &patch];
    api.kubectl(&definition).await.unwrap();
}

fn remove(api: &ApiServer) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
    let output = command.args(["up", "--kubernetes", "--remove", "--kubeconfig"]).arg(api.kubeconfig()).output().unwrap();
    let [said, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{said}{errors}");
    said
}

#[tokio::test]
async fn whatever_ends_it_while_it_installs_nothing_is_left_or_a_command_takes_it_out() {
    let api = ApiServer::start().await.unwrap();
    let client = api.client().await.unwrap();
    api.install_gateway_api(Channel::Standard).await.unwrap();
    // No controller of namespaces runs that would end one which goes.
    api.kubectl(&["create", "namespace", "istio-system"]).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine, namespace: default}\n";
    std::fs::write(directory.path().join("a.yaml"), config_map).unwrap();
    let before = objects(&client).await;
    assert!(remove(&api).contains("has left anything"));

    let mut asked = Up::start(&api, directory.path());
    asked.installs(&api).await;
    asked.signal(Signal::SIGINT);
    asked.says("ambit uninstall");
    let (status, errors) = asked.end();
    assert!(status.success(), "{errors}");
    assert_eq!(objects(&client).await, before, "after SIGINT");

    // `| head -1`: it says nothing for as long as it waits for the parts.
    let mut unread = Up::start(&api, directory.path());
    unread.says("Ambit starts");
    unread.installs(&api).await;
    unread.output = None;
    let (_status, errors) = unread.end();
    assert!(errors.contains("nobody reads"), "{errors}");
    assert_eq!(objects(&client).await, before, "after its reader went");

    let mut killed = Up::start(&api, directory.path());
    killed.installs(&api).await;
    killed.signal(Signal::SIGKILL);
    killed.end();
    assert_ne!(objects(&client).await, before);
    let mut next = Up::start(&api, directory.path());
    next.says("an earlier one of this directory was killed");
    // So that it has not ended before it is interrupted.
    hold(&api, r#"["customresourcecleanup.apiextensions.k8s.io", "ambit.dev/test"]"#).await;
    next.signal(Signal::SIGTERM);
    next.says("stopping ...");
    next.signal(Signal::SIGINT);
    let (status, errors) = next.end();
    assert!(!status.success() && errors.contains("left in the cluster: Ambit itself") && errors.contains("--remove"), "{errors}");
    hold(&api, "null").await;
    let said = remove(&api);
    assert!(said.contains("nothing of it is left") && said.contains(&directory.path().display().to_string()), "{said}");
    assert_eq!(objects(&client).await, before, "after --remove");
}
