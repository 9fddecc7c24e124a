//! Requests and responses that a processor is told of: what it makes of them, and what becomes of them when it does not answer as it should.

use std::time::{Duration, Instant};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::core::v3::{HeaderValue, HeaderValueOption},
            extensions::filters::http::ext_proc::v3::{
                ExternalProcessor, ProcessingMode,
                processing_mode::{BodySendMode, HeaderSendMode},
            },
            service::ext_proc::v3::{
                BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody, ImmediateResponse,
                ProcessingResponse, TrailersResponse, body_mutation::Mutation, common_response::ResponseStatus,
                processing_request::Request as Told, processing_response::Response as Said,
            },
            r#type::v3::HttpStatus,
        },
        google::protobuf::Duration as ProtoDuration,
    },
    type_url,
};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use waypoint::explain::{Question, explain, request};

use super::support::{
    BILLING, Mesh, WEB,
    client::{Body, http2, once, read},
    endpoint::{self, HTTP, Seen},
    id,
    processor::{self, Act, Heard, Script, header},
    resources::{self, ChangeProcessor, Ep, Service},
};

fn bodies(config: &mut ExternalProcessor) {
    config.processing_mode = Some(ProcessingMode {
        request_body_mode: BodySendMode::Buffered.into(),
        response_body_mode: BodySendMode::Buffered.into(),
        ..Default::default()
    });
}

/// All in pieces, which the processor may say otherwise, and with time for it.
fn pieces(config: &mut ExternalProcessor) {
    config.processing_mode = Some(ProcessingMode {
        request_body_mode: BodySendMode::Streamed.into(),
        response_body_mode: BodySendMode::Streamed.into(),
        request_trailer_mode: HeaderSendMode::Send.into(),
        response_trailer_mode: HeaderSendMode::Send.into(),
        ..Default::default()
    });
    config.allow_mode_override = true;
    config.message_timeout = Some(ProtoDuration { seconds: 30, nanos: 0 });
}

fn sets(all: &[(&str, &str)]) -> Option<HeaderMutation> {
    let option = |(key, value): &(&str, &str)| {
        let header = HeaderValue { key: (*key).into(), raw_value: value.as_bytes().to_vec(), ..Default::default() };
        HeaderValueOption { header: Some(header), ..Default::default() }
    };
    Some(HeaderMutation { set_headers: all.iter().map(option).collect(), remove_headers: vec!["x-secret".into()] })
}

fn say(response: Said) -> Act {
    Act::Say(Box::new(ProcessingResponse { response: Some(response), ..Default::default() }))
}

/// The answer that goes with what is told.
pub(super) fn fitting(told: &Told, common: CommonResponse) -> Act {
    say(answer(told, common))
}

fn answer(told: &Told, common: CommonResponse) -> Said {
    let header_mutation = common.header_mutation.clone();
    let response = Some(common);
    match told {
        Told::RequestHeaders(_) => Said::RequestHeaders(HeadersResponse { response }),
        Told::ResponseHeaders(_) => Said::ResponseHeaders(HeadersResponse { response }),
        Told::RequestBody(_) => Said::RequestBody(BodyResponse { response }),
        Told::ResponseBody(_) => Said::ResponseBody(BodyResponse { response }),
        Told::RequestTrailers(_) => Said::RequestTrailers(TrailersResponse { header_mutation }),
        Told::ResponseTrailers(_) => Said::ResponseTrailers(TrailersResponse { header_mutation }),
    }
}

pub(super) fn body(data: &str) -> Option<BodyMutation> {
    Some(BodyMutation { mutation: Some(Mutation::Body(data.as_bytes().to_vec())) })
}

fn no() -> Act {
    say(Said::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus { code: 429 }),
        headers: sets(&[("x-why", "because")]),
        body: b"no".to_vec(),
        ..Default::default()
    }))
}

