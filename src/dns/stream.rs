//! One DNS-over-TCP connection as a state machine (RFC 7766): bytes in, whole messages out, replies queued.
//!
//! The shell owns the socket: it gives what it read to [`Stream::feed`], takes messages with
//! [`Stream::next_message`] until there is none, settles each by [`Stream::queue_reply`] or [`Stream::discard`], and
//! writes what [`Stream::output`] holds: all replies that are ready go out in one write. Replies leave in the order
//! in which they were queued, whatever the order of the questions. Every buffer is bounded: who does not read is
//! not read from, and is closed when it stays so.

use std::time::{Duration, Instant};

use super::wire::MAX_MESSAGE;

/// Messages handed out and not settled, at most: one client takes no more of the forwarder's table.
pub const MAX_PENDING: usize = 256;
/// Unsent bytes from which on no more is read or handed out: two replies of the greatest length.
pub const HIGH_WATER: usize = 2 * (LENGTH + MAX_MESSAGE);
/// Unsent bytes at most; a reply beyond closes the connection, since its client takes nothing.
pub const MAX_OUTPUT: usize = 1 << 20;
/// Unread bytes from which on no more is read: one message of the greatest length fits.
pub const MAX_INPUT: usize = LENGTH + MAX_MESSAGE;
/// Capacity that a drained buffer keeps: an idle connection costs little, a busy one does not allocate.
const KEPT: usize = 4096;
/// The length in front of each message (RFC 1035 section 4.2.2).
const LENGTH: usize = 2;

/// One connection.
#[derive(Debug)]
pub struct Stream {
    idle: Duration,
    input: Buffer,
    output: Buffer,
    pending: usize,
    /// Nothing more is read: the client closed its half, or sent a zero length.
    ended: bool,
    /// To be closed at once.
    failed: bool,
    /// When anything was last read or written.
    active: Instant,
    /// Since when an incomplete message waits for its rest.
    partial_since: Option<Instant>,
    /// Since when the client has taken none of the output that waits for it.
    stalled_since: Option<Instant>,
    /// Since when [`HIGH_WATER`] was reached, and not left by half.
    full_since: Option<Instant>,
}

impl Stream {
    /// A connection just accepted. `idle` is the longest silence, partial message and unread output (`tcp_idle`).
    pub fn new(idle: Duration, now: Instant) -> Stream {
        Stream {
            idle,
            input: Buffer::default(),
            output: Buffer::default(),
            pending: 0,
            ended: false,
            failed: false,
            active: now,
            partial_since: None,
            stalled_since: None,
            full_since: None,
        }
    }

    /// Takes bytes that were read. Afterwards the shell calls [`Stream::next_message`] until there is none.
    /// Bytes after the end are ignored; more in spite of [`Stream::wants_read`] than [`MAX_INPUT`] close it.
    pub fn feed(&mut self, bytes: &[u8], now: Instant) {
        if self.ended || self.failed {
            return;
        }
        self.active = now;
        if self.input.len() >= MAX_INPUT {
            self.failed = true;
            return;
        }
        self.input.push(bytes);
    }

    /// The client closed its sending half (a read of zero bytes). What is under way is still answered.
    pub fn end_of_input(&mut self, now: Instant) {
        self.active = now;
        self.ended = true;
    }

    /// The next whole message, if one is there and may be taken now. It counts as pending until it is settled with
    /// [`Stream::queue_reply`] or [`Stream::discard`]; settling and [`Stream::sent`] can make a next one available.
    ///
    /// A length of zero ends the input: nothing behind it can be trusted, and what came before is still answered.
    pub fn next_message(&mut self, now: Instant) -> Option<&[u8]> {
        if self.failed || self.is_held_back() {
            return None;
        }
        let length = match self.frame() {
            Frame::Whole(length) => length,
            Frame::Partial => {
                self.partial_since.get_or_insert(now);
                return None;
            }
            Frame::Nothing => {
                self.partial_since = None;
                self.input.recycle();
                return None;
            }
            Frame::Zero => {
                self.partial_since = None;
                self.ended = true;
                self.input.clear();
                return None;
            }
        };
        self.partial_since = None;
        self.pending += 1;
        let frame = self.input.take(LENGTH + length);
        frame.get(LENGTH..)
    }

