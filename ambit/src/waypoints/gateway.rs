//! The Gateway that asks for a waypoint, and what its status says.

use std::collections::BTreeMap;

use gateway_api::gateways::Gateway;
use istiod_lite::deploy::WAYPOINT_CLASS;
use istiod_lite::index::label::WAYPOINT_FOR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

/// What goes through a waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum WaypointFor {
    /// Requests to services
    Service,
    /// Connections to pods by their address
    Workload,
    /// Both
    All,
    /// Nothing
    None,
}

impl WaypointFor {
    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// Whose services may go through a waypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admit {
    /// Those of its own namespace.
    Same,
    /// Everybody's.
    All,
    /// Those of namespaces with this label.
    Label(String, String),
}

impl std::str::FromStr for Admit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "same" => Ok(Self::Same),
            "all" => Ok(Self::All),
            _ => match text.split_once('=') {
                Some((key, value)) if !key.is_empty() => Ok(Self::Label(key.into(), value.into())),
                _ => Err("neither `same`, nor `all`, nor a label KEY=VALUE of namespaces".into()),
            },
        }
    }
}

impl Admit {
    /// As `allowedRoutes` of a listener.
    fn allowed_routes(&self) -> Value {
        let namespaces = match self {
            Self::Same => json!({ "from": "Same" }),
            Self::All => json!({ "from": "All" }),
            Self::Label(key, value) => json!({ "from": "Selector", "selector": { "matchLabels": { key: value } } }),
        };
        json!({ "namespaces": namespaces })
    }
}

/// The Gateway, as it is applied. What is not said stays as it is `held`.
pub fn manifest(
    namespace: &str,
    name: &str,
    serves: Option<WaypointFor>,
    admit: Option<&Admit>,
    held: Option<&Gateway>,
) -> Value {
    let mut listener = json!({ "name": "mesh", "port": 15008, "protocol": "HBONE" });
    let held_listener = held.and_then(|held| held.spec.listeners.iter().find(|listener| listener.name == "mesh"));
    let held_routes = held_listener.and_then(|listener| serde_json::to_value(listener.allowed_routes.as_ref()?).ok());
    if let Some(allowed) = admit.map(Admit::allowed_routes).or(held_routes) {
        listener["allowedRoutes"] = allowed;
    }
    let mut metadata = json!({ "name": name, "namespace": namespace });
    let held_serves = held.and_then(|held| label(held.metadata.labels.as_ref(), WAYPOINT_FOR));
    if let Some(serves) = serves.map(WaypointFor::as_str).or(held_serves) {
        metadata["labels"] = json!({ WAYPOINT_FOR: serves });
    }
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": metadata,
        "spec": { "gatewayClassName": WAYPOINT_CLASS, "listeners": [listener] },
    })
}

/// What a Gateway's label says goes through it.
pub fn serves(gateway: &Gateway) -> &str {
    label(gateway.metadata.labels.as_ref(), WAYPOINT_FOR).unwrap_or("service")
}

pub fn label<'a>(labels: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    labels.and_then(|labels| labels.get(key)).map(String::as_str)
}

pub fn addresses(gateway: &Gateway) -> String {
    let all = gateway.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.map(|address| address.value.as_str()).collect::<Vec<_>>().join(",")
}

/// How far a waypoint has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It can be used.
    Ready,
    /// It may become usable without anybody's doing; what is missing.
    Waiting(String),
    /// Somebody has to change something; what.
    Stuck(String),
}

/// What the conditions of a Gateway say, as far as they speak of it as it is now.
pub fn progress(gateway: &Gateway) -> Progress {
    let generation = gateway.metadata.generation;
    let condition = |name: &str| -> Option<&Condition> {
        let all = gateway.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut current = all.filter(|one| one.observed_generation == generation || generation.is_none());
        current.find(|one| one.type_ == name && one.status != "Unknown")
    };
    let (accepted, programmed) = (condition("Accepted"), condition("Programmed"));
    match (accepted, programmed) {
        (None, _) => Progress::Waiting("no control plane has looked at it yet; is istiod-lite running?".into()),
        (Some(accepted), _) if accepted.status == "False" => Progress::Stuck(accepted.message.clone()),
        (_, Some(programmed)) if programmed.status == "True" => Progress::Ready,
        (_, Some(programmed)) if programmed.reason == "Invalid" => Progress::Stuck(programmed.message.clone()),
        (_, Some(programmed)) => Progress::Waiting(programmed.message.clone()),
        (_, None) => Progress::Waiting("it is not deployed yet".into()),
    }
}
