//! What one processor is told of a request or a response before it goes on, and what becomes of it.

use ::http::{HeaderMap, HeaderValue, Request, Response, header};
use ambit_api::envoy::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HeaderMutation, HttpTrailers, common_response::ResponseStatus, processing_request::Request as Told,
};
use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;

use super::{
    call::{LONGEST, Place},
    end::End,
    flow::{Pieces, Through},
    mutation::{self, Line},
    passage::{Passage, Stopper},
    session::{Heard, Session, Way},
    told,
    whole::no_room,
};
use crate::{
    compiled::BodyMode,
    http::{ResponseBody, forward::Hold, select::Target, serve::view},
    upstream::{Beginning, RequestBody},
};

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
                    self.read_request(request, hold).await?;
                }
                let body = self.replaced(session, common)?.unwrap_or_default();
                return self.put(request.headers_mut(), &mut hold.before, &body);
            }
        }
        let mode = session.mode;
        if !has_more(session, mode.request_body, request.headers_mut(), has_body)? {
            return Ok(());
        }
        if mode.request_body == BodyMode::Buffered {
            whole_only(session, hold)?;
            return self.request_body(session, request, target, hold).await;
        }
        if let Some(through) = self.through(session, Way::Request, mode.request_body, mode.request_trailers) {
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
        let data = self.read_request(request, hold).await?;
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
        if !has_more(session, mode.response_body, response.headers_mut(), has_body)? {
            return Ok(());
        }
        if mode.response_body == BodyMode::Buffered {
            return self.response_body(session, response).await;
        }
        if let Some(through) = self.through(session, Way::Response, mode.response_body, mode.response_trailers) {
            response.body_mut().pass(|body| through.response(body));
        }
        Ok(())
    }

    /// Tells a processor of a response's whole body, and of its trailers.
    async fn response_body(&self, session: &mut Session, response: &mut Response<ResponseBody>) -> Result<(), End> {
        let mut read = self.read_response(response.body_mut()).await?;
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
        self.change(session, mutation, trailers, &mut Line::Nothing)
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
        self.change(session, mutation, request.headers_mut(), &mut line)?;
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
        self.change(session, mutation, response.headers_mut(), &mut Line::Response(&mut status))?;
        *response.status_mut() = status;
        Ok(())
    }

    fn change(
        &self,
        session: &Session,
        mutation: HeaderMutation,
        headers: &mut HeaderMap,
        line: &mut Line<'_>,
    ) -> Result<(), End> {
        mutation::apply(mutation, &session.config.rules, headers, line, self.most)
            .map_err(|why| End::failed(&session.config, &why.into()))
    }

    /// What one is told of a body on its way, or of its trailers alone; `None` where that is nothing.
    fn through(&self, session: &mut Session, way: Way, body: BodyMode, trailers: bool) -> Option<Through> {
        let pieces = Pieces { body: body == BodyMode::Streamed, trailers };
        if !pieces.body && !pieces.trailers {
            return None;
        }
        Some(Through { half: session.take(way)?, pieces, most: self.most })
    }

    /// The body that a processor has put in the place of another.
    fn replaced(&self, session: &Session, common: CommonResponse) -> Result<Option<Bytes>, End> {
        told::replaced(common.body_mutation).map_err(|why| End::failed(&session.config, &why.into()))
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

/// Whether there is more to tell of it after its headers. Of a body that passes in pieces nobody knows the length any more.
fn has_more(session: &Session, body: BodyMode, headers: &mut HeaderMap, has_body: bool) -> Result<bool, End> {
    if session.is_over().map_err(|failure| End::failed(&session.config, &failure))? {
        return Ok(false);
    }
    if body == BodyMode::Streamed {
        headers.remove(header::CONTENT_LENGTH);
    }
    Ok(has_body)
}

/// Whether what a processor says comes in the place of the body, of which it is told nothing.
fn replaces(common: &CommonResponse) -> bool {
    common.status == ResponseStatus::ContinueAndReplace as i32
}
