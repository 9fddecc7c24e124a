//! The headers of a CONNECT, by which the other side knows the client (wire contract, section 4).

use std::{net::SocketAddr, sync::Arc};

use ambit_model::{plan::Target, workload::Workload};
use ambit_runtime::telemetry::{TRACEPARENT, Trace};
use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

use crate::proxy::Pod;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Headers for a connection of `pod`, whose workload is `source`, at `from`, to `target`, as part of `trace`.
pub(super) fn of(pod: &Pod, source: Option<&Arc<Workload>>, from: SocketAddr, target: &Target, trace: &Trace) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3);
    let host = target.service.as_ref().map_or(String::new(), |service| format!(";host={}", service.key.hostname));
    put(&mut headers, FORWARDED, &format!("for=\"{from}\"{host}"));
    if let Some(value) = source.and_then(|source| pod.known.baggage(source, baggage)) {
        headers.insert(BAGGAGE, value);
    }
    put(&mut headers, TRACEPARENT, &trace.write());
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

#[cfg(test)]
mod tests {
    use ambit_api::workload as wire;
    use ambit_model::service::Service;

    use super::*;
    use crate::test_support::pod;

    #[test]
    fn baggage_says_what_the_client_is() {
        let workload = |kind| wire::Workload {
            uid: "web".into(),
            namespace: "shop".into(),
            workload_type: kind,
            workload_name: "web-deployment".into(),
            canonical_name: "web".into(),
            canonical_revision: "v1".into(),
            cluster_id: "near".into(),
            locality: Some(wire::Locality { region: "north".into(), zone: "north-1".into(), subzone: "rack".into() }),
            ..Default::default()
        };
        for (kind, name) in [(0, "deployment"), (1, "cronjob"), (2, "pod"), (3, "job")] {
            let said = baggage(&workload(kind).try_into().unwrap());
            let right = format!(
                "k8s.cluster.name=near,k8s.namespace.name=shop,k8s.{name}.name=web-deployment,service.name=web,service.version=v1,\
                 cloud.region=north,cloud.availability_zone=north-1"
            );
            assert_eq!(said, right);
        }
        let bare = wire::Workload { uid: "web".into(), namespace: "shop".into(), ..Default::default() };
        assert_eq!(baggage(&bare.try_into().unwrap()), "k8s.namespace.name=shop");
    }

    #[test]
    fn the_headers_say_for_whom_and_for_which_service() {
        let service = wire::Service { namespace: "shop".into(), hostname: "api.example".into(), ..Default::default() };
        let service = Some(Arc::new(Service::try_from(service).unwrap()));
        let headers = of(&pod(), None, "10.0.0.1:4000".parse().unwrap(), &Target { service, workload: None }, &Trace::new(false));
        assert_eq!(headers[FORWARDED], "for=\"10.0.0.1:4000\";host=api.example");
        assert!(!headers.contains_key(BAGGAGE) && headers[TRACEPARENT].len() == 55);
        let headers = of(&pod(), None, "[fd00::1]:4000".parse().unwrap(), &Target::default(), &Trace::new(false));
        assert_eq!(headers[FORWARDED], "for=\"[fd00::1]:4000\"");
    }
}
