//! A fast scripted upstream and a fast client, for thousands of queries: raw bytes, nothing decoded.
//!
//! The upstream answers every query with the one address 198.51.100.99 (or as its manner says) and keeps id,
//! port and question of each. The client asks for unique names at a rate and measures every answer.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use super::dns::{encode, question, udp_within};

/// How often a thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);

/// What the upstream does with its queries.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Answers at once.
    Answer,
    /// Answers after this long.
    Delay(Duration),
    /// Says nothing to this share of the queries, in percent.
    Lose(u32),
    /// Says nothing.
    Silent,
    /// Asks this server and passes its answer on: a forwarder.
    Forward(SocketAddr),
    /// Refuses.
    Refuse,
    /// The same from a stranger's socket, with another id, with another question, then the truth.
    Lie,
}

/// A query as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its id.
    pub id: u16,
    /// The port that it came from.
    pub port: u16,
    /// When.
    pub at: Instant,
}

/// Ids and ports as they were drawn, each once: the same datagram comes again from the same socket when its answer is late.
pub fn drawn(mut asked: Vec<Asked>) -> Vec<Asked> {
    let mut seen = HashSet::new();
    asked.retain(|asked| seen.insert((asked.id, asked.port)));
    asked
}

struct Shared {
    manner: Mutex<Manner>,
    asked: Mutex<Vec<Asked>>,
    count: AtomicU64,
    stopped: AtomicBool,
}

/// A scripted upstream for load.
pub struct Fast {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Fast {
    /// Starts one on 127.0.0.1.
    pub fn start() -> Fast {
        Fast::start_at("127.0.0.1:0", Manner::Answer)
    }

    /// Starts one at a certain place.
    pub fn start_at(address: &str, manner: Manner) -> Fast {
        let socket = UdpSocket::bind(address).expect("a port");
        let address = socket.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            manner: Mutex::new(manner),
            asked: Mutex::default(),
            count: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let mut fast = Fast { address, shared, thread: None };
        fast.run(socket);
        fast
    }

    fn run(&mut self, socket: UdpSocket) {
        self.shared.stopped.store(false, Ordering::SeqCst);
        // A burst of a thousand queries must not be lost between two turns of this thread.
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).expect("a larger buffer");
        socket.set_read_timeout(Some(TICK)).expect("a time-out");
        let shared = Arc::clone(&self.shared);
        self.thread = Some(std::thread::spawn(move || serve(&socket, &shared)));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does.
    pub fn set(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }

    /// Closes its port.
    pub fn close(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server thread does not panic");
        }
    }

    /// Opens its port again.
    pub fn open(&mut self) {
        let address = self.address;
        let socket = super::wait_for("the upstream's port", || UdpSocket::bind(address).ok());
        self.run(socket);
    }

    /// Queries so far.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::SeqCst)
    }

    /// Every query so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while locked")
}

fn serve(socket: &UdpSocket, shared: &Arc<Shared>) {
    let mut buffer = [0; 4096];
    let mut dice = 1_u64;
    while !shared.stopped.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let query = &buffer[..length];
        let at = Instant::now();
        shared.count.fetch_add(1, Ordering::SeqCst);
        lock(&shared.asked).push(Asked { id: u16::from_be_bytes([query[0], query[1]]), port: from.port(), at });
        let manner = lock(&shared.manner).clone();
        let answer = answer(query);
        match manner {
            Manner::Answer => drop(socket.send_to(&answer, from)),
            Manner::Silent => {}
            Manner::Lose(percent) => {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if (dice >> 33) % 100 >= u64::from(percent) {
                    drop(socket.send_to(&answer, from));
                }
            }
            Manner::Refuse => {
                let mut refusal = query.to_vec();
                refusal[2] |= 0x80;
                refusal[3] = refusal[3] & 0xf0 | 5;
                drop(socket.send_to(&refusal, from));
            }
            Manner::Delay(delay) => {
                let socket = socket.try_clone().expect("another handle");
                std::thread::spawn(move || {
                    std::thread::sleep(delay);
                    drop(socket.send_to(&answer, from));
                });
            }
            Manner::Forward(server) => {
                let (socket, mut query) = (socket.try_clone().expect("another handle"), query.to_vec());
                std::thread::spawn(move || {
                    let id = [query[0], query[1]];
                    query[0] = !query[0];
                    if let Some(mut reply) = udp_within(server, &query, Duration::from_secs(2)) {
                        reply[..2].copy_from_slice(&id);
                        drop(socket.send_to(&reply, from));
                    }
                });
            }
            Manner::Lie => {
                let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                drop(stranger.send_to(&false_answer(&answer), from));
                for at in [0, 1, 14] {
                    let mut lie = false_answer(&answer);
                    lie[at] ^= 1;
                    drop(socket.send_to(&lie, from));
                }
                drop(socket.send_to(b"", from));
                drop(socket.send_to(query, from));
                drop(socket.send_to(&answer, from));
            }
        }
    }
}

