//! What the peer's frames do.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;

use super::{LARGEST_WINDOW, Mux, RESETS_REMEMBERED, Request, Reset, Role, Side, Stream};
use crate::frame::{Fields, Frame, FrameError, Parameters, code, encode};
use crate::refused::Refused;

/// How many bytes a tunnel that was closed here may still bring. After that it is reset, which tells the peer to stop.
pub(super) const PARTING_BYTES: usize = 256 << 10;

type Received = Result<(), FrameError>;

fn connection(code: u32, why: &'static str) -> Received {
    Err(FrameError::Connection { code, why })
}

fn of_stream(stream: u32, code: u32, why: &'static str) -> Received {
    Err(FrameError::Stream { stream, code, why })
}

impl Mux {
    /// Takes in one frame, or what was wrong with one. A stream's error is answered here.
    ///
    /// # Errors
    /// When the connection cannot go on.
    pub(crate) fn receive(&mut self, frame: Result<Frame, FrameError>) -> Result<(), FrameError> {
        match frame.and_then(|frame| self.take_in(frame)) {
            Err(FrameError::Stream { stream, code, why }) => {
                tracing::debug!(stream, why, "a tunnel's peer broke the protocol");
                // The others are refusals, or for what a tunnel costs.
                if matches!(code, code::PROTOCOL_ERROR | code::FLOW_CONTROL_ERROR | code::STREAM_CLOSED) {
                    self.refused.count(Refused::Broken);
                }
                self.break_off(stream, code)
            }
            result => result,
        }
    }

    fn take_in(&mut self, frame: Frame) -> Received {
        match frame {
            Frame::Data { stream, data, credit, end } => self.take_data(stream, data, credit, end),
            Frame::Headers { stream, fields, end } => match self.role {
                Role::Server { most } => self.take_request_headers(stream, *fields, end, most),
                Role::Client => self.take_answer_headers(stream, *fields, end),
            },
            Frame::Reset { stream, code } => self.take_reset(stream, code),
            Frame::Settings(says) => self.take_settings(says),
            Frame::SettingsAck => {
                self.acknowledged = true;
                Ok(())
            }
            Frame::Ping(payload) => {
                self.answer_peer(|out| encode::pong(out, payload));
                Ok(())
            }
            Frame::Pong(payload) => {
                self.pings.iter_mut().filter(|(ping, _)| *ping == payload).for_each(|(_, answered)| *answered = true);
                Ok(())
            }
            Frame::GoAway { last, code } => {
                self.take_goaway(last, code);
                Ok(())
            }
            Frame::WindowUpdate { stream, increment } => self.take_window(stream, increment.into()),
        }
    }

    /// RFC 9113, section 5.1: a stream that nobody has opened is idle, and only HEADERS may come for it.
    fn idle(&self, id: u32) -> bool {
        id > self.last
    }

    fn take_data(&mut self, id: u32, data: Bytes, credit: u32, end: bool) -> Received {
        let credit = usize::try_from(credit).unwrap_or(usize::MAX);
        if self.idle(id) {
            return connection(code::PROTOCOL_ERROR, "DATA of a stream that nobody has opened");
        }
        if !self.credit.receive(credit) {
            return connection(code::FLOW_CONTROL_ERROR, "more DATA than the connection's window");
        }
        let taken = self.take_stream_data(id, data, credit, end);
        self.widen();
        taken
    }

    /// Gives the peer back what is due of the connection's window.
    pub(super) fn widen(&mut self) {
        if let Some(due) = self.credit.due() {
            self.control(|out| encode::window_update(out, 0, due));
        }
    }

