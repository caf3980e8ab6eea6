//! A test body in a network and mount namespace of its own.
//!
//! The test binary starts itself again inside `unshare`, for the one test: there port 53 is free, loopback
//! is the only interface and `/etc/resolv.conf` is the test's. As root plain namespaces are used, otherwise
//! those of a user namespace, where the kernel lets us.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{is_root, missing, skip, wait_for};

/// Set in the process inside; its value is the test's name.
const INSIDE: &str = "HAR_TEST_INSIDE";

/// Runs `body` inside, with `nameserver 127.0.0.1` in `/etc/resolv.conf`, and returns whether it ran: it is
/// skipped when one of `programs` or the means are missing.
#[track_caller]
pub fn inside(programs: &[&str], body: impl FnOnce()) -> bool {
    if is_inside() {
        body();
        return true;
    }
    if let Some(reason) = missing(&[programs, &["unshare", "ip", "mount"]].concat()) {
        skip(&reason);
        return false;
    }
    if !may_unshare() {
        skip("not root, and user namespaces are not allowed here");
        return false;
    }
    let name = std::thread::current().name().expect("a test thread").to_owned();
    // The test's own folders are in this one: what is mounted there can be removed only from outside.
    let folder = tempfile::Builder::new().prefix("har-test-").tempdir().expect("a temporary folder");
    // Daemons that run as another user pass through it.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("own folder");
    let resolv = folder.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.0.1\n").expect("own folder");
    let output = unshare()
        .args(["sh", "-ec", SETUP, "sh"])
        .arg(&resolv)
        .arg(std::env::current_exe().expect("the test binary"))
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, &name)
        .env("TMPDIR", folder.path())
        .output()
        .expect("unshare starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "inside the namespace:\n{text}");
    wait_for("the test's folder to be left by all", || std::fs::remove_dir_all(folder.path()).ok());
    // A test that was not found would pass without running.
    assert!(text.contains("1 passed"), "the test ran inside:\n{text}");
    for reason in text.lines().filter_map(|line| line.strip_prefix(&format!("SKIPPED: {name}: "))) {
        skip(reason);
    }
    true
}

/// Whether this process is the one inside.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// `$1` = the file to mount, the rest = what to run.
const SETUP: &str = "ip link set lo up; mount --bind \"$1\" \"$(readlink -f /etc/resolv.conf)\"; shift; exec \"$@\"";

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg(if is_root() { "-nm" } else { "-Urnm" });
    command
}

fn may_unshare() -> bool {
    // What is missing most often: the file to mount over, or the right to make namespaces.
    Path::new("/etc/resolv.conf").exists()
        && unshare().arg("true").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}
