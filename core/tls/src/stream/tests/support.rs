//! A connection with known keys, and a peer that can seal whatever it likes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use aws_lc_rs::aead::Aad;
use bytes::{Bytes, BytesMut};
use futures::task::noop_waker_ref;
use rustls::{
    AlertDescription, CipherSuite, ConnectionTrafficSecrets, Error,
    crypto::cipher::{AeadKey, Iv},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    PeerError,
    stream::{
        ALERT, APPLICATION_DATA, Stream,
        keys::{Key, Schedule},
        open::{Opener, record_length},
        transport::{About, Established},
    },
};

/// Keys that are only a number: of the direction, and of how often it was updated.
pub(super) fn secrets(direction: u8, generation: u8) -> ConnectionTrafficSecrets {
    ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([direction ^ generation; 32]), iv: Iv::from([generation; 12]) }
}

pub(super) const OURS: u8 = 0x10;
pub(super) const THEIRS: u8 = 0x80;

/// The schedule that goes with [`secrets`].
#[derive(Default)]
struct Numbers {
    tx: u8,
    rx: u8,
}

impl Schedule for Numbers {
    fn next_tx(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.tx += 1;
        Ok(secrets(OURS, self.tx))
    }

    fn next_rx(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.rx += 1;
        Ok(secrets(THEIRS, self.rx))
    }
}

/// A transport in memory: gives what it was given, then is pending or at its end; takes what it has room for.
#[derive(Debug)]
pub(super) struct Canned {
    pub(super) input: BytesMut,
    pub(super) ended: bool,
    pub(super) output: Vec<u8>,
    /// How much more it takes.
    pub(super) room: usize,
    /// How much it gives at once.
    pub(super) at_once: usize,
    pub(super) shut: bool,
    pub(super) broken: bool,
}

impl AsyncRead for Canned {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.input.is_empty() && !self.ended {
            return Poll::Pending;
        }
        let count = self.input.len().min(buffer.remaining()).min(self.at_once);
        buffer.put_slice(&self.input.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Canned {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(self.room);
        if count == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        self.room -= count;
        self.output.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Poll::Ready(Ok(()))
    }
}

/// What a read came to.
#[derive(Debug)]
pub(super) enum Read {
    Data(Bytes),
    End,
    Waiting,
    Failed(io::Error),
}

impl Read {
    pub(super) fn data(self) -> Bytes {
        match self {
            Self::Data(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// The error of TLS in it.
    pub(super) fn tls(self) -> Error {
        let error = self.error();
        assert!(PeerError::from_io(&error).is_some(), "{error} has no reason");
        error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).unwrap().clone()
    }
}

/// A client over [`Canned`], and what its peer needs.
pub(super) struct Pair {
    pub(super) stream: Stream<Canned>,
    pub(super) peer: Peer,
    /// Opens what the stream sends.
    opener: Opener,
    opened: usize,
}

/// Seals anything.
pub(super) struct Peer {
    key: Key,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self { key: Key::new(0, &secrets(THEIRS, 0)).unwrap() }
    }

    pub(super) fn rekey(&mut self, generation: u8) {
        self.key = Key::new(0, &secrets(THEIRS, generation)).unwrap();
    }

    /// A record whose inner plaintext, content type and padding included, is this.
    pub(super) fn inner(&mut self, inner: &[u8]) -> Vec<u8> {
        let mut body = inner.to_vec();
        let length = u16::try_from(body.len() + 16).unwrap().to_be_bytes();
        let head = [APPLICATION_DATA, 3, 3, length[0], length[1]];
        let nonce = self.key.next_nonce().unwrap();
        self.key.aead.seal_in_place_append_tag(nonce, Aad::from(head), &mut body).unwrap();
        [head.as_slice(), &body].concat()
    }

    pub(super) fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        self.inner(&[content, &[kind]].concat())
    }

