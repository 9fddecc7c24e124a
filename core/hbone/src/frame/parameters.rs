//! The contents of SETTINGS (RFC 9113, section 6.5.2).

use super::{FrameError, code};

pub(super) const HEADER_TABLE_SIZE: u16 = 0x1;
pub(super) const ENABLE_PUSH: u16 = 0x2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
pub(super) const MAX_FRAME_SIZE: u16 = 0x5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
/// RFC 8441, section 3.
const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

/// The largest window (RFC 9113, section 6.9.1).
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const FRAME_SIZES: std::ops::RangeInclusive<u32> = 1 << 14..=(1 << 24) - 1;

/// What one SETTINGS frame says, ours or the peer's. What it does not say stays as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Most bytes of header table that the sender keeps for decoding.
    pub(crate) header_table_size: Option<u32>,
    /// Whether the sender takes pushed streams. A server cannot say yes.
    pub(crate) enable_push: Option<bool>,
    /// Streams that the other side may have open at once.
    pub(crate) max_concurrent_streams: Option<u32>,
    /// Each stream's window at its beginning, at most 2^31-1. A change applies to the streams that are open, too.
    pub(crate) initial_window_size: Option<u32>,
    /// Largest frame that the sender takes, 2^14 to 2^24-1.
    pub(crate) max_frame_size: Option<u32>,
    /// Largest header list that the sender takes.
    pub(crate) max_header_list_size: Option<u32>,
}

impl Parameters {
    /// Reads the payload of a SETTINGS frame, whose length is a multiple of 6. The last value counts when there are several of one kind.
    pub(super) fn read(payload: &[u8], from_server: bool) -> Result<Self, FrameError> {
        let mut read = Self::default();
        let (entries, _) = payload.as_chunks::<6>();
        for &[k0, k1, v0, v1, v2, v3] in entries {
            read.set(u16::from_be_bytes([k0, k1]), u32::from_be_bytes([v0, v1, v2, v3]), from_server)?;
        }
        Ok(read)
    }

    fn set(&mut self, kind: u16, value: u32, from_server: bool) -> Result<(), FrameError> {
        match kind {
            HEADER_TABLE_SIZE => self.header_table_size = Some(value),
            ENABLE_PUSH => {
                if value > 1 || from_server && value == 1 {
                    return Err(FrameError::protocol("SETTINGS with a wrong ENABLE_PUSH"));
                }
                self.enable_push = Some(value == 1);
            }
            MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = Some(value),
            INITIAL_WINDOW_SIZE => {
                if value > LARGEST_WINDOW {
                    let why = "SETTINGS with a window beyond 2^31-1";
                    return Err(FrameError::Connection { code: code::FLOW_CONTROL_ERROR, why });
                }
                self.initial_window_size = Some(value);
            }
            MAX_FRAME_SIZE => {
                if !FRAME_SIZES.contains(&value) {
                    return Err(FrameError::protocol("SETTINGS with a wrong MAX_FRAME_SIZE"));
                }
                self.max_frame_size = Some(value);
            }
            MAX_HEADER_LIST_SIZE => self.max_header_list_size = Some(value),
            ENABLE_CONNECT_PROTOCOL if value > 1 => {
                return Err(FrameError::protocol("SETTINGS with a wrong ENABLE_CONNECT_PROTOCOL"));
            }
            _ => {}
        }
        Ok(())
    }
}
