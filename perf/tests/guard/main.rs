//! Guards the hot path without timing anything: the work of a tunnel pair for one request, one new connection, one megabyte, down to its
//! instructions. And the memory of a large mesh's state, and of many routes.
//!
//! The limits are a little above what the path reaches; whoever adds an allocation, a read, a write, a wake-up or a copy to each request
//! goes beyond them. Who lowers what the path needs lowers the limits.

#![allow(missing_docs)]

mod calls;
mod count;
mod handler;
mod instructions;
mod line;
mod routes;
mod scenario;
mod state;
mod uncounted;

use std::{
    io::Read,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use count::Counts;
use line::{Client, Line, line, pour};

/// The counters are those of the process: one measurement at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The most that a new connection into ztunnel's own handler may need, of the tunnel's reads and writes those of the near end.
const INTO_ZTUNNEL: Counts = Counts { allocations: 70.0, reads: 3.5, writes: 3.0, waits: 8.0 };

/// What `work` costs, divided by `count`.
fn cost(line: &Line, count: usize, work: &mut dyn FnMut()) -> Counts {
    // What ends or begins on the pair's thread because of what was before is not part of it.
    thread::sleep(Duration::from_millis(50));
    let before = Counts::now(&line.runtime);
    work();
    (Counts::now(&line.runtime) - before).each(count)
}

fn check(what: &str, counts: Counts, most: Counts) {
    println!("{what}: {counts:.3?}");
    for (name, value, limit) in [
        ("allocations", counts.allocations, most.allocations),
        ("reads of the tunnel", counts.reads, most.reads),
        ("writes to the tunnel", counts.writes, most.writes),
        ("waits", counts.waits, most.waits),
    ] {
        assert!(value <= limit, "{what}: {value:.3} {name}, at most {limit} are allowed; all: {counts:.3?}");
    }
}

#[test]
fn a_lone_request_costs_few_allocations_calls_and_wake_ups() {
    scenario::lone(|line, count, work| {
        check("a lone request", cost(line, count, work), Counts { allocations: 8.3, reads: 2.1, writes: 2.1, waits: 4.2 });
    });
}

#[test]
fn requests_that_come_together_share_reads_writes_and_wake_ups() {
    scenario::among_32(|line, count, work| {
        check("a request among 32", cost(line, count, work), Counts { allocations: 3.0, reads: 0.9, writes: 0.9, waits: 0.9 });
    });
}

#[test]
fn a_stream_moves_in_large_pieces() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    const MEGABYTES: usize = 128;
    let line = line(pour);
    let mut client = Client::open(&line);
    let mut buffer = vec![0; 1 << 20];
    let mut megabytes = |count| {
        for _ in 0..count {
            client.0.read_exact(&mut buffer).unwrap();
        }
    };
    megabytes(16);
    let counts = cost(&line, MEGABYTES, &mut || megabytes(MEGABYTES));
    check("a megabyte", counts, Counts { allocations: 35.0, reads: 9.0, writes: 9.0, waits: 4.0 });
}

#[test]
fn a_new_connection_on_a_warm_tunnel_costs_little() {
    scenario::new_connection(|line, count, work| {
        check("a new connection", cost(line, count, work), Counts { allocations: 62.0, reads: 5.5, writes: 5.5, waits: 9.0 });
    });
}

#[test]
fn a_new_connection_into_ztunnel_s_own_handler_costs_little() {
    let what = "a new connection into ztunnel";
    let counted = scenario::new_connection_into_ztunnel(|line, count, work| check(what, cost(line, count, work), INTO_ZTUNNEL));
    if let Err(uncounted) = counted {
        uncounted.tell(what);
    }
}
