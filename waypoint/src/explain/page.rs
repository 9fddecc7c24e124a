//! `/explain` of the admin pages: the question as the query of an address, answered from the configuration in force. It is served on the
//! loopback device only, as what is refused, and by which policy, is nobody's business but the mesh's; an administrator of it may ask with a request
//! as well (`http::live`).

use std::net::{IpAddr, SocketAddr};

use ambit_identity::SpiffeId;
use ambit_runtime::admin::{Query, Reply, decoded};
use http::StatusCode;
use serde::Serialize;

use super::{Explanation, Question, explain, request};
use crate::compiled::Snapshot;

const USAGE: &str = "ask for /explain?identity=SPIFFE-ID&address=IP&destination=IP:PORT&method=GET&host=HOST&path=/PATH&headers=NAME:VALUE \
                     (percent-encoded; %0A between headers; http2= for a client that speaks HTTP/2)";

#[derive(Debug, Serialize)]
struct Answer {
    explanation: Explanation,
}

#[derive(Debug, Serialize)]
struct NoAnswer {
    error: String,
}

/// The answer as the page gives it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn answer(snapshot: &Snapshot, question: &Question) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(&Answer { explanation: explain(snapshot, question) })
}

/// Answers the page.
#[must_use]
pub fn page(snapshot: &Snapshot, query: &Query) -> Reply {
    match question(query) {
        Ok(question) => Reply::json(&Answer { explanation: explain(snapshot, &question) }),
        Err(error) => Reply::json(&NoAnswer { error }).status(StatusCode::BAD_REQUEST),
    }
}

fn question(query: &Query) -> Result<Question, String> {
    let text = |name: &str| match query.get(name).map(decoded) {
        Some(Some(value)) => Ok(value),
        Some(None) => Err(format!("{name} is not percent-encoded text")),
        None => Err(USAGE.to_owned()),
    };
    let headers = match query.get("headers") {
        None => Vec::new(),
        Some(_) => text("headers")?.lines().map(header).collect::<Result<Vec<_>, _>>()?,
    };
    let bad = |name: &str, error: &dyn std::fmt::Display| format!("{name}: {error}");
    let request = request(&text("method")?, &text("host")?, &text("path")?, &headers, query.get("http2").is_some())?;
    Ok(Question {
        identity: text("identity")?.parse::<SpiffeId>().map_err(|error| bad("identity", &error))?,
        address: text("address")?.parse::<IpAddr>().map_err(|error| bad("address", &error))?,
        destination: text("destination")?.parse::<SocketAddr>().map_err(|error| bad("destination", &error))?,
        request,
    })
}

/// Reads `name: value`.
fn header(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("{line:?} is not of the form NAME:VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
