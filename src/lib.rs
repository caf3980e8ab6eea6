//! har: a host's own DNS daemon, for hosts that must not wait.
//!
//! This library is the whole program; `main.rs` only calls [`cli::main`]. Pure rooms decide, thin rooms do.
//!
//! **Two rooms are pure** and read like a textbook, values in and values out, with the time as an argument: [`dns`]
//! (bytes and names: reading queries, answering, forwarding, TCP framing) and [`health`] (who is up, how fast, who
//! is answered and why). Neither knows the other, neither may touch a socket, a file, a thread or a clock, and a test
//! reads their sources to keep it so.
//!
//! **Three rooms do the work around them.** [`serve`] is the event loop: it owns every DNS socket and never touches
//! a file. [`poll`] is the poller: it runs checks and look-ups on a bounded pool, hands what came of them to `health`
//! and publishes what changed. [`store`] is the state file and the one thread that writes it. [`daemon`] wires them:
//!
//! | thread | owns | waits on |
//! |---|---|---|
//! | server (the first) | DNS sockets, queries under way, the answers | `mio::Poll` |
//! | poller | every address's health, the schedule | its inbox |
//! | writer | the SQLite connection | its mailbox, and writes of others |
//! | watch | what the kernel announces: addresses, routes, files, a clock that jumps | those |
//! | log | lines for standard error | its queue |
//! | workers, bounded | one check, look-up or reload each | the network, with a deadline |
//!
//! A panic in any of them ends the process, since half a daemon is worse than a restart. Hostile input is never an
//! error but a verdict, and is counted, not logged.
//!
//! [`config`] is the configuration, complete and checked; [`os`] is what is needed of the system; [`mailbox`] hands
//! values between threads; [`cli`] and [`commands`] are what a person types. `docs/architecture.md` has the paths of a
//! query and of a check result through all of it.

pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod dns;
pub mod health;
pub mod mailbox;
pub mod os;
pub mod poll;
pub mod serve;
pub mod store;
