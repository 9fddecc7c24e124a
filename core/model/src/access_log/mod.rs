//! Lines of an access log in Envoy's format language ("Access logging" of its documentation): what is written of a request, with operators
//! like `%RESPONSE_CODE%` in a text, or as the values of an object in JSON.
//!
//! A format is read once, into a list of pieces; what is known of a request is asked for operator by operator ([`Facts`]). The control plane reads
//! the formats that it passes on, so that one which no proxy takes is refused where it is written.

mod json;
mod operator;
mod text;
mod time;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use json::Json;
pub use operator::{Fact, HeaderKey, Headers, Operator};
pub use text::Text;
pub use time::TimeFormat;

/// Istio's format in text (its documentation of access logs), which is taken where nothing else is said.
pub const ISTIO_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% \
%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's format in JSON: fields and their values.
pub const ISTIO_JSON: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// What an operator stands for, of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nothing: `-` in a text, `null` in JSON.
    Missing,
    /// A number, which is one in JSON, too.
    Number(u64),
    /// A text.
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// A text, if there is one.
    #[must_use]
    pub fn of(text: Option<&'a str>) -> Self {
        text.map_or(Self::Missing, |text| Self::Text(Cow::Borrowed(text)))
    }
}

/// What is known of a request or connection whose line is written.
pub trait Facts {
    /// The value of an operator.
    fn value(&self, operator: &Operator) -> Value<'_>;
}

/// A format.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// A text, which ends its line itself.
    Text(Text),
    /// An object in JSON for each line.
    Json(Json),
}

impl Format {
    /// Writes the line.
    pub fn write(&self, facts: &impl Facts, line: &mut Vec<u8>) {
        match self {
            Self::Text(text) => text.write(facts, line),
            Self::Json(json) => json.write(facts, line),
        }
    }

    /// Shows each operator of it.
    pub fn operators<'a>(&'a self, see: &mut dyn FnMut(&'a Operator)) {
        match self {
            Self::Text(text) => text.operators(see),
            Self::Json(json) => json.operators(see),
        }
    }
}
