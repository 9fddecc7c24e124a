//! What is said to one processor about one request, and what it says. Of the two halves, that of the request and that of the response, each
//! may be waiting for what is said to it while the other is.

use std::{sync::Arc, time::Duration};

use ambit_api::envoy::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HeaderMutation, ImmediateResponse, ProcessingResponse, processing_request::Request as Told,
    processing_response::Response as Said,
};
use bytes::Bytes;
use metrics::counter;
use tokio::{sync::mpsc, time::timeout};

use super::call::{Call, Place, Spoken};
use crate::compiled::{ExtProc, ProcessingMode};

/// Counts messages to processors, by `result`: `ok`, `immediate`, `closed` for streams that they have ended, `error`, and
/// `failure_mode_allowed` for requests that go on without an answer.
const MESSAGES: &str = "ambit_ext_proc_messages_total";

/// What goes on between a processor and the waypoint about one request.
pub struct Session {
    /// How it is done.
    pub config: Arc<ExtProc>,
    /// What the processor is told, from now on.
    pub mode: ProcessingMode,
    request: Option<Half>,
    response: Option<Half>,
}

/// One direction of it.
pub struct Half {
    call: Arc<Call>,
    ear: mpsc::Receiver<Spoken>,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the endpoint.
    Request,
    /// To the client.
    Response,
}

/// What a processor has answered.
#[derive(Debug)]
pub enum Heard {
    /// To go on, with these changes.
    Common(Box<CommonResponse>),
    /// To go on, with these changes of trailers.
    Trailers(Option<HeaderMutation>),
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
    pub fn new(config: Arc<ExtProc>, place: Arc<Place>) -> Self {
        let (call, [request, response]) = Call::new(config.clone(), place);
        let half = |ear| Some(Half { call: call.clone(), ear });
        Self { mode: config.mode, request: half(request), response: half(response), config }
    }

    /// Whether the processor is told nothing more, and all goes on without it.
    ///
    /// # Errors
    /// As in [`Half::is_over`].
    pub fn is_over(&self) -> Result<bool, Failure> {
        match self.request.as_ref().or(self.response.as_ref()) {
            Some(half) => half.is_over(),
            None => Ok(false),
        }
    }

    /// Whether its processor has answered in the place of an endpoint, or failed, so that nothing from one passes any more.
    pub fn is_barred(&self) -> bool {
        [&self.request, &self.response].into_iter().flatten().any(|half| half.call.is_barred())
    }

    /// Tells the processor one thing and waits for what it says of it. What it says then of what else it is told holds from now on.
    ///
    /// # Errors
    /// Without an answer, unless requests go on without one.
    pub async fn tell(&mut self, told: Told) -> Result<Heard, Failure> {
        let step = Step::of(&told);
        let half = match step.way() {
            Way::Request => &mut self.request,
            Way::Response => &mut self.response,
        };
        let Some(half) = half else { return Ok(Heard::Nothing) };
        if half.is_over()? {
            return Ok(Heard::Nothing);
        }
        let answered = half.ask(told).await;
        let heard = match answered {
            Ok(Some(answer)) => {
                let said = answer.mode_override.filter(|_| matches!(step, Step::RequestHeaders | Step::ResponseHeaders));
                let mode = said.map_or(Ok(None), |said| self.config.overridden(&said));
                mode.map_err(|why| Failure::from(format!("its mode_override: {why}"))).and_then(|mode| {
                    if let Some(mode) = mode {
                        self.mode = mode;
                    }
                    fitting(step, answer)
                })
            }
            Ok(None) => Ok(Heard::Nothing),
            Err(failure) => Err(failure),
        };
        half.judged(heard)
    }

    /// One half of it, for what is told in pieces. It is told nothing else in this direction.
    pub fn take(&mut self, way: Way) -> Option<Half> {
        match way {
            Way::Request => self.request.take(),
            Way::Response => self.response.take(),
        }
    }

    /// Nothing is told of the response, so that the call need not last for as long as the endpoint takes.
    pub fn leave_response(&mut self) {
        self.response = None;
        // Where the request passes in pieces it has the call, and otherwise nobody has.
        self.request = None;
    }
}

impl Half {
    /// Whether the processor is told nothing more, and all goes on without it.
    ///
    /// # Errors
    /// When nothing goes on, because of what was said or failed in the other direction.
    pub fn is_over(&self) -> Result<bool, Failure> {
        match (self.call.is_over(), self.call.is_barred()) {
            (true, true) => Err(Failure::from("it has ended the request, or failed, in the other direction".to_owned())),
            (over, _) => Ok(over),
        }
    }

    /// How it is done.
    pub fn config(&self) -> &ExtProc {
        &self.call.config
    }

    /// One thing as it is said on the call.
    pub fn message(&self, told: Told) -> Bytes {
        self.call.message(told)
    }

    /// The call, and where its answers are heard.
    pub fn parts(&mut self) -> (&Call, &mut mpsc::Receiver<Spoken>) {
        (&*self.call, &mut self.ear)
    }

    /// As if the call had begun: what is said on it, and where each half is answered.
    #[cfg(test)]
    pub fn opened(&self) -> (mpsc::Receiver<Bytes>, [mpsc::Sender<Spoken>; 2]) {
        self.call.opened()
    }

    /// The next answer; `None` when there is none, nor will be.
    ///
    /// # Errors
    /// When the call broke off.
    pub async fn hear(ear: &mut mpsc::Receiver<Spoken>) -> Result<Option<ProcessingResponse>, Failure> {
        let answer = ear.recv().await.transpose()?;
        Ok(answer.map(|answer| *answer))
    }

