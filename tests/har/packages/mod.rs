//! The packages and the unit at work: real package tools and a real systemd, on a machine made for the test.
//!
//! The packages are built from the same metadata as those that are released, around the binary under test without its
//! debug information.

mod deb;
mod rpm;
mod socket;
mod unit;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use hickory_proto::rr::RecordType;

use crate::harness::daemon::BINARY;
use crate::harness::dns::{self, encode, question};
use crate::harness::machine::{self, Machine};
use crate::harness::{Reply, Upstream, missing, namespace, skip, wait_for};

/// Where the daemon listens.
const HAR: &str = "127.0.0.1:53";

/// A name that only the upstream knows.
const ELSEWHERE: &str = "www.elsewhere.example";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages")
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{text}");
}

/// A packager, with a folder of build results in which the binary under test is the release.
fn packager(name: &str) -> Command {
    let mut command = Command::new(name);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", folder()).env("CARGO", env!("CARGO"));
    command
}

fn build() {
    std::fs::create_dir_all(folder().join("release")).expect("own folder");
    run(Command::new("strip").arg("-o").arg(folder().join("release/har")).arg(BINARY));
    for version in ["0.1.0", "0.2.0"] {
        let mut deb = packager("cargo-deb");
        deb.args(["--no-build", "--locked", "--offline", "--fast", "--deb-version", version, "--output"]);
        run(deb.arg(folder().join(format!("har-{version}.deb"))));
        let mut rpm = packager("cargo-generate-rpm");
        rpm.args(["--payload-compress", "none", "--set-metadata", &format!("version = \"{version}\""), "--output"]);
        run(rpm.arg(folder().join(format!("har-{version}.rpm"))));
    }
}

/// Sees to it that the packages are there; `false`, and it was said, where a program for that or one of these is missing.
fn once_built(programs: &[&str]) -> bool {
    static BUILT: OnceLock<()> = OnceLock::new();
    let reason = missing(&[&["cargo-deb", "cargo-generate-rpm", "strip"][..], programs].concat());
    match &reason {
        Some(reason) => skip(reason),
        None => *BUILT.get_or_init(build),
    }
    reason.is_none()
}

/// Runs a test on a machine of its own, with the packages in /run/share and an upstream that knows one name.
fn on_a_machine(programs: &[&str], body: impl FnOnce(&Machine, &Upstream)) {
    let needed = [&["cargo-deb", "cargo-generate-rpm", "strip"][..], &machine::PROGRAMS, programs].concat();
    if !namespace::is_inside() && !once_built(&needed) {
        return;
    }
    namespace::inside(&needed, || match Machine::boot(&folder()) {
        Ok(machine) => {
            let upstream = Upstream::start_at("127.0.0.9:53");
            upstream.addresses(ELSEWHERE, &["198.51.100.7"]);
            body(&machine, &upstream);
        }
        Err(reason) => skip(&reason),
    });
}

/// What is there to be copied lies below /usr/share/doc/har under the path that pages and `har doctor` name it by.
#[track_caller]
fn has_what_is_to_be_copied(files: &str) {
    for folder in ["packaging/integration", "packaging/har.service.d", "packaging/monitoring"] {
        for entry in Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).read_dir().expect("the folder") {
            let path = Path::new("/usr/share/doc/har").join(folder).join(entry.expect("an entry").file_name());
            assert!(files.lines().any(|line| Path::new(line) == path), "{} is not in\n{files}", path.display());
        }
    }
}

/// What har answers, if it does.
fn answer(name: &str) -> Option<String> {
    let query = encode(&question(name, RecordType::A));
    // `None` at once where nobody listens.
    let reply = dns::udp_within(HAR.parse().expect("an address"), &query, std::time::Duration::from_secs(5))?;
    Reply::read(&reply).addresses().first().map(ToString::to_string)
}

#[track_caller]
fn until_answered(name: &str, address: &str) {
    wait_for(&format!("{name} = {address}"), || (answer(name)? == address).then_some(()));
}

/// A configured name with one candidate.
fn configure(machine: &Machine, name: &str, address: &str) {
    machine.sh(&format!(
        "mkdir -p /etc/har/conf.d; printf '[names.\"{name}\"]\\ncheck = \"none\"\\ncandidates = [\"{address}\"]\\n' \
         >/etc/har/conf.d/{name}.toml"
    ));
}
