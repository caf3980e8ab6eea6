//! The files in `packaging/` and the pages that tell where they go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

use crate::harness::daemon::BINARY;
use crate::harness::{missing, skip};

/// Most that `systemd-analyze security` may say of the unit, from 0 (nothing to be done to others) to 10.
const EXPOSURE: f64 = 1.6;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages that name files.
fn page() -> String {
    ["docs/host-integration.md", "docs/operations.md"]
        .map(|page| fs::read_to_string(root().join(page)).expect("the page"))
        .concat()
}

fn output(command: &mut Command) -> (bool, String) {
    let output = command.output().expect("the program starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[test]
fn every_file_is_named_in_the_page_and_every_named_file_is_there() {
    let page = page();
    let mut folders = vec![root().join("packaging")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
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
fn the_configurations_in_the_page_are_valid() {
    let page = page();
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

#[test]
fn systemd_finds_no_fault_with_the_units() {
    if let Some(reason) = missing(&["systemd-analyze"]) {
        return skip(&reason);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let service = unit(folder.path());
    let socket = folder.path().join("har.socket");
    fs::copy(root().join("packaging/har.socket"), &socket).expect("own folder");
    let (success, text) =
        output(Command::new("systemd-analyze").args(["verify", "--man=no"]).args([&service, &socket]));
    assert!(success && text.is_empty(), "{text}");
    let (_, text) = output(Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&service));
    let level = Regex::new(r"exposure level for har.service: ([\d.]+)").expect("a valid pattern");
    let level: f64 = level.captures(&text).and_then(|found| found[1].parse().ok()).unwrap_or_else(|| panic!("{text}"));
    assert!(level <= EXPOSURE, "{text}");
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
    assert!(folder.path().join("var/lib/har").is_dir() && folder.path().join("etc/har").is_dir());
}

#[test]
fn the_dhclient_hook_writes_the_servers_of_a_lease() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("upstream.conf");
    let lease = |v4: &str, v6: &str| {
        let script = format!(". '{}'; make_resolv_conf", root().join("packaging/integration/dhclient-hook").display());
        let mut command = Command::new("sh");
        command.args(["-euc", &script]).env("HAR_UPSTREAM_FILE", &file);
        let (success, text) = output(command.env("new_domain_name_servers", v4).env("new_dhcp6_name_servers", v6));
        assert!(success, "{text}");
        fs::read_to_string(&file).expect("written")
    };
    let text = lease("10.0.0.2 10.0.0.3", "2001:db8::1");
    assert_eq!(text, "nameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 2001:db8::1\n");
    // A lease without servers is no reason to forget them.
    assert_eq!(lease("", ""), text);
}
