//! The headers of a CONNECT, by which the other side knows the client (wire contract, section 4).

use std::{net::SocketAddr, sync::Arc};

use ambit_model::{plan::Target, workload::Workload};
use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

use crate::proxy::Pod;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Headers for a connection of `pod`, whose workload is `source`, at `from`, to `target`.
pub(super) fn of(pod: &Pod, source: Option<&Arc<Workload>>, from: SocketAddr, target: &Target) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3);
    let host = target.service.as_ref().map_or(String::new(), |service| format!(";host={}", service.key.hostname));
    put(&mut headers, FORWARDED, &format!("for=\"{from}\"{host}"));
    if let Some(value) = source.and_then(|source| pod.known.baggage(source, baggage)) {
        headers.insert(BAGGAGE, value);
    }
    // W3C Trace Context, section 3.2: version, trace, span; not sampled.
    put(&mut headers, TRACEPARENT, &format!("00-{:032x}-{:016x}-00", fastrand::u128(1..), fastrand::u64(1..)));
    headers
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // A name from the control plane that cannot be a header is left out: the headers inform, nothing is decided by them.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn baggage(workload: &Workload) -> String {
    let kind = format!("k8s.{}.name", workload.kind.label());
    let members: [(&str, &str); 7] = [
        ("k8s.cluster.name", &workload.cluster),
        ("k8s.namespace.name", workload.namespace.as_str()),
        (&kind, &workload.workload_name),
        ("service.name", &workload.canonical_name),
        ("service.version", &workload.canonical_revision),
        ("cloud.region", &workload.locality.region),
        ("cloud.availability_zone", &workload.locality.zone),
    ];
    let known = members.iter().filter(|(_, value)| !value.is_empty());
    known.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
