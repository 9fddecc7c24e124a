//! Sessions that keep to an endpoint (`envoy.extensions.filters.http.stateful_session.v3`).

use std::mem::take;

use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::TypedExtensionConfig,
        extensions::{
            filters::http::stateful_session::v3::{self as pb, stateful_session_per_route::Override},
            http::stateful_session::{cookie::v3::CookieBasedSessionState, header::v3::HeaderBasedSessionState},
        },
        r#type::http::v3 as cookie_pb,
    },
    google::protobuf::Any,
};
use ambit_model::route::{Carrier, Cookie, Session};
use http::{HeaderName, HeaderValue, header};

use super::read::{Compiled, Problem, Under, duration, finish, required, type_of, unpack};

/// The name that the filter, and what a route says for it, must have.
pub const NAME: &str = "envoy.filters.http.stateful_session";
/// The filter's type.
pub const FILTER: &str = "envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
const PER_ROUTE: &str = "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute";
const COOKIE: &str = "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState";
const HEADER: &str = "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState";

/// Headers by which a message is read, or its connection kept: none of them can bear a session.
static FRAMING: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::HOST,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The filter, which says nothing itself.
pub fn filter(name: &str, any: &Any) -> Compiled<()> {
    if name != NAME {
        return Err(Problem::new(format!("a filter for sessions that is not called {NAME} is not implemented")));
    }
    finish(&unpack::<pb::StatefulSession>(any, FILTER)?)
}

/// What a route says of sessions; `None` where it has none.
pub fn per_route(any: &Any) -> Compiled<Option<Session>> {
    let mut said: pb::StatefulSessionPerRoute = unpack(any, PER_ROUTE)?;
    match required(said.r#override.take(), "override")? {
        Override::Disabled(true) => Ok(None),
        // Envoy takes no other value.
        Override::Disabled(false) => Err(Problem::new("disabled is false")),
        Override::StatefulSession(mut session) => {
            let strict = take(&mut session.strict);
            // What is counted is our own.
            session.stat_prefix.clear();
            let carrier = session.session_state.take().map(carrier).transpose().under("session_state")?;
            finish(&session)?;
            Ok(carrier.map(|carrier| Session { carrier, strict }))
        }
    }
}

fn carrier(state: TypedExtensionConfig) -> Compiled<Carrier> {
    let any = required(state.typed_config, "typed_config")?;
    match type_of(&any) {
        COOKIE => {
            let mut state: CookieBasedSessionState = unpack(&any, COOKIE)?;
            let cookie = cookie(required(state.cookie.take(), "cookie")?).under("cookie")?;
            finish(&state)?;
            Ok(Carrier::Cookie(cookie))
        }
        HEADER => {
            let mut state: HeaderBasedSessionState = unpack(&any, HEADER)?;
            let name = take(&mut state.name).to_ascii_lowercase();
            finish(&state)?;
            let known = HeaderName::from_bytes(name.as_bytes()).ok();
            if known.is_none_or(|known| FRAMING.contains(&known)) {
                return Err(Problem::new(format!("{name:?} is no header for a session")).under("name"));
            }
            Ok(Carrier::Header(name))
        }
        other => Err(Problem::new(format!("{other} is not implemented"))),
    }
}

fn cookie(mut said: cookie_pb::Cookie) -> Compiled<Cookie> {
    let (name, path) = (take(&mut said.name), take(&mut said.path));
    let ttl = said.ttl.take().map(duration).transpose().under("ttl")?.filter(|ttl| ttl.as_secs() > 0);
    let attributes = take(&mut said.attributes).into_iter().map(|attribute| (attribute.name, attribute.value));
    let attributes: Vec<_> = attributes.collect();
    finish(&said)?;
    // Cookies have names as headers have (RFC 6265, section 4.1.1).
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(Problem::new(format!("{name:?} is no name of a cookie")).under("name"));
    }
    let bad = |text: &str| text.contains(';') || HeaderValue::from_bytes(text.as_bytes()).is_err();
    let said = attributes.iter().flat_map(|(name, value)| [name, value]).chain([&path]).find(|text| bad(text));
    if let Some(bad) = said {
        return Err(Problem::new(format!("{bad:?} cannot be said of a cookie")));
    }
    Ok(Cookie { name, path, ttl, attributes })
}

#[cfg(test)]
mod tests;
