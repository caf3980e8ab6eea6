//! What the state file had counted before it could be read.
//!
//! A file that is locked or out of reach while har starts is read as soon as it can be. Until then everything is
//! counted from 0; from then on what the file held is added to each counter that is written, so that no
//! count is lost and none is counted twice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::batch::{EndpointKey, NameCounters, Pending, UpstreamRow};
use super::load::Stored;
use crate::health::EndpointRecord;

/// Counters to be added to those of this process; empty where the file was read at the start.
#[derive(Default)]
pub(super) struct Base {
    names: HashMap<Arc<str>, NameCounters>,
    endpoints: HashMap<EndpointKey, ([u64; 7], u64)>,
    upstreams: HashMap<(SocketAddr, String), [u64; 4]>,
    counters: HashMap<String, u64>,
}

impl Base {
    /// All counters of a file.
    pub fn of(stored: Stored) -> Base {
        let times: HashMap<EndpointKey, u64> = stored.times_chosen.into_iter().collect();
        let endpoint = |record: &EndpointRecord| {
            let key = EndpointKey::of(record);
            let times = times.get(&key).copied().unwrap_or_default();
            (key, (record.counts, times))
        };
        Base {
            names: stored.names.into_iter().map(|(row, counters)| (row.name, counters)).collect(),
            endpoints: stored.endpoints.iter().map(endpoint).collect(),
            upstreams: stored
                .upstreams
                .into_iter()
                .map(|row| ((row.address, row.route), [row.queries, row.answers, row.timeouts, row.servfail]))
                .collect(),
            counters: stored.counters.into_iter().collect(),
        }
    }

    /// Counters of a name, in all.
    pub fn name(&self, name: &str, counted: &NameCounters) -> NameCounters {
        let mut sum = counted.clone();
        if let Some(before) = self.names.get(name) {
            add(&mut sum.queries, &before.queries);
            add(&mut sum.answers, &before.answers);
        }
        sum
    }

    /// Results of an address by outcome, in all.
    pub fn outcomes(&self, record: &EndpointRecord) -> [u64; 7] {
        let mut sum = record.counts;
        if !self.endpoints.is_empty()
            && let Some((before, _)) = self.endpoints.get(&EndpointKey::of(record))
        {
            add(&mut sum, before);
        }
        sum
    }

    /// How often an address was chosen, in all.
    pub fn times_chosen(&self, key: &EndpointKey, times: u64) -> u64 {
        times + self.endpoints.get(key).map_or(0, |(_, before)| *before)
    }

    /// Queries, answers, time-outs and SERVFAILs of an upstream, in all.
    pub fn upstream(&self, row: &UpstreamRow) -> [u64; 4] {
        let mut sum = [row.queries, row.answers, row.timeouts, row.servfail];
        if let Some(before) = self.upstreams.get(&(row.address, row.route.clone())) {
            add(&mut sum, before);
        }
        sum
    }

    /// A total, in all.
    pub fn counter(&self, key: &str, value: u64) -> u64 {
        value + self.counters.get(key).copied().unwrap_or_default()
    }

    /// A name or an address that is gone and comes back begins at 0.
    pub fn forget_removed(&mut self, pending: &Pending) {
        if pending.complete {
            self.names.retain(|name, _| pending.names.contains_key(name));
        }
        for (key, _) in pending.endpoints.iter().filter(|(_, record)| record.is_none()) {
            self.endpoints.remove(key);
        }
    }
}

fn add(sum: &mut [u64], before: &[u64]) {
    for (count, before) in sum.iter_mut().zip(before) {
        *count += before;
    }
}
