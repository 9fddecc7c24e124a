//! What a policy says that this version does not know: fields of a later version, which reading into a message leaves out without a word.
//! A condition that is left out makes a match wider than it was written.

/// What is not known of a policy.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unknown {
    /// Something outside of the matches.
    pub(super) around: bool,
    /// For each match in the order of the bytes, whether it asks for something more.
    pub(super) matches: Vec<bool>,
}

/// A message of the contract: its fields that are known, and the messages in them.
enum Message {
    Authorization,
    Group,
    Rules,
    Match,
    /// Has these fields, and no message that could say more.
    Leaf(u64),
}

/// Reads the bytes of an `istio.security.Authorization`. Nothing when they are no message.
pub(super) fn unknown(bytes: &[u8]) -> Option<Unknown> {
    let mut unknown = Unknown::default();
    walk(bytes, &Message::Authorization, &mut unknown)?;
    Some(unknown)
}

/// The scope that the bytes say, even if what else they say cannot be read. Nothing when they are no message.
pub(super) fn scope(bytes: &[u8]) -> Option<i32> {
    let mut scope = 0;
    each_field(bytes, |number, value| {
        if let (3, Value::Number(value)) = (number, value) {
            scope = i32::try_from(value).unwrap_or(-1);
        }
        Some(())
    })?;
    Some(scope)
}

fn walk(bytes: &[u8], message: &Message, unknown: &mut Unknown) -> Option<()> {
    each_field(bytes, |number, value| {
        let inside = match (message, number) {
            (Message::Authorization, 5) => Message::Group,
            (Message::Group, 1) => Message::Rules,
            (Message::Rules, 2) => Message::Match,
            (Message::Match, 1..=4) => Message::Leaf(4),
            (Message::Match, 5..=8 | 11..=12) => Message::Leaf(2),
            // Extensions are known to be there; what they ask is not.
            (Message::Authorization, 1..=4 | 6) | (Message::Match, 9..=10) => return Some(()),
            (Message::Leaf(most), number) if number <= *most => return Some(()),
            (Message::Match | Message::Leaf(_), _) => {
                if let Some(last) = unknown.matches.last_mut() {
                    *last = true;
                }
                return Some(());
            }
            (Message::Authorization | Message::Group | Message::Rules, _) => {
                unknown.around = true;
                return Some(());
            }
        };
        let Value::Bytes(bytes) = value else { return None };
        if matches!(inside, Message::Match) {
            unknown.matches.push(false);
        }
        walk(bytes, &inside, unknown)
    })
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Calls `visit` with each field; nothing when the bytes are no message (Protocol Buffers, "Encoding"), or `visit` says so.
fn each_field<'a>(mut bytes: &'a [u8], mut visit: impl FnMut(u64, Value<'a>) -> Option<()>) -> Option<()> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => skip(&mut bytes, 8).map(|_| Value::Fixed)?,
            2 => {
                let length = varint(&mut bytes)?;
                Value::Bytes(skip(&mut bytes, usize::try_from(length).ok()?)?)
            }
            5 => skip(&mut bytes, 4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        visit(key >> 3, value)?;
    }
    Some(())
}

fn skip<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
