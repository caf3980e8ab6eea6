//! No hot path gets slower unseen: instructions for each operation, counted by callgrind, against the figures in
//! `benches/instructions.toml`.
//!
//! Instructions are the same on an idle machine and a busy one, wall time is not. What is counted is the profile
//! `gate`, which is the release without link-time optimisation. A figure more than [`ALLOWANCE`] above the committed
//! one fails; `HAR_BLESS=1` writes the new ones, for a change that is worth what it costs or one that saves.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hickory_proto::rr::RecordType;

use crate::harness::daemon::Ran;
use crate::harness::dns::{encode, framed, question, udp_socket};
use crate::harness::load::Fast;
use crate::harness::{Har, har, missing, skip};

/// How much more than the committed figure a change may cost.
const ALLOWANCE: f64 = 0.05;
/// Queries of the daemon's work that are left out (they fill buffers), and those that are counted.
const QUERIES: (usize, usize) = (250, 1000);
/// Queries in one write of a TCP client.
const PIPELINED: usize = 10;
/// Between two queries, so that har sleeps before the next one comes and each is a wake of its own. At 250 a second
/// every query that is forwarded leaves from a fresh port; the pool of ports is what the pure rooms' figures are about.
const PACE: Duration = Duration::from_millis(4);
/// What `HAR_BLESS` is for.
const BLESS: &str = "HAR_BLESS=1 cargo test --test har instructions";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file() -> PathBuf {
    root().join("benches/instructions.toml")
}

/// The built programs of the profile `gate`.
struct Built {
    har: PathBuf,
    works: PathBuf,
}

/// Builds them once for all tests of this file.
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // What cargo tells a test is not for the cargo that builds: build scripts would take it for a change.
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| told.iter().any(|start| name.starts_with(start))) {
                command.env_remove(name);
            }
        }
        command.current_dir(root()).args(["build", "--locked", "--profile", "gate", "--bin", "har"]);
        let printed = Ran::of(command.args(["--bench", "instructions", "--message-format", "json"])).ok();
        let executable = |target: &str| {
            let mut messages = printed.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let message = messages.find(|message| {
                message["target"]["name"] == target && message["executable"] != serde_json::Value::Null
            });
            let path = message.and_then(|message| message["executable"].as_str().map(PathBuf::from));
            path.unwrap_or_else(|| panic!("cargo built {target}"))
        };
        Built { har: executable("har"), works: executable("instructions") }
    })
}

/// The daemon of the profile `gate`.
pub fn gate() -> &'static Path {
    &built().har
}

/// The command with the arguments and the environment of the daemon's own.
pub fn in_place_of(har: &Har, mut command: Command) -> Command {
    let plain = har.command();
    command.args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Figures of one part of the file: instructions for one operation each.
type Figures = BTreeMap<String, f64>;

/// What stands in the file.
struct Committed {
    rustc: String,
    machine: String,
    parts: BTreeMap<String, Figures>,
}

impl Committed {
    fn read() -> Committed {
        let text = fs::read_to_string(file()).expect("benches/instructions.toml is there");
        let table: toml::Table = text.parse().expect("benches/instructions.toml is TOML");
        let word = |key: &str| table.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
        let part = |value: &toml::Value| {
            let figures = value.as_table().into_iter().flatten();
            figures.filter_map(|(name, value)| Some((name.clone(), value.as_float()?))).collect()
        };
        let parts = table.iter().filter(|(_, value)| value.is_table());
        Committed {
            rustc: word("rustc"),
            machine: word("machine"),
            parts: parts.map(|(name, value)| (name.clone(), part(value))).collect(),
        }
    }

    fn write(&self) {
        let mut text = format!(
            "# Instructions for each operation, counted by callgrind; docs/performance.md says of what.\n\
             # Written by `{BLESS}`, compared by every run of the tests.\n\
             rustc = \"{}\"\nmachine = \"{}\"\n",
            self.rustc, self.machine
        );
        for (part, figures) in &self.parts {
            text.push_str(&format!("\n[{part}]\n"));
            for (name, figure) in figures {
                text.push_str(&format!("{name} = {figure:.1}\n"));
            }
        }
        fs::write(file(), text).expect("own folder");
    }
}

fn rustc_version() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ran::of(Command::new(rustc).arg("--version")).ok().trim().to_owned()
}

/// Whether figures are to be written, not compared.
pub fn is_blessing() -> bool {
    std::env::var_os("HAR_BLESS").is_some_and(|value| value == "1")
}

/// Why nothing can be compared here, if so.
fn hindrance() -> Option<String> {
    if let Some(missing) = missing(&["valgrind"]) {
        return Some(missing);
    }
    if is_blessing() {
        return None;
    }
    let committed = Committed::read();
    let (rustc, machine) = (rustc_version(), std::env::consts::ARCH);
    (committed.rustc != rustc || committed.machine != machine).then(|| {
        let (theirs, place) = (&committed.rustc, &committed.machine);
        format!("the figures are of {theirs} on {place}, this is {rustc} on {machine}; {BLESS} writes new ones")
    })
}

