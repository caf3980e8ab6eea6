//! The .deb: install, run, upgrade, remove, purge.

use std::net::UdpSocket;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::{
    ELSEWHERE, HAR, answer, configure, folder, has_what_is_to_be_copied, on_a_machine, once_built, until_answered,
};
use crate::harness::machine::Machine;

const UNTOUCHED: &str = "nameserver 127.0.0.9";

#[test]
fn a_deb_is_installed_upgraded_removed_and_purged() {
    on_a_machine(&["dpkg", "man", "sqlite3"], |machine, _upstream| {
        installs_beside_another_server(machine);
        is_started_by_the_operator(machine);
        upgrades_over_the_running_daemon(machine);
        keeps_a_daemon_that_the_new_version_could_not_start(machine);
        is_removed_and_purged(machine);
        assert_eq!(machine.sh("cat /etc/resolv.conf"), UNTOUCHED);
    });
}

#[test]
fn the_state_folder_is_made_handed_over_and_emptied() {
    on_a_machine(&["dpkg", "sqlite3"], |machine, _upstream| {
        // With systemd-sysusers alone.
        machine.sh("mv /usr/bin/systemd-tmpfiles /usr/bin/away; dpkg -i /run/share/har-0.1.0.deb");
        assert_eq!(machine.sh("stat -c '%U %G %a' /var/lib/har"), "har har 755");
        machine.sh("dpkg -P har; mv /usr/bin/away /usr/bin/systemd-tmpfiles");

        // What a har that root had started has left.
        machine.sh("mkdir /var/lib/har; : >/var/lib/har/har.db; dpkg -i /run/share/har-0.1.0.deb
            systemd-tmpfiles --create har.conf; systemctl start har.service");
        begun(machine);
        assert_eq!(machine.sh("stat -c %U /var/lib/har /var/lib/har/har.db"), "har\nhar");

        machine.sh("systemctl stop har.service; mount --bind /var/lib/har /var/lib/har; dpkg -P har");
        machine.sh("! dpkg-query -W har; test -z \"$(ls -A /var/lib/har)\"; test ! -e /etc/har");
    });
}

#[test]
fn lintian_finds_what_is_told_of_and_nothing_else() {
    if !once_built(&["lintian", "dpkg"]) {
        return;
    }
    let package = folder().join("har-0.1.0.deb");
    let output = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "none", "--tag-display-limit", "0"])
        .arg(&package)
        .output()
        .expect("lintian starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let tags = said.lines().filter_map(|line| {
        let (kind, rest) = line.split_once(": har: ")?;
        // The program of a test is stripped otherwise than a release.
        let tag = rest.split_whitespace().next()?;
        (matches!(kind, "E" | "W") && !rest.contains("[usr/bin/har]")).then(|| tag.to_owned())
    });
    let found: BTreeSet<String> = tags.collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/packages.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, section) = page.split_once("### What lintian says").expect("the section");
    let told =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(tag, _)| tag.to_owned()));
    // Older and newer lintians know other tags; what is told of and not found is no fault.
    let told: BTreeSet<String> = told.collect();
    assert!(told.len() >= 4 && found.is_subset(&told), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(found.contains("malformed-contact"), "it looked: {said}");
}

fn installs_beside_another_server(machine: &Machine) {
    let other = UdpSocket::bind(HAR).expect("the port is free");
    machine.sh("dpkg -i /run/share/har-0.1.0.deb");
    drop(other);
    assert_eq!(machine.run("systemctl is-active har.service har.socket").text.trim(), "inactive\ninactive");
    assert_eq!(machine.run("systemctl is-enabled har.service har.socket").text.trim(), "disabled\ndisabled");
    assert_eq!(machine.sh("stat -c '%U %a' /var/lib/har /etc/har /etc/har/har.toml"), "har 755\nroot 755\nroot 644");
    machine.sh("systemctl preset har.service har.socket 2>&1");
    let enabled = machine.run("systemctl is-enabled har.service har.socket").text;
    assert_eq!(enabled.trim(), "disabled\ndisabled", "an image's first boot sets all units to their presets");
    assert!(machine.sh("dpkg-query -W -f '${Conffiles}' har").contains("/etc/har/har.toml"));
    let files = machine.sh("dpkg -L har");
    assert!(files.contains("/usr/share/man/man8/har-drain.8.gz"));
    has_what_is_to_be_copied(&files);
    let page = "dpkg --fsys-tarfile /run/share/har-0.1.0.deb | tar -xC / ./usr/share/man"; // where dpkg leaves them out
    machine.sh(&format!("{page}; man -w 8 har har-drain; man -w 5 har.toml"));
    assert_eq!(machine.sh("systemd-analyze verify har.service har.socket 2>&1"), "");
    machine.sh("har check-config");
}

