//! The page `/debug/ca` of a running control plane.

use std::time::Duration;

use hyper::{StatusCode, Uri};
use istiod_lite::roots::Report;

use crate::error::{Error, Result};
use crate::explain::get;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the control plane at this monitoring address says.
///
/// # Errors
/// When it is not reached, or says something else.
pub(super) async fn report(url: &str) -> Result<Report> {
    let failed = |why: String| Error::Call(format!("asking the control plane at {url}: {why}"));
    let base: Uri = url.parse().map_err(|error| failed(format!("{error}")))?;
    let (Some("http"), Some(authority)) = (base.scheme_str(), base.authority()) else {
        return Err(failed("it is not of the form http://HOST:PORT".to_owned()));
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let ask = get(host, authority.port_u16().unwrap_or(15014), "/debug/ca");
    let (status, body) = match tokio::time::timeout(PATIENCE, ask).await {
        Ok(answered) => answered.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    if status != StatusCode::OK {
        return Err(failed(format!("it answered {status}; is it the monitoring address of an istiod-lite?")));
    }
    serde_json::from_slice(&body).map_err(|error| failed(format!("it answered something else: {error}")))
}