/// What is done with what is told in pieces.
fn in_pieces(path: &str, told: &Told) -> Act {
    let upper = |told: &HttpBody| CommonResponse {
        body_mutation: body(&String::from_utf8_lossy(&told.body).to_uppercase()),
        // The head is gone.
        header_mutation: sets(&[("x-late", "yes")]),
        ..Default::default()
    };
    let mode = |mode: BodySendMode| ProcessingMode {
        request_body_mode: mode.into(),
        response_header_mode: HeaderSendMode::Skip.into(),
        ..Default::default()
    };
    match (path, told) {
        ("/echo?upper" | "/echo?whole", Told::RequestBody(told)) => {
            say(Said::RequestBody(BodyResponse { response: Some(upper(told)) }))
        }
        ("/echo?wait", Told::RequestBody(_)) => Act::Silent,
        ("/echo?cut", Told::RequestBody(_)) | ("/echo?late", Told::ResponseBody(_)) => no(),
        ("/echo?skip" | "/echo?whole" | "/echo?duplex", Told::RequestHeaders(_)) => {
            let mode_override = Some(mode(match path {
                "/echo?skip" => BodySendMode::None,
                "/echo?whole" => BodySendMode::Buffered,
                _ => BodySendMode::FullDuplexStreamed,
            }));
            let response = Some(answer(told, CommonResponse::default()));
            Act::Say(Box::new(ProcessingResponse { response, mode_override, ..Default::default() }))
        }
        ("/trailers", Told::ResponseTrailers(_)) => {
            fitting(told, CommonResponse { header_mutation: sets(&[("x-more", "yes")]), ..Default::default() })
        }
        _ => fitting(told, CommonResponse::default()),
    }
}

fn script(path: &str, told: &Told) -> Act {
    let common = match (path, told) {
        ("/change", Told::RequestHeaders(_)) => CommonResponse {
            header_mutation: sets(&[("x-by", "processor"), (":path", "/changed"), ("host", "other"), ("content-length", "9")]),
            ..Default::default()
        },
        ("/change", Told::ResponseHeaders(_)) => {
            CommonResponse { header_mutation: sets(&[("x-checked", "yes"), (":status", "201")]), ..Default::default() }
        }
        ("/echo", Told::RequestBody(told)) => CommonResponse {
            header_mutation: sets(&[("x-by", "body")]),
            body_mutation: body(&String::from_utf8_lossy(&told.body).to_uppercase()),
            ..Default::default()
        },
        ("/echo", Told::ResponseBody(told)) => {
            CommonResponse { body_mutation: body(&format!("<{}>", String::from_utf8_lossy(&told.body))), ..Default::default() }
        }
        // The endpoint echoes what it is given, also of a request that had no body.
        ("/echo?put", Told::RequestHeaders(_)) => CommonResponse {
            status: ResponseStatus::ContinueAndReplace.into(),
            header_mutation: sets(&[(":method", "PUT")]),
            body_mutation: body("put"),
            ..Default::default()
        },
        ("/late-no", Told::RequestHeaders(_)) => CommonResponse::default(),
        ("/no", _) | ("/late-no", _) => return no(),
        ("/silent", _) => return Act::Silent,
        ("/gone", _) => return Act::Break,
        ("/ended", _) => return Act::End("0"),
        ("/failed", _) => return Act::End("13"),
        ("/rubbish", _) => return Act::Raw(b"\0\0\0\0\x01\xff"),
        ("/long", _) => return Act::Raw(b"\0\x7f\0\0\0abc"),
        ("/wrong", _) => return say(Said::ResponseBody(BodyResponse::default())),
        ("/framing", _) => CommonResponse { header_mutation: sets(&[("a b", "")]), ..Default::default() },
        ("/half", Told::ResponseHeaders(_)) => return Act::Break,
        _ => CommonResponse::default(),
    };
    fitting(told, common)
}

struct World {
    mesh: Mesh,
    /// Requests need their processor.
    billing: Service,
    /// They go on without it.
    open: Service,
    seen: std::sync::Arc<Seen>,
    heard: Heard,
}

