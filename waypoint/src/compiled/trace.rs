//! What is told of requests to a collector of spans.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

/// The spans of a chain's requests.
#[derive(Debug, Clone, Serialize)]
pub struct Tracing {
    /// Who collects them.
    pub collector: Arc<Collector>,
    /// Requests that are traced because they say `x-client-trace-id`, of a hundred.
    pub client: u32,
    /// Requests that are traced where nothing else decides, of ten thousand.
    pub random: u32,
    /// The most of all that are, of ten thousand.
    pub overall: u32,
    /// Requests without an id are given one.
    pub request_ids: bool,
    /// What spans are called.
    pub operation: Arc<str>,
    /// The most that is told of a path, in bytes.
    pub longest_path: usize,
    /// What is told besides.
    pub tags: Vec<Tag>,
}

/// Who collects spans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collector {
    /// The cluster that it is reached by.
    pub cluster: Arc<str>,
    /// The host asked for.
    pub authority: String,
    /// The path that spans are sent to.
    pub path: String,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// The service that the spans are said to be of; where it is not said that of the waypoint itself.
    pub service: Option<String>,
    /// What it understands.
    pub speaks: Speaks,
}

/// What a collector understands, and how the requests that it is told of name their place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaks {
    /// OTLP by gRPC; requests have W3C's headers.
    OtlpGrpc,
    /// OTLP by HTTP; requests have W3C's headers.
    OtlpHttp,
    /// Zipkin's JSON; requests have B3's headers, and W3C's as well if `w3c` says so.
    Zipkin {
        /// W3C's headers are read where B3's are not there, and written beside them.
        w3c: bool,
    },
}

impl Speaks {
    /// W3C's headers are read and written.
    #[must_use]
    pub const fn w3c(self) -> bool {
        matches!(self, Self::OtlpGrpc | Self::OtlpHttp | Self::Zipkin { w3c: true })
    }

    /// B3's headers are, and go before W3C's.
    #[must_use]
    pub const fn b3(self) -> bool {
        matches!(self, Self::Zipkin { .. })
    }
}

/// Something that is told of each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// What it is called.
    pub name: String,
    /// The header of the request that has it, if one does.
    pub header: Option<String>,
    /// What is told without one; nothing where this is empty.
    pub value: String,
}
