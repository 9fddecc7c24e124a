//! External processors: told of requests that nothing has refused, then of their responses, and may change both or answer in their place.
//! None that fails lets anything pass, unless its configuration says so. Rules have decided before: the route stays, and so do host and
//! scheme, whatever is changed, and the method but for one that comes with another body.
//!
//! | file | what it does |
//! |---|---|
//! | `message.rs` | what is told of one request or response before it goes on, and what becomes of it |
//! | `whole.rs` | bodies of which it is told as a whole |
//! | `flow.rs` | bodies that go on piece by piece, and trailers at their end |
//! | `passage.rs` | the way from there to the client's answer |
//! | `session.rs`, `call.rs` | what is said to one processor about one request, and what it says |
//! | `told.rs` | the messages of it |
//! | `mutation.rs` | what it changes of heads |
//! | `end.rs` | what a client is answered where a request or a response goes no further |

mod call;
mod end;
mod flow;
mod message;
mod mutation;
mod passage;
mod session;
#[cfg(test)]
mod tests;
mod told;
mod whole;

use std::sync::Arc;

use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use self::{call::Place, message::Context, session::Session};
pub use self::{
    end::End,
    passage::{Passage, Passes, Stopped, Stopper},
};
use super::{
    ResponseBody,
    answer::Style,
    forward::{Exchange, Hold},
    select::Target,
};
use crate::{compiled::ExtProc, observe::Beside};

/// The processors of a request.
pub struct Processors {
    place: Arc<Place>,
    /// What headers may take together, in bytes.
    most: usize,
    style: Style,
    sessions: Vec<Session>,
}

impl Processors {
    /// Those that the request's route has asked; `None` where it has none.
    pub fn of(exchange: &Exchange) -> Option<Box<Self>> {
        let holds = |config: &&Arc<ExtProc>| config.holds_for(&exchange.route);
        let mut told = exchange.http.processors.iter().filter(holds).peekable();
        told.peek()?;
        let (proxy, snapshot, tunnel) = (exchange.proxy.clone(), exchange.snapshot.clone(), exchange.tunnel.clone());
        let place = Arc::new(Place { proxy, snapshot, tunnel });
        let sessions = told.map(|config| Session::new(config.clone(), place.clone())).collect();
        Some(Box::new(Self { place, most: exchange.http.max_header_bytes, style: exchange.style, sessions }))
    }

    /// Tells them of the request, and makes of it what they say; `beside` notes that. What they are told of it in pieces is in `hold` afterwards.
    ///
    /// # Errors
    /// With what becomes of it, of whose answer those before the one that has it so are to be told.
    pub async fn request(
        &mut self,
        request: &mut Request<Incoming>,
        target: &mut Target,
        hold: &mut Hold,
        beside: Option<&Beside>,
    ) -> Result<(), End> {
        let Self { place, most, sessions, .. } = self;
        for at in 0..sessions.len() {
            let Some(session) = sessions.get_mut(at) else { break };
            if let Some(beside) = beside {
                beside.asks("external processor", &session.config.cluster);
            }
            let context = Context { place, most: *most };
            if let Err(end) = context.request(session, request, target, hold).await {
                sessions.truncate(at);
                return Err(end);
            }
            if session.mode.leaves_responses() {
                session.leave_response();
            }
        }
        Ok(())
    }

    /// Tells them of the response, the last one first, and makes of it what they say.
    pub async fn response(mut self: Box<Self>, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        // What goes on after that is no response any more.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        let from_endpoint = response.body().is_streaming();
        while let Some(mut session) = self.sessions.pop() {
            // This is what it has said itself, or what is said in its place.
            if !from_endpoint && session.is_barred() {
                continue;
            }
            let context = Context { place: &self.place, most: self.most };
            if let Err(end) = context.response(&mut session, &mut response).await {
                let answer = end.answer(response.body_mut().record(), self.style);
                response = answer;
            }
        }
        response
    }
}