    /// Queues the reply to a pending message.
    pub fn queue_reply(&mut self, reply: &[u8], now: Instant) {
        self.settle(now);
        if self.failed {
            return;
        }
        let Ok(length) = u16::try_from(reply.len()) else {
            self.failed = true;
            return;
        };
        if self.output.len() + LENGTH + reply.len() > MAX_OUTPUT {
            self.failed = true;
            return;
        }
        self.stalled_since.get_or_insert(now);
        self.output.push(&length.to_be_bytes());
        self.output.push(reply);
        if self.output.len() >= HIGH_WATER {
            self.full_since.get_or_insert(now);
        }
    }

    /// Settles a pending message that gets no reply.
    pub fn discard(&mut self, now: Instant) {
        self.settle(now);
    }

    /// Every queued byte that is not sent yet.
    pub fn output(&self) -> &[u8] {
        self.output.bytes()
    }

    /// The first `count` bytes of [`Stream::output`] were written.
    pub fn sent(&mut self, count: usize, now: Instant) {
        if count == 0 {
            return;
        }
        let held_back = self.is_held_back();
        self.active = now;
        self.output.take(count);
        self.output.recycle();
        self.stalled_since = if self.output.is_empty() { None } else { Some(now) };
        // Half of it must go: a byte now and then would otherwise look like reading.
        if self.output.len() < HIGH_WATER / 2 {
            self.full_since = None;
        }
        self.resume(held_back, now);
    }

    /// Whether the socket is to be read.
    pub fn wants_read(&self) -> bool {
        !self.failed && !self.ended && !self.is_held_back() && self.input.len() < MAX_INPUT
    }

    /// Whether there is something to write.
    pub fn wants_write(&self) -> bool {
        !self.failed && !self.output.is_empty()
    }

    /// Whether the connection is to be closed: it failed, or the input has ended and everything is answered.
    pub fn is_finished(&self) -> bool {
        let through = self.ended && self.pending == 0 && self.output.is_empty();
        self.failed || through && !matches!(self.frame(), Frame::Whole(_))
    }

    /// When [`Stream::expire`] is to be called. `None` while only the forwarder is waited for, which has its own.
    pub fn deadline(&self) -> Option<Instant> {
        let idle = self.pending == 0 && self.output.is_empty();
        let since = [
            idle.then_some(self.active),
            // Who is not read from cannot complete a message.
            self.partial_since.filter(|_| self.wants_read()),
            self.stalled_since,
            self.full_since,
        ];
        since.into_iter().flatten().min().map(|since| since + self.idle)
    }

    /// Gives the connection up when its deadline has passed; `true` if so.
    pub fn expire(&mut self, now: Instant) -> bool {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.failed = true;
        }
        self.failed
    }

    /// When anything was last read or written: at the limit of connections the longest silent one gives way.
    pub fn last_active(&self) -> Instant {
        self.active
    }

    /// Messages handed out and not settled.
    pub fn pending(&self) -> usize {
        self.pending
    }

    fn settle(&mut self, now: Instant) {
        let held_back = self.is_held_back();
        self.pending = self.pending.saturating_sub(1);
        // The silence of a client begins when it has nothing more to wait for.
        self.active = self.active.max(now);
        self.resume(held_back, now);
    }

    /// The client's time for the rest of a message runs anew once it is read from again.
    fn resume(&mut self, held_back: bool, now: Instant) {
        if held_back && !self.is_held_back() && self.partial_since.is_some() {
            self.partial_since = Some(now);
        }
    }

    fn is_held_back(&self) -> bool {
        self.pending >= MAX_PENDING || self.output.len() >= HIGH_WATER
    }

    fn frame(&self) -> Frame {
        match *self.input.bytes() {
            [] => Frame::Nothing,
            [0, 0, ..] => Frame::Zero,
            [high, low, ref rest @ ..] => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                if rest.len() >= length { Frame::Whole(length) } else { Frame::Partial }
            }
            [_] => Frame::Partial,
        }
    }
}

/// What stands at the front of the input.
enum Frame {
    Nothing,
    Partial,
    Zero,
    Whole(usize),
}

/// Bytes that come in at the back and leave at the front.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push(&mut self, bytes: &[u8]) {
        // Moving what is left once it is the smaller half keeps the cost of moving below that of reading.
        if self.start > self.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Lends the first `count` bytes and counts them as gone.
    fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start = (from + count).min(self.bytes.len());
        self.bytes.get(from..self.start).unwrap_or_default()
    }

    /// Gives the storage of a drained buffer back, but for what the next message will need.
    fn recycle(&mut self) {
        if self.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.start = 0;
    }
}

#[cfg(test)]
mod tests;
