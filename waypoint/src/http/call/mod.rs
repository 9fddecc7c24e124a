//! One request to somebody whom the waypoint itself asks about a request, an authorizer or a rate limit server, and the whole answer; and calls
//! of it in which messages go both ways.

mod changes;
pub mod grpc;
pub mod stream;

pub use self::changes::{MOST_CHANGES, is_of_the_connection};

use std::net::SocketAddr;

use ambit_model::route::may_leave_again;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Version, response::Parts};
use http_body_util::BodyExt;

use super::{forward::head, headers};
use crate::{
    compiled::Snapshot,
    proxy::Proxy,
    terminate::Tunnel,
    upstream::{Candidates, RequestBody, Sent, candidates},
};

/// The longest answer that is taken, in bytes.
const LONGEST: usize = 1 << 20;

/// Where a request goes.
pub struct Call<'a> {
    /// The shared state.
    pub proxy: &'a Proxy,
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// The tunnel that the client came through.
    pub tunnel: &'a Tunnel,
    /// The cluster of who is asked.
    pub cluster: &'a str,
}

/// A request before it is known what its connection speaks.
pub struct Question {
    /// Its method and headers.
    pub head: Request<()>,
    /// Its path.
    pub path: String,
    /// The host it is for.
    pub authority: String,
    /// Its body.
    pub body: Bytes,
}

/// What was answered.
pub struct Answer {
    /// Status and headers.
    pub head: Parts,
    /// All of its body.
    pub body: Bytes,
    /// What came after that.
    pub trailers: Option<HeaderMap>,
}

impl Call<'_> {
    /// Sends a request, which is of this version where the cluster has none of its own.
    pub fn send(&self, question: Question, version: Version) -> impl Future<Output = Result<Answer, String>> {
        let Self { proxy, snapshot, tunnel, cluster } = *self;
        send(proxy, snapshot, (cluster, tunnel.destination), question, version)
    }
}

/// The same; `destination` is that of the client on whose behalf it is sent.
pub async fn send(
    proxy: &Proxy,
    snapshot: &Snapshot,
    (cluster, destination): (&str, SocketAddr),
    question: Question,
    version: Version,
) -> Result<Answer, String> {
    let cluster = snapshot.clusters.get(cluster).ok_or("there is no such cluster")?;
    let candidates = candidates(cluster, destination, None).map_err(|refusal| refusal.to_string())?;
    let http2 = candidates.protocol.is_http2(version);
    let Question { mut head, path, authority, body } = question;
    headers::target(&mut head, &path, &authority, http2).map_err(|error| error.to_string())?;
    let again = may_leave_again(head.method().as_str(), !body.is_empty(), false);
    let request = || (self::head(&head).map(|()| RequestBody::of(body.clone())), ());
    let (sent, ()) = attempt(proxy, &candidates, http2, again, request).await?;
    read(sent).await
}

/// Sends a request to the first of these endpoints to which a connection stands, and once more in a new one if that at hand may have been over
/// already. `request` makes it for each time, with what its sender keeps; `again` says that it may leave once more even where something of it
/// may have been looked at.
async fn attempt<K>(
    proxy: &Proxy,
    candidates: &Candidates,
    http2: bool,
    again: bool,
    mut request: impl FnMut() -> (Request<RequestBody>, K),
) -> Result<(Sent, K), String> {
    let mut last = "it has no endpoint".to_owned();
    for to in &candidates.endpoints {
        let mut anew = false;
        loop {
            let checkout = match proxy.http.checkout(proxy, &candidates.cluster, to, http2, anew, || {}).await {
                Ok(checkout) => checkout,
                Err(refusal) => {
                    last = refusal.to_string();
                    break;
                }
            };
            let at_hand = checkout.at_hand;
            let (request, kept) = request();
            let unsent = match proxy.http.send(&to.to, checkout, request).await {
                Ok(sent) => return Ok((sent, kept)),
                Err(unsent) => unsent,
            };
            let unseen = unsent.request.is_some() || unsent.refused;
            if anew || !at_hand || !(unseen || again) {
                return Err(unsent.refusal.to_string());
            }
            anew = true;
        }
    }
    Err(last)
}

/// The answer, to its end.
async fn read(Sent { response, lease }: Sent) -> Result<Answer, String> {
    let (head, mut body) = response.into_parts();
    let (mut data, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("its answer broke off: {error}"))?;
        match frame.into_data() {
            Ok(part) if data.len() + part.len() > LONGEST => return Err(format!("its answer has more than {LONGEST} bytes")),
            Ok(part) => data.extend_from_slice(&part),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    lease.release();
    Ok(Answer { head, body: data.freeze(), trailers })
}
