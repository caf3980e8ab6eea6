//! The files in `packaging/` and the pages that tell where they go.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

use crate::harness::daemon::BINARY;
use crate::harness::{missing, skip};

/// Most that `systemd-analyze security` may say of the unit, from 0 (nothing to be done to others) to 10.
const EXPOSURE: f64 = 1.5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages that name files.
fn pages() -> String {
    ["docs/host-integration.md", "docs/operations.md", "docs/packages.md"]
        .map(|page| fs::read_to_string(root().join(page)).expect("the page"))
        .concat()
}

/// Folders of files that are made and checked where they are made, and of what no operator needs: how the program is linked.
const MADE: [&str; 3] = ["packaging/man", "packaging/completions", "packaging/link"];

fn output(command: &mut Command) -> (bool, String) {
    let output = command.output().expect("the program starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[test]
fn every_file_is_named_in_a_page_and_every_named_file_is_there() {
    let page = pages();
    let mut folders = vec![root().join("packaging")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if !MADE.iter().any(|made| path.ends_with(made)) {
                    folders.push(path);
                }
            } else {
                let name = path.strip_prefix(root()).expect("below").display().to_string();
                assert!(page.contains(&format!("`{name}`")), "{name} is in no page");
            }
        }
    }
    let named = Regex::new(r"`(packaging/[^`]*[^`/])`").expect("a valid pattern");
    for name in named.captures_iter(&page) {
        assert!(root().join(&name[1]).is_file(), "{} does not exist", &name[1]);
    }
}

#[test]
fn the_configurations_in_the_pages_are_valid() {
    let page = pages();
    let blocks: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    assert!(blocks.len() > 3, "the blocks are found");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("har.toml");
    for block in blocks {
        fs::write(&file, block).expect("own folder");
        let (success, text) = output(Command::new(BINARY).arg("check-config").arg("--config").arg(&file));
        assert!(success, "{block}\n{text}");
    }
}

/// The unit with the built binary in the place of the installed one.
fn unit(folder: &Path) -> PathBuf {
    let text = fs::read_to_string(root().join("packaging/har.service")).expect("the unit");
    let path = folder.join("har.service");
    fs::write(&path, text.replace("/usr/bin/har", BINARY)).expect("own folder");
    path
}

/// Units and drop-ins in a folder, with the manual where `man` looks for it.
fn units(folder: &Path, drop_ins: bool) -> [PathBuf; 2] {
    let service = unit(folder);
    let socket = folder.join("har.socket");
    fs::copy(root().join("packaging/har.socket"), &socket).expect("own folder");
    fs::create_dir_all(folder.join("man/man8")).expect("own folder");
    fs::copy(root().join("packaging/man/har.8"), folder.join("man/man8/har.8")).expect("own folder");
    let there = folder.join("har.service.d");
    fs::create_dir_all(&there).expect("own folder");
    for entry in fs::read_dir(root().join("packaging/har.service.d")).expect("the folder") {
        let entry = entry.expect("an entry");
        if drop_ins {
            fs::copy(entry.path(), there.join(entry.file_name())).expect("own folder");
        }
    }
    [service, socket]
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    if let Some(reason) = missing(&["systemd-analyze", "man"]) {
        return skip(&reason);
    }
    for drop_ins in [false, true] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("systemd-analyze");
        command.arg("verify").args(units(folder.path(), drop_ins)).env("MANPATH", folder.path().join("man"));
        let (success, text) = output(&mut command);
        assert!(success && text.is_empty(), "{text}");
    }
}

