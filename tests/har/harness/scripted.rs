//! Servers that do one thing with each connection: what no well-behaved server does.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

/// Runs the script on each connection to a port of `address`, which it returns. Lives as long as the test process.
pub fn serve(address: &str, script: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || script(stream));
        }
    });
    port
}

/// A script: says nothing and waits until the other side is gone.
pub fn hold(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}
