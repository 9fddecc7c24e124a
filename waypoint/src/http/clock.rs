//! The clock by which the server of a connection counts how long a client may take until its next request has come. The server asks for it before
//! each request, and nearly all of these come long before their time is up: they share one, which is set anew only when it tells too early.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt;
use tokio::time::{Instant, Sleep, sleep_until};

type Shared = Arc<Mutex<Option<Pin<Box<Sleep>>>>>;

/// Of one connection, whose waits end each later than the one before.
#[derive(Debug, Default)]
pub struct Clock(Shared);

/// Completes at a time.
struct Until {
    at: Instant,
    /// Set when it is first waited for, by whichever wait that is.
    clock: Shared,
}

impl rt::Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Until { at: Instant::now() + duration, clock: self.0.clone() })
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Until { at: deadline.into(), clock: self.0.clone() })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into()
    }
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = shared.get_or_insert_with(|| Box::pin(sleep_until(self.at)));
        loop {
            ready!(clock.as_mut().poll(cx));
            if clock.deadline() >= self.at {
                return Poll::Ready(());
            }
            // It was set for the time before another request.
            clock.as_mut().reset(self.at);
        }
    }
}

impl rt::Sleep for Until {}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_client_is_cut_that_is_silent_for_too_long_after_an_answer_and_not_while_it_waits_for_one() {
        const LIMIT: Duration = Duration::from_millis(400);
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let service = service_fn(|_: Request<Incoming>| async {
            tokio::time::sleep(2 * LIMIT).await;
            Ok::<_, Infallible>(Response::new(String::from("late")))
        });
        let mut builder = http1::Builder::new();
        let connection =
            builder.timer(Clock::default()).header_read_timeout(LIMIT).serve_connection(TokioIo::new(server), service);
        let server = tokio::spawn(connection);
        // The server waits for a request, whose time is up long before it is answered.
        tokio::task::yield_now().await;
        let asked = Instant::now();
        client.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("late"), "{answer}");
        assert!(server.await.unwrap().unwrap_err().is_timeout());
        assert!(asked.elapsed() >= 3 * LIMIT, "{:?}", asked.elapsed());
    }
}
