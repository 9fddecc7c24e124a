//! Tests of the record layer: against peers made of raw records, against rustls, and against chance.

mod alerts;
mod fuzz;
mod interop;
mod peers;
mod post_handshake;
mod records;
mod sending;
mod support;
mod tampering;