impl World {
    async fn new(number: u8) -> Self {
        Self::of(number, bodies, script).await
    }

    async fn of(number: u8, told: ChangeProcessor, script: Script) -> Self {
        let mesh = Mesh::start(number).await;
        let billing = Service { processor: Some(("processor", told)), ..Service::http("billing", mesh.socket(100, 80)) };
        let opens: ChangeProcessor = |config| {
            bodies(config);
            config.failure_mode_allow = true;
        };
        let open = Service { processor: Some(("processor", opens)), ..Service::http("open", mesh.socket(101, 80)) };
        mesh.serve(&[billing.clone(), open.clone()]);
        let http2 = Service { protocol: "http2", ..Service::http("processor", mesh.socket(102, 80)) };
        mesh.deliver(type_url::CLUSTER, vec![("processor".into(), resources::cluster("processor", &http2))]);
        mesh.endpoints("processor", vec![Ep::Clear(mesh.socket(9, 9100))]);
        let seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
        mesh.endpoints(&billing.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
        mesh.endpoints(&open.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
        let heard = processor::start(mesh.socket(9, 9100), script).await;
        Self { mesh, billing, open, seen, heard }
    }

    /// The pieces of requests that were told, and those of responses.
    fn pieces(&self) -> [Vec<HttpBody>; 2] {
        let mut pieces = [Vec::new(), Vec::new()];
        for told in self.heard.lock().unwrap().iter() {
            match told {
                Told::RequestBody(piece) => pieces[0].push(piece.clone()),
                Told::ResponseBody(piece) => pieces[1].push(piece.clone()),
                _ => {}
            }
        }
        pieces
    }

    async fn ask(&self, service: &Service, path: &str, body: &'static str) -> (u16, HeaderMap, String) {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = Request::builder().method(method).uri(path).header("host", "billing.shop").header("x-secret", "s");
        once(&self.mesh, WEB, service.vip, request.body(Body::from(body)).unwrap()).await
    }
}

#[tokio::test]
async fn a_processor_changes_requests_and_responses_and_answers_in_their_place() {
    let world = World::new(221).await;
    let (status, headers, text) = world.ask(&world.billing, "/change", "").await;
    assert_eq!((status, headers["x-checked"].as_bytes()), (201, &b"yes"[..]));
    assert!(text.starts_with("v1 GET /changed HTTP/1.1\n") && text.contains("x-by: processor\n"), "{text}");
    assert!(text.contains("host: billing.shop\n") && !text.contains("x-secret") && !text.contains("content-length: 9"), "{text}");
    let told = world.heard.lock().unwrap().clone();
    let [Told::RequestHeaders(request), Told::ResponseHeaders(response), Told::ResponseBody(body)] = told.as_slice() else {
        panic!("{told:?}")
    };
    let of_request =
        [":authority", ":path", ":method", ":scheme", "x-secret"].map(|name| header(request, name).unwrap_or_default());
    assert_eq!(of_request, ["billing.shop", "/change", "GET", "http", "s"]);
    assert!(request.end_of_stream && header(request, "host").is_none());
    assert_eq!((header(response, ":status").as_deref(), response.end_of_stream), (Some("200"), false));
    assert_eq!((body.body.as_slice(), body.end_of_stream), (text.as_bytes(), true));
    let (status, headers, text) = world.ask(&world.billing, "/echo", "some text").await;
    assert_eq!((status, text.as_str(), headers["content-length"].as_bytes()), (200, "<SOME TEXT>", &b"11"[..]));
    assert_eq!(world.ask(&world.billing, "/echo?put", "").await.2, "put");
    assert_eq!(world.ask(&world.billing, "/echo?put", "that goes nowhere").await.2, "put");
    assert!(world.seen.log.lock().unwrap().iter().any(|line| line == "PUT /echo?put billing.shop"));
    let before = world.seen.requests();
    for (path, requests) in [("/no", before), ("/late-no", before + 1)] {
        let (status, headers, text) = world.ask(&world.billing, path, "").await;
        assert_eq!((status, headers["x-why"].as_bytes(), text.as_str()), (429, &b"because"[..], "no"), "{path}");
        assert_eq!(world.seen.requests(), requests, "{path}");
        world.mesh.logged(&[&format!("path={path} "), "status=429", "reason=ext_proc_answered"]).await;
    }
    // No answer to HEAD has a body, whoever gives it: in HTTP/2 it would break the answer off.
    let head = Request::head("http://billing.shop/no").body(Body::default()).unwrap();
    let response = http2(&world.mesh, WEB, world.billing.vip).await.send_request(head).await.unwrap();
    let (status, headers, text) = read(response).await;
    assert_eq!((status, headers["x-why"].as_bytes(), text.as_str()), (429, &b"because"[..], ""));
}

#[tokio::test]
async fn without_a_proper_answer_in_time_a_request_goes_on_only_where_that_is_allowed() {
    let world = World::new(222).await;
    for path in ["/gone", "/failed", "/rubbish", "/long", "/wrong", "/half"] {
        let (status, headers, _) = world.ask(&world.billing, path, "").await;
        assert_eq!((status, headers["x-ambit-reason"].as_bytes()), (500, &b"ext_proc_error"[..]), "{path}");
        assert_eq!(world.ask(&world.open, path, "").await.0, 200, "{path}");
    }
    world.mesh.logged(&["path=/half ", "status=500", "reason=ext_proc_error"]).await;
    // Who ends a call with a good status wants to be told no more, and who says what cannot be done has said something.
    for (path, expected) in [("/ended", 200), ("/framing", 500)] {
        for service in [&world.billing, &world.open] {
            assert_eq!(world.ask(service, path, "").await.0, expected, "{path}");
        }
    }
    let late = tokio::join!(world.ask(&world.billing, "/silent", ""), world.ask(&world.open, "/silent", ""));
    assert_eq!((late.0.0, late.1.0), (504, 200));
    let long: &'static str = "x".repeat((1 << 20) + 1).leak();
    assert_eq!(world.ask(&world.billing, "/echo", long).await.0, 413);
}

#[tokio::test]
async fn a_processor_that_is_not_there_is_a_failure_too() {
    let world = World::new(223).await;
    let asked = request("GET", "billing.shop", "/", &[], false).unwrap();
    let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: world.billing.vip, request: asked };
    let told = serde_json::to_string(&explain(&world.mesh.store.snapshot(), &question)).unwrap();
    assert!(told.contains("an external processor is told of it, by the cluster processor"), "{told}");
    world.mesh.endpoints("processor", vec![]);
    assert_eq!(world.ask(&world.billing, "/", "").await.0, 500);
    assert_eq!(world.ask(&world.open, "/", "").await.0, 200);
}

/// What was told in pieces, of which only the last one was told as such.
fn joined(pieces: &[HttpBody]) -> String {
    let last: Vec<_> = pieces.iter().filter(|piece| piece.end_of_stream).collect();
    assert!(last.len() == 1 && pieces.last().is_some_and(|piece| piece.end_of_stream), "{} pieces", pieces.len());
    String::from_utf8(pieces.iter().flat_map(|piece| piece.body.clone()).collect()).unwrap()
}

#[tokio::test]
async fn bodies_pass_piece_by_piece_in_order_and_as_fast_as_they_are_answered() {
    let world = World::of(248, pieces, in_pieces).await;
    // More than is ever kept of a body.
    let long: &'static str = (0..3_u32 << 20).map(|at| char::from(b'a' + (at % 23) as u8)).collect::<String>().leak();
    let (status, headers, text) = world.ask(&world.billing, "/echo?upper", long).await;
    assert!(status == 200 && text == long.to_uppercase(), "{status} with {} bytes", text.len());
    assert!(!headers.contains_key("content-length") && !headers.contains_key("x-late"), "{headers:?}");
    let [request, response] = world.pieces();
    assert!(request.len() > 2 && joined(&request) == long && joined(&response) == text);
    // Without an answer no more is told than so much.
    world.heard.lock().unwrap().clear();
    let (limit, window, most) = (Duration::from_secs(20), 256 << 10, 1 << 20);
    let told = || world.pieces()[0].iter().map(|piece| piece.body.len()).sum::<usize>();
    let full = async {
        let start = Instant::now();
        while told() < window && world.pieces()[0].len() < 16 {
            assert!(start.elapsed() < limit, "{} bytes are told", told());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // It would go on at once.
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    tokio::select! {
        answered = world.ask(&world.billing, "/echo?wait", long) => panic!("{} before anything was said", answered.0),
        () = full => {}
    }
    assert!(told() < most && world.pieces()[0].len() <= 16, "{} bytes are told", told());
}

#[tokio::test]
async fn a_processor_ends_a_request_in_the_middle_of_its_body_as_long_as_no_response_has_begun() {
    let world = World::of(249, pieces, in_pieces).await;
    let post = |path: &str| Request::post(format!("http://billing.shop{path}")).body(Body::from("x".repeat(100_000))).unwrap();
    let mut client = http2(&world.mesh, WEB, world.billing.vip).await;
    let (status, headers, text) = read(client.send_request(post("/echo?cut")).await.unwrap()).await;
    assert_eq!((status, headers["x-why"].as_bytes(), text.as_str()), (429, &b"because"[..], "no"));
    world.mesh.logged(&["status=429", "reason=ext_proc_answered"]).await;
    let whole = match client.send_request(post("/echo?late")).await {
        Ok(response) => {
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.is_ok()
        }
        // Nothing of it was written yet.
        Err(_) => false,
    };
    assert!(!whole, "the response does not end as if it were whole");
    world.mesh.logged(&["status=200", "reason=ext_proc_answered"]).await;
}

#[tokio::test]
async fn trailers_are_changed_and_a_processor_says_what_it_is_told() {
    let world = World::of(250, pieces, in_pieces).await;
    let call = Request::post("http://billing.shop/trailers").body(Body::from("call")).unwrap();
    let response = http2(&world.mesh, WEB, world.billing.vip).await.send_request(call).await.unwrap();
    let whole = response.into_body().collect().await.unwrap();
    let trailers = whole.trailers().cloned().unwrap();
    assert_eq!((trailers["grpc-status"].as_bytes(), trailers["x-more"].as_bytes()), (&b"0"[..], &b"yes"[..]));
    assert_eq!(whole.to_bytes(), "call");
    // No piece is the last one where trailers follow.
    assert!(world.pieces()[1].iter().all(|piece| !piece.end_of_stream));
    for (path, text, expected) in [("/echo?skip", "as it is", "as it is"), ("/echo?whole", "all of it", "ALL OF IT")] {
        world.heard.lock().unwrap().clear();
        let (status, _, answered) = world.ask(&world.billing, path, text).await;
        assert_eq!((status, answered.as_str()), (200, expected), "{path}");
        let told = world.heard.lock().unwrap().clone();
        let bodies: Vec<_> = told.iter().filter(|told| !matches!(told, Told::RequestHeaders(_))).collect();
        match (path, bodies.as_slice()) {
            ("/echo?skip", []) => {}
            ("/echo?whole", [Told::RequestBody(whole)]) if whole.end_of_stream && whole.body == text.as_bytes() => {}
            _ => panic!("{path}: {told:?}"),
        }
    }
    let (status, headers, _) = world.ask(&world.billing, "/echo?duplex", "text").await;
    assert_eq!((status, headers["x-ambit-reason"].as_bytes()), (500, &b"ext_proc_error"[..]));
}
