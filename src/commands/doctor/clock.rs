//! The wall clock, by which certificates and overrides are judged.

use super::Scene;
use super::finding::Finding;
use crate::config::{CheckKind, Config};
use crate::health::Time;

/// Programs that keep a clock right, as the kernel names them.
const KEEPERS: [&str; 8] =
    ["systemd-timesyncd", "chronyd", "ntpd", "ntpd-rs", "ntp-daemon", "openntpd", "ptp4l", "phc2sys"];
/// A time before this version of har was written is wrong: 2025-01-01.
const NOT_BEFORE: Time = Time(1_735_689_600_000);

/// Says what is wrong with it.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    if scene.facts.now < NOT_BEFORE {
        out.push(
            Finding::problem("clock-wrong", "clock", "the clock shows a time before 2025")
                .why("certificates count as not yet valid, so that TLS checks fail; overrides end at the wrong time")
                .mend("set it: `timedatectl set-ntp true`, or chronyd"),
        );
        return;
    }
    // Where another than systemd starts things, or in a container, the clock is somebody else's business.
    if !scene.facts.files.has("/run/systemd/system") || !scene.config.is_some_and(verifies) {
        return;
    }
    if !KEEPERS.iter().any(|keeper| scene.facts.runs(keeper)) {
        out.push(
            Finding::hint("clock-unkept", "clock", "no program is known to keep the clock right")
                .why("checks verify certificates, which fail once the clock is far off")
                .mend("systemctl enable --now systemd-timesyncd, or chronyd; in a container or virtual machine the host may do it"),
        );
    } else if scene.facts.runs("systemd-timesyncd") && !scene.facts.files.has("/run/systemd/timesync/synchronized") {
        out.push(
            Finding::hint("clock-unsynchronized", "systemd-timesyncd", "it runs and has not reached a time server yet")
                .why("checks verify certificates, which fail while the clock is far off")
                .mend("timedatectl timesync-status; its server's name is itself looked up through har"),
        );
    } else {
        out.push(Finding::ok("clock", "clock", "a program keeps it right"));
    }
}

/// Whether a check looks at a certificate's dates.
fn verifies(config: &Config) -> bool {
    let checks = config.names.iter().flat_map(|name| &name.candidates).flat_map(|candidate| candidate.checks.iter());
    checks.into_iter().any(|check| match &check.kind {
        CheckKind::Http(http) => http.tls && http.trust.verify,
        CheckKind::Tls(_) => true,
        _ => false,
    })
}
