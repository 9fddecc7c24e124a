//! Takes the mesh out of a cluster, in an order in which no pod loses its network, and leaves nothing.

use std::time::Duration;

use kube::{
    Client,
    api::{DynamicObject, ListParams},
};
use tokio::time::Instant;

use super::{
    apply,
    chart::{MANAGER, NAME, NAMESPACE},
    cluster::{ClusterArgs, failed, is_missing},
    enrolled, handover,
    kinds::{Known, Name},
    remains,
};
use crate::error::{Error, Result};

/// What `ambit uninstall` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct UninstallArgs {
    /// Delete the CRDs of policies and of services outside, too, although there are objects of these kinds: they are lost
    #[arg(long)]
    with_policies: bool,
    /// Take the label istio.io/dataplane-mode off namespaces and pods first; without this, there must be none
    #[arg(long)]
    unlabel: bool,
    /// Leave what is installed to Helm, and print the settings for it: nothing is deleted or restarted
    #[arg(long, conflicts_with_all = ["with_policies", "unlabel"])]
    to_helm: bool,
    /// How many seconds the node agents may take to let the pods go
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The kinds that the control plane makes objects of in any namespace while it runs: waypoints for Gateways, and the roots.
const MADE: [Known; 6] = [
    kind("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers"),
    kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
    kind("Deployment", "apps", "v1", "deployments"),
    kind("Service", "", "v1", "services"),
    kind("ServiceAccount", "", "v1", "serviceaccounts"),
    kind("ConfigMap", "", "v1", "configmaps"),
];
/// Its issuers are in its own namespace alone: nobody else's Secrets are looked at.
pub(super) const SECRET: Known = kind("Secret", "", "v1", "secrets");
/// Its label on all that it makes.
const BY_CONTROL_PLANE: &str = "app.kubernetes.io/managed-by=istiod-lite";
/// All that others make.
const NOT_BY_CONTROL_PLANE: &str = "app.kubernetes.io/managed-by!=istiod-lite";
/// By which its replicas agree who writes.
const LEASE: &str = "istiod-lite-leader";

const fn kind(kind: &'static str, group: &'static str, version: &'static str, plural: &'static str) -> Known {
    Known { kind, group, version, plural, namespaced: true }
}

/// Uninstalls.
///
/// # Errors
/// When there is no installation by this program, the cluster refuses something, or the agents do not end in time. Once more, it goes on.
pub async fn uninstall(args: UninstallArgs) -> Result<()> {
    let client = args.cluster.client().await?;
    if args.to_helm {
        return handover::to_helm(&client).await;
    }
    by_us(&client).await?;
    let mut installed = apply::installed(&client).await?;
    if installed.is_empty() {
        return Err(Error::Missing {
            missing: "nothing in this cluster was installed by `ambit install`".to_owned(),
            remedy: "`helm uninstall` if it was installed by Helm; --context if it is another cluster".to_owned(),
        });
    }
    // Captured pods keep their rules when the agents are gone, and would reach nobody.
    enrolled::leave(&client, args.unlabel, Duration::from_secs(args.timeout)).await?;
    // The agents first, while they still have their rights: they take the plugin out of the chain.
    let agents = installed.iter().position(|name| name.kind == "DaemonSet" && name.name == "ambit-node");
    if let Some(agents) = agents.map(|position| installed.remove(position)) {
        gone(&client, &agents).await?;
        ended(&client, NAMESPACE, "ambit-node", Duration::from_secs(args.timeout)).await?;
    }
    // Then who would make again what is deleted.
    let control_plane = installed.iter().position(|name| name.kind == "Deployment" && name.name == "istiod-lite");
    if let Some(control_plane) = control_plane.map(|position| installed.remove(position)) {
        gone(&client, &control_plane).await?;
        ended(&client, NAMESPACE, "istiod-lite", Duration::from_secs(args.timeout)).await?;
    }
    made(&client, NAMESPACE).await?;
    let (shared, own): (Vec<Name>, Vec<Name>) =
        installed.into_iter().partition(|name| matches!(name.kind, "CustomResourceDefinition" | "Namespace"));
    for name in own.iter().rev() {
        gone(&client, name).await?;
    }
    // What the CRDs take with them keeps no namespace.
    let (namespaces, crds): (Vec<Name>, Vec<Name>) = shared.into_iter().partition(|name| name.kind == "Namespace");
    let mut kept = Vec::new();
    for names in [crds, namespaces] {
        let mut going = Vec::new();
        for name in names.iter().rev() {
            match keeps(&client, name, args.with_policies).await? {
                Some(reason) => kept.push(format!("{name}: {reason}")),
                None => {
                    gone(&client, name).await?;
                    going.push(name);
                }
            }
        }
        for name in going {
            vanished(&client, name, Duration::from_secs(args.timeout)).await?;
        }
    }
    if kept.is_empty() {
        println!("nothing is left");
    } else {
        println!("left, as something of yours would be lost with it:\n  {}", kept.join("\n  "));
    }
    Ok(())
}

