use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::telemetry::{Direction, registry::Registry};

/// A collector that answers its requests with these statuses, then with 200, and keeps what it was sent.
async fn collector(statuses: &'static [u16]) -> (Collector, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let collector = format!("http://{}/base/", listener.local_addr().unwrap()).parse().unwrap();
    let kept: Arc<Mutex<Vec<Value>>> = Arc::default();
    let keep = Arc::clone(&kept);
    tokio::spawn(async move {
        let mut statuses = statuses.iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut request, mut head) = (Vec::new(), None::<(usize, usize)>);
            while head.is_none_or(|(end, length)| request.len() < end + length) {
                let read = stream.read_buf(&mut request).await.unwrap();
                assert!(read > 0, "it ended early");
                let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
                let text = std::str::from_utf8(&request[..end]).unwrap().to_ascii_lowercase();
                assert!(text.starts_with("post /base/v1/traces http/1.1\r\n"), "{text}");
                assert!(text.contains("content-type: application/json"), "{text}");
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                head = Some((end + 4, length.parse::<usize>().unwrap()));
            }
            let status = statuses.next().copied().unwrap_or(200);
            stream.write_all(format!("HTTP/1.1 {status} so\r\ncontent-length: 2\r\n\r\n{{}}").as_bytes()).await.unwrap();
            if status == 200 {
                keep.lock().unwrap().push(serde_json::from_slice(&request[head.unwrap().0..]).unwrap());
            }
        }
    });
    (collector, kept)
}

fn entry() -> Entry<'static> {
    let mut entry = Entry::new(Direction::Outbound, "10.0.0.1:4000".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
    entry.destination_service = Some("api.shop.svc.cluster.local".into());
    entry.duration = Duration::from_millis(250);
    entry.bytes_sent = 1 << 60;
    entry
}

#[tokio::test]
async fn spans_of_sampled_traces_come_to_the_collector_in_its_encoding() {
    let (collector, kept) = collector(&[503]).await;
    let (spans, task) = Spans::new(collector, 1.0, &[("service.name", "ztunnel")]);
    let task = tokio::spawn(task);
    let trace = spans.begin();
    assert!(trace.sampled);
    spans.send(&entry(), &trace);
    let failed = Entry { reason: "upstream_refused".into(), error: Some("it refused".into()), ..entry() };
    spans.send(&failed, &trace.next());
    spans.send(&entry(), &Trace::new(false));
    spans.flush(Duration::from_secs(20)).await;
    let requests = kept.lock().unwrap().clone();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    let resource = &request["resourceSpans"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "ztunnel");
    let sent = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(sent.len(), 2, "{request}");
    assert_eq!(sent[0]["traceId"], format!("{:032x}", trace.id));
    assert_eq!(sent[0]["spanId"], format!("{:016x}", trace.span));
    assert_eq!((sent[0].get("parentSpanId"), &sent[1]["parentSpanId"]), (None, &sent[0]["spanId"]));
    assert_eq!((&sent[0]["name"], &sent[0]["kind"]), (&"outbound api.shop.svc.cluster.local".into(), &3.into()));
    let time = |name: &str| sent[0][name].as_str().unwrap().parse::<u128>().unwrap();
    assert_eq!(time("endTimeUnixNano") - time("startTimeUnixNano"), 250_000_000);
    let attributes = sent[0]["attributes"].as_array().unwrap();
    let bytes = attributes.iter().find(|attribute| attribute["key"] == "mesh.bytes_sent").unwrap();
    assert_eq!(bytes["value"]["intValue"], (1_u64 << 60).to_string());
    assert_eq!((sent[0].get("status"), &sent[1]["status"]["code"]), (None, &2.into()));
    assert_eq!(sent[1]["status"]["message"], "it refused");
    drop(spans);
    task.await.unwrap();
}

#[tokio::test]
async fn nobody_waits_for_a_collector_and_what_it_refuses_is_not_sent_again() {
    let (refusing, kept) = collector(&[400]).await;
    let (spans, task) = Spans::new(refusing, 1.0, &[]);
    // Nobody sends yet.
    for _ in 0..QUEUE + 10 {
        spans.send(&entry(), &spans.begin());
    }
    tokio::spawn(task);
    spans.flush(Duration::from_secs(20)).await;
    let sent: usize = kept
        .lock()
        .unwrap()
        .iter()
        .map(|request| request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len())
        .sum();
    assert_eq!(sent, QUEUE - 512);
}

/// What the program's log says.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_collector_that_takes_nothing_is_named_once_and_each_failure_counted() {
    let (said, registry) = (Said::default(), Registry::default());
    // With one subscriber alone, a line that a test on another thread comes to first is taken for one that nobody listens to.
    let _another = tracing::dispatcher::Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
    let writer = said.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _log = tracing::subscriber::set_default(log);
    let _counted = metrics::set_default_local_recorder(&registry);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (spans, task) = Spans::new(format!("http://{address}").parse().unwrap(), 1.0, &[]);
    tokio::spawn(task);
    for _ in 0..2 {
        spans.send(&entry(), &spans.begin());
        spans.flush(Duration::from_secs(20)).await;
    }
    let text = registry.render();
    for line in ["ambit_span_export_failures_total{reason=\"unreachable\"} 6", "ambit_spans_dropped_total 2"] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    let (refusing, _) = collector(&[400]).await;
    let (spans, task) = Spans::new(refusing.clone(), 1.0, &[]);
    tokio::spawn(task);
    for _ in 0..2 {
        spans.send(&entry(), &spans.begin());
        spans.flush(Duration::from_secs(20)).await;
    }
    let log = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    let lines = |parts: &[&str]| log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count();
    assert_eq!(lines(&["WARN", &format!("http://{address}"), "refused"]), 1, "{log}");
    assert_eq!(lines(&["WARN", &refusing.to_string(), "400"]), 1, "{log}");
    assert_eq!(lines(&["INFO", &refusing.to_string(), "takes spans again"]), 1, "{log}");
    assert!(registry.render().contains("{reason=\"refused\"} 1"), "{}", registry.render());
}

#[test]
fn a_collector_is_a_plain_url() {
    let collector = |text: &str| text.parse::<Collector>();
    assert_eq!(collector("http://collector:4318").unwrap().address, "collector:4318");
    assert_eq!(collector("http://[::1]:4318/").unwrap().path, "/v1/traces");
    assert_eq!(collector("http://collector/otel").unwrap().to_string(), "http://collector/otel");
    for wrong in ["collector:4318", "https://collector", "", "/v1", "http://user@collector"] {
        assert!(collector(wrong).is_err(), "{wrong}");
    }
}
