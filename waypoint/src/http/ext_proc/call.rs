//! The call to a processor that lasts as long as one of the two halves of a session has something to say on it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use ambit_api::envoy::pb::envoy::{
    extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode,
    service::ext_proc::v3::{ProcessingRequest, ProcessingResponse, ProtocolConfiguration, processing_request::Request as Told},
};
use bytes::Bytes;
use prost::Message;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::{
    flow::AHEAD,
    session::{Step, Way, way_of},
};
use crate::{
    compiled::{BodyMode, ExtProc, Snapshot},
    http::call::{
        grpc::framed,
        stream::{Callee, Stream},
    },
    proxy::Proxy,
    terminate::Tunnel,
};

const PATH: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// The longest body, or piece of one, that a processor is told, or says, in bytes.
pub const LONGEST: usize = 1 << 20;
/// The longest message of a processor: a body, and headers.
const LONGEST_MESSAGE: usize = LONGEST + (128 << 10);

/// An answer, or why there will be none.
pub type Spoken = Result<Box<ProcessingResponse>, String>;

/// Where the calls of a request come from.
pub struct Place {
    /// The shared state.
    pub proxy: Arc<Proxy>,
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// The tunnel that the client came through.
    pub tunnel: Arc<Tunnel>,
}

/// A call, begun with the first thing that is said on it. It ends when it is dropped.
pub struct Call {
    /// How it is done.
    pub config: Arc<ExtProc>,
    place: Arc<Place>,
    begun: OnceCell<()>,
    open: Mutex<Option<Open>>,
    /// Of the request's half and of the response's, until there is a call to hear.
    ears: Mutex<Option<[mpsc::Sender<Spoken>; 2]>>,
    awaited: Arc<Awaited>,
    over: AtomicBool,
    /// It is over, and what it was about goes no further in either direction.
    barred: AtomicBool,
}

/// A call that has begun.
struct Open {
    messages: mpsc::Sender<Bytes>,
    /// Who hears what comes back. With it the call ends.
    _reader: AbortOnDropHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Call {
    /// One on which nothing was said, and where each half hears its answers.
    pub fn new(config: Arc<ExtProc>, place: Arc<Place>) -> (Arc<Self>, [mpsc::Receiver<Spoken>; 2]) {
        // More answers than that nobody has asked for.
        let (to_request, request) = mpsc::channel(AHEAD + 2);
        let (to_response, response) = mpsc::channel(AHEAD + 2);
        let call = Self {
            config,
            place,
            begun: OnceCell::new(),
            open: Mutex::new(None),
            ears: Mutex::new(Some([to_request, to_response])),
            awaited: Arc::default(),
            over: AtomicBool::new(false),
            barred: AtomicBool::new(false),
        };
        (Arc::new(call), [request, response])
    }

    /// Whether nothing more is said.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether what it was about goes no further.
    pub fn is_barred(&self) -> bool {
        self.barred.load(Ordering::Acquire)
    }

    /// Nothing more is said, nor heard, and nothing more passes without that.
    pub fn bar(&self) {
        // Whoever sees that it is over sees this as well.
        self.barred.store(true, Ordering::Release);
        self.end();
    }

    /// Nothing more is said, nor heard.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
        // Not with the locks.
        let open = lock(&self.open).take();
        let ears = lock(&self.ears).take();
        drop((open, ears));
    }

    /// One thing as it is said on the call, which is to be answered.
    pub fn message(&self, told: Told) -> Bytes {
        self.awaited.of(Step::of(&told).way()).fetch_add(1, Ordering::AcqRel);
        let protocol_config = (!self.begun.initialized()).then(|| protocol(&self.config));
        framed(&ProcessingRequest { request: Some(told), protocol_config, ..Default::default() })
    }

