//! Queries of a pod over UDP.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_runtime::{
    drain::Watch,
    socket::{canonical, receive_no_more},
};
use tokio::net::UdpSocket;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Next, PodDns, message::Transport};

/// The longest query that is read: EDNS options make queries longer than the name, but not by much.
const LONGEST: usize = 4096;

/// Pause after a failure to receive, so that the loop does not spin, and how often it is said.
const PAUSE: Duration = Duration::from_millis(50);
const SAY: Duration = Duration::from_secs(60);

/// Serves queries until the pod is drained. Those that wait for a resolver are tasks of `tasks`, which a cut ends.
pub(crate) async fn serve(dns: Arc<PodDns>, socket: UdpSocket, watch: Watch, cut: CancellationToken, tasks: TaskTracker) {
    let socket = Arc::new(socket);
    let mut draining = pin!(watch.draining());
    let mut said = None::<Instant>;
    loop {
        let ready = tokio::select! {
            () = &mut draining => break,
            ready = socket.readable() => ready,
        };
        if ready.is_err() {
            return;
        }
        match receive(&dns, &socket, |buffer| socket.try_recv_from(buffer), &watch, &cut, &tasks) {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => {
                if said.is_none_or(|said| said.elapsed() > SAY) {
                    said = Some(Instant::now());
                    tracing::warn!(%error, pod = dns.pod.name, "DNS queries of a pod cannot be received; it is tried again");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // A new proxy receives on the same port: what came here before is still answered here.
    let rest = receive_no_more(&socket).and_then(|arrived| {
        while receive(&dns, &socket, |buffer| arrived.recv_from(buffer), &watch, &cut, &tasks)? {}
        Ok(())
    });
    if let Err(error) = rest {
        tracing::warn!(%error, pod = dns.pod.name, "DNS queries may be lost with a proxy that ends");
    }
}

/// How many queries are taken before others have their turn.
const TURN: usize = 64;

/// Takes the next query; nothing while there is none.
fn take(
    next: impl Fn(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
    buffer: &mut [u8],
) -> io::Result<Option<(usize, SocketAddr)>> {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock};
    let mut passed = 0;
    loop {
        match next(buffer) {
            Ok(received) => return Ok(Some(received)),
            Err(error) => match error.kind() {
                WouldBlock => return Ok(None),
                // An earlier answer could not be delivered, for its client is gone: the kernel says that once for each.
                ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable | Interrupted if passed < TURN => {
                    passed += 1;
                }
                _ => return Err(error),
            },
        }
    }
}

/// Takes the queries of one turn from `next`; says whether more may be there.
///
/// # Errors
/// When nothing can be received.
fn receive(
    dns: &Arc<PodDns>,
    socket: &Arc<UdpSocket>,
    next: impl Fn(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
    watch: &Watch,
    cut: &CancellationToken,
    tasks: &TaskTracker,
) -> io::Result<bool> {
    let mut buffer = vec![0; LONGEST];
    for _ in 0..TURN {
        let Some((length, from)) = take(&next, &mut buffer)? else { return Ok(false) };
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
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What becomes of a query that is received in this way, and how often it was tried.
    fn taken(answers: &[Option<io::ErrorKind>]) -> (Result<bool, io::ErrorKind>, usize) {
        let tried = RefCell::new(0);
        let from = SocketAddr::from(([127, 0, 0, 1], 53));
        let next = |_: &mut [u8]| {
            let mut tried = tried.borrow_mut();
            let answer = answers[(*tried).min(answers.len() - 1)];
            *tried += 1;
            answer.map_or(Ok((1, from)), |kind| Err(kind.into()))
        };
        let outcome = take(next, &mut [0; 8]).map(|query| query.is_some()).map_err(|error| error.kind());
        (outcome, tried.into_inner())
    }

    #[test]
    fn clients_that_are_gone_are_passed_over_and_what_fails_for_good_is_not_tried_again_and_again() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, OutOfMemory, WouldBlock};
        assert_eq!(taken(&[Some(ConnectionRefused), Some(HostUnreachable), Some(Interrupted), None]), (Ok(true), 4));
        assert_eq!(taken(&[Some(ConnectionRefused), Some(WouldBlock)]), (Ok(false), 2));
        assert_eq!(taken(&[Some(OutOfMemory)]), (Err(OutOfMemory), 1));
        assert_eq!(taken(&[Some(ConnectionRefused)]), (Err(ConnectionRefused), TURN + 1));
    }
}
