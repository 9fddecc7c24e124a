//! Spans of requests: what they belong to, and who is told of them.

use std::time::Duration;

use ambit_integration::{SharedMesh, client::Client, shared, suite::Suite, wait};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{CLIENT, ECHO, authorizer::ask};

/// As for other policies.
const EFFECT: Duration = Duration::from_secs(15);
/// An Envoy keeps spans for five seconds.
const SENT: Duration = Duration::from_secs(30);
/// So many it sends at once.
const AT_ONCE: usize = 5;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

const TELEMETRIES: &str = r#"
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: spans, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: echo}]
  tracing: [{providers: [{name: spans}], randomSamplingPercentage: 100, customTags: {mesh: {literal: {value: ambit}}}}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: b3, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: echo-v2}]
  tracing: [{providers: [{name: b3}], randomSamplingPercentage: 100}]
"#;

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![shared(mesh, "sends spans of requests to a collector, and names them to backends", spans)]
}

/// A header that the backend sees of a request with these.
async fn seen(client: &Client, headers: &[(&str, &str)], name: &str) -> Result<String, String> {
    let answer = ask(client, "/first/traced", headers, "").await.map_err(|error| error.to_string())?;
    let echo = answer.echo().map_err(|error| error.to_string())?;
    echo.headers.get(name).cloned().ok_or_else(|| format!("no {name} in {echo:?}"))
}

async fn spans(suite: &Suite) -> anyhow::Result<()> {
    let (w3c, b3) = (suite.client(CLIENT, ECHO, 80)?, suite.client(CLIENT, "shop/echo-v2", 80)?);
    suite.apply("90-traces.yaml", TELEMETRIES)?;
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let by_w3c = [("traceparent", parent.as_str())];
    let by_b3 = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")];
    let named = async || match seen(&w3c, &by_w3c, "traceparent").await? {
        same if same == parent => Err(same),
        named => Ok(named),
    };
    wait::until("spans to be named by W3C's headers", EFFECT, named).await?;
    let named = async || match seen(&b3, &by_b3, "x-b3-spanid").await? {
        same if same == SPAN => Err(same),
        named => Ok(named),
    };
    wait::until("spans to be named by B3's headers", EFFECT, named).await?;
    let (mut of_w3c, mut of_b3) = (String::new(), String::new());
    for _ in 0..AT_ONCE {
        of_w3c = seen(&w3c, &by_w3c, "traceparent").await.map_err(anyhow::Error::msg)?;
        of_b3 = seen(&b3, &by_b3, "x-b3-spanid").await.map_err(anyhow::Error::msg)?;
    }
    let span = of_w3c.strip_prefix(&format!("00-{TRACE}-")).and_then(|rest| rest.strip_suffix("-01"));
    let span = span.with_context(|| format!("{of_w3c} is not of the trace"))?;
    ensure!(span != SPAN && of_b3 != SPAN, "{of_w3c} {of_b3}");
    let grandparent = seen(&b3, &by_b3, "x-b3-parentspanid").await.map_err(anyhow::Error::msg)?;
    ensure!(grandparent == SPAN, "{grandparent}");
    collected(suite, span, &of_b3).await?;
    suite.mesh.remove_manifest("90-traces.yaml")?;
    let gone = async || match seen(&w3c, &by_w3c, "traceparent").await? {
        same if same == parent => Ok(()),
        named => Err(named),
    };
    wait::until("nobody to be told of requests any more", EFFECT, gone).await.map(drop)
}

/// Waits until the collector has these spans, with what they belong to.
async fn collected(suite: &Suite, w3c: &str, b3: &str) -> anyhow::Result<()> {
    let collector = suite.client(CLIENT, "callers/authorizer", 8000)?;
    // Fields 1, 2 and 4 of OpenTelemetry's message: the trace, the span, and what it belongs to.
    let fields = format!("0a10{TRACE}1208{w3c}2208{SPAN}");
    let tag: String = b"ambit".iter().map(|byte| format!("{byte:02x}")).collect();
    let taken = async || {
        let answer = ask(&collector, "/taken", &[], "").await.map_err(|error| error.to_string())?;
        let taken: Vec<Value> = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let has = |taken: &Value, text: &str| taken["hex"].as_str().is_some_and(|hex| hex.contains(text));
        let by_w3c = taken.iter().any(|taken| has(taken, &fields) && has(taken, &tag));
        let spans = taken.iter().filter(|taken| taken["path"] == "/api/v2/spans");
        let spans = spans.filter_map(|taken| serde_json::from_str::<Vec<Value>>(taken["text"].as_str()?).ok()).flatten();
        let by_b3 = spans.filter(|span| span["id"] == b3).any(|span| span["parentId"] == SPAN && span["traceId"] == TRACE);
        match by_w3c && by_b3 {
            true => Ok(()),
            false => Err(format!("OTLP: {by_w3c}, Zipkin: {by_b3}, of {taken:?}")),
        }
    };
    wait::until("the collector to have the spans", SENT, taken).await.map(drop)
}