    pub(super) fn data(&mut self, content: &[u8]) -> Vec<u8> {
        self.record(APPLICATION_DATA, content)
    }
}

impl Pair {
    pub(super) fn client() -> Self {
        Self::new(true)
    }

    pub(super) fn server() -> Self {
        Self::new(false)
    }

    fn new(is_client: bool) -> Self {
        let io = Canned {
            input: BytesMut::new(),
            ended: false,
            output: Vec::new(),
            room: usize::MAX,
            at_once: usize::MAX,
            shut: false,
            broken: false,
        };
        let established = Established {
            tx: Key::new(0, &secrets(OURS, 0)).unwrap(),
            rx: Key::new(0, &secrets(THEIRS, 0)).unwrap(),
            schedule: Box::new(Numbers::default()),
            limit: 1 << 24,
            is_client,
            about: About {
                peer: Err(PeerError::NoCertificate),
                presented: crate::Presented { chain: std::sync::Arc::new([]) },
                alpn: None,
                suite: CipherSuite::TLS13_AES_256_GCM_SHA384,
            },
        };
        Self {
            stream: Stream::new(io, BytesMut::new(), established),
            peer: Peer::new(),
            opener: Opener::new(Key::new(0, &secrets(OURS, 0)).unwrap()),
            opened: 0,
        }
    }

    /// What the peer sends on the wire.
    pub(super) fn arrives(&mut self, bytes: &[u8]) -> &mut Self {
        self.stream.io.input.extend_from_slice(bytes);
        self
    }

    pub(super) fn ends(&mut self) -> &mut Self {
        self.stream.io.ended = true;
        self
    }

    pub(super) fn read(&mut self) -> Read {
        match self.stream.poll_chunk(&mut context()) {
            Poll::Pending => Read::Waiting,
            Poll::Ready(Ok(Some(bytes))) => Read::Data(bytes),
            Poll::Ready(Ok(None)) => Read::End,
            Poll::Ready(Err(error)) => Read::Failed(error),
        }
    }

    /// The next record that the stream has sent: its content type and content.
    pub(super) fn sent(&mut self) -> Option<(u8, Vec<u8>)> {
        let left = self.stream.io.output.get(self.opened..)?;
        let length = record_length(left).unwrap()?;
        let mut record = left[..length].to_vec();
        self.opened += length;
        let inner = self.opener.open(&mut record).unwrap();
        Some((inner.kind, record[5..5 + inner.length].to_vec()))
    }

    /// The peer has seen the stream's key update.
    pub(super) fn peer_rekeys_reading(&mut self, generation: u8) {
        self.opener.rekey(&secrets(OURS, generation)).unwrap();
    }

    /// Asserts that the stream has failed so that its peer was told, and that it is dead.
    pub(super) fn assert_dead(&mut self, alert: Option<AlertDescription>) {
        let told = alert.map(|alert| (ALERT, vec![2, u8::from(alert)]));
        assert_eq!(self.sent(), told);
        assert_eq!(self.sent(), None, "something follows the alert");
        let mut piece = vec![0; 5 + 3 + 17];
        self.stream.begin().unwrap_err();
        self.stream.seal(&mut piece).unwrap_err();
        assert_eq!(piece, vec![0; 25], "a dead connection has sealed");
        let before = self.stream.io.output.len();
        assert!(matches!(self.stream.poll_write(&mut context(), &piece), Poll::Ready(Err(_))));
        let good = self.peer.data(b"more");
        self.arrives(&good);
        assert!(matches!(self.read(), Read::Failed(_)), "a dead connection has read");
        assert!(matches!(self.stream.poll_shutdown(&mut context()), Poll::Ready(Ok(()))));
        assert_eq!(self.stream.io.output.len(), before);
    }
}

/// A piece with room around it.
pub(super) fn piece(plaintext: &[u8]) -> Vec<u8> {
    [&[0; 5], plaintext, &[0; 17]].concat()
}

pub(super) fn context() -> Context<'static> {
    Context::from_waker(noop_waker_ref())
}
