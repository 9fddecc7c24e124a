//! Spans of requests: one for each request that is traced, which belongs to what its headers name, and is named to whoever the request is sent
//! on to. What is told of a request is what Envoy tells.

mod context;
mod export;
mod otlp;
mod post;
mod sampling;
mod zipkin;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, Request, Version, header};

use self::context::Place;
pub use self::export::Spans;
use super::{Record, lanes::Rooms, telemetry::flags};
use crate::{compiled::Tracing, http::Target, proxy::Proxy, terminate::Tunnel};

/// Who has sent a request, as it says itself.
const DOWNSTREAM: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");

/// What is told of something, and by what name.
type Told = Vec<(Cow<'static, str>, String)>;

/// The span of a request that is under way.
#[derive(Debug)]
pub struct Span {
    tracing: Arc<Tracing>,
    place: Place,
    /// What is known from the beginning, and where it is to be told; nothing where nothing is.
    told: Option<(Told, String, Spans)>,
}

/// A span of which everything is known.
#[derive(Debug)]
struct Ended {
    tracing: Arc<Tracing>,
    place: Place,
    /// What vendors say of its trace.
    state: String,
    /// In nanoseconds since 1970.
    begun: u64,
    ended: u64,
    told: Told,
    failed: bool,
    /// What it takes until it is sent, or lost.
    _room: Option<Rooms>,
}

impl Ended {
    /// How much it takes of memory, in bytes.
    fn size(&self) -> usize {
        let told = self.told.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        size_of::<Self>() + self.state.len() + told + self.told.len() * size_of::<(Cow<'static, str>, String)>()
    }
}

impl Span {
    /// For a request that has just come.
    pub fn begin<B>(
        proxy: &Arc<Proxy>,
        tunnel: &Tunnel,
        tracing: &Arc<Tracing>,
        request: &mut Request<B>,
        target: &Target,
    ) -> Box<Self> {
        sampling::identify(tracing, request.headers_mut(), tunnel.edge.is_some());
        // Of all requests, as their ids are to say it.
        let chosen = sampling::decide(tracing, request.headers_mut());
        let place = Place::of(request.headers(), tracing.collector.speaks, || chosen);
        let told = place.trace.sampled.then(|| {
            proxy.spans.start(proxy);
            let told = first(proxy.spans.node(), tunnel, tracing, request, target);
            (told, place.state(request.headers()), proxy.spans.clone())
        });
        Box::new(Self { tracing: tracing.clone(), place, told })
    }

    /// Names the span to whoever the request is sent on to.
    pub fn write(&self, headers: &mut HeaderMap) {
        self.place.write(headers, self.tracing.collector.speaks);
    }

    /// Tells of the request, which has ended.
    pub(super) fn end(self, record: &Record) {
        let Some((mut told, state, spans)) = self.told else { return };
        let failed = last(record, &mut told);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let begun = now.saturating_sub(record.started.elapsed());
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (tracing, place, begun, ended) = (self.tracing, self.place, nanos(begun), nanos(now));
        spans.send(Ended { tracing, place, state, begun, ended, told, failed, _room: None });
    }
}

/// What is known of a request from the beginning.
fn first<B>(node: Option<&str>, tunnel: &Tunnel, tracing: &Tracing, request: &Request<B>, target: &Target) -> Told {
    let headers = request.headers();
    let text = |name: &HeaderName| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let or_none = |name: &HeaderName| text(name).filter(|value| !value.is_empty()).unwrap_or_else(|| "-".to_owned());
    let mut path = target.path_and_query.as_str();
    if path.len() > tracing.longest_path {
        path = path.get(..path.floor_char_boundary(tracing.longest_path)).unwrap_or_default();
    }
    let protocol = match request.version() {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let mut told = vec![
        ("component", "proxy".to_owned()),
        ("http.url", format!("{}://{}{path}", target.scheme, target.authority)),
        ("http.method", request.method().to_string()),
        ("http.protocol", protocol.to_owned()),
        ("downstream_cluster", or_none(&DOWNSTREAM)),
        ("user_agent", or_none(&header::USER_AGENT)),
        ("peer.address", tunnel.peer.address.ip().to_canonical().to_string()),
    ];
    told.extend(node.map(|node| ("node_id", node.to_owned())));
    told.extend(text(&sampling::REQUEST_ID).map(|id| ("guid:x-request-id", id)));
    told.extend(text(&sampling::CLIENT_TRACE_ID).map(|id| ("guid:x-client-trace-id", id)));
    let mut told: Told = told.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect();
    for tag in &tracing.tags {
        let of_header = tag.header.as_deref().and_then(|name| headers.get(name));
        let value = of_header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let value = value.unwrap_or_else(|| tag.value.clone());
        if of_header.is_some() || !value.is_empty() {
            told.push((Cow::Owned(tag.name.clone()), value));
        }
    }
    told
}

/// Adds what is known once it has ended, and says whether it went wrong.
fn last(record: &Record, told: &mut Told) -> bool {
    let status = record.status.unwrap_or(0);
    let failed = status >= 500;
    let mut more = vec![
        ("http.status_code", status.to_string()),
        ("request_size", record.sent().to_string()),
        ("response_size", record.received.to_string()),
        ("response_flags", flags(record.reason, record.given, record.delayed).to_string()),
    ];
    if let Some(cluster) = &record.cluster {
        more.extend([("upstream_cluster", cluster.to_string()), ("upstream_cluster.name", cluster.to_string())]);
    }
    more.extend(record.upstream.as_ref().map(|upstream| ("upstream_address", upstream.address.to_string())));
    more.extend(record.grpc_status.map(|status| ("grpc.status_code", status.to_string())));
    // Also of a request that has no answer.
    if failed || status == 0 {
        more.push(("error", "true".to_owned()));
    }
    // What somebody asks for by one of these names is told in place of it.
    let more = more.into_iter().filter(|(name, _)| told.iter().all(|(known, _)| known != name)).collect::<Vec<_>>();
    told.extend(more.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)));
    failed
}
