//! What a Telemetry asks of metrics, as the public Istio API reference has its fields.

use std::collections::BTreeMap;

use ambit_model::measure::{Attribute, LabelChange, METRICS, MetricChanges};
use serde::Deserialize;

use super::TelemetrySpec;

/// The only provider there is: metrics are scraped.
const PROVIDER: &str = "prometheus";
/// The longest text, and the most labels of one override.
const LONGEST: usize = 128;
const MOST: usize = 16;

/// What is another of some metrics; what is not said is inherited.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricOverride {
    /// Their names.
    pub metrics: Vec<&'static str>,
    /// They are not counted, or are again.
    pub disabled: Option<bool>,
    /// What becomes of labels.
    pub labels: BTreeMap<String, LabelChange>,
}

impl MetricOverride {
    /// Adds it to what those say that are less close.
    pub fn apply(&self, changes: &mut MetricChanges) {
        for metric in &self.metrics {
            let change = changes.0.entry((*metric).to_owned()).or_default();
            change.disabled = self.disabled.unwrap_or(change.disabled);
            change.labels.extend(self.labels.clone());
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    providers: Vec<Provider>,
    #[serde(default)]
    overrides: Vec<Override>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Override {
    #[serde(default, rename = "match")]
    selects: Selector,
    disabled: Option<bool>,
    #[serde(default)]
    tag_overrides: BTreeMap<String, Tag>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    metric: Option<String>,
    custom_metric: Option<String>,
    mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tag {
    operation: Option<String>,
    #[serde(default)]
    value: String,
}

impl TelemetrySpec {
    /// What it asks of metrics of waypoints and of proxies at the edge, in order, and each part that is not carried out, with the field and why.
    #[must_use]
    pub fn measured(&self) -> (Vec<MetricOverride>, Vec<(String, String)>) {
        let (mut asked, mut faults) = (Vec::new(), Vec::new());
        if self.selector.is_some() && !self.metrics.is_empty() {
            let why =
                "metrics of node proxies are alike for all pods; give targetRefs to Services with a waypoint, or to a Gateway";
            faults.push(("spec.selector".to_owned(), why.to_owned()));
        }
        for (at, entry) in self.metrics.iter().enumerate() {
            let at = format!("spec.metrics[{at}]");
            let entry = match Entry::deserialize(entry) {
                Ok(entry) => entry,
                Err(error) => {
                    faults.push((at, error.to_string()));
                    continue;
                }
            };
            if let Some(other) = entry.providers.iter().find(|provider| provider.name != PROVIDER) {
                let why = format!("{}: metrics are scraped, so {PROVIDER} is the only provider", other.name);
                faults.push((format!("{at}.providers"), why));
            }
            // Of others it is not said what prometheus is to have.
            if !entry.providers.is_empty() && !entry.providers.iter().any(|provider| provider.name == PROVIDER) {
                continue;
            }
            for (index, one) in entry.overrides.into_iter().enumerate() {
                let at = format!("{at}.overrides[{index}]");
                asked.extend(one.read(&at, &mut faults));
            }
        }
        (asked, faults)
    }
}

impl Override {
    fn read(self, at: &str, faults: &mut Vec<(String, String)>) -> Option<MetricOverride> {
        match self.selects.mode.as_deref() {
            None | Some("CLIENT_AND_SERVER" | "SERVER") => {}
            // For the proxies of clients, which a waypoint is not.
            Some("CLIENT") => return None,
            Some(other) => {
                faults.push((format!("{at}.match.mode"), format!("{other:?} is no mode")));
                return None;
            }
        }
        let metrics = match self.selects.metrics(self.disabled == Some(true)) {
            Ok(metrics) => metrics,
            Err((field, why)) => {
                faults.push((format!("{at}.match.{field}"), why));
                return None;
            }
        };
        let mut labels = BTreeMap::new();
        for (name, tag) in self.tag_overrides {
            let read = match is_label(&name) {
                _ if labels.len() >= MOST => Err(format!("more than {MOST} labels are not changed by one override")),
                false => Err("is no name of a label: letters, digits and _, not first a digit or __".to_owned()),
                true => tag.read(),
            };
            match read {
                Ok(change) => drop(labels.insert(name, change)),
                Err(why) => faults.push((format!("{at}.tagOverrides"), format!("{name}: {why}"))),
            }
        }
        Some(MetricOverride { metrics, disabled: self.disabled, labels })
    }
}

impl Selector {
    /// The metrics that are meant, or the field that means none, and why. What is not there need not be disabled.
    fn metrics(&self, disabled: bool) -> Result<Vec<&'static str>, (&'static str, String)> {
        let named = |wanted: &dyn Fn(&str, &str) -> bool| -> Vec<&'static str> {
            METRICS.iter().filter(|(name, of_istio, _)| wanted(name, of_istio)).map(|(name, ..)| *name).collect()
        };
        match (self.metric.as_deref(), self.custom_metric.as_deref()) {
            (Some(_), Some(_)) => Err(("customMetric", "just one of metric and customMetric is to be given".into())),
            (None, None) | (Some("ALL_METRICS"), None) => Ok(named(&|_, _| true)),
            (Some(metric), None) => {
                let found = named(&|_, of_istio| of_istio == metric);
                let known = ["REQUEST_SIZE", "RESPONSE_SIZE", "GRPC_REQUEST_MESSAGES", "GRPC_RESPONSE_MESSAGES"];
                match found.is_empty() && !(disabled && known.contains(&metric)) {
                    true => Err(("metric", format!("waypoints do not count {metric}"))),
                    false => Ok(found),
                }
            }
            (None, Some(metric)) => {
                let found = named(&|name, _| name == metric);
                let all = METRICS.map(|(name, ..)| name).join(", ");
                match found.is_empty() {
                    true => Err(("customMetric", format!("there is no metric {metric} that can be changed; these can: {all}"))),
                    false => Ok(found),
                }
            }
        }
    }
}

impl Tag {
    fn read(&self) -> Result<LabelChange, String> {
        match self.operation.as_deref() {
            Some("REMOVE") => return Ok(LabelChange::Remove),
            None | Some("UPSERT") => {}
            Some(other) => return Err(format!("{other} is no operation: UPSERT and REMOVE are")),
        }
        let value = self.value.trim();
        let quoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        match quoted {
            Some(text) if text.len() > LONGEST => Err(format!("a text of more than {LONGEST} bytes")),
            Some(text) if text.contains(['"', '\'', '\\']) || text.chars().any(char::is_control) => {
                Err(format!("{value}: a text has no quotes, backslashes or control characters in it, and there are no expressions"))
            }
            Some(text) => Ok(LabelChange::Text(text.to_owned())),
            None => Attribute::named(value).map(LabelChange::Attribute).ok_or_else(|| {
                let few = Attribute::ALL.map(Attribute::name).join(", ");
                format!(
                    "{value:?} may have any number of values, each of which would be a series for as long as the waypoint runs; a text in quotes and these have few: {few}"
                )
            }),
        }
    }
}

/// Whether Prometheus takes it for the name of a label, and it is nobody else's.
fn is_label(name: &str) -> bool {
    let word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    let of_others = name.starts_with("__") || name.as_bytes().first().is_none_or(u8::is_ascii_digit) || name == "le";
    name.len() <= 64 && !of_others && name.bytes().all(word)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(metrics: Value) -> (Vec<MetricOverride>, Vec<(String, String)>) {
        serde_json::from_value::<TelemetrySpec>(json!({"metrics": metrics})).unwrap().measured()
    }

    #[test]
    fn what_is_asked_of_metrics_is_read() {
        assert_eq!(said(json!([{}, {"providers": [{"name": "prometheus"}]}])), (vec![], vec![]));
        let (asked, faults) = said(json!([{"providers": [{"name": "prometheus"}], "overrides": [
            {"match": {"metric": "REQUEST_COUNT", "mode": "SERVER"}, "tagOverrides": {
                "source_principal": {"operation": "REMOVE"}, "method": {"value": "request.method"},
                "stage": {"operation": "UPSERT", "value": "'live'"}, "zone": {"value": "\"a\""},
            }},
            {"match": {"metric": "TCP_SENT_BYTES", "mode": "CLIENT"}, "disabled": true},
            {"match": {"metric": "REQUEST_SIZE"}, "disabled": true},
            {"match": {"customMetric": "istio_tcp_sent_bytes_total"}, "disabled": true},
            {"match": {"metric": "ALL_METRICS"}, "disabled": false},
        ]}]));
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(asked.iter().map(|one| one.metrics.len()).collect::<Vec<_>>(), [1, 0, 1, METRICS.len()]);
        let mut changes = MetricChanges::default();
        asked.iter().for_each(|one| one.apply(&mut changes));
        assert!(changes.0.values().all(|change| !change.disabled), "the last one that says it holds: {changes:?}");
        let text = |text: &str| LabelChange::Text(text.to_owned());
        let expected = [
            ("method", LabelChange::Attribute(Attribute::Method)),
            ("source_principal", LabelChange::Remove),
            ("stage", text("live")),
            ("zone", text("a")),
        ];
        let labels = &changes.of("istio_requests_total").unwrap().labels;
        assert_eq!(*labels, BTreeMap::from(expected.map(|(name, change)| (name.to_owned(), change))));
    }

    #[test]
    fn what_is_not_carried_out_is_named_and_the_rest_holds() {
        let tag = |name: &str, tag: Value| json!([{"overrides": [{"tagOverrides": {name: tag, "kept": {"value": "'1'"}}}]}]);
        let at = "spec.metrics[0].overrides[0]";
        for (metrics, field, part, kept) in [
            (tag("path", json!({"value": "request.path"})), ".tagOverrides", "path: \"request.path\" may have any number", 1),
            (tag("user", json!({"value": "request.headers['x-user']"})), ".tagOverrides", "any number of values", 1),
            (tag("a", json!({"value": "'a' + 'b'"})), ".tagOverrides", "no expressions", 1),
            (tag("a", json!({"operation": "ADD"})), ".tagOverrides", "ADD is no operation", 1),
            (tag("a-b", json!({"operation": "REMOVE"})), ".tagOverrides", "a-b: is no name of a label", 1),
            (json!([{"overrides": [{"match": {"metric": "REQUEST_SIZE"}}]}]), ".match.metric", "do not count REQUEST_SIZE", 0),
            (json!([{"overrides": [{"match": {"customMetric": "own"}}]}]), ".match.customMetric", "no metric own", 0),
            (json!([{"overrides": [{"match": {"mode": "BOTH"}}]}]), ".match.mode", "no mode", 0),
        ] {
            let (asked, faults) = said(metrics.clone());
            let [(path, why)] = faults.as_slice() else { panic!("{metrics}: {faults:?}") };
            assert!(*path == format!("{at}{field}") && why.contains(part), "{metrics}: {path}: {why}");
            assert_eq!(asked.iter().map(|one| one.labels.len()).sum::<usize>(), kept, "{metrics}");
        }
        for (metrics, field) in [
            (json!([{"providers": [{"name": "stackdriver"}], "overrides": [{"disabled": true}]}]), "spec.metrics[0].providers"),
            (json!([{"reportingInterval": "5s"}]), "spec.metrics[0]"),
        ] {
            let (asked, faults) = said(metrics);
            assert_eq!((asked, faults[0].0.as_str()), (vec![], field));
        }
        let many: BTreeMap<String, Value> = (0..MOST + 1).map(|at| (format!("l{at}"), json!({"operation": "REMOVE"}))).collect();
        let (asked, faults) = said(json!([{"overrides": [{"tagOverrides": many}]}]));
        assert_eq!((asked[0].labels.len(), faults.len()), (MOST, 1));
        let selected = json!({"selector": {"matchLabels": {"app": "a"}}, "metrics": [{}]});
        let spec: TelemetrySpec = serde_json::from_value(selected).unwrap();
        assert_eq!(spec.measured().1[0].0, "spec.selector");
    }
}
