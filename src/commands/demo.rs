//! `har demo`: the daemon at work between three small servers, to be watched.
//!
//! Three HTTP servers of different speed on 127.0.0.1, .2 and .3 (addresses that exist on Linux without
//! set-up), the real daemon with its state in a temporary folder, and a story: after a while the fastest
//! server fails, later it comes back, and the answer follows. What is shown is read from the state file.
//!
//! The daemon runs on the calling thread, as in `har serve`; the story is told from a second one. Ctrl-C
//! reaches the daemon, which stops as always; the end of `--for` is the same signal, sent by the story.

mod folder;
mod servers;
mod table;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::folder::Folder;
use self::servers::Servers;
use self::table::Row;
use super::{Ended, Failure};
use crate::config::{self, Config};

/// The name that the demo answers.
const NAME: &str = "demo.example";

/// Between two looks at the state file.
const TICK: Duration = Duration::from_secs(1);

/// The fastest server works this long, then fails this long, and so on.
const SCENE: Duration = Duration::from_secs(8);

/// Beyond `--for`, for a daemon whose state file cannot be read: by then it listens to signals.
const GRACE: Duration = Duration::from_secs(5);

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ends by itself after this long; `None` = at Ctrl-C.
    pub length: Option<Duration>,
    /// Where the daemon listens: a loopback address, 127.0.0.1:5300 unless stated.
    pub listen: SocketAddr,
    /// Whether the output is a terminal: a table drawn over and over instead of a line for each change.
    pub terminal: bool,
}

/// Runs the demo until it is over, printing to `out`; `serve` is the daemon, which returns when it was
/// asked to stop by SIGINT or SIGTERM.
///
/// # Errors
/// [`Failure::Usage`] when `listen` is not loopback, [`Failure::Run`] when the servers or the daemon cannot
/// start (its port is in use, for one), [`Failure::ClosedPipe`] when nobody reads the output any more.
pub fn run(
    options: &Options,
    out: &mut (dyn Write + Send),
    serve: impl FnOnce(Config) -> Result<(), Failure>,
) -> Ended {
    let listen = options.listen;
    if !listen.ip().is_loopback() || listen.port() == 0 {
        return Err(Failure::Usage(format!("--listen {listen}: a loopback address and a port above 0 are needed")));
    }
    let servers = Servers::start().map_err(|e| Failure::Run(format!("the demo's HTTP servers cannot start: {e}")))?;
    let folder = Folder::create().map_err(|e| Failure::Run(format!("no temporary folder for the demo: {e}")))?;
    let file = folder.path().join("har.toml");
    std::fs::write(&file, configuration(listen, &servers))
        .map_err(|e| Failure::Run(format!("{} cannot be written: {e}", file.display())))?;
    let config = config::load(&file).map_err(Failure::Config)?;

    let state = config.server.state.clone();
    let (over, until) = channel();
    std::thread::scope(|scope| {
        let (state, servers) = (&state, &servers);
        let story = scope.spawn(move || tell(options, state, servers, &until, out));
        let served = serve(config);
        drop(over);
        let told = story.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match served {
            Ok(()) => told.map(|()| ExitCode::SUCCESS).map_err(Failure::from),
            Err(Failure::Run(reason)) => {
                Err(Failure::Run(format!("{reason} (--listen chooses another place for the demo)")))
            }
            Err(other) => Err(other),
        }
    })
}

/// The configuration of the demo's daemon: short intervals, so that there is something to see.
fn configuration(listen: SocketAddr, servers: &Servers) -> String {
    let candidates: Vec<String> = servers::SPEEDS.iter().map(|(address, _)| format!("\"{address}\"")).collect();
    format!(
        "[server]\n\
         listen = [\"{listen}\"]\n\
         state = \"har.db\"\n\
         log = \"warn\"\n\
         \n\
         [defaults]\n\
         interval = \"500ms\"\n\
         fast_interval = \"250ms\"\n\
         \n\
         [names.\"{NAME}\"]\n\
         check = \"http://{{host}}:{port}/\"\n\
         candidates = [{candidates}]\n",
        port = servers.port(),
        candidates = candidates.join(", "),
    )
}

/// Shows what happens, and makes it happen, until the daemon has ended.
fn tell(
    options: &Options,
    state: &Path,
    servers: &Servers,
    until: &Receiver<()>,
    out: &mut (dyn Write + Send),
) -> std::io::Result<()> {
    let told = tell_on(options, state, servers, until, out);
    if told.is_err() {
        // Nobody reads any more: the daemon has no reason to go on.
        stop();
    }
    told
}

