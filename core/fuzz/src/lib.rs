//! Random inputs for whatever reads the bytes of a peer: what tests of parsers share. Nothing here is part of a program.
//!
//! - [`Corpus`]: inputs to begin with, read from a file or made by the test. What once did harm belongs into the file.
//! - [`Target`]: tries inputs that are like those of its corpus for [`time`], and says with which bytes something failed.
//! - [`processor_time`]: by which it is judged whether an input takes long, however busy the machine is.
//! - [`together`]: all targets of a crate in the time of one.
//!
//! It is no fuzzer that follows the coverage of the code, which would need another compiler than the project's. Seeds of every kind of
//! message and a [`Target::tokens`] of what means something in the format stand in for that, and a target fails that reads too few of
//! its inputs to try anything ([`Target::least_read`]).

#![forbid(unsafe_code)]

mod corpus;
mod mutate;
mod target;

pub use corpus::{Corpus, hex};
pub use target::{Target, processor_time, time, together};
