//! With the socket unit a restart loses no query, and har has no capability.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{HAR, on_a_machine};
use crate::harness::load::{Fast, Manner, load};
use crate::harness::machine::Machine;

/// Queries a second, and how many in one go.
const RATE: u64 = 500;
const COUNT: usize = 500;

const RESTARTS: usize = 5;

fn install(machine: &Machine) {
    machine.sh("dpkg -i --path-include='/usr/share/doc/*' /run/share/har-0.1.0.deb
        mkdir -p /etc/systemd/system/har.service.d
        cp /usr/share/doc/har/packaging/har.service.d/socket.conf /etc/systemd/system/har.service.d/
        printf '[upstream]\\nservers = [\"127.0.0.8:53\"]\\n' >/etc/har/har.toml
        systemctl daemon-reload
        systemctl enable --now har.socket har.service");
}

#[test]
fn a_restart_loses_no_query() {
    on_a_machine(&["dpkg"], |machine, _upstream| {
        let upstream = Fast::start_at("127.0.0.8:53", Manner::Answer);
        install(machine);
        for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(machine.status(set).trim_start_matches('0'), "", "{set}");
        }
        let mut processes = vec![machine.pid()];
        let enough = AtomicBool::new(false);
        let measured: Vec<_> = thread::scope(|scope| {
            // As long as it takes, so that every restart is under load.
            let client = scope.spawn(|| {
                let more = || {
                    (!enough.load(Ordering::SeqCst))
                        .then(|| load(HAR.parse().expect("an address"), RATE, COUNT, |_| {}))
                };
                std::iter::from_fn(more).collect()
            });
            for _ in 0..RESTARTS {
                // Under load for a while, each of them.
                let before = upstream.count();
                crate::harness::wait_for("queries of this daemon", || (upstream.count() > before + 100).then_some(()));
                machine.sh("systemctl restart har.service");
                processes.push(machine.pid());
            }
            enough.store(true, Ordering::SeqCst);
            client.join().expect("the client does not panic")
        });
        processes.sort_unstable();
        processes.dedup();
        assert_eq!(processes.len(), RESTARTS + 1, "each restart made another process");
        for part in &measured {
            assert_eq!((part.answers.len(), part.lost, part.failed), (COUNT, 0, 0));
        }
        let longest = measured.iter().map(|part| part.percentile(100, Duration::ZERO, Duration::MAX)).max();
        eprintln!("{} queries, {RESTARTS} restarts: the longest answer took {longest:?}", COUNT * measured.len());
    });
}
