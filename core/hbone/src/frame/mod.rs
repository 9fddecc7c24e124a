//! HTTP/2 frames as far as CONNECT needs them (RFC 9113), without I/O and without the state of any stream.
//!
//! [`Decoder`] turns the bytes of a peer into [`Frame`]s, whatever pieces they arrive in; [`encode`] holds a function for each frame that
//! we send. What can be checked without knowing the streams is checked here: sizes, stream numbers, padding, settings, the order of
//! header frames, header compression. What depends on a stream's state, and windows, is for the one who calls.

mod blocks;
mod check;
mod decoder;
pub(crate) mod encode;
mod error;
mod fields;
mod head;
mod input;
mod limits;
mod parameters;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub(crate) use decoder::Decoder;
pub(crate) use error::{FrameError, code};
pub(crate) use fields::Fields;
pub(crate) use limits::Limits;
pub(crate) use parameters::Parameters;
#[cfg(test)]
pub(crate) use tests::of_each_kind;

/// What a client sends before its first frame (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame's head.
pub(crate) const HEAD: usize = 9;

/// A frame that says something. PRIORITY and frames of unknown types do not appear (RFC 9113, sections 5.3.2 and 5.5).
#[derive(Debug)]
pub(crate) enum Frame {
    /// A piece of a DATA frame, as it arrived: a frame may come out in several. Empty ones come out too, as they must be checked against
    /// the stream's state.
    Data {
        stream: u32,
        data: Bytes,
        /// What the piece takes of the windows, its padding included. All pieces of a frame make up the frame's length.
        credit: u32,
        /// The stream's end: on the last piece only.
        end: bool,
    },
    /// HEADERS with its CONTINUATIONs. The stream's number is odd; it may be of a stream that has ended or was never opened.
    Headers { stream: u32, fields: Box<Fields>, end: bool },
    /// RST_STREAM.
    Reset { stream: u32, code: u32 },
    /// SETTINGS, which are valid and must be acknowledged.
    Settings(Parameters),
    /// The peer has taken our settings.
    SettingsAck,
    /// PING, to be answered with [`encode::pong`].
    Ping([u8; 8]),
    /// The answer to our PING.
    Pong([u8; 8]),
    /// GOAWAY.
    GoAway { last: u32, code: u32 },
    /// WINDOW_UPDATE, of the connection for stream 0; the increment is not 0.
    WindowUpdate { stream: u32, increment: u32 },
}
