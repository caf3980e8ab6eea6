//! Datagrams: received and answered in batches, one system call for up to [`BATCH`] of them, nothing allocated on
//! the way.
//!
//! One call that finds fewer than it has room for has also seen that nothing is left, so that a lone query costs no
//! second look. The replies to a batch leave together once it is decided, and so do the forwarded ones of a wake. nix
//! wraps `recvmmsg` and `sendmmsg` safely; headers and buffers are made once and belong to the thread that serves.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use mio::net::UdpSocket;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg, sendmmsg, sendto};
use std::time::Instant;

use super::counters::Totals;
use super::desk::{Desk, Taken};
use super::upstream::Client;
use crate::dns::wire::MAX_MESSAGE;

/// Datagrams of one system call. The first ones bring most of what there is to save; the first of a batch waits for
/// the last to be decided, a few microseconds.
const BATCH: usize = 32;
/// Datagrams asked for while they come one at a time: a header costs about as much to prepare as a call to the kernel
/// saves on thirty of them. Two, because the second place says whether there are more.
const FEW: usize = 2;
/// Batches read from one listener in one wake, not counting one of [`FEW`]: the others, and TCP, get their turn.
const BURST: usize = 2;
/// Bytes of a reply that has its place from the start, so that the first large batch allocates nothing: few are longer.
const USUAL: usize = 512;
/// Bytes from one buffer to the next: room for every datagram, and an odd number of cache lines, so that the first
/// bytes of all buffers do not compete for the same places of the cache.
const STRIDE: usize = (MAX_MESSAGE + 1) + 64;

/// Room for a batch.
pub(super) struct Batch {
    /// Zero pages until a datagram comes that fills them: most stay address space.
    buffers: Box<[u8]>,
    v4: Family<SockaddrIn>,
    v6: Family<SockaddrIn6>,
    /// The first [`Batch::queued`] wait to be sent; their buffers are used again.
    replies: [Vec<u8>; BATCH],
    queued: usize,
    /// The listener that queued replies leave from.
    listener: u16,
}

/// Headers and addresses of one family. They are not shared: the kernel notes in a header how long the last address
/// was, and nix takes that for the room there is.
struct Family<S> {
    incoming: MultiHeaders<S>,
    outgoing: MultiHeaders<S>,
    received: Vec<(usize, S)>,
    to: Vec<Option<S>>,
    /// Whether the last call found [`FEW`] or more.
    crowded: bool,
}

/// What a socket address is to the kernel and to har.
trait Peer: SockaddrLike + Copy {
    fn shown(self) -> SocketAddr;
}

impl Peer for SockaddrIn {
    fn shown(self) -> SocketAddr {
        SocketAddrV4::from(self).into()
    }
}

impl Peer for SockaddrIn6 {
    fn shown(self) -> SocketAddr {
        SocketAddrV6::from(self).into()
    }
}

impl Batch {
    /// An empty one.
    pub fn new() -> Batch {
        Batch {
            buffers: vec![0; BATCH * STRIDE].into(),
            v4: Family::new(),
            v6: Family::new(),
            replies: std::array::from_fn(|_| Vec::with_capacity(USUAL)),
            queued: 0,
            listener: 0,
        }
    }

    /// Whether a reply from a listener has room beside those that are queued.
    pub fn takes(&self, listener: u16) -> bool {
        self.queued == 0 || self.queued < BATCH && self.listener == listener
    }

    /// Queues a reply that has room, for [`Batch::send`].
    pub fn queue(&mut self, listener: u16, peer: SocketAddr, reply: &[u8]) {
        let Some(place) = self.replies.get_mut(self.queued) else { return };
        if self.queued == 0 {
            self.v4.to.clear();
            self.v6.to.clear();
            self.listener = listener;
        }
        place.clear();
        place.extend_from_slice(reply);
        // All peers of a listener are of its family.
        match peer {
            SocketAddr::V4(peer) => self.v4.to.push(Some(peer.into())),
            SocketAddr::V6(peer) => self.v6.to.push(Some(peer.into())),
        }
        self.queued += 1;
    }

    /// The listener that queued replies are to be sent from, if there are any.
    pub fn queued(&self) -> Option<u16> {
        (self.queued > 0).then_some(self.listener)
    }

    /// Sends what is queued; without a socket, which a reload may have closed, it is dropped.
    pub fn send(&mut self, socket: Option<&UdpSocket>, totals: &Totals) {
        let replies = &self.replies[..std::mem::take(&mut self.queued)];
        let Some(socket) = socket else { return };
        if self.v6.to.is_empty() {
            self.v4.send(socket, replies, totals);
        } else {
            self.v6.send(socket, replies, totals);
        }
    }
}

/// Serves what waits at a listener of a family. `true` when a burst was not enough.
pub(super) fn serve(
    desk: &mut Desk,
    socket: &UdpSocket,
    is_ipv4: bool,
    listener: u16,
    batch: &mut Batch,
    now: Instant,
) -> bool {
    let Batch { buffers, v4, v6, replies, queued, .. } = batch;
    let mut work = Work { desk, socket, listener, buffers, replies, queued, now };
    if is_ipv4 { work.serve(v4) } else { work.serve(v6) }
}