    /// Says it, as soon as there is room for it; the first one begins the call. Nothing is said when this is dropped before.
    ///
    /// # Errors
    /// When the call cannot be begun.
    pub async fn say(&self, message: &Bytes) -> Result<(), String> {
        let mut first = false;
        let begins = &mut first;
        let begin = move || async move {
            *begins = true;
            self.begin(message.clone()).await
        };
        self.begun.get_or_try_init(begin).await?;
        if first {
            return Ok(());
        }
        let messages = lock(&self.open).as_ref().map(|open| open.messages.clone());
        if let Some(messages) = messages {
            // Where nobody reads any more, what comes back says why.
            let _ = messages.send(message.clone()).await;
        }
        Ok(())
    }

    /// As if it had begun: what is said on it, and where each half is answered.
    #[cfg(test)]
    pub fn opened(&self) -> (mpsc::Receiver<Bytes>, [mpsc::Sender<Spoken>; 2]) {
        let (messages, said) = mpsc::channel(1);
        let reader = AbortOnDropHandle::new(tokio::spawn(std::future::pending()));
        self.begun.set(()).expect("a call that has not begun");
        *lock(&self.open) = Some(Open { messages, _reader: reader });
        (said, lock(&self.ears).take().expect("its ears"))
    }

    async fn begin(&self, message: Bytes) -> Result<(), String> {
        let Place { proxy, snapshot, tunnel } = &*self.place;
        let (cluster, authority) = (&*self.config.cluster, &*self.config.authority);
        let callee = Callee { proxy, snapshot, tunnel, cluster, authority, path: PATH, longest: LONGEST_MESSAGE };
        let stream = callee.begin(message).await?;
        let Some(ears) = lock(&self.ears).take() else { return Ok(()) };
        let messages = stream.messages();
        let reader = AbortOnDropHandle::new(tokio::spawn(read(stream, ears, self.awaited.clone())));
        *lock(&self.open) = Some(Open { messages, _reader: reader });
        if self.is_over() {
            // It has ended meanwhile.
            self.end();
        }
        Ok(())
    }
}

/// Brings each answer to the half that it is about, until the call ends. What is about neither, or was not asked for, is for whoever waits, and
/// the last thing that is heard.
async fn read(mut stream: Stream, [request, response]: [mpsc::Sender<Spoken>; 2], awaited: Arc<Awaited>) {
    loop {
        let answer = match stream.hear().await {
            Ok(Some(message)) => {
                ProcessingResponse::decode(message).map(Box::new).map_err(|error| format!("its answer cannot be read: {error}"))
            }
            // Both halves hear nothing more.
            Ok(None) => return,
            Err(text) => Err(text),
        };
        let way = match &answer {
            // It asks for more time, which it has not unless it may, and which is no answer.
            Ok(answer) if answer.override_message_timeout.is_some() => continue,
            Ok(answer) => way_of(answer),
            Err(_) => None,
        };
        let last = match way {
            Some(way) if awaited.answered(way) => {
                let ear = if way == Way::Request { &request } else { &response };
                // There is room for as many as were asked for; a half that is gone waits for none.
                let _ = ear.try_send(answer);
                continue;
            }
            Some(_) => Err("it answers what it was not told".to_owned()),
            None => answer,
        };
        let _ = request.try_send(last.clone());
        let _ = response.try_send(last);
        return;
    }
}

/// How many answers are awaited of each way.
#[derive(Default)]
struct Awaited {
    request: AtomicUsize,
    response: AtomicUsize,
}

impl Awaited {
    fn of(&self, way: Way) -> &AtomicUsize {
        match way {
            Way::Request => &self.request,
            Way::Response => &self.response,
        }
    }

    /// Whether one was, which is not any more.
    fn answered(&self, way: Way) -> bool {
        self.of(way).fetch_update(Ordering::AcqRel, Ordering::Acquire, |awaited| awaited.checked_sub(1)).is_ok()
    }
}

fn protocol(config: &ExtProc) -> ProtocolConfiguration {
    let mode = |mode: BodyMode| -> i32 {
        match mode {
            BodyMode::None => BodySendMode::None.into(),
            BodyMode::Buffered => BodySendMode::Buffered.into(),
            BodyMode::Streamed => BodySendMode::Streamed.into(),
        }
    };
    ProtocolConfiguration {
        request_body_mode: mode(config.mode.request_body),
        response_body_mode: mode(config.mode.response_body),
        ..Default::default()
    }
}
