//! What a page shows, as values: everything is decided here and the page only writes it down.

use super::bands::Band;
use super::sampling::Series;
use super::scale::Period;
use crate::commands::fitness::Level;
use crate::health::{State, Time};
use crate::store::EventRow;

/// A whole page.
#[derive(Debug)]
pub struct Report {
    /// This host's name.
    pub host: String,
    /// Whether the daemon runs and since when, in a sentence.
    pub daemon: String,
    /// Of the daemon that wrote the state.
    pub version: String,
    /// When the page was made.
    pub made: Time,
    /// What it is about.
    pub period: Period,
    /// Sentences on what the page cannot show and why.
    pub notes: Vec<String>,
    /// What was counted since the state file was begun.
    pub counters: Vec<(&'static str, u64)>,
    /// Orders in force.
    pub overrides: Vec<String>,
    /// When har did not run.
    pub absences: Vec<(Time, Time)>,
    /// Names with nothing up, with something that is not up, and with everything up.
    pub levels: [usize; 3],
    /// The names that are shown.
    pub names: Vec<NameView>,
    /// What of this host happened, which belongs to no name.
    pub events: Events,
}

/// A name.
#[derive(Debug)]
pub struct NameView {
    /// As configured.
    pub name: String,
    /// How it does.
    pub level: Level,
    /// The same in words.
    pub verdict: String,
    /// Changes of state and of answer in the period.
    pub changes: usize,
    /// What is answered, a family each.
    pub answers: Vec<AnswerView>,
    /// Its addresses, best first.
    pub addresses: Vec<AddressView>,
    /// Addresses that were left out.
    pub more_addresses: usize,
    /// Candidates of which no address is known, and why.
    pub without: Vec<(String, String)>,
    /// What happened to it.
    pub events: Events,
    /// Between two checks that a line may connect at most, milliseconds.
    pub gap_ms: u64,
}

/// What is answered for a family.
#[derive(Debug)]
pub struct AnswerView {
    /// `A` or `AAAA`.
    pub family: &'static str,
    /// What is answered now.
    pub now: String,
    /// Since when.
    pub since: Option<Time>,
    /// Why.
    pub reason: String,
    /// What was when.
    pub bands: Vec<Band<Answered>>,
}

/// What an answer held.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// In words.
    pub words: String,
    /// The first address, by its number among the name's; `None` = none of them.
    pub number: Option<usize>,
}

/// An address of a name.
#[derive(Debug)]
pub struct AddressView {
    /// Its number in the name, from 1.
    pub number: usize,
    /// The address.
    pub address: String,
    /// Its candidate, unless it is the address itself.
    pub host: Option<String>,
    /// Its state now.
    pub state: State,
    /// Whether it is in the answer now.
    pub chosen: bool,
    /// Why it is where it is, and what its last check said.
    pub standing: String,
    /// Smoothed latency now, milliseconds.
    pub latency_ms: Option<f64>,
    /// Its state over the period.
    pub bands: Vec<Band<State>>,
    /// Its checks over the period.
    pub series: Series,
    /// Checks by which it was judged before the present ones: until when, and what, in words. Oldest first.
    pub former: Vec<(Time, String)>,
}

/// Events with a bound.
#[derive(Debug, Default)]
pub struct Events {
    /// When each event of the period was, and in a few words what.
    pub marks: Vec<(Time, String)>,
    /// The latest ones, newest first.
    pub listed: Vec<EventRow>,
}
