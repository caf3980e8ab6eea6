//! A TCP server that is a closure: for manners that [`super::Backend`] does not have.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a server does with its connections: the number of the connection, from 0, and the connection.
type Manner = dyn Fn(usize, TcpStream) + Send + Sync;

/// A scripted TCP server; each connection has a thread of its own.
pub struct Script {
    address: SocketAddr,
    begun: Arc<Mutex<Vec<Instant>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Script {
    /// A server at an address with a port of its own.
    pub fn start(address: &str, manner: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Script {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (begun, ended): (Arc<Mutex<Vec<Instant>>>, Arc<AtomicBool>) = Default::default();
        let (noting, ending, manner) = (Arc::clone(&begun), Arc::clone(&ended), Arc::new(manner) as Arc<Manner>);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                let number = {
                    let mut begun = noting.lock().expect("no panic while locked");
                    begun.push(Instant::now());
                    begun.len() - 1
                };
                let manner = Arc::clone(&manner);
                std::thread::spawn(move || manner(number, stream));
            }
        });
        Script { address, begun, ended, thread: Some(thread) }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.begun.lock().expect("no panic while locked").len()
    }

    /// Times between the connections from number `first` on.
    pub fn gaps(&self, first: usize) -> Vec<Duration> {
        let begun = self.begun.lock().expect("no panic while locked");
        begun.windows(2).skip(first).map(|pair| pair[1] - pair[0]).collect()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Wakes the accepting thread.
            if let Ok(stream) = TcpStream::connect(self.address) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            let _ = thread.join();
        }
    }
}
