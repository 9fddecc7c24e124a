//! Plays one end of a script, and judges what it met.

use std::{
    io,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::watch,
};

use crate::{
    noise::{difference, noise},
    pipe::Pipe,
    script::{Begins, Ends, Half, Pieces, Reads},
};

/// How long a script may take. Those that hang are found by this, and nothing is proved by it.
const LIMIT: Duration = Duration::from_secs(40);

/// Whether somebody else may cut the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// Only the two ends.
    Intact,
    /// Yes: then each end may meet an error at any time, but still no wrong byte and no false end.
    Cut,
}

/// How the other end's direction ended here.
#[derive(Debug)]
#[allow(dead_code, reason = "the error is told when something is wrong")]
enum Heard {
    End,
    Failed(io::Error),
    Wrong(String),
}

#[derive(Clone, Copy, Default)]
struct Seen {
    bytes: usize,
    ended: bool,
}

/// Plays `mine` over `pipe` against an end that plays `theirs`.
///
/// # Errors
/// What was wrong.
pub async fn talk<P: Pipe>(pipe: P, mine: &Half, theirs: &Half, law: Law) -> Result<(), String> {
    let (seen, said) = (watch::Sender::new(Seen::default()), AtomicUsize::new(0));
    let follow = seen.subscribe();
    let play = async {
        let (mut read, mut write) = tokio::io::split(pipe);
        let outcome = {
            let mut speaking = pin!(speak(&mut write, mine, seen.subscribe(), &said));
            let mut listening = pin!(listen(&mut read, mine.reads, theirs, seen));
            if mine.stays() {
                let (heard, spoken) = tokio::join!(listening, speaking);
                (Some(heard), spoken)
            } else {
                tokio::select! {
                    spoken = &mut speaking => (None, spoken),
                    heard = &mut listening => (Some(heard), speaking.await),
                }
            }
        };
        let pipe = read.unsplit(write);
        if mine.resets() {
            pipe.cut();
        }
        outcome
    };
    let played = tokio::time::timeout(LIMIT, play).await;
    let heard_bytes = follow.borrow().bytes;
    let state =
        || format!("heard {heard_bytes} of {}, said {} of {}", theirs.sends(), said.load(Ordering::Relaxed), mine.sends());
    match played {
        Err(_) => Err(format!("stuck: {}", state())),
        Ok((heard, spoken)) => judge::<P>(mine, theirs, law, heard.as_ref(), heard_bytes, &spoken)
            .map_err(|why| format!("{why}; {}, {heard:?}, {spoken:?}", state())),
    }
}

fn judge<P: Pipe>(
    mine: &Half,
    theirs: &Half,
    law: Law,
    heard: Option<&Heard>,
    bytes: usize,
    spoken: &io::Result<()>,
) -> Result<(), String> {
    let failed = match heard {
        Some(Heard::Wrong(what)) => return Err(what.clone()),
        Some(Heard::Failed(_)) => true,
        // A socket tells of its reset once, to the writer if that is the first to ask.
        Some(Heard::End) if P::TELLS_ONCE && spoken.is_err() => true,
        _ => false,
    };
    let ended = matches!(heard, Some(Heard::End)) && !failed;
    if ended && (theirs.resets() || bytes != theirs.length) {
        return Err("an end that the other end did not make".to_owned());
    }
    if law == Law::Cut || mine.resets() {
        return Ok(());
    }
    if theirs.resets() {
        return if mine.stays() && !failed { Err("the other end's reset was not seen".to_owned()) } else { Ok(()) };
    }
    if mine.stays() && !ended {
        return Err("the other end's message did not come whole".to_owned());
    }
    if theirs.stays() && spoken.is_err() {
        return Err("the message could not be sent".to_owned());
    }
    Ok(())
}

async fn speak<P: Pipe>(
    write: &mut WriteHalf<P>,
    mine: &Half,
    mut seen: watch::Receiver<Seen>,
    said: &AtomicUsize,
) -> io::Result<()> {
    let begun = seen.wait_for(|seen| match mine.begins {
        Begins::AtOnce => true,
        Begins::After(bytes) => seen.bytes >= bytes,
        Begins::AfterEnd => seen.ended,
    });
    begun.await.map_err(|_| io::Error::other("the other end failed before this one began"))?;
    drop(seen);
    let message = noise(mine.origin, mine.sends());
    let mut random = Rng::with_seed(mine.origin as u64);
    let mut rest = message;
    while !rest.is_empty() {
        let size = match mine.pieces {
            Pieces::Bytes => 1,
            Pieces::UpTo(most) => random.usize(1..=most),
            Pieces::Whole => rest.len(),
        };
        let (piece, after) = rest.split_at(size.min(rest.len()));
        write.write_all(piece).await?;
        rest = after;
        said.store(message.len() - rest.len(), Ordering::Relaxed);
        if random.u8(..8) == 0 {
            tokio::task::yield_now().await;
        }
    }
    match mine.ends {
        Ends::Reset(_) => Ok(()),
        Ends::InOrder | Ends::Close => write.shutdown().await,
    }
}

async fn listen<P: Pipe>(read: &mut ReadHalf<P>, reads: Reads, theirs: &Half, seen: watch::Sender<Seen>) -> Heard {
    let mut random = Rng::with_seed(theirs.origin as u64);
    let (most, rests) = match reads {
        Reads::Bytes => (1, false),
        Reads::UpTo(most) => (most, false),
        Reads::Slowly(most) => (most, true),
    };
    let mut buffer = vec![0; most];
    let mut bytes = 0;
    loop {
        let room = random.usize(1..=most);
        let count = match read.read(&mut buffer[..room]).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Heard::Failed(error),
        };
        if let Some(at) = difference(theirs.origin, bytes, &buffer[..count]) {
            return Heard::Wrong(format!("byte {at} is not what was sent"));
        }
        bytes += count;
        if bytes > theirs.sends() {
            return Heard::Wrong("more bytes came than were sent".to_owned());
        }
        seen.send_replace(Seen { bytes, ended: false });
        if rests && random.u8(..4) == 0 {
            tokio::time::sleep(Duration::from_millis(random.u64(..4))).await;
        }
    }
    seen.send_replace(Seen { bytes, ended: true });
    Heard::End
}
