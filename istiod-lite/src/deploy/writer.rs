//! Makes what is desired, on the leader: compares, applies, prunes.
//!
//! Level-triggered: a waypoint is looked at when its Gateway or one of its objects has changed, after a failure, and now and then.
//! Objects of a Gateway that is gone are the garbage collector's, by their owner reference; from here only those are deleted whose
//! Gateway is there and does not want them any more. An object of the same name that is not the Gateway's is never touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use gateway_api::gateways::Gateway;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::apply::{Applier, request};
use super::owned::Watches;
use super::{Deployed, Options, Parameters, Part, Reports, Role, class, made};
use crate::index::cluster_scoped;
use crate::mesh::Mesh;
use crate::retry;
use crate::source::NamespacedName;
use crate::status::is_ours;

/// Changes that follow each other within this time are looked at together.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a waypoint is looked at that hangs on what is not watched: its parameters, or an object that is in its way.
const UNWATCHED: Duration = Duration::from_secs(30);
/// How often any other is looked at without a cause.
const RESYNC: Duration = Duration::from_secs(600);

/// Deploys the waypoints of all Gateways.
pub struct Deployer {
    client: kube::Client,
    mesh: Arc<Mesh>,
    options: Options,
    reports: watch::Sender<Reports>,
    applier: Applier,
    /// The Gateways as they were when last looked at, and when they are to be looked at again.
    looked: HashMap<NamespacedName, Looked>,
    class_retry: Option<Instant>,
}

struct Looked {
    gateway: Arc<Gateway>,
    next: Instant,
    failures: u32,
}

impl Deployer {
    /// A deployer that has not deployed yet, and what it will report.
    #[must_use]
    pub fn new(client: kube::Client, mesh: Arc<Mesh>, options: Options) -> (Self, watch::Receiver<Reports>) {
        let (reports, receiver) = watch::channel(Reports::default());
        let applier = Applier::new(client.clone());
        (Self { client, mesh, options, reports, applier, looked: HashMap::new(), class_retry: None }, receiver)
    }

    /// Deploys until it is dropped, which it may be at any point.
    pub async fn run(mut self) {
        let mut generation = self.mesh.generation();
        if generation.wait_for(|generation| *generation > 0).await.is_err() {
            return;
        }
        let mut watches = Watches::start(&self.client);
        while !self.applier.owned.complete() {
            let event = watches.next().await;
            self.applier.owned.apply(event);
        }
        loop {
            generation.mark_unchanged();
            let touched: BTreeSet<NamespacedName> =
                std::iter::from_fn(|| watches.at_hand()).filter_map(|event| self.applier.owned.apply(event)).collect();
            self.make_class().await;
            self.pass(&touched).await;
            sleep(PAUSE).await;
            let due = retry::at(self.looked.values().map(|looked| looked.next).chain(self.class_retry).min());
            tokio::select! {
                changed = generation.changed() => if changed.is_err() { return },
                event = watches.next() => {
                    if let Some(name) = self.applier.owned.apply(event)
                        && let Some(looked) = self.looked.get_mut(&name).filter(|looked| looked.failures == 0)
                    {
                        looked.next = looked.next.min(Instant::now());
                    }
                }
                () = due => {}
            }
        }
    }

    async fn make_class(&mut self) {
        let missing = {
            let index = self.mesh.index();
            let classes = &index.objects().gateway_classes;
            class::ALL.into_iter().filter(|class| cluster_scoped(classes, class.name).is_none()).collect::<Vec<_>>()
        };
        if missing.is_empty() {
            self.class_retry = None;
        } else if self.class_retry.is_none_or(|retry| retry <= Instant::now()) {
            for class in missing {
                if let Err(error) = class.create(&self.client).await
                    && self.class_retry.is_none()
                {
                    let name = class.name;
                    tracing::warn!(%error, "cannot make the GatewayClass {name}; trying again. Is the Gateway API installed?");
                }
            }
            self.class_retry = Some(Instant::now() + retry::LAST);
        }
    }

