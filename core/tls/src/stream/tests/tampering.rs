//! Handshakes on a wire that somebody cuts, changes or floods.

use std::{io, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::peers::{Configs, LIMIT, Rustls, SUITES, configs};
use crate::{PeerError, handshake};

/// A transport whose bytes towards `ours` pass `change`, over which a handshake and one exchange are tried.
async fn tampered(
    configs: &Configs,
    is_client: bool,
    limit: Duration,
    change: impl Fn(usize, &mut Vec<u8>) -> bool,
) -> io::Result<()> {
    let (near, middle) = duplex(1 << 16);
    let (middle_far, far) = duplex(1 << 16);
    let (mut to_far_read, mut to_near_write) = tokio::io::split(middle);
    let (mut to_near_read, mut to_far_write) = tokio::io::split(middle_far);
    let honest = async {
        let _ended = tokio::io::copy(&mut to_far_read, &mut to_far_write).await;
        let _closed = to_far_write.shutdown().await;
    };
    let lying = async {
        let mut seen = 0;
        let mut buffer = vec![0; 1 << 14];
        while let Ok(count @ 1..) = to_near_read.read(&mut buffer).await {
            let mut part = buffer[..count].to_vec();
            let go_on = change(seen, &mut part);
            seen += count;
            if to_near_write.write_all(&part).await.is_err() || !go_on {
                break;
            }
        }
        let _closed = to_near_write.shutdown().await;
    };
    let ours = async {
        let mut stream = if is_client {
            handshake::connect(near, Arc::clone(&configs.client), limit).await?
        } else {
            handshake::accept(near, Arc::clone(&configs.server), limit).await?.0
        };
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        match tokio::time::timeout(limit, stream.read_exact(&mut answer)).await {
            Err(_) => return Err(PeerError::TimedOut.into()),
            Ok(read) => read?,
        };
        assert_eq!(&answer, b"pong");
        Ok(())
    };
    let theirs = async {
        let mut stream: Rustls<_> = if is_client {
            tokio_rustls::TlsAcceptor::from(Arc::clone(&configs.peer_server)).accept(far).await?.into()
        } else {
            let name = ServerName::try_from("a").unwrap();
            tokio_rustls::TlsConnector::from(Arc::clone(&configs.peer_client)).connect(name, far).await?.into()
        };
        stream.write_all(b"pong").await?;
        stream.read_u32().await?;
        io::Result::Ok(())
    };
    let all = async { tokio::join!(ours, theirs, honest, lying).0 };
    tokio::time::timeout(LIMIT, all).await.expect("nobody gives up")
}

#[tokio::test]
async fn a_handshake_that_is_cut_anywhere_ends_with_a_reason() {
    let configs = configs(SUITES[0]);
    for is_client in [true, false] {
        let mut cut = 0;
        loop {
            let result = tampered(&configs, is_client, LIMIT, |seen, part| {
                let whole = part.len();
                part.truncate(cut - seen.min(cut));
                part.len() == whole
            });
            match result.await {
                Ok(()) => break,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}: {error}"),
            }
            cut += if cut < 300 { 7 } else { 61 };
        }
        assert!(cut > 700, "{cut}");
    }
}

#[tokio::test]
async fn a_handshake_with_changed_bytes_never_succeeds_and_never_panics() {
    let configs = configs(SUITES[1]);
    let mut random = fastrand::Rng::with_seed(99);
    for turn in 0..400 {
        let (at, mask) = (random.usize(..900), 1 << random.u8(..8));
        let outcome = tampered(&configs, turn % 2 == 0, Duration::from_millis(50), |seen, part| {
            if let Some(byte) = at.checked_sub(seen).and_then(|at| part.get_mut(at)) {
                *byte ^= mask;
            }
            true
        });
        // The version fields of records are not looked at, so a change there is no change.
        if let Err(error) = outcome.await {
            assert!(
                PeerError::from_io(&error).is_some() || error.kind() == io::ErrorKind::UnexpectedEof,
                "byte {at}, mask {mask}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn a_peer_that_floods_the_handshake_is_bounded() {
    let configs = configs(SUITES[0]);
    let (mut near, far) = duplex(1 << 16);
    let accept = handshake::accept(far, Arc::clone(&configs.server), LIMIT);
    // A ClientHello of 64 KB, one byte in each record.
    let flood = async {
        let mut sent = 0_u64;
        let mut next = [22, 3, 1, 0, 1, 1];
        while near.write_all(&next).await.is_ok() {
            sent += 6;
            next = if sent <= 18 { [22, 3, 1, 0, 1, if sent == 12 { 0xff } else { 0 }] } else { [22, 3, 1, 0, 1, 7] };
            if sent > 1 << 20 {
                break;
            }
        }
        sent
    };
    let (accepted, sent) = tokio::join!(accept, flood);
    assert!(matches!(PeerError::from_io(&accepted.unwrap_err()), Some(PeerError::NotTls(_))));
    assert!(sent <= 2 << 20, "{sent}");
}
