//! Process tests: the built binary, started as users start it, between scripted peers.
//!
//! One file a subject; `harness/` starts the daemon and plays its upstream, its checked servers and its
//! service manager. Nothing leaves the loopback interface.

mod answers;
mod candidates;
mod checks_exec;
mod checks_http;
mod checks_postgres;
mod checks_redis;
mod checks_tcp;
mod checks_time;
mod checks_tls;
mod cold;
mod compatibility;
mod config;
mod demo;
mod discover;
mod explain;
mod failover;
mod families;
mod flood;
mod forward;
mod harness;
mod health;
mod host;
mod hostile;
mod instructions;
mod letter;
mod localnet;
mod loops;
mod names;
mod network;
mod notify;
mod overrides;
mod packaging;
mod policies;
mod privileges;
mod probe;
mod project;
mod regression;
mod reload;
mod resolution;
mod restart;
mod schedule;
mod servers;
mod sockets;
mod state;
mod statefile_commands;
mod statefile_counters;
mod statefile_kill;
mod statefile_trouble;
mod stop;
mod tcp;
mod tls;
mod upstreams;
