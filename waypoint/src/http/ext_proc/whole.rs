//! Bodies that a processor is told whole: read to their end, as far as there is room for them, and kept.

use std::time::Duration;

use ::http::{Request, StatusCode};
use ambit_model::Reason;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{call::LONGEST, end::End, message::Context};
use crate::{
    http::{ResponseBody, body::BodyError, forward::Hold},
    upstream::{Beginning, Unread, broken_by},
};

/// How long a body may take to come that a processor is to be told whole. Meanwhile it has of the room for all bodies that are kept.
const BODY: Duration = Duration::from_mins(1);

impl Context<'_> {
    /// All of a request's body, which is kept in `hold`.
    pub(super) async fn read_request(&self, request: &mut Request<Incoming>, hold: &mut Hold) -> Result<Bytes, End> {
        let bound = hold.passage.as_deref().and_then(|passage| passage.bound.clone());
        let Hold { before, phase, .. } = hold;
        let beginning = before.get_or_insert_with(|| Box::new(Beginning::new(&self.place.proxy.kept_bodies)));
        // One byte more shows that it is too long, for its route or for being told.
        let most = bound.as_ref().map_or(LONGEST, |bound| bound.within(LONGEST));
        let read = timeout(BODY, beginning.read(request.body_mut(), most + 1)).await;
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

    /// All of a response's body.
    pub(super) async fn read_response(&self, body: &mut ResponseBody) -> Result<Beginning, End> {
        let mut read = Beginning::new(&self.place.proxy.kept_bodies);
        let whole = timeout(BODY, whole(body, &mut read)).await;
        whole.unwrap_or_else(|_| Err(End::refused(StatusCode::GATEWAY_TIMEOUT, Reason::UpstreamTimeout, too_long())))?;
        Ok(read)
    }
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
    let (status, reason) = match &error {
        BodyError::Upstream(error) => (StatusCode::SERVICE_UNAVAILABLE, broken_by(error)),
        BodyError::Put(_) => (StatusCode::SERVICE_UNAVAILABLE, Reason::UpstreamReset),
        BodyError::TimedOut => (StatusCode::GATEWAY_TIMEOUT, Reason::RequestTimeout),
        BodyError::Over(reason) => (StatusCode::GATEWAY_TIMEOUT, *reason),
        BodyError::Processed(_) => (StatusCode::INTERNAL_SERVER_ERROR, Reason::ExtProcError),
    };
    End::refused(status, reason, error.to_string())
}

fn too_long() -> String {
    format!("a body that a processor is to be told took more than {BODY:?}")
}

/// Too much is kept of other bodies.
pub fn no_room() -> End {
    End::refused(StatusCode::SERVICE_UNAVAILABLE, Reason::MemoryLimit, "bodies that are kept".to_owned())
}
