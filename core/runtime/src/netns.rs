//! Network namespaces, held by file descriptor.
//!
//! A namespace is a property of a thread. [`NetNs::run`] moves the calling thread into the namespace, runs a closure, and moves it
//! back before it returns. The closure is synchronous, so no `.await` can move the task to another thread in between. A socket
//! stays for ever in the namespace it was created in, so entering is needed only to create it.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::SockaddrStorage;

/// A network namespace. Clones share one file descriptor; the namespace lives at least as long as any of them.
#[derive(Clone, Debug)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
    inode: u64,
}

thread_local! {
    /// The namespaces this thread is in, innermost last. The first is its own, found out at the first [`NetNs::run`] and kept, for
    /// opening it costs more than entering another; nothing but this module moves a thread for good.
    static ENTERED: RefCell<Vec<NetNs>> = const { RefCell::new(Vec::new()) };
}

impl NetNs {
    /// The namespace that the calling thread is in.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Opens a namespace by path, for example `/proc/<pid>/ns/net`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_fd(OwnedFd::from(File::open(path)?))
    }

    /// Takes a namespace file descriptor, for example one received in a ZDS message.
    ///
    /// That it really is a network namespace shows at the first [`run`](Self::run): `setns` refuses anything else with `EINVAL`.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let inode = file.metadata()?.ino();
        Ok(Self { fd: Arc::new(OwnedFd::from(file)), inode })
    }

    /// Creates a new, empty network namespace (only a loopback device, which is down). Needs CAP_SYS_ADMIN.
    pub fn create() -> io::Result<Self> {
        // A thread of its own, so that the caller's thread never leaves its namespace.
        std::thread::scope(|scope| {
            let made = std::thread::Builder::new().name("netns-create".into()).spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Self::current()
            })?;
            made.join().unwrap_or_else(|_| Err(io::Error::other("the thread that creates a network namespace panicked")))
        })
    }

    /// The inode of the namespace: equal exactly when two handles mean the same namespace. When the namespace is gone another one may
    /// get it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The kernel's name of the namespace, which no other one gets until the machine starts anew; 0 from kernels that give none (before
    /// Linux 5.14).
    ///
    /// # Errors
    /// As [`run`](Self::run), or when there are no more descriptors.
    pub fn cookie(&self) -> io::Result<u64> {
        let socket = self.run(std::os::unix::net::UnixDatagram::unbound)??;
        match crate::sys::netns_cookie(socket.as_fd()) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOPROTOOPT) => Ok(0),
            cookie => cookie,
        }
    }

    /// The addresses of the namespace's devices.
    ///
    /// # Errors
    /// As [`run`](Self::run), or when they cannot be listed.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let found = self.run(getifaddrs)??;
        let ip = |address: SockaddrStorage| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        };
        Ok(found.filter_map(|interface| interface.address.and_then(ip)).collect())
    }

    /// Runs `work` on this thread inside the namespace and returns its result.
    ///
    /// The thread is moved back even if `work` panics. If it cannot be moved back the process is aborted: a thread left in a pod's
    /// namespace would send the traffic of one pod out of another. Calls may nest.
    ///
    /// # Errors
    /// Entering failed (`EPERM` without CAP_SYS_ADMIN, `EINVAL` if this is not a network namespace); `work` was then not called.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let _back = Entered::enter(self)?;
        Ok(work())
    }
}

impl PartialEq for NetNs {
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl Eq for NetNs {}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for NetNs {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// While it lives, the thread is inside a namespace; dropping it moves the thread back where it was.
struct Entered;

impl Entered {
    fn enter(namespace: &NetNs) -> io::Result<Self> {
        ENTERED.with_borrow_mut(|stack| {
            if stack.is_empty() {
                stack.push(NetNs::current()?);
            }
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            stack.push(namespace.clone());
            Ok(Self)
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        ENTERED.with_borrow_mut(|stack| {
            stack.pop();
            let restored = stack.last().is_some_and(|back| setns(back.as_fd(), CloneFlags::CLONE_NEWNET).is_ok());
            if !restored {
                eprintln!("a thread could not return to its own network namespace; aborting rather than mixing pods");
                std::process::abort();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_network_namespace_is_refused_and_the_closure_not_called() {
        let file = NetNs::from_fd(OwnedFd::from(File::open("/proc/self/status").unwrap())).unwrap();
        let mut called = false;
        assert!(file.run(|| called = true).is_err());
        assert!(!called);
    }

    #[test]
    fn a_namespace_has_one_cookie_however_it_is_opened() {
        let (here, again) = (NetNs::current().unwrap(), NetNs::open("/proc/self/ns/net").unwrap());
        assert_eq!(here.cookie().unwrap(), again.cookie().unwrap());
    }

    #[test]
    fn the_addresses_of_a_namespace_are_those_of_its_devices() {
        let here = NetNs::current().unwrap();
        for address in here.addresses().unwrap() {
            std::net::UdpSocket::bind((address, 0)).map(drop).or_else(only_link_local).unwrap();
        }
    }

    /// A link-local address cannot be bound without its device.
    fn only_link_local(error: io::Error) -> io::Result<()> {
        if error.kind() == io::ErrorKind::InvalidInput { Ok(()) } else { Err(error) }
    }

    #[test]
    fn the_current_namespace_is_the_same_from_every_thread_that_did_not_leave_it() {
        let here = NetNs::current().unwrap();
        let there = std::thread::spawn(|| NetNs::current().unwrap()).join().unwrap();
        assert_eq!(here, there);
    }
}