/// The answer 198.51.100.99 to a query whose question has no more than one name.
fn answer(query: &[u8]) -> Vec<u8> {
    let mut end = 12;
    while let Some(&length) = query.get(end).filter(|length| **length != 0) {
        end += usize::from(length) + 1;
    }
    let mut reply = query.get(..end + 5).unwrap_or(query).to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80;
    reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 99]);
    reply
}

fn false_answer(answer: &[u8]) -> Vec<u8> {
    let mut lie = answer.to_vec();
    let last = lie.len() - 1;
    lie[last] = 66;
    lie
}

/// What became of a load.
#[derive(Debug)]
pub struct Measured {
    /// Of each answered query: when it was asked, since the beginning, and how long it took.
    pub answers: Vec<(Duration, Duration)>,
    /// Answers with a code other than NOERROR.
    pub failed: usize,
    /// Queries without an answer within [`PATIENCE`].
    pub lost: usize,
}

/// Queries that wait at once, at most: what the receive buffer of a daemon that gets no processor for a while holds.
const WINDOW: usize = 128;

/// How long a client waits for the last answers: above every timeout of har's own.
const PATIENCE: Duration = Duration::from_secs(20);

impl Measured {
    /// The latency below which this share of the answers to queries asked in a span lies.
    pub fn percentile(&self, percent: usize, from: Duration, to: Duration) -> Duration {
        let in_span = self.answers.iter().filter(|(at, _)| (from..to).contains(at));
        let mut all: Vec<Duration> = in_span.map(|(_, took)| *took).collect();
        all.sort_unstable();
        all.get((all.len() * percent / 100).min(all.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// How far a client that was held up may be behind: what it has missed beyond that is not made up for by a burst.
const BEHIND: Duration = Duration::from_millis(20);

/// Asks `count` unique names at `rate` a second over UDP, evenly and no faster than they are answered, and calls `at` before each of them.
pub fn load(server: SocketAddr, rate: u64, count: usize, mut at: impl FnMut(usize)) -> Measured {
    // Enough sockets that no id of 16 bits is used twice at a time, nor a client taken for one that retransmits.
    let sockets: Vec<UdpSocket> = (0..8).map(|_| super::dns::udp_socket(server)).collect();
    for socket in &sockets {
        socket.set_nonblocking(true).expect("non-blocking");
        socket2::SockRef::from(socket).set_recv_buffer_size(1 << 20).expect("a larger buffer");
    }
    let template = encode(&question("q0000000.load.example", RecordType::A));
    let begin = Instant::now();
    let mut waiting: HashMap<(usize, u16), Instant> = HashMap::new();
    let mut measured = Measured { answers: Vec::new(), failed: 0, lost: 0 };
    let mut sent = 0;
    let (mut last, mut due) = (begin, begin);
    while sent < count || !waiting.is_empty() && last.elapsed() < PATIENCE {
        let now = Instant::now();
        if sent < count && waiting.len() < WINDOW && now >= due {
            due = due.max(now - BEHIND) + Duration::from_nanos(1_000_000_000 / rate);
            at(sent);
            let mut query = template.clone();
            let (socket, id) = (sent % sockets.len(), (sent / sockets.len()) as u16);
            query[..2].copy_from_slice(&id.to_be_bytes());
            query[14..21].copy_from_slice(format!("{sent:07}").as_bytes());
            last = Instant::now();
            waiting.insert((socket, id), last);
            sockets[socket].send(&query).expect("loopback takes a datagram");
            sent += 1;
        }
        let mut idle = true;
        let mut buffer = [0; 2048];
        for (number, socket) in sockets.iter().enumerate() {
            match socket.recv(&mut buffer) {
                Ok(length) if length >= 12 => {
                    idle = false;
                    let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                    let asked = waiting.remove(&(number, id)).expect("one reply to each query");
                    measured.answers.push((asked.duration_since(begin), asked.elapsed()));
                    measured.failed += usize::from(buffer[3] & 0x0f != 0);
                }
                Ok(length) => panic!("a reply of {length} bytes"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        if idle {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    measured.lost = waiting.len();
    measured
}
