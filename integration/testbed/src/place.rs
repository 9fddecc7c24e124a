//! A place where programs run: a network namespace with its own hosts file, be it a node or a pod.

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ambit_runtime::netns::NetNs;
use ambit_runtime::socket::{ConnectOptions, ListenOptions};
use ambit_runtime::sys::Step;
use tokio::net::{TcpListener, TcpStream};

use crate::hosts::{HostEntry, render, write_in_place};
use crate::net::sysctl;
use crate::process::{Command, Finished, Process};
use crate::{Error, Output};

/// Content of `/etc/resolv.conf` where nothing else is asked for: there is no resolver in the bed, names come from the hosts file.
pub const NO_RESOLVER: &str = "options timeout:1 attempts:1\n";

/// Directory for the temporary files of programs, below that of the place.
const TEMPORARY: &str = "tmp";

/// What [`Node`](crate::Node) and [`Pod`](crate::Pod) have in common.
#[derive(Debug)]
pub struct Place {
    netns: NetNs,
    hostname: String,
    /// At least one.
    ips: Vec<IpAddr>,
    dir: PathBuf,
    processes: Mutex<Vec<Process>>,
}

impl Place {
    pub(crate) fn new(hostname: &str, ips: Vec<IpAddr>, dir: PathBuf) -> Result<Self, Error> {
        let netns = NetNs::create().map_err(Error::io(format!("make the network namespace of {hostname}")))?;
        let temporary = dir.join(TEMPORARY);
        std::fs::create_dir_all(&temporary).map_err(Error::io(format!("make {}", temporary.display())))?;
        let place = Self { netns, hostname: hostname.to_owned(), ips, dir, processes: Mutex::default() };
        sysctl::set(&place.netns, sysctl::CLIENT)?;
        place.set_hosts(&[])?;
        place.set_resolv_conf(NO_RESOLVER)?;
        Ok(place)
    }

    /// The network namespace. `netns().run(|| ...)` runs a closure in it.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The primary address of `eth0`: IPv4, if it has one.
    pub fn ip(&self) -> IpAddr {
        self.ips[0]
    }

    /// The addresses of `eth0`, IPv4 first.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.ips.clone()
    }

    /// A directory for files of this place, in memory, gone with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Replaces the entries of `/etc/hosts` (loopback and the place's own name stay), also for programs that already run.
    pub fn set_hosts(&self, entries: &[HostEntry]) -> Result<(), Error> {
        let text = render(&self.hostname, &self.ips, entries);
        write_in_place(&self.dir.join("hosts"), &text).map_err(Error::io(format!("write the hosts file of {}", self.hostname)))
    }

    /// Replaces `/etc/resolv.conf`, also for programs that already run.
    pub fn set_resolv_conf(&self, text: &str) -> Result<(), Error> {
        let path = self.dir.join("resolv.conf");
        write_in_place(&path, text).map_err(Error::io(format!("write the resolver settings of {}", self.hostname)))
    }

    /// Starts a program here. Must be called inside a tokio runtime. Unless the command says otherwise, `TMPDIR` is a directory in
    /// memory, so that temporary files do not outlive the bed.
    ///
    /// # Errors
    /// The program does not exist or cannot be executed, or an output file cannot be opened.
    pub fn spawn(&self, command: Command) -> Result<Process, Error> {
        let process = command.start(self.steps()?, &self.dir.join(TEMPORARY))?;
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.retain(Process::is_running);
        processes.push(process.clone());
        Ok(process)
    }

    /// Runs a program to its end and returns what it wrote.
    pub async fn run(&self, command: Command) -> Result<Finished, Error> {
        self.spawn(command.output(Output::Piped))?.finish().await
    }

    /// Connects from here, as an unmodified program would.
    pub async fn connect(&self, destination: SocketAddr) -> io::Result<TcpStream> {
        self.connect_with(destination, ConnectOptions::default()).await
    }

    /// Connects from here with these options (their `netns` is replaced).
    pub async fn connect_with(&self, destination: SocketAddr, options: ConnectOptions<'_>) -> io::Result<TcpStream> {
        ambit_runtime::socket::connect(destination, &ConnectOptions { netns: Some(&self.netns), ..options }).await
    }

    /// Listens here, for a server inside this process.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        ambit_runtime::socket::listen(address, &ListenOptions { netns: Some(&self.netns), ..ListenOptions::default() })
    }

    /// The programs that run here.
    pub fn processes(&self) -> Vec<Process> {
        let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.iter().filter(|process| process.is_running()).cloned().collect()
    }

    pub(crate) fn kill_all(&self) {
        for process in self.processes() {
            process.kill_group();
        }
    }

    pub(crate) async fn stop_all(&self) {
        self.kill_all();
        for process in self.processes() {
            process.wait().await;
        }
    }

    fn steps(&self) -> Result<Vec<Step>, Error> {
        let hostname = CString::new(self.hostname.as_bytes()).map_err(|_| Error::Plan("a host name has a NUL byte".into()))?;
        let mut steps = vec![Step::EnterNetwork(self.netns.clone()), Step::Hostname(hostname), Step::OwnMounts];
        for name in ["hosts", "resolv.conf"] {
            let target = mount_point(&Path::new("/etc").join(name))?;
            steps.push(Step::Bind { source: c_path(&self.dir.join(name))?, target: c_path(&target)? });
        }
        Ok(steps)
    }
}

/// The file behind a name in `/etc`, made if it is a link into our `/run` that hides the real one.
fn mount_point(path: &Path) -> Result<PathBuf, Error> {
    let target = match std::fs::read_link(path) {
        Ok(link) => path.parent().unwrap_or(Path::new("/")).join(link),
        Err(_) => path.to_owned(),
    };
    if !target.exists() {
        let made = target.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&target, ""));
        made.map_err(Error::unavailable(
            &format!("give programs their own {}: {} does not exist and", path.display(), target.display()),
            "make an empty file there",
        ))?;
    }
    Ok(target)
}

fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Plan(format!("the path {} has a NUL byte", path.display())))
}
