//! For tests of the writers: a real API server, an index that follows it by the source, and writers that can be killed. Both have the rights
//! that an installation gives them.

use std::sync::Arc;
use std::time::Duration;

use ambit_cluster::{ApiServer, manifests::Channel};
use ambit_runtime::readiness::Readiness;
use ambit_xds::server::Cache;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::Options;
use crate::index::MeshConfig;
use crate::mesh::Mesh;
use crate::push::{self, Pusher};
use crate::source::Kubernetes;
use crate::source::kubernetes::{self, Timing};

/// Long enough for a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(90);
/// A definition with as much of a schema as it takes to have a status.
const POLICIES: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: authorizationpolicies.security.istio.io}
spec:
  group: security.istio.io
  names: {kind: AuthorizationPolicy, plural: authorizationpolicies, singular: authorizationpolicy}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

pub(crate) struct Bed {
    pub(crate) api: ApiServer,
    /// Of the control plane.
    client: kube::Client,
    mesh: Arc<Mesh>,
    _source: JoinSet<()>,
}

/// Running writers; dropped, they are killed where they stand.
pub(crate) struct Writers(JoinHandle<()>);

impl Drop for Writers {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Bed {
    /// An API server with the definitions of the Gateway API and of policies, and a namespace `shop`.
    pub(crate) async fn start() -> Self {
        let api = ApiServer::start().await.unwrap();
        api.install_gateway_api(Channel::Experimental).await.unwrap();
        api.apply(POLICIES).await.unwrap();
        api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}").await.unwrap();
        let account = api.account("istiod-lite").await.unwrap();
        let client = kubernetes::connect(Some(account.kubeconfig()), None).await.unwrap();
        let mesh = Arc::new(Mesh::new(MeshConfig::new("cluster.local".parse().unwrap(), "Kubernetes")));
        let (batches, received) = mpsc::channel(16);
        let mut source = JoinSet::new();
        let watching = Kubernetes::new(&client, Timing::default(), &Readiness::new());
        source.spawn(async move { _ = push::read(watching, batches).await });
        source.spawn(push::follow(Arc::clone(&mesh), Pusher::new(Cache::new()), received));
        Self { api, client, mesh, _source: source }
    }

    /// Starts the deployer and the status writer, as the leader does.
    pub(crate) fn writers(&self) -> Writers {
        let options = Options { image: Some("ambit:1.2".into()), ..Options::default() };
        Writers(tokio::spawn(super::write(self.client.clone(), Arc::clone(&self.mesh), options)))
    }

    /// What the control plane has read.
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// An object as kubectl shows it; null while there is none.
    pub(crate) async fn get(&self, kind: &str, name: &str) -> Value {
        let text = self.api.kubectl(&["get", kind, name, "-n", "shop", "-o", "json", "--ignore-not-found"]).await.unwrap();
        if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    /// Waits until an object is as `good` says, and returns it.
    pub(crate) async fn until(&self, kind: &str, name: &str, good: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let object = self.get(kind, name).await;
            if good(&object) {
                return object;
            }
            assert!(Instant::now() < end, "{kind} {name} stays {object:#}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Applies YAML, over what other managers have set.
    pub(crate) async fn apply(&self, yaml: &str) {
        self.api.apply(yaml).await.unwrap();
    }

    /// Patches an object, or its status.
    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: &Value, status: bool) {
        let (patch, mut arguments) = (patch.to_string(), vec!["patch", kind, name, "-n", "shop", "--type=merge", "-p"]);
        arguments.push(&patch);
        if status {
            arguments.push("--subresource=status");
        }
        self.api.kubectl(&arguments).await.unwrap();
    }

    /// Asserts that nothing of these is written within three seconds in which the mesh changes several times.
    pub(crate) async fn assert_quiet(&self, objects: &[(&str, &str)]) {
        let mut before = Vec::new();
        for (kind, name) in objects {
            before.push(self.get(kind, name).await["metadata"]["resourceVersion"].clone());
        }
        for n in 0..6 {
            self.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{n: 'v{n}'}}}}}}")).await;
            sleep(Duration::from_millis(500)).await;
        }
        for ((kind, name), version) in objects.iter().zip(before) {
            let now = self.get(kind, name).await;
            assert_eq!(now["metadata"]["resourceVersion"], version, "{kind} {name} was written again: {now:#}");
        }
    }
}

/// The reasons of an object's conditions: `type=status reason`.
pub(crate) fn said(conditions: &Value) -> Vec<String> {
    let conditions = conditions.as_array().map_or(&[][..], Vec::as_slice);
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    conditions.iter().map(|c| format!("{}={} {}", text(c, "type"), text(c, "status"), text(c, "reason"))).collect()
}
