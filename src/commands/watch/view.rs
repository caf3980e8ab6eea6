//! The live table: a head, names in trouble first, every address with its last checks. Pure.

use crate::commands::fitness::{Fitness, Level};
use crate::commands::status::{
    age, answer, daemon_line, endpoints, is_ordered, no_address, observed, why_without, without_address,
};
use crate::health::{EndpointRecord, Family, Host, Outcome, State, Time};
use crate::store::{Life, NameRow, Stored, time};

use super::paint::{Line, Style};
use super::trail::{Rates, Trails};

/// What the head shows a second, with the key of its rate.
pub const RATES: [(&str, &str); 3] =
    [("received", "queries/s"), ("forwarded", "forwarded/s"), ("servfail", "SERVFAIL/s")];

/// Columns of an address's latency.
const LATENCY: usize = 9;

/// Columns of a state, the longest word of which is `unknown`.
const STATE: usize = 7;

/// The table of one look, for a window of so many columns.
pub struct View<'a> {
    /// What is.
    pub stored: &'a Stored,
    /// What was.
    pub trails: &'a Trails,
    /// What is asked.
    pub rates: &'a Rates,
    /// The moment of the look.
    pub now: Time,
    /// Width of the window.
    pub columns: usize,
}

/// Widths that depend on the window and on what is shown.
struct Columns {
    address: usize,
    host: usize,
    trail: usize,
}

