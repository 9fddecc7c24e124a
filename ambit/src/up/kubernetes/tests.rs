//! The directory's objects in a real API server, without nodes.

use std::path::Path;
use std::time::{Duration, Instant};

use ambit_cluster::ApiServer;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, PostParams};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::applier::{Applier, State};
use super::documents::{Files, Room};
use super::ending;
use super::objects::AnyObjects;
use super::place::Target;
use super::record::Record;
use super::removal::Left;
use crate::install::cluster::ClusterArgs;
use crate::up::Watched;

const PATIENCE: Duration = Duration::from_secs(60);

fn config_map(name: &str, value: &str) -> String {
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{key: {value}}}\n")
}

fn pod(image: &str) -> String {
    // Nobody schedules it.
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{schedulerName: nobody, containers: [{{name: web, image: '{image}', ports: [{{containerPort: 80}}]}}]}}\n"
    )
}

struct Running {
    task: JoinHandle<Applier>,
    stop: CancellationToken,
    state: tokio::sync::watch::Receiver<State>,
    target: Target,
}

impl Running {
    async fn start(api: &ApiServer, directory: &Path) -> Self {
        let client = api.client().await.unwrap();
        let record = Record::open(&client, &watched(directory)).await.unwrap();
        let objects = AnyObjects::new(client, record.owner());
        let applier = Applier::new(objects, Files::new(directory), Room { registries: true, ..Room::default() }, record);
        let (state, stop) = (applier.state(), CancellationToken::new());
        Self { task: tokio::spawn(applier.run(stop.clone())), stop, state, target: target(api) }
    }

    /// Ends it as SIGKILL does: what it knows is lost, and its process is not there any more.
    async fn kill(self, api: &ApiServer) {
        self.stop.cancel();
        drop(self.task.await.unwrap());
        let records = Api::<ConfigMap>::namespaced(api.client().await.unwrap(), "default");
        let mut record = records.list(&ListParams::default().labels("up.ambit.dev/record")).await.unwrap().items.remove(0);
        let text = record.data.as_mut().unwrap().get_mut("record").unwrap();
        let mut content: serde_json::Value = serde_json::from_str(text).unwrap();
        content["started"] = 1.into();
        *text = content.to_string();
        records.replace(&record.metadata.name.clone().unwrap(), &PostParams::default(), &record).await.unwrap();
    }

    async fn notice(&mut self, part: &str) {
        let told = self.state.wait_for(|state| state.notices.iter().any(|notice| notice.contains(part)));
        tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
    }

    async fn complete(&mut self) {
        tokio::time::timeout(PATIENCE, self.state.wait_for(|state| state.complete)).await.unwrap().unwrap();
    }

    async fn end(self) -> Vec<String> {
        self.stop.cancel();
        let (objects, record) = self.task.await.unwrap().into_parts();
        let told = std::cell::RefCell::new(Vec::new());
        let tell = |what: &str| told.borrow_mut().push(what.to_owned());
        ending::clear(&self.target, objects, record, &Left::default(), &tell).await.unwrap();
        told.into_inner()
    }
}

fn watched(directory: &Path) -> Watched {
    Watched { path: directory.to_owned(), demo: false }
}

fn target(api: &ApiServer) -> Target {
    Target::Other(ClusterArgs { kubeconfig: Some(api.kubeconfig().to_owned()), context: None })
}

async fn records(api: &ApiServer) -> String {
    get(api, &["configmaps", "-l", "up.ambit.dev/record"], "{.items[*].metadata.name}").await
}

async fn get(api: &ApiServer, what: &[&str], path: &str) -> String {
    let output = format!("jsonpath={path}");
    let arguments = [&["get", "-n", "default", "--ignore-not-found", "-o", &output], what].concat();
    api.kubectl(&arguments).await.unwrap()
}

