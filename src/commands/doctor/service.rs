//! How har is started, and what it may use: the unit, the right to port 53, open files, local ports.

use super::Scene;
use super::finding::Finding;
use super::ini::{self, Line};
use super::root::{Content, Files, Seen};
use crate::config::defaults;

/// Where units are, the first one wins (systemd.unit(5)).
const FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Descriptors beside connections and forwarded queries: listeners, the state file, checks under way.
const OTHER_FILES: u64 = 256;

/// Says what is wrong with the service.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    // Without systemd, whoever starts har is not known here.
    if scene.facts.files.has("/run/systemd/system") {
        unit(scene, out);
    }
    open_files(scene, out);
    local_ports(scene, out);
}

fn find<'a>(files: &'a Files, name: &str) -> Option<&'a Seen> {
    FOLDERS.iter().find_map(|folder| files.get(&format!("{folder}/{name}")))
}

/// Whether a unit is wanted by some target at boot.
fn is_enabled(files: &Files, name: &str) -> bool {
    let wanted = |folder: &str| folder.ends_with(".wants") || folder.ends_with(".requires");
    files
        .below(FOLDERS[0], name)
        .any(|seen| seen.path.rsplit_once('/').is_some_and(|(folder, file)| file == name && wanted(folder)))
}

fn unit(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let files = &scene.facts.files;
    let Some(service) = find(files, "har.service") else {
        out.push(
            Finding::warning("no-unit", "har.service", "systemd does not know it")
                .why("nobody starts har at boot, or again after a crash")
                .mend(
                    "copy packaging/har.service to /usr/lib/systemd/system, then `systemctl enable --now har.service`",
                ),
        );
        return;
    };
    if service.link.as_deref() == Some("/dev/null") {
        out.push(
            Finding::problem("unit-masked", &service.path, "the unit is masked")
                .why("systemd refuses to start it, at boot too")
                .mend("systemctl unmask har.service"),
        );
        return;
    }
    let before = out.len();
    let socket = is_enabled(files, "har.socket");
    if !is_enabled(files, "har.service") && !socket {
        out.push(
            Finding::warning("unit-disabled", &service.path, "the unit is not enabled")
                .why("after the next boot nobody answers on this host")
                .mend("systemctl enable har.service"),
        );
    }
    let lines = unit_lines(files).unwrap_or_default();
    capability(scene, &lines, service, socket, out);
    started_with(scene, &lines, out);
    if out.len() == before {
        out.push(Finding::ok("unit", &service.path, "enabled, and may bind port 53"));
    }
}

/// The right to bind a port below 1024.
fn capability(scene: &Scene<'_>, lines: &[Line], service: &Seen, socket: bool, out: &mut Vec<Finding>) {
    let user = ini::last(lines, "Service", "User").map_or("root", |line| line.value.as_str());
    let least = scene.facts.number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    let low = scene.facts.listen().iter().any(|address| u64::from(address.port()) < least);
    let has =
        |key: &str| lines.iter().filter(|line| line.key == key).any(|line| line.value.contains("CAP_NET_BIND_SERVICE"));
    // Root is held to the bounding set alone.
    let bounded = lines.iter().any(|line| line.key == "CapabilityBoundingSet" && !line.value.starts_with('~'));
    let may = if user == "root" || user == "0" {
        !bounded || has("CapabilityBoundingSet")
    } else {
        has("AmbientCapabilities")
    };
    if low && !socket && !may {
        out.push(
            Finding::problem(
                "unit-capability",
                &service.path,
                format!("it starts har as {user} without CAP_NET_BIND_SERVICE"),
            )
            .why("har cannot bind port 53 and does not start")
            .mend("AmbientCapabilities=CAP_NET_BIND_SERVICE, as in packaging/har.service, or har.socket"),
        );
    }
}

/// All lines of the unit in effect.
fn unit_lines(files: &Files) -> Option<Vec<Line>> {
    let service = find(files, "har.service")?;
    Some(ini::read(files, &[service.path.as_str()], &["/etc/systemd/system/har.service.d"]))
}

/// Whom the unit starts har as; `None` when it says nothing, or not in so many words.
pub fn user(files: &Files) -> Option<String> {
    let lines = unit_lines(files)?;
    ini::last(&lines, "Service", "User").map(|line| line.value.clone()).filter(|user| !user.contains('%'))
}

/// The configuration that the unit starts har with.
pub fn config(files: &Files) -> Option<String> {
    let lines = unit_lines(files)?;
    ini::last(&lines, "Service", "ExecStart").map(|line| named(line).to_owned())
}

/// The configuration that a command line names.
fn named(line: &Line) -> &str {
    let mut words = line.value.split_whitespace().skip_while(|word| !word.starts_with("--config"));
    let named = words.next().and_then(|word| word.strip_prefix("--config=").or_else(|| words.next()));
    named.unwrap_or(defaults::CONFIG)
}

/// The configuration that the unit names.
fn started_with(scene: &Scene<'_>, lines: &[Line], out: &mut Vec<Finding>) {
    let Some(line) = ini::last(lines, "Service", "ExecStart") else { return };
    let named = named(line);
    if !scene.facts.is_same(named, &scene.config_shown()) {
        out.push(
            Finding::warning("unit-config", &line.place, format!("the unit starts har with {named}"))
                .why("this is not the file that was looked at here")
                .mend(format!("har doctor --config {named}")),
        );
    }
}

/// The soft limit of a process's open files (`/proc/PID/limits`).
fn limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_files(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let (Some(config), Some(seen)) = (scene.config, &scene.facts.limits) else { return };
    let Content::Text(text) = &seen.content else { return };
    let needed = (config.server.max_forwards + config.server.tcp_connections) as u64 + OTHER_FILES;
    let Some(limit) = limit(text) else { return };
    if limit < needed {
        out.push(
            Finding::warning("open-files", &seen.path, format!("the daemon may open {limit} files"))
                .why(format!(
                    "max_forwards {} and tcp_connections {} need up to {needed}: under load queries get SERVFAIL",
                    config.server.max_forwards, config.server.tcp_connections
                ))
                .mend("LimitNOFILE=65536 in the unit, as in packaging/har.service, or lower the two"),
        );
    } else {
        out.push(Finding::ok(
            "open-files",
            &seen.path,
            format!("the daemon may open {limit} files, enough for {needed}"),
        ));
    }
}

/// Each forwarded query has a local port of its own.
fn local_ports(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let Some(config) = scene.config else { return };
    let text = scene.facts.files.text(PATH).unwrap_or_default();
    let mut bounds = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let (Some(low), Some(high)) = (bounds.next(), bounds.next()) else { return };
    let ports = high.saturating_sub(low) + 1;
    // Twice: a query that is sent again has a second port, and other programs need some.
    if ports < 2 * config.server.max_forwards as u64 {
        out.push(
            Finding::warning("local-ports", PATH, format!("{ports} local ports ({low} to {high})"))
                .why(format!(
                    "max_forwards {} needs a port for each query under way, and few ports are easy to guess",
                    config.server.max_forwards
                ))
                .mend("sysctl net.ipv4.ip_local_port_range=\"32768 60999\", or lower max_forwards"),
        );
    }
}
