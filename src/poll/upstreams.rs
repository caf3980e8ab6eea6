//! What the poller does about the upstream servers: tells of a new list, tests for loops, leaves out who loops.

use std::net::SocketAddr;

use log::{info, warn};

use super::pace::BUSY;
use super::{LOOK_AT_FILES, Poller, Publication};
use crate::dns::HostName;
use crate::health::Time;

impl Poller {
    /// Has changes of the files that list servers told of, and looks at them once.
    pub(super) fn watch_files(&mut self, now: Time) {
        self.files_watched = (self.link.watch_files)(self.crew.followed_files().to_vec());
        self.follow(now);
    }

    /// Looks at the files that list servers, if there are any.
    pub(super) fn follow(&mut self, now: Time) {
        let pause = if self.files_watched { LOOK_AT_FILES } else { BUSY };
        self.next_follow = (!self.crew.followed_files().is_empty()).then(|| now.after(pause));
        self.crew.follow();
    }

    /// The list of upstream servers changed: what failed for want of one is tried again now.
    pub(super) fn new_servers(&mut self, now: Time) {
        info!("upstream servers: {}", shown(self.crew.servers()));
        self.loops.keep(&self.crew.tested());
        self.publish_servers();
        self.roster.check_everything(now);
        self.searches.discoveries.hasten_all(now);
        self.test_loops(now);
    }

    /// Tells everybody who asks which servers there are, and which of them are left out.
    pub(super) fn publish_servers(&mut self) {
        let (servers, looping) = (self.crew.servers().to_vec(), self.loops.found().to_vec());
        self.crew.set_looping(&looping);
        (self.link.publish)(Publication::Servers { servers, looping });
    }

    /// Asks every upstream server for a name of its own that nobody else would ask for.
    pub(super) fn test_loops(&mut self, now: Time) {
        self.loops.begin(&self.crew.tested(), now);
        self.ask_for_loops(now);
    }

    fn ask_for_loops(&mut self, now: Time) {
        let wave = self.loops.next_wave(now);
        if wave.is_empty() {
            return;
        }
        // The event loop must know the names before one of them can come back.
        self.publish_probes();
        for (server, name) in wave {
            self.crew.probe(server, name);
        }
    }

    fn publish_probes(&self) {
        (self.link.publish)(Publication::Probes(self.loops.names().cloned().collect()));
    }

    /// What follows from the time and the traffic.
    pub(super) fn watch_loops(&mut self, now: Time) {
        if self.loops.is_due(now) {
            self.test_loops(now);
        }
        self.ask_for_loops(now);
        if self.loops.forget(now) {
            self.publish_probes();
        }
    }

    /// An upstream server answered its test from somewhere else than har.
    pub(super) fn loop_ended(&mut self, server: SocketAddr, probe: &HostName) {
        if self.loops.answered(server, probe) {
            info!("the upstream {server} no longer sends har's own queries back: it is used again");
            self.publish_servers();
        }
    }

    /// An upstream server asked har for what har had asked it.
    pub(super) fn found_loop(&mut self, probe: &HostName, now: Time) {
        if let Some(server) = self.loops.returned(probe, now) {
            warn!(
                "the upstream {server} sends har's own queries back to har (a loop): it is not used until a test, \
                 every 60 s, says otherwise; it must forward elsewhere, or another upstream be named"
            );
            self.publish_servers();
        }
    }
}

/// Servers as a person reads them.
pub(super) fn shown(servers: &[SocketAddr]) -> String {
    let shown: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
    shown.join(", ")
}
