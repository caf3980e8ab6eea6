//! Real servers for the checks of databases: Redis, Sentinel and PostgreSQL from Debian's packages.
//!
//! Each runs in a temporary folder of its own, on an address 127.0.0.x and a free port, as its own process that is
//! stopped by its id when the value is dropped. PostgreSQL refuses to run as root: then it runs as `nobody`.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::harness::daemon::free_port;
use crate::harness::{is_root, program, wait_for};

/// What a server gets to end by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// A server process and its folder.
pub struct Server {
    child: Option<Child>,
    folder: TempDir,
    /// The signal that ends it at once and in order.
    signal: Signal,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(|child| Pid::from_raw(i32::try_from(child.id()).expect("a process id")))
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn stop(&mut self) {
        let Some(pid) = self.pid() else { return };
        let _ = kill(pid, self.signal);
        let Some(mut child) = self.child.take() else { return };
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

    #[track_caller]
    fn until_it_listens(&mut self) {
        wait_for(&format!("a server on {}", self.address), || {
            let child = self.child.as_mut().expect("started");
            if let Some(status) = child.try_wait().expect("own child") {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                panic!("the server on {} ended with {status}; its log:\n{log}", self.address);
            }
            TcpStream::connect(self.address).is_ok().then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- log of the server on {}\n{log}", self.address);
        }
        self.stop();
    }
}

/// A port that is free on each of these addresses.
pub fn common_port(addresses: &[&str]) -> u16 {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    free_port(&addresses)
}

fn new_folder() -> TempDir {
    tempfile::Builder::new().prefix("har-srv-").tempdir().expect("a temporary folder")
}

/// A Redis with these further lines of configuration.
#[track_caller]
pub fn redis(address: &str, port: u16, lines: &str) -> Server {
    redis_like(
        address,
        port,
        &format!("port {port}\nsave \"\"\nappendonly no\nrepl-diskless-sync-delay 0\n{lines}\n"),
        &[],
    )
}

/// A Redis over TLS alone, with certificate and key in its folder.
#[track_caller]
pub fn redis_tls(address: &str, port: u16, (certificate, key): (String, String)) -> Server {
    let lines = format!(
        "port 0\ntls-port {port}\ntls-cert-file cert.pem\ntls-key-file key.pem\ntls-ca-cert-file cert.pem\n\
         tls-auth-clients no\nsave \"\"\n"
    );
    redis_like(address, port, &lines, &[("cert.pem", &certificate), ("key.pem", &key)])
}

/// A sentinel that watches `master`, with a quorum of `quorum`.
#[track_caller]
pub fn sentinel(address: &str, port: u16, master: SocketAddr, quorum: usize) -> Server {
    let lines = format!(
        "port {port}\nsentinel monitor mymaster {} {} {quorum}\nsentinel down-after-milliseconds mymaster 2000\n\
         sentinel failover-timeout mymaster 3000\nsentinel announce-ip {address}\nrequirepass s3cret-sentinel\n\
         sentinel sentinel-pass s3cret-sentinel\nsentinel auth-pass mymaster s3cret-redis\n",
        master.ip(),
        master.port()
    );
    redis_like(address, port, &lines, &["--sentinel"].map(|word| (word, "")))
}

#[track_caller]
fn redis_like(address: &str, port: u16, lines: &str, files: &[(&str, &str)]) -> Server {
    let folder = new_folder();
    let mut command = Command::new(program("redis-server").expect("looked for before"));
    command.arg("redis.conf").current_dir(folder.path());
    for (name, content) in files {
        if name.starts_with("--") {
            command.arg(name);
        } else {
            fs::write(folder.path().join(name), content).expect("own folder");
        }
    }
    let text = format!("bind {address}\nprotected-mode no\ndaemonize no\nlogfile log\n{lines}");
    fs::write(folder.path().join("redis.conf"), text).expect("own folder");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let address = SocketAddr::new(address.parse().expect("an address"), port);
    let mut server = Server { child: Some(child), folder, signal: Signal::SIGTERM, address };
    server.until_it_listens();
    server
}

/// Sends commands to a Redis and returns the first line of the last reply, the others being one line each.
pub fn redis_say(server: SocketAddr, commands: &[&str]) -> String {
    use std::io::{BufRead, BufReader, Write};
    let Ok(mut stream) = TcpStream::connect(server) else { return String::new() };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = stream.write_all(format!("{}\r\n", commands.join("\r\n")).as_bytes());
    let line = BufReader::new(stream).lines().map_while(Result::ok).nth(commands.len() - 1);
    line.unwrap_or_default()
}

/// A program of PostgreSQL's server, which Debian keeps out of the usual folders.
pub fn postgres_program(name: &str) -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    versions.sort();
    let found = versions.iter().rev().map(|folder| folder.join(name)).find(|file| file.is_file());
    found.or_else(|| program(name))
}

/// A command that runs as somebody whom PostgreSQL lets run it.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

fn give(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
}

/// A PostgreSQL cluster, made but not started; its superuser is `postgres`, who is trusted on its own socket.
pub fn cluster() -> TempDir {
    let folder = new_folder();
    give(folder.path());
    let data = folder.path().join("data");
    let initdb = postgres_program("initdb").expect("looked for before");
    run(unprivileged(&initdb)
        .args(["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username=postgres"])
        .arg("--pgdata")
        .arg(&data)
        .current_dir(folder.path()));
    folder
}

/// A copy of a running server as its streaming replica, made but not started.
pub fn replica_of(primary: &Server) -> TempDir {
    let folder = new_folder();
    give(folder.path());
    let program = postgres_program("pg_basebackup").expect("looked for before");
    run(unprivileged(&program)
        .args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--username=postgres"])
        .arg("--host")
        .arg(primary.folder())
        .args(["--port", &primary.address.port().to_string()])
        .arg("--pgdata")
        .arg(folder.path().join("data"))
        .current_dir(folder.path()));
    folder
}

/// Starts a cluster with these further settings (`name=value`), and waits until it takes connections.
#[track_caller]
pub fn postgres(folder: TempDir, address: &str, port: u16, settings: &[&str]) -> Server {
    let program = postgres_program("postgres").expect("looked for before");
    let mut command = unprivileged(&program);
    command.arg("-D").arg(folder.path().join("data")).current_dir(folder.path());
    let socket = format!("unix_socket_directories={}", folder.path().display());
    let (listen, port_setting) = (format!("listen_addresses={address}"), format!("port={port}"));
    let own = [listen.as_str(), port_setting.as_str(), socket.as_str()];
    let quick = ["fsync=off", "shared_buffers=8MB", "max_connections=30", "wal_level=replica", "autovacuum=off"];
    for setting in own.iter().chain(&quick).chain(settings) {
        command.arg("-c").arg(setting);
    }
    let log = fs::File::create(folder.path().join("log")).expect("own folder");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts");
    let address = SocketAddr::new(address.parse().expect("an address"), port);
    let mut server = Server { child: Some(child), folder, signal: Signal::SIGINT, address };
    server.until_it_listens();
    wait_for("a server that takes connections", || try_sql(&server, "SELECT 1"));
    server
}

/// What one statement yields, as text.
///
/// # Panics
/// When the statement fails.
#[track_caller]
pub fn sql(server: &Server, statement: &str) -> String {
    try_sql(server, statement).unwrap_or_else(|| panic!("{statement}"))
}

fn try_sql(server: &Server, statement: &str) -> Option<String> {
    let output = Command::new(program("psql")?)
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--username=postgres", "--dbname=postgres"])
        .arg("--host")
        .arg(server.folder())
        .args(["--port", &server.address.port().to_string(), "--command", statement])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Replaces the file that says who may log in how, before the start.
pub fn write_hba(folder: &Path, lines: &str) {
    let path = folder.join("data/pg_hba.conf");
    fs::write(&path, format!("local all postgres trust\nlocal replication postgres trust\n{lines}"))
        .expect("own folder");
    give(&path);
}

/// Puts a file into the data folder, for the server's eyes alone.
pub fn write_private(folder: &Path, name: &str, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("data").join(name);
    fs::write(&path, content).expect("own folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    give(&path);
}
