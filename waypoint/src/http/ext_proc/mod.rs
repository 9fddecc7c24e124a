//! External processors: told of requests that nothing has refused, then of their responses, and may change both or answer in their place.
//! None that fails lets anything pass, unless its configuration says so. Rules have decided before: the route stays, and so do host and
//! scheme, whatever is changed, and the method but for one that comes with another body.
//!
//! | file | what it does |
//! |---|---|
//! | `session.rs` | what is said to one processor about one request, and what it says |
//! | `mutation.rs` | what it changes of heads |
//! | `end.rs` | what a client is answered where a request or a response goes no further |

mod end;
mod mutation;
mod session;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use ambit_api::envoy::pb::envoy::service::ext_proc::v3::{
    CommonResponse, common_response::ResponseStatus, processing_request::Request as Told,
};
use ambit_model::{Reason, Refusal};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use self::{
    end::End,
    mutation::Line,
    session::{Failure, Heard, Session},
};
use super::{
    Phase, ResponseBody,
    answer::Style,
    body::BodyError,
    call::stream::Callee,
    forward::{Exchange, Hold},
    select::Target,
    serve::view,
};
use crate::{
    compiled::{BodyMode, ExtProc, Snapshot},
    observe::Record,
    proxy::Proxy,
    terminate::Tunnel,
    upstream::{Beginning, RequestBody, Unread},
};

const PATH: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// The longest body that a processor is told, or says, in bytes.
const LONGEST: usize = 1 << 20;
/// The longest message of a processor: a body, and headers.
const LONGEST_MESSAGE: usize = LONGEST + (128 << 10);
/// How long a body may take to come that a processor is to be told. Meanwhile it has of the room for all bodies that are kept.
const BODY: Duration = Duration::from_mins(1);

/// The processors of a request.
pub struct Processors {
    proxy: Arc<Proxy>,
    snapshot: Arc<Snapshot>,
    tunnel: Arc<Tunnel>,
    /// What headers may take together, in bytes.
    most: usize,
    style: Style,
    sessions: Vec<Session>,
}

impl Processors {
    /// Those that the request's route has asked; `None` where it has none.
    pub fn of(exchange: &Exchange) -> Option<Box<Self>> {
        let holds = |config: &&Arc<ExtProc>| config.holds_for(&exchange.route);
        let sessions: Vec<_> = exchange.http.processors.iter().filter(holds).cloned().map(Session::new).collect();
        (!sessions.is_empty()).then(|| {
            Box::new(Self {
                proxy: exchange.proxy.clone(),
                snapshot: exchange.snapshot.clone(),
                tunnel: exchange.tunnel.clone(),
                most: exchange.http.max_header_bytes,
                style: exchange.style,
                sessions,
            })
        })
    }

    /// Tells them of the request, and makes of it what they say.
    ///
    /// # Errors
    /// With what the client is answered, of which those before the one that has it so are to be told.
    pub async fn request(
        &mut self,
        request: &mut Request<Incoming>,
        target: &mut Target,
        hold: &mut Hold,
        record: &mut Record,
    ) -> Result<(), Box<Response<ResponseBody>>> {
        let Self { proxy, snapshot, tunnel, most, style, sessions } = self;
        for at in 0..sessions.len() {
            let Some(session) = sessions.get_mut(at) else { break };
            let config = session.config.clone();
            let context = Context { callee: callee(proxy, snapshot, tunnel, &config), most: *most };
            if let Some(beside) = &record.beside {
                beside.asks("external processor", &config.cluster);
            }
            let Hold { phase, before, .. } = hold;
            if let Err(end) = context.request(session, request, target, before, phase.as_ref()).await {
                sessions.truncate(at);
                return Err(Box::new(end.answer(Some(record), *style)));
            }
            if !config.mode.response_headers && config.mode.response_body == BodyMode::None {
                // It need not hold a call for as long as the endpoint takes.
                session.end();
            }
        }
        Ok(())
    }

    /// Tells them of the response, the last one first, and makes of it what they say.
    pub async fn response(mut self: Box<Self>, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        // What goes on after that is no response any more.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        while let Some(mut session) = self.sessions.pop() {
            let config = session.config.clone();
            let context = Context { callee: callee(&self.proxy, &self.snapshot, &self.tunnel, &config), most: self.most };
            if let Err(end) = context.response(&mut session, &mut response).await {
                let answer = end.answer(response.body_mut().record(), self.style);
                response = answer;
            }
        }
        response
    }
}

