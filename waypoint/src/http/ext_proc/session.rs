//! What is said to one processor about one request, and what it says.

use std::sync::Arc;

use ambit_api::envoy::pb::envoy::{
    config::core::v3::{HeaderMap as PbHeaders, HeaderValue as PbHeader},
    extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode,
    service::ext_proc::v3::{
        BodyMutation, CommonResponse, HttpBody, HttpHeaders, ImmediateResponse, ProcessingRequest, ProcessingResponse,
        ProtocolConfiguration, body_mutation::Mutation, processing_request::Request as Told,
        processing_response::Response as Said,
    },
};
use bytes::Bytes;
use http::HeaderMap;
use metrics::counter;
use prost::Message;
use tokio::time::timeout;

use crate::{
    compiled::{BodyMode, ExtProc},
    http::call::{
        grpc::framed,
        stream::{Callee, Stream},
    },
};

/// Counts messages to processors, by `result`: `ok`, `immediate`, `closed` for streams that they have ended, `error`, and
/// `failure_mode_allowed` for requests that go on without an answer.
const MESSAGES: &str = "ambit_ext_proc_messages_total";

/// What goes on between a processor and the waypoint about one request.
pub struct Session {
    /// How it is done.
    pub config: Arc<ExtProc>,
    stream: Option<Stream>,
    over: bool,
}

/// What a processor has answered.
pub enum Heard {
    /// To go on, with these changes.
    Common(Box<CommonResponse>),
    /// To answer the client.
    Immediate(Box<ImmediateResponse>),
    /// Nothing, and nor will it any more; the request goes on.
    Nothing,
}

/// Why there is no answer that goes with what was told.
#[derive(Debug)]
pub struct Failure {
    /// None came in time.
    pub late: bool,
    /// In words.
    pub text: String,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { late: false, text }
    }
}

impl Session {
    /// In which nothing was said yet.
    pub fn new(config: Arc<ExtProc>) -> Self {
        Self { config, stream: None, over: false }
    }

    /// Whether the processor is told nothing more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Tells the processor one thing and waits for what it says of it.
    ///
    /// # Errors
    /// Without an answer, unless requests go on without one.
    pub async fn tell(&mut self, to: &Callee<'_>, told: Told) -> Result<Heard, Failure> {
        if self.over {
            return Ok(Heard::Nothing);
        }
        match self.ask(to, told).await {
            Ok(Heard::Nothing) => {
                counter!(MESSAGES, "result" => "closed").increment(1);
                self.end();
                Ok(Heard::Nothing)
            }
            Ok(Heard::Immediate(immediate)) => {
                counter!(MESSAGES, "result" => "immediate").increment(1);
                self.end();
                Ok(Heard::Immediate(immediate))
            }
            Ok(heard) => {
                counter!(MESSAGES, "result" => "ok").increment(1);
                Ok(heard)
            }
            Err(failure) => self.failed(failure).map(|()| Heard::Nothing),
        }
    }

    /// Whether a request goes on where its processor has failed.
    fn failed(&mut self, failure: Failure) -> Result<(), Failure> {
        self.end();
        if self.config.failure_mode_allow {
            counter!(MESSAGES, "result" => "failure_mode_allowed").increment(1);
            tracing::debug!(cluster = %self.config.cluster, failure = failure.text, "a request goes on without its processor");
            return Ok(());
        }
        counter!(MESSAGES, "result" => "error").increment(1);
        Err(failure)
    }

    /// The processor is told nothing more, and its call ends.
    pub fn end(&mut self) {
        self.over = true;
        self.stream = None;
    }

