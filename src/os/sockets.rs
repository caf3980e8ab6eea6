//! Listeners: a UDP socket and a TCP listener on each loopback address, bound by har or passed by systemd, others while
//! it runs.
//!
//! A failure says which address it was, who has it if that can be found, and what to do. All sockets are
//! non-blocking and closed on `exec`.

use std::env;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Error, holder};

/// Connections that wait to be accepted at most; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 256;
/// Receive buffer of a UDP listener, bytes: some 1,000 queries while the loop is busy. The kernel cuts it to
/// `net.core.rmem_max`, whose usual value it stays within.
const RECEIVE_BUFFER: usize = 208 * 1024;
/// Attempts to find a port free for both protocols when the kernel chooses it.
const PORT_ATTEMPTS: usize = 16;
/// Passed sockets at most: far more than a host has addresses for DNS.
const MOST_PASSED: usize = 1 << 10;

/// What serves one address.
#[derive(Debug)]
pub struct Listener {
    /// With the port that the kernel chose, when 0 was asked for.
    pub address: SocketAddr,
    /// Only absent when systemd passed none.
    pub udp: Option<UdpSocket>,
    /// Only absent when systemd passed none.
    pub tcp: Option<TcpListener>,
}

/// Why an address could not be had.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// `UDP` or `TCP`.
    pub protocol: &'static str,
    /// What the kernel said.
    pub error: io::Error,
    /// Who has the port, as far as it can be found.
    pub holder: Option<holder::Holder>,
}

