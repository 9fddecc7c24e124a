//! How a try of a request ended, by what came of it.

use http::{HeaderMap, StatusCode};
use serde::Serialize;

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With a response of this status.
    Status(u16),
    /// With a response of this status whose head says how the call ended, by a status of gRPC.
    Call(u16, u32),
    /// With a response of a proxy that limits how often requests come.
    Limited,
    /// No connection stood.
    Unreached,
    /// The endpoint gave the request back unseen.
    Refused,
    /// The connection broke before anything of the request was sent.
    BeforeRequest,
    /// The connection broke without a response.
    Reset,
    /// Its time was over.
    TimedOut,
}

impl Ended {
    /// How a try ended to which there was a response with this head. Of a call only a status in the head counts, as in Envoy's router: one that
    /// comes behind a body comes too late, for the client has the head by then.
    #[must_use]
    pub fn answered(status: StatusCode, head: &HeaderMap) -> Self {
        if head.contains_key("x-envoy-ratelimited") {
            return Self::Limited;
        }
        let mut said = head.get_all("grpc-status").iter();
        let call = match (said.next(), said.next()) {
            (Some(only), None) => only.to_str().ok().and_then(|status| status.parse().ok()),
            _ => None,
        };
        call.map_or(Self::Status(status.as_u16()), |call| Self::Call(status.as_u16(), call))
    }

    /// Nobody has looked at the request: another try is no more work for endpoints than the first one.
    #[must_use]
    pub fn unseen(self) -> bool {
        matches!(self, Self::Unreached | Self::Refused | Self::BeforeRequest)
    }
}

/// The statuses of calls after which they are sent again (`x-envoy-retry-grpc-on` of Envoy's router, whose names `retry_on` of a route takes too).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CallStatuses {
    /// `CANCELLED`.
    pub cancelled: bool,
    /// `DEADLINE_EXCEEDED`.
    pub deadline_exceeded: bool,
    /// `INTERNAL`.
    pub internal: bool,
    /// `RESOURCE_EXHAUSTED`.
    pub resource_exhausted: bool,
    /// `UNAVAILABLE`.
    pub unavailable: bool,
}

impl CallStatuses {
    /// Whether each is one of them, with its name among the conditions and its number (`google.rpc.Code`).
    #[must_use]
    pub fn each(&self) -> [(bool, &'static str, u32); 5] {
        [
            (self.cancelled, "cancelled", 1),
            (self.deadline_exceeded, "deadline-exceeded", 4),
            (self.internal, "internal", 13),
            (self.resource_exhausted, "resource-exhausted", 8),
            (self.unavailable, "unavailable", 14),
        ]
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, status: u32) -> bool {
        self.each().iter().any(|(on, _, number)| *on && *number == status)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_head_of_a_response_says_how_a_call_ended() {
        use Ended::{Call, Limited, Status};
        let ok = StatusCode::OK;
        for (status, head, expected) in [
            (ok, &[("grpc-status", "14")][..], Call(200, 14)),
            (ok, &[], Status(200)),
            (StatusCode::SERVICE_UNAVAILABLE, &[], Status(503)),
            (StatusCode::SERVICE_UNAVAILABLE, &[("grpc-status", "0")], Call(503, 0)),
            (ok, &[("grpc-status", "")], Status(200)),
            (ok, &[("grpc-status", "UNAVAILABLE")], Status(200)),
            (ok, &[("grpc-status", "-14")], Status(200)),
            (ok, &[("grpc-status", "4294967296")], Status(200)),
            (ok, &[("grpc-status", "14"), ("grpc-status", "14")], Status(200)),
            (ok, &[("grpc-status", "8"), ("x-envoy-ratelimited", "true")], Limited),
            (StatusCode::TOO_MANY_REQUESTS, &[("x-envoy-ratelimited", "")], Limited),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in head {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(Ended::answered(status, &map), expected, "{status} {head:?}");
        }
        let bytes =
            HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_bytes(b"\xff").unwrap())]);
        assert_eq!(Ended::answered(ok, &bytes), Status(200));
    }
}
