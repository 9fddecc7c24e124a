//! The requests and connections of which the cost is counted, in more ways than one: each is played until the pair is warm, and then given, with
//! how many of what is counted it has, to who counts.

use std::sync::PoisonError;

use crate::{
    ONE_AT_A_TIME, handler,
    line::{Client, Line, answer, line, line_into_ztunnel},
    uncounted::Uncounted,
};

/// Requests one after the other, on one connection.
pub fn lone(counted: impl FnOnce(&Line, usize, &mut dyn FnMut())) {
    const REQUESTS: usize = 2000;
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let line = line(answer);
    let mut client = Client::open(&line);
    alone(&mut client, 200);
    counted(&line, REQUESTS, &mut || alone(&mut client, REQUESTS));
}

/// Requests that come together, one on each of 32 connections.
pub fn among_32(counted: impl FnOnce(&Line, usize, &mut dyn FnMut())) {
    const CONNECTIONS: usize = 32;
    const TURNS: usize = 100;
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let line = line(answer);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::open(&line)).collect();
    together(&mut clients, 20);
    counted(&line, CONNECTIONS * TURNS, &mut || together(&mut clients, TURNS));
}

/// Connections one after the other, each with a request, on a tunnel that is there.
pub fn new_connection(counted: impl FnOnce(&Line, usize, &mut dyn FnMut())) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    connections(&line(answer), counted);
}

/// The same into ztunnel's own handler, where this process may run it.
pub fn new_connection_into_ztunnel(counted: impl FnOnce(&Line, usize, &mut dyn FnMut())) -> Result<(), Uncounted> {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    handler::permitted()?;
    connections(&line_into_ztunnel(answer), counted);
    Ok(())
}

fn connections(line: &Line, counted: impl FnOnce(&Line, usize, &mut dyn FnMut())) {
    const CONNECTIONS: usize = 300;
    opened(line, 50);
    counted(line, CONNECTIONS, &mut || opened(line, CONNECTIONS));
}

/// Requests one after the other.
fn alone(client: &mut Client, count: usize) {
    for _ in 0..count {
        client.ask();
        client.hear();
    }
}

/// So many times a request on each connection.
fn together(clients: &mut [Client], turns: usize) {
    for _ in 0..turns {
        clients.iter_mut().for_each(Client::ask);
        clients.iter_mut().for_each(Client::hear);
    }
}

/// So many connections one after the other, each with a request.
fn opened(line: &Line, count: usize) {
    for _ in 0..count {
        alone(&mut Client::open(line), 1);
    }
}
