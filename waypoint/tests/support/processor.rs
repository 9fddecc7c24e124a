//! An external processor that answers, or does not, as a test says.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use ambit_api::envoy::pb::envoy::service::ext_proc::v3::{
    HttpHeaders, ProcessingRequest, ProcessingResponse, processing_request::Request as Told,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::mpsc;

use super::server::{self, Answer};

/// What becomes of what a processor is told.
pub enum Act {
    /// It is answered.
    Say(Box<ProcessingResponse>),
    /// These bytes come back.
    Raw(&'static [u8]),
    /// Nothing does.
    Silent,
    /// The call ends with this status.
    End(&'static str),
    /// The call ends without any.
    Break,
}

/// What a processor does, by the path of the request and what it is told.
pub type Script = fn(&str, &Told) -> Act;

/// What it was told, of all requests.
pub type Heard = Arc<Mutex<Vec<Told>>>;

/// Serves the script.
pub async fn start(address: SocketAddr, script: Script) -> Heard {
    let heard = Heard::default();
    let told = heard.clone();
    server::serve(address, move |request| process(request, script, told.clone())).await;
    heard
}

async fn process(request: Request<Incoming>, script: Script, told: Heard) -> Answer {
    assert_eq!(request.uri(), "http://processor.shop/envoy.service.ext_proc.v3.ExternalProcessor/Process");
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(converse(request.into_body(), sender, script, told));
    let frames = futures::stream::unfold(receiver, |mut receiver: mpsc::Receiver<Frame<Bytes>>| async move {
        receiver.recv().await.map(|frame| (Ok(frame), receiver))
    });
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(StreamBody::new(frames).boxed_unsync()).expect("a response"))
}

async fn converse(mut body: Incoming, sender: mpsc::Sender<Frame<Bytes>>, script: Script, heard: Heard) {
    let (mut read, mut path) = (BytesMut::new(), String::new());
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        read.extend_from_slice(&data);
        while let Some(message) = message(&mut read) {
            let told = ProcessingRequest::decode(message).expect("a message").request.expect("something");
            if let Told::RequestHeaders(headers) = &told {
                path = header(headers, ":path").unwrap_or_default();
            }
            let act = script(&path, &told);
            heard.lock().expect("what was told").push(told);
            let frame = match act {
                Act::Say(answer) => Frame::data(framed(&answer.encode_to_vec())),
                Act::Raw(bytes) => Frame::data(Bytes::from_static(bytes)),
                Act::Silent => continue,
                Act::Break => return,
                Act::End(status) => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static(status));
                    let _ = sender.send(Frame::trailers(trailers)).await;
                    return;
                }
            };
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    }
}

fn message(read: &mut BytesMut) -> Option<Bytes> {
    let &[_, a, b, c, d] = read.first_chunk::<5>()?;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if read.len() < 5 + length {
        return None;
    }
    read.advance(5);
    Some(read.split_to(length).freeze())
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a length"));
    framed.extend_from_slice(message);
    framed.freeze()
}

/// The value of a header that a processor was told.
pub fn header(headers: &HttpHeaders, name: &str) -> Option<String> {
    let all = headers.headers.iter().flat_map(|headers| &headers.headers);
    all.into_iter().find(|header| header.key == name).map(|header| String::from_utf8_lossy(&header.raw_value).into_owned())
}
