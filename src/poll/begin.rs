//! The start of the poller: the configuration made ready while the state file is read, then both put together.
//!
//! With ten thousand names each of the two takes a good part of the time until the first answer, and neither needs the
//! other: they are done at once. Candidates that the last run found belong to the configuration; then one follows the
//! other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use log::warn;

use super::catalogue::Catalogue;
use super::jobs::Crew;
use super::ledger::Ledger;
use super::loops::Loops;
use super::pace::{NameRounds, Pace};
use super::refit::{self, Known, Searches};
use super::tally::Tally;
use super::{Certificates, Heard, Link, Listeners, Message, Poller};
use crate::config::Config;
use crate::dns::lines::NameTable;
use crate::dns::snapshot::NameAnswer;
use crate::health::Time;
use crate::health::compact::Common;
use crate::health::roster::Roster;
use crate::mailbox::Inbox;
use crate::os::{Clock, SuspendWatch};
use crate::store::{Candidates, Stored, Writer};

/// With fewer names a thread costs more than it saves.
const WORTH_A_THREAD: usize = 200;

/// A configuration ready to meet what the state file remembers.
pub struct Prepared {
    config: Config,
    catalogue: Catalogue,
    roster: Roster,
    searches: Searches,
    /// Checks that cannot be run as they stand, in words.
    problems: Vec<String>,
    now: Time,
}

/// What a poller needs to begin.
pub struct Setup<'a> {
    /// The configuration it starts with.
    pub prepared: Prepared,
    /// What the state file remembers. Lent, since to free so much takes a while, and then answers are waited for.
    pub stored: &'a Stored,
    /// har's own listeners, never asked as upstreams.
    pub listeners: Listeners,
    /// The clock of all health.
    pub clock: Clock,
    /// Where everybody writes to it.
    pub inbox: Inbox<Message>,
    /// The thread that writes the state file.
    pub writer: Writer,
    /// Why the state file is not written, if so; it was logged.
    pub store_trouble: Option<String>,
}

/// Makes a configuration ready for the machine with this id and reads the state file, at once where that pays. What
/// else is to be made of the configuration is made beside the reading, too.
pub fn prepare<T>(
    config: Config,
    machine_id: &[u8],
    now: Time,
    load: impl FnOnce(Candidates) -> Stored + Send,
    make: impl FnOnce(&Config) -> T,
) -> (Prepared, Stored, T) {
    if config.names.iter().any(|name| name.discover.is_some()) {
        let stored = load(Candidates::Read);
        let known = refit::stored(&config, &stored);
        let made = make(&config);
        return (Prepared::new(config, known, machine_id, now), stored, made);
    }
    let (mut load, mut loaded) = (Some(load), None);
    let mut read = || loaded = load.take().map(|load| load(Candidates::Skip));
    let (prepared, made) = thread::scope(|scope| {
        if config.names.len() >= WORTH_A_THREAD {
            // Without a thread it is read afterwards.
            let _ = thread::Builder::new().name("har-load".to_owned()).spawn_scoped(scope, &mut read);
        }
        let made = make(&config);
        (Prepared::new(config, Known::default(), machine_id, now), made)
    });
    if load.is_some() {
        loaded = load.take().map(|load| load(Candidates::Skip));
    }
    (prepared, loaded.unwrap_or_default(), made)
}

impl Prepared {
    fn new(mut config: Config, known: Known, machine_id: &[u8], now: Time) -> Prepared {
        refit::fill(&mut config, &known);
        let mut catalogue = Catalogue::default();
        let compiled = catalogue.compile(&mut config);
        let mut searches = Searches::default();
        searches.configure(compiled.finders, now);
        for (name, (_, found)) in known {
            searches.discoveries.seed(&name, found);
        }
        let mut roster = Roster::new(machine_id);
        roster.configure(compiled.specs, now);
        roster.set_discovering(searches.discoveries.unfinished(), searches.discoveries.failures());
        Prepared { config, catalogue, roster, searches, problems: compiled.problems, now }
    }

    /// The configuration, with the candidates that the last run found.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Poller {
    /// A poller with the state of the last run, and the answers of all names as they are now.
    pub fn new(setup: Setup<'_>) -> (Poller, Vec<NameAnswer>, Vec<SocketAddr>) {
        let Prepared { config, catalogue, mut roster, searches, problems, now } = setup.prepared;
        roster.restore(&setup.stored.endpoints, &setup.stored.answers, now);
        roster.set_overrides(setup.stored.overrides.clone(), now);
        let listeners = setup.listeners.addresses().to_vec();
        let crew = Crew::new(setup.inbox.clone(), &config, setup.listeners);
        let servers = crew.servers().to_vec();
        let mut poller = Poller {
            ledger: Ledger::new(&config, &roster, listeners, setup.stored, now),
            config: Arc::new(config),
            catalogue,
            roster,
            crew,
            clock: setup.clock,
            inbox: setup.inbox,
            writer: setup.writer,
            link: deaf(),
            tally: Tally::default(),
            certificates: Certificates::default(),
            started: now,
            pace: Pace::new(now),
            name_rounds: NameRounds::default(),
            next_follow: None,
            files_watched: false,
            ready: false,
            status: String::new(),
            reloading: false,
            reload_again: false,
            store_trouble: setup.store_trouble,
            suspend: SuspendWatch::new(),
            loops: Loops::default(),
            searches,
            trimmed: (now, 0),
            errors: Common::default(),
            tables: 0,
        };
        for problem in problems {
            warn!("{problem}");
        }
        poller.roster.tick(now);
        let answers = poller.all_answers(now);
        (poller, answers, servers)
    }
}

/// A way to the event loop before there is one.
fn deaf() -> Link {
    Link {
        publish: Box::new(|_| {}),
        beat: Box::new(|_| {}),
        watch_files: Box::new(|_| false),
        collect: Box::new(|_, _| Heard::default()),
        heard: Box::new(|| false),
        table: Box::new(|| Arc::new(NameTable::new(0, 0))),
        asked: Box::new(|_| Vec::new()),
        rest: Box::new(|_| {}),
    }
}