fn is_started_by_the_operator(machine: &Machine) {
    let other = UdpSocket::bind(HAR).expect("the port is free");
    assert!(!machine.run("systemctl start har.service").success);
    machine.until("the reason is told", "journalctl --no-pager --unit=har.service | grep -q 127.0.0.1:53");
    drop(other);
    machine.until("it was tried again", "systemctl is-active har.service");
    machine.sh("systemctl enable --now har.service 2>&1");
    assert_eq!(answer(ELSEWHERE).as_deref(), Some("198.51.100.7"), "ready means answering");
    configure(machine, "api.example.com", "192.0.2.7");
    machine.sh("systemctl reload har.service");
    until_answered("api.example.com", "192.0.2.7");
}

/// The oldest event of the state file.
fn begun(machine: &Machine) -> String {
    let first = "sqlite3 -readonly /var/lib/har/har.db 'SELECT at, reason FROM event ORDER BY id LIMIT 1'";
    machine.until("an event", &format!("{first} | grep -q ."));
    machine.sh(first)
}

fn upgrades_over_the_running_daemon(machine: &Machine) {
    let (before, first) = (machine.pid(), begun(machine));
    machine.sh("har drain 192.0.2.7 --force --reason upgrade; echo '# mine' >>/etc/har/har.toml");
    machine.sh("dpkg -i /run/share/har-0.2.0.deb");
    assert_eq!(machine.sh("systemctl is-active har.service"), "active");
    assert_ne!(machine.pid(), before, "restarted");
    until_answered("api.example.com", "192.0.2.7");
    assert_eq!(begun(machine), first);
    assert!(machine.sh("har overrides").contains("upgrade"), "orders survive");
    assert!(machine.sh("tail -n 1 /etc/har/har.toml").contains("mine"));
}

/// Upgrades where the daemon would end for good, and sees that the old one goes on and the reason is told.
#[track_caller]
fn goes_on(machine: &Machine, reason: &str) {
    let before = machine.pid();
    let text = machine.sh("dpkg -i /run/share/har-0.1.0.deb 2>&1");
    assert!(text.contains(reason) && text.contains("the running daemon goes on"), "{text}");
    assert_eq!(machine.pid(), before);
    assert_eq!(answer(ELSEWHERE).as_deref(), Some("198.51.100.7"));
}

fn keeps_a_daemon_that_the_new_version_could_not_start(machine: &Machine) {
    // What the operator closed stays closed, at a boot too.
    let drop_in = "/etc/systemd/system/har.service.d/mine.conf";
    machine.sh(&format!("mkdir -p /etc/systemd/system/har.service.d; chgrp har /etc/har; chmod 750 /etc/har
        printf '[Service]\nStateDirectoryMode=0750\n' >{drop_in}; systemctl daemon-reload; systemctl restart har.service"));
    let closed = || machine.sh("systemd-tmpfiles --create har.conf; stat -c '%U %G %a' /var/lib/har /etc/har");
    machine.sh("echo 'nonsense = 1' >>/etc/har/har.toml");
    goes_on(machine, "nonsense");
    assert_eq!(closed(), "har har 750\nroot har 750");
    machine.sh("sed -i '/nonsense/d' /etc/har/har.toml; chmod 755 /etc/har");

    // Root can read it, har cannot.
    machine.sh("chmod 600 /etc/har/conf.d/*.toml");
    goes_on(machine, "Permission denied");
    machine.sh("chmod 644 /etc/har/conf.d/*.toml");

    let other =
        "serve --config /srv/har.toml\nExecReload=\nExecReload=/usr/bin/har check-config --config /srv/har.toml";
    machine.sh(&format!(
        "cp /etc/har/har.toml /srv/har.toml
        printf '[Service]\nExecStart=\nExecStart=/usr/bin/har {other}\nExecReload=/bin/kill -HUP $MAINPID\n' >{drop_in}
        systemctl daemon-reload; systemctl restart har.service; echo 'elsewhere = 1' >>/srv/har.toml"
    ));
    goes_on(machine, "elsewhere");
    machine.sh(&format!("rm {drop_in}; systemctl daemon-reload; systemctl restart har.service"));
}

fn is_removed_and_purged(machine: &Machine) {
    machine.sh("echo 'nameserver 127.0.0.1' >/etc/resolv.conf");
    let text = machine.sh("dpkg -r har 2>&1");
    assert!(text.contains("/etc/resolv.conf"), "the operator is told: {text}");
    machine.sh("echo 'nameserver 127.0.0.9' >/etc/resolv.conf");
    assert_eq!(machine.run("systemctl is-active har.service").text.trim(), "inactive");
    assert_eq!(answer(ELSEWHERE), None);
    machine.sh(
        "test -s /var/lib/har/har.db; grep -q mine /etc/har/har.toml; test -s /etc/har/conf.d/api.example.com.toml",
    );
    machine.sh("dpkg -P har 2>&1");
    machine.sh("test ! -e /var/lib/har; test ! -e /etc/har; test ! -e /usr/bin/har; getent passwd har");
    let left = machine.sh("find /etc/systemd /usr/lib/systemd /var/lib/systemd -name 'har.*'");
    assert_eq!(left, "", "nothing is left enabled");
}
