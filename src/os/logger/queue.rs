//! Lines of the log on their way to standard error: a bounded queue, and the one thread that writes.
//!
//! Whoever reads standard error may stop reading: a pipe whose reader hangs, a journal on a full disk. Nothing that logs
//! is to wait for that, so a line is only put here, in order. What finds no room is counted, and the count is said in its
//! place once the reader goes on.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that wait at most: some thousands of lines, so that a burst finds room while the reader takes a breath.
const ROOM: usize = 1 << 20;

/// Bytes of whole lines that are written at once: a pipe takes so much in one piece, not mixed with what others write.
const PIECE: usize = 4096;

/// Enough for a loop that writes.
const STACK: usize = 64 << 10;

/// The queue. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Wakes the thread.
    filled: Condvar,
    /// Nothing is left.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whole lines.
    text: Vec<u8>,
    /// Lines that found no room behind them.
    lost: u64,
    /// Some were taken, and are not written yet.
    writing: bool,
    /// There is a thread.
    begun: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.lost == 0
    }
}

impl Queue {
    /// Adds whole lines; never waits for who reads them.
    pub fn push(&self, lines: &[u8]) {
        let mut waiting = self.lock();
        let full = !waiting.text.is_empty() && waiting.text.len() + lines.len() > ROOM;
        // Where one is lost the next ones are too: the count stands in one place.
        if full || waiting.lost > 0 {
            waiting.lost += count(lines);
        } else {
            waiting.text.extend_from_slice(lines);
        }
        drop(waiting);
        self.0.filled.notify_one();
    }

    /// Starts the thread, once. `lost` words the line about so many lines that were lost.
    ///
    /// # Errors
    /// When no thread can be had: the lines wait.
    pub fn begin(
        &self,
        mut out: impl Write + Send + 'static,
        lost: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<()> {
        if mem::replace(&mut self.lock().begun, true) {
            return Ok(());
        }
        let theirs = self.clone();
        let thread = thread::Builder::new().name("har-log".to_owned()).stack_size(STACK);
        let started = thread.spawn(move || theirs.run(&mut out, lost));
        self.lock().begun = started.is_ok();
        started.map(drop)
    }

    /// Waits until everything is written, no longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let left = |waiting: &mut Waiting| waiting.writing || !waiting.is_empty();
        // What is left then is lost with the process.
        let _ = self.0.emptied.wait_timeout_while(self.lock(), patience, left);
    }

    fn run(&self, out: &mut impl Write, lost: impl Fn(u64) -> String) {
        let mut text = Vec::new();
        let mut failed = 0;
        loop {
            let dropped = {
                let empty = |waiting: &mut Waiting| waiting.is_empty();
                let mut waiting = self.0.filled.wait_while(self.lock(), empty).unwrap_or_else(PoisonError::into_inner);
                waiting.writing = true;
                mem::swap(&mut text, &mut waiting.text);
                mem::take(&mut waiting.lost)
            };
            failed = say(out, failed, &lost);
            failed += pieces(&text).filter(|piece| out.write_all(piece).is_err()).map(count).sum::<u64>();
            failed = say(out, failed + dropped, &lost);
            text.clear();
            text.shrink_to(PIECE);
            let mut waiting = self.lock();
            waiting.writing = false;
            if waiting.is_empty() {
                self.0.emptied.notify_all();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Queue {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says that lines were lost. Those of which that could not be said.
fn say(out: &mut impl Write, lost: u64, words: &impl Fn(u64) -> String) -> u64 {
    if lost == 0 || out.write_all(words(lost).as_bytes()).is_ok() { 0 } else { lost }
}

/// Whole lines, as many as fit in a piece, or one that is longer.
fn pieces(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let fitting = text[..text.len().min(PIECE)].iter().rposition(|&byte| byte == b'\n');
        let last = fitting.or_else(|| text.iter().position(|&byte| byte == b'\n'));
        let (piece, rest) = text.split_at(last.map_or(text.len(), |last| last + 1));
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Writes what it is given once that is taken from it.
    struct Reluctant {
        offered: Sender<Vec<u8>>,
        taken: Receiver<io::Result<()>>,
    }

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.offered.send(bytes.to_vec());
            // The test is over when nobody answers.
            self.taken.recv().unwrap_or(Ok(())).map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn begun() -> (Queue, Receiver<Vec<u8>>, Sender<io::Result<()>>) {
        let ((offered, offers), (take, taken)) = (channel(), channel());
        let queue = Queue::default();
        queue.push(b"early\n");
        queue.begin(Reluctant { offered, taken }, |lost| format!("{lost} lost\n")).unwrap();
        (queue, offers, take)
    }

    #[test]
    fn who_does_not_read_stops_nobody_and_what_is_lost_is_counted_in_its_place() {
        let (queue, offers, take) = begun();
        let next = || offers.recv_timeout(LONG).unwrap();
        assert_eq!(next(), b"early\n");
        let begin = Instant::now();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let fitting = ROOM / line.len();
        (0..fitting + 3).for_each(|_| queue.push(&line));
        queue.push(b"short, two\nlines\n");
        assert!(begin.elapsed() < LONG);
        let begin = Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(begin.elapsed() >= Duration::from_millis(50), "it is not written");
        take.send(Ok(())).unwrap();
        let mut seen = 0;
        let lost = loop {
            let piece = next();
            take.send(Ok(())).unwrap();
            if piece.ends_with(b"lost\n") {
                break piece;
            }
            assert!(piece.len() <= PIECE && piece.ends_with(b"x\n"));
            seen += piece.len() / line.len();
        };
        assert_eq!((seen, lost.as_slice()), (fitting, &b"5 lost\n"[..]));
        queue.push(b"later\n");
        assert_eq!(next(), b"later\n");
        take.send(Ok(())).unwrap();
        let begin = Instant::now();
        queue.flush(LONG);
        assert!(begin.elapsed() < LONG && !queue.lock().writing && queue.lock().is_empty());
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted_until_it_can_be_said() {
        let (queue, offers, take) = begun();
        let next = || offers.recv_timeout(LONG).unwrap();
        let refusal = || Err(io::ErrorKind::BrokenPipe.into());
        for (expected, answer) in [("early\n", refusal()), ("1 lost\n", refusal())] {
            assert_eq!(next(), expected.as_bytes());
            take.send(answer).unwrap();
        }
        queue.push(b"later\n");
        for expected in ["1 lost\n", "later\n"] {
            assert_eq!(next(), expected.as_bytes());
            take.send(Ok(())).unwrap();
        }
    }

    #[test]
    fn a_piece_is_whole_lines() {
        let long = [&[b'x'; PIECE][..], b"\n"].concat();
        let text = [b"one\n", &long[..], b"two\nthree\n"].concat();
        let found: Vec<&[u8]> = pieces(&text).collect();
        assert_eq!(found, [b"one\n", &long[..], b"two\nthree\n"]);
        assert_eq!(pieces(b"").count(), 0);
    }
}
