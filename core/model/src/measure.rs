//! What of the metrics of requests and connections is another where somebody asks for it: which are counted, and by what.
//!
//! All values of a label are of a few: what clients choose freely would make each of them a series of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The metrics that can be changed: the name of each, what Istio's API calls it, and whether it is of requests.
pub const METRICS: [(&str, &str, bool); 6] = [
    ("istio_requests_total", "REQUEST_COUNT", true),
    ("istio_request_duration_milliseconds", "REQUEST_DURATION", true),
    ("istio_tcp_connections_opened_total", "TCP_OPENED_CONNECTIONS", false),
    ("istio_tcp_connections_closed_total", "TCP_CLOSED_CONNECTIONS", false),
    ("istio_tcp_sent_bytes_total", "TCP_SENT_BYTES", false),
    ("istio_tcp_received_bytes_total", "TCP_RECEIVED_BYTES", false),
];

/// The changes of metrics, by the name of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetricChanges(pub BTreeMap<String, MetricChange>);

/// What is another of one metric.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricChange {
    /// It is not counted.
    pub disabled: bool,
    /// Its labels that are others.
    pub labels: BTreeMap<String, LabelChange>,
}

/// What becomes of a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelChange {
    /// It is not there.
    Remove,
    /// It is this text.
    Text(String),
    /// It is this of a request or connection.
    Attribute(Attribute),
}

/// Something of a request or a connection that has few values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Attribute {
    /// The method, if it is one that HTTP knows, else `other`.
    #[serde(rename = "request.method")]
    Method,
    /// `http`, `grpc` or `tcp`.
    #[serde(rename = "request.protocol")]
    Protocol,
    /// The status.
    #[serde(rename = "response.code")]
    Code,
    /// The status of a call.
    #[serde(rename = "response.grpc_status")]
    GrpcStatus,
    /// How it ended, in Envoy's codes.
    #[serde(rename = "response.flags")]
    Flags,
    /// Whether it came by mutual TLS.
    #[serde(rename = "connection.mtls")]
    MutualTls,
    /// The port that was asked for.
    #[serde(rename = "destination.port")]
    Port,
    /// The name of the service that was asked for.
    #[serde(rename = "destination.service.name")]
    ServiceName,
    /// Its namespace.
    #[serde(rename = "destination.service.namespace")]
    ServiceNamespace,
    /// Its host.
    #[serde(rename = "destination.service.host")]
    ServiceHost,
    /// The route taken.
    #[serde(rename = "xds.route_name")]
    Route,
    /// The cluster chosen.
    #[serde(rename = "xds.cluster_name")]
    Cluster,
}

impl Attribute {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Method,
        Self::Protocol,
        Self::Code,
        Self::GrpcStatus,
        Self::Flags,
        Self::MutualTls,
        Self::Port,
        Self::ServiceName,
        Self::ServiceNamespace,
        Self::ServiceHost,
        Self::Route,
        Self::Cluster,
    ];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Method => "request.method",
            Self::Protocol => "request.protocol",
            Self::Code => "response.code",
            Self::GrpcStatus => "response.grpc_status",
            Self::Flags => "response.flags",
            Self::MutualTls => "connection.mtls",
            Self::Port => "destination.port",
            Self::ServiceName => "destination.service.name",
            Self::ServiceNamespace => "destination.service.namespace",
            Self::ServiceHost => "destination.service.host",
            Self::Route => "xds.route_name",
            Self::Cluster => "xds.cluster_name",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.name() == name)
    }
}

impl MetricChanges {
    /// What is another of a metric.
    #[must_use]
    pub fn of(&self, metric: &str) -> Option<&MetricChange> {
        self.0.get(metric)
    }
}

/// A method as the value of a label: clients may write what they want, and one that nobody knows is `other`.
#[must_use]
pub fn method(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_they_are_written_and_attributes_by_their_names() {
        let of = |label: LabelChange| MetricChange { disabled: false, labels: [("a".to_owned(), label)].into() };
        for attribute in Attribute::ALL {
            assert_eq!(Attribute::named(attribute.name()), Some(attribute));
            let changes = MetricChanges([("m".to_owned(), of(LabelChange::Attribute(attribute)))].into());
            let text = serde_json::to_string(&changes).unwrap();
            assert!(text.contains(&format!("{{\"attribute\":\"{}\"}}", attribute.name())), "{text}");
            assert_eq!(serde_json::from_str::<MetricChanges>(&text).unwrap(), changes);
        }
        let text = r#"{"m":{"disabled":true,"labels":{"a":"remove","b":{"text":"c"}}}}"#;
        let changes: MetricChanges = serde_json::from_str(text).unwrap();
        assert_eq!(changes.of("m").unwrap().labels["b"], LabelChange::Text("c".to_owned()));
        assert_eq!(serde_json::to_string(&changes).unwrap(), text);
        assert_eq!(Attribute::named("request.path"), None);
        for wrong in [r#"{"m":{"off":true}}"#, r#"{"m":{"labels":{"a":{"attribute":"request.path"}}}}"#, "[]"] {
            assert!(serde_json::from_str::<MetricChanges>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_method_that_nobody_knows_makes_no_series() {
        assert_eq!(["GET", "PATCH", "get", "X1", ""].map(method), ["GET", "PATCH", "other", "other", "other"]);
    }
}
