//! All that a peer's bytes reach, at the same time.

use ambit_fuzz::together;

use crate::{hpack::tests::fuzz as hpack, mux::tests::fuzz as mux};

#[test]
fn bytes_of_a_peer_end_a_tunnel_or_a_connection_and_nothing_else() {
    together(&[
        mux::whatever_a_client_sends_a_server_goes_on_or_ends_in_order,
        mux::whatever_a_server_sends_a_client_goes_on_or_ends_in_order,
        hpack::what_is_read_of_a_block_is_read_again_when_it_is_written_again,
        hpack::a_target_that_is_read_reads_back_as_it_is_written,
    ]);
}
