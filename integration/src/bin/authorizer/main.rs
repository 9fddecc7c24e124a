//! An external authorizer: by gRPC on `--grpc`, by HTTP on `--http`. The header `x-verdict` of a request says what it answers: `allow`,
//! `deny`, `refuse` (without a word), `fail`, or `slow`. What it was told of a request that it allows, the request goes on with. By gRPC it is a
//! rate limit server, too: the entry `verdict` of what it is asked says `over`, `fail` or `slow`, and anything else is within the limit. And it is
//! an external processor, and by HTTP a collector of spans.

mod collector;
mod processor;

use std::{collections::BTreeMap, convert::Infallible, net::Ipv6Addr, time::Duration};

use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::{
            Address, HeaderValue, HeaderValueOption, QueryParameter, address, header_value_option::HeaderAppendAction,
            socket_address::PortSpecifier,
        },
        service::auth::v3::{
            CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            attribute_context::Peer,
            authorization_server::{Authorization, AuthorizationServer},
            check_response::HttpResponse,
        },
        service::ext_proc::v3::external_processor_server::ExternalProcessorServer,
        service::ratelimit::v3::{
            RateLimitRequest, RateLimitResponse,
            rate_limit_response::Code,
            rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
        },
        r#type::v3::HttpStatus,
    },
    google::rpc::Status,
};
use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{net::TcpListener, time::sleep};

/// Longer than anybody waits.
const SLOW: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut ports = BTreeMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        ports.insert(name, arguments.next().context("every option has a value")?.parse::<u16>()?);
    }
    let port = |name: &str| ports.get(name).copied().with_context(|| format!("{name} is missing"));
    let by_grpc = tonic::transport::Server::builder()
        .add_service(AuthorizationServer::new(Guard))
        .add_service(RateLimitServiceServer::new(Guard))
        .add_service(ExternalProcessorServer::new(processor::Processor))
        .serve((Ipv6Addr::UNSPECIFIED, port("--grpc")?).into());
    let by_http = serve(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port("--http")?)).await?);
    tokio::select! {
        ended = by_grpc => ended.context("gRPC"),
        () = by_http => Ok(()),
    }
}

struct Guard;

#[tonic::async_trait]
impl Authorization for Guard {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let asked = attributes.request.and_then(|request| request.http).unwrap_or_default();
        let (source, destination) = (place(attributes.source), place(attributes.destination));
        let seen = json!({
            "method": asked.method, "path": asked.path, "host": asked.host, "scheme": asked.scheme, "protocol": asked.protocol,
            "source": source.0, "port": destination.1, "body": asked.body, "headers": asked.headers,
        });
        let verdict = asked.headers.get("x-verdict").map(String::as_str);
        let answer = match verdict {
            Some("allow") => allowed(seen.to_string()),
            Some("deny") => denied(),
            Some("refuse") => CheckResponse { status: Some(Status { code: 7, ..Default::default() }), ..Default::default() },
            Some("slow") => {
                sleep(SLOW).await;
                CheckResponse::default()
            }
            _ => return Err(tonic::Status::unavailable("as the request wants")),
        };
        Ok(tonic::Response::new(answer))
    }
}

#[tonic::async_trait]
impl RateLimitService for Guard {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<RateLimitRequest>,
    ) -> Result<tonic::Response<RateLimitResponse>, tonic::Status> {
        let asked = request.into_inner();
        let entries = || asked.descriptors.iter().flat_map(|descriptor| &descriptor.entries);
        let verdict = entries().find(|entry| entry.key == "verdict").map(|entry| entry.value.as_str());
        let descriptors: Vec<Vec<[&str; 2]>> = asked
            .descriptors
            .iter()
            .map(|descriptor| descriptor.entries.iter().map(|entry| [entry.key.as_str(), entry.value.as_str()]).collect())
            .collect();
        let seen = json!({"domain": asked.domain, "hits": asked.hits_addend.max(1), "descriptors": descriptors}).to_string();
        let header = |key: &str, value: &str| HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
        match verdict {
            Some("fail") => return Err(tonic::Status::unavailable("as the request wants")),
            Some("slow") => sleep(SLOW).await,
            _ => {}
        }
        let over = verdict == Some("over");
        Ok(tonic::Response::new(RateLimitResponse {
            overall_code: if over { Code::OverLimit } else { Code::Ok }.into(),
            response_headers_to_add: vec![header("x-asked", &seen), header("x-left", "7")],
            request_headers_to_add: vec![header("x-asked", &seen), header("x-user", "limiter")],
            raw_body: b"slow down: \xff".to_vec(),
            ..Default::default()
        }))
    }
}

