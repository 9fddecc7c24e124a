//! What one processor is told of a request or a response before it goes on, and what becomes of it.

use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use ambit_api::envoy::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HttpTrailers, common_response::ResponseStatus, processing_request::Request as Told,
};
use ambit_model::Reason;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{
    call::{LONGEST, Place},
    end::End,
    flow::{Pieces, Through},
    mutation::{self, Line},
    passage::{Passage, Stopper},
    session::{Heard, Session, Way},
    told,
};
use crate::{
    compiled::BodyMode,
    http::{ResponseBody, body::BodyError, forward::Hold, select::Target, serve::view},
    upstream::{Beginning, RequestBody, Unread},
};

/// How long a body may take to come that a processor is to be told whole. Meanwhile it has of the room for all bodies that are kept.
const BODY: Duration = Duration::from_mins(1);

/// What goes with all that one processor is told.
pub struct Context<'a> {
    /// Where its call comes from.
    pub place: &'a Place,
    /// What headers may take together, in bytes.
    pub most: usize,
}

impl Context<'_> {
    /// Tells a processor of a request.
    ///
    /// # Errors
    /// When it goes no further.
    pub async fn request(
        &self,
        session: &mut Session,
        request: &mut Request<Incoming>,
        target: &mut Target,
        hold: &mut Hold,
    ) -> Result<(), End> {
        // What follows an upgrade is no body.
        let has_body = hold.before.is_some() || !request.body().is_end_stream();
        if session.mode.request_headers {
            let seen = view(request, target);
            let pseudo = [
                (":authority", seen.authority),
                (":path", seen.path_and_query),
                (":method", seen.method),
                (":scheme", seen.scheme),
            ];
            let told = Told::RequestHeaders(told::headers(&pseudo, request.headers(), !has_body));
            let Some(common) = self.told(session, told).await? else { return Ok(()) };
            let replaces = replaces(&common);
            self.change_request(session, request, target, &common, replaces)?;
            if replaces {
                whole_only(session, hold)?;
                if has_body {
                    // Its client has to have sent it, and nobody wants it.
                    self.read(request, hold).await?;
                }
                let body = self.replaced(session, common)?.unwrap_or_default();
                return self.put(request.headers_mut(), &mut hold.before, &body);
            }
        }
        let mode = session.mode;
        if session.is_over().map_err(|failure| End::failed(&session.config, &failure))? {
            return Ok(());
        }
        if mode.request_body == BodyMode::Streamed {
            // Nobody knows it any more.
            request.headers_mut().remove(header::CONTENT_LENGTH);
        }
        if !has_body {
            return Ok(());
        }
        if mode.request_body == BodyMode::Buffered {
            whole_only(session, hold)?;
            return self.request_body(session, request, target, hold).await;
        }
        let pieces = Pieces { body: mode.request_body == BodyMode::Streamed, trailers: mode.request_trailers };
        if (pieces.body || pieces.trailers)
            && let Some(half) = session.take(Way::Request)
        {
            let through = Through { half, pieces, most: self.most };
            match &mut hold.passage {
                Some(passage) => {
                    let stopper = passage.stopper.clone();
                    passage.through.push((through, stopper));
                }
                None => {
                    let (stopper, stopped) = Stopper::new();
                    let through = vec![(through, stopper.clone())];
                    hold.passage = Some(Box::new(Passage { bound: None, through, stopper, stopped }));
                }
            }
        }
        Ok(())
    }

    /// Tells a processor of a request's whole body, and of its trailers.
    async fn request_body(
        &self,
        session: &mut Session,
        request: &mut Request<Incoming>,
        target: &mut Target,
        hold: &mut Hold,
    ) -> Result<(), End> {
        let data = self.read(request, hold).await?;
        let before = &mut hold.before;
        let ends = before.as_mut().is_none_or(|before| before.trailers().is_none());
        let Some(common) = self.told(session, Told::RequestBody(told::body(&data, ends))).await? else { return Ok(()) };
        self.change_request(session, request, target, &common, false)?;
        if let Some(body) = self.replaced(session, common)? {
            self.put(request.headers_mut(), before, &body)?;
        }
        match before.as_mut().and_then(|before| before.trailers()) {
            Some(trailers) if session.mode.request_trailers => self.trailers(session, trailers, Told::RequestTrailers).await,
            _ => Ok(()),
        }
    }

    /// Tells a processor of a response.
    ///
    /// # Errors
    /// When it goes no further.
    pub async fn response(&self, session: &mut Session, response: &mut Response<ResponseBody>) -> Result<(), End> {
        let has_body = !response.body().is_end_stream();
        if session.mode.response_headers {
            let status = response.status();
            let pseudo = [(":status", status.as_str())];
            let told = Told::ResponseHeaders(told::headers(&pseudo, response.headers(), !has_body));
            let Some(common) = self.told(session, told).await? else { return Ok(()) };
            self.change_response(session, response, &common)?;
            if replaces(&common) {
                let body = self.replaced(session, common)?.unwrap_or_default();
                say_length(response.headers_mut(), &body);
                response.body_mut().put(RequestBody::of(body));
                return Ok(());
            }
        }
        let mode = session.mode;
        if session.is_over().map_err(|failure| End::failed(&session.config, &failure))? {
            return Ok(());
        }
        if mode.response_body == BodyMode::Streamed {
            // Nobody knows it any more.
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        if !has_body {
            return Ok(());
        }
        if mode.response_body == BodyMode::Buffered {
            return self.response_body(session, response).await;
        }
        let pieces = Pieces { body: mode.response_body == BodyMode::Streamed, trailers: mode.response_trailers };
        if (pieces.body || pieces.trailers)
            && let Some(half) = session.take(Way::Response)
        {
            let through = Through { half, pieces, most: self.most };
            response.body_mut().pass(|body| through.response(body));
        }
        Ok(())
    }

    /// Tells a processor of a response's whole body, and of its trailers.
    async fn response_body(&self, session: &mut Session, response: &mut Response<ResponseBody>) -> Result<(), End> {
        let mut read = Beginning::new(&self.place.proxy.kept_bodies);
        let whole = timeout(BODY, whole(response.body_mut(), &mut read)).await;
        whole.unwrap_or_else(|_| Err(End::refused(StatusCode::GATEWAY_TIMEOUT, Reason::UpstreamTimeout, too_long())))?;
        let ends = read.trailers().is_none();
        let told = Told::ResponseBody(told::body(&read.start(LONGEST), ends));
        if let Some(common) = self.told(session, told).await? {
            self.change_response(session, response, &common)?;
            if let Some(body) = self.replaced(session, common)? {
                say_length(response.headers_mut(), &body);
                if !read.replace(&body) {
                    return Err(no_room());
                }
            }
            if session.mode.response_trailers
                && let Some(trailers) = read.trailers()
            {
                self.trailers(session, trailers, Told::ResponseTrailers).await?;
            }
        }
        response.body_mut().put(read.into_body());
        Ok(())
    }

    /// Tells a processor of trailers that have come with a whole body.
    async fn trailers(&self, session: &mut Session, trailers: &mut HeaderMap, told: fn(HttpTrailers) -> Told) -> Result<(), End> {
        let said = told(HttpTrailers { trailers: Some(told::fields(&[], trailers)) });
        let Heard::Trailers(Some(mutation)) = self.heard(session, said).await? else { return Ok(()) };
        mutation::apply(mutation, &session.config.rules, trailers, &mut Line::Nothing, self.most)
            .map_err(|why| End::failed(&session.config, &why.into()))
    }

    /// What the processor says of headers or of a body; `None` when it says nothing.
    async fn told(&self, session: &mut Session, told: Told) -> Result<Option<CommonResponse>, End> {
        match self.heard(session, told).await? {
            Heard::Common(common) => Ok(Some(*common)),
            Heard::Trailers(_) | Heard::Immediate(_) | Heard::Nothing => Ok(None),
        }
    }

    async fn heard(&self, session: &mut Session, told: Told) -> Result<Heard, End> {
        match session.tell(told).await {
            Ok(Heard::Immediate(immediate)) => Err(End::said(*immediate, &session.config, self.most)),
            Ok(heard) => Ok(heard),
            Err(failure) => Err(End::failed(&session.config, &failure)),
        }
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
            .map_err(|why| End::failed(&session.config, &why.into()))?;
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
            .map_err(|why| End::failed(&session.config, &why.into()))?;
        *response.status_mut() = status;
        Ok(())
    }

    /// The body that a processor has put in the place of another.
    fn replaced(&self, session: &Session, common: CommonResponse) -> Result<Option<Bytes>, End> {
        told::replaced(common.body_mutation).map_err(|why| End::failed(&session.config, &why.into()))
    }

    /// All of a request's body, which is kept in `hold`.
    async fn read(&self, request: &mut Request<Incoming>, hold: &mut Hold) -> Result<Bytes, End> {
        let bound = hold.passage.as_deref().and_then(|passage| passage.bound.clone());
        let Hold { before, phase, .. } = hold;
        let beginning = before.get_or_insert_with(|| Box::new(Beginning::new(&self.place.proxy.kept_bodies)));
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
        if let Some(end) = bound.and_then(|bound| bound.passed(beginning.length())) {
            return Err(end);
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
        let beginning = before.get_or_insert_with(|| Box::new(Beginning::new(&self.place.proxy.kept_bodies)));
        match beginning.replace(body) {
            true => Ok(()),
            false => Err(no_room()),
        }
    }
}

/// Refuses a request of whose body one processor is to be told whole what another one still makes of it.
fn whole_only(session: &Session, hold: &Hold) -> Result<(), End> {
    match hold.passage.as_deref().is_none_or(|passage| passage.through.is_empty()) {
        true => Ok(()),
        false => {
            let why = "to be told a whole body after another processor is told its pieces is not implemented".to_owned();
            Err(End::failed(&session.config, &why.into()))
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
        BodyError::Upstream(_) | BodyError::Put(_) => (StatusCode::SERVICE_UNAVAILABLE, Reason::UpstreamReset),
        BodyError::TimedOut => (StatusCode::GATEWAY_TIMEOUT, Reason::RequestTimeout),
        BodyError::Over(reason) => (StatusCode::GATEWAY_TIMEOUT, reason),
        BodyError::Processed(_) => (StatusCode::INTERNAL_SERVER_ERROR, Reason::ExtProcError),
    };
    End::refused(status, reason, error.to_string())
}

fn too_long() -> String {
    format!("a body that a processor is to be told took more than {BODY:?}")
}

fn no_room() -> End {
    End::refused(StatusCode::SERVICE_UNAVAILABLE, Reason::MemoryLimit, "bodies that are kept".to_owned())
}
