//! What of metrics is another for what a filter chain takes. Our own waypoint reads it; an Envoy counts otherwise, and takes it for a note.

use ambit_api::envoy::pb::envoy::config::core::v3::Metadata;
use ambit_api::envoy::pb::google::protobuf::Struct;
use ambit_model::measure::MetricChanges;

use super::names::AMBIT_METADATA;
use super::wire::{entry, string_kind};

/// It as one text: a map of more than one entry would have another order each time.
pub fn metadata(changes: Option<&MetricChanges>) -> Option<Metadata> {
    let text = serde_json::to_string(changes?).ok()?;
    let own = Struct { fields: entry("metrics", string_kind(text)) };
    Some(Metadata { filter_metadata: entry(AMBIT_METADATA, own), ..Default::default() })
}
