//! What host names of endpoints stand for: asked when a connection needs it and kept for as long as the answer holds; when nobody answers any
//! more, a while longer. A bounded number of names, and of lookups at once.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ambit_model::plan::Name;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::dns;

/// How long an answer holds for which no time is given.
const TTL: Duration = Duration::from_secs(30);
/// However short or long an answer is to hold, it is asked again no sooner and no later.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);
/// How long the last answer is used beyond its time while there is no newer one (RFC 8767 allows it).
const STALE: Duration = Duration::from_secs(600);
/// How long it is not asked again for what could not be answered.
const FAILED: Duration = Duration::from_secs(5);
/// How long a lookup may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Names that are kept; the one that was asked for least recently goes first.
const MOST: usize = 1024;
/// Lookups at once.
const AT_ONCE: usize = 16;
/// Addresses of one name that are used.
const ADDRESSES: usize = 64;

/// What asks for names when the DNS does not know them. It runs on a thread of its own and may block.
pub trait Lookup: Send + Sync {
    /// Looks up the addresses of `hostname`; none is a failure. It does not tell how long they hold.
    ///
    /// # Errors
    /// When there is no answer.
    fn lookup(&self, hostname: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the node's system, with its hosts file and search domains.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Lookup for System {
    fn lookup(&self, hostname: &str) -> io::Result<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        for found in (hostname, 0).to_socket_addrs()? {
            let ip = found.ip().to_canonical();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        Ok(addresses)
    }
}

/// The names that were asked for. Clones share them.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    /// Asked first, for it tells how long answers hold.
    dns: Option<dns::Lookup>,
    lookup: Box<dyn Lookup>,
    known: Mutex<HashMap<Arc<str>, Known>>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Known {
    /// The last good answer, when it came, and how long it holds.
    answer: Option<(Arc<[IpAddr]>, Instant, Duration)>,
    /// When it was asked for in vain since then.
    failed: Option<Instant>,
    /// Tells when the lookup that is under way ends.
    asking: Option<watch::Receiver<()>>,
    used: Instant,
}

impl Known {
    fn name(&self, now: Instant) -> Name {
        // Once it was asked for in vain, nobody waits for it again while there is an answer to go by.
        let longer = if self.failed.is_some() { STALE } else { Duration::ZERO };
        match &self.answer {
            Some((addresses, at, ttl)) if now.saturating_duration_since(*at) < *ttl + longer => {
                Name::Addresses(Arc::clone(addresses))
            }
            _ if self.is_in_vain(now) => Name::Failed,
            _ => Name::Unknown,
        }
    }

    /// Whether it was asked for without an answer, so lately that the same would come of it again.
    fn is_in_vain(&self, now: Instant) -> bool {
        self.failed.is_some_and(|at| now.saturating_duration_since(at) < FAILED)
    }

    /// Whether it is time to ask again: a little before the answer holds no longer, so that nobody waits for a name that is in use.
    fn is_due(&self, now: Instant) -> bool {
        let holds = self.answer.as_ref().is_some_and(|(_, at, ttl)| now.saturating_duration_since(*at) < *ttl * 3 / 4);
        !holds && !self.is_in_vain(now)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("known", &self.known().len()).finish_non_exhaustive()
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new(System)
    }
}

impl Names {
    /// Names that are asked of `lookup`.
    #[must_use]
    pub fn new(lookup: impl Lookup + 'static) -> Self {
        Self::with(None, lookup)
    }

    /// Names that are asked of `dns`, and of the system when it does not know them.
    #[must_use]
    pub fn of_node(dns: dns::Lookup) -> Self {
        Self::with(Some(dns), System)
    }

