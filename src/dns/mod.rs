//! PURE. Bytes and names: reading queries, answering them, forwarding them.
//!
//! No sockets, files, threads, environment, `log`, random source or clock in here: time comes in as
//! `now`, randomness as an argument, storage as a buffer to write into. `serve` is the shell that owns the
//! sockets; a test reads these sources and fails on a breach.
//!
//! [`name`] and [`wire`] read and write messages, [`table`] finds names, [`snapshot`] holds the configured ones
//! compiled to ready-to-send answers, [`lines`] what most queries need of a name, [`answer`] decides what becomes of a query, [`inflight`] is the forwarder's core,
//! [`stream`] is one DNS-over-TCP connection.

pub mod answer;
pub mod given;
pub mod inflight;
pub mod lines;
pub mod name;
pub mod snapshot;
pub mod stream;
pub mod table;
pub mod wire;

pub use name::{HostName, LOOP_TEST, NameError};
