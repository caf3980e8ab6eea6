//! har beside real software, and the tables of `docs/compatibility.md` that say what came of it.
//!
//! Each test has a network and mount namespace of its own with har on port 53: programs that ask har ([`clients`]) and
//! another server too ([`second`]), servers that har asks ([`servers`]), resolvers that ask har ([`resolvers`]). What they see is compared
//! with the committed tables; a program that is not installed costs its row, and a line says so.

mod clients;
mod resolvers;
mod second;
mod servers;
mod stage;
mod table;
