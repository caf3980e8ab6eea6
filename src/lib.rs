//! har: a host's own DNS daemon.

pub mod dns;
pub mod health;
