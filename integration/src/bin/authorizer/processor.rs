//! An external processor. The header `x-verdict` of a request says what it does with it: `change`, `body`, `answer`, `late-answer` (to the
//! response), `slow`, `wrong` (an answer to something else), `fail`, or `end`; of what is told in pieces `pieces` (letters of the request become
//! large, `A` of the response a dot, trailers others), `skip` (the same, but it wants none) or `cut` (an answer to the first piece).

use std::pin::Pin;

use ambit_api::envoy::pb::envoy::{
    config::core::v3::{HeaderValue, HeaderValueOption},
    extensions::filters::http::ext_proc::v3::{ProcessingMode, processing_mode::HeaderSendMode},
    service::ext_proc::v3::{
        BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody, HttpHeaders, ImmediateResponse,
        ProcessingRequest, ProcessingResponse, TrailersResponse, body_mutation::Mutation,
        external_processor_server::ExternalProcessor, processing_request::Request as Told, processing_response::Response as Said,
    },
    r#type::v3::HttpStatus,
};
use futures::Stream;
use serde_json::json;
use tokio::time::sleep;

use super::SLOW;

/// Answers each message before it reads the next.
pub struct Processor;

type Answers = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, tonic::Status>> + Send>>;

#[tonic::async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream = Answers;

    async fn process(
        &self,
        request: tonic::Request<tonic::Streaming<ProcessingRequest>>,
    ) -> Result<tonic::Response<Self::ProcessStream>, tonic::Status> {
        let begun = (request.into_inner(), String::new(), 0);
        let answers = futures::stream::unfold(begun, |(mut messages, mut verdict, mut pieces)| async move {
            let told = messages.message().await.ok()??.request?;
            if let Told::RequestHeaders(headers) = &told {
                verdict = header(headers, "x-verdict");
            }
            if matches!(told, Told::RequestBody(_)) {
                pieces += 1;
            }
            let answer = match in_pieces(&verdict, &told, pieces) {
                Some(answer) => Ok(answer),
                None => answer(&verdict, told).await?,
            };
            Some((answer, (messages, verdict, pieces)))
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

fn header(headers: &HttpHeaders, name: &str) -> String {
    let mut all = headers.headers.iter().flat_map(|headers| &headers.headers);
    all.find(|header| header.key == name)
        .map(|header| String::from_utf8_lossy(&header.raw_value).into_owned())
        .unwrap_or_default()
}

fn sets(all: &[(&str, &str)]) -> Option<HeaderMutation> {
    let option = |(key, value): &(&str, &str)| {
        let header = HeaderValue { key: (*key).into(), raw_value: value.as_bytes().to_vec(), ..Default::default() };
        HeaderValueOption { header: Some(header), ..Default::default() }
    };
    Some(HeaderMutation { set_headers: all.iter().map(option).collect(), remove_headers: vec!["x-secret".into()] })
}

fn body(data: &str) -> Option<BodyMutation> {
    Some(BodyMutation { mutation: Some(Mutation::Body(data.as_bytes().to_vec())) })
}

fn immediate() -> ImmediateResponse {
    ImmediateResponse {
        status: Some(HttpStatus { code: 429 }),
        headers: sets(&[("x-why", "because")]),
        body: b"go away".to_vec(),
        ..Default::default()
    }
}

/// The answer to what is told in pieces, of which there were so many of the request.
fn in_pieces(verdict: &str, told: &Told, pieces: usize) -> Option<ProcessingResponse> {
    let piece = |body: Vec<u8>| {
        let mutation = Some(Mutation::Body(body));
        let common = CommonResponse { body_mutation: Some(BodyMutation { mutation }), ..Default::default() };
        BodyResponse { response: Some(common) }
    };
    let small = |told: &HttpBody| told.body.iter().map(|byte| if *byte == b'A' { b'.' } else { *byte }).collect();
    let trailers = |key: &str| TrailersResponse { header_mutation: sets(&[(key, "seen")]) };
    let mut mode_override = None;
    let response = match (verdict, told) {
        ("pieces" | "skip", Told::RequestBody(told)) => Said::RequestBody(piece(told.body.to_ascii_uppercase())),
        ("pieces" | "skip", Told::ResponseBody(told)) => Said::ResponseBody(piece(small(told))),
        ("pieces" | "skip", Told::RequestTrailers(_)) => Said::RequestTrailers(trailers("x-request-end")),
        ("pieces" | "skip", Told::ResponseTrailers(_)) => Said::ResponseTrailers(trailers("x-response-end")),
        ("pieces" | "skip", Told::ResponseHeaders(_)) => {
            let header_mutation = sets(&[("x-pieces", &pieces.to_string())]);
            let common = CommonResponse { header_mutation, ..Default::default() };
            Said::ResponseHeaders(HeadersResponse { response: Some(common) })
        }
        ("skip", Told::RequestHeaders(_)) => {
            let skip = HeaderSendMode::Skip.into();
            // And no bodies.
            mode_override =
                Some(ProcessingMode { request_trailer_mode: skip, response_trailer_mode: skip, ..Default::default() });
            Said::RequestHeaders(HeadersResponse::default())
        }
        ("cut", Told::RequestBody(_)) => Said::ImmediateResponse(immediate()),
        _ => return None,
    };
    Some(ProcessingResponse { response: Some(response), mode_override, ..Default::default() })
}

/// Nothing where the call ends.
async fn answer(verdict: &str, told: Told) -> Option<Result<ProcessingResponse, tonic::Status>> {
    let common = match (verdict, &told) {
        ("change", Told::RequestHeaders(headers)) => {
            let seen = json!({
                "method": header(headers, ":method"), "path": header(headers, ":path"), "host": header(headers, ":authority"),
                "scheme": header(headers, ":scheme"), "end": headers.end_of_stream,
            });
            let changes = [
                ("x-seen", seen.to_string().as_str()),
                ("x-user", "processor"),
                (":path", "/first/changed"),
                ("host", "other"),
                (":method", "DELETE"),
                ("x-envoy-some", "thing"),
            ]
            .map(|(name, value)| (name, value.to_owned()));
            let changes: Vec<_> = changes.iter().map(|(name, value)| (*name, value.as_str())).collect();
            CommonResponse { header_mutation: sets(&changes), ..Default::default() }
        }
        ("change", Told::ResponseHeaders(headers)) => {
            let status = header(headers, ":status");
            CommonResponse { header_mutation: sets(&[("x-checked", &status)]), ..Default::default() }
        }
        ("body", Told::RequestBody(told)) => {
            let twice = String::from_utf8_lossy(&told.body).repeat(2);
            // Envoy takes no body that is not as long as is said.
            let length = twice.len().to_string();
            let header_mutation = sets(&[("x-user", "body"), ("content-length", &length)]);
            CommonResponse { header_mutation, body_mutation: body(&twice), ..Default::default() }
        }
        ("body", Told::ResponseBody(told)) => {
            let whole = if told.end_of_stream { "whole" } else { "part" };
            let text = format!("{whole} {}", String::from_utf8_lossy(&told.body));
            let header_mutation = sets(&[("content-length", &text.len().to_string())]);
            CommonResponse { header_mutation, body_mutation: body(&text), ..Default::default() }
        }
        ("answer", _) | ("late-answer", Told::ResponseHeaders(_)) => return Some(said(Said::ImmediateResponse(immediate()))),
        ("slow", _) => {
            sleep(SLOW).await;
            CommonResponse::default()
        }
        ("wrong", _) => return Some(said(Said::ResponseTrailers(TrailersResponse::default()))),
        ("fail", _) => return Some(Err(tonic::Status::unavailable("as the request wants"))),
        ("end", _) => return None,
        _ => CommonResponse::default(),
    };
    let response = Some(common);
    Some(said(match told {
        Told::RequestHeaders(_) => Said::RequestHeaders(HeadersResponse { response }),
        Told::ResponseHeaders(_) => Said::ResponseHeaders(HeadersResponse { response }),
        Told::RequestBody(_) => Said::RequestBody(BodyResponse { response }),
        Told::ResponseBody(_) => Said::ResponseBody(BodyResponse { response }),
        Told::RequestTrailers(_) => Said::RequestTrailers(TrailersResponse::default()),
        Told::ResponseTrailers(_) => Said::ResponseTrailers(TrailersResponse::default()),
    }))
}

fn said(response: Said) -> Result<ProcessingResponse, tonic::Status> {
    Ok(ProcessingResponse { response: Some(response), ..Default::default() })
}