impl View<'_> {
    /// The lines above the table.
    pub fn head(&self) -> Vec<Line> {
        let life = match self.stored.life() {
            Life::Running => Style::Good,
            Life::Silent => Style::Warn,
            _ => Style::Bad,
        };
        let mut first = Line::new(life, "● ");
        let words = daemon_line(self.stored, self.now);
        let clock = time::to_text(self.now).get(11..19).unwrap_or_default().to_owned() + "Z";
        let room = self.columns.saturating_sub(2 + clock.len() + 1);
        let words = shortened(&words, room);
        let gap = room - words.chars().count() + 1;
        first.push(Style::Plain, words);
        first.push(Style::Dim, " ".repeat(gap) + &clock);
        let [bad, warn, good] = self.levels();
        let noun = if self.stored.names.len() == 1 { "name" } else { "names" };
        let mut second = Line::new(Style::Plain, format!("{} {noun}: ", self.stored.names.len()));
        second.push(if bad > 0 { Style::Bad } else { Style::Dim }, format!("{bad} with nothing up"));
        second.push(Style::Dim, ", ");
        second.push(if warn > 0 { Style::Warn } else { Style::Dim }, format!("{warn} partly up"));
        second.push(Style::Dim, format!(", {good} all up"));
        let mut third = Line::default();
        for (place, (key, unit)) in RATES.into_iter().enumerate() {
            let gap = if place == 0 { "" } else { "  " };
            let rate = self.rates.a_second(key).map_or_else(|| "–".to_owned(), |rate| format!("{rate:.1}"));
            third.push(Style::Plain, format!("{gap}{rate}"));
            third.push(Style::Dim, format!(" {unit}"));
        }
        let mut lines = vec![first, second, third];
        let orders =
            self.stored.overrides.iter().filter(|order| order.expires_at.is_none_or(|end| end > self.now)).count();
        if orders > 0 {
            let words = if orders == 1 { "1 override is".to_owned() } else { format!("{orders} overrides are") };
            lines.push(Line::new(Style::Warn, format!("{words} in force: har overrides")));
        }
        lines.push(Line::default());
        lines
    }

    /// How many names have nothing up, something that is not up, everything up.
    fn levels(&self) -> [usize; 3] {
        let mut levels = [0; 3];
        self.stored.names.iter().for_each(|(row, _)| levels[self.level(row) as usize] += 1);
        levels
    }

    fn level(&self, row: &NameRow) -> Level {
        Fitness::of(self.stored, &row.name).level()
    }

    /// The table itself, names in trouble first and otherwise in the order of the configuration.
    pub fn rows(&self) -> Vec<Line> {
        let mut names: Vec<(Level, &NameRow)> =
            self.stored.names.iter().map(|(row, _)| (self.level(row), row)).collect();
        names.sort_by_key(|(level, _)| *level);
        let columns = self.measure();
        let mut rows = Vec::new();
        for (level, row) in names {
            self.name(&mut rows, level, row, &columns);
        }
        rows
    }

    fn measure(&self) -> Columns {
        let width = |text: String| text.chars().count();
        let longest = |of: &dyn Fn(&EndpointRecord) -> usize| self.stored.endpoints.iter().map(of).max().unwrap_or(0);
        let address = longest(&|record| width(record.address.to_string())).min(39);
        let fixed = 3 + address + 1 + 1 + STATE + 1 + LATENCY + 2;
        let left = self.columns.saturating_sub(fixed);
        let host = longest(&|record| width(candidate(record))).min(left / 2).min(40);
        // What remains is shared with the remark, which matters more on a narrow window.
        let trail = (left.saturating_sub(host) / 2).clamp(6, 40);
        Columns { address, host, trail }
    }

    fn name(&self, rows: &mut Vec<Line>, level: Level, row: &NameRow, columns: &Columns) {
        let name = &*row.name;
        let (style, sign) = match level {
            Level::Bad => (Style::Bad, "✕ "),
            Level::Warn => (Style::Warn, "! "),
            Level::Good => (Style::Bold, ""),
        };
        let mut shown = false;
        for family in Family::BOTH {
            let ranked: Vec<&EndpointRecord> = endpoints(self.stored, name, Some(family)).collect();
            let answer = answer(self.stored, name, family);
            if ranked.is_empty() && answer.is_none_or(|answer| answer.addresses.is_empty()) {
                continue;
            }
            shown = true;
            let mut line = Line::new(style, format!("{sign}{name}"));
            line.push(Style::Dim, format!(" {} ", family.record()));
            if let Some(observed) = observed(row) {
                line.push(Style::Warn, format!("{observed}; would be: "));
            }
            match answer {
                None => line.push(Style::Dim, "nothing yet"),
                Some(answer) => {
                    let addresses: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
                    let addresses = if addresses.is_empty() { "nothing".to_owned() } else { addresses.join(" ") };
                    line.push(Style::Bold, format!("→ {addresses}"));
                    let age = if is_ordered(answer) { String::new() } else { age(self.now, answer.since) + ": " };
                    line.push(Style::Dim, format!("  {age}{}", answer.reason));
                }
            }
            rows.push(line);
            let greatest = ranked.iter().filter_map(|r| self.trails.greatest(r, columns.trail));
            let top = greatest.fold(0.0, f32::max);
            rows.extend(ranked.iter().map(|record| self.address(record, columns, top)));
        }
        if !shown {
            let mut line = Line::new(style, format!("{sign}{name}"));
            line.push(Style::Dim, format!("  {}", no_address(self.stored, row)));
            rows.push(line);
        }
        for candidate in without_address(self.stored, name) {
            rows.push(Line::new(Style::Warn, format!("   {}: no address: {}", candidate.host, why_without(candidate))));
        }
    }

    fn address(&self, record: &EndpointRecord, columns: &Columns, top: f32) -> Line {
        let Columns { address, host, trail } = *columns;
        let mut line = Line::new(Style::Bold, if record.chosen { " * " } else { "   " });
        line.push(Style::Plain, format!("{:<address$} ", record.address.to_string()));
        let name: String = candidate(record).chars().take(host).collect();
        line.push(Style::Dim, format!("{name:<host$} "));
        let style = match record.state {
            State::Up => Style::Good,
            State::Down => Style::Bad,
            State::Unknown => Style::Warn,
        };
        line.push(style, format!("{:<STATE$} ", record.state.as_str()));
        let latency = record.latency_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1} ms"));
        line.push(Style::Plain, format!("{latency:>LATENCY$}  "));
        let spark = self.trails.sparkline(record, trail, top);
        line.push(Style::Plain, format!("{spark:>trail$}  "));
        match record.last_outcome.filter(|&outcome| outcome != Outcome::Ok) {
            Some(outcome) => {
                let words = record.last_error.as_deref().unwrap_or(outcome.as_str());
                line.push(style, format!("{words}; {}", record.words()));
            }
            None => line.push(Style::Dim, record.words()),
        }
        line
    }
}