async fn becomes(api: &ApiServer, what: &[&str], path: &str, wanted: &str) {
    let began = Instant::now();
    loop {
        let is = get(api, what, path).await;
        if is == wanted {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{what:?} {path} is {is:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_follows_the_directory_and_in_the_end_has_what_it_had() {
    let api = ApiServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
    api.apply(&config_map("theirs", "same")).await.unwrap();
    write("a.yaml", &(config_map("ours", "one") + &config_map("theirs", "same") + &pod("web:1")));
    write("wrong.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: wrong}\nfields: {that: are not}\n");

    let mut running = Running::start(&api, directory.path()).await;
    running.complete().await;
    becomes(&api, &["configmap", "ours"], "{.data.key}", "one").await;
    becomes(&api, &["pod", "web"], "{.spec.containers[0].image}", "web:1").await;
    let notices = running.state.borrow().notices.clone();
    assert!(notices.iter().any(|notice| notice.contains("ConfigMap wrong") && notice.contains("fields")), "{notices:?}");

    // Changed, made anew as a pod's ports cannot change, added, and given up.
    let changed = pod("web:2").replace("containerPort: 80", "containerPort: 81");
    write("a.yaml", &(config_map("ours", "two") + &config_map("theirs", "same") + &changed));
    write("b.yaml", &config_map("more", "x"));
    std::fs::remove_file(directory.path().join("wrong.yaml")).unwrap();
    becomes(&api, &["configmap", "ours"], "{.data.key}", "two").await;
    becomes(&api, &["configmap", "more"], "{.data.key}", "x").await;
    becomes(&api, &["pod", "web"], "{.spec.containers[0].ports[0].containerPort}", "81").await;
    std::fs::remove_file(directory.path().join("b.yaml")).unwrap();
    becomes(&api, &["configmap", "more"], "{.metadata.name}", "").await;
    let good = |state: &State| state.notices.is_empty();
    tokio::time::timeout(PATIENCE, running.state.wait_for(good)).await.unwrap().unwrap();

    let told = running.end().await;
    assert!(told.iter().any(|line| line.contains("ConfigMap theirs")), "{told:?}");
    assert_eq!(get(&api, &["configmap", "ours"], "{.metadata.name}").await, "");
    assert_eq!(get(&api, &["pod", "web"], "{.metadata.name}").await, "");
    assert_eq!(get(&api, &["configmap", "theirs"], "{.data.key}").await, "same");
    assert_eq!(records(&api).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_that_was_killed_has_left_the_next_goes_on_with_and_a_command_takes_out() {
    let api = ApiServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
    write("a.yaml", &(config_map("stays", "one") + &config_map("goes", "one")));
    let mut first = Running::start(&api, directory.path()).await;
    first.complete().await;
    becomes(&api, &["configmap", "goes"], "{.data.key}", "one").await;

    // While it runs no other one does the same, and nobody takes out what it has made.
    let client = api.client().await.unwrap();
    let refused = Record::open(&client, &watched(directory.path())).await.err().unwrap().to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    ending::remove(&target(&api)).await.unwrap();
    assert_eq!(get(&api, &["configmap", "stays"], "{.data.key}").await, "one");

    // The next one knows what the directory had, and somebody else's of the same name.
    first.kill(&api).await;
    write("a.yaml", &config_map("stays", "two"));
    let mut second = Running::start(&api, directory.path()).await;
    second.complete().await;
    becomes(&api, &["configmap", "stays"], "{.data.key}", "two").await;
    becomes(&api, &["configmap", "goes"], "{.metadata.name}", "").await;
    second.kill(&api).await;
    api.kubectl(&["delete", "configmap", "stays"]).await.unwrap();
    api.apply(&config_map("stays", "theirs")).await.unwrap();
    write("a.yaml", &config_map("more", "one"));
    let mut third = Running::start(&api, directory.path()).await;
    third.complete().await;
    becomes(&api, &["configmap", "more"], "{.data.key}", "one").await;
    third.kill(&api).await;

    ending::remove(&target(&api)).await.unwrap();
    assert_eq!(get(&api, &["configmap", "more"], "{.metadata.name}").await, "");
    assert_eq!(get(&api, &["configmap", "stays"], "{.data.key}").await, "theirs");
    assert_eq!(records(&api).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_others_nothing_is_lost_and_nothing_is_left_in_it() {
    let api = ApiServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
    let namespace = |name: &str| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{a: b}}}}\n");
    api.kubectl(&["create", "namespace", "theirs"]).await.unwrap();
    write("a.yaml", &(namespace("theirs") + &namespace("shared") + &config_map("ours", "one")));
    let mut running = Running::start(&api, directory.path()).await;
    running.complete().await;
    becomes(&api, &["namespace", "theirs"], "{.metadata.labels.a}", "b").await;
    becomes(&api, &["configmap", "ours"], "{.data.key}", "one").await;

    // Somebody puts something into a namespace that was made here, and makes anew what was.
    api.kubectl(&["create", "configmap", "visitor", "-n", "shared"]).await.unwrap();
    api.kubectl(&["delete", "configmap", "ours"]).await.unwrap();
    api.kubectl(&["create", "configmap", "ours", "--from-literal=key=other"]).await.unwrap();
    // Another one's change to a field is named with a fix that there is here.
    write("a.yaml", &(namespace("theirs") + &namespace("shared") + &config_map("ours", "two")));
    running.notice("take these fields out of the file").await;

    let told = running.end().await.join("\n");
    assert!(told.contains("Namespace shared stays") && told.contains("visitor"), "{told}");
    assert!(told.contains("there before") && told.contains("Namespace theirs"), "{told}");
    assert_eq!(get(&api, &["namespace", "theirs"], "{.metadata.labels.a}").await, "");
    assert_eq!(get(&api, &["namespace", "theirs"], "{.status.phase}").await, "Active");
    assert_eq!(get(&api, &["namespace", "shared"], "{.status.phase}").await, "Active");
    assert_eq!(get(&api, &["configmap", "ours"], "{.data.key}").await, "other");
}