    fn with(dns: Option<dns::Lookup>, lookup: impl Lookup + 'static) -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Self(Arc::new(Shared { dns, lookup: Box::new(lookup), known: Mutex::default(), places }))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of `hostname`.
    #[must_use]
    pub fn get(&self, hostname: &str, now: Instant) -> Name {
        self.known().get(hostname).map_or(Name::Unknown, |known| known.name(now))
    }

    /// Waits until something is known of `hostname`: its addresses, or that there is no answer.
    pub async fn resolve(&self, hostname: &Arc<str>) {
        if let Some(mut asking) = self.ask(hostname, Instant::now()) {
            // An error means that the lookup ended, too.
            let _ended = asking.changed().await;
        }
    }

    /// Asks again, if it is time, while what is known is used. For names that a connection goes to.
    pub fn refresh(&self, hostname: &Arc<str>) {
        let _goes_on_by_itself = self.ask(hostname, Instant::now());
    }

    /// The lookup that is under way, begun now if it is time; nothing when what is known holds.
    fn ask(&self, hostname: &Arc<str>, now: Instant) -> Option<watch::Receiver<()>> {
        let mut all = self.known();
        if !all.contains_key(hostname) {
            make_room(&mut all);
            all.insert(Arc::clone(hostname), Known { answer: None, failed: None, asking: None, used: now });
        }
        let known = all.get_mut(hostname)?;
        known.used = now;
        // One whose lookup ended without a word (its worker is gone) is asked for again.
        if let Some(asking) = known.asking.as_ref().filter(|asking| asking.has_changed().is_ok()) {
            return Some(asking.clone());
        }
        if !known.is_due(now) {
            return None;
        }
        let (done, asking) = watch::channel(());
        known.asking = Some(asking.clone());
        drop(all);
        tokio::spawn(self.clone().look_up(Arc::clone(hostname), done));
        Some(asking)
    }

    async fn look_up(self, hostname: Arc<str>, done: watch::Sender<()>) {
        let answer = match tokio::time::timeout(LIMIT, self.answer(&hostname)).await {
            Ok(Ok((addresses, _))) if addresses.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "no address")),
            Ok(answer) => answer,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {LIMIT:?}"))),
        };
        let now = Instant::now();
        if let Some(known) = self.known().get_mut(&hostname) {
            known.asking = None;
            match answer {
                Ok((addresses, ttl)) => {
                    known.answer = Some((addresses.into(), now, ttl.clamp(SHORTEST, LONGEST)));
                    known.failed = None;
                }
                Err(error) => {
                    tracing::info!(%hostname, %error, "a host name does not resolve");
                    known.failed = Some(now);
                }
            }
        }
        drop(done);
    }

    /// The addresses that can be used, and how long they hold.
    async fn answer(&self, hostname: &Arc<str>) -> io::Result<(Vec<IpAddr>, Duration)> {
        let place = Arc::clone(&self.0.places).acquire_owned().await.map_err(io::Error::other)?;
        let usable = |mut addresses: Vec<IpAddr>| {
            addresses.retain(is_of_one);
            addresses.truncate(ADDRESSES);
            addresses
        };
        if let Some(dns) = &self.0.dns
            && let Some((addresses, ttl)) = dns.addresses(hostname).await
        {
            return Ok((usable(addresses), ttl));
        }
        Ok((usable(self.on_a_thread(hostname, place).await?), TTL))
    }

    /// On a thread, not a task that blocks: nobody waits for one that hangs when the program ends. Its place is free when it ends.
    async fn on_a_thread(&self, hostname: &Arc<str>, place: OwnedSemaphorePermit) -> io::Result<Vec<IpAddr>> {
        let (tell, told) = oneshot::channel();
        let (names, hostname) = (Arc::clone(&self.0), Arc::clone(hostname));
        std::thread::Builder::new().name("lookup".to_owned()).spawn(move || {
            let _place = place;
            let _nobody_waits = tell.send(names.lookup.lookup(&hostname));
        })?;
        told.await.map_err(io::Error::other)?
    }
}

/// Whether an address is that of one host, as opposed to none, several or all.
fn is_of_one(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// Forgets the name that was asked for least recently when there are too many.
fn make_room(all: &mut HashMap<Arc<str>, Known>) {
    if all.len() < MOST {
        return;
    }
    let oldest = all.iter().min_by_key(|(_, known)| (known.asking.is_some(), known.used)).map(|(name, _)| Arc::clone(name));
    if let Some(oldest) = oldest {
        all.remove(&oldest);
    }
}

#[cfg(test)]
mod tests;
