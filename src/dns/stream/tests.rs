//! Tests of connections: framing, deadlines, bounds, with time and bytes chopped at will.

use proptest::prelude::*;

use super::*;

const IDLE: Duration = Duration::from_secs(10);

/// A connection and its clock.
struct Bench {
    stream: Stream,
    start: Instant,
}

impl Bench {
    fn new() -> Bench {
        let start = Instant::now();
        Bench { stream: Stream::new(IDLE, start), start }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// Feeds bytes and takes every message that becomes available.
    fn feed(&mut self, bytes: &[u8], ms: u64) -> Vec<Vec<u8>> {
        let now = self.at(ms);
        self.stream.feed(bytes, now);
        self.take(ms)
    }

    fn take(&mut self, ms: u64) -> Vec<Vec<u8>> {
        let now = self.at(ms);
        let mut messages = Vec::new();
        while let Some(message) = self.stream.next_message(now) {
            messages.push(message.to_vec());
        }
        messages
    }

    fn reply(&mut self, reply: &[u8], ms: u64) {
        let now = self.at(ms);
        self.stream.queue_reply(reply, now);
    }

    fn send_all(&mut self, ms: u64) -> Vec<u8> {
        let (output, now) = (self.stream.output().to_vec(), self.at(ms));
        self.stream.sent(output.len(), now);
        output
    }

    /// The deadline in milliseconds from the start.
    fn deadline(&self) -> Option<u128> {
        self.stream.deadline().map(|deadline| (deadline - self.start).as_millis())
    }

    fn expired(&mut self, ms: u64) -> bool {
        let now = self.at(ms);
        self.stream.expire(now)
    }
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

#[test]
fn a_hundred_queries_in_one_write_leave_in_one_write() {
    let mut bench = Bench::new();
    let queries: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; usize::from(n) + 1]).collect();
    let wire: Vec<u8> = queries.iter().flat_map(|query| frame(query)).collect();
    assert_eq!(bench.feed(&wire, 0), queries);
    assert_eq!(bench.stream.pending(), 100);
    assert!(!bench.stream.wants_write());
    for query in queries.iter().rev() {
        bench.reply(query, 1);
    }
    assert!(bench.stream.wants_write() && bench.stream.wants_read());
    let expected: Vec<u8> = queries.iter().rev().flat_map(|query| frame(query)).collect();
    assert_eq!(bench.send_all(2), expected);
    assert!(!bench.stream.wants_write() && !bench.stream.is_finished());
    assert_eq!(bench.deadline(), Some(10_002));
}