    async fn ask(&mut self, to: &Callee<'_>, told: Told) -> Result<Heard, Failure> {
        let Self { config, stream, .. } = self;
        let step = Step::of(&told);
        let protocol_config = stream.is_none().then(|| protocol(config));
        let message = framed(&ProcessingRequest { request: Some(told), protocol_config, ..Default::default() });
        let conversation = async {
            let stream = match stream {
                Some(stream) => {
                    stream.say(message).await;
                    stream
                }
                None => {
                    let begun = to.begin(message).await?;
                    stream.insert(begun)
                }
            };
            loop {
                let Some(heard) = stream.hear().await? else { return Ok(None) };
                let answer = ProcessingResponse::decode(heard).map_err(|error| format!("its answer cannot be read: {error}"))?;
                // It asks for more time, which it has not unless it may, and which is no answer.
                if answer.override_message_timeout.is_none() {
                    return Ok(Some(answer));
                }
            }
        };
        let answered: Result<_, String> = match timeout(config.message_timeout, conversation).await {
            Ok(answered) => answered,
            Err(_) => return Err(Failure { late: true, text: format!("no answer within {:?}", config.message_timeout) }),
        };
        let Some(answer) = answered? else { return Ok(Heard::Nothing) };
        let common = match (step, answer.response) {
            (_, Some(Said::ImmediateResponse(immediate))) => return Ok(Heard::Immediate(Box::new(immediate))),
            (Step::RequestHeaders, Some(Said::RequestHeaders(said))) => said.response,
            (Step::ResponseHeaders, Some(Said::ResponseHeaders(said))) => said.response,
            (Step::RequestBody, Some(Said::RequestBody(said))) => said.response,
            (Step::ResponseBody, Some(Said::ResponseBody(said))) => said.response,
            _ => return Err(format!("it answers something else than {step:?}").into()),
        };
        Ok(Heard::Common(Box::new(common.unwrap_or_default())))
    }
}

/// What is told, and to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    RequestHeaders,
    RequestBody,
    ResponseHeaders,
    ResponseBody,
    /// What is never told.
    Trailers,
}

impl Step {
    fn of(told: &Told) -> Self {
        match told {
            Told::RequestHeaders(_) => Self::RequestHeaders,
            Told::RequestBody(_) => Self::RequestBody,
            Told::ResponseHeaders(_) => Self::ResponseHeaders,
            Told::ResponseBody(_) => Self::ResponseBody,
            Told::RequestTrailers(_) | Told::ResponseTrailers(_) => Self::Trailers,
        }
    }
}

fn protocol(config: &ExtProc) -> ProtocolConfiguration {
    let mode = |mode: BodyMode| -> i32 {
        match mode {
            BodyMode::None => BodySendMode::None.into(),
            BodyMode::Buffered => BodySendMode::Buffered.into(),
        }
    };
    ProtocolConfiguration {
        request_body_mode: mode(config.mode.request_body),
        response_body_mode: mode(config.mode.response_body),
        ..Default::default()
    }
}

/// Headers as a processor is told them, after these pseudo headers.
pub fn headers(pseudo: &[(&str, &str)], headers: &HeaderMap, end_of_stream: bool) -> HttpHeaders {
    let header = |key: &str, value: &[u8]| PbHeader { key: key.to_owned(), raw_value: value.to_vec(), ..Default::default() };
    let pseudo = pseudo.iter().map(|(name, value)| header(name, value.as_bytes()));
    // The host is among them.
    let fields = headers.iter().filter(|(name, _)| **name != http::header::HOST);
    let all = pseudo.chain(fields.map(|(name, value)| header(name.as_str(), value.as_bytes()))).collect();
    HttpHeaders { headers: Some(PbHeaders { headers: all }), end_of_stream, ..Default::default() }
}

/// A whole body as a processor is told it.
pub fn body(data: &[u8]) -> HttpBody {
    HttpBody { body: data.to_vec(), end_of_stream: true, ..Default::default() }
}

/// The body in the place of another, if there is to be one.
///
/// # Errors
/// When it is said in a way that goes with other modes.
pub fn replaced(mutation: Option<BodyMutation>) -> Result<Option<Bytes>, String> {
    match mutation.and_then(|mutation| mutation.mutation) {
        Some(Mutation::Body(body)) => Ok(Some(body.into())),
        Some(Mutation::ClearBody(true)) => Ok(Some(Bytes::new())),
        Some(Mutation::ClearBody(false)) | None => Ok(None),
        Some(Mutation::StreamedResponse(_)) => Err("it streams a body that is told whole".into()),
    }
}
