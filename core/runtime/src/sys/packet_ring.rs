//! A packet socket with a receive ring shared with the kernel (packet(7), TPACKET_V3): unlike an ordinary receive queue, its size is
//! not limited for an ordinary user, so that a watcher can promise to have seen every packet.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes of one block; a packet must fit in one.
const BLOCK: usize = 1 << 20;
/// After this many milliseconds a block with packets in it is handed over though it is not full.
const RETIRE_MS: u32 = 8;
/// A hint to the kernel only, in this version of the ring.
const FRAME: usize = 2048;
/// Where the link-layer address follows a packet header: the header's size, aligned to 16.
const LINK_ADDRESS: usize = size_of::<libc::tpacket3_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);

/// Receives every packet of the network namespace it was opened in.
#[derive(Debug)]
pub struct PacketRing {
    socket: OwnedFd,
    memory: NonNull<u8>,
    blocks: usize,
    next: usize,
    dropped: u64,
}

/// A packet as it was seen at a device.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// From the link-layer header on.
    pub bytes: &'a [u8],
    /// Its length on the wire; `bytes` is shorter if it did not fit.
    pub length: usize,
    /// Index of the device.
    pub device: u32,
    /// Whether it was sent by this namespace, not received.
    pub outgoing: bool,
}

// SAFETY: the mapping belongs to this value alone and is reached only through `&mut self`; which thread does so does not matter.
unsafe impl Send for PacketRing {}

impl PacketRing {
    /// How long a packet may stay invisible in a block that is not full: twice the retire time, rounded up.
    pub const DELAY: std::time::Duration = std::time::Duration::from_millis(2 * RETIRE_MS as u64 + 4);

    /// Opens a ring of `megabytes` (at least 2) in the network namespace of this thread. Needs CAP_NET_RAW there. With
    /// `incoming_only`, packets that the namespace sends take no room in the ring where the kernel can tell (4.20 on).
    pub fn open(megabytes: usize, incoming_only: bool) -> io::Result<Self> {
        let blocks = megabytes.max(2);
        // SAFETY: no pointers; the result is checked. Protocol 0: nothing is received before the ring stands.
        let socket = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: a descriptor just returned by the kernel, owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        set_option(&socket, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: (BLOCK / FRAME * blocks) as u32,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(&socket, libc::PACKET_RX_RING, &request)?;
        if incoming_only {
            // Kernels before 4.20 do not know this; `Packet::outgoing` tells them apart there.
            let on: libc::c_int = 1;
            let _ = set_option(&socket, libc::PACKET_IGNORE_OUTGOING, &on);
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address the kernel chooses; the length is that of the ring just made.
        let memory =
            unsafe { libc::mmap(std::ptr::null_mut(), blocks * BLOCK, protection, libc::MAP_SHARED, socket.as_raw_fd(), 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("the packet ring is mapped at address 0"))?;
        let ring = Self { socket, memory, blocks, next: 0, dropped: 0 };
        ring.bind()?;
        Ok(ring)
    }

    /// Starts to receive: all protocols, all devices.
    fn bind(&self) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: 0,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer and the length are those of a live `sockaddr_ll`.
        check(unsafe { libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), length) }).map(drop)
    }

    /// Waits until packets can be taken, at most `milliseconds`.
    pub fn wait(&self, milliseconds: u16) -> io::Result<()> {
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(milliseconds)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands the packets of the next full block to `each` and gives the block back to the kernel. False when there is none.
    pub fn take(&mut self, mut each: impl FnMut(Packet<'_>)) -> bool {
        // SAFETY: `next` is below `blocks`, so the block lies within the mapping; blocks are aligned to pages.
        let block = unsafe { self.memory.as_ptr().add(self.next * BLOCK) };
        // SAFETY: a block starts with this structure; only the address of a field is taken here, nothing is read.
        let status = unsafe { &raw mut (*block.cast::<libc::tpacket_block_desc>()).hdr.bh1.block_status };
        // SAFETY: the kernel writes this word while we may read it, hence atomically; it is aligned and lives as long as the mapping.
        let status = unsafe { AtomicU32::from_ptr(status) };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return false;
        }
        // SAFETY: while the status says "user", the kernel does not touch the block, and `&mut self` keeps others from it.
        let bytes = unsafe { std::slice::from_raw_parts(block, BLOCK) };
        packets(bytes, &mut each);
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.blocks;
        true
    }

    /// Packets lost because the ring was full, since it was opened.
    pub fn dropped(&mut self) -> io::Result<u64> {
        let mut statistics = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        let mut length = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        let value = (&raw mut statistics).cast();
        // SAFETY: the kernel writes at most `length` bytes to a live structure of that size.
        check(unsafe {
            libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &raw mut length)
        })?;
        // Reading resets the kernel's counter.
        self.dropped += u64::from(statistics.tp_drops);
        Ok(self.dropped)
    }
}

impl AsFd for PacketRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `open`, to which no reference is left.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.blocks * BLOCK) };
    }
}

/// Walks the packets of a block (the layout is in linux/if_packet.h).
fn packets(block: &[u8], each: &mut impl FnMut(Packet<'_>)) {
    // SAFETY: a block in user state starts with a filled `tpacket_block_desc`, and is longer than that.
    let header = unsafe { block.as_ptr().cast::<libc::tpacket_block_desc>().read().hdr.bh1 };
    let mut at = header.offset_to_first_pkt as usize;
    for _ in 0..header.num_pkts {
        let Some(rest) = block.get(at..).filter(|rest| rest.len() >= LINK_ADDRESS + size_of::<libc::sockaddr_ll>()) else {
            return;
        };
        // SAFETY: the length was checked above; any bytes are a valid value of this type.
        let packet = unsafe { rest.as_ptr().cast::<libc::tpacket3_hdr>().read_unaligned() };
        // SAFETY: as above, at its offset.
        let link = unsafe { rest.as_ptr().add(LINK_ADDRESS).cast::<libc::sockaddr_ll>().read_unaligned() };
        let start = usize::from(packet.tp_mac);
        if let Some(bytes) = rest.get(start..start + packet.tp_snaplen as usize) {
            let device = link.sll_ifindex.unsigned_abs();
            each(Packet { bytes, length: packet.tp_len as usize, device, outgoing: link.sll_pkttype == libc::PACKET_OUTGOING });
        }
        at += packet.tp_next_offset as usize;
    }
}

fn set_option<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of a live value, which the kernel only reads.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, name, std::ptr::from_ref(value).cast(), length) })
        .map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