/// The file is read and written by one test at a time.
fn lock() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compares a part of the file with what was counted, or replaces it.
fn judge(part: &str, counted: &Figures) {
    let _one_at_a_time = lock();
    let mut committed = Committed::read();
    if is_blessing() {
        (committed.rustc, committed.machine) = (rustc_version(), std::env::consts::ARCH.to_owned());
        committed.parts.insert(part.to_owned(), counted.clone());
        return committed.write();
    }
    let before = committed.parts.remove(part).unwrap_or_default();
    let names = |figures: &Figures| figures.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(counted), "figures of [{part}]: committed on the left; {BLESS} writes them");
    let mut slower = Vec::new();
    for (name, figure) in counted {
        let change = figure / before[name] - 1.0;
        let line =
            format!("{part}.{name}: {figure:.1} instructions, {:.1} committed, {:+.1} %", before[name], change * 100.0);
        println!("{line}");
        if change > ALLOWANCE {
            slower.push(line);
        } else if change < -ALLOWANCE {
            // Past the capture of the test runner: this test passes.
            let note = format!("{line}: faster; `{BLESS}` keeps it so\n");
            std::io::stderr().write_all(note.as_bytes()).expect("standard error is open");
        }
    }
    assert!(
        slower.is_empty(),
        "slower by more than {} %; if it is worth it: {BLESS}\n{}",
        ALLOWANCE * 100.0,
        slower.join("\n")
    );
}

/// A command under callgrind that writes its counts to `out`.
fn callgrind(program: &Path, out: &Path, threads: &str) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]).arg(format!("--separate-threads={threads}"));
    command.arg(format!("--callgrind-out-file={}", out.display())).arg(program);
    command
}

/// Instructions in a file that callgrind wrote.
fn instructions(out: &Path) -> u64 {
    let text = fs::read_to_string(out).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
    let line = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no count in {}", out.display()))
}

#[test]
fn the_pure_rooms_cost_what_they_did() {
    if let Some(reason) = hindrance() {
        return skip(&reason);
    }
    let works = &built().works;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut counted = Figures::new();
    for line in Ran::of(&mut Command::new(works)).ok().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, operations, calls] = fields[..] else { panic!("{line}") };
        let (operations, calls): (usize, usize) = (operations.parse().unwrap(), calls.parse().unwrap());
        let count = |calls: usize| {
            let out = folder.path().join(format!("{name}.{calls}"));
            Ran::of(callgrind(works, &out, "no").args([name, &calls.to_string()])).ok();
            instructions(&out)
        };
        // Not from zero calls: the first ones fill caches and buffers.
        let difference = count(calls + calls / 4) - count(calls / 4);
        counted.insert(name.to_owned(), difference as f64 / (calls * operations) as f64);
    }
    judge("pure", &counted);
}

/// Starts the daemon of the profile `gate` under callgrind, asks it, stops it, and returns the instructions of the
/// thread that serves, which is its first.
fn daemon(name: &str, upstream: &Fast, queries: usize, ask: impl Fn(&Har, usize)) -> u64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join(name);
    let servers = format!("servers = [\"{}\"]", upstream.address());
    let names = "[names.\"local.example\"]\ncheck = \"none\"\ncandidates = [\"127.0.0.1\"]\n";
    let mut har = har().upstream_lines(&servers).names(names).prepare();
    let command = in_place_of(&har, callgrind(&built().har, &out, "yes"));
    har.spawn_as(command);
    assert!(har.becomes_ready(), "har ended before it was ready; its log:\n{}", har.log());
    ask(&har, queries);
    assert!(har.stop().success(), "{}", har.log());
    instructions(&out.with_file_name(format!("{name}-01")))
}

/// One query after the other: each is a wake of its own, whatever the speed of this machine.
fn ask_udp(har: &Har, queries: usize, name: impl Fn(usize) -> String) {
    let socket = udp_socket(har.address());
    let mut buffer = [0; 2048];
    for number in 0..queries {
        socket.send(&encode(&question(&name(number), RecordType::A))).expect("loopback takes a datagram");
        let length = socket.recv(&mut buffer).expect("an answer");
        assert!(length > 12 && buffer[3] & 0x0f == 0 && buffer[7] == 1, "one record: {:?}", &buffer[..length]);
        std::thread::sleep(PACE);
    }
}

fn ask_tcp(har: &Har, queries: usize) {
    let mut tcp = har.tcp();
    let many = framed(&encode(&question("local.example", RecordType::A))).repeat(PIPELINED);
    for _ in 0..queries / PIPELINED {
        tcp.0.write_all(&many).expect("har reads");
        for _ in 0..PIPELINED {
            assert!(tcp.receive().is_some_and(|reply| reply[3] & 0x0f == 0), "an answer");
        }
        std::thread::sleep(PACE);
    }
}

#[test]
fn the_daemon_costs_what_it_did() {
    if let Some(reason) = hindrance() {
        return skip(&reason);
    }
    let upstream = Fast::start();
    let each = |name: &str, ask: &dyn Fn(&Har, usize)| {
        let (warm, counted) = QUERIES;
        let less = daemon(name, &upstream, warm, ask);
        let more = daemon(name, &upstream, warm + counted, ask);
        (more - less) as f64 / counted as f64
    };
    let counted = [
        ("local_udp", each("udp", &|har, queries| ask_udp(har, queries, |_| "local.example".to_owned()))),
        ("local_tcp", each("tcp", &ask_tcp)),
        ("forward_udp", each("forward", &|har, queries| ask_udp(har, queries, |number| format!("n{number}.example")))),
    ];
    judge("daemon", &counted.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect());
}
