//! What nobody who is asked about a request may change of it, nor of its response.

use http::{HeaderName, header};

/// Headers that are about a connection, or about how a body comes on it.
const OF_THE_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The most changes of a kind that an answer may have: a map of headers takes no more than 32768 (and panics), and each change may look at all
/// before it.
pub const MOST_CHANGES: usize = 1000;

/// Whether nobody but the two ends of a connection may change the header of this name, in lower case.
pub fn is_of_the_connection(name: impl AsRef<str>) -> bool {
    OF_THE_CONNECTION.iter().any(|own| own == name.as_ref())
}
