//! The cluster a subcommand works on, and what its API server answers in words.

use gateway_api::gateways::Gateway;
use istiod_lite::index::label::{GATEWAY_NAME, USE_WAYPOINT, USE_WAYPOINT_NAMESPACE};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{Api, ListParams};

use crate::error::{Error, Result};
use crate::install::cluster::ClusterArgs;

/// Which cluster, and which namespace of it.
#[derive(Debug, Clone, clap::Args)]
pub struct PlaceArgs {
    #[command(flatten)]
    at: ClusterArgs,
    /// The namespace; that of the context if not given
    #[arg(long, short = 'n')]
    pub namespace: Option<String>,
}

/// A cluster that answers to a client.
pub struct Cluster {
    pub client: kube::Client,
    pub namespace: String,
}

impl PlaceArgs {
    /// Reads the kubeconfig; nothing is sent yet.
    pub async fn connect(&self) -> Result<Cluster> {
        let client = self.at.client().await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Cluster { client, namespace })
    }
}

impl Cluster {
    pub fn gateways(&self) -> Api<Gateway> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A Gateway; an error that says so when there is none.
    pub async fn gateway(&self, name: &str) -> Result<Gateway> {
        let found = self.gateways().get_opt(name).await.map_err(|error| failed("get gateways", &error))?;
        found.ok_or_else(|| {
            let namespace = &self.namespace;
            Error::Invalid(format!(
                "there is no Gateway {namespace}/{name}; `ambit waypoint list -n {namespace}` shows those there are, `ambit waypoint apply -n {namespace} --name {name}` makes one"
            ))
        })
    }

    /// The pods of a waypoint.
    pub async fn pods(&self, gateway: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let labels = ListParams::default().labels(&format!("{GATEWAY_NAME}={gateway}"));
        Ok(api.list(&labels).await.map_err(|error| failed("list pods", &error))?.items)
    }

    /// What names a waypoint: `namespace shop`, `service shop/api`, `pod shop/web-1`.
    pub async fn users(&self, gateway: &str) -> Result<Vec<String>> {
        let labels = ListParams::default().labels(&format!("{USE_WAYPOINT}={gateway}"));
        let mut users = Vec::new();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for object in namespaces.list(&labels).await.map_err(|error| failed("list namespaces", &error))? {
            let own = object.metadata.name.clone().unwrap_or_default();
            if self.is_meant(object.metadata.labels.as_ref(), &own) {
                users.push(format!("namespace {own}"));
            }
        }
        let services: Api<Service> = Api::all(self.client.clone());
        for object in services.list(&labels).await.map_err(|error| failed("list services", &error))? {
            let own = object.metadata.namespace.clone().unwrap_or_default();
            if self.is_meant(object.metadata.labels.as_ref(), &own) {
                users.push(format!("service {own}/{}", object.metadata.name.unwrap_or_default()));
            }
        }
        let pods: Api<Pod> = Api::all(self.client.clone());
        for object in pods.list(&labels).await.map_err(|error| failed("list pods", &error))? {
            let own = object.metadata.namespace.clone().unwrap_or_default();
            if self.is_meant(object.metadata.labels.as_ref(), &own) {
                users.push(format!("pod {own}/{}", object.metadata.name.unwrap_or_default()));
            }
        }
        Ok(users)
    }

    /// Whether labels that name a waypoint mean one of this namespace.
    fn is_meant(&self, labels: Option<&std::collections::BTreeMap<String, String>>, own: &str) -> bool {
        let namespace = labels.and_then(|labels| labels.get(USE_WAYPOINT_NAMESPACE)).map_or(own, String::as_str);
        namespace == self.namespace
    }
}

/// What the API server answered, with what to do about it. `doing` is a verb and a resource, as RBAC has them.
pub fn failed(doing: &str, error: &kube::Error) -> Error {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            Error::Invalid(format!("you may not {doing}: {}; ask whoever runs the cluster for a role that may", status.message))
        }
        kube::Error::Api(status) if status.code == 401 => {
            Error::Invalid(format!("cannot {doing}: the API server does not know you ({}); log in again", status.message))
        }
        // An object that is absent has details with its name; a kind that is unknown has not.
        kube::Error::Api(status)
            if status.code == 404 && status.details.as_ref().is_none_or(|details| details.name.is_empty()) =>
        {
            let why = "the cluster has no Gateway API; install its definitions (gateway-api.sigs.k8s.io, standard channel)";
            Error::Invalid(format!("cannot {doing}: {why}, `ambit check --pre` tells what else is missing"))
        }
        kube::Error::Api(status) => Error::Invalid(format!("cannot {doing}: {}", status.message)),
        error => {
            Error::Invalid(format!("cannot {doing}: the API server cannot be reached ({error}); is the context the right one?"))
        }
    }
}