fn tell_on(
    options: &Options,
    state: &Path,
    servers: &Servers,
    until: &Receiver<()>,
    out: &mut (dyn Write + Send),
) -> std::io::Result<()> {
    let begin = Instant::now();
    let mut screen = table::Screen::new(options.terminal);
    let mut introduced = false;
    let mut stopping = false;
    loop {
        match until.recv_timeout(TICK) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let elapsed = begin.elapsed();
        let failing = fails(elapsed);
        servers.fail_fastest(failing);
        // Not there yet, or locked for a moment: the next look will do.
        let rows = read(state);
        if let Some(rows) = &rows {
            if !introduced {
                writeln!(out, "{}", introduction(options.listen, servers.port()))?;
                introduced = true;
            }
            screen.show(elapsed, failing, rows, out)?;
        }
        // A daemon whose state has been read is ready for the signal; one without a state file is given time.
        let end = options.length.map(|length| if rows.is_some() { length } else { length + GRACE });
        if !stopping && end.is_some_and(|end| elapsed >= end) {
            stopping = true;
            stop();
        }
    }
}

/// Whether the fastest server fails at this time of the story.
fn fails(elapsed: Duration) -> bool {
    elapsed.as_secs() / SCENE.as_secs() % 2 == 1
}

/// Ends the daemon the way an operator would.
fn stop() {
    if let Err(error) = kill(Pid::this(), Signal::SIGTERM) {
        log::error!("the demo cannot end its daemon: {error}");
    }
}

/// What to type, and what to expect.
fn introduction(listen: SocketAddr, port: u16) -> String {
    let speeds: Vec<String> =
        servers::SPEEDS.iter().map(|(a, delay)| format!("{a} ({} ms)", delay.as_millis())).collect();
    format!(
        "Three HTTP servers on port {port}: {}.\n\
         har answers {NAME} with the fastest healthy one. Ask it from another terminal:\n\
         \n\
         \x20   dig @{} -p {} {NAME} A +short\n\
         \n\
         Every {} s the fastest one fails or comes back. Ctrl-C ends the demo.\n",
        speeds.join(", "),
        listen.ip(),
        listen.port(),
        SCENE.as_secs(),
    )
}

/// The ranking as the state file has it; `None` when there is none to be read yet.
fn read(state: &Path) -> Option<Vec<Row>> {
    let connection = rusqlite::Connection::open_with_flags(state, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let mut statement = connection
        .prepare(
            "SELECT address, state, chosen, latency_ms, checks, failures, last_error FROM ranking \
             WHERE name = ?1 AND family = 'A' ORDER BY address",
        )
        .ok()?;
    let rows = statement.query_map([NAME], |row| {
        Ok(Row {
            address: row.get(0)?,
            state: row.get(1)?,
            chosen: row.get(2)?,
            latency_ms: row.get(3)?,
            checks: row.get(4)?,
            failures: row.get(5)?,
            last_error: row.get(6)?,
        })
    });
    let rows: Vec<Row> = rows.ok()?.collect::<Result<_, _>>().ok()?;
    (!rows.is_empty()).then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_fails_in_every_second_scene() {
        for (second, failing) in [(0, false), (7, false), (8, true), (15, true), (16, false), (24, true)] {
            assert_eq!(fails(Duration::from_secs(second)), failing, "at {second} s");
        }
    }

    #[test]
    fn the_configuration_is_valid_and_says_what_the_demo_promises() {
        let servers = Servers::start().unwrap();
        let folder = Folder::create().unwrap();
        let file = folder.path().join("har.toml");
        std::fs::write(&file, configuration("127.0.0.1:5300".parse().unwrap(), &servers)).unwrap();
        let config = config::load(&file).unwrap_or_else(|report| panic!("{report:?}"));
        assert_eq!(config.server.listen, ["127.0.0.1:5300".parse().unwrap()]);
        assert!(config.server.state.starts_with(folder.path()));
        assert_eq!(config.names.len(), 1);
        assert_eq!(config.names[0].candidates.len(), 3);
    }

    #[test]
    fn only_loopback_is_listened_on() {
        for listen in ["192.0.2.1:5300", "127.0.0.1:0"] {
            let options = Options { length: None, listen: listen.parse().unwrap(), terminal: false };
            assert!(matches!(run(&options, &mut Vec::new(), |_| Ok(())), Err(Failure::Usage(_))), "{listen}");
        }
    }

    #[test]
    fn a_daemon_that_cannot_start_ends_the_demo_and_says_what_helps() {
        let options = Options { length: None, listen: "127.0.0.1:5300".parse().unwrap(), terminal: false };
        let mut state = None;
        let ended = run(&options, &mut Vec::new(), |config| {
            state = Some(config.server.state);
            Err(Failure::Run("127.0.0.1:5300 is in use".to_owned()))
        });
        let Err(Failure::Run(reason)) = ended else { panic!("{ended:?}") };
        assert!(reason.starts_with("127.0.0.1:5300 is in use") && reason.contains("--listen"), "{reason}");
        assert!(!state.unwrap().parent().unwrap().exists(), "the folder is gone");
    }
}
