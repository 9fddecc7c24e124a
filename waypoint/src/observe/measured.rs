//! The labels of metrics that somebody has asked to be others.

use std::borrow::Cow;

use ambit_model::measure::{Attribute, LabelChange, MetricChange, method};
use ambit_runtime::telemetry::{Security, label};
use metrics::{Label, SharedString};

use super::{
    Record,
    telemetry::{flags, security},
};

/// The labels as this change has them; what is not known of a record is `unknown`.
pub(super) fn changed(mut labels: Vec<Label>, change: &MetricChange, record: &Record) -> Vec<Label> {
    for (name, change) in &change.labels {
        let value = match change {
            LabelChange::Remove => None,
            LabelChange::Text(text) => Some(Cow::Borrowed(text.as_str())),
            LabelChange::Attribute(attribute) => Some(value(*attribute, record).unwrap_or(Cow::Borrowed(label::UNKNOWN))),
        };
        let place = labels.iter().position(|label| label.key() == name.as_str());
        let label =
            value.map(|value| Label::new(SharedString::from_owned(name.clone()), SharedString::from_owned(value.into_owned())));
        match (place, label) {
            (Some(place), Some(label)) => drop(labels.splice(place..=place, [label])),
            (Some(place), None) => drop(labels.remove(place)),
            (None, Some(label)) => labels.push(label),
            (None, None) => {}
        }
    }
    labels
}

/// What attributes tell of a record beyond its labels, for as many as are asked for.
pub(super) fn facts<'a>(change: &'a MetricChange, record: &'a Record) -> impl Iterator<Item = Option<Cow<'a, str>>> {
    change.labels.values().map(move |change| match change {
        LabelChange::Attribute(attribute) => value(*attribute, record),
        LabelChange::Remove | LabelChange::Text(_) => None,
    })
}

fn value(attribute: Attribute, record: &Record) -> Option<Cow<'_, str>> {
    let service = record.service.as_ref();
    let text = match attribute {
        Attribute::Method => return record.request.as_ref().map(|(name, _)| Cow::Borrowed(method(name.as_str()))),
        Attribute::Protocol => return Some(Cow::Borrowed(record.protocol)),
        Attribute::Code => return record.status.map(|status| Cow::Owned(status.to_string())),
        Attribute::GrpcStatus => return record.grpc_status.map(|status| Cow::Owned(status.to_string())),
        Attribute::Flags => return Some(Cow::Owned(flags(record.reason, record.given, record.delayed).into_owned())),
        Attribute::MutualTls => {
            let by_tls = matches!(security(record), Security::MutualTls);
            return Some(Cow::Borrowed(if by_tls { "true" } else { "false" }));
        }
        Attribute::Port => return Some(Cow::Owned(record.destination.port().to_string())),
        Attribute::ServiceName => service.map(|service| &service.name),
        Attribute::ServiceNamespace => service.map(|service| &service.namespace),
        Attribute::ServiceHost => service.map(|service| &service.host),
        Attribute::Route => record.route.as_ref(),
        Attribute::Cluster => record.cluster.as_ref(),
    };
    text.map(|text| Cow::Borrowed(&**text)).filter(|text| !text.is_empty())
}
