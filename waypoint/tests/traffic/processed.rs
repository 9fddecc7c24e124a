//! Requests and responses that a processor is told of: what it makes of them, and what becomes of them when it does not answer as it should.

use ambit_api::{
    envoy::pb::envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption},
        extensions::filters::http::ext_proc::v3::{ExternalProcessor, ProcessingMode, processing_mode::BodySendMode},
        service::ext_proc::v3::{
            BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse, ProcessingResponse,
            body_mutation::Mutation, common_response::ResponseStatus, processing_request::Request as Told,
            processing_response::Response as Said,
        },
        r#type::v3::HttpStatus,
    },
    type_url,
};
use http::{HeaderMap, Request};
use waypoint::explain::{Question, explain, request};

use super::support::{
    BILLING, Mesh, WEB,
    client::{Body, http2, once, read},
    endpoint::{self, HTTP, Seen},
    id,
    processor::{self, Act, Heard, header},
    resources::{self, Ep, Service},
};

fn bodies(config: &mut ExternalProcessor) {
    config.processing_mode = Some(ProcessingMode {
        request_body_mode: BodySendMode::Buffered.into(),
        response_body_mode: BodySendMode::Buffered.into(),
        ..Default::default()
    });
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
fn fitting(told: &Told, common: CommonResponse) -> Act {
    let response = Some(common);
    say(match told {
        Told::RequestHeaders(_) => Said::RequestHeaders(HeadersResponse { response }),
        Told::ResponseHeaders(_) => Said::ResponseHeaders(HeadersResponse { response }),
        Told::RequestBody(_) => Said::RequestBody(BodyResponse { response }),
        Told::ResponseBody(_) => Said::ResponseBody(BodyResponse { response }),
        Told::RequestTrailers(_) | Told::ResponseTrailers(_) => panic!("nobody asked for trailers"),
    })
}

fn body(data: &str) -> Option<BodyMutation> {
    Some(BodyMutation { mutation: Some(Mutation::Body(data.as_bytes().to_vec())) })
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
        ("/no", _) | ("/late-no", _) => {
            let immediate = ImmediateResponse {
                status: Some(HttpStatus { code: 429 }),
                headers: sets(&[("x-why", "because")]),
                body: b"no".to_vec(),
                ..Default::default()
            };
            return say(Said::ImmediateResponse(immediate));
        }
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
        let mesh = Mesh::start(number).await;
        let billing = Service { processor: Some(("processor", bodies)), ..Service::http("billing", mesh.socket(100, 80)) };
        let opens: fn(&mut ExternalProcessor) = |config| {
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
