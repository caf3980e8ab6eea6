//! A host of its own: a real systemd as process 1, over a copy-on-write view of this host's files.
//!
//! For the tests of packages and units, inside [`super::namespace::inside`]: the network is that of the test, so that
//! the test asks the daemon directly and plays its upstream; processes, mounts and control groups are the machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{PATIENCE, is_root, missing, wait_for};

const SETUP: &str = include_str!("machine.sh");

/// Programs that a machine is made with.
pub const PROGRAMS: [&str; 7] = ["unshare", "nsenter", "mount", "pivot_root", "setpriv", "systemctl", "journalctl"];

/// The machine, until it is dropped.
pub struct Machine {
    unshare: Child,
    init: u32,
    group: PathBuf,
    folder: TempDir,
}

/// What came of a script.
#[derive(Debug)]
pub struct Done {
    /// Whether it ended with 0.
    pub success: bool,
    /// What it printed, errors too.
    pub text: String,
}

impl Machine {
    /// Starts one with `share` visible as /run/share, or says why there can be none here.
    pub fn boot(share: &Path) -> Result<Machine, String> {
        if !is_root() {
            return Err("needs root: a systemd of its own".to_owned());
        }
        if let Some(reason) = missing(&PROGRAMS) {
            return Err(reason);
        }
        if !Path::new("/lib/systemd/systemd").exists() {
            return Err("not installed: systemd".to_owned());
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let group = control_group().ok_or("no control group (version 2) can be made here")?;
        let unshare = start(&group, folder.path(), share);
        // From here on whatever was started ends with this value.
        let mut machine = Machine { unshare, init: 0, group, folder };
        let init = wait_for("process 1 of the machine, or its end", || {
            let ended = machine.unshare.try_wait().expect("own child").is_some();
            if ended { Some(None) } else { systemd(machine.unshare.id()).map(Some) }
        });
        let Some(init) = init else {
            let text = fs::read_to_string(machine.folder.path().join("log")).unwrap_or_default();
            return Err(format!("no machine can be made here: {}", text.trim()));
        };
        machine.init = init;
        machine.until("systemd is up", "systemctl is-system-running | grep -Eq 'running|degraded'");
        Ok(machine)
    }

    /// Runs a script of the shell there, as root.
    pub fn run(&self, script: &str) -> Done {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--uts", "--ipc", "--pid", "--cgroup"]);
        command.args(["--", "sh", "-euc", script]).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        let output = command.env("LC_ALL", "C.UTF-8").output().expect("nsenter starts");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Done { success: output.status.success(), text }
    }

    /// Runs a script that must succeed, and returns what it printed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let done = self.run(script);
        assert!(done.success, "{script}\n{}\n{}", done.text, self.log());
        done.text.trim().to_owned()
    }

    /// Waits until a script succeeds.
    #[track_caller]
    pub fn until(&self, what: &str, script: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !self.run(script).success {
            assert!(std::time::Instant::now() < deadline, "in vain: {what}\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// What the unit logged.
    pub fn log(&self) -> String {
        self.run("systemctl status --no-pager har.service har.socket; journalctl --no-pager -n 60 -u har.service -u har.socket").text
    }

    /// The process of har.service, 0 when there is none.
    pub fn pid(&self) -> u32 {
        self.sh("systemctl show --property=MainPID --value har.service").parse().expect("a number")
    }

    /// A field of /proc/PID/status of the daemon.
    pub fn status(&self, field: &str) -> String {
        let pid = self.pid();
        self.sh(&format!("sed -n 's/^{field}:[[:blank:]]*//p' /proc/{pid}/status"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            eprintln!("{}", self.log());
        }
        // Its process 1 ends with it, and everything else with that.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        remove(&self.group);
    }
}

fn start(group: &Path, folder: &Path, share: &Path) -> Child {
    let place = folder.join("place");
    fs::create_dir(&place).expect("own folder");
    let log = fs::File::create(folder.join("log")).expect("own folder");
    // Ends with this thread too, should that be killed.
    let entered = "echo $$ >\"$1/cgroup.procs\"; shift; exec setpriv --pdeathsig KILL unshare \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-euc", entered, "sh"]).arg(group);
    command.args(["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child", "--propagation=private"]);
    command.args(["sh", "-c", SETUP, "sh"]).arg(&place).arg(share).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("a shell starts")
}

/// The systemd that the child of `unshare` has become.
fn systemd(unshare: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
    let init = children.split_whitespace().next()?.parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
    (name.trim() == "systemd").then_some(init)
}

/// A control group below the one of this process.
fn control_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let top = line.split(' ').nth(4)?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new(top).join(own).join(format!("har-test-{}", std::process::id()));
    fs::create_dir(&group).ok()?;
    Some(group)
}

/// Removes the control groups once their processes are gone.
fn remove(group: &Path) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while group.exists() && std::time::Instant::now() < deadline {
        remove_below(group);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn remove_below(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
