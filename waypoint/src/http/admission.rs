//! Requests that are not let in because the service takes longer with so many.

use std::time::Instant;

use ambit_model::{Reason, Refusal, route::RequestView};
use http::{Response, StatusCode};

use super::{
    ResponseBody,
    answer::{self, Style},
};
use crate::{compiled::HttpChain, observe::Record};

/// Envoy's text of an answer to what is not let in.
const FULL: &str = "reached concurrency limit";

/// Lets the request in; it has its place until its record is written.
///
/// # Errors
/// With what it is answered, if it is not let in.
pub fn admit(
    http: &HttpChain,
    request: &RequestView<'_>,
    style: Style,
    record: &mut Record,
) -> Result<(), Box<Response<ResponseBody>>> {
    let Some(admission) = http.admission.as_ref().filter(|admission| !admission.is_probe(request)) else { return Ok(()) };
    match admission.admit(Instant::now()) {
        Ok(place) => {
            // Most ports have no such limit, and their records no room for it.
            record.admitted = Some(Box::new(place));
            Ok(())
        }
        Err(limit) => {
            let refusal = Refusal::new(Reason::Overloaded, format!("{limit} are let in at once"));
            record.refused(&refusal);
            let status = StatusCode::from_u16(admission.settings.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let headers = crate::terminate::reason_headers(&refusal);
            Err(Box::new(answer::plain(record, style, status, FULL.to_owned(), headers)))
        }
    }
}
