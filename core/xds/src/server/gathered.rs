//! A connection to which what is short is written in one piece.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes that are longer are left as they are.
const SHORT: usize = 1 << 10;

/// HTTP/2 writes the head of a frame and what is in it as two slices. The kernel takes two of them by another way than one, and TLS puts them
/// together piece by piece: for the some hundred bytes that most responses have, both cost more than a copy.
#[derive(Debug)]
pub(super) struct Gathered<IO>(pub(super) IO);

impl<IO: AsyncRead + Unpin> AsyncRead for Gathered<IO> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gathered<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.0);
        if let [one] = data {
            return io.poll_write(context, one);
        }
        let length = data.iter().map(|slice| slice.len()).sum::<usize>();
        let mut piece = [0_u8; SHORT];
        let Some(piece) = piece.get_mut(..length) else { return io.poll_write_vectored(context, data) };
        let mut rest = &mut *piece;
        for slice in data {
            rest.write_all(slice)?;
        }
        io.poll_write(context, piece)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Notes how it is written to: the length of each slice.
    #[derive(Default)]
    struct Noted(Vec<Vec<usize>>, Vec<u8>);

    impl AsyncWrite for Noted {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(vec![data.len()]);
            self.1.extend_from_slice(data);
            Poll::Ready(Ok(data.len()))
        }

        fn poll_write_vectored(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            self.0.push(data.iter().map(|slice| slice.len()).collect());
            data.iter().for_each(|slice| self.1.extend_from_slice(slice));
            Poll::Ready(Ok(data.iter().map(|slice| slice.len()).sum()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_short_is_one_piece_and_the_rest_is_left_as_it_is() {
        let mut io = Gathered(Noted::default());
        let (head, payload) = ([1_u8; 9], [2_u8; SHORT]);
        for (payload, pieces) in
            [(&payload[..400], vec![409]), (&payload[..SHORT - 9], vec![SHORT]), (&payload[..SHORT - 8], vec![9, SHORT - 8])]
        {
            io.0 = Noted::default();
            let slices = [IoSlice::new(&head), IoSlice::new(payload)];
            assert_eq!(io.write_vectored(&slices).now_or_never().unwrap().unwrap(), 9 + payload.len());
            assert_eq!(io.0.0, [pieces]);
            assert_eq!(io.0.1, [head.as_slice(), payload].concat());
        }
        io.0 = Noted::default();
        io.write_vectored(&[IoSlice::new(&payload)]).now_or_never().unwrap().unwrap();
        assert_eq!(io.0.0, [[SHORT]]);
        assert!(io.is_write_vectored());
    }
}
