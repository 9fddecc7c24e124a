//! What has broken off an answer: the endpoint's word on one stream of HTTP/2, or the end of the connection under it.

use ambit_model::Reason;

/// Why there is no answer, or no more of it. Envoy tells the same apart: `UR` of a stream, `UC` of a connection, `UPE` of what cannot be read.
pub fn broken_by(error: &hyper::Error) -> Reason {
    if error.is_parse() {
        return Reason::UpstreamProtocolError;
    }
    let http2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    http2.and_then(Said::of).map_or(Reason::UpstreamReset, Said::reason)
}

/// What an endpoint itself has said of a request.
#[derive(Debug, Clone, Copy)]
enum Said {
    /// GOAWAY. Of the requests under way it ends those that it says were not looked at; the others end with the connection.
    GoAway,
    /// RST_STREAM with this code.
    Reset(Option<h2::Reason>),
}

impl Said {
    /// Nothing where it is our own side that has found fault, or the connection that has failed.
    fn of(error: &h2::Error) -> Option<Self> {
        match (error.is_remote(), error.is_go_away(), error.is_reset()) {
            (true, true, _) => Some(Self::GoAway),
            (true, false, true) => Some(Self::Reset(error.reason())),
            _ => None,
        }
    }

    fn reason(self) -> Reason {
        match self {
            // The endpoint has not looked at it (RFC 9113, sections 6.8 and 8.7).
            Self::GoAway | Self::Reset(Some(h2::Reason::REFUSED_STREAM)) => Reason::UpstreamStreamRefused,
            Self::Reset(_) => Reason::UpstreamStreamReset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_was_given_back_unseen_is_told_from_one_that_was_reset() {
        for (said, expected) in [
            (Said::GoAway, Reason::UpstreamStreamRefused),
            (Said::Reset(Some(h2::Reason::REFUSED_STREAM)), Reason::UpstreamStreamRefused),
            (Said::Reset(Some(h2::Reason::INTERNAL_ERROR)), Reason::UpstreamStreamReset),
            (Said::Reset(Some(h2::Reason::CANCEL)), Reason::UpstreamStreamReset),
            (Said::Reset(None), Reason::UpstreamStreamReset),
        ] {
            assert_eq!(said.reason(), expected, "{said:?}");
        }
        // What h2 finds itself is no word of the endpoint.
        assert!(Said::of(&h2::Error::from(h2::Reason::REFUSED_STREAM)).is_none());
    }
}
