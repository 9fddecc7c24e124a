//! System calls without a safe wrapper elsewhere. This module is the only place of the workspace with `unsafe`.

mod child;
mod fork;

pub use child::{Step, before_exec};
pub use fork::{Fork, fork_while_single_threaded};
