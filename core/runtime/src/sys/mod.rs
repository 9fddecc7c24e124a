//! System calls without a safe wrapper elsewhere. This module is the only place of the workspace with `unsafe`.

mod child;
mod cookie;
mod fork;
mod heap;
mod limits;
mod memory;
mod packet_ring;
mod sample;
mod schedule;
mod xtables;

pub use child::{Step, before_exec};
pub use cookie::netns_cookie;
pub use fork::{Fork, fork_while_single_threaded};
pub use heap::{Allocated, HeapSampler, RATE as HEAP_RATE, SampledAllocator, Stack, allocator_bytes};
pub use limits::raise_open_files;
pub use memory::give_back;
pub use packet_ring::{Packet, PacketRing};
pub use sample::{REGISTERS, STACK_POINTER, Sample, Sampler};
pub use schedule::{run_behind, run_soon};
pub use xtables::xtables_info;
