//! The server name with which a TLS client begins (RFC 8446, section 4.1.2; RFC 6066, section 3), read off the first bytes of a connection.

/// The longest ClientHello that is looked at, as with Envoy's inspector.
const LONGEST_HELLO: usize = 16 * 1024;
/// The most bytes of a connection that are looked at: such a ClientHello in more than one record.
pub const LONGEST: usize = LONGEST_HELLO + 1024;
/// The longest fragment of a record (RFC 8446, section 5.1).
const LONGEST_FRAGMENT: usize = 1 << 14;
/// Type of records that carry a handshake.
const HANDSHAKE: u8 = 22;
/// Type of the first message of a handshake.
const CLIENT_HELLO: u8 = 1;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// As far as they go they may be a ClientHello; it takes at least so many bytes in all to tell more.
    More(usize),
    /// A ClientHello, with the name of the server in small letters, if it says one.
    Of(Option<String>),
    /// Something else, or a ClientHello that is not as it should be.
    Other,
}

/// Looks at the first bytes of a connection.
#[must_use]
pub fn client_hello(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let read = bytes.len() - rest.len();
        let fragment = match record(rest) {
            Record::Fragment(fragment, after) => {
                rest = after;
                fragment
            }
            Record::More(missing) if read + missing > LONGEST => return Hello::Other,
            Record::More(missing) => return Hello::More(read + missing),
            Record::Other => return Hello::Other,
        };
        message.extend_from_slice(fragment);
        match body(&message) {
            Body::Whole(body) => return hello(body).map_or(Hello::Other, Hello::Of),
            Body::More => {}
            Body::Other => return Hello::Other,
        }
    }
}

enum Record<'a> {
    /// The fragment of a whole record, and what is behind it.
    Fragment(&'a [u8], &'a [u8]),
    /// At least so many bytes are wanted.
    More(usize),
    Other,
}

fn record(bytes: &[u8]) -> Record<'_> {
    if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) || bytes.get(1).is_some_and(|major| *major != 3) {
        return Record::Other;
    }
    let Some((head, rest)) = bytes.split_first_chunk::<5>() else { return Record::More(5) };
    let [_, _, _, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length == 0 || length > LONGEST_FRAGMENT {
        return Record::Other;
    }
    rest.split_at_checked(length).map_or(Record::More(5 + length), |(fragment, rest)| Record::Fragment(fragment, rest))
}

enum Body<'a> {
    Whole(&'a [u8]),
    More,
    Other,
}

/// The body of a message of the handshake, if it is a ClientHello.
fn body(message: &[u8]) -> Body<'_> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Body::Other;
    }
    let Some((head, rest)) = message.split_first_chunk::<4>() else { return Body::More };
    let [_, high, middle, low] = *head;
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if length > LONGEST_HELLO {
        return Body::Other;
    }
    rest.get(..length).map_or(Body::More, Body::Whole)
}

/// The server name in a ClientHello; the outer `None` if it is malformed.
fn hello(body: &[u8]) -> Option<Option<String>> {
    let mut body = Reader(body);
    body.take(2 + 32)?;
    let session = body.vector8()?;
    let ciphers = body.vector16()?;
    let compressions = body.vector8()?;
    if session.len() > 32 || ciphers.is_empty() || !ciphers.len().is_multiple_of(2) || compressions.is_empty() {
        return None;
    }
    if body.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Reader(body.vector16()?);
    if !body.0.is_empty() {
        return None;
    }
    let mut name = None;
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.number16()?, extensions.vector16()?);
        // Twice the same is not allowed (RFC 8446, section 4.2), and who takes which would be anybody's guess.
        if kind == 0 && name.replace(server_name(content)?).is_some() {
            return None;
        }
    }
    Some(name)
}

/// The one name in the extension, which must be of type `host_name`.
fn server_name(extension: &[u8]) -> Option<String> {
    let mut extension = Reader(extension);
    let mut list = Reader(extension.vector16()?);
    let (kind, name) = (list.take(1)?, list.vector16()?);
    let whole = extension.0.is_empty() && list.0.is_empty() && kind == [0];
    let written = (1..=255).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
    (whole && written).then(|| name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    /// What a length of one byte says.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first()?;
        self.0 = rest;
        self.take(usize::from(*length))
    }

    /// What a length of two bytes says.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
pub(crate) mod tests;
