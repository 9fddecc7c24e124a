//! Clients that mean harm, or that read the RFCs in another way, at the side of a waypoint that speaks HTTP with them; and programs of others
//! that try it out.

#[path = "hardening/answers.rs"]
mod answers;
#[path = "hardening/backend.rs"]
mod backend;
#[path = "hardening/floods.rs"]
mod floods;
#[path = "hardening/frames.rs"]
mod frames;
#[path = "hardening/h2spec.rs"]
mod h2spec;
#[path = "hardening/interop.rs"]
mod interop;
#[path = "hardening/many.rs"]
mod many;
#[path = "hardening/slow.rs"]
mod slow;
#[path = "hardening/smuggling.rs"]
mod smuggling;
mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use support::{Mesh, WEB, client::tunnel};
use tokio::{net::TcpListener, sync::Mutex};

/// More than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Held by tests that look at what this process holds in memory: what others take meanwhile is not theirs.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A port of this machine for programs that know nothing of tunnels: each of its connections is carried to `to` in one of its own.
async fn front(mesh: &Arc<Mesh>, to: SocketAddr) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mesh = Arc::clone(mesh);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mesh = Arc::clone(&mesh);
            tokio::spawn(async move {
                let Ok(mut stream) = tunnel(&mesh, WEB, to).await else { return };
                let _ended = tokio::io::copy_bidirectional(&mut tcp, &mut stream).await;
            });
        }
    });
    port
}

/// What this process holds in memory, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
