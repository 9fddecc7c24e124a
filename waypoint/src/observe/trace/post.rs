//! A request with spans to their collector, by a cluster of the configuration, and why it was in vain.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use ambit_runtime::telemetry::metric;
use http::{HeaderValue, Method, StatusCode, Version, header};
use metrics::counter;
use prost::Message as _;
use tokio::time::{sleep, timeout};

use super::{Ended, otlp, zipkin};
use crate::{
    compiled::{Collector, Speaks},
    http::call::{self, Question, grpc},
    proxy::Proxy,
};

/// The pause before a batch that was in vain is sent once more.
const PAUSE: Duration = Duration::from_millis(500);

/// Why spans were not taken.
#[derive(Debug)]
pub(super) enum Failure {
    Unreachable(String),
    Timeout(Duration),
    /// Worth another attempt.
    Busy(StatusCode),
    Refused(String),
}

impl Failure {
    /// As the metric has it.
    const fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Busy(_) => "busy",
            Self::Refused(_) => "refused",
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Refused(why) => f.write_str(why),
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Busy(status) => write!(f, "it answered {status}"),
        }
    }
}

/// Sends spans to their collector, and once more where that may help.
pub(super) async fn send(proxy: &Proxy, collector: &Collector, spans: &[Ended]) -> Result<(), Failure> {
    let mut again = true;
    loop {
        let outcome = timeout(collector.timeout, Box::pin(post(proxy, collector, spans))).await;
        let failure = match outcome.unwrap_or(Err(Failure::Timeout(collector.timeout))) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        counter!(metric::SPAN_EXPORT_FAILURES, "reason" => failure.label()).increment(1);
        if !again || matches!(failure, Failure::Refused(_)) {
            return Err(failure);
        }
        again = false;
        sleep(PAUSE).await;
    }
}

async fn post(proxy: &Proxy, collector: &Collector, spans: &[Ended]) -> Result<(), Failure> {
    let identity = &proxy.identity;
    let own = || format!("{}.{}", identity.service_account(), identity.namespace());
    let service = collector.service.clone().unwrap_or_else(own);
    let (question, version) = match collector.speaks {
        Speaks::OtlpGrpc => {
            let request = otlp::request(&service, spans);
            (grpc::question(&request, &collector.path, &collector.authority), Version::HTTP_2)
        }
        Speaks::OtlpHttp => {
            let body = otlp::request(&service, spans).encode_to_vec();
            (by_http(collector, "application/x-protobuf", body), Version::HTTP_11)
        }
        Speaks::Zipkin { .. } => (by_http(collector, "application/json", zipkin::request(&service, spans)), Version::HTTP_11),
    };
    let snapshot = proxy.config.load_full();
    // Collectors have addresses of their own.
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let answer = call::send(proxy, &snapshot, (&*collector.cluster, nowhere), question, version).await;
    let answer = answer.map_err(Failure::Unreachable)?;
    match answer.head.status {
        // These are worth another attempt (OTLP specification, "Retryable Response Codes").
        status if matches!(status.as_u16(), 429 | 502 | 503 | 504) => Err(Failure::Busy(status)),
        status if !status.is_success() => Err(Failure::Refused(format!("it answered {status}"))),
        _ if collector.speaks == Speaks::OtlpGrpc => grpc::message::<otlp::Response>(&answer).map(drop).map_err(Failure::Refused),
        _ => Ok(()),
    }
}

fn by_http(collector: &Collector, content: &'static str, body: Vec<u8>) -> Question {
    let mut head = http::Request::new(());
    *head.method_mut() = Method::POST;
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
    head.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Question { head, path: collector.path.clone(), authority: collector.authority.clone(), body: body.into() }
}
