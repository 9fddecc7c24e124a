//! What is logged of requests and connections in a format that was asked for, in place of the waypoint's own lines.

use std::{fmt, sync::Arc, time::Duration};

use ambit_model::access_log::{Format, HeaderKey, Headers, Operator, Text};
use http::HeaderName;
use serde::{Serialize, Serializer};

/// The access logs of a listener, with the headers that their formats name: no others are kept of a request.
#[derive(Debug, Default)]
pub struct Logs {
    /// Each writes its line.
    pub loggers: Vec<Logger>,
    /// Headers of requests.
    pub request: Vec<HeaderName>,
    /// Headers of responses.
    pub response: Vec<HeaderName>,
    /// What comes after the bodies of responses.
    pub trailers: Vec<HeaderName>,
}

/// One access log.
#[derive(Debug)]
pub struct Logger {
    /// Of which requests.
    pub only: Option<OnlyStatus>,
    /// Where to, and what.
    pub to: LogTo,
}

/// Where lines go.
#[derive(Debug)]
pub enum LogTo {
    /// To the end of a file.
    File {
        /// Its path.
        path: Arc<str>,
        /// The lines.
        format: Format,
    },
    /// To a collector of OpenTelemetry's.
    Collector(Arc<LogCollector>),
}

/// Records for a collector.
#[derive(Debug)]
pub struct LogCollector {
    /// The cluster that it is reached by.
    pub cluster: Arc<str>,
    /// The host that it is called by.
    pub authority: Arc<str>,
    /// How long it may take for a call.
    pub timeout: Duration,
    /// What its records have in common: the attributes of their resource.
    pub resource: Vec<(String, String)>,
    /// The body of each.
    pub body: Option<Text>,
    /// The attributes of each.
    pub attributes: Vec<(String, Text)>,
}

impl LogCollector {
    /// Whether records for both can be sent in one call: many chains have the same one.
    #[must_use]
    pub fn goes_with(&self, other: &Self) -> bool {
        let Self { cluster, authority, timeout, resource, .. } = self;
        std::ptr::eq(self, other)
            || (cluster, authority, timeout, resource) == (&other.cluster, &other.authority, &other.timeout, &other.resource)
    }
}

/// Only requests with such a status are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnlyStatus {
    /// The least.
    pub from: u32,
    /// The greatest.
    pub to: u32,
}

impl OnlyStatus {
    /// Whether this status is one of them; without an answer it is 0.
    #[must_use]
    pub fn holds(self, status: Option<u16>) -> bool {
        (self.from..=self.to).contains(&u32::from(status.unwrap_or(0)))
    }
}

impl Logs {
    /// With what the formats need.
    #[must_use]
    pub fn new(loggers: Vec<Logger>) -> Self {
        let mut logs = Self::default();
        let mut wanted = |operator: &Operator| match operator {
            Operator::Header { of, name, otherwise } => {
                let list = match of {
                    Headers::Request => &mut logs.request,
                    Headers::Response => &mut logs.response,
                    Headers::Trailers => &mut logs.trailers,
                };
                for key in std::iter::once(name).chain(otherwise) {
                    if let HeaderKey::Field(name) = key
                        && !list.contains(name)
                    {
                        list.push(name.clone());
                    }
                }
            }
            // An answer without a body has it among its headers.
            Operator::GrpcStatus { .. } => {
                let status = HeaderName::from_static("grpc-status");
                if !logs.response.contains(&status) {
                    logs.response.push(status);
                }
            }
            _ => {}
        };
        for logger in &loggers {
            match &logger.to {
                LogTo::File { format, .. } => format.operators(&mut wanted),
                LogTo::Collector(collector) => {
                    let texts = collector.body.iter().chain(collector.attributes.iter().map(|(_, text)| text));
                    texts.for_each(|text| text.operators(&mut wanted));
                }
            }
        }
        logs.loggers = loggers;
        logs
    }
}

impl fmt::Display for LogTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "file {path}"),
            Self::Collector(collector) => write!(f, "collector {}", collector.cluster),
        }
    }
}

impl Serialize for Logs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.loggers.iter().map(|logger| logger.to.to_string()))
    }
}
