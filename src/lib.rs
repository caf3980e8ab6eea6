//! har: a host's own DNS daemon.

pub mod commands;
pub mod config;
pub mod dns;
pub mod health;
pub mod mailbox;
pub mod poll;
pub mod serve;
pub mod store;