/// An address and a port.
fn place(peer: Option<Peer>) -> (String, u32) {
    match peer.and_then(|peer| peer.address) {
        Some(Address { address: Some(address::Address::SocketAddress(socket)) }) => {
            let port = match socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => port,
                _ => 0,
            };
            (socket.address, port)
        }
        _ => Default::default(),
    }
}

fn allowed(seen: String) -> CheckResponse {
    let option = |key: &str, value: &str, action: HeaderAppendAction| {
        let header = Some(HeaderValue { key: key.into(), value: value.into(), ..Default::default() });
        HeaderValueOption { header, append_action: action.into(), ..Default::default() }
    };
    use HeaderAppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let allowed = OkHttpResponse {
        headers: vec![
            option("x-seen", &seen, OverwriteIfExistsOrAdd),
            option("x-user", "guard", OverwriteIfExistsOrAdd),
            option("x-several", "guard", AppendIfExistsOrAdd),
            option("x-absent", "guard", AddIfAbsent),
            option("x-present", "guard", OverwriteIfExists),
        ],
        headers_to_remove: vec!["x-secret".into()],
        response_headers_to_add: vec![option("x-checked", "guard", OverwriteIfExistsOrAdd)],
        query_parameters_to_set: vec![QueryParameter { key: "by".into(), value: "guard".into() }],
        ..Default::default()
    };
    CheckResponse { http_response: Some(HttpResponse::OkResponse(allowed)), ..Default::default() }
}

fn denied() -> CheckResponse {
    let header = Some(HeaderValue { key: "x-why".into(), value: "because".into(), ..Default::default() });
    let action = HeaderAppendAction::OverwriteIfExistsOrAdd.into();
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: 401 }),
        headers: vec![HeaderValueOption { header, append_action: action, ..Default::default() }],
        body: "go away".into(),
    };
    let status = Some(Status { code: 7, ..Default::default() });
    CheckResponse { status, http_response: Some(HttpResponse::DeniedResponse(denied)), ..Default::default() }
}

async fn serve(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(async move {
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that breaks off is not the server's concern.
            let _end = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if let Some(taken) = collector::answer(&head, &body) {
        return Ok(taken);
    }
    let verdict = head.headers.get("x-verdict").and_then(|verdict| verdict.to_str().ok());
    let status = match verdict {
        Some("allow") => StatusCode::OK,
        Some("deny" | "refuse" | "bytes") => StatusCode::UNAUTHORIZED,
        Some("slow") => {
            sleep(SLOW).await;
            StatusCode::OK
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let names: Vec<&str> = head.headers.keys().map(http::HeaderName::as_str).collect();
    let seen = json!({
        "method": head.method.as_str(), "path": head.uri.path_and_query().map(ToString::to_string), "headers": names,
        "body": String::from_utf8_lossy(&body),
    });
    let response = Response::builder().status(status).header("x-user", "portal").header("x-checked", "portal");
    let response = response.header("x-seen", seen.to_string()).header("x-why", "because").header("x-hidden", "portal");
    let response = response.header("x-envoy-auth-headers-to-remove", "x-secret");
    let body: &[u8] = if verdict == Some("bytes") { b"no text: \xff" } else { b"go away" };
    let response = response.body(Full::new(Bytes::from_static(body)));
    Ok(response.unwrap_or_default())
}
