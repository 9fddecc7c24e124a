//! Telemetries: of which requests spans are sent, where, and with what.

use std::collections::{BTreeMap, BTreeSet};

use super::objects::in_namespace;
use super::{ChangedKey, Index, ServicePort, ServiceRef};
use crate::source::NamespacedName;
use crate::source::crd::mesh::{self, Tracer};
use crate::source::crd::telemetry::{CustomTag, Telemetry, Tracing};

/// The spans of a waypoint's requests.
#[derive(Debug, Clone)]
pub struct Traced<'a> {
    /// Who collects them.
    pub tracer: &'a Tracer,
    /// Its service.
    pub service: ServiceRef,
    /// The port there.
    pub port: ServicePort,
    /// The share of traces that begin here, in percent; that of Istio where nothing is said.
    pub sampling: f64,
    /// What is told of each request besides.
    pub tags: BTreeMap<String, CustomTag>,
}

/// What a Telemetry is for: its kind and name.
type Target<'a> = (&'static str, &'a str);

/// Istio's, where nothing is said.
const SAMPLING: f64 = 1.0;

impl Index {
    /// What becomes of the spans of requests to a service behind a waypoint, or to a pod. What says it most closely holds: for the service, for
    /// the Gateway, for its class, for its namespace, for the mesh; each field by itself.
    #[must_use]
    pub fn traced(&self, waypoint: &NamespacedName, service: Option<&NamespacedName>) -> Option<Traced<'_>> {
        let mut asked = Tracing::default();
        for Tracing { provider, sampling, disabled, tags } in self.telemetries_of(waypoint, service) {
            asked = Tracing {
                provider: asked.provider.or(provider),
                sampling: asked.sampling.or(sampling),
                disabled: asked.disabled.or(disabled),
                tags: asked.tags.or(tags),
            };
        }
        if asked.disabled == Some(true) {
            return None;
        }
        let (tracer, service, port) = self.tracer(&asked.provider?).ok()?;
        let (sampling, tags) = (asked.sampling.unwrap_or(SAMPLING), asked.tags.unwrap_or_default());
        Some(Traced { tracer, service, port, sampling, tags })
    }

    /// What is asked of its spans, the closest first.
    fn telemetries_of(&self, waypoint: &NamespacedName, service: Option<&NamespacedName>) -> Vec<Tracing> {
        let asks = |telemetry: &Telemetry| matches!(telemetry.spec.spans(), Ok(Some(_)));
        let found = |(namespace, target)| self.telemetry_at(namespace, target, asks)?.spec.spans().ok().flatten();
        self.telemetry_levels(waypoint, service).into_iter().filter_map(found).collect()
    }

    /// What Telemetries may be for that hold for the traffic to a service, or for other traffic, at a waypoint or a proxy at the edge, the
    /// closest first: targets in a namespace, or all of one.
    pub(super) fn telemetry_levels<'a>(
        &'a self,
        gateway: &'a NamespacedName,
        service: Option<&'a NamespacedName>,
    ) -> Vec<(&'a str, Option<Target<'a>>)> {
        let root = self.config().root_namespace.as_str();
        let class = self.objects().gateways.get(gateway).map(|gateway| gateway.spec.gateway_class_name.as_str());
        let levels = [
            service.map(|service| (&*service.namespace, Some(("Service", &*service.name)))),
            Some((&*gateway.namespace, Some(("Gateway", &*gateway.name)))),
            class.map(|class| (root, Some(("GatewayClass", class)))),
            Some((&*gateway.namespace, None)),
            Some((root, None)),
        ];
        levels.into_iter().flatten().collect()
    }

    /// The oldest Telemetry that is for just this and asks for something.
    pub(super) fn telemetry_at(
        &self,
        namespace: &str,
        target: Option<Target<'_>>,
        asks: impl Fn(&Telemetry) -> bool,
    ) -> Option<&Telemetry> {
        let is_for = |telemetry: &Telemetry| {
            let of = telemetry.spec.attachment();
            match target {
                Some((kind, name)) => of.targets().any(|target| target.kind == kind && target.name == name),
                None => of.selector.is_none() && of.targets().next().is_none(),
            }
        };
        let all = in_namespace(&self.objects().telemetries, namespace).map(|(_, telemetry)| telemetry);
        let first = all.filter(|telemetry| is_for(telemetry) && asks(telemetry)).min_by_key(|telemetry| {
            let created = telemetry.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created.is_none(), created, NamespacedName::of(&telemetry.metadata))
        });
        first.map(|telemetry| &**telemetry)
    }

    /// Who collects the spans of a provider, and where.
    ///
    /// # Errors
    /// Why nobody does.
    pub fn tracer(&self, provider: &str) -> Result<(&Tracer, ServiceRef, ServicePort), String> {
        let key = NamespacedName::new(self.config().root_namespace.as_str(), mesh::NAME);
        let tracer = match self.objects().mesh_settings.get(&key).and_then(|settings| settings.tracers.get(provider)) {
            Some(Ok(tracer)) => tracer,
            Some(Err(why)) => return Err(format!("no spans can be sent to the extension provider {provider}: {why}")),
            None => {
                return Err(format!("the ConfigMap {key} has no extension provider {provider} of kind opentelemetry or zipkin"));
            }
        };
        let (service, port) = self.place_of(provider, &tracer.service, tracer.port)?;
        Ok((tracer, service, port))
    }

    /// What a Telemetry can change: it is for waypoints of its namespace, or of services there, or of all of the mesh.
    pub(super) fn telemetry_affected(&self, telemetry: &Telemetry, name: &NamespacedName, changed: &mut BTreeSet<ChangedKey>) {
        if telemetry.spec.tracing.is_empty() {
            return;
        }
        let everywhere = *name.namespace == *self.config().root_namespace;
        let there = self.waypoints().filter(|waypoint| everywhere || waypoint.namespace == name.namespace);
        changed.extend(there.cloned().map(ChangedKey::Waypoint));
        for target in telemetry.spec.attachment().targets().filter(|target| target.kind == "Service") {
            self.waypoint_of_service(&NamespacedName::new(name.namespace.clone(), target.name.as_str()), changed);
        }
    }

    /// Adds the waypoints whose spans are sent to this service, or may be.
    pub(super) fn waypoints_traced_to(&self, service: &ServiceRef, changed: &mut BTreeSet<ChangedKey>) {
        let host = service.hostname(self.config());
        let is_this = |tracer: &Tracer| tracer.service.rsplit('/').next().unwrap_or_default().eq_ignore_ascii_case(&host);
        let mut known = self.objects().mesh_settings.values().flat_map(|settings| settings.tracers.values());
        if !known.any(|tracer| tracer.as_ref().is_ok_and(is_this)) {
            return;
        }
        for (name, telemetry) in &self.objects().telemetries {
            self.telemetry_affected(telemetry, name, changed);
        }
    }
}
