//! The log: lines on standard error, for a person or for journald.
//!
//! Under systemd each line begins with `<N>`, the syslog priority (sd-daemon(3)), and has no time, which journald adds.
//! Otherwise a line begins with the time in UTC. `RUST_LOG` overrides the configured level, also after a reload.
//! Other crates' lines appear from warnings on: their debug lines may hold what a URL hides.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use env_logger::{Builder, Target};
use log::{Level, LevelFilter, Record};

/// The running logger.
#[derive(Clone, Copy, Debug)]
pub struct Logger {
    /// `RUST_LOG` decides, not the configuration.
    overridden: bool,
}

impl Logger {
    /// Starts logging. A second logger in a process is not started: the first one goes on.
    pub fn start(level: LevelFilter) -> Logger {
        let overriding = env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
        let mut builder = Builder::new();
        match &overriding {
            Some(filters) => builder.parse_filters(filters),
            None => builder.filter_level(LevelFilter::Warn).filter_module("har", LevelFilter::Trace),
        };
        let journal = is_journal();
        builder.target(Target::Stderr).format(move |out, record| write_record(out, record, journal));
        let logger = Logger { overridden: overriding.is_some() };
        if builder.try_init().is_ok() {
            logger.set_level(level);
        }
        logger
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

/// One write for each line of a message, each with the whole prefix.
fn write_record(out: &mut impl Write, record: &Record<'_>, journal: bool) -> io::Result<()> {
    let prefix = if journal {
        format!("<{}>", priority(record.level()))
    } else {
        let now = jiff::Timestamp::now();
        format!("{now:.3} {:5} ", record.level())
    };
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
}
