//! Reading the access logs of the proxies: what they saw is the truth about encryption, identities and refusals.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// One line of an access log, by field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLine {
    /// When it was written, RFC 3339.
    pub time: String,
    fields: BTreeMap<String, String>,
}

impl AccessLine {
    /// Whether this may be a line of an access log.
    pub fn is_one(line: &str) -> bool {
        line.split_once(' ').is_some_and(|(_, rest)| rest.starts_with("access "))
    }

    /// Reads one line; nothing if it is not one of an access log.
    pub fn parse(line: &str) -> Option<Self> {
        let (time, rest) = line.trim_end().split_once(' ')?;
        let mut rest = rest.strip_prefix("access ")?;
        let mut fields = BTreeMap::new();
        while let Some((name, value)) = rest.split_once('=') {
            let (value, left): (String, &str) = if let Some(quoted) = value.strip_prefix('"') {
                unquote(quoted)?
            } else {
                let (word, left) = value.split_once(' ').unwrap_or((value, ""));
                (word.to_owned(), left)
            };
            if value != "-" {
                fields.insert(name.to_owned(), value);
            }
            rest = left.trim_start();
        }
        Some(Self { time: time.to_owned(), fields })
    }

    /// A field by its name; nothing if it is absent or `-`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A numeric field.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.get(name)?.parse().ok()
    }

    /// The reason code, `ok` when fine.
    pub fn reason(&self) -> &str {
        self.get("reason").unwrap_or("ok")
    }

    /// Whether it ended well: our own proxies write `ok`, Envoy that the answer came from the upstream.
    pub fn is_fine(&self) -> bool {
        matches!(self.reason(), "ok" | "via_upstream")
    }

    /// Whether the mesh side was mutual TLS, or between two pods of one node and never on a wire.
    pub fn is_mutual_tls(&self) -> bool {
        matches!(self.get("security"), Some("mutual_tls" | "node_local"))
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(letters.next()?.1),
            letter => value.push(letter),
        }
    }
    None
}

/// Follows an access log as it grows.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    position: u64,
    partial: Vec<u8>,
}

impl Tail {
    /// Follows the file at `path` from its beginning; it need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, position: 0, partial: Vec::new() }
    }

    /// The whole lines written since the last call.
    pub fn read(&mut self) -> Vec<AccessLine> {
        let mut new = Vec::new();
        let Ok(mut file) = File::open(&self.path) else { return Vec::new() };
        if file.seek(SeekFrom::Start(self.position)).and_then(|_| file.read_to_end(&mut new)).is_err() {
            return Vec::new();
        }
        self.position += new.len() as u64;
        self.partial.append(&mut new);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        String::from_utf8_lossy(&whole).lines().filter_map(AccessLine::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LINE: &str = "2026-01-02T03:04:05.000001Z access direction=outbound src.addr=10.244.1.2:4 src.workload=web-1 \
                        dst.identity=- policy=data/who-may-store reason=policy_denied_explicit bytes_sent=0 duration_ms=1.500 \
                        security=mutual_tls error=\"a DENY policy said \\\"no\\\" to=it\" extra=x";

    #[test]
    fn a_line_is_read_back_field_by_field() {
        let line = AccessLine::parse(LINE).unwrap();
        assert_eq!(line.time, "2026-01-02T03:04:05.000001Z");
        assert_eq!(line.get("src.workload"), Some("web-1"));
        assert_eq!(line.get("dst.identity"), None);
        assert_eq!(line.reason(), "policy_denied_explicit");
        assert_eq!(line.get("error"), Some("a DENY policy said \"no\" to=it"));
        assert_eq!(line.get("extra"), Some("x"));
        assert_eq!(line.number("duration_ms"), Some(1.5));
        assert!(line.is_mutual_tls());
        assert_eq!(AccessLine::parse("2026-01-02T03:04:05Z INFO something=else"), None);
    }

    #[test]
    fn a_growing_file_gives_whole_lines_only() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut tail = Tail::new(file.path().to_owned());
        assert!(tail.read().is_empty());
        let (first, second) = LINE.split_at(60);
        file.write_all(first.as_bytes()).unwrap();
        assert!(tail.read().is_empty());
        writeln!(file, "{second}").unwrap();
        assert_eq!(tail.read(), [AccessLine::parse(LINE).unwrap()]);
        assert!(tail.read().is_empty());
    }
}
