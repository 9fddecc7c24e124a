//! What resources say of themselves for filters to read (`envoy.config.core.v3.Metadata`).

use std::{collections::BTreeSet, sync::Arc};

use ambit_api::envoy::pb::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{ListValue, Struct, Value as Pb, value::Kind},
};
use ambit_identity::SpiffeId;
use ambit_model::measure::MetricChanges;
use serde_json::Value;

use super::read::{Compiled, Problem};

/// Under which our own say something.
const OWN: &str = "io.ambit";
const ADMINISTRATORS: &str = "explain_administrators";
const METRICS: &str = "metrics";
const MAX_HEADER_BYTES: &str = "max_header_bytes";

/// All of it, by filter. What is typed is for nobody here.
pub fn by_filter(metadata: Option<Metadata>) -> Value {
    let all = metadata.map(|metadata| metadata.filter_metadata).unwrap_or_default();
    if all.is_empty() {
        return Value::Null;
    }
    Value::Object(all.into_iter().map(|(filter, said)| (filter, object(said))).collect())
}

/// Who a listener says is an administrator of the mesh: nobody, where it says nothing of that.
pub fn administrators(metadata: Option<Metadata>) -> Compiled<BTreeSet<SpiffeId>> {
    let said = by_filter(metadata);
    let Some(named) = said.get(OWN).and_then(|own| own.get(ADMINISTRATORS)) else { return Ok(BTreeSet::new()) };
    let Value::Array(named) = named else { return Err(Problem::new(format!("{ADMINISTRATORS} is no list"))) };
    let identity = |one: &Value| one.as_str().and_then(|text| text.parse::<SpiffeId>().ok());
    let read = |one| identity(one).ok_or_else(|| Problem::new(format!("{ADMINISTRATORS}: {one} is no SPIFFE identity")));
    named.iter().map(read).collect()
}

/// What a filter chain says is another of the metrics of what it takes: a text, as a map has no order.
pub fn metrics(metadata: Option<Metadata>) -> Compiled<Option<Arc<MetricChanges>>> {
    let said = by_filter(metadata);
    let Some(said) = said.get(OWN).and_then(|own| own.get(METRICS)) else { return Ok(None) };
    let text = said.as_str().ok_or_else(|| Problem::new(format!("{METRICS} is no text")))?;
    let changes = serde_json::from_str(text).map_err(|error| Problem::new(format!("{METRICS}: {error}")))?;
    Ok(Some(Arc::new(changes)))
}

/// What the head of a request may take at most, in bytes, as a route says.
pub fn max_header_bytes(said: &Value) -> Compiled<Option<u32>> {
    let Some(said) = said.get(OWN).and_then(|own| own.get(MAX_HEADER_BYTES)) else { return Ok(None) };
    // Numbers of metadata are floating-point.
    let most = said.as_f64().filter(|most| most.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(most));
    match most {
        Some(most) => Ok(Some(most as u32)),
        None => Err(Problem::new(format!("{MAX_HEADER_BYTES}: {said} is no number of bytes"))),
    }
}

fn object(said: Struct) -> Value {
    Value::Object(said.fields.into_iter().map(|(name, value)| (name, self::value(value))).collect())
}

fn value(value: Pb) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => number.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StructValue(said)) => object(said),
        Some(Kind::ListValue(ListValue { values })) => Value::Array(values.into_iter().map(self::value).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, said: Kind) -> Result<Vec<String>, String> {
        let fields = [(key.to_owned(), Pb { kind: Some(said) })].into();
        let filter_metadata = [(OWN.to_owned(), Struct { fields })].into();
        let read = administrators(Some(Metadata { filter_metadata, ..Default::default() }));
        read.map(|all| all.iter().map(ToString::to_string).collect()).map_err(|problem| problem.to_string())
    }

    #[test]
    fn changes_of_metrics_are_one_text_and_what_is_not_known_rejects_the_chain() {
        let read = |said: Kind| {
            let fields = [(METRICS.to_owned(), Pb { kind: Some(said) })].into();
            let filter_metadata = [(OWN.to_owned(), Struct { fields })].into();
            metrics(Some(Metadata { filter_metadata, ..Default::default() })).map_err(|problem| problem.to_string())
        };
        let changes = read(Kind::StringValue(r#"{"istio_requests_total":{"disabled":true}}"#.to_owned())).unwrap().unwrap();
        assert!(changes.of("istio_requests_total").unwrap().disabled);
        assert_eq!(metrics(None).unwrap(), None);
        for wrong in [Kind::StringValue(r#"{"a":{"off":true}}"#.to_owned()), Kind::BoolValue(true)] {
            let problem = read(wrong).unwrap_err();
            assert!(problem.starts_with(METRICS), "{problem}");
        }
    }

    #[test]
    fn a_route_says_what_heads_may_take_in_whole_bytes_and_nothing_else() {
        let read = |said: Kind| {
            let fields = [(MAX_HEADER_BYTES.to_owned(), Pb { kind: Some(said) })].into();
            let filter_metadata = [(OWN.to_owned(), Struct { fields })].into();
            max_header_bytes(&by_filter(Some(Metadata { filter_metadata, ..Default::default() })))
                .map_err(|problem| problem.to_string())
        };
        assert_eq!(max_header_bytes(&Value::Null), Ok(None));
        assert_eq!(read(Kind::NumberValue(4096.0)), Ok(Some(4096)));
        for wrong in
            [Kind::NumberValue(0.0), Kind::NumberValue(1.5), Kind::NumberValue(-1.0), Kind::StringValue("4096".to_owned())]
        {
            let problem = read(wrong).unwrap_err();
            assert!(problem.starts_with("max_header_bytes: "), "{problem}");
        }
    }

    fn list(texts: &[&str]) -> Kind {
        let values = texts.iter().map(|text| Pb { kind: Some(Kind::StringValue((*text).to_owned())) }).collect();
        Kind::ListValue(ListValue { values })
    }

    #[test]
    fn administrators_are_identities_and_what_is_none_rejects_the_listener() {
        const ONE: &str = "spiffe://cluster.local/ns/ops/sa/admin";
        assert_eq!(read(ADMINISTRATORS, list(&[ONE, ONE])), Ok(vec![ONE.to_owned()]));
        assert_eq!(read(ADMINISTRATORS, list(&[])), Ok(Vec::new()));
        assert_eq!(read("service", list(&["shop/api"])), Ok(Vec::new()));
        assert_eq!(administrators(None), Ok(BTreeSet::new()));
        for wrong in [list(&[ONE, "*"]), list(&["ops/admin"]), Kind::StringValue(ONE.to_owned()), Kind::BoolValue(true)] {
            let problem = read(ADMINISTRATORS, wrong.clone()).unwrap_err();
            assert!(problem.starts_with(ADMINISTRATORS), "{wrong:?}: {problem}");
        }
    }
}
