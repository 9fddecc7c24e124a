//! Driving a handshake of rustls over a transport, with a bounded buffer of ours.

use std::{io, sync::Arc};

use bytes::{Buf, BytesMut};
use rustls::{
    ClientConfig, CommonState, Error, ExtractedSecrets, InvalidMessage, ProtocolVersion, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::ServerName,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    HEAD, MOST, Stream,
    keys::{Key, Schedule},
    transport::{About, Established},
};
use crate::{PeerError, Presented, peer_identity};

/// How much a peer's handshake may take of our memory: the longest message that rustls accepts (64 KB), and the records around it.
const MOST_BUFFERED: usize = 80 << 10;
/// Least room of a read.
const LEAST_READ: usize = 4 << 10;
/// The longest record of any version of TLS.
const LONGEST_RECORD: usize = MOST + 2048;

/// A handshake that has failed, and the transport, on which the alert has been sent.
pub(crate) struct Failed<T> {
    pub(crate) error: io::Error,
    pub(crate) io: T,
}

/// The client's handshake.
pub(crate) async fn client<T>(io: T, config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Stream<T>, Failed<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let config = if config.enable_secret_extraction {
        config
    } else {
        let mut config = ClientConfig::clone(&config);
        config.enable_secret_extraction = true;
        Arc::new(config)
    };
    match UnbufferedClientConnection::new(config, name) {
        Ok(connection) => run(io, connection).await,
        Err(error) => Err(Failed { error: tls(error), io }),
    }
}

/// The server's handshake.
pub(crate) async fn server<T>(io: T, config: Arc<ServerConfig>) -> Result<Stream<T>, Failed<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let config = if config.enable_secret_extraction {
        config
    } else {
        let mut config = ServerConfig::clone(&config);
        config.enable_secret_extraction = true;
        Arc::new(config)
    };
    match UnbufferedServerConnection::new(config) {
        Ok(connection) => run(io, connection).await,
        Err(error) => Err(Failed { error: tls(error), io }),
    }
}

async fn run<T, M>(mut io: T, mut machine: M) -> Result<Stream<T>, Failed<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
    M: Machine,
{
    let mut arrived = BytesMut::new();
    let done = match drive(&mut io, &mut machine, &mut arrived).await {
        Ok(()) => established(machine),
        Err(error) => Err(error),
    };
    match done {
        // What has come along with the handshake is copied, so that the handshake's buffer does not live on.
        Ok(established) => Ok(Stream::new(io, BytesMut::from(&*arrived), established)),
        Err(error) => Err(Failed { error, io }),
    }
}

fn established<M: Machine>(machine: M) -> io::Result<Established> {
    let common = machine.common();
    if common.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(PeerError::Incompatible("the peer does not speak TLS 1.3".to_owned()).into());
    }
    let suite = common.negotiated_cipher_suite().ok_or_else(|| tls(Error::HandshakeNotComplete))?;
    let limit = suite.tls13().map_or(0, |suite| suite.common.confidentiality_limit);
    let about = About {
        peer: peer_identity(common),
        presented: Presented::by(common),
        alpn: common.alpn_protocol().map(Into::into),
        suite: suite.suite(),
    };
    let (ExtractedSecrets { tx, rx }, schedule) = machine.into_keys().map_err(tls)?;
    let (tx, rx) = (Key::new(tx.0, &tx.1).map_err(tls)?, Key::new(rx.0, &rx.1).map_err(tls)?);
    Ok(Established { tx, rx, schedule, limit, is_client: M::IS_CLIENT, about })
}

/// Both sides of the handshake in rustls.
trait Machine {
    type Data;
    const IS_CLIENT: bool;
    fn process<'c, 'i>(&'c mut self, arrived: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn into_keys(self) -> Result<(ExtractedSecrets, Box<dyn Schedule>), Error>;
}

impl Machine for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const IS_CLIENT: bool = true;

    fn process<'c, 'i>(&'c mut self, arrived: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(arrived)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Box<dyn Schedule>), Error> {
        let (secrets, connection) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(connection)))
    }
}

impl Machine for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const IS_CLIENT: bool = false;

    fn process<'c, 'i>(&'c mut self, arrived: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(arrived)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Box<dyn Schedule>), Error> {
        let (secrets, connection) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(connection)))
    }
}

