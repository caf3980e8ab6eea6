//! Other listeners by a reload: bound beside the reading of the configuration, handed to the event loop when that is
//! taken over.
//!
//! A change of the list is taken over as a whole or not at all. What is served on both sides of it is left alone, with its
//! connections and the queries under way. Sockets that were passed stay as they are, whatever is listed.

use std::net::SocketAddr;
use std::sync::Arc;

use log::{Level, info, log, warn};

use super::{Poller, Publication};
use crate::config::Config;
use crate::os::sockets::{self, BindError};
use crate::os::{Bound, Listener};

/// har's own listeners.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Listeners {
    served: Arc<[SocketAddr]>,
    /// `server.listen` as they were made from it; `None` = they were passed.
    listed: Option<Arc<[SocketAddr]>>,
}

/// What a configuration makes of them.
#[derive(Debug)]
pub struct Change {
    /// From now on; the former ones when nothing changes.
    pub listeners: Listeners,
    /// `None` = nothing changes.
    done: Option<Result<Moved, BindError>>,
}

/// Listeners that come and go.
#[derive(Debug)]
struct Moved {
    add: Vec<Listener>,
    remove: Vec<SocketAddr>,
    warnings: Vec<String>,
}

impl Listeners {
    /// Those that har starts with.
    pub fn new(bound: &Bound, config: &Config) -> Listeners {
        let served = bound.listeners.iter().map(|listener| listener.address).collect();
        Listeners { served, listed: (!bound.passed).then(|| config.server.listen.as_slice().into()) }
    }

    /// Their addresses.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.served
    }

    /// Binds what a configuration adds.
    pub fn change(&self, listed: &[SocketAddr], stated: bool) -> Change {
        let unchanged = self.listed.as_deref().is_none_or(|before| before == listed);
        if unchanged {
            return Change { listeners: self.clone(), done: None };
        }
        let is_new = |address: &&SocketAddr| !self.served.contains(address);
        let new: Vec<SocketAddr> = listed.iter().filter(is_new).copied().collect();
        let others = new.len() < listed.len();
        let bound = match sockets::bind_all(&new, stated, others) {
            Ok(bound) => bound,
            Err(error) => return Change { listeners: self.clone(), done: Some(Err(error)) },
        };
        let is_bound = |address: &SocketAddr| bound.listeners.iter().any(|listener| listener.address == *address);
        let is_served = |address: &&SocketAddr| self.served.contains(address) || is_bound(address);
        let served: Arc<[SocketAddr]> = listed.iter().filter(is_served).copied().collect();
        if served.is_empty() {
            // Only addresses that nobody stated and this host has not: as good as no change.
            return Change { listeners: self.clone(), done: None };
        }
        let remove = self.served.iter().filter(|address| !listed.contains(address)).copied().collect();
        let moved = Moved { add: bound.listeners, remove, warnings: bound.warnings };
        Change { listeners: Listeners { served, listed: Some(listed.into()) }, done: Some(Ok(moved)) }
    }
}

impl Poller {
    /// Takes over what was bound for a configuration, or says why the former listeners stay.
    pub(super) fn change_listeners(&mut self, change: Change) {
        let moved = match change.done {
            None => return,
            Some(Ok(moved)) => moved,
            Some(Err(error)) => {
                let (level, words) = refusal(&error);
                log!(level, "{words}");
                return;
            }
        };
        moved.warnings.iter().for_each(|warning| warn!("{warning}"));
        (self.link.publish)(Publication::Listeners { add: moved.add, remove: moved.remove });
        let shown: Vec<String> = change.listeners.addresses().iter().map(SocketAddr::to_string).collect();
        info!("listening on {} from now on", shown.join(", "));
        self.ledger.set_listeners(change.listeners.addresses().to_vec());
        self.crew.set_listeners(change.listeners);
    }
}

/// Why the former listeners stay, and what to do about it.
fn refusal(error: &BindError) -> (Level, String) {
    if error.is_for_want_of_privileges() {
        let words = "server.listen has changed: this takes effect with a restart of har, until then the former listeners are kept";
        return (Level::Warn, format!("{words}: {error}"));
    }
    let words = "server.listen has changed, and the former listeners are kept";
    (Level::Error, format!("{words}: {error}; then reload har again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(count: usize) -> Bound {
        let listeners = (0..count).map(|_| sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap()).collect();
        Bound { listeners, ..Bound::default() }
    }

    /// Those that serve these, and their sockets.
    fn serving(count: usize) -> (Listeners, Bound) {
        let bound = bound(count);
        let served: Arc<[SocketAddr]> = bound.listeners.iter().map(|listener| listener.address).collect();
        (Listeners { listed: Some(Arc::clone(&served)), served }, bound)
    }

    fn free() -> SocketAddr {
        bound(1).listeners[0].address
    }

    #[test]
    fn what_stays_is_left_alone_and_the_rest_is_bound_and_given_up() {
        let (before, _sockets) = serving(2);
        let [gone, stays] = [before.addresses()[0], before.addresses()[1]];
        let new = free();
        let change = before.change(&[new, stays], true);
        assert_eq!(change.listeners.addresses(), [new, stays]);
        let moved = change.done.unwrap().unwrap();
        assert_eq!(moved.add.iter().map(|listener| listener.address).collect::<Vec<_>>(), [new]);
        assert_eq!(moved.remove, [gone]);
        // The same list once more.
        assert!(change.listeners.change(&[new, stays], true).done.is_none());
    }

    #[test]
    fn one_that_cannot_be_had_changes_nothing_until_it_can() {
        let (before, _sockets) = serving(1);
        let (taken, new) = (bound(1), free());
        let wanted = [new, taken.listeners[0].address];
        let change = before.change(&wanted, true);
        assert_eq!(change.listeners, before);
        let error = change.done.unwrap().unwrap_err();
        assert_eq!(error.address, wanted[1]);
        drop(sockets::bind(new).expect("it is given up again"));
        drop(taken);
        // The list is the same, and what was in the way is not.
        assert_eq!(before.change(&wanted, true).listeners.addresses(), wanted);
    }

    #[test]
    fn addresses_that_nobody_stated_may_be_missing() {
        let (before, _sockets) = serving(1);
        // No host has a documentation address (RFC 5737).
        let (missing, new) = ("192.0.2.1:53".parse().unwrap(), free());
        let change = before.change(&[missing, new], false);
        assert_eq!(change.listeners.addresses(), [new]);
        assert!(change.done.unwrap().unwrap().warnings[0].contains("192.0.2.1:53"));
        assert_eq!(before.change(&[missing], false).listeners, before);
        assert!(before.change(&[missing, new], true).done.unwrap().is_err());
    }

    #[test]
    fn passed_sockets_stay() {
        let before = Listeners { served: Arc::new([free()]), listed: None };
        let change = before.change(&[free()], true);
        assert!(change.done.is_none() && change.listeners == before);
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let error = |kind: std::io::ErrorKind| BindError {
            address: "127.0.0.1:53".parse().unwrap(),
            protocol: "UDP",
            error: kind.into(),
            holder: None,
        };
        let (level, words) = refusal(&error(std::io::ErrorKind::PermissionDenied));
        assert!(level == Level::Warn && words.contains("restart") && words.contains("127.0.0.1:53"), "{words}");
        let (level, words) = refusal(&error(std::io::ErrorKind::AddrInUse));
        assert!(level == Level::Error && words.contains("127.0.0.1:53 (UDP): in use"), "{words}");
    }
}