/// One listener's turn.
struct Work<'a> {
    desk: &'a mut Desk,
    socket: &'a UdpSocket,
    listener: u16,
    buffers: &'a mut [u8],
    replies: &'a mut [Vec<u8>; BATCH],
    queued: &'a mut usize,
    now: Instant,
}

impl Work<'_> {
    fn serve<S: Peer>(&mut self, family: &mut Family<S>) -> bool {
        let mut whole = 0;
        while whole < BURST {
            let room = if family.crowded { BATCH } else { FEW };
            match family.receive(self.socket, self.buffers) {
                Ok(()) => {}
                Err(Errno::EAGAIN) => {
                    family.crowded = false;
                    return false;
                }
                Err(Errno::EINTR) => continue,
                Err(_) => {
                    // The next datagram's event brings the listener back; trying on while memory is short would spin.
                    self.desk.totals.receive_errors.add();
                    return false;
                }
            }
            self.decide(family);
            family.send(self.socket, &self.replies[..std::mem::take(self.queued)], &self.desk.totals);
            let found = family.received.len();
            family.crowded = found >= FEW;
            if found < room {
                return false;
            }
            whole += usize::from(room == BATCH);
        }
        true
    }

    /// Decides about everything received, and gathers the replies.
    fn decide<S: Peer>(&mut self, family: &mut Family<S>) {
        *self.queued = 0;
        family.to.clear();
        if family.received.len() > FEW && self.desk.snapshot.is_large() {
            let buffers = self.buffers.chunks_exact(STRIDE);
            let messages =
                family.received.iter().zip(buffers).filter_map(|(&(length, _), buffer)| buffer.get(..length));
            self.desk.foresee::<BATCH>(messages);
        }
        for (&(length, peer), buffer) in family.received.iter().zip(self.buffers.chunks_exact(STRIDE)) {
            self.desk.totals.udp_received.add();
            let message = buffer.get(..length).unwrap_or_default();
            let client = Client::Udp { listener: self.listener, peer: peer.shown() };
            if self.desk.take(client, message, self.now) == Taken::Reply {
                std::mem::swap(&mut self.desk.reply, &mut self.replies[*self.queued]);
                family.to.push(Some(peer));
                *self.queued += 1;
            }
        }
    }
}

impl<S: Peer> Family<S> {
    fn new() -> Family<S> {
        Family {
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            received: Vec::with_capacity(BATCH),
            to: Vec::with_capacity(BATCH),
            crowded: false,
        }
    }

    /// Receives into the buffers, in their order: a batch where there was one before, else [`FEW`].
    fn receive(&mut self, socket: &UdpSocket, buffers: &mut [u8]) -> nix::Result<()> {
        if self.crowded {
            self.receive_up_to::<BATCH>(socket, buffers)
        } else {
            self.receive_up_to::<FEW>(socket, buffers)
        }
    }

    fn receive_up_to<const ROOM: usize>(&mut self, socket: &UdpSocket, buffers: &mut [u8]) -> nix::Result<()> {
        self.received.clear();
        let mut buffers = buffers.chunks_exact_mut(STRIDE);
        let mut slices: [_; ROOM] = std::array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
        let results = recvmmsg(socket.as_raw_fd(), &mut self.incoming, &mut slices, MsgFlags::empty(), None)?;
        // The kernel names the sender of every datagram.
        self.received.extend(results.filter_map(|message| Some((message.bytes, message.address?))));
        Ok(())
    }

    /// Sends replies, or counts those that could not be sent: the client asks again, so that nothing is kept.
    fn send(&mut self, socket: &UdpSocket, replies: &[Vec<u8>], totals: &Totals) {
        if let ([reply], [Some(peer)]) = (replies, self.to.as_slice()) {
            return send_one(socket, reply, peer, totals);
        }
        let mut sent = 0;
        while sent < replies.len() {
            let slices: [_; BATCH] =
                std::array::from_fn(|index| [IoSlice::new(replies.get(sent + index).map_or(&[], Vec::as_slice))]);
            let (slices, to) = (&slices[..replies.len() - sent], &self.to[sent..]);
            match sendmmsg(socket.as_raw_fd(), &mut self.outgoing, slices, to, [], MsgFlags::empty()) {
                // None sent and no error does not happen; if it did, the same call would be made for ever.
                Ok(results) => match results.count() {
                    0 => return totals.send_errors.add(),
                    some => sent += some,
                },
                Err(Errno::EINTR) => {}
                Err(_) => {
                    totals.send_errors.add();
                    sent += 1;
                }
            }
        }
    }
}

fn send_one<S: Peer>(socket: &UdpSocket, reply: &[u8], peer: &S, totals: &Totals) {
    loop {
        match sendto(socket.as_raw_fd(), reply, peer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            Err(_) => return totals.send_errors.add(),
            Ok(_) => return,
        }
    }
}
