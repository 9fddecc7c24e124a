//! What an authorizer says, and what that makes of a request, of its response, or of an answer to the client.

use std::mem::take;

use ambit_api::envoy::pb::envoy::{
    config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
    service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse},
};
use ambit_model::Refusal;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, uri::PathAndQuery};

use super::Failure;
use crate::{
    http::{
        ResponseBody,
        answer::{Style, plain},
        call::{MOST_CHANGES, is_of_the_connection},
        select::Target,
    },
    observe::Record,
    terminate::reason_headers,
    upstream::Beginning,
};

/// What an authorizer says.
#[derive(Debug)]
pub enum Said {
    /// The request may go on, with these changes.
    Allowed(Box<Changes>),
    /// The client is answered.
    Denied(Denial),
}

/// What a request that may go on is changed by.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Of its headers.
    pub request: Vec<Change>,
    /// Headers that are taken out of it afterwards.
    pub remove: Vec<HeaderName>,
    /// Of the headers of its response.
    pub response: Vec<Change>,
    /// Parameters of its query.
    pub set_query: Vec<(String, String)>,
    /// Parameters that are taken out of that afterwards.
    pub remove_query: Vec<String>,
}

/// One header that is changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The header.
    pub name: HeaderName,
    /// The value.
    pub value: HeaderValue,
    /// What becomes of those that are there.
    pub how: How,
}

/// What becomes of the values that a header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// They are replaced.
    Set,
    /// One more comes beside them.
    Add,
    /// Where there are any nothing is changed.
    IfAbsent,
    /// Where there are none nothing is changed; they are replaced.
    IfPresent,
    /// Where there are none nothing is changed; it is added to the last one.
    Joined,
}

/// An answer to the client.
#[derive(Debug, Default, PartialEq)]
pub struct Denial {
    /// Its status, where it has one of its own.
    pub status: Option<StatusCode>,
    /// Changes of its headers.
    pub headers: Vec<Change>,
    /// Its body.
    pub body: Bytes,
    /// Headers of these names that it would have by itself are left out.
    pub replaces: bool,
}

/// What a request goes on with.
#[derive(Debug, Default)]
pub struct Passed {
    response: Vec<Change>,
    /// What was read of its body.
    pub before: Option<Box<Beginning>>,
}

/// A request that does not go on.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// What the client is answered.
    pub denial: Denial,
}

impl Said {
    /// What a message says.
    pub fn of(message: CheckResponse) -> Result<Self, Failure> {
        let allowed = message.status.is_none_or(|status| status.code == 0);
        match message.http_response {
            Some(HttpResponse::OkResponse(changes)) if allowed => Ok(Self::Allowed(Box::new(Changes::of(changes)?))),
            _ if allowed => Ok(Self::Allowed(Box::default())),
            Some(HttpResponse::ErrorResponse(error)) => {
                Err(Failure { text: "it says that it has failed".into(), denial: Some(Denial::of(error)) })
            }
            Some(HttpResponse::DeniedResponse(denied)) => Ok(Self::Denied(Denial::of(denied))),
            Some(HttpResponse::OkResponse(_)) | None => Ok(Self::Denied(Denial::default())),
        }
    }
}

impl Changes {
    fn of(said: OkHttpResponse) -> Result<Self, Failure> {
        let queries = said.query_parameters_to_set.len().max(said.query_parameters_to_remove.len());
        if said.headers.len().max(said.headers_to_remove.len()).max(queries) > MOST_CHANGES {
            return Err(Failure::from(format!("it has more than {MOST_CHANGES} things changed")));
        }
        let request = said.headers.into_iter().map(|option| match Change::of_request(option) {
            Some(change) if !is_of_the_connection(&change.name) => Ok(change),
            _ => Err(Failure::from("it has something changed that is no header of requests, or cannot be".to_owned())),
        });
        // What cannot be taken out is left (so does Envoy).
        let remove = said.headers_to_remove.into_iter().filter_map(|name| name.parse::<HeaderName>().ok());
        Ok(Self {
            request: request.collect::<Result<_, _>>()?,
            remove: remove.filter(|name| !is_of_the_connection(name)).collect(),
            response: for_client(said.response_headers_to_add),
            set_query: said.query_parameters_to_set.into_iter().map(|one| (one.key, one.value)).collect(),
            remove_query: said.query_parameters_to_remove,
        })
    }

    /// Makes of a request what was said, and notes what is to be made of its response. Nothing is changed where not all can be.
    pub fn apply(self, headers: &mut HeaderMap, target: &mut Target, passed: &mut Passed) -> Result<(), Failure> {
        if !self.set_query.is_empty() || !self.remove_query.is_empty() {
            let path = queried(&target.path_and_query, &self.set_query, &self.remove_query);
            // What follows a `#` would be lost, perhaps with parameters of others.
            if path.contains('#') || PathAndQuery::try_from(path.as_str()).is_err() {
                return Err("it has the query changed to something that is none".to_owned().into());
            }
            target.path_and_query = path;
        }
        self.request.iter().for_each(|change| change.apply(headers));
        for name in self.remove {
            headers.remove(name);
        }
        passed.response.extend(self.response);
        Ok(())
    }
}

