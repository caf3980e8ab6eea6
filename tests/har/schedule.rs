//! When checks run: many at a time, fewer for names that nobody asks for, and nothing lost over a reload.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::{Backend, har, wait_for};

#[test]
fn a_query_ends_the_rest_of_a_name_at_once() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1)]);
    let name = |name: &str, address: &str, lines: &str| {
        format!(
            "[names.\"{name}\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"{address}\"]\n\
             interval = \"200ms\"\nfast_interval = \"200ms\"\n{lines}\n",
            backends[0].port()
        )
    };
    let names = name("rests.example", "127.0.0.2", "idle_after = \"2s\"\nidle_interval = \"1h\"")
        + &name("busy.example", "127.0.0.3", "idle_after = \"2s\"\nidle_interval = \"1h\"");
    let har = har().names(&names).start();
    har.until_a("rests.example", "127.0.0.2");
    // One is asked for all the time and never rests, the other comes to rest.
    let mut last = (0, 0);
    wait_for("no check of it while the other has many", || {
        assert_eq!(har.a("busy.example"), "127.0.0.3");
        let now = backends[0].connections();
        if now != last.0 {
            last = (now, backends[1].connections());
        }
        (backends[1].connections() >= last.1 + 12).then_some(())
    });
    let asked = Instant::now();
    assert_eq!(har.a("rests.example"), "127.0.0.2", "a name at rest is answered");
    wait_for("a check", || (backends[0].connections() > last.0).then_some(()));
    println!("the first check came {:?} after the query", asked.elapsed());
    // And it goes on at its own pace.
    wait_for("more checks", || (backends[0].connections() >= last.0 + 4).then_some(()));
}

#[test]
fn two_thousand_addresses_are_checked_every_second() {
    const ADDRESSES: usize = 2000;
    const SECONDS: usize = 5;
    let server = Crowd::start();

    let mut names = format!("[defaults]\ncheck = \"tcp:{}\"\ninterval = \"1s\"\ntimeout = \"1s\"\n", server.port);
    for name in 0..ADDRESSES / 10 {
        let addresses: Vec<String> = (0..10).map(|at| format!("\"127.1.{name}.{}\"", at + 1)).collect();
        names += &format!("[names.\"n{name}.example\"]\ncandidates = [{}]\n", addresses.join(", "));
    }
    let har = har().server("history = \"0s\"").names(&names).start();
    har.until_sql("SELECT count(*) FROM address WHERE state = 'up'", |count| count == "2000");
    let downs = "SELECT count(*) FROM event WHERE kind = 'state' AND after = 'down'";
    let downs_before = har.sql(downs);
    let late = "SELECT value FROM counter WHERE key = 'checks_late'";
    let late = || har.until_sql(late, |_| true)[0][0].parse::<usize>().unwrap();
    let (before, begin, late_before) = (server.connections(), Instant::now(), late());
    let wanted = ADDRESSES * SECONDS;
    wait_for("five rounds of checks", || (server.connections() >= before + wanted).then_some(()));
    let took = begin.elapsed();
    let late = late() - late_before;
    println!("{wanted} checks took {took:.1?} instead of {SECONDS} s; {late} of them were late");
    // On a loaded machine they may be slow, and it is said so.
    assert!(took < Duration::from_secs(3 * SECONDS as u64) || late > 0, "{took:?}");
    assert_eq!(har.sql(downs), downs_before, "nothing is taken for dead");
}

#[test]
fn the_first_round_of_all_at_once_is_not_late() {
    // More checks than there are threads: the last ones begin when the first ones have run into their time limit.
    const ADDRESSES: usize = 600;
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    silent.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into()).expect("a port");
    silent.listen(4096).expect("a listener");
    let port = silent.local_addr().expect("bound").as_socket().expect("an internet address").port();
    let mut names = format!(
        "[defaults]\ncheck = {{ type = \"tcp\", port = {port}, expect = \"x\" }}\ninterval = \"10m\"\ntimeout = \"500ms\"\n"
    );
    for name in 0..ADDRESSES / 10 {
        let addresses: Vec<String> = (0..10).map(|at| format!("\"127.2.{name}.{}\"", at + 1)).collect();
        names += &format!("[names.\"n{name}.example\"]\ncandidates = [{}]\n", addresses.join(", "));
    }
    let har = har().names(&names).start();
    let all = har.until_sql("SELECT sum(timeout) FROM address", |count| {
        count.parse().is_ok_and(|count: usize| count >= ADDRESSES)
    });
    let first = format!("SELECT at_unix_ms FROM check_result ORDER BY id LIMIT {ADDRESSES}");
    let ended = har.sql(&format!("SELECT max(at_unix_ms) - min(at_unix_ms) FROM ({first})"));
    assert!(ended[0][0].parse::<u64>().is_ok_and(|ms| ms > 400), "the last ones waited: {ended:?}");
    // Who failed is checked again soon, in turn; that may be late on a loaded machine.
    let again = all[0][0].parse::<usize>().expect("a number") - ADDRESSES;
    let late = har.sql("SELECT value FROM counter WHERE key = 'checks_late'")[0][0].parse::<usize>().expect("a number");
    assert!(late <= again + 20, "{late} late, {again} checked again");
}

