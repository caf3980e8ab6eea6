//! The state file: SQLite, the operator's window and the memory of a restart.
//!
//! [`Store::open`] and [`Store::load`] give a starting daemon what the last one knew. [`Writer`] is the
//! thread that owns the connection from then on: it is handed [`Batch`] values and never makes anyone
//! wait. [`Reader`] is what the commands look through, and [`Overrides`] what they write with.
//!
//! Nothing that is wrong with the file stops answers: a damaged one is moved aside, one that cannot be
//! written is tried again while har goes on in memory. The one error is a folder that cannot be written
//! at start, since that is a mistake of the set-up.
//!
//! The journal is a write-ahead log while har runs, so that readers and har never wait for each other,
//! and a plain file after a clean stop, which another user can then open without write permission.

mod alarm;
mod base;
mod batch;
mod history;
mod load;
mod migrate;
mod open;
mod overrides;
mod prune;
mod reader;
mod repair;
mod save;
mod summary;
pub mod time;
mod writer;

pub use batch::{
    AnswerKind, Batch, CandidateRow, DaemonRow, EndpointKey, NameCounters, NameRow, ResultRow, UpstreamRow,
};
pub use history::{CheckedRow, SumRow, place_among};
pub use load::{Candidates, Stored};
pub use open::{OpenError, Opened, Store};
pub use overrides::{OverrideError, Overrides};
pub use reader::{EventRow, Life, ReadError, Reader, RecordedRow, TargetRow, Unreadable};
pub use repair::files_of;
pub use writer::{Hooks, Writer};

/// Rows of `check_result` at most, however long `history` is.
pub const RESULT_ROWS: i64 = 1_000_000;

/// Rows of `event` at most.
pub const EVENT_ROWS: i64 = 10_000;

/// Length of a slot of `check_summary`, seconds.
pub const SLOT_S: i64 = 300;

/// How long `check_summary` is kept, days.
pub const SUMMARY_DAYS: i64 = 30;

#[cfg(test)]
pub(crate) mod tests;
