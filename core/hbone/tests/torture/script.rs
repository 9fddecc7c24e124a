//! What the two ends of a tunnel do, derived from a seed that both know.

use std::{fmt, str::FromStr};

use fastrand::Rng;

use crate::noise::{MOST, ORIGINS};

/// Which scripts are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Longest message.
    pub most: usize,
    /// Both ends send all and end in order.
    pub calm: bool,
    /// An end may close as a whole after its message. What the other still sends then is bounded, as the reset that it may meet takes
    /// what is under way with it.
    pub closes: bool,
    /// One end's message is as long as messages get, and one write.
    pub at_once: bool,
}

/// A script and how it was drawn; travels with the CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    pub seed: u64,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub struct Script {
    pub client: Half,
    pub server: Half,
}

/// One end.
#[derive(Debug, Clone)]
pub struct Half {
    pub origin: usize,
    pub length: usize,
    pub pieces: Pieces,
    pub reads: Reads,
    pub begins: Begins,
    pub ends: Ends,
    /// Uses the interface that passes buffers on, if there is one.
    pub by_chunks: bool,
}

/// Sizes of writes.
#[derive(Debug, Clone, Copy)]
pub enum Pieces {
    Bytes,
    UpTo(usize),
    Whole,
}

/// Sizes of reads.
#[derive(Debug, Clone, Copy)]
pub enum Reads {
    Bytes,
    UpTo(usize),
    /// With a rest after each.
    Slowly(usize),
}

#[derive(Debug, Clone, Copy)]
pub enum Begins {
    AtOnce,
    /// Once so many bytes of the other end have come.
    After(usize),
    /// Once the other end has ended its direction.
    AfterEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Ends its direction after its message, and reads to the end.
    InOrder,
    /// Ends its direction, and closes without reading on.
    Close,
    /// Cuts the tunnel after so many bytes.
    Reset(usize),
}

const SMALL: usize = 2000;
const CLOSE_REST: usize = 100_000;

impl Draw {
    pub fn script(self) -> Script {
        let mut random = Rng::with_seed(self.seed);
        let mut script = Script { client: Half::draw(&mut random, self.kind), server: Half::draw(&mut random, self.kind) };
        let Script { client, server } = &mut script;
        let (first, second) = if random.bool() { (client, server) } else { (server, client) };
        if self.kind.at_once {
            (first.length, first.pieces) = (self.kind.most, Pieces::Whole);
        }
        // One end at most waits for the other.
        second.begins = match random.u8(..4) {
            0 => Begins::AfterEnd,
            1 => Begins::After(random.usize(..=first.length)),
            _ => Begins::AtOnce,
        };
        if !self.kind.calm {
            match random.u8(..10) {
                0 | 1 => first.ends = Ends::Reset(random.usize(..=first.length)),
                2 => {
                    first.ends = Ends::Reset(random.usize(..=first.length));
                    second.ends = Ends::Reset(random.usize(..=second.length));
                }
                3 | 4 if self.kind.closes => {
                    first.ends = Ends::Close;
                    second.length = second.length.min(CLOSE_REST);
                }
                _ => {}
            }
        }
        script
    }
}

impl Half {
    fn draw(random: &mut Rng, kind: Kind) -> Self {
        let most = match random.u8(..20) {
            0 | 1 => 0,
            2..5 => 10,
            5..9 => SMALL,
            9..14 => kind.most / 50,
            14..19 => kind.most / 5,
            _ => kind.most,
        };
        let length = random.usize(..=most.min(kind.most));
        let pieces = match random.u8(..4) {
            0 if length <= SMALL => Pieces::Bytes,
            0 | 1 => Pieces::UpTo(random.usize(length / 500 + 1..=length / 3 + 1)),
            2 => Pieces::UpTo(length / 3 + 1),
            _ => Pieces::Whole,
        };
        let reads = match random.u8(..6) {
            0 if kind.most <= 10 * SMALL => Reads::Bytes,
            1 => Reads::Slowly(kind.most / 40 + 1),
            2 => Reads::UpTo(1 << 20),
            _ => Reads::UpTo(random.usize(1000..100_000)),
        };
        let (origin, by_chunks) = (random.usize(..ORIGINS), random.bool());
        Self { origin, length, pieces, reads, begins: Begins::AtOnce, ends: Ends::InOrder, by_chunks }
    }

    /// Bytes that this end sends at most.
    pub fn sends(&self) -> usize {
        match self.ends {
            Ends::Reset(after) => after,
            Ends::InOrder | Ends::Close => self.length,
        }
    }

    pub fn resets(&self) -> bool {
        matches!(self.ends, Ends::Reset(_))
    }

    /// Reads until the other end has ended.
    pub fn stays(&self) -> bool {
        self.ends == Ends::InOrder
    }
}

impl Kind {
    /// Everything, with messages of up to `most` bytes.
    pub fn wild(most: usize) -> Self {
        assert!(most <= MOST);
        Self { most, calm: false, closes: true, at_once: false }
    }

    /// No end cuts or leaves.
    pub fn calm(most: usize) -> Self {
        Self { calm: true, ..Self::wild(most) }
    }

    /// As `calm`, with a message of all these bytes in one write.
    pub fn at_once(most: usize) -> Self {
        Self { at_once: true, ..Self::calm(most) }
    }

    /// As `wild`, for ends that are sockets: one that closes with bytes unread resets.
    pub fn of_sockets(most: usize) -> Self {
        Self { closes: false, ..Self::wild(most) }
    }
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kind { most, calm, closes, at_once } = self.kind;
        write!(f, "{}-{most}-{calm}-{closes}-{at_once}", self.seed)
    }
}

impl FromStr for Draw {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("not a draw: {text}");
        let [seed, most, calm, closes, at_once] = *text.split('-').collect::<Vec<_>>() else { return Err(bad()) };
        let flag = |text: &str| text.parse().map_err(|_| bad());
        let most = most.parse::<usize>().map_err(|_| bad())?;
        let kind = Kind { most, calm: flag(calm)?, closes: flag(closes)?, at_once: flag(at_once)? };
        Ok(Self { seed: seed.parse().map_err(|_| bad())?, kind })
    }
}
