//! The tests.

mod chopped;
mod floods;
mod frames;
mod memory;
mod peers;
mod pings;
mod pumps;
mod resets;
mod scripts;
mod slow;
mod windows;
