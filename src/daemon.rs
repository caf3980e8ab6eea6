//! `har serve` from start to stop, read from top to bottom.
//!
//! This file builds the rooms and wires them: the event loop on the calling thread, the poller and the writer
//! of the state file on threads of their own. Nothing is decided here but the order.

mod tallies;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use log::{debug, error, info, warn};

use crate::commands::{Ended, Failure};
use crate::config::{self, Config, Order, OtherTypes, Problem, Servers};
use crate::dns::HostName;
use crate::dns::snapshot::{self, NameAnswer, NameSettings, Snapshot};
use crate::mailbox::Inbox;
use crate::os::{self, Change, Clock, Logger, Notify, Signals, Watch, privileges, sockets};
use crate::poll::loops::Traffic;
use crate::poll::resolv_conf::is_own;
use crate::poll::{Heard, Link, Listeners, Message, Poller, Publication};
use crate::serve::counters::Totals;
use crate::serve::updates::{Forwarding, Table, Update, UpdateSender};
use crate::serve::upstream::{Listed, Route, Settings};
use crate::serve::{self, Limits, Notice, Server};
use crate::store::{Hooks, Opened, Store, Writer};
use crate::{poll, store};
use tallies::Tallies;

/// Loads the configuration and runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// An invalid configuration, or what keeps the daemon from starting.
pub fn serve(path: &Path) -> Ended {
    let signals = take_signals()?;
    os::memory::set_up();
    let mut config = config::load(path).map_err(Failure::Config)?;
    // Said of the daemon that stays, not of a demonstration.
    let root = privileges::stays_root(config.server.user.as_deref());
    config.warnings.extend(root.map(|warning| Problem::of_file(config.path.clone(), warning)));
    run_with(config, signals).map(|()| ExitCode::SUCCESS)
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// One line that says what keeps it from running and how to mend that.
pub fn run(config: Config) -> Result<(), Failure> {
    run_with(config, take_signals()?)
}

/// First of all: reading a large configuration takes long enough to be told of a newer one.
fn take_signals() -> Result<Signals, Failure> {
    Signals::take_over().map_err(|error| Failure::Run(format!("signals cannot be caught: {error}")))
}

fn run_with(config: Config, signals: Signals) -> Result<(), Failure> {
    let logger = Logger::start(config.server.log);
    let ended = run_logged(config, signals, &logger);
    logger.finish();
    ended
}

fn run_logged(config: Config, signals: Signals, logger: &Logger) -> Result<(), Failure> {
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    // The event in the state file, and the line that goes with it, says when it has started.
    debug!("har {} starting, {} names from {}", env!("CARGO_PKG_VERSION"), config.names.len(), config.path.display());
    if let Err(error) = os::raise_open_files() {
        debug!("{error}");
    }

    // Sockets first: a port in use is the likeliest mistake, and nothing has been touched by then.
    let bound = sockets::listen(&config.server.listen, config.server.listen_stated).map_err(run_failure)?;
    bound.warnings.iter().for_each(|warning| warn!("{warning}"));
    let addresses: Vec<SocketAddr> = bound.listeners.iter().map(|listener| listener.address).collect();
    refuse_own_listeners(&config, &addresses)?;
    become_user(&config)?;
    logger
        .begin()
        .map_err(|error| Failure::Run(format!("the thread that writes the log cannot be started: {error}")))?;
    let listeners = Listeners::new(&bound, &config);
    let mut store = open_store(&config)?;

    let clock = Clock::new();
    let load = |candidates| store.load(candidates);
    let (prepared, stored, snapshot) =
        poll::begin::prepare(config, &os::machine_id(), clock.now(), load, |config| blank(config, 0));
    stored.notes.iter().for_each(|note| warn!("{note}"));
    if let Some(pid) = stored.other_writer() {
        let state = prepared.config().server.state.display();
        warn!("process {pid} writes the state file {state} too: give each daemon one of its own (server.state)");
    }
    let inbox = Inbox::new();
    let totals = Arc::new(Totals::default());
    let names = Arc::clone(snapshot.counters());
    let tallies = Tallies::new(prepared.config(), names, &stored, Arc::clone(&totals));
    let store_trouble = store.hindrance().map(str::to_owned);
    let writer = writer(store, prepared.config(), &inbox);
    let (mut poller, answers, servers) = Poller::new(poll::begin::Setup {
        prepared,
        stored: &stored,
        listeners,
        clock,
        inbox: inbox.clone(),
        writer,
        store_trouble,
    });
    let config = poller.config();
    let first = table(&config, snapshot, answers, &servers, &[]);
    let upstreams = Upstreams::default();
    let shared = Arc::new(Mutex::new(Shared { tallies, config, upstreams: Arc::clone(&upstreams) }));
    let notices = inbox.clone();
    // Soon queries are under way and a row says that har runs.
    signals.started();
    let setup = serve::Setup {
        listeners: bound.listeners,
        table: first,
        totals,
        clock,
        signals,
        notify: Notify::from_env(),
        notices: Box::new(move |notice| take_notice(notice, &notices, &upstreams)),
    };
    let (mut server, sender) = Server::new(setup, Instant::now())
        .map_err(|error| Failure::Run(format!("the event loop cannot be set up: {error}")))?;
    // Everything is there that an answer needs: who has asked by now does not wait for the rest.
    server.begin(Instant::now());
    drop(stored);
    poller
        .begin_writing()
        .map_err(|error| Failure::Run(format!("the thread that writes the state file cannot be started: {error}")))?;
    let changes = inbox.clone();
    let watch = Watch::start(move |change| changes.send(announced(change)))
        .map_err(|error| Failure::Run(format!("the thread that watches this host cannot be started: {error}")))?;
    let thread = start_poller(poller, link(sender, shared, watch, logger.clone()))?;
    let shown: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    info!("listening on {}", shown.join(", "));

    let served = server.run();
    inbox.send(Message::Stop);
    if thread.join().is_err() {
        return Err(Failure::Run("the poller ended with a panic".to_owned()));
    }
    served.map_err(|error| Failure::Run(format!("waiting for events failed: {error}")))
}

fn run_failure(error: os::Error) -> Failure {
    Failure::Run(error.to_string())
}

/// Passed sockets are known only now: an upstream that is one of them would be a loop.
fn refuse_own_listeners(config: &Config, listeners: &[SocketAddr]) -> Result<(), Failure> {
    let general: &[SocketAddr] = match &config.upstream.servers {
        Servers::Listed(listed) => listed,
        Servers::File(_) | Servers::Auto => &[],
    };
    let routes = config.upstream.routes.iter().flat_map(|route| &route.servers);
    match general.iter().chain(routes).find(|server| is_own(**server, listeners)) {
        None => Ok(()),
        Some(own) => Err(Failure::Run(format!(
            "the upstream server {own} is one of har's own listeners (a passed socket); name another one in [upstream]"
        ))),
    }
}

/// Gives root up, if this process has it, and makes sure that what a reload needs can still be read.
fn become_user(config: &Config) -> Result<(), Failure> {
    let account = privileges::account(config.server.user.as_deref()).map_err(run_failure)?;
    if let (Some(account), Some(folder)) = (&account, config.server.state.parent()) {
        privileges::prepare_folder(folder, Some(account)).map_err(run_failure)?;
        privileges::hand_over(&store::files_of(&config.server.state), account).map_err(run_failure)?;
    }
    privileges::drop_to(account.as_ref()).map_err(run_failure)?;
    if account.is_some() {
        privileges::check_readable(&config.files()).map_err(run_failure)?;
    }
    Ok(())
}

/// Opens the state file. Only a folder that cannot be written is an error.
fn open_store(config: &Config) -> Result<Store, Failure> {
    let Opened { store, notes } = Store::open(&config.server.state).map_err(|error| Failure::Run(error.to_string()))?;
    notes.iter().for_each(|note| warn!("{note}"));
    Ok(store)
}

fn writer(store: Store, config: &Config, inbox: &Inbox<Message>) -> Writer {
    let to_poller = || inbox.clone();
    let (overrides, trouble, resend) = (to_poller(), to_poller(), to_poller());
    let hooks = Hooks {
        on_overrides: Box::new(move |rows, ignored| overrides.send(Message::Overrides { rows, ignored })),
        on_trouble: Box::new(move |text| trouble.send(Message::StoreTrouble(text))),
        on_resend: Box::new(move || resend.send(Message::WriteAll)),
        on_complete: Box::new(os::memory::give_heap_back),
    };
    Writer::new(store, config.server.history, hooks)
}

fn start_poller(poller: Poller, link: Link) -> Result<JoinHandle<()>, Failure> {
    std::thread::Builder::new()
        .name("har-poll".to_owned())
        .spawn(move || poller.run(link))
        .map_err(|error| Failure::Run(format!("the poller's thread cannot be started: {error}")))
}

/// The counters of the upstreams in use. Held only to swap or clone the list, since the event loop takes it too.
type Upstreams = Arc<Mutex<Vec<Listed>>>;

/// What the poller's ways to the event loop have in common. The event loop itself never takes it: it is held while a
/// whole table is built.
struct Shared {
    tallies: Tallies,
    config: Arc<Config>,
    upstreams: Upstreams,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process: a poisoned lock is never seen.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the event loop notices, in the poller's words. Runs on its thread.
fn take_notice(notice: Notice, inbox: &Inbox<Message>, upstreams: &Upstreams) {
    match notice {
        Notice::Reload => inbox.send(Message::Reload),
        Notice::Asked { generation, name } => inbox.send(Message::Asked { generation, name }),
        Notice::Upstreams(fresh) => {
            let before = std::mem::replace(&mut *lock(upstreams), fresh);
            drop(before);
        }
        Notice::Returned { probe } => inbox.send(Message::Returned { probe }),
        Notice::Traffic => inbox.send(Message::Traffic),
        Notice::Stopping => {}
    }
}

/// What the kernel announces, in the poller's words.
fn announced(change: Change) -> Message {
    match change {
        Change::Network => Message::NetworkChanged,
        Change::Files => Message::FilesChanged,
        Change::Clock => Message::ClockJumped,
    }
}

/// The poller's way to the event loop.
fn link(sender: UpdateSender, shared: Arc<Mutex<Shared>>, watch: Watch, logger: Logger) -> Link {
    let (beating, collecting) = (sender.clone(), Arc::clone(&shared));
    let [asking, resting, hearing, counting] = std::array::from_fn(|_| Arc::clone(&shared));
    Link {
        publish: Box::new(move |publication| {
            let update = update(publication, &mut lock(&shared), &logger);
            if let Err(error) = sender.send(update) {
                error!("the event loop cannot be woken: {error}");
            }
        }),
        beat: Box::new(move |sleep| beating.beat(sleep)),
        watch_files: Box::new(move |paths| watch.files(paths)),
        collect: Box::new(move |batch, extent| {
            let Shared { tallies, upstreams, .. } = &mut *lock(&collecting);
            let listed = lock(upstreams).clone();
            let (beyond_loopback, moved) = tallies.collect(&listed, extent, batch);
            let books = tallies.books();
            let unanswered = books.expired + books.shed;
            let traffic = Traffic { asked: books.admitted, answered: books.answered, unanswered };
            Heard { beyond_loopback, traffic, moved }
        }),
        heard: Box::new(move || {
            let Shared { tallies, upstreams, .. } = &mut *lock(&hearing);
            let listed = lock(upstreams).clone();
            tallies.heard(&listed)
        }),
        table: Box::new(move || lock(&counting).tallies.table()),
        asked: Box::new(move |names| lock(&asking).tallies.last_asked(names)),
        rest: Box::new(move |names| lock(&resting).tallies.mark_idle(names)),
    }
}

/// What the poller publishes, in the event loop's words.
fn update(publication: Publication, shared: &mut Shared, logger: &Logger) -> Update {
    match publication {
        Publication::Answer { name, answer } => Update::Answer { name, answer },
        Publication::Table { config, answers, servers, looping } => {
            logger.set_level(config.server.log);
            let snapshot = blank(&config, shared.tallies.table().generation + 1);
            shared.tallies.configure(&config, Arc::clone(snapshot.counters()));
            let update = Update::Table(Box::new(table(&config, snapshot, answers, &servers, &looping)));
            shared.config = config;
            update
        }
        Publication::Listeners { add, remove } => Update::Listeners { add, remove },
        Publication::Servers { servers, looping } => Update::Forwarding(forwarding(&shared.config, &servers, &looping)),
        Publication::Probes(names) => Update::Probes(names),
        Publication::ReloadRefused => Update::Reloaded,
        Publication::Renew => Update::Renew,
        Publication::Ready => Update::Ready,
        Publication::Status(line) => Update::Status(line),
    }
}

/// The names and suffixes of a configuration, with no answers yet. `generation`: tables there were before.
fn blank(config: &Config, generation: u64) -> Snapshot {
    let settings = config.names.iter().map(|name| NameSettings {
        name: name.name.clone(),
        ttl: name.ttl,
        other_types: match name.other_types {
            OtherTypes::Forward => snapshot::OtherTypes::Forward,
            OtherTypes::NoHints => snapshot::OtherTypes::NoHints,
            OtherTypes::NoData => snapshot::OtherTypes::NoData,
        },
    });
    let suffixes: Vec<HostName> = config.upstream.routes.iter().map(|route| route.suffix.clone()).collect();
    Snapshot::new(generation, settings.collect(), &suffixes)
}

/// Everything that a configuration means to the event loop.
fn table(
    config: &Config,
    mut snapshot: Snapshot,
    answers: Vec<NameAnswer>,
    servers: &[SocketAddr],
    looping: &[SocketAddr],
) -> Table {
    for (name, answer) in (0..).zip(answers) {
        snapshot.set(name, answer);
    }
    let limits = Limits { tcp_connections: config.server.tcp_connections, tcp_idle: config.server.tcp_idle };
    Table { snapshot, forwarding: forwarding(config, servers, looping), limits }
}

/// Whom to ask for what is not configured: the general servers, then the routes in the configuration's order.
fn forwarding(config: &Config, servers: &[SocketAddr], looping: &[SocketAddr]) -> Forwarding {
    let upstream = &config.upstream;
    let fastest = upstream.order == Order::Fastest;
    let general = Route { suffix: String::new(), servers: servers.to_vec(), fastest };
    let routes = upstream.routes.iter().map(|route| Route {
        suffix: route.suffix.to_string(),
        servers: route.servers.clone(),
        fastest,
    });
    Forwarding {
        settings: Settings {
            routes: std::iter::once(general).chain(routes).collect(),
            timeout: upstream.timeout,
            max_forwards: config.server.max_forwards,
            looping: looping.to_vec(),
        },
        source: upstream.source,
    }
}
