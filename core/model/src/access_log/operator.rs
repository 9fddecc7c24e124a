//! What operators there are.

use http::HeaderName;

use super::TimeFormat;

/// An operator of the language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// `START_TIME`: when the request came.
    StartTime(TimeFormat),
    /// `REQ`, `RESP` and `TRAILER` (`REQUEST_HEADER`, `RESPONSE_HEADER`): a header, or where there is none, another.
    Header {
        /// Among which.
        of: Headers,
        /// The one.
        name: HeaderKey,
        /// The other one.
        otherwise: Option<HeaderKey>,
    },
    /// `FILTER_STATE` of the identity of who asks, as waypoints know it.
    PeerPrincipal,
    /// `FILTER_STATE` of anything else, and metadata: nobody here has any.
    Unknown,
    /// `GRPC_STATUS`: the status of a call.
    GrpcStatus {
        /// By number, and not by name.
        number: bool,
    },
    /// All that have no argument.
    Fact(Fact),
}

/// Headers of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// Of the request.
    Request,
    /// Of the response.
    Response,
    /// What comes after the body of the response.
    Trailers,
}

/// The name of a header, or of what HTTP/2 has as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderKey {
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:authority`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:status`.
    Status,
    /// Any other.
    Field(HeaderName),
}

/// The key under which a waypoint keeps the identity of who asks.
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

/// What has metadata.
const METADATA: [&str; 7] = ["DYNAMIC", "CLUSTER", "ROUTE", "UPSTREAM_HOST", "LISTENER", "LISTENER_FILTER_CHAIN", "VIRTUAL_HOST"];

