//! Bytes of a peer to frames.

use bytes::Bytes;

use super::{
    Frame, FrameError, HEAD, Limits, PREFACE, Parameters,
    blocks::Blocks,
    check, code,
    head::{self, Head},
    input::Input,
    limits::{Allowance, DEAR},
};

/// Decodes what one peer sends in one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    limits: Limits,
    /// Whether the peer is the server.
    from_server: bool,
    input: Input,
    state: State,
    blocks: Blocks,
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
            blocks: Blocks::new(limits),
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

    /// The number of the header block that has begun and is not there whole.
    pub(crate) fn unfinished_block(&self) -> Option<u32> {
        let begun = matches!(self.state, State::Whole(Head { kind: head::HEADERS | head::CONTINUATION, .. }));
        (begun || self.blocks.is_open()).then(|| self.blocks.count())
    }

    /// We have sent `frames` that carry an answer, a request or bytes, where one of many bytes counts as one more for each 4 KiB: some
    /// peers widen their windows that often. Resets do not count.
    pub(crate) fn progress(&mut self, frames: u32) {
        self.allowance.sent(frames);
    }

    /// Call it every now and then (every 10 s): what the peer sent for nothing is forgotten, and memory that is not used given back.
    pub(crate) fn renew(&mut self) {
        self.allowance.renew();
        self.input.trim();
    }

    /// Bytes kept of frames that are not complete.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.input.held() + self.blocks.held()
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
                self.blocks = Blocks::new(self.limits);
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
                self.blocks.room(head)?;
                State::Whole(head)
            }
            head::GOAWAY | head::RST_STREAM | head::SETTINGS | head::PING | head::WINDOW_UPDATE => State::Whole(head),
            head::PUSH_PROMISE => return Err(FrameError::protocol("PUSH_PROMISE, which is not allowed")),
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
        self.blocks.in_order(head)?;
        check::stream(head)?;
        check::length(head)?;
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
            self.allowance.received(len);
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
            head::HEADERS | head::CONTINUATION => return Ok(self.blocks.take(head, payload)?.map_or(Step::On, Step::Frame)),
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
}

/// A length, as memory counts.
pub(super) fn size(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
