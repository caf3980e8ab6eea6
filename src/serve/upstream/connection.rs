//! One TCP connection to an upstream server: frames out, frames in (RFC 1035 section 4.2.2).
//!
//! It promises to hold at most two messages' worth of bytes in, and at most [`MOST_WAITING`] bytes out: what a server
//! does not read in time is dropped, as a full queue drops datagrams, and sent again later or elsewhere.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes that wait for the server to read them: thousands of usual queries, or eight of the greatest length.
const MOST_WAITING: usize = 8 * (2 + 65_535);
/// Input buffer kept between messages; a larger answer's is given back.
const KEPT: usize = 4096;

/// One connection, open or being opened.
pub(super) struct Connection {
    stream: TcpStream,
    /// Frames not sent yet.
    output: Vec<u8>,
    connected: bool,
    /// Frames that are not taken yet, or not complete, their lengths included.
    input: Vec<u8>,
    /// Bytes of it that are taken.
    taken: usize,
}

impl Connection {
    /// Begins to open a connection.
    pub fn open(
        server: SocketAddr,
        source: Option<IpAddr>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Connection> {
        let mut stream = match source {
            None => TcpStream::connect(server)?,
            Some(source) => {
                let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_nonblocking(true)?;
                socket.bind(&SocketAddr::new(source, 0).into())?;
                match socket.connect(&server.into()) {
                    Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error),
                    _ => TcpStream::from_std(socket.into()),
                }
            }
        };
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Connection { stream, output: Vec::new(), connected: false, input: Vec::new(), taken: 0 })
    }

    /// Takes a message to be sent. Returns whether it is the first that waits for [`Connection::flush`].
    pub fn queue(&mut self, message: &[u8]) -> io::Result<bool> {
        let length = u16::try_from(message.len()).map_err(|_| ErrorKind::InvalidInput)?;
        let was_empty = self.output.is_empty();
        if self.output.len() + 2 + message.len() > MOST_WAITING {
            // Closing would take the queries of other clients along.
            return Ok(false);
        }
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(message);
        Ok(was_empty)
    }

    /// Sends what waits, as far as the connection takes it; what is left goes when it is there or writable again.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.connected { self.write() } else { Ok(()) }
    }

    /// Sends what waits, then reads until a message is complete. `None`: no more for now.
    pub fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        if !self.connected {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            match self.stream.peer_addr() {
                Ok(_) => {
                    self.connected = true;
                    // A query must not wait for the acknowledgement of the one before it.
                    self.stream.set_nodelay(true)?;
                }
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        // What was answered before the other side closed is there to be read even when it takes no more.
        let written = self.write();
        loop {
            if let Some(length) = self.complete() {
                let message = buffer.get_mut(..length).ok_or(ErrorKind::InvalidData)?;
                let from = self.taken + 2;
                message.copy_from_slice(self.input.get(from..from + length).ok_or(ErrorKind::InvalidData)?);
                self.taken = from + length;
                return Ok(Some(message));
            }
            self.make_room();
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.input.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return written.map(|()| None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the connection out of the registry and closes it.
    pub fn close(mut self, registry: &Registry) {
        let _ = registry.deregister(&mut self.stream);
    }

    /// Length of the message at the start of the input, when it is all there.
    fn complete(&self) -> Option<usize> {
        let input = self.input.get(self.taken..)?;
        let length = usize::from(u16::from_be_bytes(*input.first_chunk()?));
        (input.len() >= length + 2).then_some(length)
    }

    /// Moves what is not taken yet to the front, once for all messages of a read.
    fn make_room(&mut self) {
        self.input.drain(..std::mem::take(&mut self.taken));
        if self.input.is_empty() && self.input.capacity() > KEPT {
            self.input = Vec::new();
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => {
                    self.output.drain(..length);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