impl BindError {
    /// Whether this host has no such address (IPv6 off): tolerable where another one is served.
    pub fn is_missing_address(&self) -> bool {
        let errno = self.error.raw_os_error().map(Errno::from_raw);
        matches!(errno, Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT))
    }

    /// Whether this process may not have the port: a start with more rights may.
    pub fn is_for_want_of_privileges(&self) -> bool {
        self.error.kind() == ErrorKind::PermissionDenied
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { address, protocol, error, holder } = self;
        write!(f, "cannot listen on {address} ({protocol}): ")?;
        match error.kind() {
            ErrorKind::AddrInUse => match holder {
                Some(holder) if holder.command.starts_with("systemd-resolve") => write!(
                    f,
                    "in use by {holder}. Turn its stub listener off (DNSStubListener=no in /etc/systemd/resolved.conf.d/, then restart it) or change server.listen"
                ),
                Some(holder) => write!(f, "in use by {holder}. Stop it or change server.listen"),
                None => write!(
                    f,
                    "in use by a process that cannot be seen from here (`ss -lntup` as root shows it). Stop it or change server.listen"
                ),
            },
            ErrorKind::PermissionDenied => write!(
                f,
                "not permitted. Start har as root, or give it CAP_NET_BIND_SERVICE (AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit), or use a port above 1023"
            ),
            _ if self.is_missing_address() => write!(f, "this host has no such address ({error})"),
            _ => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for BindError {}

/// Listeners, and what is worth a warning about them.
#[derive(Debug, Default)]
pub struct Bound {
    /// In the order of the addresses.
    pub listeners: Vec<Listener>,
    /// Systemd passed them: the configuration's addresses mean nothing.
    pub passed: bool,
    /// Addresses done without.
    pub warnings: Vec<String>,
}

/// The listeners that systemd passed, else one for each address. `stated`: the addresses are the user's own,
/// so that each of them but `::1` must be there.
///
/// # Errors
/// One line that names the address and the remedy.
pub fn listen(addresses: &[SocketAddr], stated: bool) -> Result<Bound, Error> {
    if let Some(listeners) = passed()? {
        return Ok(Bound { listeners, passed: true, warnings: Vec::new() });
    }
    let bound = bind_all(addresses, stated, false).map_err(|error| Error(error.to_string()))?;
    if bound.listeners.is_empty() {
        let why =
            if bound.warnings.is_empty() { "server.listen is empty".to_owned() } else { bound.warnings.join("; ") };
        return Err(Error(format!("there is nothing to listen on: {why}")));
    }
    Ok(bound)
}

/// One for each address, `stated` as in [`listen`]. A host without IPv6 is served all the same, unless nothing else is:
/// `others` says that something is already.
///
/// # Errors
/// The first address that could not be had. Nothing stays bound then.
pub fn bind_all(addresses: &[SocketAddr], stated: bool, others: bool) -> Result<Bound, BindError> {
    let mut bound = Bound::default();
    let mut missing = None;
    let optional = |address: SocketAddr| !stated || address.ip() == Ipv6Addr::LOCALHOST;
    for &address in addresses {
        match bind(address) {
            Ok(listener) => bound.listeners.push(listener),
            Err(error) if error.is_missing_address() && optional(address) => {
                bound.warnings.push(error.to_string());
                missing = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if stated && !others && bound.listeners.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// Binds both protocols of an address.
///
/// # Errors
/// With the holder of the port, when it is in use.
pub fn bind(address: SocketAddr) -> Result<Listener, BindError> {
    for _ in 1..PORT_ATTEMPTS {
        match bind_once(address) {
            Err(error) if address.port() == 0 && error.error.kind() == ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    bind_once(address)
}

fn bind_once(address: SocketAddr) -> Result<Listener, BindError> {
    let failed = |protocol: &'static str, address: SocketAddr| {
        move |error: io::Error| {
            let in_use = error.kind() == ErrorKind::AddrInUse;
            let holder = if in_use { holder::find(address, protocol == "UDP") } else { None };
            BindError { address, protocol, error, holder }
        }
    };
    let udp = bind_udp(address).map_err(failed("UDP", address))?;
    let address = udp.local_addr().map_err(failed("UDP", address))?;
    let tcp = bind_tcp(address).map_err(failed("TCP", address))?;
    Ok(Listener { address, udp: Some(udp), tcp: Some(tcp) })
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
    // A smaller buffer than wished for is no reason not to serve.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
    // For TCP alone: past connections must not delay a restart, while for UDP it would share the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// The sockets that systemd passed to this very process; `None` when there are none.
///
/// # Errors
/// When one of them is not for UDP or TCP, or not on loopback, or when it is not said how many there are.
pub fn passed() -> Result<Option<Vec<Listener>>, Error> {
    let for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let Some(stated) = env::var_os("LISTEN_FDS").filter(|_| for_us) else { return Ok(None) };
    let count = count_of_passed(&stated.to_string_lossy())?;
    if count == 0 {
        return Ok(None);
    }
    let mut source = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..count {
        let fd = index + 3;
        if let Ok(Some(udp)) = source.take_udp_socket(index) {
            sockets.push(Socket::from(udp));
        } else if let Ok(Some(tcp)) = source.take_tcp_listener(index) {
            sockets.push(Socket::from(tcp));
        } else {
            let mend = "ListenDatagram= and ListenStream= of har.socket must be IP addresses with a port";
            return Err(Error(format!("passed descriptor {fd} is neither a UDP nor a TCP socket; {mend}")));
        }
    }
    pair(sockets).map(Some)
}

/// How many sockets were passed. As in sd_listen_fds(3) anything but a number is an error: whoever sets the variable
/// means har to have sockets, and other addresses than theirs would be served without a word.
fn count_of_passed(stated: &str) -> Result<usize, Error> {
    stated.parse().ok().filter(|count| *count <= MOST_PASSED).ok_or_else(|| {
        Error(format!(
            "LISTEN_FDS={stated} is no number of passed sockets; unset it to listen on server.listen, or let har.socket set it"
        ))
    })
}

/// Puts the sockets of one address together.
fn pair(sockets: Vec<Socket>) -> Result<Vec<Listener>, Error> {
    let failed = |error: io::Error| Error(format!("a passed socket cannot be used: {error}"));
    let mut listeners: Vec<Listener> = Vec::new();
    for socket in sockets {
        let address = socket.local_addr().map_err(failed)?.as_socket();
        let Some(address) = address else { return Err(Error("a passed socket has no IP address".to_owned())) };
        if !address.ip().to_canonical().is_loopback() {
            let mend = "har serves its own host alone: mend ListenDatagram= and ListenStream= of har.socket";
            return Err(Error(format!("passed socket {address} is not on loopback; {mend}")));
        }
        socket.set_nonblocking(true).map_err(failed)?;
        let is_udp = socket.r#type().map_err(failed)? == Type::DGRAM;
        let connected = if is_udp { socket.peer_addr().is_ok() } else { !socket.is_listener().map_err(failed)? };
        if connected {
            return Err(Error(format!("passed socket {address} is a connection; har.socket needs Accept=no")));
        }
        let place = listeners.iter().position(|listener| {
            let taken = if is_udp { listener.udp.is_some() } else { listener.tcp.is_some() };
            listener.address == address && !taken
        });
        let index = place.unwrap_or_else(|| {
            listeners.push(Listener { address, udp: None, tcp: None });
            listeners.len() - 1
        });
        let Some(listener) = listeners.get_mut(index) else { continue };
        if is_udp {
            listener.udp = Some(socket.into());
        } else {
            listener.tcp = Some(socket.into());
        }
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_share_an_address() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(listener.address.port(), 0);
        assert_eq!(listener.udp.unwrap().local_addr().unwrap(), listener.address);
        assert_eq!(listener.tcp.unwrap().local_addr().unwrap(), listener.address);
    }

    #[test]
    fn a_port_in_use_names_its_holder() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        for (address, protocol) in [(udp.local_addr().unwrap(), "UDP"), (tcp.local_addr().unwrap(), "TCP")] {
            let text = listen(&[address], true).unwrap_err().to_string();
            assert!(text.contains(&format!("{address} ({protocol}): in use by ")), "{text}");
            assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
        }
    }

    #[test]
    fn a_missing_address_is_a_warning_unless_it_was_stated() {
        // No host has a documentation address (RFC 5737).
        let missing: SocketAddr = "192.0.2.1:0".parse().unwrap();
        let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let bound = listen(&[missing, here], false).unwrap();
        assert_eq!((bound.listeners.len(), bound.warnings.len()), (1, 1));
        assert!(bound.warnings[0].contains("192.0.2.1:0"), "{:?}", bound.warnings);
        assert!(listen(&[missing, here], true).is_err());
        assert!(listen(&[missing], false).unwrap_err().to_string().contains("nothing to listen on"));
    }

    #[test]
    fn remedies() {
        let error = |errno: Errno, command: Option<&str>| BindError {
            address: "127.0.0.1:53".parse().unwrap(),
            protocol: "UDP",
            error: io::Error::from_raw_os_error(errno as i32),
            holder: command.map(|command| holder::Holder { pid: 7, command: command.to_owned() }),
        };
        for (error, expected) in [
            (error(Errno::EACCES, None), "CAP_NET_BIND_SERVICE"),
            (error(Errno::EADDRINUSE, Some("systemd-resolve")), "DNSStubListener=no"),
            (error(Errno::EADDRINUSE, Some("dnsmasq")), "in use by dnsmasq (pid 7)"),
            (error(Errno::EADDRINUSE, None), "ss -lntup"),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn the_number_of_passed_sockets_is_a_number() {
        for (stated, count) in [("0", 0), ("2", 2), ("1024", 1024)] {
            assert_eq!(count_of_passed(stated), Ok(count));
        }
        for wrong in ["", "abc", "-1", "1 ", "0x2", "1025", "99999999999999999999"] {
            let text = count_of_passed(wrong).unwrap_err().to_string();
            assert!(text.starts_with(&format!("LISTEN_FDS={wrong} is no number")), "{text}");
        }
    }

    #[test]
    fn passed_sockets_are_paired_and_must_be_loopback() {
        let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (udp, tcp) = (bound.udp.unwrap(), bound.tcp.unwrap());
        let alone = UdpSocket::bind("127.0.0.2:0").unwrap();
        let listeners = pair(vec![tcp.into(), alone.into(), udp.into()]).unwrap();
        let shape = listeners.iter().map(|listener| (listener.udp.is_some(), listener.tcp.is_some()));
        assert_eq!(shape.collect::<Vec<_>>(), [(true, true), (true, false)]);

        let anywhere = UdpSocket::bind("0.0.0.0:0").unwrap();
        let text = pair(vec![anywhere.into()]).unwrap_err().to_string();
        assert!(text.contains("not on loopback"), "{text}");

        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        one.connect("127.0.0.1:9").unwrap();
        let text = pair(vec![one.into()]).unwrap_err().to_string();
        assert!(text.contains("is a connection"), "{text}");
    }
}
