//! Reloads as the poller sees them: its messages are applied one by one, so that each order of events can be had.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::config;
use crate::health::Outcome;
use crate::health::discovery::{Answer, Found};
use crate::mailbox::Inbox;
use crate::os::Clock;
use crate::poll::begin::{Setup, prepare};
use crate::poll::connect::bare;
use crate::poll::jobs::Done;
use crate::poll::{Listeners, Message};
use crate::store::{Hooks, Store, Writer};

/// What a worker gets for a small configuration.
const PATIENCE: Duration = Duration::from_secs(20);

/// A poller that nothing runs but the test.
struct Staged {
    folder: TempDir,
    poller: Poller,
    inbox: Inbox<Message>,
    waiting: Vec<Message>,
}

impl Staged {
    /// With this configuration, in a folder that `fill` may put something into first.
    fn new(text: &str, fill: impl FnOnce(&TempDir)) -> Staged {
        let folder = tempfile::tempdir().unwrap();
        fill(&folder);
        let path = folder.path().join("har.toml");
        fs::write(&path, text).unwrap();
        let config = config::load(&path).unwrap_or_else(|report| panic!("{report}"));
        let store = Store::open(&folder.path().join("har.db")).unwrap().store;
        let hooks = Hooks {
            on_overrides: Box::new(|_, _| {}),
            on_trouble: Box::new(|_| {}),
            on_resend: Box::new(|| {}),
            on_complete: Box::new(|| {}),
        };
        let writer = Writer::new(store, config.server.history, hooks);
        let clock = Clock::new();
        let (prepared, stored, ()) = prepare(config, b"machine", clock.now(), |_| Default::default(), |_| ());
        let inbox = Inbox::new();
        let setup = Setup {
            prepared,
            stored: &stored,
            listeners: Listeners::default(),
            clock,
            inbox: inbox.clone(),
            writer,
            store_trouble: None,
        };
        let (poller, _, _) = Poller::new(setup);
        Staged { folder, poller, inbox, waiting: Vec::new() }
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// The next message that is one of these, not applied; others are dropped.
    fn next(&mut self, wanted: fn(&Message) -> bool) -> Message {
        loop {
            while !self.waiting.is_empty() {
                let message = self.waiting.remove(0);
                if wanted(&message) {
                    return message;
                }
            }
            self.inbox.wait(Some(PATIENCE), &mut self.waiting);
            assert!(!self.waiting.is_empty(), "nothing came of it");
        }
    }

    fn apply(&mut self, message: Message) {
        let now = self.poller.clock.now();
        self.poller.apply(message, now);
    }

    fn names(&self) -> Vec<String> {
        self.poller.config.names.iter().map(|name| name.name.to_string()).collect()
    }
}

fn is_loaded(message: &Message) -> bool {
    matches!(message, Message::Done(Done::Loaded(_)))
}

fn names(names: &[&str]) -> String {
    let name = |name: &&str| format!("[names.\"{name}\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]\n");
    names.iter().map(name).collect()
}

#[test]
fn what_changes_while_a_configuration_is_read_is_taken_over_too() {
    for first in [names(&["a", "b"]), "nonsense".to_owned()] {
        let mut staged = Staged::new(&names(&["a"]), |_| {});
        staged.put("har.toml", &first);
        staged.apply(Message::Reload);
        let loaded = staged.next(is_loaded);
        staged.put("har.toml", &names(&["a", "c"]));
        // However often it is asked for meanwhile: once more is enough.
        staged.apply(Message::Reload);
        staged.apply(Message::Reload);
        staged.apply(loaded);
        let again = staged.next(is_loaded);
        staged.apply(again);
        assert_eq!(staged.names(), ["a", "c"], "after {first:?}");
        assert!(!staged.poller.reloading, "once");
    }
}

#[test]
fn the_last_servers_stay_while_their_file_lists_none() {
    let conf = |file: &str| format!("[upstream]\nresolv_conf = \"{file}\"\n");
    let mut staged = Staged::new(&conf("one"), |folder| {
        fs::write(folder.path().join("one"), "nameserver 192.0.2.53\n").unwrap();
    });
    let reload = |staged: &mut Staged, text: &str| {
        staged.put("har.toml", text);
        staged.apply(Message::Reload);
        let loaded = staged.next(is_loaded);
        staged.apply(loaded);
        staged.poller.crew.servers().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    fs::remove_file(staged.folder.path().join("one")).unwrap();
    assert_eq!(reload(&mut staged, &conf("one")), ["192.0.2.53:53"], "gone");
    staged.put("one", "# nothing yet\n");
    assert_eq!(reload(&mut staged, &conf("one")), ["192.0.2.53:53"], "and once more");
    assert_eq!(reload(&mut staged, &conf("two")), ["192.0.2.53:53"], "another file that is not there");
    staged.put("two", "nameserver 192.0.2.54\n");
    assert_eq!(reload(&mut staged, &conf("two")), ["192.0.2.54:53"], "there it is");
    let stated = "[upstream]\nservers = [\"192.0.2.55\"]\n";
    assert_eq!(reload(&mut staged, stated), ["192.0.2.55:53"]);
    assert!(reload(&mut staged, &conf("none")).is_empty(), "stated servers are not those of a file");
}

#[test]
fn a_look_at_the_files_of_the_last_configuration_says_nothing_of_this_one() {
    let conf = |file: &str| format!("[upstream]\nresolv_conf = \"{file}\"\n");
    let mut staged = Staged::new(&conf("one"), |folder| {
        fs::write(folder.path().join("one"), "nameserver 192.0.2.1\n").unwrap();
        fs::write(folder.path().join("two"), "nameserver 192.0.2.2\n").unwrap();
    });
    let is_followed = |message: &Message| matches!(message, Message::Done(Done::Followed { .. }));
    staged.apply(Message::FilesChanged);
    let of_one = staged.next(is_followed);
    staged.put("har.toml", &conf("two"));
    staged.apply(Message::Reload);
    let loaded = staged.next(is_loaded);
    // Whoever takes a configuration over has its files looked at once more.
    staged.apply(loaded);
    staged.apply(of_one);
    let of_two = staged.next(is_followed);
    staged.apply(of_two);
    let Some(follower) = &staged.poller.crew.follower else { panic!("it is back") };
    assert_eq!(follower.files(), [staged.folder.path().join("two")]);
}

/// A configuration with a name whose candidates are found.
fn found_at(port: u16) -> String {
    format!(
        "[upstream]\nservers = [\"127.0.0.1:9\"]\n[names.\"web\"]\ncheck = \"tcp:{port}\"\n\
         discover = {{ type = \"srv\", record = \"_http._tcp.example\" }}\n"
    )
}

#[test]
fn candidates_that_are_found_while_a_configuration_is_read_wait_for_its_end() {
    let is_refitted = |message: &Message| matches!(message, Message::Done(Done::Refitted(_)));
    for (text, taken) in [(found_at(2), true), ("nonsense".to_owned(), false)] {
        let mut staged = Staged::new(&found_at(1), |_| {});
        staged.put("har.toml", &text);
        staged.apply(Message::Reload);
        let loaded = staged.next(is_loaded);
        let name: Arc<str> = "web".into();
        let Some(source) = staged.poller.searches.discoveries.source(&name).cloned() else {
            panic!("it is looked for")
        };
        let host = crate::health::Host::Name("one.example".into());
        let found = vec![Found { host, port: Some(80), priority: 1, weight: 1 }];
        let result = Ok(Answer { found, ttl: None });
        staged.apply(Message::Done(Done::Searched { name, source, result, beyond_loopback: false }));
        let refitted = staged.next(is_refitted);
        staged.apply(refitted);
        let checks = |staged: &Staged| {
            let checks = staged.poller.config.names[0].candidates.iter().flat_map(|candidate| &*candidate.checks);
            checks.map(config::Check::definition).collect::<Vec<_>>()
        };
        assert!(checks(&staged).is_empty(), "its check would have a number that the new configuration gives, too");
        staged.apply(loaded);
        if taken {
            let refitted = staged.next(is_refitted);
            staged.apply(refitted);
        }
        assert_eq!(checks(&staged), [if taken { "tcp:2" } else { "tcp:1" }], "what was found is not lost");
    }
}

#[test]
fn what_was_noted_of_an_address_goes_with_it() {
    let two = |second: &str| {
        let name = |name: &str, address: &str| {
            format!("[names.\"{name}\"]\ncheck = \"tls:443\"\ncandidates = [\"{address}\"]\n")
        };
        name("a", "192.0.2.1") + &name(second, if second == "b" { "192.0.2.2" } else { "192.0.2.3" })
    };
    let mut staged = Staged::new(&two("b"), |_| {});
    let jobs = staged.poller.roster.next_checks(staged.poller.clock.now(), usize::MAX);
    let put_in = |staged: &mut Staged| {
        for job in &jobs {
            let result = bare(Outcome::Timeout, Duration::from_secs(2));
            staged.poller.certificates.warned.insert((job.check, job.address));
            staged.apply(Message::Done(Done::Checked { job: *job, result }));
        }
        (staged.poller.crew.slow.len(), staged.poller.certificates.warned.len())
    };
    assert_eq!(put_in(&mut staged), (2, 2));
    staged.put("har.toml", &two("c"));
    staged.apply(Message::Reload);
    let loaded = staged.next(is_loaded);
    staged.apply(loaded);
    assert_eq!((staged.poller.crew.slow.len(), staged.poller.certificates.warned.len()), (1, 1));
    // A check that was under way meanwhile says nothing of anything.
    assert_eq!(put_in(&mut staged).0, 1);
}
