//! Asking by an HTTP request: one that resembles the request that it is about.

use ambit_model::route::{RequestView, StringMatch};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};

use super::{
    Failure,
    answer::{Change, Changes, Denial, How, Said},
    check::{Told, separator},
};
use crate::{
    compiled::{HttpService, NameTests},
    http::call::{Answer, Question, is_of_the_connection},
};

/// Names headers that are taken out of the request, in an answer that allows it.
const REMOVE: &str = "x-envoy-auth-headers-to-remove";
/// What is told besides method, path and host, whatever is said of headers.
const ALWAYS: HeaderName = header::AUTHORIZATION;
/// What a client gets of an answer that denies where only some headers are for it.
const FOR_CLIENTS: [HeaderName; 2] = [header::WWW_AUTHENTICATE, header::LOCATION];

/// The request that asks.
pub fn question(service: &HttpService, view: RequestView<'_>, allowed: &[StringMatch], told: &Told) -> Result<Question, String> {
    let mut head = Request::new(());
    *head.method_mut() = view.method.parse::<Method>().map_err(|error| error.to_string())?;
    let headers = head.headers_mut();
    let is_told = |name: &HeaderName| *name == ALWAYS || allowed.iter().any(|test| test.matches(name.as_str()));
    for name in view.headers.keys().filter(|name| is_told(name) && !is_of_the_connection(name)) {
        if let Some(value) = joined(view.headers, name) {
            headers.insert(name, value);
        }
    }
    if let Some((name, value)) = told.partial() {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in &service.added {
        headers.insert(name, value.clone());
    }
    let body = told.body.clone().unwrap_or_default();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let path = format!("{}{}", service.path_prefix, view.path_and_query);
    Ok(Question { head, path, authority: view.authority.to_owned(), body })
}

/// What an answer says.
pub fn said(Answer { head, body, .. }: Answer, service: &HttpService) -> Result<Said, Failure> {
    if head.status.is_server_error() || head.status.is_informational() {
        return Err(format!("it answers {}", head.status).into());
    }
    let fits = |tests: &NameTests, name: &HeaderName| tests.iter().any(|test| test.matches(name.as_str()));
    let headers = head.headers.iter().filter(|(name, _)| *name != REMOVE && !is_of_the_connection(name));
    let change = |(name, value): (&HeaderName, &HeaderValue), how| Change { name: name.clone(), value: value.clone(), how };
    if head.status != StatusCode::OK {
        let few = !service.to_client_on_deny.is_empty();
        let for_client = |name: &HeaderName| !few || FOR_CLIENTS.contains(name) || fits(&service.to_client_on_deny, name);
        let headers = headers.filter(|(name, _)| for_client(name)).map(|header| change(header, How::Add)).collect();
        return Ok(Said::Denied(Denial { status: Some(head.status), headers, body, replaces: true }));
    }
    let mut changes = Changes::default();
    for header in headers {
        if fits(&service.to_upstream, header.0) {
            changes.request.push(change(header, How::Set));
        }
        if fits(&service.to_client_on_allow, header.0) {
            changes.response.push(change(header, How::Add));
        }
    }
    for list in head.headers.get_all(REMOVE) {
        let names = list.to_str().unwrap_or_default().split(',').filter_map(|name| name.trim().parse::<HeaderName>().ok());
        changes.remove.extend(names.filter(|name| !is_of_the_connection(name)));
    }
    Ok(Said::Allowed(Box::new(changes)))
}

/// All values of a header as one, byte by byte: an authorizer that is not told of one judges another request than the service gets.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let values = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    HeaderValue::from_bytes(&values.join(separator(name).as_bytes())).ok()
}
