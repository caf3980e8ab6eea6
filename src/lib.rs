//! har: a host's own DNS daemon.

pub mod config;
pub mod dns;
pub mod health;
pub mod mailbox;
pub mod os;
pub mod poll;
pub mod serve;
pub mod store;
