//! Bytes of a peer to frames.

use bytes::Bytes;

use super::{
    Frame, FrameError, HEAD, Limits, PREFACE, Parameters, code,
    fields::Fields,
    head::{self, Head},
    input::Input,
    limits::{Allowance, CONTINUATIONS, DEAR, SETTINGS},
};
use crate::hpack;

/// Decodes what one peer sends in one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    limits: Limits,
    /// Whether the peer is the server.
    from_server: bool,
    input: Input,
    state: State,
    /// A header block that CONTINUATIONs are to complete.
    block: Option<Block>,
    hpack: hpack::Decoder,
    allowance: Allowance,
    begun: bool,
    /// The error that ended the connection.
    ended: Option<FrameError>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The client's preface, so much of which has come.
    Preface(usize),
    Head,
    /// A frame that is decoded once it is there as a whole.
    Whole(Head),
    /// The padding's length at the beginning of a DATA frame.
    PadLength(Head),
    Data {
        stream: u32,
        left: u32,
        padding: u32,
        /// What the padding takes of the windows, its length included.
        extra: u32,
        end: bool,
    },
    /// So many bytes say nothing.
    Skip(u32),
}

#[derive(Debug)]
struct Block {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

/// How far a step came.
enum Step {
    Frame(Frame),
    On,
    Starved,
}

impl Decoder {
    /// For what a client sends: the preface comes first.
    pub(crate) fn server(limits: Limits) -> Self {
        Self::new(limits, false)
    }

    /// For what a server sends.
    pub(crate) fn client(limits: Limits) -> Self {
        Self::new(limits, true)
    }

    fn new(limits: Limits, from_server: bool) -> Self {
        Self {
            limits,
            from_server,
            input: Input::default(),
            state: if from_server { State::Head } else { State::Preface(0) },
            block: None,
            hpack: hpack::Decoder::new(),
            allowance: Allowance::new(limits.frames_for_nothing),
            begun: false,
            ended: None,
        }
    }

