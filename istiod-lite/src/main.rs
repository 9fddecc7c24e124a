//! The control plane as a program of its own.

fn main() {}
