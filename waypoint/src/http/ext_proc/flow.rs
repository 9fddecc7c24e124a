//! A body that passes by way of a processor: each piece is told as it comes, and what is said of it goes on, in the same order. Pieces are
//! told before the first of them is answered, as many as there is room for; then no more are taken from where they come from. So neither a
//! slow processor nor a slow reader has more than that waiting here.

use std::{collections::VecDeque, future::pending, mem::replace};

use ambit_api::envoy::pb::envoy::service::ext_proc::v3::{HttpTrailers, processing_request::Request as Told};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep_until};

use super::{
    end::End,
    mutation::{self, Line},
    passage::Stopper,
    session::{Failure, Half, Heard, Step, Way, fitting, late},
    told,
};
use crate::{
    http::{ResponseBody, body::BodyError},
    upstream::{Broken, Made, RequestBody},
};

/// How many pieces are told before the first of them is answered. Each answer may be longer than what it answers.
pub const AHEAD: usize = 16;
/// How much they have together before no more are told, in bytes. One may have more.
const WINDOW: usize = 256 << 10;

/// What is to be told of a body that passes.
#[derive(Debug, Clone, Copy)]
pub struct Pieces {
    /// All of its pieces.
    pub body: bool,
    /// Its trailers.
    pub trailers: bool,
}

/// Has a body pass by way of a processor.
pub struct Through {
    /// The processor.
    pub half: Half,
    /// What it is told.
    pub pieces: Pieces,
    /// What trailers may take together, in bytes.
    pub most: usize,
}

/// Why a body passes no further.
#[derive(Debug)]
pub enum Stop<E> {
    /// It broke off.
    Broke(E),
    /// Its processor, or that one's failure, goes before it.
    End(End),
}

/// What is still to come from where a body comes from.
#[derive(Debug)]
enum Coming {
    More,
    Trailers(HeaderMap),
    Nothing,
}

/// A body on its way by a processor.
pub struct Flow<S> {
    source: S,
    way: Way,
    through: Through,
    coming: Coming,
    /// The last piece is told.
    complete: bool,
    /// The pieces that are told and not answered.
    told: VecDeque<Bytes>,
    /// How much these have together.
    held: usize,
    /// What is said as soon as there is room on the call.
    next: Option<Bytes>,
    /// When something was last told, or answered.
    since: Instant,
}

enum Event<E> {
    Heard(Result<Heard, Failure>),
    Said(Result<(), Failure>),
    Came(Option<Result<Frame<Bytes>, E>>),
}

