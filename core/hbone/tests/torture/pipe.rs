//! What a script needs of what it is played over.

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Bytes both ways, and a way to cut them.
pub trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {
    /// A failure is told to the reader or to the writer, not to both.
    const TELLS_ONCE: bool;

    /// The other end sees a reset.
    fn cut(self);
}

impl Pipe for TcpStream {
    const TELLS_ONCE: bool = true;

    fn cut(self) {
        self.set_zero_linger().unwrap();
    }
}
