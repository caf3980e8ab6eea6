//! The daemon as a child process: configured, started, asked, signalled, always reaped.
//!
//! [`har`] begins a configuration; [`Builder::start`] picks a free port, starts the built binary and waits
//! for `READY=1`. When a test fails, dropping a [`Har`] prints its configuration, its standard error and the
//! rows of its state file.

use std::fs;
use std::io::{ErrorKind, PipeReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::dns::{self, Reply, Tcp};
use super::notify::Notify;
use super::upstream::Upstream;
use super::{PATIENCE, wait_for};

/// The built binary.
pub const BINARY: &str = env!("CARGO_BIN_EXE_har");

/// `nobody` on every distribution that matters.
pub const NOBODY: u32 = 65_534;

/// Tries for a port that nobody takes between choosing and binding it.
const PORT_TRIES: usize = 5;

/// The daemon's own limit for ending is 1 s; the rest is for a loaded machine.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Begins the configuration of a daemon.
pub fn har() -> Builder {
    Builder {
        server: String::new(),
        upstream: String::from("servers = [\"127.0.0.1:9\"]\n"),
        body: String::new(),
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        port: None,
        environment: Vec::new(),
    }
}

/// A configuration in the making.
pub struct Builder {
    server: String,
    upstream: String,
    body: String,
    addresses: Vec<IpAddr>,
    port: Option<u16>,
    environment: Vec<(&'static str, String)>,
}

impl Builder {
    /// Lines of `[server]`.
    pub fn server(mut self, lines: &str) -> Builder {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Asks these upstream servers, in the order of the list.
    pub fn upstream(mut self, servers: &[&Upstream]) -> Builder {
        let list: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.address())).collect();
        self.upstream = format!("servers = [{}]\norder = \"listed\"\n", list.join(", "));
        self
    }

    /// Lines of `[upstream]` in place of the default ones.
    pub fn upstream_lines(mut self, lines: &str) -> Builder {
        self.upstream = format!("{lines}\n");
        self
    }

    /// What follows: `[defaults]` and `[names]`.
    pub fn names(mut self, text: &str) -> Builder {
        self.body.push_str(text);
        self.body.push('\n');
        self
    }

    /// Listens on ::1 too.
    pub fn ipv6(mut self) -> Builder {
        self.addresses.push(Ipv6Addr::LOCALHOST.into());
        self
    }

    /// Listens on this port, for tests in a network namespace of their own.
    pub fn port(mut self, port: u16) -> Builder {
        self.port = Some(port);
        self
    }

    /// An environment variable of the daemon.
    pub fn environment(mut self, name: &'static str, value: &str) -> Builder {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// Writes the configuration and starts nothing.
    pub fn prepare(self) -> Har {
        let folder = tempfile::Builder::new().prefix("har-test-").tempdir().expect("a temporary folder");
        // Other users read the state file, as they do below /var/lib.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("own folder");
        let port = self.port.unwrap_or_else(|| free_port(&self.addresses));
        let mut har =
            Har { notify: Notify::open(folder.path()), folder, port, child: None, said: Arc::default(), builder: self };
        har.write_config();
        har
    }

    /// Starts the daemon and waits until it says that it is ready.
    #[track_caller]
    pub fn start(self) -> Har {
        let mut har = self.prepare();
        har.start();
        har
    }

    fn text(&self, port: u16) -> String {
        let listen: Vec<String> = self.addresses.iter().map(|a| format!("\"{}\"", SocketAddr::new(*a, port))).collect();
        format!(
            "[server]\nlisten = [{}]\nstate = \"state/har.db\"\n{}\n[upstream]\n{}\n{}",
            listen.join(", "),
            self.server,
            self.upstream,
            self.body
        )
    }
}

/// A daemon, running or not, and its folder.
pub struct Har {
    folder: TempDir,
    /// UDP and TCP.
    pub port: u16,
    /// What it told the service manager.
    pub notify: Notify,
    child: Option<Child>,
    said: Arc<Said>,
    builder: Builder,
}

/// What the last process has written to its standard error.
#[derive(Default)]
struct Said {
    pipe: Option<PipeReader>,
    text: Mutex<Vec<u8>>,
    ended: AtomicBool,
}

impl Said {
    /// A thread reads so that the pipe never fills up; who asks reads too, and misses nothing that was written before.
    fn read(pipe: OwnedFd) -> Arc<Said> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("own pipe");
        let said = Arc::new(Said { pipe: Some(pipe.into()), ..Said::default() });
        let reader = Arc::clone(&said);
        std::thread::spawn(move || {
            while let (Some(pipe), false) = (&reader.pipe, reader.ended.load(Ordering::SeqCst)) {
                let _ = poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
                reader.text();
            }
        });
        said
    }

    /// All of it so far.
    fn text(&self) -> String {
        let mut text = self.text.lock().expect("no panic while locked");
        let mut buffer = [0; 4096];
        while let (Some(mut pipe), false) = (self.pipe.as_ref(), self.ended.load(Ordering::SeqCst)) {
            match pipe.read(&mut buffer) {
                Ok(length @ 1..) => text.extend(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => self.ended.store(true, Ordering::SeqCst),
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Har {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.builder.addresses[0], self.port)
    }

    /// Its temporary folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.folder().join("har.toml")
    }

    /// Its state file.
    pub fn state_path(&self) -> PathBuf {
        self.folder().join("state/har.db")
    }

    fn write_config(&mut self) {
        fs::write(self.config_path(), self.builder.text(self.port)).expect("own folder");
    }

    /// Replaces what follows `[upstream]` in the configuration file; the daemon learns of it by SIGHUP.
    pub fn rewrite_names(&mut self, text: &str) {
        self.builder.body = text.to_owned();
        self.write_config();
    }

    /// Replaces the lines of `[server]` in the configuration file.
    pub fn rewrite_server(&mut self, lines: &str) {
        self.builder.server = lines.to_owned();
        self.write_config();
    }

    /// The command line of the daemon, with its environment, not started.
    pub fn command(&self) -> Command {
        let mut command = self.tool("serve");
        command.env("NOTIFY_SOCKET", self.notify.path());
        for (name, value) in &self.builder.environment {
            command.env(name, value);
        }
        command
    }

    /// `har SUBCOMMAND --config FILE`.
    pub fn tool(&self, subcommand: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.arg(subcommand).arg("--config").arg(self.config_path());
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "RUST_LOG"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs `har ARGUMENTS --config FILE` to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.tool(arguments[0]);
        Ran::of(command.args(&arguments[1..]).env_remove("SUDO_USER"))
    }

    /// The program where another user may start it: where the tests were built they may have no access.
    pub fn copy_of_the_binary(&self) -> PathBuf {
        let copy = self.folder().join("har");
        if copy.exists() {
            return copy;
        }
        // Not written by this process: a child that another test starts meanwhile would keep it open for writing, and busy.
        let status = Command::new("cp").arg(BINARY).arg(&copy).status();
        assert!(status.expect("cp starts").success());
        copy
    }

    /// As [`Har::run`], as a user who owns nothing here. For root alone.
    pub fn run_as_nobody(&self, arguments: &[&str]) -> Ran {
        let copy = self.copy_of_the_binary();
        let mut command = Command::new(copy);
        command.args(&arguments[..1]).arg("--config").arg(self.config_path()).args(&arguments[1..]);
        Ran::of(command.uid(NOBODY).gid(NOBODY).env_remove("SUDO_USER").env_remove("RUST_LOG"))
    }

    /// Starts it and waits for `READY=1`; a port that was taken meanwhile is replaced.
    #[track_caller]
    pub fn start(&mut self) {
        for attempt in 1.. {
            self.spawn();
            if self.becomes_ready() {
                return;
            }
            let log = self.log();
            let taken = self.builder.port.is_none() && log.contains("in use");
            assert!(taken && attempt < PORT_TRIES, "har ended before it was ready; its log:\n{log}");
            self.port = free_port(&self.builder.addresses);
            self.write_config();
        }
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&mut self) {
        let command = self.command();
        self.spawn_as(command);
    }

    /// Starts it and holds it in the midst of reading its configuration, until the text is written to what is returned.
    /// A reload finds an ordinary file.
    #[track_caller]
    pub fn spawn_held(&mut self) -> (fs::File, String) {
        let (path, beside) = (self.config_path(), self.folder().join("har.toml.next"));
        fs::rename(&path, &beside).expect("own folder");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("own folder");
        self.spawn();
        // There is no such thing as writing to a pipe that nobody has opened for reading.
        let without_waiting = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let pipe = wait_for("har to read its configuration", || {
            fs::OpenOptions::new().write(true).custom_flags(without_waiting).open(&path).ok()
        });
        fs::rename(&beside, &path).expect("own folder");
        (pipe, self.builder.text(self.port))
    }

    /// Starts `command` in the daemon's place: whatever becomes the daemon by `exec`.
    pub fn spawn_as(&mut self, command: Command) {
        self.spawn_writing_to(command, Stdio::piped());
    }

    /// The same with a standard error of the caller's; the log stays empty unless it is a new pipe.
    pub fn spawn_writing_to(&mut self, mut command: Command, stderr: Stdio) {
        assert!(self.child.is_none(), "it is running already");
        self.notify.clear();
        // Not over what the command has set: a passed socket travels as standard input.
        let mut child = command.stderr(stderr).spawn().expect("the binary starts");
        self.said = child.stderr.take().map(|pipe| Said::read(pipe.into())).unwrap_or_default();
        self.child = Some(child);
    }

    /// Waits for `READY=1`; `false` when the process ended first.
    #[track_caller]
    pub fn becomes_ready(&mut self) -> bool {
        wait_for("READY=1", || {
            if self.notify.count("READY=1") > 0 {
                return Some(true);
            }
            let ended = self.child.as_mut().expect("started").try_wait().expect("own child").is_some();
            if ended {
                self.reaped();
            }
            ended.then_some(false)
        })
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("running").id();
        Pid::from_raw(i32::try_from(id).expect("a process id"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is running");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("running");
        let status = wait_for("the end of the process", || child.try_wait().expect("own child"));
        self.reaped();
        status
    }

    /// The process is no more, and nobody else writes to its standard error.
    fn reaped(&mut self) {
        self.child = None;
        wait_for("the end of standard error", || {
            self.said.text();
            (self.said.pipe.is_none() || self.said.ended.load(Ordering::SeqCst)).then_some(())
        });
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// SIGKILL: what a power cut looks like to the state file.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended();
    }

    /// Standard error so far: every line that was written before this call.
    pub fn log(&self) -> String {
        self.said.text()
    }

    /// Waits for a line that has this in it: one thread of the daemon's writes what the others say, a moment later.
    #[track_caller]
    pub fn until_log(&self, part: &str) {
        wait_for(&format!("'{part}' in the log"), || self.log().contains(part).then_some(()));
    }

    /// Asks over UDP with EDNS.
    #[track_caller]
    pub fn query(&self, name: &str, record_type: &str) -> Reply {
        let question = dns::question(name, dns::record_type(record_type));
        let reply = Reply::read(&dns::udp(self.address(), &dns::encode(&question)));
        assert_eq!(reply.message.metadata.id, question.metadata.id, "the id of the query");
        reply
    }

    /// The first address answered for `name`, as text; empty when there is none.
    #[track_caller]
    pub fn a(&self, name: &str) -> String {
        self.query(name, "A").first()
    }

    /// Sends bytes over UDP and returns the reply.
    #[track_caller]
    pub fn udp(&self, bytes: &[u8]) -> Vec<u8> {
        dns::udp(self.address(), bytes)
    }

    /// A TCP connection.
    pub fn tcp(&self) -> Tcp {
        Tcp::open(self.address())
    }

    /// Waits until the answer for `name` is `address`.
    #[track_caller]
    pub fn until_a(&self, name: &str, address: &str) {
        wait_for(&format!("{name} A {address}"), || (self.a(name) == address).then_some(()));
    }

    /// Rows of the state file, each cell as text (NULL is empty).
    pub fn sql(&self, query: &str) -> Vec<Vec<String>> {
        self.try_sql(query).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Waits until a query of the state file has a first row whose first cell satisfies `condition`.
    #[track_caller]
    pub fn until_sql(&self, query: &str, condition: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
        wait_for(query, || {
            // The file may not be there yet, or be locked for a moment.
            let rows = self.try_sql(query).ok()?;
            let fits = rows.first().and_then(|row| row.first()).is_some_and(|cell| condition(cell));
            fits.then_some(rows)
        })
    }

    fn try_sql(&self, query: &str) -> rusqlite::Result<Vec<Vec<String>>> {
        let connection =
            rusqlite::Connection::open_with_flags(self.state_path(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(PATIENCE)?;
        let mut statement = connection.prepare(query)?;
        let width = statement.column_count();
        let rows = statement.query_map([], |row| (0..width).map(|i| Ok(text(row.get_ref(i)?))).collect())?;
        rows.collect()
    }

    fn describe(&self) -> String {
        let config = fs::read_to_string(self.config_path()).unwrap_or_default();
        let mut text = format!("--- configuration\n{config}\n--- log\n{}", self.log());
        for view in ["status", "ranking"] {
            text.push_str(&format!("--- {view}\n"));
            match self.try_sql(&format!("SELECT * FROM {view}")) {
                Ok(rows) => rows.iter().for_each(|row| text.push_str(&format!("{}\n", row.join(" | ")))),
                Err(error) => text.push_str(&format!("{error}\n")),
            }
        }
        text
    }
}

impl Drop for Har {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}--- notify\n{}", self.describe(), self.notify.messages().join("\n"));
        }
        let Some(mut child) = self.child.take() else { return };
        if let Ok(id) = i32::try_from(child.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Ran {
        let output = command.output().expect("the command starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What it printed, if it ended well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

/// A cell as text.
fn text(value: rusqlite::types::ValueRef<'_>) -> String {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    }
}

/// A port that is free for UDP and TCP on every one of `addresses` at this moment, and not among those that the kernel
/// gives to sockets without a port of their own: under load these come and go by the thousand.
pub fn free_port(addresses: &[IpAddr]) -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Where the kernel leaves few to others, all will do.
    let below = Some(first_of_the_kernels()).filter(|first| *first > 2 * LOWEST_PORT).unwrap_or(u16::MAX);
    let next = NEXT.get_or_init(|| {
        let mut begin = [0; 2];
        getrandom::fill(&mut begin).expect("random bytes");
        AtomicU16::new(u16::from_ne_bytes(begin))
    });
    wait_for("a free port", || {
        // Each once, before all others had their turn: what is free is not bound yet.
        let port = LOWEST_PORT + next.fetch_add(1, Ordering::SeqCst) % (below - LOWEST_PORT);
        let udp = addresses.iter().all(|address| UdpSocket::bind((*address, port)).is_ok());
        let tcp = addresses.iter().all(|address| TcpListener::bind((*address, port)).is_ok());
        (udp && tcp).then_some(port)
    })
}

/// Above what services of a host have as a rule, and what tests name.
const LOWEST_PORT: u16 = 12_000;

/// The first port that the kernel gives out by itself.
fn first_of_the_kernels() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("Linux has it");
    range.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a port")
}
