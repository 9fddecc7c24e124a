//! The directory's objects in a real API server, without nodes.

use std::path::Path;
use std::time::{Duration, Instant};

use ambit_cluster::ApiServer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::applier::{Applier, State};
use super::documents::{Files, Room};
use super::objects::AnyObjects;

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
}

impl Running {
    async fn start(api: &ApiServer, directory: &Path) -> Self {
        let objects = AnyObjects::new(api.client().await.unwrap());
        let applier = Applier::new(objects, Files::new(directory), Room { registries: true, ..Room::default() });
        let (state, stop) = (applier.state(), CancellationToken::new());
        Self { task: tokio::spawn(applier.run(stop.clone())), stop, state }
    }

    async fn complete(&mut self) {
        tokio::time::timeout(PATIENCE, self.state.wait_for(|state| state.complete)).await.unwrap().unwrap();
    }

    async fn end(self) -> Vec<String> {
        self.stop.cancel();
        let mut told = Vec::new();
        self.task.await.unwrap().remove(|what| told.push(what.to_owned())).await.unwrap();
        told
    }
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
}
