//! Where the DNS of a pod is served: the loopback device of its namespace, to which its queries are redirected.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ambit_model::address::port;
use ambit_runtime::socket::{ListenOptions, listen, receive};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::Semaphore,
};

use super::{Dns, PodDns, tcp};
use crate::{
    Error,
    proxy::{Pod, Proxy},
};

/// The DNS of one pod with the sockets it is served on.
pub(crate) struct Listening {
    pub(crate) dns: Arc<PodDns>,
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: Vec<TcpListener>,
}

impl Dns {
    /// Opens the sockets in the pod: on both address families, on IPv4 alone where there is no IPv6. They become those of the current
    /// runtime.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) fn listen(self: &Arc<Self>, proxy: &Arc<Proxy>, pod: &Arc<Pod>, place: &str) -> Result<Listening, Error> {
        let dns = Arc::new(PodDns {
            shared: Arc::clone(self),
            proxy: Arc::clone(proxy),
            pod: Arc::clone(pod),
            places: Arc::new(Semaphore::new(self.places_per_pod)),
            connections: Arc::new(Semaphore::new(tcp::CONNECTIONS)),
        });
        let mut listening = Listening { dns, udp: Vec::new(), tcp: Vec::new() };
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port::DNS)), (Ipv6Addr::LOCALHOST, port::DNS).into()] {
            match open(pod, address) {
                Ok((udp, tcp)) => {
                    listening.udp.push(udp);
                    listening.tcp.push(tcp);
                }
                Err(error) if address.is_ipv6() && has_no_ipv6(&error) => {}
                Err(source) => {
                    return Err(Error::Listen { address: address.to_string(), place: place.to_owned(), source });
                }
            }
        }
        Ok(listening)
    }
}

/// The sockets have no mark: their answers go to the pod over the loopback device, where a mark would have them taken for the proxy's
/// connections to the pod.
fn open(pod: &Pod, address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let options = ListenOptions { reuse_port: true, netns: Some(&pod.netns), ..ListenOptions::default() };
    Ok((receive(address, &options)?, listen(address, &options)?))
}

/// Whether there is no IPv6 here at all, or no address of it.
fn has_no_ipv6(error: &io::Error) -> bool {
    let none = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| none.iter().any(|errno| errno.raw_os_error() == code))
}
