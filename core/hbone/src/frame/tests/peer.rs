//! The `h2` crate on the other side.

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{LIMITS, noise, word};
use crate::{
    frame::{Decoder, Fields, Frame, Parameters, encode},
    hpack::Encoder,
};

const REQUESTS: u32 = 400;

/// Headers of all kinds: known names and others, values that repeat and values that do not, short and long, secret ones.
fn headers(random: &mut Rng) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for _ in 0..random.usize(..8) {
        let name = match random.u8(..6) {
            0 => HeaderName::from_static("baggage"),
            1 => HeaderName::from_static("forwarded"),
            2 => HeaderName::from_static("authorization"),
            3 => HeaderName::from_static("cookie"),
            4 => HeaderName::from_bytes(format!("x-{}", random.u8(..20)).as_bytes()).unwrap(),
            _ => HeaderName::from_static("user-agent"),
        };
        let value: Vec<u8> = match random.u8(..3) {
            0 => format!("again-{}", random.u8(..6)).into_bytes(),
            1 => word(random, 500).into_bytes(),
            _ => noise(random, 60).into_iter().filter(|byte| *byte > b' ' && *byte != 127).collect(),
        };
        let mut value = HeaderValue::from_bytes(&value).unwrap();
        value.set_sensitive(random.u8(..5) == 0);
        headers.append(name, value);
    }
    headers
}

fn request(seed: u32) -> (String, HeaderMap) {
    let mut random = Rng::with_seed(seed.into());
    (format!("10.0.{}.1:80", random.u8(..5)), headers(&mut random))
}

fn answer(seed: u32) -> (StatusCode, HeaderMap) {
    let mut random = Rng::with_seed(u64::from(seed) + 10_000);
    (StatusCode::from_u16([200, 401, 503, 500][random.usize(..4)]).unwrap(), headers(&mut random))
}

fn assert_same(ours: &HeaderMap, theirs: &HeaderMap) {
    let sorted = |headers: &HeaderMap| {
        // Within a name the order counts.
        let mut all: Vec<_> = headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    assert_eq!(sorted(ours), sorted(theirs));
}

/// Reads until a frame with headers comes; everything else that the peer says is taken note of.
async fn next_headers(io: &mut DuplexStream, decoder: &mut Decoder, encoder: &mut Encoder) -> Option<(u32, Box<Fields>)> {
    loop {
        while let Some(frame) = decoder.next().unwrap() {
            match frame {
                Frame::Headers { stream, fields, .. } => return Some((stream, fields)),
                Frame::Settings(says) => {
                    encoder.set_table_size(says.header_table_size.unwrap_or(4096));
                    let mut out = Vec::new();
                    encode::settings_ack(&mut out);
                    io.write_all(&out).await.unwrap();
                }
                _ => {}
            }
        }
        let mut buffer = vec![0; 777];
        let count = io.read(&mut buffer).await.unwrap();
        if count == 0 {
            return None;
        }
        buffer.truncate(count);
        decoder.push(buffer.into());
    }
}

#[tokio::test]
async fn a_foreign_server_understands_our_requests_and_we_its_answers() {
    for table in [0, 200, 4096, 65_536] {
        let (mut io, theirs) = duplex(1 << 16);
        let server = async move {
            let mut builder = h2::server::Builder::new();
            builder.header_table_size(table).max_concurrent_streams(1000).max_header_list_size(1 << 16);
            let mut connection = builder.handshake::<_, Bytes>(theirs).await.unwrap();
            let mut count = 0;
            while let Some(incoming) = connection.accept().await {
                let (incoming, mut respond) = incoming.unwrap();
                let (authority, headers) = request(count);
                assert_eq!(incoming.method(), Method::CONNECT);
                assert_eq!(incoming.uri().authority().unwrap().as_str(), authority);
                assert_same(&headers, incoming.headers());
                let mut response = Response::new(());
                (*response.status_mut(), *response.headers_mut()) = answer(count);
                respond.send_response(response, true).unwrap();
                count += 1;
            }
            assert_eq!(count, REQUESTS);
        };
        let client = async move {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::client(LIMITS));
            let mut out = Vec::new();
            encode::preface(&mut out);
            encode::settings(&mut out, &Parameters { enable_push: Some(false), ..Parameters::default() });
            for nth in 0..REQUESTS {
                let (authority, headers) = request(nth);
                let opening = encode::Opening::Connect(&authority);
                encode::headers(&mut out, &mut encoder, 2 * nth + 1, opening, &headers, true, 1 << 14);
                io.write_all(&std::mem::take(&mut out)).await.unwrap();
                let (stream, fields) = next_headers(&mut io, &mut decoder, &mut encoder).await.unwrap();
                let (status, headers) = answer(nth);
                assert_eq!((stream, fields.answer()), (2 * nth + 1, Ok(status)));
                assert_same(&headers, &fields.headers);
            }
        };
        tokio::join!(server, client);
    }
}

#[tokio::test]
async fn a_foreign_client_is_understood_and_understands_our_answers() {
    for table in [0, 200, 4096, 65_536] {
        let (mut io, theirs) = duplex(1 << 16);
        let client = async move {
            let mut builder = h2::client::Builder::new();
            builder.header_table_size(table).max_header_list_size(1 << 16);
            let (mut send, connection) = builder.handshake::<_, Bytes>(theirs).await.unwrap();
            let connection = tokio::spawn(connection);
            for nth in 0..REQUESTS {
                let (authority, headers) = request(nth);
                let mut request = Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap();
                *request.headers_mut() = headers;
                send = send.ready().await.unwrap();
                let (response, _) = send.send_request(request, true).unwrap();
                let response = response.await.unwrap();
                let (status, headers) = answer(nth);
                assert_eq!(response.status(), status);
                assert_same(&headers, response.headers());
            }
            drop(send);
            connection.await.unwrap().unwrap();
        };
        let server = async move {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::server(LIMITS));
            let mut out = Vec::new();
            encode::settings(&mut out, &Parameters::default());
            for nth in 0..REQUESTS {
                let (stream, fields) = next_headers(&mut io, &mut decoder, &mut encoder).await.unwrap();
                let (authority, headers) = request(nth);
                assert_eq!((stream, fields.request()), (2 * nth + 1, Ok(())));
                assert_eq!(fields.method, Some(Method::CONNECT));
                assert_eq!(fields.authority, Some(authority));
                assert_same(&headers, &fields.headers);
                let (status, headers) = answer(nth);
                encode::headers(&mut out, &mut encoder, stream, encode::Opening::Status(status), &headers, true, 1 << 14);
                io.write_all(&std::mem::take(&mut out)).await.unwrap();
            }
            assert!(next_headers(&mut io, &mut decoder, &mut encoder).await.is_none());
        };
        tokio::join!(client, server);
    }
}