/// The candidate of an address, unless it is the address itself.
fn candidate(record: &EndpointRecord) -> String {
    match &record.host {
        Host::Name(name) => name.to_string(),
        Host::Address(_) => String::new(),
    }
}

/// At most so many characters; what is cut shows it.
fn shortened(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(room.checked_sub(1).map(|_| '…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{answer as record, daemon, endpoint, name_row};

    fn stored() -> Stored {
        let mut stored = Stored { daemon: Some(daemon()), ..Stored::default() };
        for name in ["api.example.com", "bad.example.com", "half.example.com"] {
            stored.names.push((name_row(name), Default::default()));
            for number in [1, 2] {
                let mut address = endpoint(name, number);
                if name.starts_with("bad") || (name.starts_with("half") && number == 2) {
                    (address.state, address.last_outcome) = (State::Down, Some(Outcome::ConnectError));
                }
                stored.endpoints.push(address);
            }
            stored.answers.push(record(name));
        }
        stored
    }

    fn texts(lines: &[Line]) -> Vec<String> {
        lines.iter().map(Line::text).collect()
    }

    #[test]
    fn trouble_comes_first_and_every_address_has_its_line() {
        let (stored, mut trails, rates) = (stored(), Trails::default(), Rates::default());
        trails.look(&stored);
        let view = View { stored: &stored, trails: &trails, rates: &rates, now: time::now(), columns: 100 };
        let head = texts(&view.head());
        assert!(head[0].starts_with("● har 0.1.0 runs") && head[0].chars().count() == 100, "{head:?}");
        assert_eq!(head[1], "3 names: 1 with nothing up, 1 partly up, 1 all up");
        assert_eq!(head[2], "– queries/s  – forwarded/s  – SERVFAIL/s");
        let rows = texts(&view.rows());
        assert_eq!(rows.len(), 9, "{rows:#?}");
        assert!(rows[0].starts_with("✕ bad.example.com A → 192.0.2.1 192.0.2.2  "), "{rows:#?}");
        assert!(rows[3].starts_with("! half.example.com"), "{rows:#?}");
        assert!(rows[1].contains("down") && rows[1].ends_with("refused; chosen"), "{rows:#?}");
        assert!(rows[7].starts_with(" * 192.0.2.1 h1.example.com"), "{rows:#?}");
        assert!(rows[7].contains("up ") && rows[7].contains("9.2 ms") && rows[7].contains('█'), "{rows:#?}");
    }

    #[test]
    fn drains_and_forced_addresses_count_and_what_is_observed_is_not_given() {
        let (mut stored, trails, rates) = (stored(), Trails::default(), Rates::default());
        stored.names[0].0.mode = "observe".into();
        for endpoint in &mut stored.endpoints {
            match &*endpoint.name {
                "api.example.com" => endpoint.drained = Some("until undone".to_owned()),
                _ => endpoint.forced = true,
            }
        }
        let view = View { stored: &stored, trails: &trails, rates: &rates, now: time::now(), columns: 100 };
        assert_eq!(texts(&view.head())[1], "3 names: 1 with nothing up, 0 partly up, 2 all up");
        let rows = texts(&view.rows());
        let head = "✕ api.example.com A observed, every query is forwarded; would be: → 192.0.2.1 192.0.2.2  ";
        assert!(rows[0].starts_with(head), "{rows:#?}");
    }

    #[test]
    fn a_narrow_window_loses_words_and_not_states() {
        let (stored, trails, rates) = (stored(), Trails::default(), Rates::default());
        for columns in [20, 40, 60, 80, 200] {
            let view = View { stored: &stored, trails: &trails, rates: &rates, now: time::now(), columns };
            let rows = texts(&view.rows());
            let before: String = rows[1].chars().take(columns.max(40)).collect();
            assert!(before.contains("down"), "{columns}: {before}");
            assert!(view.head()[0].text().chars().count() <= columns.max(12), "{columns}");
        }
    }
}
