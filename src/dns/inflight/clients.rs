//! Which client has which question under way: its address and ID, as one hash with a secret.
//!
//! Strangers choose addresses and IDs. The secret, drawn for the first query, keeps them from choosing what falls
//! together. The hash is made once for a query and kept with it, where a map of addresses would make it anew with
//! each look. Two clients with the same one (once in 2^64) are told apart by who looks: the second one's
//! retransmission is then a query of its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, DefaultHasher, Hasher};
use std::net::IpAddr;

use super::table::Key;
use super::{Client, Random};

/// Queries under way of UDP clients.
#[derive(Default)]
pub(super) struct Clients {
    /// A hasher that has taken in the secret.
    secret: Option<DefaultHasher>,
    queries: HashMap<u64, Key, BuildHasherDefault<Made>>,
}

impl Clients {
    /// What stands for a client's ID here.
    pub fn hash(&mut self, client: Client, id: u16, random: Random<'_>) -> u64 {
        // In one piece: each piece costs as much as a third of the whole.
        let mut bytes = [0; 24];
        let (address, port, listener) = match client {
            Client::Udp { listener, peer } => (peer.ip(), peer.port(), listener),
            // Replies go by connection: those are not looked for.
            Client::Tcp { .. } => return 0,
        };
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        bytes[..16].copy_from_slice(&address.octets());
        bytes[16..18].copy_from_slice(&port.to_ne_bytes());
        bytes[18..20].copy_from_slice(&listener.to_ne_bytes());
        bytes[20..22].copy_from_slice(&id.to_ne_bytes());
        let secret = self.secret.get_or_insert_with(|| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(random());
            hasher.write_u64(random());
            hasher
        });
        let mut hasher = secret.clone();
        hasher.write(&bytes);
        hasher.finish()
    }

    /// The query under a hash; whether it is of this client its entry says.
    pub fn get(&self, hash: u64) -> Option<Key> {
        self.queries.get(&hash).copied()
    }

    /// Enters a query, unless there is one already.
    pub fn enter(&mut self, hash: u64, query: Key) {
        self.queries.entry(hash).or_insert(query);
    }

    /// Takes a query out, if it is the one that was entered.
    pub fn remove(&mut self, hash: u64, query: Key) {
        if let Entry::Occupied(entry) = self.queries.entry(hash)
            && *entry.get() == query
        {
            entry.remove();
        }
    }

    pub fn shrink_to(&mut self, kept: usize) {
        self.queries.shrink_to(kept);
    }

    pub fn iter(&self) -> impl Iterator<Item = Key> {
        self.queries.values().copied()
    }
}

/// Passes on what is a hash already.
#[derive(Default)]
struct Made(u64);

impl Hasher for Made {
    fn write(&mut self, bytes: &[u8]) {
        // Keys are of one type, which calls the other one.
        debug_assert!(bytes.is_empty());
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(listener: u16, peer: &str) -> Client {
        Client::Udp { listener, peer: peer.parse().unwrap() }
    }

    #[test]
    fn every_part_of_a_client_counts() {
        let mut clients = Clients::default();
        let mut hash = |client, id| clients.hash(client, id, &mut || 1);
        let hashes = [
            hash(client(0, "192.0.2.1:5000"), 7),
            hash(client(1, "192.0.2.1:5000"), 7),
            hash(client(0, "192.0.2.2:5000"), 7),
            hash(client(0, "192.0.2.1:5001"), 7),
            hash(client(0, "192.0.2.1:5000"), 8),
            hash(client(0, "[2001:db8::1]:5000"), 7),
            hash(client(0, "[2001:db8::2]:5000"), 7),
        ];
        for (index, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(hash), "{index}");
        }
        assert_eq!(hashes[0], hash(client(0, "192.0.2.1:5000"), 7));
        let other = Clients::default().hash(client(0, "192.0.2.1:5000"), 7, &mut || 2);
        assert_ne!(hashes[0], other, "the secret counts");
    }

    #[test]
    fn the_first_query_of_a_hash_stays_until_it_is_taken_out() {
        let mut clients = Clients::default();
        let (first, second) = (Key { slot: 1, generation: 1 }, Key { slot: 2, generation: 2 });
        clients.enter(9, first);
        clients.enter(9, second);
        clients.remove(9, second);
        assert_eq!(clients.get(9), Some(first));
        clients.remove(9, first);
        assert_eq!(clients.get(9), None);
    }
}