#[test]
fn byte_by_byte() {
    let mut bench = Bench::new();
    let wire = [frame(b"first"), frame(b"second")].concat();
    let mut got = Vec::new();
    for (ms, byte) in (0..).zip(wire) {
        got.extend(bench.feed(&[byte], ms));
    }
    assert_eq!(got, [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn the_greatest_length_passes() {
    let mut bench = Bench::new();
    let message = vec![7; MAX_MESSAGE];
    assert_eq!(bench.feed(&frame(&message), 0), [message.as_slice()]);
    bench.reply(&message, 0);
    assert_eq!(bench.send_all(0), frame(&message));
    assert!(bench.stream.output.bytes.capacity() <= KEPT && bench.stream.input.bytes.capacity() <= 2 * MAX_INPUT);
    assert!(bench.take(0).is_empty());
    assert!(bench.stream.input.bytes.capacity() <= KEPT);
}

#[test]
fn a_reply_that_no_length_can_say_fails_the_connection() {
    let mut bench = Bench::new();
    bench.feed(&frame(b"q"), 0);
    bench.reply(&vec![0; MAX_MESSAGE + 1], 0);
    assert!(bench.stream.is_finished());
}

#[test]
fn a_partial_message_may_take_the_idle_time_and_no_longer() {
    let mut bench = Bench::new();
    bench.feed(&frame(b"query")[..3], 1000);
    // Each byte keeps the connection from being idle, but not the message from being late.
    bench.feed(b"u", 9000);
    assert_eq!(bench.deadline(), Some(11_000));
    assert!(!bench.expired(10_999) && !bench.stream.is_finished());
    assert!(bench.expired(11_000) && bench.stream.is_finished());
    assert!(!bench.stream.wants_read() && !bench.stream.wants_write());
}

#[test]
fn a_partial_message_is_late_even_while_others_are_under_way() {
    let mut bench = Bench::new();
    assert_eq!(bench.feed(&[frame(b"one"), vec![0]].concat(), 500).len(), 1);
    assert_eq!(bench.deadline(), Some(10_500));
    assert_eq!(bench.feed(b"\x01x", 600).len(), 1);
    assert_eq!(bench.deadline(), None);
}

#[test]
fn silence_ends_a_connection_only_when_nothing_is_owed() {
    let mut bench = Bench::new();
    assert_eq!(bench.deadline(), Some(10_000));
    bench.feed(&frame(b"q"), 2000);
    assert_eq!(bench.deadline(), None);
    assert!(!bench.expired(60_000));
    let now = bench.at(3000);
    bench.stream.discard(now);
    assert_eq!(bench.deadline(), Some(13_000));
    assert!(bench.expired(13_000));
}

#[test]
fn a_half_closed_client_gets_its_answers() {
    let mut bench = Bench::new();
    bench.feed(&[frame(b"one"), frame(b"two"), b"\0\x09cut".to_vec()].concat(), 0);
    let now = bench.at(1);
    bench.stream.end_of_input(now);
    assert!(!bench.stream.wants_read() && !bench.stream.is_finished());
    bench.reply(b"2", 5);
    assert_eq!(bench.send_all(5), frame(b"2"));
    assert!(!bench.stream.is_finished());
    bench.reply(b"1", 6);
    assert!(!bench.stream.is_finished());
    assert_eq!(bench.send_all(7), frame(b"1"));
    assert!(bench.stream.is_finished());
}

#[test]
fn a_half_close_without_a_question_ends_at_once() {
    for bytes in [&b""[..], b"\0", b"\0\x05abc"] {
        let mut bench = Bench::new();
        bench.feed(bytes, 0);
        let now = bench.at(0);
        bench.stream.end_of_input(now);
        assert!(bench.stream.is_finished(), "{bytes:?}");
    }
}

#[test]
fn a_zero_length_ends_the_input_but_not_what_came_before() {
    let mut bench = Bench::new();
    assert_eq!(bench.feed(&[frame(b"one"), vec![0, 0], frame(b"two")].concat(), 0), [b"one".to_vec()]);
    assert!(!bench.stream.wants_read() && !bench.stream.is_finished());
    assert!(bench.feed(&frame(b"three"), 1).is_empty());
    bench.reply(b"1", 2);
    assert_eq!(bench.send_all(2), frame(b"1"));
    assert!(bench.stream.is_finished());
    let mut alone = Bench::new();
    alone.feed(&[0, 0], 0);
    assert!(alone.stream.is_finished());
}

#[test]
fn pending_messages_are_bounded() {
    let mut bench = Bench::new();
    let wire = frame(b"q").repeat(MAX_PENDING + 3);
    assert_eq!(bench.feed(&wire, 0).len(), MAX_PENDING);
    assert!(!bench.stream.wants_read());
    assert!(bench.take(0).is_empty());
    bench.reply(b"r", 1);
    assert_eq!(bench.take(1).len(), 1);
    // The rest is still answered after the client has closed its half.
    let now = bench.at(2);
    bench.stream.end_of_input(now);
    let mut left = MAX_PENDING;
    while left > 0 {
        bench.reply(b"r", 3);
        left -= 1;
        left += bench.take(3).len();
    }
    assert!(!bench.stream.is_finished());
    assert_eq!(bench.send_all(4).len(), (MAX_PENDING + 3) * 3);
    assert!(bench.stream.is_finished());
}

#[test]
fn who_does_not_read_is_not_read_from_and_then_closed() {
    let mut bench = Bench::new();
    let reply = vec![0; MAX_MESSAGE];
    bench.feed(&frame(b"q").repeat(5), 0);
    bench.reply(&reply, 1000);
    assert!(bench.stream.wants_read());
    assert_eq!(bench.deadline(), Some(11_000));
    bench.reply(&reply, 2000);
    assert!(!bench.stream.wants_read());
    // A trickle keeps it from being stalled, but it is full all the same.
    for ms in 3000..3010 {
        let now = bench.at(ms);
        bench.stream.sent(1, now);
        bench.reply(b"r", ms);
    }
    assert_eq!(bench.deadline(), Some(12_000));
    let mut other = Bench::new();
    other.feed(&frame(b"q"), 0);
    other.reply(b"r", 100);
    assert_eq!(other.deadline(), Some(10_100));
    assert!(bench.expired(12_000) && other.expired(10_100));
}

#[test]
fn reading_goes_on_when_the_client_does() {
    let mut bench = Bench::new();
    let reply = vec![0; MAX_MESSAGE];
    let wire = [frame(b"q").repeat(2), frame(b"late")[..3].to_vec()].concat();
    bench.feed(&wire, 0);
    bench.reply(&reply, 1);
    bench.reply(&reply, 1);
    assert!(!bench.stream.wants_read());
    bench.send_all(9000);
    assert!(bench.stream.wants_read());
    // It could not send the rest meanwhile: its time begins anew.
    assert_eq!(bench.deadline(), Some(19_000));
    assert_eq!(bench.feed(b"ate", 9500), [b"late".to_vec()]);
}

#[test]
fn output_is_bounded() {
    let mut bench = Bench::new();
    bench.feed(&frame(b"q").repeat(100), 0);
    let mut most = 0;
    while !bench.stream.is_finished() {
        bench.reply(&vec![0; MAX_MESSAGE], 1);
        most = most.max(bench.stream.output().len());
    }
    assert!(most <= MAX_OUTPUT && most + MAX_MESSAGE + LENGTH > MAX_OUTPUT);
}

proptest! {
    #[test]
    fn chopped_as_whole(
        lengths in prop::collection::vec(prop_oneof![1usize..40, 1usize..3000], 1..60),
        chops in prop::collection::vec(1usize..5000, 1..20),
        writes in prop::collection::vec(1usize..4000, 1..20),
    ) {
        let messages: Vec<Vec<u8>> = lengths.iter().zip(0u8..).map(|(&length, n)| vec![n; length]).collect();
        let wire: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
        let mut bench = Bench::new();
        let (mut rest, mut chops, mut writes) = (&wire[..], chops.iter().cycle(), writes.iter().cycle());
        let (mut got, mut sent) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at((*chops.next().unwrap()).min(rest.len()));
            rest = later;
            for message in bench.feed(chunk, 0) {
                bench.reply(&message, 0);
                got.push(message);
            }
            let part = bench.stream.output();
            let part = part[..part.len().min(*writes.next().unwrap())].to_vec();
            sent.extend_from_slice(&part);
            let now = bench.at(0);
            bench.stream.sent(part.len(), now);
        }
        sent.extend(bench.send_all(0));
        prop_assert_eq!(got, messages);
        prop_assert_eq!(sent, wire);
        prop_assert_eq!(bench.stream.pending(), 0);
    }

    #[test]
    fn noise(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..50), settle: bool) {
        let mut bench = Bench::new();
        for (ms, chunk) in (0..).zip(&chunks) {
            if !bench.stream.wants_read() {
                break;
            }
            for message in bench.feed(chunk, ms) {
                prop_assert!(!message.is_empty());
                if settle {
                    bench.reply(&message, ms);
                }
            }
            prop_assert!(bench.stream.input.len() <= MAX_INPUT + 300);
            bench.send_all(ms);
        }
    }
}
