//! Metrics with the labels that somebody has asked for.

use std::time::{Duration, Instant};

use ambit_api::{
    envoy::pb::{
        envoy::config::core::v3::Metadata,
        google::protobuf::{Struct, Value, value::Kind},
    },
    type_url,
};
use ambit_runtime::telemetry::metrics_handle;
use http::Request;

use super::{
    billing,
    support::{
        WEB,
        client::{Body, once},
        resources,
    },
};

/// What is asked for, as the control plane sends it.
const CHANGES: &str = r#"{
    "istio_requests_total": {"labels": {
        "stage": {"text": "measured"}, "method": {"attribute": "request.method"}, "reporter": {"text": "own"}, "source_principal": "remove"
    }},
    "istio_request_duration_milliseconds": {"disabled": true, "labels": {"stage": {"text": "measured"}}}
}"#;

#[tokio::test]
async fn metrics_have_the_labels_that_somebody_asks_for_and_methods_that_nobody_knows_are_one() {
    let (mesh, service, _) = billing(235).await;
    let mut listeners = resources::listeners(std::slice::from_ref(&service));
    for chain in listeners.iter_mut().flat_map(|(_, listener)| &mut listener.filter_chains) {
        let text = Value { kind: Some(Kind::StringValue(CHANGES.to_owned())) };
        let own = Struct { fields: [("metrics".to_owned(), text)].into() };
        chain.metadata = Some(Metadata { filter_metadata: [("io.ambit".to_owned(), own)].into(), ..Default::default() });
    }
    listeners.retain(|(name, _)| name == "main_internal");
    mesh.deliver(type_url::LISTENER, listeners);
    for method in ["GET", "GET", "X-ONE", "X-TWO"] {
        let request = Request::builder().method(method).uri("/").header("host", "billing.shop").body(Body::default()).unwrap();
        assert_eq!(once(&mesh, WEB, service.vip, request).await.0, 200, "{method}");
    }
    let metrics = metrics_handle().unwrap();
    let began = Instant::now();
    loop {
        let text = metrics.render();
        let mine: Vec<&str> = text.lines().filter(|line| line.contains("stage=\"measured\"")).collect();
        let of = |method: &str| mine.iter().any(|line| line.contains(&format!("method=\"{method}\"")) && line.ends_with(" 2"));
        if of("GET") && of("other") {
            let plain = |line: &&str| line.starts_with("istio_requests_total{") && !line.contains("source_principal=");
            assert!(mine.len() == 2 && mine.iter().all(plain), "{mine:#?}");
            assert!(
                mine.iter().all(|line| line.contains("reporter=\"own\"") && line.contains("response_code=\"200\"")),
                "{mine:#?}"
            );
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{mine:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
