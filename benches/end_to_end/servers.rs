//! The servers that are compared, each with the same names and the same upstream, and the upstream.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use tempfile::TempDir;

use super::harness::daemon::free_port;
use super::harness::dns::{encode, question, udp_within};
use super::harness::{self, Har, program, wait_for};
use super::load::{cpu_seconds, pinned};

/// Candidates of each name in har's configuration.
const CANDIDATES: usize = 5;

/// What is configured.
#[derive(Clone, Copy)]
pub enum Names {
    /// So many names.
    Plain(usize),
    /// So many wildcards.
    Wildcards(usize),
}

impl Names {
    fn count(self) -> usize {
        let (Names::Plain(count) | Names::Wildcards(count)) = self;
        count
    }

    fn is_wildcard(self) -> bool {
        matches!(self, Names::Wildcards(_))
    }

    /// The names without `*.`.
    fn plain(self) -> impl Iterator<Item = (String, Ipv4Addr)> {
        (0..self.count()).map(|number| (format!("n{number:05}.bench.example"), address(number)))
    }

    /// The names that are asked for.
    pub fn asked(self) -> impl Iterator<Item = String> {
        self.plain().map(move |(name, _)| if self.is_wildcard() { format!("host.{name}") } else { name })
    }
}

/// An address on this host's loopback: nothing beyond it is ever spoken to.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0000 + number as u32)
}

/// A server under test.
pub struct Running {
    /// Whose.
    pub name: &'static str,
    /// UDP and TCP, on 127.0.0.1.
    pub port: u16,
    process: Process,
}

/// Ends with this value.
enum Process {
    Har(Box<Har>),
    Peer(Child, #[expect(dead_code, reason = "goes away with the process")] TempDir),
}

impl Running {
    /// Processor seconds so far.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(match &self.process {
            Process::Har(har) => har.pid().as_raw().unsigned_abs(),
            Process::Peer(child, _) => child.id(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Process::Peer(child, _) = &mut self.process {
            // It holds nothing that it would have to write first.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The built har.
pub fn har(names: Names, upstream: &Upstream) -> Running {
    let mut text = String::from("[defaults]\ncheck = \"none\"\n");
    let star = if names.is_wildcard() { "*." } else { "" };
    for (number, (name, _)) in names.plain().enumerate() {
        let candidates: Vec<String> =
            (0..CANDIDATES).map(|place| format!("\"{}\"", address(number * CANDIDATES + place))).collect();
        text.push_str(&format!("[names.\"{star}{name}\"]\ncandidates = [{}]\n", candidates.join(", ")));
    }
    let mut har =
        harness::har().upstream_lines(&format!("servers = [\"{}\"]", upstream.address)).names(&text).prepare();
    let plain = har.command();
    let mut command = pinned(harness::daemon::BINARY);
    command.args(plain.get_args()).envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    har.spawn_as(command);
    assert!(har.becomes_ready(), "{}", har.log());
    Running { name: "har", port: har.port, process: Process::Har(Box::new(har)) }
}

/// Debian's dnsmasq, its cache off.
pub fn dnsmasq(names: Names, upstream: &Upstream) -> Running {
    let (folder, port) = place();
    let mut text = format!(
        "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\ncache-size=0\nuser=root\n\
         pid-file={}\nserver=127.0.0.1#{}\naddn-hosts={}\n",
        folder.path().join("pid").display(),
        upstream.address.port(),
        folder.path().join("hosts").display()
    );
    let mut hosts = String::new();
    for (name, address) in names.plain() {
        match names.is_wildcard() {
            true => text.push_str(&format!("address=/{name}/{address}\n")),
            false => hosts.push_str(&format!("{address} {name}\n")),
        }
    }
    write(folder.path(), "hosts", &hosts);
    write(folder.path(), "dnsmasq.conf", &text);
    let mut command = pinned(&path("dnsmasq"));
    command.arg("--keep-in-foreground").arg(format!("--conf-file={}", folder.path().join("dnsmasq.conf").display()));
    peer("dnsmasq", command, folder, port, names)
}

/// Debian's unbound with one thread and what it forwards not kept.
pub fn unbound(names: Names, upstream: &Upstream) -> Running {
    let (folder, port) = place();
    let mut text = format!(
        "server:\n interface: 127.0.0.1\n port: {port}\n num-threads: 1\n do-daemonize: no\n username: \"\"\n \
         chroot: \"\"\n directory: \"{0}\"\n pidfile: \"\"\n use-syslog: no\n logfile: \"\"\n verbosity: 0\n \
         module-config: \"iterator\"\n do-not-query-localhost: no\n cache-max-ttl: 0\n",
        folder.path().display()
    );
    for (name, address) in names.plain() {
        if names.is_wildcard() {
            text.push_str(&format!(" local-zone: \"{name}.\" redirect\n"));
        }
        text.push_str(&format!(" local-data: \"{name}. 1 IN A {address}\"\n"));
    }
    text.push_str(&format!("forward-zone:\n name: \".\"\n forward-addr: 127.0.0.1@{}\n", upstream.address.port()));
    text.push_str("remote-control:\n control-enable: no\n");
    write(folder.path(), "unbound.conf", &text);
    let mut command = pinned(&path("unbound"));
    command.args(["-d", "-c"]).arg(folder.path().join("unbound.conf"));
    peer("unbound", command, folder, port, names)
}

fn place() -> (TempDir, u16) {
    let folder = tempfile::Builder::new().prefix("har-bench-").tempdir().expect("a temporary folder");
    (folder, free_port(&[Ipv4Addr::LOCALHOST.into()]))
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("own folder");
}

fn path(name: &str) -> String {
    program(name).expect("looked for before").display().to_string()
}

/// Starts a peer and waits until it answers.
fn peer(name: &'static str, mut command: Command, folder: TempDir, port: u16, names: Names) -> Running {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let process = Process::Peer(child.expect("the server starts"), folder);
    let running = Running { name, port, process };
    let first = names.asked().next().unwrap_or_default();
    let query = encode(&question(&first, RecordType::A));
    wait_for(name, || {
        let reply = udp_within((Ipv4Addr::LOCALHOST, port).into(), &query, Duration::from_millis(200))?;
        (reply[3] & 0x0f == 0 && reply[7] > 0).then_some(())
    });
    running
}

/// Answers every query with one address, which nobody may keep. Ends with this program.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Upstream {
    /// Starts one.
    pub fn start() -> Upstream {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).expect("a larger buffer");
        let address = socket.local_addr().expect("bound");
        std::thread::spawn(move || serve(&socket));
        Upstream { address }
    }
}

fn serve(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let mut end = 12;
        while let Some(&label @ 1..) = buffer[..length].get(end) {
            end += usize::from(label) + 1;
        }
        end += 5;
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 9];
        if length < 12 || end > length {
            continue;
        }
        buffer[2] |= 0x80;
        buffer[3] = 0x80;
        // One question, one answer, nothing else.
        buffer[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
        buffer[end..end + record.len()].copy_from_slice(&record);
        let _ = socket.send_to(&buffer[..end + record.len()], peer);
    }
}