fn callee<'a>(proxy: &'a Proxy, snapshot: &'a Snapshot, tunnel: &'a Tunnel, config: &'a ExtProc) -> Callee<'a> {
    let (cluster, authority) = (&*config.cluster, &*config.authority);
    Callee { proxy, snapshot, tunnel, cluster, authority, path: PATH, longest: LONGEST_MESSAGE }
}

/// What goes with all that one processor is told.
struct Context<'a> {
    callee: Callee<'a>,
    most: usize,
}

impl Context<'_> {
    async fn request(
        &self,
        session: &mut Session,
        request: &mut Request<Incoming>,
        target: &mut Target,
        before: &mut Option<Box<Beginning>>,
        phase: Option<&Phase>,
    ) -> Result<(), End> {
        let mode = session.config.mode;
        // What follows an upgrade is no body.
        let has_body = before.is_some() || !request.body().is_end_stream();
        if mode.request_headers {
            let seen = view(request, target);
            let pseudo = [
                (":authority", seen.authority),
                (":path", seen.path_and_query),
                (":method", seen.method),
                (":scheme", seen.scheme),
            ];
            let told = Told::RequestHeaders(session::headers(&pseudo, request.headers(), !has_body));
            let Some(common) = self.told(session, told).await? else { return Ok(()) };
            let replaces = replaces(&common);
            self.change_request(session, request, target, &common, replaces)?;
            if replaces {
                if has_body {
                    // Its client has to have sent it, and nobody wants it.
                    self.read(request, before, phase).await?;
                }
                let body = self.replaced(session, common)?.unwrap_or_default();
                return self.put(request.headers_mut(), before, &body);
            }
        }
        if mode.request_body == BodyMode::None || !has_body || session.is_over() {
            return Ok(());
        }
        let told = Told::RequestBody(session::body(&self.read(request, before, phase).await?));
        let Some(common) = self.told(session, told).await? else { return Ok(()) };
        self.change_request(session, request, target, &common, false)?;
        match self.replaced(session, common)? {
            Some(body) => self.put(request.headers_mut(), before, &body),
            None => Ok(()),
        }
    }

    async fn response(&self, session: &mut Session, response: &mut Response<ResponseBody>) -> Result<(), End> {
        let mode = session.config.mode;
        let has_body = !response.body().is_end_stream();
        if mode.response_headers {
            let status = response.status();
            let pseudo = [(":status", status.as_str())];
            let told = Told::ResponseHeaders(session::headers(&pseudo, response.headers(), !has_body));
            let Some(common) = self.told(session, told).await? else { return Ok(()) };
            self.change_response(session, response, &common)?;
            if replaces(&common) {
                let body = self.replaced(session, common)?.unwrap_or_default();
                say_length(response.headers_mut(), &body);
                response.body_mut().put(RequestBody::of(body));
                return Ok(());
            }
        }
        if mode.response_body == BodyMode::None || !has_body || session.is_over() {
            return Ok(());
        }
        let mut read = Beginning::new(&self.callee.proxy.kept_bodies);
        let whole = timeout(BODY, whole(response.body_mut(), &mut read)).await;
        whole.unwrap_or_else(|_| Err(End::refused(StatusCode::GATEWAY_TIMEOUT, Reason::UpstreamTimeout, too_long())))?;
        let told = Told::ResponseBody(session::body(&read.start(LONGEST)));
        if let Some(common) = self.told(session, told).await? {
            self.change_response(session, response, &common)?;
            if let Some(body) = self.replaced(session, common)? {
                say_length(response.headers_mut(), &body);
                if !read.replace(&body) {
                    return Err(no_room());
                }
            }
        }
        response.body_mut().put(read.into_body());
        Ok(())
    }

    /// What the processor says of something; `None` when it says nothing.
    async fn told(&self, session: &mut Session, told: Told) -> Result<Option<CommonResponse>, End> {
        match session.tell(&self.callee, told).await {
            Ok(Heard::Common(common)) => Ok(Some(*common)),
            Ok(Heard::Immediate(immediate)) => Err(End::said(*immediate, &session.config, self.most)),
            Ok(Heard::Nothing) => Ok(None),
            Err(failure) => Err(self.failed(session, &failure)),
        }
    }

    fn failed(&self, session: &Session, failure: &Failure) -> End {
        let text = format!("cluster {}: {}", self.callee.cluster, failure.text);
        let status = if failure.late { StatusCode::GATEWAY_TIMEOUT } else { session.config.status_on_error };
        End::refused(status, Reason::ExtProcError, text)
    }

    fn change_request(
        &self,
        session: &Session,
        request: &mut Request<Incoming>,
        target: &mut Target,
        common: &CommonResponse,
        replaces: bool,
    ) -> Result<(), End> {
        let Some(mutation) = common.header_mutation.clone() else { return Ok(()) };
        let mut method = request.method().clone();
        let mut line = Line::Request { target, method: replaces.then_some(&mut method) };
        let rules = &session.config.rules;
        mutation::apply(mutation, rules, request.headers_mut(), &mut line, self.most)
            .map_err(|why| self.failed(session, &why.into()))?;
        *request.method_mut() = method;
        Ok(())
    }

    fn change_response(
        &self,
        session: &Session,
        response: &mut Response<ResponseBody>,
        common: &CommonResponse,
    ) -> Result<(), End> {
        let Some(mutation) = common.header_mutation.clone() else { return Ok(()) };
        let mut status = response.status();
        let (rules, mut line) = (&session.config.rules, Line::Response(&mut status));
        mutation::apply(mutation, rules, response.headers_mut(), &mut line, self.most)
            .map_err(|why| self.failed(session, &why.into()))?;
        *response.status_mut() = status;
        Ok(())
    }

    /// The body that a processor has put in the place of another.
    fn replaced(&self, session: &Session, common: CommonResponse) -> Result<Option<Bytes>, End> {
        session::replaced(common.body_mutation).map_err(|why| self.failed(session, &why.into()))
    }

    /// All of a request's body, which is kept in `before`.
    async fn read(
        &self,
        request: &mut Request<Incoming>,
        before: &mut Option<Box<Beginning>>,
        phase: Option<&Phase>,
    ) -> Result<Bytes, End> {
        let beginning = before.get_or_insert_with(|| Box::new(Beginning::new(&self.callee.proxy.kept_bodies)));
        // One byte more shows that it is too long.
        let read = timeout(BODY, beginning.read(request.body_mut(), LONGEST + 1)).await;
        let read = read.map_err(|_| End::refused(StatusCode::REQUEST_TIMEOUT, Reason::RequestTimeout, too_long()))?;
        read.map_err(|unread| match unread {
            Unread::NoRoom => no_room(),
            Unread::Broke(error) => End::refused(StatusCode::BAD_REQUEST, Reason::ClientReset, error.to_string()),
        })?;
        if beginning.is_whole()
            && let Some(phase) = phase
        {
            phase.complete();
        }
        if beginning.length() > LONGEST {
            let text = format!("a body of more than {LONGEST} bytes, of which a processor is to be told");
            return Err(End::refused(StatusCode::PAYLOAD_TOO_LARGE, Reason::RequestTooLarge, text));
        }
        Ok(beginning.start(LONGEST))
    }

    /// Has a request go on with this body.
    fn put(&self, headers: &mut HeaderMap, before: &mut Option<Box<Beginning>>, body: &[u8]) -> Result<(), End> {
        say_length(headers, body);
        let beginning = before.get_or_insert_with(|| Box::new(Beginning::new(&self.callee.proxy.kept_bodies)));
        match beginning.replace(body) {
            true => Ok(()),
            false => Err(no_room()),
        }
    }
}

