//! Process tests: the built binary, started as users start it, between scripted peers.
//!
//! One file a subject; `harness/` starts the daemon and plays its upstream, its checked servers and its
//! service manager. Nothing leaves the loopback interface.

mod answers;
mod candidates;
mod cold;
mod compatibility;
mod config;
mod demo;
mod failover;
mod families;
mod forward;
mod harness;
mod health;
mod host;
mod hostile;
mod localnet;
mod names;
mod notify;
mod packaging;
mod policies;
mod privileges;
mod project;
mod regression;
mod reload;
mod resolution;
mod restart;
mod schedule;
mod sockets;
mod state;
mod stop;
mod tls;
