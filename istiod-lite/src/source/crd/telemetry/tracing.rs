//! What a Telemetry asks of spans, as the public Istio API reference has its fields.

use std::collections::BTreeMap;

use http::HeaderName;
use serde::Deserialize;
use serde_json::Value;

use super::TelemetrySpec;

/// What is asked; what is not said is inherited.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tracing {
    /// The extension provider that spans are sent to.
    pub provider: Option<String>,
    /// The share of the traces that begin here, in percent.
    pub sampling: Option<f64>,
    /// No spans are sent.
    pub disabled: Option<bool>,
    /// What is told of each request besides.
    pub tags: Option<BTreeMap<String, CustomTag>>,
}

/// Something that is told of each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CustomTag {
    /// This text.
    Literal(String),
    /// The value of a header of the request.
    Header {
        /// Its name.
        name: String,
        /// What is told without it; nothing if this is empty.
        default: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    #[serde(default, rename = "match")]
    selects: Option<Selector>,
    #[serde(default)]
    providers: Vec<Provider>,
    random_sampling_percentage: Option<f64>,
    disable_span_reporting: Option<bool>,
    #[serde(default)]
    custom_tags: BTreeMap<String, Tag>,
    use_request_id_for_trace_sampling: Option<bool>,
    enable_istio_tags: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    #[serde(default)]
    mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tag {
    literal: Option<Literal>,
    header: Option<Header>,
    environment: Option<Value>,
    formatter: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Literal {
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header {
    name: String,
    #[serde(default)]
    default_value: String,
}

impl TelemetrySpec {
    /// What it asks of spans; nothing where it asks for none.
    ///
    /// # Errors
    /// The field that cannot be carried out, and why: then nothing of it is.
    pub fn spans(&self) -> Result<Option<Tracing>, (String, String)> {
        let at = |field: &str| format!("spec.tracing[0]{field}");
        let entry = match self.tracing.as_slice() {
            [] => return Ok(None),
            [entry] => entry,
            _ => {
                return Err((
                    "spec.tracing[1]".into(),
                    "only one entry is carried out: a waypoint has one span for a request".into(),
                ));
            }
        };
        if self.selector.is_some() {
            return Err(("spec.selector".into(), "spans are those of waypoints, which are named by targetRefs".into()));
        }
        let entry = Entry::deserialize(entry).map_err(|error| (at(""), error.to_string()))?;
        entry.read().map(Some).map_err(|(field, why)| (at(field), why))
    }
}

impl Entry {
    /// The error has the field within the entry.
    fn read(self) -> Result<Tracing, (&'static str, String)> {
        match self.selects.and_then(|selects| selects.mode).as_deref() {
            None | Some("CLIENT_AND_SERVER" | "SERVER") => {}
            Some(other) => return Err((".match.mode", format!("{other:?}: a waypoint is the server of its requests"))),
        }
        let mut providers = self.providers.into_iter().map(|provider| provider.name);
        let provider = providers.next();
        if providers.next().is_some() {
            return Err((".providers[1]", "spans are sent to one provider".into()));
        }
        if let Some(share) = self.random_sampling_percentage.filter(|share| !(0.0..=100.0).contains(share)) {
            return Err((".randomSamplingPercentage", format!("{share} is no percentage")));
        }
        if self.use_request_id_for_trace_sampling == Some(false) {
            return Err((".useRequestIdForTraceSampling", "the id of a request decides whether a trace begins with it".into()));
        }
        if self.enable_istio_tags == Some(true) {
            return Err((".enableIstioTags", "what is told besides is said by customTags".into()));
        }
        let tags: BTreeMap<String, CustomTag> =
            self.custom_tags.into_iter().map(|(name, tag)| tag.read(&name).map(|tag| (name, tag))).collect::<Result<_, _>>()?;
        Ok(Tracing {
            provider,
            sampling: self.random_sampling_percentage,
            disabled: self.disable_span_reporting,
            tags: Some(tags).filter(|tags| !tags.is_empty()),
        })
    }
}

impl Tag {
    fn read(self, name: &str) -> Result<CustomTag, (&'static str, String)> {
        let wrong = |why: &str| Err((".customTags", format!("{name}: {why}")));
        if name.is_empty() {
            return wrong("a tag without a name");
        }
        match (self.literal, self.header, self.environment.or(self.formatter)) {
            (Some(literal), None, None) if !literal.value.is_empty() => Ok(CustomTag::Literal(literal.value)),
            (Some(_), None, None) => wrong("literal.value: must not be empty"),
            (None, Some(header), None) if header.name.parse::<HeaderName>().is_ok() => {
                Ok(CustomTag::Header { name: header.name.to_ascii_lowercase(), default: header.default_value })
            }
            (None, Some(_), None) => wrong("header.name: is no name of a header"),
            _ => wrong("just one of literal and header is to be given"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(tracing: Value) -> Result<Option<Tracing>, (String, String)> {
        serde_json::from_value::<TelemetrySpec>(json!({"tracing": tracing})).unwrap().spans()
    }

    #[test]
    fn what_is_asked_of_spans_is_read_and_what_is_not_said_is_left_open() {
        assert_eq!(said(json!([])), Ok(None));
        assert_eq!(said(json!([{}])), Ok(Some(Tracing::default())));
        let all = said(json!([{
            "match": {"mode": "SERVER"}, "providers": [{"name": "otel"}], "randomSamplingPercentage": 12.5,
            "disableSpanReporting": false, "useRequestIdForTraceSampling": true, "enableIstioTags": false,
            "customTags": {"a": {"literal": {"value": "b"}}, "c": {"header": {"name": "X-D", "defaultValue": "e"}}},
        }]));
        let all = all.unwrap().unwrap();
        assert_eq!((all.provider.as_deref(), all.sampling, all.disabled), (Some("otel"), Some(12.5), Some(false)));
        let tags = all.tags.unwrap();
        assert_eq!(tags["a"], CustomTag::Literal("b".into()));
        assert_eq!(tags["c"], CustomTag::Header { name: "x-d".into(), default: "e".into() });
    }

    #[test]
    fn what_cannot_be_carried_out_of_spans_is_named() {
        for (entry, field, part) in [
            (json!({"match": {"mode": "CLIENT"}}), "spec.tracing[0].match.mode", "is the server"),
            (json!({"providers": [{"name": "a"}, {"name": "b"}]}), "spec.tracing[0].providers[1]", "one provider"),
            (json!({"randomSamplingPercentage": 101}), "spec.tracing[0].randomSamplingPercentage", "101 is no percentage"),
            (json!({"useRequestIdForTraceSampling": false}), "spec.tracing[0].useRequestIdForTraceSampling", "decides"),
            (json!({"enableIstioTags": true}), "spec.tracing[0].enableIstioTags", "customTags"),
            (json!({"customTags": {"a": {"environment": {"name": "HOME"}}}}), "spec.tracing[0].customTags", "a: just one of"),
            (json!({"customTags": {"a": {"header": {"name": "b c"}}}}), "spec.tracing[0].customTags", "a: header.name"),
            (json!({"sampler": {}}), "spec.tracing[0]", "unknown field `sampler`"),
        ] {
            let (at, why) = said(json!([entry])).unwrap_err();
            assert!(at == field && why.contains(part), "{at}: {why}");
        }
        assert_eq!(said(json!([{}, {}])).unwrap_err().0, "spec.tracing[1]");
        let selected = json!({"selector": {"matchLabels": {"app": "a"}}, "tracing": [{}]});
        let spec: TelemetrySpec = serde_json::from_value(selected).unwrap();
        assert_eq!(spec.spans().unwrap_err().0, "spec.selector");
    }
}
