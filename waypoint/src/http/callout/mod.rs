//! Calls of the waypoint's own that requests wait for.

pub mod stream;
