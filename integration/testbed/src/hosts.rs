//! The `/etc/hosts` of a place.

use std::fmt::Write;
use std::fs::OpenOptions;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// One line of a hosts file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEntry {
    /// The address.
    pub ip: IpAddr,
    /// Names that resolve to it.
    pub names: Vec<String>,
}

impl HostEntry {
    /// An entry.
    pub fn new<N: Into<String>>(ip: IpAddr, names: impl IntoIterator<Item = N>) -> Self {
        Self { ip, names: names.into_iter().map(Into::into).collect() }
    }
}

/// Text of a hosts file: loopback, the place itself, then the entries.
pub(crate) fn render(own_name: &str, own_ips: &[IpAddr], entries: &[HostEntry]) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    let own = own_ips.iter().map(|ip| HostEntry::new(*ip, [own_name]));
    for entry in own.chain(entries.iter().cloned()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {}", entry.ip, entry.names.join(" "));
    }
    text
}

/// Writes a file in place: it is bind-mounted, so a new file under the same name would not be seen. One that says the same already is left
/// as it is: programs read it again when it changes.
pub(crate) fn write_in_place(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(());
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}
