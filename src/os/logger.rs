//! The log: lines on standard error, for a person or for journald.
//!
//! Under systemd each line begins with `<N>`, the syslog priority (sd-daemon(3)), and has no time, which journald adds.
//! Otherwise a line begins with the time in UTC. `RUST_LOG` overrides the configured level, also after a reload.
//! Other crates' lines appear from warnings on: their debug lines may hold what a URL hides.
//!
//! Nobody who logs waits for who reads: lines pass through a queue to a thread that writes them. What ends the
//! process gives that thread a moment to finish.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use env_logger::{Builder, Target};
use log::{Level, LevelFilter, Record};
use queue::Queue;

/// How long the end of the process waits for its last lines: who reads takes them at once, who does not never will.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// The running logger.
#[derive(Clone, Debug)]
pub struct Logger {
    /// `RUST_LOG` decides, not the configuration.
    overridden: bool,
    queue: Queue,
    /// systemd reads it.
    journal: bool,
}

impl Logger {
    /// Takes lines from now on, which wait for [`Logger::begin`] or [`Logger::finish`]. A second logger in a process is
    /// not started: the first one goes on.
    pub fn start(level: LevelFilter) -> Logger {
        let overriding = env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
        let mut builder = Builder::new();
        match &overriding {
            Some(filters) => builder.parse_filters(filters),
            None => builder.filter_level(LevelFilter::Warn).filter_module("har", LevelFilter::Trace),
        };
        let (queue, journal) = (Queue::default(), is_journal());
        let target = Target::Pipe(Box::new(queue.clone()));
        builder.target(target).format(move |out, record| write_record(out, record, journal));
        let logger = Logger { overridden: overriding.is_some(), queue, journal };
        if builder.try_init().is_ok() {
            logger.set_level(level);
            logger.tell_panics();
        }
        logger
    }

    /// Starts the thread that writes, once. A thread keeps the rights that it began with: to be called when those of the
    /// process are as they stay.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn begin(&self) -> io::Result<()> {
        let journal = self.journal;
        let lost = move |count| {
            let prefix = prefix(Level::Warn, journal);
            format!("{prefix}lines of the log are lost, {count} of them: nobody took them from standard error\n")
        };
        self.queue.begin(io::stderr(), lost)
    }

    /// Waits a moment for what is not written yet: the process is about to end.
    pub fn finish(&self) {
        if self.begin().is_ok() {
            self.queue.flush(LAST_WAIT);
        }
    }

    /// A panic ends the process: its words go the way of the log, which does not keep it from ending.
    fn tell_panics(&self) {
        let logger = self.clone();
        panic::set_hook(Box::new(move |panic| {
            let thread = thread::current();
            let mut text = format!("thread '{}' {panic}", thread.name().unwrap_or("?"));
            let trace = Backtrace::capture();
            if trace.status() == BacktraceStatus::Captured {
                text += &format!("\n{trace}");
            }
            let prefix = prefix(Level::Error, logger.journal);
            let lines: String = text.lines().map(|line| format!("{prefix}{line}\n")).collect();
            logger.queue.push(lines.as_bytes());
            logger.finish();
        }));
    }

    /// Another level, after a reload.
    pub fn set_level(&self, level: LevelFilter) {
        if !self.overridden {
            log::set_max_level(level);
        }
    }
}

/// Whether systemd reads standard error.
fn is_journal() -> bool {
    if env::var_os("NOTIFY_SOCKET").is_some() {
        return true;
    }
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Says on standard error why the process ends, for as long as somebody takes it within a moment.
pub fn last_words(text: &str) {
    let text: Arc<str> = format!("{text}\n").into();
    let (done, waiting) = channel();
    let theirs = Arc::clone(&text);
    let write = move || {
        let _ = io::stderr().write_all(theirs.as_bytes());
        let _ = done.send(());
    };
    match thread::Builder::new().spawn(write) {
        Ok(_) => drop(waiting.recv_timeout(LAST_WAIT)),
        // A host that is out of threads is worth its word.
        Err(_) => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// What stands before each line.
fn prefix(level: Level, journal: bool) -> String {
    if journal {
        return format!("<{}>", priority(level));
    }
    let now = jiff::Timestamp::now();
    format!("{now:.3} {level:5} ")
}

/// Each line of a message with the whole prefix.
fn write_record(out: &mut impl Write, record: &Record<'_>, journal: bool) -> io::Result<()> {
    let prefix = prefix(record.level(), journal);
    let message = record.args().to_string();
    for line in message.lines() {
        writeln!(out, "{prefix}{line}")?;
    }
    Ok(())
}

/// Syslog priority (RFC 5424 section 6.2.1): error, warning, informational, debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(level: Level, journal: bool) -> String {
        let mut out = Vec::new();
        let record = Record::builder().level(level).args(format_args!("one\ntwo")).build();
        write_record(&mut out, &record, journal).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_line_has_the_prefix() {
        assert_eq!(written(Level::Warn, true), "<4>one\n<4>two\n");
        let text = written(Level::Error, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        for (line, end) in lines.iter().zip(["one", "two"]) {
            let (time, rest) = line.split_once(' ').unwrap();
            assert_eq!(rest, format!("ERROR {end}"));
            assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
            assert_eq!(time.len(), "2026-01-01T00:00:00.000Z".len());
        }
    }

    /// Set in the process that is to panic.
    const PANIC: &str = "HAR_TEST_PANIC";

    #[test]
    fn a_panic_is_the_last_of_all_lines() {
        if env::var_os(PANIC).is_some() {
            let logger = Logger::start(LevelFilter::Info);
            log::info!("before");
            logger.begin().unwrap();
            panic!("two\nlines");
        }
        let done = std::process::Command::new(env::current_exe().unwrap())
            .args(["--exact", "os::logger::tests::a_panic_is_the_last_of_all_lines", "--nocapture"])
            .env(PANIC, "1")
            .env("NOTIFY_SOCKET", "@har-nobody")
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with('<')).collect();
        assert!(!done.status.success() && lines.len() == 4, "{said}");
        assert_eq!((lines[0], &lines[2..]), ("<6>before", &["<3>two", "<3>lines"][..]), "{said}");
        assert!(lines[1].starts_with("<3>thread 'os::logger") && lines[1].contains("panicked at "), "{said}");
    }
}
