//! What containers and pods are given: a loopback address leads them to themselves, not to this host's har.

use std::net::IpAddr;

use super::finding::Finding;
use super::resolv_conf::{self, ResolvConf, is_stub};
use super::root::{Content, Files, Seen};
use super::{PAGE, Scene};

/// The engine's configuration file (dockerd(8)).
const DOCKER: &str = "/etc/docker/daemon.json";
/// Where distributions and kubeadm put the kubelet's.
const KUBELET: [&str; 2] = ["/var/lib/kubelet/config.yaml", "/etc/kubernetes/kubelet-config.yaml"];
/// Where its command line is added to.
const KUBELET_FLAGS: [&str; 2] = ["/etc/default/kubelet", "/etc/sysconfig/kubelet"];
/// In the order in which they are read (containers.conf(5)).
const PODMAN: [&str; 2] = ["/usr/share/containers/containers.conf", "/etc/containers/containers.conf"];

/// Says what is wrong for containers.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    docker(scene, out);
    podman(scene, out);
    kubelet(scene, out);
}

/// Files that the files above name.
pub fn named_files(files: &Files) -> Vec<String> {
    kubelet_file(files).map(|(_, file)| file).into_iter().collect()
}

/// Whether containers that get this host's resolv.conf are left with nothing: engines drop loopback addresses. Where
/// systemd-resolved's stub is named, its list of servers is taken instead.
fn is_left_with_nothing(scene: &Scene<'_>) -> bool {
    let servers = &scene.resolv.servers;
    let from_resolved = servers.len() == 1 && is_stub(servers[0].0);
    let taken = if from_resolved {
        ResolvConf::parse(scene.facts.files.text("/run/systemd/resolve/resolv.conf").unwrap_or_default()).servers
    } else {
        servers.clone()
    };
    taken.iter().all(|(address, _)| address.is_loopback())
}

fn docker(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let files = &scene.facts.files;
    if !files.has("/usr/bin/dockerd") && !scene.facts.runs("dockerd") && !files.has(DOCKER) {
        return;
    }
    let document: serde_json::Value = match serde_json::from_str(files.text(DOCKER).unwrap_or("{}")) {
        Ok(document) => document,
        Err(error) => {
            out.push(
                Finding::problem("docker-json", DOCKER, format!("it is not valid JSON: {error}"))
                    .why("dockerd does not start with it")
                    .mend("dockerd --validate --config-file /etc/docker/daemon.json"),
            );
            return;
        }
    };
    let listed = document.get("dns").and_then(|dns| dns.as_array()).cloned().unwrap_or_default();
    let servers: Vec<&str> = listed.iter().filter_map(|server| server.as_str()).collect();
    judge(
        scene,
        &Engine { id: "docker-dns", name: "Docker", place: DOCKER, file: "docker-daemon.json" },
        &servers,
        out,
    );
}

fn podman(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let files = &scene.facts.files;
    if !files.has("/usr/bin/podman") {
        return;
    }
    let read = PODMAN
        .iter()
        .filter_map(|path| files.get(path))
        .chain(files.below("/etc/containers/containers.conf.d", ".conf"));
    let named = |seen: &Seen| {
        let table: toml::Table = seen.text()?.parse().ok()?;
        Some(table.get("containers")?.get("dns_servers")?.as_array()?.clone())
    };
    let listed = read.filter_map(named).last().unwrap_or_default();
    let servers: Vec<&str> = listed.iter().filter_map(|server| server.as_str()).collect();
    let engine = Engine { id: "podman-dns", name: "Podman", place: PODMAN[1], file: "containers.conf" };
    judge(scene, &engine, &servers, out);
}

/// A container engine.
struct Engine {
    id: &'static str,
    name: &'static str,
    place: &'static str,
    /// Below packaging/integration.
    file: &'static str,
}

/// What containers get: the servers stated for them, else what is left of this host's resolv.conf.
fn judge(scene: &Scene<'_>, engine: &Engine, servers: &[&str], out: &mut Vec<Finding>) {
    let Engine { id, name, place, file } = *engine;
    let loopback = servers.iter().find(|server| server.parse().is_ok_and(|address: IpAddr| address.is_loopback()));
    if let Some(server) = loopback {
        out.push(
            Finding::problem(id, place, format!("{name} gives containers {server}, which is their own loopback"))
                .why("nobody answers there: containers resolve nothing")
                .mend(format!("name the real servers, as in packaging/integration/{file}; {PAGE}")),
        );
    } else if !servers.is_empty() {
        out.push(Finding::ok(id, place, format!("{name} gives containers {}", servers.join(", "))));
    } else if is_left_with_nothing(scene) {
        out.push(
            Finding::warning(id, place, format!("{name} is told no DNS servers, and resolv.conf names loopback alone"))
                .why(match name {
                    "Docker" => {
                        "loopback is dropped from containers' resolv.conf and 8.8.8.8 and 8.8.4.4 are put in its place"
                    }
                    _ => "loopback is of no use to containers on a bridge network",
                })
                .mend(format!("name the real servers, as in packaging/integration/{file}; {PAGE}")),
        );
    } else {
        out.push(Finding::ok(
            id,
            place,
            format!("{name} gives containers the servers of this host that are not loopback"),
        ));
    }
}

/// Where the kubelet takes pods' resolv.conf from, and where that is said.
fn kubelet_file(files: &Files) -> Option<(String, String)> {
    let seen = KUBELET.iter().find_map(|path| files.get(path))?;
    let flag = KUBELET_FLAGS.iter().filter_map(|path| files.get(path)).find_map(|seen| {
        let rest = seen.text()?.split_once("--resolv-conf=")?.1;
        Some((seen.path.clone(), rest.split([' ', '"', '\'', '\n']).next()?.to_owned()))
    });
    let key = || {
        let (number, value) = seen
            .text()?
            .lines()
            .enumerate()
            .find_map(|(number, line)| Some((number, line.strip_prefix("resolvConf:")?.split(" #").next()?)))?;
        Some((format!("{}:{}", seen.path, number + 1), value.trim().trim_matches(['"', '\'']).to_owned()))
    };
    flag.or_else(key).or_else(|| Some((seen.path.clone(), resolv_conf::PATH.to_owned())))
}

fn kubelet(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let files = &scene.facts.files;
    let Some((place, file)) = kubelet_file(files) else { return };
    let file_found = files.get(&file).filter(|seen| seen.content != Content::Nothing);
    let Some(text) = file_found.and_then(|seen| seen.text()) else {
        out.push(
            Finding::problem("kubelet-resolv-conf", place, format!("resolvConf is {file}, which cannot be read"))
                .why("the kubelet starts no pod without it")
                .mend("name a file with the real servers, as in packaging/integration/kubelet.yaml"),
        );
        return;
    };
    match ResolvConf::parse(text).servers.iter().find(|(address, _)| address.is_loopback()) {
        Some((address, _)) => out.push(
            Finding::problem("kubelet-resolv-conf", place, format!("pods get {file}, which names {address}"))
                .why("in a pod that is the pod itself: CoreDNS finds a loop and stops, pods with dnsPolicy Default resolve nothing")
                .mend(format!("resolvConf: a file with the real servers, as in packaging/integration/kubelet.yaml; {PAGE}")),
        ),
        None => out.push(Finding::ok("kubelet-resolv-conf", place, format!("pods get {file}, without loopback addresses"))),
    }
}