#[test]
fn a_reload_keeps_counters_and_history_and_removes_what_is_gone() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1)]);
    let name = |name: &str, path: &str| {
        format!(
            "[names.\"{name}\"]\ncheck = \"http://{{host}}:{}/{path}\"\ncandidates = [\"127.0.0.2\", \"127.0.0.3\"]\n\
             interval = \"1s\"\nselect = \"all\"\n",
            backends[0].port()
        )
    };
    let mut har = har()
        .names(&(name("stays.example", "") + &name("goes.example", "gone") + &name("other.example", "one")))
        .start();
    for stays in ["stays.example", "goes.example"] {
        wait_for("both", || (har.query(stays, "A").addresses().len() == 2).then_some(()));
    }
    let queries = "SELECT queries_a FROM name WHERE name = 'stays.example'";
    let since = "SELECT since FROM address WHERE name = 'stays.example' AND address = '127.0.0.2'";
    let before: u64 =
        har.until_sql(queries, |count| count.parse::<u64>().is_ok_and(|count| count > 0))[0][0].parse().unwrap();
    let up_since = har.until_sql(since, |at| !at.is_empty());
    let history = "SELECT count(*) FROM check_history WHERE definition LIKE '%gone%'";
    har.until_sql(history, |count| count.parse::<u64>().is_ok_and(|count| count > 0));
    har.rewrite_names(&(name("stays.example", "") + &name("other.example", "two") + &name("new.example", "new")));
    har.signal(Signal::SIGHUP);
    wait_for("the new name", || (har.query("new.example", "A").addresses().len() == 2).then_some(()));
    har.until_sql("SELECT count(*) FROM name WHERE name = 'goes.example'", |count| count == "0");
    for table in ["address", "answer", "candidate"] {
        assert_eq!(har.sql(&format!("SELECT count(*) FROM {table} WHERE name = 'goes.example'")), [["0"]], "{table}");
    }
    assert_ne!(har.sql(history), [["0"]], "its history stays until it ages out");
    assert_eq!(har.sql(since), up_since, "up since before the reload");
    har.query("stays.example", "A");
    har.until_sql(queries, |count| count.parse::<u64>().is_ok_and(|count| count > before));
    // The changed check is another one, with a health of its own.
    har.until_sql(
        "SELECT count(*) FROM address WHERE name = 'other.example' AND checks_defined LIKE '%two%' AND state = 'up'",
        |n| n == "2",
    );
    let asked = |path: &str| backends[0].requests().iter().filter(|request| request.line.contains(path)).count();
    let (gone, one) = (asked("/gone "), asked("/one "));
    let new = asked("/new ");
    wait_for("more checks of the new one", || (asked("/new ") >= new + 3).then_some(()));
    assert!(asked("/gone ") <= gone + 1 && asked("/one ") <= one + 1, "what is gone is not checked any more");
}

/// One listener for all of 127.0.0.0/8, with room for everybody who knocks at once: the short queue of the standard
/// library's would drop some of them, which looks like a dead server.
struct Crowd {
    port: u16,
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
}

impl Crowd {
    fn start() -> Crowd {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into()).expect("a port");
        socket.listen(4096).expect("a listener");
        let listener = TcpListener::from(socket);
        let port = listener.local_addr().expect("bound").port();
        let (connections, ended): (Arc<AtomicUsize>, Arc<AtomicBool>) = Default::default();
        let (count, ending) = (Arc::clone(&connections), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            while listener.accept().is_ok() && !ending.load(Ordering::SeqCst) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Crowd { port, connections, thread: Some(thread), ended }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let (Ok(_), Some(thread)) = (TcpStream::connect(("127.0.0.1", self.port)), self.thread.take()) {
            let _ = thread.join();
        }
    }
}