    fn take_stream_data(&mut self, id: u32, data: Bytes, credit: usize, end: bool) -> Received {
        let client = self.role == Role::Client;
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.reset.is_none()) else {
            self.credit.pass(credit);
            if self.dead.contains(&id) {
                return Ok(());
            }
            return of_stream(id, code::STREAM_CLOSED, "DATA of a stream that is closed");
        };
        let wrong = if stream.received_end {
            Some((code::STREAM_CLOSED, "DATA after the end of its stream"))
        } else if client && !stream.answered {
            Some((code::PROTOCOL_ERROR, "DATA before an answer"))
        } else if i64::try_from(credit).unwrap_or(i64::MAX) > stream.receive_window {
            Some((code::FLOW_CONTROL_ERROR, "more DATA than the stream's window"))
        } else {
            None
        };
        if let Some((code, why)) = wrong {
            self.credit.pass(credit);
            return of_stream(id, code, why);
        }
        stream.receive_window -= i64::try_from(credit).unwrap_or(i64::MAX);
        let len = data.len();
        let padding = credit.saturating_sub(len);
        self.credit.pass(padding);
        let mut gone = padding;
        if let Some(parting) = &mut stream.parting {
            parting.seen += len;
            if parting.seen > PARTING_BYTES && !end {
                self.credit.pass(len);
                return of_stream(id, code::CANCEL, "too many bytes for a tunnel that is closed");
            }
            self.credit.pass(len);
            gone += len;
        } else if len > 0 && self.credit.account.is_too_much(stream.unread(), || stream.is_stalled(Instant::now())) {
            self.credit.pass(len);
            self.shed(id);
            return Ok(());
        } else if len > 0 {
            self.credit.keep(len);
            stream.inbox.push(data);
        }
        if (len > 0 && !stream.failure_only) || end {
            self.wakes.extend(stream.reader.take());
        }
        if end {
            self.received_end(id);
        } else {
            self.owe(id, gone);
        }
        Ok(())
    }

    /// The peer has ended its direction.
    fn received_end(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.received_end = true;
        self.wakes.extend(stream.reader.take());
        if stream.closed() {
            self.closed(id);
        }
    }

    /// `count` bytes of a stream are consumed: tells the peer when enough have come together.
    pub(super) fn owe(&mut self, id: u32, count: usize) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.owed = stream.owed.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if stream.owed == 0 || stream.owed < self.stream_window / 2 || stream.received_end || stream.reset.is_some() {
            return;
        }
        let due = std::mem::take(&mut stream.owed);
        stream.receive_window += i64::from(due);
        self.control(|out| encode::window_update(out, id, due));
    }

    fn take_request_headers(&mut self, id: u32, fields: Fields, end: bool, most: u32) -> Received {
        if let Some(stream) = self.streams.get(id) {
            return match stream.reset {
                // RFC 9113, section 5.1: nothing comes for a stream that its peer has reset.
                Some(Reset { by: Side::Peer, .. }) => {
                    of_stream(id, code::STREAM_CLOSED, "HEADERS after the reset of their stream")
                }
                Some(_) => Ok(()),
                None => self.take_trailer(id, &fields, end),
            };
        }
        if !self.idle(id) {
            if self.dead.contains(&id) {
                return Ok(());
            }
            return connection(code::PROTOCOL_ERROR, "HEADERS of a stream that was there before");
        }
        self.last = id;
        let late = self.shutting.is_some_and(|last| id > last);
        if late || self.live >= usize::try_from(most).unwrap_or(usize::MAX) {
            if !late {
                self.refused.count(Refused::TooMany);
            }
            return of_stream(id, code::REFUSED_STREAM, "more tunnels than there may be");
        }
        fields.request().or_else(|why| of_stream(id, code::PROTOCOL_ERROR, why))?;
        let refusal = if fields.oversized {
            Some((Refused::HeadersTooLarge, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE))
        } else if fields.method != Some(Method::CONNECT) {
            tracing::debug!(method = ?fields.method, "request refused: not CONNECT");
            Some((Refused::NotConnect, StatusCode::BAD_REQUEST))
        } else {
            None
        };
        if let Some((refused, status)) = refusal {
            self.refused.count(refused);
            self.refuse_at_once(id, status, end);
            return Ok(());
        }
        let mut stream = Stream::new(id, self.peer.initial_window, self.first_receive_window());
        stream.received_end = end;
        self.streams.insert(stream);
        self.live += 1;
        self.requests.push_back(Request { stream: id, authority: fields.authority, headers: fields.headers });
        Ok(())
    }

    /// Answers a request that no handler sees.
    fn refuse_at_once(&mut self, id: u32, status: StatusCode, end: bool) {
        let before = self.batch.len();
        self.send_headers(id, encode::Opening::Status(status), &HeaderMap::new(), true);
        self.answers += self.batch.len().saturating_sub(before);
        if !end {
            self.answer_peer(|out| encode::reset(out, id, code::NO_ERROR));
            self.remember(id);
        }
    }

    fn take_answer_headers(&mut self, id: u32, fields: Fields, end: bool) -> Received {
        if self.idle(id) {
            return connection(code::PROTOCOL_ERROR, "an answer to no request");
        }
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.reset.is_none()) else {
            if self.dead.contains(&id) {
                return Ok(());
            }
            return of_stream(id, code::STREAM_CLOSED, "HEADERS of a stream that is closed");
        };
        if stream.answered {
            return self.take_trailer(id, &fields, end);
        }
        let status = match fields.answer() {
            Ok(status) => status,
            Err(why) => return of_stream(id, code::PROTOCOL_ERROR, why),
        };
        if fields.oversized {
            return of_stream(id, code::PROTOCOL_ERROR, "an answer with headers beyond the limit");
        }
        if status.is_informational() {
            let wrong = "an interim answer that ends its stream";
            return if end { of_stream(id, code::PROTOCOL_ERROR, wrong) } else { Ok(()) };
        }
        stream.answered = true;
        stream.answer = Some(Box::new((status, fields.headers)));
        self.wakes.extend(stream.reader.take());
        if end {
            self.received_end(id);
        }
        Ok(())
    }

    /// Header fields after the first: they can only be the end.
    fn take_trailer(&mut self, id: u32, fields: &Fields, end: bool) -> Received {
        let Some(stream) = self.streams.get(id) else { return Ok(()) };
        if stream.received_end {
            return of_stream(id, code::STREAM_CLOSED, "HEADERS after the end of their stream");
        }
        fields.trailer().or_else(|why| of_stream(id, code::PROTOCOL_ERROR, why))?;
        if !end {
            return of_stream(id, code::PROTOCOL_ERROR, "a trailer that does not end its stream");
        }
        self.received_end(id);
        Ok(())
    }

    fn take_reset(&mut self, id: u32, code: u32) -> Received {
        if self.idle(id) {
            return connection(code::PROTOCOL_ERROR, "RST_STREAM of a stream that nobody has opened");
        }
        self.cut(id, Reset { by: Side::Peer, code });
        Ok(())
    }

    fn take_settings(&mut self, says: Parameters) -> Received {
        if let Some(size) = says.header_table_size {
            self.encoder.set_table_size(size);
        }
        if let Some(size) = says.max_frame_size {
            self.peer.max_frame = size;
        }
        // RFC 9113, section 6.5.2: without a value there is no limit.
        if !std::mem::replace(&mut self.peer.has_told, true) {
            self.peer.max_streams = usize::MAX;
        }
        if let Some(most) = says.max_concurrent_streams {
            self.peer.max_streams = usize::try_from(most).unwrap_or(usize::MAX);
        }
        if self.role == Role::Client {
            self.wakes.append(&mut self.opening);
        }
        if let Some(window) = says.initial_window_size.map(i64::from) {
            let change = window - self.peer.initial_window;
            self.peer.initial_window = window;
            for stream in self.streams.iter_mut() {
                stream.send_window += change;
                if stream.send_window > LARGEST_WINDOW {
                    return connection(code::FLOW_CONTROL_ERROR, "SETTINGS that make a window too large");
                }
                if stream.send_window > 0 && change > 0 {
                    self.wakes.extend(stream.writer.take());
                }
            }
        }
        self.answer_peer(encode::settings_ack);
        Ok(())
    }

    /// RFC 9113, section 6.8: the tunnels up to the last go on, later ones were not looked at.
    fn take_goaway(&mut self, last: u32, code: u32) {
        self.away = true;
        self.places.close();
        self.urgent = true;
        self.wakes.append(&mut self.opening);
        if self.role != Role::Client {
            return;
        }
        let later: Vec<u32> = self.streams.iter_mut().map(|stream| stream.id).filter(|id| *id > last).collect();
        for id in later {
            self.cut(id, Reset { by: Side::Away, code });
        }
    }

    fn take_window(&mut self, id: u32, increment: i64) -> Received {
        if id == 0 {
            self.window += increment;
            if self.window > LARGEST_WINDOW {
                return connection(code::FLOW_CONTROL_ERROR, "a window that is too large");
            }
            return Ok(());
        }
        if self.idle(id) {
            return connection(code::PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that nobody has opened");
        }
        // On a stream that has ended it may come late (RFC 9113, section 5.1).
        let Some(stream) = self.streams.get_mut(id).filter(|stream| !stream.closed()) else { return Ok(()) };
        stream.send_window += increment;
        if stream.send_window > LARGEST_WINDOW {
            return of_stream(id, code::FLOW_CONTROL_ERROR, "a window that is too large");
        }
        if stream.send_window > 0 && !stream.waits {
            self.wakes.extend(stream.writer.take());
        }
        Ok(())
    }

    /// Answers a stream's error with a reset.
    fn break_off(&mut self, id: u32, code: u32) -> Received {
        if self.idle(id) {
            return connection(code::PROTOCOL_ERROR, "an error in a stream that nobody has opened");
        }
        self.answer_peer(|out| encode::reset(out, id, code));
        self.remember(id);
        self.cut(id, Reset { by: Side::Us, code });
        Ok(())
    }

    /// What comes for this stream from now on was under way before the peer knew of its reset.
    pub(super) fn remember(&mut self, id: u32) {
        if self.dead.len() >= RESETS_REMEMBERED {
            self.dead.pop_front();
        }
        self.dead.push_back(id);
    }

    /// A stream is over before its end, for whatever reason; nothing is sent.
    pub(super) fn cut(&mut self, id: u32, reset: Reset) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if stream.closed() {
            return;
        }
        stream.reset = Some(reset);
        stream.stir(&mut self.wakes);
        self.closed(id);
    }

    /// The protocol is done with a stream.
    pub(super) fn closed(&mut self, id: u32) {
        self.live = self.live.saturating_sub(1);
        self.wakes.append(&mut self.opening);
        let Some(stream) = self.streams.get_mut(id) else { return };
        if stream.parting.take().is_some() {
            self.parting = self.parting.saturating_sub(1);
        }
        self.bulk = self.bulk.saturating_sub(usize::from(std::mem::take(&mut stream.bulk)));
        if !stream.held {
            self.remove(id);
        }
    }

    /// Forgets a stream, with what nobody will read.
    pub(super) fn remove(&mut self, id: u32) {
        let Some(stream) = self.streams.remove(id) else { return };
        self.urgent |= self.shutting.is_some() && self.streams.is_empty();
        self.credit.release(stream.unread());
        if self.failure.is_none() {
            self.widen();
        }
        // Of a connection that has failed it never ended.
        self.bulk = self.bulk.saturating_sub(usize::from(stream.bulk));
        if stream.place {
            self.places.give_back();
            self.urgent |= self.places.is_done();
        }
    }
}
