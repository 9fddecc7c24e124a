//! What an endpoint has said before it went is heard, although it takes nothing any more.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection to an endpoint that is read to its end when nothing can be written to it any more. An endpoint that leaves says which requests
/// it has not looked at (RFC 9113, section 6.8), or answers before it has read all of one; a request that comes after that has the
/// connection reset, and whoever ends with the first write that fails does not learn it.
///
/// From that write on what is written is thrown away, and the error is told where the end is read: one whose length is known by its end
/// is not to be taken for whole.
#[derive(Debug)]
pub struct LastWords<S> {
    stream: S,
    lost: Option<io::Error>,
    /// A write that fails says nothing any more of what there is to read: the end has been read, or this direction was ended here.
    over: bool,
}

impl<S> LastWords<S> {
    /// Of this connection.
    pub fn new(stream: S) -> Self {
        Self { stream, lost: None, over: false }
    }

    /// Nothing more is written: `Ok` while there may be something to read.
    fn unwritten(&mut self, error: io::Error) -> io::Result<()> {
        // Only of these it is known that the reader is told of the end, too.
        let ended = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::TimedOut
        );
        if self.over || !ended {
            return Err(error);
        }
        tracing::debug!(%error, "an endpoint takes nothing any more, and is heard to its end");
        self.lost = Some(error);
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWords<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        let ended = read.is_err() || (buf.filled().len() == before && buf.remaining() > 0);
        self.over |= ended;
        Poll::Ready(match self.lost.take_if(|_| ended) {
            Some(lost) => Err(lost),
            None => read,
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LastWords<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.lost.is_some() {
            return Poll::Ready(Ok(buf.len()));
        }
        match std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf)) {
            Err(error) => Poll::Ready(self.unwritten(error).map(|()| buf.len())),
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lost.is_some() {
            // There is nothing left to end, and the endpoint is still heard.
            return Poll::Ready(Ok(()));
        }
        self.over = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, Interest},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A connection whose endpoint says something and goes, with bytes left that it has not read: it is reset.
    async fn left(words: &[u8]) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut endpoint, _) = listener.accept().await.unwrap();
        stream.write_all(b"a request").await.unwrap();
        endpoint.readable().await.unwrap();
        endpoint.write_all(words).await.unwrap();
        drop(endpoint);
        while !stream.ready(Interest::READABLE | Interest::WRITABLE).await.unwrap().is_write_closed() {
            tokio::task::yield_now().await;
        }
        stream
    }

    #[tokio::test]
    async fn what_an_endpoint_said_before_it_went_is_read_although_nothing_can_be_written() {
        let mut plain = left(b"not looked at").await;
        assert!(plain.write_all(b"another").await.is_err(), "else there is nothing to be mended");
        let mut stream = LastWords::new(left(b"not looked at").await);
        for _ in 0..3 {
            stream.write_all(b"another").await.unwrap();
            stream.flush().await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let mut words = [0; 13];
        stream.read_exact(&mut words).await.unwrap();
        assert_eq!(&words, b"not looked at");
    }

    #[tokio::test]
    async fn what_was_cut_does_not_seem_to_have_ended() {
        let mut stream = LastWords::new(left(b"half of i").await);
        stream.write_all(b"another").await.unwrap();
        let mut words = Vec::new();
        let error = stream.read_to_end(&mut words).await.unwrap_err();
        assert_eq!((error.kind(), &words[..]), (io::ErrorKind::ConnectionReset, &b"half of i"[..]));
        assert!(stream.write_all(b"another").await.is_err(), "its end has been read");
    }
}