/// What the handshake wants next.
enum Want {
    /// To be called again.
    Turn,
    /// What it has made to be sent.
    Send,
    /// More bytes.
    Bytes,
    /// Nothing: the peer has closed.
    Nothing,
}

/// Goes on until the handshake is done, and all of it is sent. Bytes after it stay in `arrived`. When it fails, sends the alert.
async fn drive<T, M>(io: &mut T, machine: &mut M, arrived: &mut BytesMut) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
    M: Machine,
{
    let mut out = Vec::new();
    // How much of `arrived` rustls gets to see. One record more each time: what comes after the handshake is ours to open.
    let mut shown = 0;
    loop {
        let status = machine.process(arrived.get_mut(..shown).unwrap_or_default());
        let discard = status.discard;
        let want = status.state.and_then(|state| step(state, &mut out));
        arrived.advance(discard.min(arrived.len()));
        shown = shown.saturating_sub(discard);
        match want {
            Ok(Want::Turn) => {}
            Ok(Want::Send) => {
                io.write_all(&out).await?;
                io.flush().await?;
                out = Vec::new();
            }
            Ok(Want::Bytes) if !machine.common().is_handshaking() => return Ok(()),
            Ok(Want::Bytes) => shown = one_more_record(io, arrived, shown).await?,
            Ok(Want::Nothing) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => {
                say_why(io, machine, arrived, shown, out).await;
                return Err(tls(error));
            }
        }
    }
}

fn step<Data>(state: ConnectionState<'_, '_, Data>, out: &mut Vec<u8>) -> Result<Want, Error> {
    match state {
        ConnectionState::EncodeTlsData(data) => encode(data, out).map(|()| Want::Turn),
        ConnectionState::TransmitTlsData(sent) => {
            sent.done();
            Ok(Want::Send)
        }
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => Ok(Want::Bytes),
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Want::Nothing),
        // Neither early data nor records after the handshake are shown to rustls.
        _ => Err(Error::General("data during the TLS handshake".to_owned())),
    }
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, out: &mut Vec<u8>) -> Result<(), Error> {
    let failed = || Error::General("a handshake message could not be encoded".to_owned());
    let Err(EncodeError::InsufficientSize(short)) = data.encode(&mut []) else { return Err(failed()) };
    let start = out.len();
    out.resize(start + short.required_size, 0);
    let room = out.get_mut(start..).unwrap_or_default();
    data.encode(room).map(|_| ()).map_err(|_| failed())
}

/// Waits until a whole record follows the bytes that are shown, and returns how much to show with it.
async fn one_more_record<T: AsyncRead + Unpin>(io: &mut T, arrived: &mut BytesMut, shown: usize) -> io::Result<usize> {
    loop {
        let fresh = arrived.get(shown..).unwrap_or_default();
        if let [kind, _, _, high, low, ..] = *fresh {
            let length = usize::from(u16::from_be_bytes([high, low]));
            // Not a record (RFC 8446, section 5.1; 24 is RFC 6520): rustls is to say what is wrong.
            if !(20..=24).contains(&kind) || length > LONGEST_RECORD {
                return Ok(arrived.len());
            }
            if fresh.len() >= HEAD + length {
                return Ok(shown + HEAD + length);
            }
        }
        if arrived.len() >= MOST_BUFFERED {
            return Err(tls(InvalidMessage::HandshakePayloadTooLarge.into()));
        }
        arrived.reserve(LEAST_READ);
        if io.read_buf(arrived).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Sends what rustls has to say to the peer about a failure, as far as that works.
async fn say_why<T, M>(io: &mut T, machine: &mut M, arrived: &mut BytesMut, shown: usize, mut out: Vec<u8>)
where
    T: AsyncWrite + Unpin,
    M: Machine,
{
    while machine.common().wants_write() {
        let status = machine.process(arrived.get_mut(..shown).unwrap_or_default());
        // The alert comes before anything is read, so there is nothing to discard.
        let Ok(ConnectionState::EncodeTlsData(data)) = status.state else { break };
        if encode(data, &mut out).is_err() {
            break;
        }
    }
    if io.write_all(&out).await.is_ok() {
        let _unsent = io.flush().await;
    }
}

fn tls(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
