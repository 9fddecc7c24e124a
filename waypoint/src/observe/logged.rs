//! What is kept of a request, or connection, that is logged in a format which was asked for, and its line.

mod details;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    fs::read_to_string,
    net::SocketAddr,
    sync::{Arc, LazyLock, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use ambit_model::{
    Reason, Refusal,
    access_log::{Fact, Facts, HeaderKey, Headers, Operator, Value},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header};

use super::{Record, telemetry::flags};
use crate::{compiled::Logs, http::grpc_status};

/// What formats may ask of a request besides its record.
#[derive(Debug)]
pub struct Logged {
    /// The formats.
    pub logs: Arc<Logs>,
    /// Of requests, and of no connections.
    head: Option<Head>,
    request: Kept,
    response: Kept,
    trailers: Kept,
    /// When the response began to come from the endpoint.
    responded: Option<Instant>,
    /// When the request had come whole.
    pub whole: Arc<OnceLock<Instant>>,
    /// The rule that refused it, and what was said to that.
    refused: Option<(Option<usize>, String)>,
}

/// Headers in the order in which the formats want them.
type Kept = Vec<Option<HeaderValue>>;

/// What HTTP/2 has as headers of a request.
#[derive(Debug)]
struct Head {
    version: Version,
    method: String,
    path: String,
    authority: String,
    scheme: &'static str,
}

impl Logged {
    /// Of a connection that is not read.
    pub fn connection(logs: &Option<Arc<Logs>>) -> Option<Box<Self>> {
        let logs = logs.clone()?;
        Some(Box::new(Self {
            logs,
            head: None,
            request: Kept::new(),
            response: Kept::new(),
            trailers: Kept::new(),
            responded: None,
            whole: Arc::default(),
            refused: None,
        }))
    }

    /// Of a request as it is now.
    pub fn request<B>(logs: &Option<Arc<Logs>>, request: &Request<B>, scheme: &'static str) -> Option<Box<Self>> {
        let mut logged = Self::connection(logs)?;
        let host = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        logged.head = Some(Head {
            version: request.version(),
            method: request.method().as_str().to_owned(),
            path: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
            authority: request.uri().authority().map_or_else(|| host().to_owned(), ToString::to_string),
            scheme,
        });
        logged.request = kept(&logged.logs.request, request.headers());
        Some(logged)
    }

    /// It is like this now, without tokens that were taken out of it and with its id, or as it is sent on: what is logged of it is the last that
    /// was made of it (so in Envoy).
    pub fn sent(&mut self, headers: &HeaderMap, path: &str, authority: &str) {
        if let Some(head) = &mut self.head {
            path.clone_into(&mut head.path);
            authority.clone_into(&mut head.authority);
        }
        self.request = kept(&self.logs.request, headers);
    }
}

impl Record {
    /// Its path and host are these, in their normal form.
    pub fn targets(&mut self, path: &str, authority: &str, scheme: &'static str) {
        if let Some(head) = self.logged.as_mut().and_then(|logged| logged.head.as_mut()) {
            path.clone_into(&mut head.path);
            authority.clone_into(&mut head.authority);
            head.scheme = scheme;
        }
    }

    /// An answer with these headers came from the endpoint.
    pub fn responded(&mut self, headers: &HeaderMap) {
        if let Some(logged) = &mut self.logged {
            logged.responded = Some(Instant::now());
        }
        self.answered(headers);
    }

    /// It is answered with these headers.
    pub fn answered(&mut self, headers: &HeaderMap) {
        if let Some(logged) = &mut self.logged {
            logged.response = kept(&logged.logs.response, headers);
        }
    }

    /// These come after the answer.
    pub fn trailed(&mut self, trailers: &HeaderMap) {
        if let Some(logged) = &mut self.logged {
            logged.trailers = kept(&logged.logs.trailers, trailers);
        }
    }

    pub(super) fn refusal_logged(&mut self, refusal: &Refusal) {
        if let Some(logged) = &mut self.logged {
            logged.refused = Some((refusal.rule, refusal.detail.clone()));
        }
    }
}

/// A record with what formats ask of it.
pub struct Line<'a> {
    /// The record.
    pub record: &'a Record,
    /// The rest.
    pub logged: &'a Logged,
    /// How long it took.
    pub took: Duration,
    /// When it began, from the beginning of 1970.
    pub began: Duration,
}

impl<'a> Line<'a> {
    /// Of what ends now.
    pub fn new(record: &'a Record, logged: &'a Logged) -> Self {
        let took = record.started.elapsed();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { record, logged, took, began: now.saturating_sub(took) }
    }