impl Change {
    /// Of a request, where Envoy 1.40 goes by `append` alone: what an authorizer says takes the place of what a client does. `None` when it is no
    /// header.
    fn of_request(option: HeaderValueOption) -> Option<Self> {
        #[allow(deprecated)]
        let joined = option.append.is_some_and(|append| append.value);
        Some(Self { how: if joined { How::Joined } else { How::Set }, ..Self::of_answer(option)? })
    }

    /// Of what a client gets. `None` when it is no header.
    fn of_answer(option: HeaderValueOption) -> Option<Self> {
        let header = option.header?;
        let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
        #[allow(deprecated)]
        let how = match (option.append, HeaderAppendAction::try_from(option.append_action)) {
            (Some(append), _) if append.value => How::Add,
            (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => How::Add,
            (None, Ok(HeaderAppendAction::AddIfAbsent)) => How::IfAbsent,
            (None, Ok(HeaderAppendAction::OverwriteIfExists)) => How::IfPresent,
            (Some(_), _) | (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) | Err(_)) => How::Set,
        };
        Some(Self { name: header.key.parse().ok()?, value: HeaderValue::from_bytes(&value).ok()?, how })
    }

    fn apply(&self, headers: &mut HeaderMap) {
        let (name, value) = (&self.name, self.value.clone());
        let there = headers.contains_key(name);
        match self.how {
            How::Set => {
                headers.insert(name, value);
            }
            How::Add => {
                headers.append(name, value);
            }
            How::IfAbsent if !there => {
                headers.insert(name, value);
            }
            How::IfPresent if there => {
                headers.insert(name, value);
            }
            How::Joined if there => {
                let mut all = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
                all.push(value.as_bytes());
                if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b","[..])) {
                    headers.insert(name, joined);
                }
            }
            How::IfAbsent | How::IfPresent | How::Joined => {}
        }
    }
}

/// Changes of what a client gets. What is no header, and what is too much, is left out, as nothing is allowed by it.
fn for_client(options: Vec<HeaderValueOption>) -> Vec<Change> {
    let changes = options.into_iter().filter_map(Change::of_answer);
    changes.filter(|change| !is_of_the_connection(&change.name)).take(MOST_CHANGES).collect()
}

impl Denial {
    fn of(said: DeniedHttpResponse) -> Self {
        let code = said.status.map_or(0, |status| status.code);
        let status = u16::try_from(code).ok().filter(|code| *code >= 200).and_then(|code| StatusCode::from_u16(code).ok());
        Self { status, headers: for_client(said.headers), body: said.body.into(), replaces: false }
    }

    /// The same with a status, if it has none.
    pub fn or_status(mut self, status: StatusCode) -> Self {
        self.status.get_or_insert(status);
        self
    }
}

impl Refused {
    /// By us: without anything that an authorizer would have said.
    pub fn new(status: StatusCode, refusal: Refusal) -> Self {
        Self { refusal, denial: Denial::default().or_status(status) }
    }

    /// The answer to the client.
    pub fn answer(self, record: &mut Record, style: Style) -> Response<ResponseBody> {
        let Self { refusal, mut denial } = self;
        record.refused(&refusal);
        let status = denial.status.unwrap_or(StatusCode::FORBIDDEN);
        let mut response = plain(record, style, status, take(&mut denial.body), reason_headers(&refusal));
        let headers = response.headers_mut();
        if denial.replaces {
            for change in &denial.headers {
                headers.remove(&change.name);
            }
        }
        denial.headers.iter().for_each(|change| change.apply(headers));
        response
    }
}

impl Passed {
    /// Makes of a response what was said.
    pub fn tell(&self, headers: &mut HeaderMap) {
        self.response.iter().for_each(|change| change.apply(headers));
    }
}

/// A path whose query has these parameters, each once, and not those.
fn queried(path_and_query: &str, set: &[(String, String)], remove: &[String]) -> String {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let name = |pair: &str| pair.split_once('=').map_or(pair, |(name, _)| name).to_owned();
    let mut pairs: Vec<(String, String)> =
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| (name(pair), pair.to_owned())).collect();
    for (key, value) in set {
        let place = pairs.iter().position(|(name, _)| name == key).unwrap_or(pairs.len());
        pairs.retain(|(name, _)| name != key);
        pairs.insert(place.min(pairs.len()), (key.clone(), format!("{key}={value}")));
    }
    pairs.retain(|(name, _)| !remove.contains(name));
    match pairs.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", pairs.into_iter().map(|(_, pair)| pair).collect::<Vec<_>>().join("&")),
    }
}
