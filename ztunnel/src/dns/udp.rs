//! Queries of a pod over UDP.

use std::{io, net::SocketAddr, pin::pin, sync::Arc};

use ambit_runtime::{
    drain::Watch,
    socket::{canonical, receive_no_more},
};
use tokio::net::UdpSocket;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Next, PodDns, message::Transport};

/// The longest query that is read: EDNS options make queries longer than the name, but not by much.
const LONGEST: usize = 4096;

/// Serves queries until the pod is drained. Those that wait for a resolver are tasks of `tasks`, which a cut ends.
pub(crate) async fn serve(dns: Arc<PodDns>, socket: UdpSocket, watch: Watch, cut: CancellationToken, tasks: TaskTracker) {
    let socket = Arc::new(socket);
    let mut draining = pin!(watch.draining());
    loop {
        let ready = tokio::select! {
            () = &mut draining => break,
            ready = socket.readable() => ready,
        };
        if ready.is_err() {
            return;
        }
        receive(&dns, &socket, |buffer| socket.try_recv_from(buffer), &watch, &cut, &tasks);
        tokio::task::yield_now().await;
    }
    // A new proxy receives on the same port: what came here before is still answered here.
    match receive_no_more(&socket) {
        Ok(arrived) => while receive(&dns, &socket, |buffer| arrived.recv_from(buffer), &watch, &cut, &tasks) {},
        Err(error) => tracing::warn!(%error, "DNS queries may be lost with a proxy that ends"),
    }
}

/// How many queries are taken before others have their turn.
const TURN: usize = 64;

/// Takes the queries of one turn from `next`; says whether more may be there.
fn receive(
    dns: &Arc<PodDns>,
    socket: &Arc<UdpSocket>,
    next: impl Fn(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
    watch: &Watch,
    cut: &CancellationToken,
    tasks: &TaskTracker,
) -> bool {
    let mut buffer = vec![0; LONGEST];
    for _ in 0..TURN {
        let (length, from) = match next(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // An earlier answer could not be delivered: its client is gone.
            Err(_) => continue,
        };
        let Some(bytes) = buffer.get(..length) else { continue };
        match dns.decide(bytes, Transport::Udp) {
            // What cannot be sent at once is lost, as a datagram may be; the client asks again.
            Next::Reply(reply) => drop(socket.try_send_to(&reply, from)),
            Next::Ignore => tracing::debug!(from = %canonical(from), "what is no DNS query was dropped"),
            Next::Forward(places) => {
                let (dns, socket, watch, cut) = (Arc::clone(dns), Arc::clone(socket), watch.clone(), cut.clone());
                let query = bytes.to_vec();
                tasks.spawn(async move {
                    let _until_the_end = watch;
                    let answered = cut.run_until_cancelled(dns.forward(&query, Transport::Udp, places)).await;
                    if let Some(Some(answer)) = answered {
                        drop(socket.try_send_to(&answer, from));
                    }
                });
            }
        }
    }
    true
}