#[test]
fn the_unit_leaves_little_to_be_done_to_others() {
    if let Some(reason) = missing(&["systemd-analyze"]) {
        return skip(&reason);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [service, _] = units(folder.path(), false);
    let (_, text) = output(Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(service));
    let level = Regex::new(r"exposure level for har.service: ([\d.]+)").expect("a valid pattern");
    let level: f64 = level.captures(&text).and_then(|found| found[1].parse().ok()).unwrap_or_else(|| panic!("{text}"));
    assert!(level <= EXPOSURE, "{text}");
}

#[test]
fn every_setting_of_the_unit_has_its_reason() {
    for file in ["har.service", "har.socket", "har.service.d/exec-checks.conf", "har.service.d/socket.conf"] {
        let text = fs::read_to_string(root().join("packaging").join(file)).expect("the unit");
        let service = text.split_once("[Service]").or_else(|| text.split_once("[Socket]")).expect("a section").1;
        // A reason holds for the settings below it, up to the next blank line or reason.
        let mut reasoned = false;
        for line in service.lines().take_while(|line| !line.starts_with("[")) {
            reasoned = line.starts_with('#') || reasoned && !line.is_empty();
            assert!(reasoned || !line.contains('='), "{file}: {line}");
        }
    }
}

#[test]
fn sysusers_and_tmpfiles_make_what_the_unit_needs() {
    if let Some(reason) = missing(&["systemd-sysusers", "systemd-tmpfiles"]) {
        return skip(&reason);
    }
    if !crate::harness::is_root() {
        return skip("not root");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |program: &str, arguments: &[&str], file: &str| {
        let root_option = format!("--root={}", folder.path().display());
        let file = root().join("packaging").join(file);
        let (success, text) = output(Command::new(program).arg(root_option).args(arguments).arg(file));
        assert!(success, "{program}: {text}");
    };
    fs::create_dir(folder.path().join("etc")).expect("own folder");
    at("systemd-sysusers", &[], "sysusers.conf");
    let users = fs::read_to_string(folder.path().join("etc/passwd")).expect("made");
    assert!(users.starts_with("har:") && users.contains(":/var/lib/har:"), "{users}");
    at("systemd-tmpfiles", &["--create"], "tmpfiles.conf");
    let folders = ["var/lib/har", "etc/har"].map(|name| folder.path().join(name));
    let mode = |path: &PathBuf| fs::metadata(path).expect("made").permissions().mode() & 0o7777;
    assert_eq!(folders.each_ref().map(mode), [0o755; 2]);
    // What the operator has closed is not opened again by the next boot.
    for path in &folders {
        fs::set_permissions(path, fs::Permissions::from_mode(0o750)).expect("own folder");
        chown(path, Some(0), Some(1)).expect("root may");
    }
    at("systemd-tmpfiles", &["--create"], "tmpfiles.conf");
    assert_eq!(folders.each_ref().map(mode), [0o750; 2]);
    let owner = |path: &PathBuf| fs::metadata(path).map(|seen| (seen.uid(), seen.gid())).expect("there");
    assert_eq!(folders.each_ref().map(owner), [(0, 1); 2]);
}

#[test]
fn the_dhclient_hook_writes_the_servers_of_a_lease() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("upstream.conf");
    let lease = |v4: &str, v6: &str| {
        let script = format!(". '{}'; make_resolv_conf", root().join("packaging/integration/dhclient-hook").display());
        let mut command = Command::new("sh");
        command.args(["-euc", &script]).env("HAR_UPSTREAM_FILE", &file).env("interface", "eth7");
        let (success, text) = output(command.env("new_domain_name_servers", v4).env("new_dhcp6_name_servers", v6));
        assert!(success, "{text}");
        fs::read_to_string(&file).expect("written")
    };
    let text = lease("10.0.0.2 10.0.0.3", "2001:db8::1 fe80::1");
    // A link-local server is one only together with its interface.
    let servers = ["10.0.0.2", "10.0.0.3", "2001:db8::1", "fe80::1%eth7"];
    assert_eq!(text.lines().map(|line| line.trim_start_matches("nameserver ")).collect::<Vec<_>>(), servers);
    // A lease without servers is no reason to forget them.
    assert_eq!(lease("", ""), text);
}