    /// Takes the bytes that came next.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.ended.is_none() {
            self.input.push(chunk);
        }
    }

    /// The next frame, `None` when more bytes are needed. After a stream's error the next frame can be had; after a connection's error
    /// there is only the same error.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.ended {
            return Err(error);
        }
        loop {
            match self.step() {
                Ok(Step::Frame(frame)) => return Ok(Some(frame)),
                Ok(Step::On) => {}
                Ok(Step::Starved) => return Ok(None),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Whether the peer has begun to speak HTTP/2: its preface and its first SETTINGS are there. An error before that means that it
    /// speaks something else.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// We have sent `frames` that carry an answer, a request or bytes. Resets do not count.
    pub(crate) fn progress(&mut self, frames: u32) {
        self.allowance.sent(frames);
    }

    /// Call it every now and then (every 10 s): what the peer sent for nothing is forgotten.
    pub(crate) fn renew(&mut self) {
        self.allowance.renew();
    }

    /// Bytes kept of frames that are not complete.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.input.held() + self.block.as_ref().map_or(0, |block| block.bytes.capacity())
    }

    fn failed(&mut self, error: FrameError) -> FrameError {
        match error {
            FrameError::Stream { .. } => {
                // It is answered with a reset, which is work for nothing.
                if let Err(calm) = self.allowance.spend(DEAR) {
                    return self.failed(calm);
                }
            }
            FrameError::Connection { .. } => {
                self.ended = Some(error);
                self.input = Input::default();
                self.block = None;
            }
        }
        error
    }

    fn step(&mut self) -> Result<Step, FrameError> {
        match self.state {
            State::Preface(seen) => self.preface(seen),
            State::Head => match self.input.array::<HEAD>() {
                Some(head) => self.head(Head::read(head)),
                None => Ok(Step::Starved),
            },
            State::Whole(head) => {
                // What follows in a GOAWAY is for people.
                let len = if head.kind == head::GOAWAY { head.len.min(8) } else { head.len };
                let Some(payload) = self.input.whole(size(len)) else { return Ok(Step::Starved) };
                self.state = State::Skip(head.len.saturating_sub(len));
                self.whole(head, &payload)
            }
            State::PadLength(head) => match self.input.array::<1>() {
                Some([padding]) => self.padded(head, padding.into()),
                None => Ok(Step::Starved),
            },
            State::Data { stream, left, padding, extra, end } => Ok(self.data(stream, left, padding, extra, end)),
            State::Skip(left) => Ok(self.skip(left)),
        }
    }

    fn preface(&mut self, seen: usize) -> Result<Step, FrameError> {
        let expected = PREFACE.get(seen..).unwrap_or_default();
        let Some(piece) = self.input.piece(expected.len()) else { return Ok(Step::Starved) };
        if !expected.starts_with(&piece) {
            return Err(FrameError::protocol("the preface of HTTP/2 is missing"));
        }
        let seen = seen + piece.len();
        self.state = if seen == PREFACE.len() { State::Head } else { State::Preface(seen) };
        Ok(Step::On)
    }

    /// Checks a frame's head, and decides how its payload is taken.
    fn head(&mut self, head: Head) -> Result<Step, FrameError> {
        self.check(head)?;
        self.state = match head.kind {
            head::DATA if head.has(head::PADDED) => State::PadLength(head),
            head::DATA => {
                State::Data { stream: head.stream, left: head.len, padding: 0, extra: 0, end: head.has(head::END_STREAM) }
            }
            head::HEADERS | head::CONTINUATION => {
                let before = self.block.as_ref().map_or(0, |block| block.bytes.len());
                if before.saturating_add(size(head.len)) > self.limits.block() {
                    return Err(FrameError::calm("a header block that is far too long"));
                }
                State::Whole(head)
            }
            head::GOAWAY | head::RST_STREAM | head::SETTINGS | head::PING | head::WINDOW_UPDATE => State::Whole(head),
            head::PUSH_PROMISE => return Err(FrameError::protocol("PUSH_PROMISE, which is not allowed")),
            head::PRIORITY => {
                self.state = State::Skip(head.len);
                if head.len != 5 {
                    let why = "PRIORITY of a wrong length";
                    return Err(FrameError::Stream { stream: head.stream, code: code::FRAME_SIZE_ERROR, why });
                }
                State::Skip(head.len)
            }
            _ => State::Skip(head.len),
        };
        Ok(Step::On)
    }

    /// What can be said of a frame by its head and what came before.
    fn check(&mut self, head: Head) -> Result<(), FrameError> {
        if !self.begun && (head.kind != head::SETTINGS || head.has(head::ACK)) {
            return Err(FrameError::protocol("the first frame is not SETTINGS"));
        }
        if head.len > self.limits.max_frame_size {
            return Err(FrameError::size("a frame beyond the limit"));
        }
        match &self.block {
            Some(block) if head.kind != head::CONTINUATION || head.stream != block.stream => {
                return Err(FrameError::protocol("a frame within a header block"));
            }
            None if head.kind == head::CONTINUATION => {
                return Err(FrameError::protocol("CONTINUATION without a header block"));
            }
            _ => {}
        }
        check_stream(head)?;
        check_length(head)?;
        self.allowance.spend(match head.kind {
            // What moves bytes, or ends a stream in order.
            head::DATA if head.len > 0 || head.has(head::END_STREAM) => 0,
            head::SETTINGS if !head.has(head::ACK) => DEAR,
            _ => 1,
        })
    }

    fn padded(&mut self, head: Head, padding: u32) -> Result<Step, FrameError> {
        let rest = head.len.saturating_sub(1);
        let left = rest.checked_sub(padding).ok_or_else(|| FrameError::protocol("more padding than payload"))?;
        if left == 0 && !head.has(head::END_STREAM) {
            self.allowance.spend(1)?;
        }
        self.state =
            State::Data { stream: head.stream, left, padding, extra: padding.saturating_add(1), end: head.has(head::END_STREAM) };
        Ok(Step::On)
    }

    /// The last piece has the end and the credit of the padding, which may still be under way: it says nothing.
    fn data(&mut self, stream: u32, left: u32, padding: u32, extra: u32, end: bool) -> Step {
        let data = match self.input.piece(size(left)) {
            Some(data) => data,
            None if left == 0 => Bytes::new(),
            None => return Step::Starved,
        };
        let len = u32::try_from(data.len()).unwrap_or(left);
        let left = left.saturating_sub(len);
        if len > 0 {
            self.allowance.received();
        }
        if left > 0 {
            self.state = State::Data { stream, left, padding, extra, end };
            return Step::Frame(Frame::Data { stream, data, credit: len, end: false });
        }
        self.state = State::Skip(padding);
        Step::Frame(Frame::Data { stream, data, credit: len.saturating_add(extra), end })
    }

    fn skip(&mut self, left: u32) -> Step {
        if left == 0 {
            self.state = State::Head;
            return Step::On;
        }
        let Some(piece) = self.input.piece(size(left)) else { return Step::Starved };
        self.state = State::Skip(left.saturating_sub(u32::try_from(piece.len()).unwrap_or(left)));
        Step::On
    }

    fn whole(&mut self, head: Head, payload: &[u8]) -> Result<Step, FrameError> {
        let word = |at: usize| payload.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word));
        let frame = match head.kind {
            head::HEADERS => return self.headers(head, payload),
            head::CONTINUATION => return self.continuation(head, payload),
            head::SETTINGS if head.has(head::ACK) => Frame::SettingsAck,
            head::SETTINGS => {
                self.begun = true;
                Frame::Settings(Parameters::read(payload, self.from_server)?)
            }
            head::PING => {
                let payload = payload.first_chunk().copied().unwrap_or_default();
                if head.has(head::ACK) { Frame::Pong(payload) } else { Frame::Ping(payload) }
            }
            head::RST_STREAM => Frame::Reset { stream: head.stream, code: word(0) },
            head::GOAWAY => Frame::GoAway { last: word(0) & !head::RESERVED, code: word(4) },
            _ => match (head.stream, word(0) & !head::RESERVED) {
                (0, 0) => return Err(FrameError::protocol("WINDOW_UPDATE by nothing")),
                (stream, 0) => {
                    return Err(FrameError::Stream { stream, code: code::PROTOCOL_ERROR, why: "WINDOW_UPDATE by nothing" });
                }
                (stream, increment) => Frame::WindowUpdate { stream, increment },
            },
        };
        Ok(Step::Frame(frame))
    }

    fn headers(&mut self, head: Head, payload: &[u8]) -> Result<Step, FrameError> {
        let fragment = fragment(head, payload).ok_or_else(|| FrameError::protocol("more padding than payload"))?;
        let end = head.has(head::END_STREAM);
        if head.has(head::END_HEADERS) {
            return self.fields(head.stream, fragment, end);
        }
        self.block = Some(Block { stream: head.stream, end, bytes: fragment.to_vec(), continuations: 0 });
        Ok(Step::On)
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<Step, FrameError> {
        let Some(mut block) = self.block.take() else {
            return Err(FrameError::protocol("CONTINUATION without a header block"));
        };
        block.bytes.extend_from_slice(payload);
        block.continuations += 1;
        if head.has(head::END_HEADERS) {
            return self.fields(block.stream, &block.bytes, block.end);
        }
        if block.continuations >= CONTINUATIONS {
            return Err(FrameError::calm("a header block in far too many pieces"));
        }
        self.block = Some(block);
        Ok(Step::On)
    }

    fn fields(&mut self, stream: u32, block: &[u8], end: bool) -> Result<Step, FrameError> {
        let most = size(self.limits.max_header_bytes);
        let mut fields = Box::<Fields>::default();
        let decoded = self.hpack.decode(block, |field| fields.add(field, most));
        decoded.map_err(|hpack::BadBlock(why)| FrameError::Connection { code: code::COMPRESSION_ERROR, why })?;
        Ok(Step::Frame(Frame::Headers { stream, fields, end }))
    }
}

