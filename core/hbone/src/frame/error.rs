//! What a peer did wrong.

/// Error codes of RFC 9113, section 7.
pub(crate) mod code {
    pub(crate) const NO_ERROR: u32 = 0x0;
    pub(crate) const PROTOCOL_ERROR: u32 = 0x1;
    pub(crate) const INTERNAL_ERROR: u32 = 0x2;
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 0x3;
    pub(crate) const SETTINGS_TIMEOUT: u32 = 0x4;
    pub(crate) const STREAM_CLOSED: u32 = 0x5;
    pub(crate) const FRAME_SIZE_ERROR: u32 = 0x6;
    pub(crate) const REFUSED_STREAM: u32 = 0x7;
    pub(crate) const CANCEL: u32 = 0x8;
    pub(crate) const COMPRESSION_ERROR: u32 = 0x9;
    pub(crate) const CONNECT_ERROR: u32 = 0xa;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;
    pub(crate) const INADEQUATE_SECURITY: u32 = 0xc;
    pub(crate) const HTTP_1_1_REQUIRED: u32 = 0xd;

    /// The name of a code, for logs.
    pub(crate) fn name(code: u32) -> &'static str {
        match code {
            NO_ERROR => "NO_ERROR",
            PROTOCOL_ERROR => "PROTOCOL_ERROR",
            INTERNAL_ERROR => "INTERNAL_ERROR",
            FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
            SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
            STREAM_CLOSED => "STREAM_CLOSED",
            FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
            REFUSED_STREAM => "REFUSED_STREAM",
            CANCEL => "CANCEL",
            COMPRESSION_ERROR => "COMPRESSION_ERROR",
            CONNECT_ERROR => "CONNECT_ERROR",
            ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
            HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
            _ => "an unknown error",
        }
    }
}

/// A frame that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The connection cannot go on: GOAWAY with the code, and the end (RFC 9113, section 5.4.1).
    #[error("{why} ({})", code::name(*code))]
    Connection { code: u32, why: &'static str },
    /// The stream cannot go on: RST_STREAM with the code (section 5.4.2). The next frame can be decoded.
    #[error("{why} ({})", code::name(*code))]
    Stream { stream: u32, code: u32, why: &'static str },
}

impl FrameError {
    /// PROTOCOL_ERROR for the connection.
    pub(super) fn protocol(why: &'static str) -> Self {
        Self::Connection { code: code::PROTOCOL_ERROR, why }
    }

    /// FRAME_SIZE_ERROR for the connection.
    pub(super) fn size(why: &'static str) -> Self {
        Self::Connection { code: code::FRAME_SIZE_ERROR, why }
    }

    /// ENHANCE_YOUR_CALM for the connection.
    pub(super) fn calm(why: &'static str) -> Self {
        Self::Connection { code: code::ENHANCE_YOUR_CALM, why }
    }
}