    /// Looks at the Gateways that changed, whose objects changed, or whose time has come.
    async fn pass(&mut self, touched: &BTreeSet<NamespacedName>) {
        let now = Instant::now();
        let gateways: BTreeMap<NamespacedName, (Arc<Gateway>, bool)> = {
            let index = self.mesh.index();
            let all = index.objects().gateways.iter();
            all.map(|(name, gateway)| (name.clone(), (Arc::clone(gateway), is_ours(&index, gateway)))).collect()
        };
        self.looked.retain(|name, _| gateways.contains_key(name));
        self.reports.send_if_modified(|reports| reports.retain(|name| gateways.get(name).is_some_and(|(_, ours)| *ours)));
        for (name, (gateway, ours)) in gateways {
            let looked = self.looked.get(&name);
            let due = touched.contains(&name)
                || looked.is_none_or(|looked| !Arc::ptr_eq(&looked.gateway, &gateway) || looked.next <= now);
            let failing = looked.is_some_and(|looked| {
                looked.failures > 0 && looked.next > now && looked.gateway.metadata.generation == gateway.metadata.generation
            });
            if !due || failing || gateway.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let failures = looked.map_or(0, |looked| looked.failures);
            let report = if ours {
                self.deploy(&gateway, &name).await
            } else {
                self.applier.prune(&gateway, &name, None).await.map(|()| Deployed::Applied)
            };
            let report = report.unwrap_or_else(Deployed::Failed);
            let failures = if matches!(report, Deployed::Failed(_)) { failures + 1 } else { 0 };
            let has_parameters = gateway.spec.infrastructure.as_ref().is_some_and(|all| all.parameters_ref.is_some());
            let wait = match failures {
                0 if has_parameters || matches!(report, Deployed::Conflict(_)) => UNWATCHED,
                0 => RESYNC,
                failures => retry::after(failures),
            };
            let said = self.reports.borrow().get(&name) == Some(&report);
            if !said && !matches!(report, Deployed::Applied | Deployed::Unusable) {
                tracing::warn!(gateway = %name, ?report, "the waypoint is not as its Gateway wants it");
            }
            self.looked.insert(name.clone(), Looked { gateway, next: Instant::now() + wait, failures });
            if ours {
                self.reports.send_if_modified(|reports| reports.set(name, report));
            }
        }
    }

    /// Makes the waypoint of one Gateway what it should be. The error is a sentence, and reason to try again.
    async fn deploy(&mut self, gateway: &Gateway, name: &NamespacedName) -> Result<Deployed, String> {
        let role = match Role::of(&self.mesh.index(), gateway) {
            Ok(role) => role,
            Err(sentence) => return Ok(Deployed::Refused(sentence)),
        };
        if role.unusable(gateway) {
            return Ok(Deployed::Unusable);
        }
        if let Some(sentence) = self.class_fault(gateway) {
            return Ok(Deployed::Refused(sentence));
        }
        let Some(image) = self.options.image.clone() else {
            return Err("istiod-lite was started without --waypoint-image, so it deploys no waypoint".into());
        };
        let parameters = match self.parameters(gateway, name).await? {
            Ok(parameters) => parameters,
            Err(sentence) => return Ok(Deployed::Refused(sentence)),
        };
        let manifests = made(gateway, role, &parameters, self.mesh.index().config(), &self.options, &image);
        for manifest in &manifests {
            if let Some(sentence) = self.applier.apply(gateway, manifest).await? {
                return Ok(Deployed::Conflict(sentence));
            }
        }
        let parts: Vec<Part> = manifests.iter().map(|manifest| manifest.part).collect();
        self.applier.prune(gateway, name, Some(&parts)).await?;
        Ok(Deployed::Applied)
    }

    /// What is wrong with the Gateway's class.
    fn class_fault(&self, gateway: &Gateway) -> Option<String> {
        let name = &gateway.spec.gateway_class_name;
        let class = cluster_scoped(&self.mesh.index().objects().gateway_classes, name).cloned()?;
        class
            .spec
            .parameters_ref
            .is_some()
            .then(|| format!("spec.parametersRef of GatewayClass {name} is not supported; remove it"))
    }

    /// The parameters of a Gateway; the inner error is its author's fault.
    async fn parameters(&self, gateway: &Gateway, name: &NamespacedName) -> Result<Result<Parameters, String>, String> {
        let reference = gateway.spec.infrastructure.as_ref().and_then(|all| all.parameters_ref.as_ref());
        let Some(reference) = reference else { return Ok(Ok(Parameters::default())) };
        if !reference.group.is_empty() || reference.kind != "ConfigMap" {
            return Ok(Err(format!("parametersRef must name a ConfigMap of group \"\", not a {}", reference.kind)));
        }
        let label = format!("ConfigMap {}/{}", name.namespace, reference.name);
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &name.namespace);
        let map = request(&format!("reading {label}"), api.get_opt(&reference.name)).await?;
        let Some(map) = map else { return Ok(Err(format!("{label}, which parametersRef names, does not exist"))) };
        Ok(Parameters::read(&map.data.unwrap_or_default()).map_err(|reason| format!("{label}: {reason}")))
    }
}
