//! What passes between the poller and the other threads: its inbox, what it publishes, and what it asks of the event loop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::jobs::Done;
use super::loops::Traffic;
use super::pace::Extent;
use crate::config::Config;
use crate::dns::HostName;
use crate::dns::lines::NameTable;
use crate::dns::snapshot::NameAnswer;
use crate::health::{Override, Time};
use crate::os::Listener;
use crate::store::Batch;

/// What the poller's inbox holds.
pub enum Message {
    /// A worker has finished.
    Done(Done),
    /// The override table, read again.
    Overrides {
        /// All rows.
        rows: Vec<Override>,
        /// Those that make no sense, in words.
        ignored: Vec<String>,
    },
    /// The state file was begun anew: everything has to be written again.
    WriteAll,
    /// What is wrong with the state file now; `None` = nothing any more.
    StoreTrouble(Option<String>),
    /// Read the configuration again.
    Reload,
    /// A name that is idle was asked for.
    Asked {
        /// The table it belongs to: how many had been published before it, the first one included.
        generation: u64,
        /// Index in the configuration.
        name: u32,
    },
    /// A name that only har asks for came back: its upstream asks har.
    Returned {
        /// The name.
        probe: HostName,
    },
    /// This host's addresses or routes changed.
    NetworkChanged,
    /// What a file that is followed leads to may have changed.
    FilesChanged,
    /// The clock jumped: perhaps the host slept.
    ClockJumped,
    /// The first query after a while without any.
    Traffic,
    /// Hand the last counters over and end.
    Stop,
}

impl Message {
    /// Whether it comes by itself all the time: what is new about it shows in what there is to write afterwards.
    pub(super) fn is_routine(&self) -> bool {
        matches!(self, Message::Done(Done::Checked { .. } | Done::LookedUpHalf { .. } | Done::LookedUp { .. }))
    }
}

/// What the poller has to say to the event loop.
pub enum Publication {
    /// One name's new answer.
    Answer {
        /// Index in the configuration last published.
        name: u32,
        /// Both families.
        answer: NameAnswer,
    },
    /// A new configuration with the answers of all its names.
    Table {
        /// What was loaded.
        config: Arc<Config>,
        /// One for each name.
        answers: Vec<NameAnswer>,
        /// The general upstream servers.
        servers: Vec<SocketAddr>,
        /// Those among all servers that are not to be asked.
        looping: Vec<SocketAddr>,
    },
    /// A reload was refused; the running configuration stays.
    ReloadRefused,
    /// A reload changes where har listens.
    Listeners {
        /// Bound already.
        add: Vec<Listener>,
        /// No longer listed.
        remove: Vec<SocketAddr>,
    },
    /// New general upstream servers, or others that may be asked.
    Servers {
        /// The general ones.
        servers: Vec<SocketAddr>,
        /// Those among all servers that are not to be asked.
        looping: Vec<SocketAddr>,
    },
    /// Names that har is about to ask its upstream for: who asks har for one of them is that upstream.
    Probes(Vec<HostName>),
    /// This host's addresses or its sleep make old sockets useless.
    Renew,
    /// Fresh state for every name, or patience is over.
    Ready,
    /// A line for a person.
    Status(String),
}

/// From names to when each was last asked for; `None` = never.
pub type LastAsked = dyn FnMut(&[usize]) -> Vec<Option<Time>> + Send;

/// Adds the event loop's counters to a batch.
pub type Collect = dyn FnMut(&mut Batch, Extent) -> Heard + Send;

/// Marks names.
pub type Rest = dyn FnMut(&[usize]) + Send;

/// The poller's way to the event loop, which is made after it.
pub struct Link {
    /// Hands over what is new. Must not block.
    pub publish: Box<dyn Fn(Publication) + Send>,
    /// A sign of life for the watchdog, with the time until the next one.
    pub beat: Box<dyn Fn(Duration) + Send>,
    /// From now on [`Message::FilesChanged`] tells of these paths. `false` when it may not.
    pub watch_files: Box<dyn Fn(Vec<PathBuf>) -> bool + Send>,
    /// Adds the event loop's counters to a batch, and tells what goes on.
    pub collect: Box<Collect>,
    /// Whether an upstream beyond loopback answered since this or `collect` was last called.
    pub heard: Box<dyn FnMut() -> bool + Send>,
    /// The answers and counters of the names of the configuration last published.
    pub table: Box<dyn Fn() -> Arc<NameTable> + Send>,
    /// When each of these names (indices in the configuration last published) was last asked for in this process.
    pub asked: Box<LastAsked>,
    /// These names rest: the next query for one comes back at once as [`Message::Asked`].
    pub rest: Box<Rest>,
}

/// What goes on in the event loop.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// An upstream beyond loopback answered since the last call.
    pub beyond_loopback: bool,
    /// How forwarding goes, since the start.
    pub traffic: Traffic,
    /// Names of which something was counted since the last call that asked for names, by index.
    pub moved: Vec<usize>,
}
