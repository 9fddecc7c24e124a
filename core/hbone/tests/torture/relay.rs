//! A TCP relay that mistreats what it carries: pieces of any size, one byte at a time, and cuts in the middle of whatever it is.

use std::{net::SocketAddr, time::Duration};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use crate::wire::{Wire, tcp};

/// How a relay treats each connection.
#[derive(Debug, Clone, Copy)]
pub struct Treatment {
    pub seed: u64,
    /// Largest piece passed on at once.
    pub piece: usize,
    /// One piece in so many is followed by a pause of some milliseconds.
    pub pauses: u32,
    /// The connection is cut once so many bytes have passed, at most; when exactly is drawn.
    pub cut: Option<usize>,
}

#[derive(Clone, Copy)]
enum Cut {
    End,
    Reset,
}

/// Relays connections to `target` until it is dropped.
pub struct Relay {
    pub address: SocketAddr,
    _accepts: AbortOnDropHandle<()>,
}

impl Relay {
    pub async fn start(wire: Wire, target: SocketAddr, treatment: Treatment) -> Self {
        let listener = wire.listen().await;
        let address = listener.local_addr().unwrap();
        let accepts = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let mut random = Rng::with_seed(treatment.seed);
            while let Ok((near, _)) = listener.accept().await {
                near.set_nodelay(true).unwrap();
                let far = tcp(target).await.unwrap();
                connections.spawn(relay(near, far, treatment, random.fork()));
            }
        });
        Self { address, _accepts: AbortOnDropHandle::new(accepts) }
    }
}

async fn relay(near: TcpStream, far: TcpStream, treatment: Treatment, mut random: Rng) {
    let budget = treatment.cut.map(|most| random.usize(..most));
    // Counted in one direction, so that the cut falls into the bytes of that one.
    let (there, back) = if random.bool() { (budget, None) } else { (None, budget) };
    let how = if random.bool() { Cut::End } else { Cut::Reset };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let there = carry(near_read, far_write, treatment, there, how, random.fork());
    let back = carry(far_read, near_write, treatment, back, how, random.fork());
    // An error is the cut, or an end that went away; all halves are dropped with it.
    let _ended = tokio::try_join!(there, back);
}

/// Carries one direction until its end.
///
/// # Errors
/// At the cut, or when an end has gone.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    treatment: Treatment,
    mut budget: Option<usize>,
    how: Cut,
    mut random: Rng,
) -> Result<(), ()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = from.read(&mut buffer).await.map_err(drop)?;
        if count == 0 {
            return to.shutdown().await.map_err(drop);
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let most = budget.unwrap_or(usize::MAX).min(rest.len());
            if most == 0 {
                cut(&from, &mut to, how).await;
                return Err(());
            }
            let size = random.usize(1..=treatment.piece).min(most);
            to.write_all(&rest[..size]).await.map_err(drop)?;
            rest = &rest[size..];
            budget = budget.map(|left| left - size);
            if random.u32(..treatment.pauses) == 0 {
                tokio::time::sleep(Duration::from_millis(random.u64(..3))).await;
            }
            // Whoever waits for this piece may see it alone.
            tokio::task::yield_now().await;
        }
    }
}

async fn cut(from: &OwnedReadHalf, to: &mut OwnedWriteHalf, how: Cut) {
    match how {
        // Whatever fails is cut already.
        Cut::End => drop(to.shutdown().await),
        Cut::Reset => {
            from.as_ref().set_zero_linger().unwrap();
            to.as_ref().set_zero_linger().unwrap();
        }
    }
}