/// Fails if anything is Helm's, which has taken over by itself, or of which a handover was interrupted: what is labelled as ours serves it.
async fn by_us(client: &Client) -> Result<()> {
    match handover::by_helm(client).await?.first() {
        Some(theirs) => Err(Error::Missing {
            missing: format!("{theirs} belongs to Helm"),
            remedy: "`ambit uninstall --to-helm` leaves the rest to it, too; then `helm uninstall`. Or all of it: `ambit install --from-helm -f FILE`, then `ambit uninstall`"
                .to_owned(),
        }),
        None => Ok(()),
    }
}

/// What of others would be lost with a CRD or the namespace.
async fn keeps(client: &Client, name: &Name, with_policies: bool) -> Result<Option<String>> {
    if name.kind == "Namespace" {
        return Ok(remains::reason(&name.name, &remains::remains(client, &name.name).await?));
    }
    let count = if with_policies { 0 } else { in_use(client, name).await? };
    Ok((count > 0).then(|| format!("there are {count} objects of it (--with-policies deletes them, too)")))
}

async fn gone(client: &Client, name: &Name) -> Result<()> {
    if apply::delete(client, name).await? {
        println!("{name} deleted");
    }
    Ok(())
}

/// Waits until a part has no pods any more.
async fn ended(client: &Client, namespace: &str, part: &str, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    let pods = kind("Pod", "", "v1", "pods");
    // Pods do not say who manages them: that may change without them.
    let selector = format!("app.kubernetes.io/name={part},app.kubernetes.io/part-of={NAME}");
    loop {
        let listed = pods.api(client, Some(namespace)).list(&ListParams::default().labels(&selector)).await;
        let left = listed.map_err(|error| failed("listing pods", error))?.items.len();
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Error::NotReady(format!(
                "{left} pods of {part} do not end within {} s: `kubectl -n {namespace} get pods -o wide` shows on which nodes\n  \
                 the fix: bring these nodes back, or remove them from the cluster, and uninstall once more",
                patience.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Deletes what the control plane has made.
async fn made(client: &Client, namespace: &str) -> Result<()> {
    let ours = ListParams::default().labels(BY_CONTROL_PLANE);
    for known in MADE {
        delete_all(client, known, None, &ours).await?;
    }
    delete_all(client, SECRET, Some(namespace), &ours).await?;
    let lease = kind("Lease", "coordination.k8s.io", "v1", "leases");
    match lease.api(client, Some(namespace)).delete(LEASE, &kube::api::DeleteParams::background()).await {
        Ok(_) => println!("Lease {namespace}/{LEASE} deleted"),
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(failed(&format!("deleting Lease {namespace}/{LEASE}"), error)),
    }
    let class = Known { namespaced: false, ..kind("GatewayClass", "gateway.networking.k8s.io", "v1", "gatewayclasses") };
    // One that somebody else has made stays.
    delete_all(client, class, None, &ours).await
}

/// Deletes those objects of a kind, in one namespace or all.
pub(super) async fn delete_all(client: &Client, known: Known, namespace: Option<&str>, which: &ListParams) -> Result<()> {
    let listed = match known.api(client, namespace).list(which).await {
        Err(error) if is_missing(&error) => return Ok(()),
        listed => listed.map_err(|error| failed(&format!("listing {}", known.plural), error))?,
    };
    for object in listed.items {
        let (namespace, name) = (object.metadata.namespace.unwrap_or_default(), object.metadata.name.unwrap_or_default());
        let deleted = known.api(client, Some(&namespace)).delete(&name, &kube::api::DeleteParams::background()).await;
        match deleted {
            Ok(_) => println!("{} {namespace}/{name} deleted", known.kind),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(failed(&format!("deleting {} {namespace}/{name}", known.kind), error)),
        }
    }
    Ok(())
}

/// How many objects there are of the kind that a CRD of ours defines.
async fn in_use(client: &Client, name: &Name) -> Result<usize> {
    match apply::get(client, name).await? {
        Some(crd) if apply::manager(&crd) == MANAGER => objects_of(client, &crd).await,
        _ => Ok(0),
    }
}

/// How many objects there are of the kind that a CRD defines: those on their way out, and those that the control plane makes, are none.
///
/// # Errors
/// The API server does not list them.
pub(crate) async fn objects_of(client: &Client, crd: &DynamicObject) -> Result<usize> {
    let text = |path: &str| crd.data.pointer(path).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let resource = kube::api::ApiResource {
        group: text("/spec/group"),
        version: text("/spec/versions/0/name"),
        api_version: format!("{}/{}", text("/spec/group"), text("/spec/versions/0/name")),
        kind: text("/spec/names/kind"),
        plural: text("/spec/names/plural"),
    };
    let api: kube::Api<DynamicObject> = kube::Api::all_with(client.clone(), &resource);
    let others = ListParams::default().labels(NOT_BY_CONTROL_PLANE);
    match api.list_metadata(&others).await {
        Ok(list) => Ok(list.items.iter().filter(|object| object.metadata.deletion_timestamp.is_none()).count()),
        Err(error) if is_missing(&error) => Ok(0),
        Err(error) => Err(failed(&format!("listing {}", resource.plural), error)),
    }
}

async fn vanished(client: &Client, name: &Name, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    while apply::get(client, name).await?.is_some() {
        if Instant::now() >= until {
            return Err(Error::NotReady(format!(
                "{name} is still there after {} s: `kubectl get {} {} -o yaml` says what holds it",
                patience.as_secs(),
                name.kind,
                name.name
            )));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
