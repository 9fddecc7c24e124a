//! The node's resolvers: what `/etc/resolv.conf` names, read again when it changes, or what a flag says.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// The port of resolvers that say none.
const PORT: u16 = 53;
/// As many are used as the C library uses (`MAXNS` of resolv.conf(5)).
const MOST: usize = 3;
/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(5);
/// What is read of the file.
const LONGEST: u64 = 64 << 10;

/// A resolver: `IP`, `IP:port` or `[IPv6]:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolver(pub SocketAddr);

impl std::str::FromStr for Resolver {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let with_port = text.parse().ok();
        let address = with_port.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT)));
        address.map(Self).ok_or_else(|| format!("{text:?} is neither an IP address nor one with a port"))
    }
}

/// Where resolvers are known from.
#[derive(Debug)]
pub(super) struct Resolvers {
    known: Mutex<Known>,
    file: Option<PathBuf>,
    /// The place of the one that answered last: the next question goes there first.
    good: AtomicUsize,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    changed: Option<SystemTime>,
    looked: Option<Instant>,
}

impl Resolvers {
    /// Those of `fixed`, else those that `file` names.
    pub(super) fn new(fixed: &[Resolver], file: PathBuf) -> Self {
        let addresses: Vec<SocketAddr> = fixed.iter().map(|resolver| resolver.0).collect();
        let file = addresses.is_empty().then_some(file);
        Self { known: Mutex::new(Known { addresses, changed: None, looked: None }), file, good: AtomicUsize::new(0) }
    }

    /// The resolvers, each with its place, in the order to ask them.
    pub(super) fn in_order(&self) -> Vec<(usize, SocketAddr)> {
        let mut all: Vec<(usize, SocketAddr)> = self.addresses().into_iter().enumerate().collect();
        if !all.is_empty() {
            let first = self.good.load(Ordering::Relaxed) % all.len();
            all.rotate_left(first);
        }
        all
    }

    /// Notes that this one answered.
    pub(super) fn answered(&self, place: usize) {
        self.good.store(place, Ordering::Relaxed);
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file
            && known.looked.is_none_or(|at| at.elapsed() >= LOOK)
        {
            known.looked = Some(Instant::now());
            let changed = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
            if changed != known.changed || changed.is_none() {
                match std::fs::File::open(file).and_then(|file| std::io::read_to_string(file.take(LONGEST))) {
                    Ok(text) => {
                        known.addresses = nameservers(&text);
                        known.changed = changed;
                        tracing::info!(resolvers = ?known.addresses, "DNS queries of other names are forwarded");
                    }
                    // Those that were known go on being used.
                    Err(error) => tracing::warn!(%error, file = %file.display(), "the resolvers of the node are not known"),
                }
            }
        }
        known.addresses.clone()
    }
}

/// The name servers of a resolv.conf. An address with a zone is left out: the zone is of another namespace than the pod's.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        address.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip.to_canonical(), PORT))
    };
    text.lines().filter_map(address).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_servers_of_a_file_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nsearch a.b\n\tnameserver  10.0.0.1 \nnameserver fd00::1 # here\n\
                    nameserver fe80::1%eth0\nnameserver what\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver10.0.0.4\n";
        let expected: Vec<SocketAddr> =
            ["10.0.0.1:53", "[fd00::1]:53", "10.0.0.2:53"].map(|address| address.parse().unwrap()).to_vec();
        assert_eq!(nameservers(text), expected);
        assert!(nameservers("").is_empty());
    }

    #[test]
    fn a_resolver_may_have_a_port() {
        let read = |text: &str| text.parse::<Resolver>().map(|resolver| resolver.0.to_string());
        assert_eq!(read("10.0.0.1").as_deref(), Ok("10.0.0.1:53"));
        assert_eq!(read("fd00::1").as_deref(), Ok("[fd00::1]:53"));
        assert_eq!(read("[fd00::1]:5353").as_deref(), Ok("[fd00::1]:5353"));
        assert!(read("localhost").is_err());
    }

    #[test]
    fn the_resolver_that_answered_last_is_asked_first() {
        let resolvers = Resolvers::new(&["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap()), "/nowhere".into());
        let places = || resolvers.in_order().iter().map(|(place, _)| *place).collect::<Vec<_>>();
        assert_eq!(places(), [0, 1]);
        resolvers.answered(1);
        assert_eq!(places(), [1, 0]);
        assert!(Resolvers::new(&[], "/nowhere".into()).in_order().is_empty());
    }
}
