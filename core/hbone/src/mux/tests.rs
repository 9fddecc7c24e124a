//! The state of a connection against frames made by hand.