/// The length of a body that comes in the place of another is known, whatever was said of that one.
fn say_length(headers: &mut HeaderMap, body: &[u8]) {
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
}

/// Whether what a processor says comes in the place of the body, of which it is told nothing.
fn replaces(common: &CommonResponse) -> bool {
    common.status == ResponseStatus::ContinueAndReplace as i32
}

/// Reads a response's body to its end.
async fn whole(body: &mut ResponseBody, read: &mut Beginning) -> Result<(), End> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken)?;
        if read.length() + frame.data_ref().map_or(0, Bytes::len) > LONGEST {
            let text = format!("a response of more than {LONGEST} bytes, of which a processor is to be told");
            return Err(End::refused(StatusCode::INTERNAL_SERVER_ERROR, Reason::ExtProcError, text));
        }
        if !read.add(&frame) {
            return Err(no_room());
        }
    }
    Ok(())
}

/// A response broke off, or took longer than its route allows.
fn broken(error: BodyError) -> End {
    let (status, reason) = match error {
        BodyError::Upstream(_) => (StatusCode::SERVICE_UNAVAILABLE, Reason::UpstreamReset),
        BodyError::TimedOut => (StatusCode::GATEWAY_TIMEOUT, Reason::RequestTimeout),
    };
    End::refused(status, reason, error.to_string())
}

fn too_long() -> String {
    format!("a body that a processor is to be told took more than {BODY:?}")
}

fn no_room() -> End {
    End::refused(StatusCode::SERVICE_UNAVAILABLE, Reason::MemoryLimit, "bodies that are kept".to_owned())
}

impl End {
    fn refused(status: StatusCode, reason: Reason, detail: String) -> Self {
        Self::Refused(status, Refusal::new(reason, detail))
    }
}