/// Which frames belong to a stream and which to the connection. Servers open no streams, as we take no pushes, so that those of even
/// numbers are idle for ever; only PRIORITY may name them (RFC 9113, sections 5.1 and 5.1.1).
fn check_stream(head: Head) -> Result<(), FrameError> {
    match head.kind {
        head::DATA | head::HEADERS | head::RST_STREAM | head::CONTINUATION if head.stream == 0 => {
            Err(FrameError::protocol("a stream's frame without stream"))
        }
        head::PRIORITY if head.stream == 0 => Err(FrameError::protocol("PRIORITY without stream")),
        head::SETTINGS | head::PING | head::GOAWAY if head.stream != 0 => {
            Err(FrameError::protocol("a connection's frame with a stream"))
        }
        head::DATA | head::HEADERS | head::RST_STREAM | head::CONTINUATION | head::WINDOW_UPDATE
            if head.stream != 0 && head.stream.is_multiple_of(2) =>
        {
            Err(FrameError::protocol("a frame of a stream that cannot be open"))
        }
        _ => Ok(()),
    }
}

/// The lengths that a type of frame can have.
fn check_length(head: Head) -> Result<(), FrameError> {
    let Head { len, .. } = head;
    match head.kind {
        head::DATA if head.has(head::PADDED) && len == 0 => Err(FrameError::size("DATA too short for its padding")),
        head::HEADERS if len < least(head) => Err(FrameError::size("HEADERS too short for what its flags say")),
        head::RST_STREAM if len != 4 => Err(FrameError::size("RST_STREAM of a wrong length")),
        head::SETTINGS if head.has(head::ACK) && len != 0 => Err(FrameError::size("SETTINGS with an answer's flag and contents")),
        head::SETTINGS if !len.is_multiple_of(6) => Err(FrameError::size("SETTINGS of a wrong length")),
        head::SETTINGS if len > SETTINGS * 6 => Err(FrameError::calm("SETTINGS with far too many entries")),
        head::PING if len != 8 => Err(FrameError::size("PING of a wrong length")),
        head::GOAWAY if len < 8 => Err(FrameError::size("GOAWAY of a wrong length")),
        head::WINDOW_UPDATE if len != 4 => Err(FrameError::size("WINDOW_UPDATE of a wrong length")),
        _ => Ok(()),
    }
}

/// What HEADERS must have beside the block's fragment.
fn least(head: Head) -> u32 {
    u32::from(head.has(head::PADDED)) + if head.has(head::WITH_PRIORITY) { 5 } else { 0 }
}

/// The header block's fragment in HEADERS: without padding, and without the priority, which says nothing (RFC 9113, section 5.3.2).
fn fragment(head: Head, mut payload: &[u8]) -> Option<&[u8]> {
    let mut padding = 0;
    if head.has(head::PADDED) {
        let (first, rest) = payload.split_first()?;
        (padding, payload) = (usize::from(*first), rest);
    }
    if head.has(head::WITH_PRIORITY) {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

fn size(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
