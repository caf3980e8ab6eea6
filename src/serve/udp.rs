//! Datagrams: received into one buffer, answered from the same socket, nothing allocated on the way.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::UdpSocket;

use super::counters::Totals;
use super::desk::{Desk, Taken};
use super::upstream::Client;

/// Datagrams read from one listener in one wake: the others, and TCP, get their turn.
const BURST: usize = 64;

/// Serves what waits at a listener. `true` when a burst was not enough.
pub(super) fn serve(desk: &mut Desk, socket: &UdpSocket, listener: u16, buffer: &mut [u8], now: Instant) -> bool {
    for _ in 0..BURST {
        let (length, peer) = match socket.recv_from(buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => {
                // The next datagram's event brings the listener back; trying on while memory is short would spin.
                desk.totals.receive_errors.add();
                return false;
            }
        };
        desk.totals.udp_received.add();
        let message = buffer.get(..length).unwrap_or_default();
        if desk.take(Client::Udp { listener, peer }, message, now) == Taken::Reply {
            send(socket, &desk.reply, peer, &desk.totals);
        }
    }
    true
}

/// Sends a reply, or counts that it could not be sent: the client asks again, so that nothing is kept.
pub(super) fn send(socket: &UdpSocket, reply: &[u8], peer: SocketAddr, totals: &Totals) {
    loop {
        match socket.send_to(reply, peer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return totals.send_errors.add(),
            Ok(_) => return,
        }
    }
}
