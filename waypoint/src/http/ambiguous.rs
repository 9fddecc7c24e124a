//! Whether what a client sends over HTTP/1.1 can be read in one way only: where each request begins and ends.
//!
//! hyper reads requests, and has the last word. But of a request with two lengths it leaves one out before anybody sees it, and it takes the end
//! of a line without CR; who reads the same bytes in front of the waypoint, or behind it, might take them for other requests (RFC 9112, sections
//! 2.2, 6.1 and 11.2). So they are looked at on their way to hyper, and what is taken here is a part of what hyper takes: only where both find the
//! same ends does anything get through. Envoy refuses the same, but for the ends of lines.

use std::mem::replace;

/// As much of a line as it takes to tell what it says of a body: the name, the longest number, and room for spaces and zeros before it. A line
/// that says the length of a body and is longer is refused.
const LONGEST: usize = 96;

/// Follows the requests of a connection, however they are cut into reads.
#[derive(Debug, Default)]
pub struct Framing {
    at: At,
    head: Head,
    line: Line,
}

/// What comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The first line of a request, or an empty one before it (RFC 9112, section 2.2).
    #[default]
    Before,
    /// A field of its head, or the end of it.
    Head,
    /// So many bytes of its body.
    Body(u64),
    /// The line that says how long a chunk is.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of a line after them.
    ChunkEnd,
    /// A field after the last chunk, or the end of the body.
    Trailers,
}

/// What must not be read on.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// How many bytes may be before it.
    pub good: usize,
    /// It is in a body, whose head has passed.
    pub in_body: bool,
}

impl Framing {
    /// Looks at what comes next.
    ///
    /// # Errors
    /// With the first line that could be read in two ways. Nothing can be said of what follows.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let Self { at, head, line } = self;
        let mut rest = bytes;
        while !rest.is_empty() {
            if let At::Body(left) | At::Chunk(left) = *at {
                let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                rest = rest.get(count..).unwrap_or_default();
                *at = at.after(left - count as u64);
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', rest) else {
                line.keep(rest);
                return Ok(());
            };
            let (part, after) = rest.split_at(end);
            let next = line.ended(part).and_then(|text| head.next(*at, text));
            line.length = 0;
            let Some(next) = next else {
                return Err(Fault { good: bytes.len() - rest.len(), in_body: !matches!(*at, At::Before | At::Head) });
            };
            *at = next;
            rest = after.get(1..).unwrap_or_default();
        }
        Ok(())
    }

    /// Whether a request on the connection, whose head has ended, has asked for another protocol. What comes then may be bytes of that.
    pub fn may_switch(&self) -> bool {
        self.head.may_switch
    }
}

impl At {
    /// Where so much is left of a body or a chunk.
    fn after(self, left: u64) -> Self {
        match (self, left) {
            (Self::Body(_), 0) => Self::Before,
            (Self::Body(_), left) => Self::Body(left),
            (Self::Chunk(_), 0) => Self::ChunkEnd,
            (Self::Chunk(_), left) => Self::Chunk(left),
            (other, _) => other,
        }
    }
}

/// What a head has said so far.
#[derive(Debug, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    /// It asks for another protocol.
    switches: bool,
    /// It, or one before it that has ended, does.
    may_switch: bool,
}

impl Head {
    /// What comes after a line; nothing where it must not be.
    fn next(&mut self, at: At, line: &[u8]) -> Option<At> {
        match at {
            At::Before if line.is_empty() => Some(At::Before),
            At::Before => {
                *self = Self { may_switch: self.may_switch, ..Self::default() };
                Some(At::Head)
            }
            At::Head if line.is_empty() => {
                self.may_switch |= self.switches;
                Some(match (self.chunked, self.length) {
                    (true, _) => At::Size,
                    (false, Some(length @ 1..)) => At::Body(length),
                    (false, _) => At::Before,
                })
            }
            At::Head => self.field(line).then_some(At::Head),
            At::Size => Some(match size(line)? {
                0 => At::Trailers,
                size => At::Chunk(size),
            }),
            At::ChunkEnd => line.is_empty().then_some(At::Size),
            At::Trailers if line.is_empty() => Some(At::Before),
            At::Trailers => Some(At::Trailers),
            At::Body(_) | At::Chunk(_) => None,
        }
    }

    /// Whether a field may be there: a length is said once, and in one way.
    fn field(&mut self, line: &[u8]) -> bool {
        let is_whole = line.len() < LONGEST;
        if let Some(said) = value(line, "content-length") {
            let said = length(said);
            is_whole && said.is_some() && replace(&mut self.length, said).is_none() && !self.chunked
        } else if let Some(coding) = value(line, "transfer-encoding") {
            // Of others, before it or after it, the next one might know nothing, or the opposite.
            let is_known = coding.eq_ignore_ascii_case(b"chunked");
            is_whole && is_known && !replace(&mut self.chunked, true) && self.length.is_none()
        } else {
            self.switches |= value(line, "upgrade").is_some();
            true
        }
    }
}

/// The value of a field, if it is the one of this name.
fn value<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    let rest = rest.strip_prefix(b":")?;
    start.eq_ignore_ascii_case(name.as_bytes()).then(|| rest.trim_ascii())
}

/// A length (RFC 9110, section 8.6): digits, and nothing else.
fn length(said: &[u8]) -> Option<u64> {
    let digits = said.iter().all(u8::is_ascii_digit).then_some(said)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// How long a chunk is (RFC 9112, section 7.1). What an extension says is hyper's to judge.
fn size(line: &[u8]) -> Option<u64> {
    let (digits, rest) = line.split_at_checked(line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count())?;
    // Of a line that is longer than what is kept of it nobody knows where the digits end.
    let is_over = match rest.first() {
        None => line.len() < LONGEST,
        Some(byte) => matches!(byte, b' ' | b'\t' | b';'),
    };
    is_over.then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).flatten()
}

/// The line that has begun in what was read before.
#[derive(Debug)]
struct Line {
    /// Its beginning.
    kept: [u8; LONGEST],
    /// All of it, in bytes.
    length: usize,
    last: u8,
}

impl Default for Line {
    fn default() -> Self {
        Self { kept: [0; LONGEST], length: 0, last: 0 }
    }
}

impl Line {
    fn keep(&mut self, part: &[u8]) {
        for (kept, byte) in self.kept.iter_mut().skip(self.length).zip(part) {
            *kept = *byte;
        }
        self.length = self.length.saturating_add(part.len());
        self.last = part.last().copied().unwrap_or(self.last);
    }

    /// The beginning of the line that ends with this part of it; nothing where its end is not CRLF.
    fn ended<'a>(&'a mut self, part: &'a [u8]) -> Option<&'a [u8]> {
        let (text, length, last) = match self.length {
            0 => (part, part.len(), part.last().copied()),
            _ => {
                self.keep(part);
                (self.kept.as_slice(), self.length, Some(self.last))
            }
        };
        last.filter(|last| *last == b'\r').and_then(|_| text.get(..(length - 1).min(LONGEST)))
    }
}

#[cfg(test)]
mod beside_hyper;
#[cfg(test)]
mod tests;