macro_rules! facts {
    ($($(#[doc = $doc:literal])* $name:ident => $text:literal,)*) => {
        /// Operators without an argument.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fact {
            $($(#[doc = $doc])* $name,)*
        }

        impl Fact {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What it is called.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

facts! {
    /// The protocol of the client, like `HTTP/1.1`.
    Protocol => "PROTOCOL",
    /// The status answered; 0 where there is none.
    ResponseCode => "RESPONSE_CODE",
    /// Why it was answered.
    ResponseCodeDetails => "RESPONSE_CODE_DETAILS",
    /// What went wrong, in short.
    ResponseFlags => "RESPONSE_FLAGS",
    /// The same in words.
    ResponseFlagsLong => "RESPONSE_FLAGS_LONG",
    /// Why the connection was ended.
    ConnectionTerminationDetails => "CONNECTION_TERMINATION_DETAILS",
    /// Bytes of the body from the client.
    BytesReceived => "BYTES_RECEIVED",
    /// Bytes of the body to the client.
    BytesSent => "BYTES_SENT",
    /// From the beginning to the end, in milliseconds.
    Duration => "DURATION",
    /// From the beginning until the request had come whole, in milliseconds.
    RequestDuration => "REQUEST_DURATION",
    /// From the beginning until the response began, in milliseconds.
    ResponseDuration => "RESPONSE_DURATION",
    /// From the beginning of the response to the end, in milliseconds.
    ResponseTxDuration => "RESPONSE_TX_DURATION",
    /// The endpoint.
    UpstreamHost => "UPSTREAM_HOST",
    /// The endpoint's address, too.
    UpstreamRemoteAddress => "UPSTREAM_REMOTE_ADDRESS",
    /// The cluster.
    UpstreamCluster => "UPSTREAM_CLUSTER",
    /// The cluster by its own name.
    UpstreamClusterRaw => "UPSTREAM_CLUSTER_RAW",
    /// The address towards the endpoint.
    UpstreamLocalAddress => "UPSTREAM_LOCAL_ADDRESS",
    /// How often it was sent.
    UpstreamRequestAttemptCount => "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    /// Why the endpoint was not reached.
    UpstreamTransportFailureReason => "UPSTREAM_TRANSPORT_FAILURE_REASON",
    /// Who asks.
    DownstreamRemoteAddress => "DOWNSTREAM_REMOTE_ADDRESS",
    /// The same without the port.
    DownstreamRemoteAddressWithoutPort => "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    /// The port of it.
    DownstreamRemotePort => "DOWNSTREAM_REMOTE_PORT",
    /// Who has made the connection.
    DownstreamDirectRemoteAddress => "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    /// The same without the port.
    DownstreamDirectRemoteAddressWithoutPort => "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    /// The address asked for.
    DownstreamLocalAddress => "DOWNSTREAM_LOCAL_ADDRESS",
    /// The same without the port.
    DownstreamLocalAddressWithoutPort => "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    /// The port of it.
    DownstreamLocalPort => "DOWNSTREAM_LOCAL_PORT",
    /// The server name that a TLS client has said.
    RequestedServerName => "REQUESTED_SERVER_NAME",
    /// The identity of a TLS client. Clients of a waypoint show theirs to the tunnel and not to the connection in it.
    DownstreamPeerUriSan => "DOWNSTREAM_PEER_URI_SAN",
    /// The route.
    RouteName => "ROUTE_NAME",
    /// Nobody here has such.
    VirtualClusterName => "VIRTUAL_CLUSTER_NAME",
    /// The name of the machine.
    Hostname => "HOSTNAME",
}

impl Fact {
    fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|fact| fact.name() == name)
    }
}

impl Operator {
    /// Reads an operator with what is in brackets behind its name.
    pub(super) fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        if let Some(fact) = Fact::of(name) {
            return match argument {
                None => Ok(Self::Fact(fact)),
                Some(argument) => Err(format!("%{name}({argument})% has no argument")),
            };
        }
        let needed = || argument.ok_or_else(|| format!("%{name}% needs an argument in brackets"));
        Ok(match name {
            "START_TIME" => {
                let format = argument.filter(|format| !format.is_empty());
                let format = format.map_or_else(|| Ok(TimeFormat::default()), TimeFormat::parse);
                Self::StartTime(format.map_err(|why| format!("%START_TIME%: {why}"))?)
            }
            "REQ" | "REQUEST_HEADER" => header(name, Headers::Request, needed()?)?,
            "RESP" | "RESPONSE_HEADER" => header(name, Headers::Response, needed()?)?,
            "TRAILER" => header(name, Headers::Trailers, needed()?)?,
            "FILTER_STATE" => match needed()?.split_once(':') {
                Some((PEER_PRINCIPAL, "PLAIN")) => Self::PeerPrincipal,
                // An Envoy would refuse all that comes with it.
                Some((_, form)) if !matches!(form, "PLAIN" | "TYPED") && !form.starts_with("FIELD:") => {
                    return Err(format!("%FILTER_STATE%: {form:?} is none of PLAIN, TYPED and FIELD:NAME"));
                }
                _ => Self::Unknown,
            },
            "DYNAMIC_METADATA" | "CLUSTER_METADATA" | "UPSTREAM_METADATA" => {
                needed()?;
                Self::Unknown
            }
            "METADATA" => {
                let argument = needed()?;
                let of = argument.split_once(':').map_or(argument, |(of, _)| of);
                match METADATA.contains(&of) {
                    true => Self::Unknown,
                    false => return Err(format!("%METADATA({argument})%: {of:?} is none of {}", METADATA.join(", "))),
                }
            }
            "GRPC_STATUS_NUMBER" if argument.is_none() => Self::GrpcStatus { number: true },
            "GRPC_STATUS" => match argument {
                None | Some("" | "CAMEL_STRING") => Self::GrpcStatus { number: false },
                Some("NUMBER") => Self::GrpcStatus { number: true },
                Some(other) => return Err(format!("%GRPC_STATUS({other})% is not implemented")),
            },
            _ => return Err(format!("%{name}% is not implemented")),
        })
    }

    /// Whether a length may be behind it.
    pub(super) fn may_be_cut(&self) -> bool {
        matches!(self, Self::Header { .. } | Self::PeerPrincipal | Self::Unknown)
    }
}

/// `NAME`, or `NAME?OTHER`.
fn header(operator: &str, of: Headers, argument: &str) -> Result<Operator, String> {
    let key = |name: &str| {
        let known = match name.to_ascii_lowercase().as_str() {
            ":method" => Some(HeaderKey::Method),
            ":path" => Some(HeaderKey::Path),
            ":authority" | "host" => Some(HeaderKey::Authority),
            ":scheme" => Some(HeaderKey::Scheme),
            ":status" => Some(HeaderKey::Status),
            other => other.parse().ok().map(HeaderKey::Field),
        };
        known.ok_or_else(|| format!("%{operator}({argument})%: {name:?} is no name of a header"))
    };
    let (name, otherwise) = match argument.split_once('?') {
        Some((name, otherwise)) => (key(name)?, Some(key(otherwise)?)),
        None => (key(argument)?, None),
    };
    Ok(Operator::Header { of, name, otherwise })
}