    /// Refuses what was said without having been asked for.
    ///
    /// # Errors
    /// When there is something.
    fn quiet(&mut self) -> Result<(), Failure> {
        match self.ear.try_recv() {
            Ok(Ok(_)) => Err(Failure::from("it answers what it was not told".to_owned())),
            Ok(Err(text)) => Err(Failure::from(text)),
            // What has ended shows when something is told.
            Err(_) => Ok(()),
        }
    }

    /// Says one thing and waits for what comes back.
    async fn ask(&mut self, told: Told) -> Result<Option<ProcessingResponse>, Failure> {
        self.quiet()?;
        let message = self.message(told);
        let limit = self.config().message_timeout;
        let (call, ear) = self.parts();
        let conversation = async {
            call.say(&message).await?;
            Self::hear(ear).await
        };
        timeout(limit, conversation).await.unwrap_or_else(|_| Err(late(limit)))
    }

    /// The same for one half alone: what it says, counted.
    ///
    /// # Errors
    /// Without an answer, unless requests go on without one.
    pub async fn tell(&mut self, told: Told) -> Result<Heard, Failure> {
        if self.is_over()? {
            return Ok(Heard::Nothing);
        }
        let step = Step::of(&told);
        let answered = self.ask(told).await;
        self.judged(answered.and_then(|answer| answer.map_or(Ok(Heard::Nothing), |answer| fitting(step, answer))))
    }

    /// What becomes of what was heard, or was not.
    ///
    /// # Errors
    /// When the processor has failed, unless requests go on without it.
    pub fn judged(&self, heard: Result<Heard, Failure>) -> Result<Heard, Failure> {
        // The other half may have ended it.
        if matches!(heard, Ok(Heard::Nothing)) && self.is_over()? {
            return heard;
        }
        let result = match &heard {
            Ok(Heard::Nothing) => "closed",
            Ok(Heard::Immediate(_)) => "immediate",
            Ok(_) => "ok",
            Err(_) if self.config().failure_mode_allow => "failure_mode_allowed",
            Err(_) => "error",
        };
        counter!(MESSAGES, "result" => result).increment(1);
        match result {
            "ok" => {}
            "immediate" | "error" => self.call.bar(),
            _ => self.call.end(),
        }
        match heard {
            Err(failure) if self.config().failure_mode_allow => {
                let cluster = &self.config().cluster;
                tracing::debug!(%cluster, failure = failure.text, "a request goes on without its processor");
                Ok(Heard::Nothing)
            }
            heard => heard,
        }
    }
}

/// No answer came in time.
pub fn late(limit: Duration) -> Failure {
    Failure { late: true, text: format!("no answer within {limit:?}") }
}

/// What is told, and to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Headers of the request.
    RequestHeaders,
    /// Its body, or a piece of it.
    RequestBody,
    /// Its trailers.
    RequestTrailers,
    /// Headers of the response.
    ResponseHeaders,
    /// Its body, or a piece of it.
    ResponseBody,
    /// Its trailers.
    ResponseTrailers,
}

impl Step {
    /// What is told so.
    pub fn of(told: &Told) -> Self {
        match told {
            Told::RequestHeaders(_) => Self::RequestHeaders,
            Told::ResponseHeaders(_) => Self::ResponseHeaders,
            Told::RequestBody(_) => Self::RequestBody,
            Told::ResponseBody(_) => Self::ResponseBody,
            Told::RequestTrailers(_) => Self::RequestTrailers,
            Told::ResponseTrailers(_) => Self::ResponseTrailers,
        }
    }

    /// The way that it is about.
    pub fn way(self) -> Way {
        match self {
            Self::RequestHeaders | Self::RequestBody | Self::RequestTrailers => Way::Request,
            Self::ResponseHeaders | Self::ResponseBody | Self::ResponseTrailers => Way::Response,
        }
    }
}

/// What an answer to this says.
///
/// # Errors
/// When it is one to something else.
pub fn fitting(step: Step, answer: ProcessingResponse) -> Result<Heard, Failure> {
    let common = match (step, answer.response) {
        (_, Some(Said::ImmediateResponse(immediate))) => return Ok(Heard::Immediate(Box::new(immediate))),
        (Step::RequestHeaders, Some(Said::RequestHeaders(said))) => said.response,
        (Step::ResponseHeaders, Some(Said::ResponseHeaders(said))) => said.response,
        (Step::RequestBody, Some(Said::RequestBody(said))) => said.response,
        (Step::ResponseBody, Some(Said::ResponseBody(said))) => said.response,
        (Step::RequestTrailers, Some(Said::RequestTrailers(said)))
        | (Step::ResponseTrailers, Some(Said::ResponseTrailers(said))) => return Ok(Heard::Trailers(said.header_mutation)),
        _ => return Err(format!("it answers something else than {step:?}").into()),
    };
    Ok(Heard::Common(Box::new(common.unwrap_or_default())))
}

/// The way that an answer is about, if it is about one.
pub fn way_of(answer: &ProcessingResponse) -> Option<Way> {
    match answer.response.as_ref()? {
        Said::RequestHeaders(_) | Said::RequestBody(_) | Said::RequestTrailers(_) => Some(Way::Request),
        Said::ResponseHeaders(_) | Said::ResponseBody(_) | Said::ResponseTrailers(_) => Some(Way::Response),
        _ => None,
    }
}
