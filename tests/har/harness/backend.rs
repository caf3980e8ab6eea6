//! Scripted HTTP and HTTPS servers: what har checks.
//!
//! Delay, status and manner ([`Mode`]) can be changed while they run; every request is kept with the Host
//! header, path and server name it came with.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::daemon::free_port;
use super::wait_for;

/// How long a server waits for the rest of a request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// What a server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Answers this status after this long.
    Answer(u16, Duration),
    /// Accepts and never answers.
    Hang,
    /// Accepts and closes at once.
    Reset,
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The first line.
    pub line: String,
    /// The Host header.
    pub host: String,
    /// The name of the TLS handshake, if there was one.
    pub server_name: Option<String>,
}

struct Shared {
    mode: Mutex<Mode>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    /// Connections that hang; closed with the server or when the mode changes.
    hanging: Mutex<Vec<TcpStream>>,
    closed: Mutex<bool>,
}

/// A scripted server.
pub struct Backend {
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// One HTTP server for each address, all on one port; each answers 200 after its delay in milliseconds.
    pub fn group(servers: &[(&str, u64)]) -> Vec<Backend> {
        let addresses: Vec<IpAddr> = servers.iter().map(|(text, _)| text.parse().expect("an address")).collect();
        wait_for("a port for every server", || {
            let port = free_port(&addresses);
            let listeners: Vec<TcpListener> =
                addresses.iter().map(|address| TcpListener::bind((*address, port)).ok()).collect::<Option<_>>()?;
            let delays = servers.iter().map(|(_, delay)| Duration::from_millis(*delay));
            Some(listeners.into_iter().zip(delays).map(|(l, delay)| Backend::serve(l, delay, None)).collect())
        })
    }

    /// One HTTP server that answers 200 at once.
    pub fn start(address: &str) -> Backend {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        Backend::serve(listener, Duration::ZERO, None)
    }

    /// One HTTPS server that answers 200 at once.
    pub fn tls(address: &str, config: Arc<ServerConfig>) -> Backend {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        Backend::serve(listener, Duration::ZERO, Some(config))
    }

    fn serve(listener: TcpListener, delay: Duration, tls: Option<Arc<ServerConfig>>) -> Backend {
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Answer(200, delay)),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            hanging: Mutex::default(),
            closed: Mutex::new(false),
        });
        let address = listener.local_addr().expect("bound");
        let mut backend = Backend { address, tls, shared, thread: None };
        backend.run(listener);
        backend
    }

    fn run(&mut self, listener: TcpListener) {
        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
        self.thread = Some(std::thread::spawn(move || accept(&listener, &shared, tls.as_ref())));
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address.ip()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes what it does; connections that hang are closed.
    pub fn set(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
        lock(&self.shared.hanging).clear();
    }

    /// Whether it never answers.
    pub fn hangs(&self) -> bool {
        *lock(&self.shared.mode) == Mode::Hang
    }

    /// Answers 200 after `delay` milliseconds from now on.
    pub fn delay(&self, delay: u64) {
        self.set(Mode::Answer(200, Duration::from_millis(delay)));
    }

    /// Closes its port: connections are refused.
    pub fn close(&mut self) {
        *lock(&self.shared.closed) = true;
        lock(&self.shared.hanging).clear();
        if let Some(thread) = self.thread.take() {
            // Wakes the accepting thread, which then drops the listener.
            drop(TcpStream::connect(self.address));
            thread.join().expect("the server thread does not panic");
        }
    }

    /// Opens its port again.
    pub fn open(&mut self) {
        *lock(&self.shared.closed) = false;
        let address = self.address;
        let listener = wait_for("the server's port", || TcpListener::bind(address).ok());
        self.run(listener);
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Requests so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while locked")
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, tls: Option<&Arc<ServerConfig>>) {
    while let Ok((stream, _)) = listener.accept() {
        if *lock(&shared.closed) {
            return;
        }
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let mode = *lock(&shared.mode);
        match mode {
            Mode::Reset => drop(stream),
            Mode::Hang => lock(&shared.hanging).push(stream),
            Mode::Answer(status, delay) => {
                let (shared, tls) = (Arc::clone(shared), tls.cloned());
                std::thread::spawn(move || converse(stream, status, delay, &shared, tls));
            }
        }
    }
}

/// One request and its response; a client that breaks off is none of our concern.
fn converse(stream: TcpStream, status: u16, delay: Duration, shared: &Shared, tls: Option<Arc<ServerConfig>>) {
    let _ = stream.set_read_timeout(Some(REQUEST_PATIENCE));
    let _ = stream.set_nodelay(true);
    match tls {
        None => drop(respond(stream, status, delay, shared, |_| None)),
        Some(config) => {
            let Ok(connection) = ServerConnection::new(config) else { return };
            let stream = StreamOwned::new(connection, stream);
            let name = |s: &StreamOwned<ServerConnection, TcpStream>| s.conn.server_name().map(str::to_owned);
            if let Ok(mut stream) = respond(stream, status, delay, shared, name) {
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    }
}

fn respond<S: Read + Write>(
    stream: S,
    status: u16,
    delay: Duration,
    shared: &Shared,
    server_name: impl Fn(&S) -> Option<String>,
) -> std::io::Result<S> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut host = String::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("host")
        {
            host = value.trim().to_owned();
        }
    }
    let server_name = server_name(reader.get_ref());
    lock(&shared.requests).push(Request { line: line.trim_end().to_owned(), host, server_name });
    std::thread::sleep(delay);
    let mut stream = reader.into_inner();
    write!(stream, "HTTP/1.1 {status} scripted\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")?;
    stream.flush()?;
    Ok(stream)
}