    fn header(&self, of: Headers, key: &HeaderKey) -> Option<Cow<'a, str>> {
        let head = self.logged.head.as_ref().filter(|_| of == Headers::Request);
        let said = |text: &'a str| Some(Cow::Borrowed(text)).filter(|text| !text.is_empty());
        match key {
            HeaderKey::Method => said(head?.method.as_str()),
            HeaderKey::Path => said(head?.path.as_str()),
            HeaderKey::Authority => said(head?.authority.as_str()),
            HeaderKey::Scheme => said(head?.scheme),
            HeaderKey::Status => {
                let status = self.record.status.filter(|_| of == Headers::Response)?;
                Some(status.to_string().into())
            }
            HeaderKey::Field(name) => {
                let (names, values) = match of {
                    Headers::Request => (&self.logged.logs.request, &self.logged.request),
                    Headers::Response => (&self.logged.logs.response, &self.logged.response),
                    Headers::Trailers => (&self.logged.logs.trailers, &self.logged.trailers),
                };
                let at = names.iter().position(|wanted| wanted == name)?;
                let value = values.get(at)?.as_ref()?;
                Some(String::from_utf8_lossy(value.as_bytes()))
            }
        }
    }

    fn grpc_status(&self, number: bool) -> Value<'_> {
        if self.record.protocol != "grpc" {
            return Value::Missing;
        }
        let in_head = || {
            let name = HeaderKey::Field(HeaderName::from_static("grpc-status"));
            self.header(Headers::Response, &name)?.parse().ok()
        };
        // What an answer does not say is what goes with its status (so in Envoy).
        let by_http = || StatusCode::from_u16(self.record.status?).ok().map(|status| u32::from(grpc_status(status)));
        let Some(status) = self.record.grpc_status.or_else(in_head).or_else(by_http) else { return Value::Missing };
        match (number, details::grpc_name(status)) {
            (false, Some(name)) => Value::of(Some(name)),
            (false, None) => Value::Text(status.to_string().into()),
            (true, _) => Value::Number(status.into()),
        }
    }

    fn fact(&self, fact: Fact) -> Value<'_> {
        let Self { record, logged, .. } = self;
        let (source, destination) = (record.peer.address, record.destination);
        let text = |text: String| Value::Text(Cow::Owned(text));
        let since =
            |from: Instant, to: Option<Instant>| to.map_or(Value::Missing, |to| millis(to.saturating_duration_since(from)));
        match fact {
            Fact::Protocol => Value::of(logged.head.as_ref().and_then(|head| protocol(head.version))),
            Fact::ResponseCode => Value::Number(record.status.unwrap_or(0).into()),
            Fact::ResponseCodeDetails => match (&logged.head, record.reason) {
                // What cannot be read as a request has no head, and was answered as one.
                (Some(_), _) | (None, Reason::RequestUnreadable) => Value::Text(details::of_request(record, logged)),
                (None, _) => Value::Missing,
            },
            Fact::ConnectionTerminationDetails => match logged.head {
                Some(_) => Value::Missing,
                None => details::of_connection(record, logged).map_or(Value::Missing, Value::Text),
            },
            Fact::ResponseFlags => text(flags(record.reason, record.given, record.delayed).to_string()),
            Fact::ResponseFlagsLong => text(details::long(&flags(record.reason, record.given, record.delayed))),
            Fact::BytesReceived => Value::Number(record.sent()),
            Fact::BytesSent => Value::Number(record.received),
            Fact::Duration => millis(self.took),
            Fact::RequestDuration => since(record.started, logged.whole.get().copied()),
            Fact::ResponseDuration => since(record.started, logged.responded),
            Fact::ResponseTxDuration => match logged.responded {
                Some(responded) => since(responded, record.started.checked_add(self.took)),
                None => Value::Missing,
            },
            Fact::UpstreamHost | Fact::UpstreamRemoteAddress => {
                record.upstream.as_ref().map_or(Value::Missing, |upstream| text(upstream.address.to_string()))
            }
            Fact::UpstreamCluster | Fact::UpstreamClusterRaw => Value::of(record.cluster.as_deref()),
            Fact::UpstreamRequestAttemptCount => Value::Number(record.attempts.max(u32::from(record.upstream.is_some())).into()),
            Fact::UpstreamTransportFailureReason => match details::is_unreached(record.reason) {
                true => Value::of(record.error.as_deref()),
                false => Value::Missing,
            },
            Fact::DownstreamRemoteAddress | Fact::DownstreamDirectRemoteAddress => text(source.to_string()),
            Fact::DownstreamRemoteAddressWithoutPort | Fact::DownstreamDirectRemoteAddressWithoutPort => text(host(source)),
            Fact::DownstreamRemotePort => Value::Number(source.port().into()),
            Fact::DownstreamLocalAddress => text(destination.to_string()),
            Fact::DownstreamLocalAddressWithoutPort => text(host(destination)),
            Fact::DownstreamLocalPort => Value::Number(destination.port().into()),
            Fact::RouteName => Value::of(record.route.as_deref().filter(|name| !name.is_empty())),
            Fact::Hostname => Value::of(HOSTNAME.as_deref()),
            // What nobody knows here: of connections to endpoints their own address, and of those in a tunnel any TLS.
            Fact::UpstreamLocalAddress | Fact::RequestedServerName | Fact::DownstreamPeerUriSan | Fact::VirtualClusterName => {
                Value::Missing
            }
        }
    }
}

impl Facts for Line<'_> {
    fn value(&self, operator: &Operator) -> Value<'_> {
        match operator {
            Operator::StartTime(format) => Value::Text(format.write(self.began).into()),
            Operator::Header { of, name, otherwise } => {
                let found = self.header(*of, name);
                let found = found.or_else(|| otherwise.as_ref().and_then(|other| self.header(*of, other)));
                found.map_or(Value::Missing, Value::Text)
            }
            Operator::PeerPrincipal => Value::of(self.record.peer.uri.as_deref()),
            Operator::Unknown => Value::Missing,
            Operator::GrpcStatus { number } => self.grpc_status(*number),
            Operator::Fact(fact) => self.fact(*fact),
        }
    }
}

/// The machine's name, which is the pod's.
static HOSTNAME: LazyLock<Option<String>> =
    LazyLock::new(|| read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()));

fn kept(names: &[HeaderName], headers: &HeaderMap) -> Kept {
    names.iter().map(|name| headers.get(name).cloned()).collect()
}

fn host(address: SocketAddr) -> String {
    address.ip().to_string()
}

fn millis(length: Duration) -> Value<'static> {
    Value::Number(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

fn protocol(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("HTTP/1.0"),
        Version::HTTP_11 => Some("HTTP/1.1"),
        Version::HTTP_2 => Some("HTTP/2"),
        _ => None,
    }
}