impl<S> Flow<S>
where
    S: Body<Data = Bytes> + Unpin,
{
    /// Of what comes from there.
    pub fn new(source: S, way: Way, through: Through) -> Self {
        Self {
            source,
            way,
            through,
            coming: Coming::More,
            complete: false,
            told: VecDeque::new(),
            held: 0,
            next: None,
            since: Instant::now(),
        }
    }

    /// What goes on next.
    ///
    /// # Errors
    /// When nothing does, nor will.
    pub async fn next(&mut self) -> Result<Option<Frame<Bytes>>, Stop<S::Error>> {
        loop {
            if self.is_over()? || !self.through.pieces.body {
                if let Some(data) = self.told.pop_front() {
                    if data.is_empty() {
                        continue;
                    }
                    return Ok(Some(Frame::data(data)));
                }
                if matches!(self.coming, Coming::More) {
                    match self.source.frame().await.transpose().map_err(Stop::Broke)?.map(Frame::into_trailers) {
                        Some(Err(data)) => return Ok(Some(data)),
                        Some(Ok(trailers)) => self.coming = Coming::Trailers(trailers),
                        None => self.coming = Coming::Nothing,
                    }
                }
            }
            if self.told.is_empty() && !matches!(self.coming, Coming::More) {
                return match replace(&mut self.coming, Coming::Nothing) {
                    Coming::Trailers(trailers) => self.trailers(trailers).await.map(Some),
                    Coming::More | Coming::Nothing => Ok(None),
                };
            }
            let event = self.event().await;
            if let Some(data) = self.happened(event)? {
                return Ok(Some(Frame::data(data)));
            }
        }
    }

    /// What happens next while pieces are told.
    async fn event(&mut self) -> Event<S::Error> {
        let Self { source, way, through, coming, told, held, next, since, .. } = self;
        let limit = through.half.config().message_timeout;
        let step = if *way == Way::Request { Step::RequestBody } else { Step::ResponseBody };
        let (waits, room) = (!told.is_empty(), *held < WINDOW && told.len() < AHEAD);
        let (call, ear) = through.half.parts();
        let heard = async {
            let answer = Half::hear(ear).await?;
            answer.map_or(Ok(Heard::Nothing), |answer| fitting(step, answer))
        };
        let says = next.is_some();
        let said = async {
            match next.as_ref() {
                Some(message) => call.say(message).await.map_err(Failure::from),
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            heard = heard, if waits => Event::Heard(heard),
            said = said, if says => Event::Said(said),
            came = source.frame(), if room && !says && matches!(coming, Coming::More) => Event::Came(came),
            () = sleep_until(*since + limit), if waits => Event::Heard(Err(late(limit))),
            // Something is always awaited.
            else => Event::Heard(Err(Failure::from("it is told nothing".to_owned()))),
        }
    }

    /// What goes on because of it, if anything does.
    fn happened(&mut self, event: Event<S::Error>) -> Result<Option<Bytes>, Stop<S::Error>> {
        self.since = Instant::now();
        match event {
            Event::Heard(heard) => self.heard(heard),
            Event::Said(Ok(())) => {
                self.next = None;
                Ok(None)
            }
            Event::Said(Err(failure)) => self.heard(Err(failure)),
            Event::Came(None) => {
                self.coming = Coming::Nothing;
                // What was told last was not known to be.
                if !self.complete {
                    self.tell(Bytes::new(), true);
                }
                Ok(None)
            }
            Event::Came(Some(Err(broke))) => Err(Stop::Broke(broke)),
            Event::Came(Some(Ok(frame))) => {
                match frame.into_data() {
                    Ok(data) => {
                        let last = self.source.is_end_stream();
                        if last {
                            self.coming = Coming::Nothing;
                        }
                        if last || !data.is_empty() {
                            self.tell(data, last);
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.coming = Coming::Trailers(trailers);
                        }
                    }
                }
                Ok(None)
            }
        }
    }

    /// Has a piece told.
    fn tell(&mut self, data: Bytes, last: bool) {
        let body = told::body(&data, last);
        let told = match self.way {
            Way::Request => Told::RequestBody(body),
            Way::Response => Told::ResponseBody(body),
        };
        self.next = Some(self.through.half.message(told));
        self.complete = last;
        self.held += data.len();
        self.told.push_back(data);
    }

    /// What goes on in the place of the first piece that is not answered. Headers are on their way: what is said of them has no effect, as
    /// in Envoy.
    fn heard(&mut self, heard: Result<Heard, Failure>) -> Result<Option<Bytes>, Stop<S::Error>> {
        match self.judged(heard)? {
            Heard::Common(common) => {
                let replaced = told::replaced(common.body_mutation).map_err(|why| self.failed(&why.into()))?;
                let piece = self.told.pop_front().unwrap_or_default();
                self.held = self.held.saturating_sub(piece.len());
                Ok(Some(replaced.unwrap_or(piece)).filter(|data| !data.is_empty()))
            }
            // It is over: what was told goes on as it was.
            Heard::Nothing | Heard::Trailers(_) | Heard::Immediate(_) => {
                self.next = None;
                Ok(None)
            }
        }
    }

    /// The same of trailers, when all that comes before them has gone on.
    async fn trailers(&mut self, mut trailers: HeaderMap) -> Result<Frame<Bytes>, Stop<S::Error>> {
        if self.is_over()? || !self.through.pieces.trailers {
            return Ok(Frame::trailers(trailers));
        }
        let said = HttpTrailers { trailers: Some(told::fields(&[], &trailers)) };
        let said = match self.way {
            Way::Request => Told::RequestTrailers(said),
            Way::Response => Told::ResponseTrailers(said),
        };
        let heard = self.through.half.tell(said).await;
        if let Heard::Trailers(Some(mutation)) = self.ended(heard)? {
            let Through { half, most, .. } = &self.through;
            mutation::apply(mutation, &half.config().rules, &mut trailers, &mut Line::Nothing, *most)
                .map_err(|why| self.failed(&why.into()))?;
        }
        Ok(Frame::trailers(trailers))
    }

    /// Whether all goes on as it comes from now on.
    fn is_over(&self) -> Result<bool, Stop<S::Error>> {
        self.through.half.is_over().map_err(|failure| self.failed(&failure))
    }

    fn judged(&self, heard: Result<Heard, Failure>) -> Result<Heard, Stop<S::Error>> {
        self.ended(self.through.half.judged(heard))
    }

    /// What was heard, unless nothing goes on after it.
    fn ended(&self, heard: Result<Heard, Failure>) -> Result<Heard, Stop<S::Error>> {
        match heard {
            Ok(Heard::Immediate(immediate)) => {
                Err(Stop::End(End::said(*immediate, self.through.half.config(), self.through.most)))
            }
            Ok(heard) => Ok(heard),
            Err(failure) => Err(self.failed(&failure)),
        }
    }

    fn failed(&self, failure: &Failure) -> Stop<S::Error> {
        Stop::End(End::failed(self.through.half.config(), failure))
    }
}

impl Through {
    /// What is made of a request's body on its way.
    pub fn request(self, body: RequestBody, stopper: Stopper) -> RequestBody {
        let flow = Flow::new(body, Way::Request, self);
        RequestBody::made(Made::new(futures::stream::unfold((flow, stopper), |(mut flow, stopper)| async move {
            let frame = match flow.next().await {
                Ok(frame) => Ok(frame?),
                Err(Stop::Broke(broke)) => Err(broke),
                Err(Stop::End(end)) => {
                    stopper.stop(end).await;
                    Err(Broken::Processed)
                }
            };
            Some((frame, (flow, stopper)))
        })))
    }

    /// What is made of a response's body on its way. Its head is gone: what goes no further breaks off, as in Envoy.
    pub fn response(self, body: ResponseBody) -> Made<BodyError> {
        let flow = Flow::new(body, Way::Response, self);
        Made::new(futures::stream::unfold(flow, |mut flow| async move {
            let frame = match flow.next().await {
                Ok(frame) => Ok(frame?),
                Err(Stop::Broke(broke)) => Err(broke),
                Err(Stop::End(end)) => {
                    if let Some(record) = flow.source.record() {
                        record.refused(end.refusal());
                    }
                    Err(BodyError::Processed(end.refusal().to_string()))
                }
            };
            Some((frame, flow))
        }))
    }
}

#[cfg(test)]
mod tests;
