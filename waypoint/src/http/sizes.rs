//! How large requests may be, as their routes say. What is said of the length of a body is believed before anything is sent on; one of which
//! nothing is said is counted as it passes, and breaks off where it is longer. Nothing is collected for that.

use std::sync::{Arc, OnceLock};

use ambit_model::{
    Reason, Refusal,
    route::{RequestView, Route},
};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};

use super::{
    ResponseBody,
    ahead::by_policy,
    answer,
    ext_proc::{End, Passage, Stopper},
    forward::{Exchange, Hold},
    limiter::Met,
    select::Refused,
    serve::view,
};
use crate::{
    compiled::HttpChain,
    observe::Record,
    upstream::{Beginning, Broken, Made, RequestBody},
};

/// The longest that a body may be whose length is not known.
#[derive(Debug, Clone)]
pub struct Bound {
    most: u64,
    /// Of one that is longer.
    refusal: Box<Refusal>,
    /// Told of it once it has broken off.
    cut: Arc<OnceLock<Refusal>>,
}

impl Bound {
    /// What the client is answered for so many bytes of a body, if these are too many.
    pub fn passed(&self, length: usize) -> Option<End> {
        (length as u64 > self.most).then(|| self.end())
    }

    /// As many bytes as this and `most` both let pass.
    pub fn within(&self, most: usize) -> usize {
        usize::try_from(self.most).map_or(most, |own| own.min(most))
    }

    fn end(&self) -> End {
        End::Refused(StatusCode::PAYLOAD_TOO_LARGE, (*self.refusal).clone())
    }

    /// The same body, which breaks off where it is longer. Whoever gets it never takes it for whole.
    pub fn request(self, body: RequestBody, stopper: Stopper) -> RequestBody {
        let left = self.most;
        RequestBody::made(Made::new(futures::stream::unfold((self, body, left, stopper), |state| async move {
            let (bound, mut body, mut left, stopper) = state;
            let frame = match body.frame().await? {
                Err(broken) => Err(broken),
                Ok(frame) => match left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) {
                    Some(rest) => {
                        left = rest;
                        Ok(frame)
                    }
                    None => {
                        stopper.stop(bound.end()).await;
                        // Its response has begun, and ends with it: that is no fault of the endpoint's.
                        let _ = bound.cut.set((*bound.refusal).clone());
                        Err(Broken::TooLong)
                    }
                },
            };
            Some((frame, (bound, body, left, stopper)))
        })))
    }
}

/// Lets a request pass that is not too large, as far as that is known, and has the rest of it looked at as it passes. It has `met` all else.
///
/// # Errors
/// With what it is answered, if it comes no further.
pub fn meet(
    exchange: &Exchange,
    request: &Request<Incoming>,
    hold: &mut Hold,
    record: &mut Record,
    met: Met,
) -> Result<Met, Box<Response<ResponseBody>>> {
    let Exchange { http, route, target, style, .. } = exchange;
    let sizes = route.filters().sizes;
    let longest = sizes.longest(http.bodies);
    if sizes.headers.is_none() && longest.is_none() {
        return Ok(met);
    }
    let (least, known) = length(request.body(), hold.before.as_deref());
    if let Some((status, refusal)) = refused(http, route, &view(request, target), least) {
        let mut response = answer::refused(record, *style, status, &refusal);
        met.tell(response.headers_mut());
        return Err(Box::new(response));
    }
    if let Some(most) = longest.filter(|_| !known) {
        let cut = Arc::<OnceLock<Refusal>>::default();
        record.cut = Some(cut.clone());
        let bound = Bound { most, refusal: Box::new(too_long(route, most)), cut };
        hold.passage = Some(Box::new(Passage::bound(bound)));
    }
    Ok(met)
}

/// What a request is answered whose head takes more than its route lets pass, or whose body is at `least` so long, if that is too long.
pub fn refused(http: &HttpChain, route: &Route, request: &RequestView<'_>, least: u64) -> Option<Refused> {
    let sizes = route.filters().sizes;
    if let Some((head, most)) = sizes.too_much(request) {
        let text = format!("its head takes {head} bytes, and its route lets {most} pass");
        return Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, said(route, text)));
    }
    let most = sizes.longest(http.bodies)?;
    (least > most).then(|| (StatusCode::PAYLOAD_TOO_LARGE, too_long(route, most)))
}

fn too_long(route: &Route, most: u64) -> Refusal {
    said(route, format!("its body is longer than the {most} bytes that its route lets pass"))
}

fn said(route: &Route, text: String) -> Refusal {
    by_policy(Refusal::new(Reason::RequestTooLarge, text), route, |kind| kind == "size")
}

/// How long a body is at least, and whether that is known to be all of it.
fn length(body: &Incoming, before: Option<&Beginning>) -> (u64, bool) {
    let read = before.map_or(0, |before| before.length() as u64);
    if before.is_some_and(Beginning::is_whole) || body.is_end_stream() {
        return (read, true);
    }
    let rest = body.size_hint();
    (read.saturating_add(rest.lower()), rest.exact().is_some())
}

/// The length that a request says its body has; nothing where it says none.
pub fn said_length(request: &RequestView<'_>) -> u64 {
    let said = request.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    said.unwrap_or_default()
}

/// What holds for requests of a route.
pub fn in_words(http: &HttpChain, route: &Route) -> Vec<String> {
    let sizes = route.filters().sizes;
    let heads = sizes.headers.map(|most| {
        format!("heads may take {most} bytes (names, values, and 32 for each field), and are refused with 431 beyond")
    });
    let bodies = sizes.longest(http.bodies).map(|most| {
        format!("bodies may have {most} bytes, and are refused with 413 beyond: those of unknown length where it is seen")
    });
    heads.into_iter().chain(bodies).collect()
}
