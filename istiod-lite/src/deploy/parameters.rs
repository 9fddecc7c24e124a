//! What a user sets of a waypoint's objects: the ConfigMap that `spec.infrastructure.parametersRef` of a Gateway names.
//!
//! Each key is a part of the waypoint, each value YAML that is laid over it. Only fields on a list may be given: who may
//! write a ConfigMap and a Gateway must not get, by way of the control plane's own rights, pods that they could not make.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Part, pod::CONTAINER};

/// The keys of the ConfigMap.
const KEYS: [(&str, Part); 5] = [
    ("serviceAccount", Part::ServiceAccount),
    ("service", Part::Service),
    ("deployment", Part::Deployment),
    ("podDisruptionBudget", Part::PodDisruptionBudget),
    ("horizontalPodAutoscaler", Part::HorizontalPodAutoscaler),
];

/// Fields that may be given of every part; all below a field is as good as the field.
const OF_ALL: [&str; 2] = ["metadata.labels", "metadata.annotations"];

/// Fields that may be given of one part besides.
fn fields(part: Part) -> &'static [&'static str] {
    match part {
        Part::ServiceAccount => &[],
        Part::Service => &[
            "spec.ipFamilies",
            "spec.ipFamilyPolicy",
            "spec.internalTrafficPolicy",
            "spec.externalTrafficPolicy",
            "spec.trafficDistribution",
        ],
        Part::Deployment => &[
            "spec.replicas",
            "spec.strategy",
            "spec.minReadySeconds",
            "spec.progressDeadlineSeconds",
            "spec.revisionHistoryLimit",
            "spec.template.metadata.labels",
            "spec.template.metadata.annotations",
            "spec.template.spec.affinity",
            "spec.template.spec.imagePullSecrets",
            "spec.template.spec.nodeSelector",
            "spec.template.spec.priorityClassName",
            "spec.template.spec.terminationGracePeriodSeconds",
            "spec.template.spec.tolerations",
            "spec.template.spec.topologySpreadConstraints",
            "spec.template.spec.containers.name",
            "spec.template.spec.containers.resources",
        ],
        Part::PodDisruptionBudget => &["spec.minAvailable", "spec.maxUnavailable", "spec.unhealthyPodEvictionPolicy"],
        Part::HorizontalPodAutoscaler => &["spec.minReplicas", "spec.maxReplicas", "spec.metrics", "spec.behavior"],
    }
}

/// What is laid over the parts of one waypoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters(BTreeMap<Part, Value>);

impl Parameters {
    /// Reads the data of a ConfigMap.
    ///
    /// # Errors
    /// When a key, a value or a field is not one that may be given; a sentence that names it.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut parts = BTreeMap::new();
        for (key, text) in data {
            let Some((_, part)) = KEYS.iter().find(|(known, _)| known == key) else {
                let known = KEYS.map(|(known, _)| known).join(", ");
                return Err(format!("{key} is not a part of a waypoint; {known} are"));
            };
            let overlay: Value = if text.trim().is_empty() {
                Value::Object(serde_json::Map::new())
            } else {
                serde_saphyr::from_str(text).map_err(|error| format!("{key} is not YAML: {error}"))?
            };
            if !overlay.is_object() {
                return Err(format!("{key} is not a mapping of fields"));
            }
            check(&overlay, "", *part).map_err(|path| {
                let allowed = OF_ALL.iter().chain(fields(*part)).copied().collect::<Vec<_>>().join(", ");
                format!("{key}: {path} cannot be set; these can: {allowed}")
            })?;
            containers(&overlay).map_err(|reason| format!("{key}: {reason}"))?;
            parts.insert(*part, overlay);
        }
        Ok(Self(parts))
    }

    /// Whether a part is to be there: the last two only where they are spoken of, be it without a field.
    #[must_use]
    pub fn asks_for(&self, part: Part) -> bool {
        !matches!(part, Part::PodDisruptionBudget | Part::HorizontalPodAutoscaler) || self.0.contains_key(&part)
    }

    /// What is laid over a part.
    pub(super) fn overlay(&self, part: Part) -> Option<&Value> {
        self.0.get(&part)
    }
}

/// Whether every field may be given; the error is the path of one that may not.
fn check(value: &Value, path: &str, part: Part) -> Result<(), String> {
    let mut allowed = OF_ALL.iter().chain(fields(part));
    if !path.is_empty() && allowed.clone().any(|field| *field == path) {
        return Ok(());
    }
    let leads_on = path.is_empty() || allowed.any(|field| field.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')));
    match value {
        Value::Object(children) if leads_on => children.iter().try_for_each(|(key, child)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            check(child, &path, part)
        }),
        Value::Array(items) if leads_on => items.iter().try_for_each(|item| check(item, path, part)),
        _ => Err(path.to_owned()),
    }
}

/// There is one container, and no other is to be added.
fn containers(overlay: &Value) -> Result<(), String> {
    let Some(containers) = overlay.pointer("/spec/template/spec/containers") else { return Ok(()) };
    let ours = |container: &Value| container.get("name").and_then(Value::as_str) == Some(CONTAINER);
    match containers.as_array() {
        Some(list) if list.iter().all(ours) => Ok(()),
        _ => Err(format!("spec.template.spec.containers must name the container {CONTAINER}, and no other")),
    }
}

/// Lays one tree over another: mappings field by field, lists of things with names by name, all else whole. A field
/// that is null is taken away.
pub(super) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(key);
                } else if let Some(held) = base.get_mut(key) {
                    merge(held, value);
                } else {
                    base.insert(key.clone(), value.clone());
                }
            }
        }
        (Value::Array(base), Value::Array(over)) if named(base) && named(over) => {
            for value in over {
                match base.iter_mut().find(|held| held.get("name") == value.get("name")) {
                    Some(held) => merge(held, value),
                    None => base.push(value.clone()),
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

fn named(list: &[Value]) -> bool {
    !list.is_empty() && list.iter().all(|item| item.get("name").is_some_and(Value::is_string))
}
