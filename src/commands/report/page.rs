//! The page around the drawings: head, index, a section for each name, lists and tables.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::collect::subject;
use super::data::{AddressView, Events, NameView, Report};
use super::markup::Markup;
use super::plot::{self, Canvas, LINES, colour, minute};
use super::sampling::BUCKETS;
use super::scale::milliseconds;
use crate::commands::fitness::Level;
use crate::commands::status::{age, span};
use crate::health::{State, Time};

/// Names from which on there is an index.
const INDEX_FROM: usize = 3;

/// The page of a report: HTML that is well-formed XML too.
pub fn page(report: &Report) -> String {
    let mut markup = Markup::default();
    markup.raw("<!DOCTYPE html>\n");
    markup.element("html", &[("xmlns", &"http://www.w3.org/1999/xhtml"), ("lang", &"en")], |markup| {
        markup.element("head", &[], |markup| head(markup, report));
        markup.raw("\n");
        markup.element("body", &[], |markup| body(markup, report));
    });
    markup.raw("\n");
    markup.finish()
}

fn head(markup: &mut Markup, report: &Report) {
    markup.raw(concat!(
        "<meta charset=\"utf-8\"/>",
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>",
        "<meta name=\"color-scheme\" content=\"light dark\"/>",
        // The page asks nobody for anything, and no browser may do so for it.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\"/>",
        "<meta name=\"referrer\" content=\"no-referrer\"/>",
        "<link rel=\"icon\" href=\"data:,\"/>"
    ));
    markup.leaf("title", &[], format!("har on {}, {}", report.host, minute(report.period.to)));
    markup.raw("<style>");
    markup.raw(include_str!("style.css"));
    markup.raw("</style>");
}

fn body(markup: &mut Markup, report: &Report) {
    plot::definitions(markup);
    markup.element("header", &[], |markup| headline(markup, report));
    markup.element("main", &[], |markup| {
        if report.names.is_empty() {
            markup.leaf("p", &[("class", &"note")], "No name is configured, or the daemon has not written any yet.");
        }
        if report.names.len() >= INDEX_FROM {
            index(markup, report);
        }
        for (place, name) in report.names.iter().enumerate() {
            section(markup, &Canvas { report, id: place + 1 }, name);
        }
        if !report.events.listed.is_empty() {
            markup.element("section", &[("id", &"host")], |markup| {
                markup.leaf("h2", &[], "This host");
                event_list(markup, &report.events, "har events");
            });
        }
    });
    markup.element("footer", &[], |markup| {
        markup.text(format!("Made by har report {} at {} UTC. ", env!("CARGO_PKG_VERSION"), minute(report.made)));
        markup.text("All times are UTC. Counters run since the state file was begun.");
    });
}

fn headline(markup: &mut Markup, report: &Report) {
    markup.element("h1", &[], |markup| {
        markup.text("har on ");
        markup.leaf("span", &[("class", &"host")], &report.host);
    });
    let period = report.period;
    markup.element("p", &[("class", &"period")], |markup| {
        let length = span(period.to.since(period.from));
        markup.text(format!("{} to {} UTC ({length})", minute(period.from), minute(period.to)));
    });
    let version = Some(&report.version).filter(|version| !version.is_empty() && !report.daemon.contains(*version));
    let version = version.map(|version| format!(" (har {version})")).unwrap_or_default();
    markup.leaf("p", &[], format!("{}{version}", report.daemon));
    markup.element("ul", &[("class", &"levels")], |markup| {
        for (level, count) in [Level::Bad, Level::Warn, Level::Good].into_iter().zip(report.levels) {
            let words = match level {
                Level::Bad => "nothing up",
                Level::Warn => "partly up",
                Level::Good => "all up",
            };
            let noun = if count == 1 { "name" } else { "names" };
            let class = if count == 0 { "badge zero" } else { class_of(level) };
            markup.leaf("li", &[("class", &class)], format!("{} {count} {noun} {words}", sign(level)));
        }
    });
    markup.element("dl", &[("class", &"counters")], |markup| {
        for (words, count) in &report.counters {
            markup.element("div", &[], |markup| {
                markup.leaf("dt", &[], words);
                markup.leaf("dd", &[], grouped(*count));
            });
        }
    });
    for order in &report.overrides {
        markup.leaf("p", &[("class", &"note")], format!("Order in force: {order}"));
    }
    for note in &report.notes {
        markup.leaf("p", &[("class", &"note")], note);
    }
}

fn index(markup: &mut Markup, report: &Report) {
    markup.element("nav", &[("aria-label", &"Names")], |markup| {
        markup.element("ol", &[("class", &"index")], |markup| {
            for (place, name) in report.names.iter().enumerate() {
                markup.element("li", &[], |markup| {
                    markup.leaf("a", &[("href", &format!("#n{}", place + 1))], &name.name);
                    markup.raw(" ");
                    badge(markup, name);
                    if name.changes > 0 {
                        let noun = if name.changes == 1 { "change" } else { "changes" };
                        markup.leaf("span", &[("class", &"faint")], format!(" {} {noun}", name.changes));
                    }
                });
            }
        });
    });
}

fn section(markup: &mut Markup, canvas: &Canvas<'_>, name: &NameView) {
    markup.element("section", &[("id", &format!("n{}", canvas.id))], |markup| {
        markup.element("h2", &[], |markup| {
            markup.leaf("span", &[], &name.name);
            markup.raw(" ");
            badge(markup, name);
        });
        for answer in &name.answers {
            markup.element("p", &[("class", &"answer")], |markup| {
                markup.leaf("span", &[("class", &"family")], answer.family);
                markup.raw(" ");
                markup.leaf("strong", &[], &answer.now);
                let since = answer.since.map(|since| format!(" for {}", age(canvas.report.period.to, since)));
                let colon = if answer.reason.is_empty() { "" } else { ": " };
                let words = format!("{}{colon}{}", since.unwrap_or_default(), answer.reason);
                markup.leaf("span", &[("class", &"why")], words);
            });
        }
        for (host, why) in &name.without {
            markup.leaf("p", &[("class", &"note")], format!("{host}: no address ({why})"));
        }
        if !name.addresses.is_empty() {
            figures(markup, canvas, name);
            table(markup, name);
        }
        if name.more_addresses > 0 {
            let words = format!("{} more addresses are left out: har status {}", name.more_addresses, name.name);
            markup.leaf("p", &[("class", &"note")], words);
        }
        event_list(markup, &name.events, &format!("har events {}", name.name));
    });
}

fn figures(markup: &mut Markup, canvas: &Canvas<'_>, name: &NameView) {
    markup.element("figure", &[], |markup| {
        plot::timeline(markup, canvas, name);
        markup.element("figcaption", &[], |markup| {
            markup.raw("<span class=\"legend\"><i class=\"key up\"></i> up</span> <span class=\"legend\"><i class=\"key down\"></i> down</span> <span class=\"legend\"><i class=\"key unknown\"></i> not known</span> <span class=\"legend\"><b class=\"failures\">|</b> failed checks</span> <span class=\"legend\"><b class=\"mark\">\u{25b2}</b> event</span>");
            if !canvas.report.absences.is_empty() {
                markup.raw(" <span class=\"legend\"><i class=\"key gone\"></i> har did not run</span>");
            }
        });
    });
    let mut drawn = false;
    for (part, addresses) in name.addresses.chunks(LINES).enumerate() {
        if addresses.iter().all(|address| address.series.range().is_none()) {
            continue;
        }
        drawn = true;
        markup.element("figure", &[], |markup| {
            plot::latencies(markup, canvas, name, addresses, part);
            markup.leaf("figcaption", &[], latency_caption(canvas.report, addresses));
        });
    }
    for words in former_checks(name) {
        markup.leaf("p", &[("class", &"note")], words);
    }
    if !drawn {
        let words = "No check that passed is recorded in this period, so there are no latencies to draw.";
        markup.leaf("p", &[("class", &"note")], words);
    }
}

/// A sentence for each check that a name's addresses had before, with the time of its last result.
fn former_checks(name: &NameView) -> Vec<String> {
    let mut checks: BTreeMap<&str, (Time, Vec<&str>)> = BTreeMap::new();
    for address in &name.addresses {
        for (until, was) in &address.former {
            let (last, addresses) = checks.entry(was).or_default();
            *last = (*last).max(*until);
            addresses.push(&address.address);
        }
    }
    let mut checks: Vec<_> = checks.into_iter().collect();
    checks.sort_by_key(|(_, (until, _))| *until);
    let sentence = |(was, (until, addresses)): (&str, (Time, Vec<&str>))| {
        let whose = match addresses.len() {
            all if all == name.addresses.len() => "the check".to_owned(),
            1..=3 => format!("the check of {}", addresses.join(", ")),
            some => format!("the check of {some} addresses"),
        };
        format!(
            "Until {} {whose} was {was}. Its results are drawn and counted too; its latencies are not those of the present check.",
            minute(until)
        )
    };
    checks.into_iter().map(sentence).collect()
}

/// What a point of the drawing stands for.
fn latency_caption(report: &Report, addresses: &[AddressView]) -> String {
    let width = report.period.length_ms() as f64 / BUCKETS as f64 / 1000.0;
    let width = match width {
        width if width < 1.0 => format!("{:.0} ms", width * 1000.0),
        width if width < 120.0 => format!("{width:.0} s"),
        width => format!("{:.0} min", width / 60.0),
    };
    let mut words = format!(
        "Latency of checks that passed, in milliseconds. Line: median of each {width}; shadow: from the least to the greatest."
    );
    if addresses.iter().any(|address| address.series.has_sums) {
        words.push_str(" Before the single results that are kept: five-minute sums, with their mean as line and their least and 95th percentile as shadow.");
    }
    if addresses.iter().any(|address| address.series.has_several()) {
        words.push_str(" Of several checks of an address the latency is the first one's, and the table counts the one that failed most.");
    }
    if addresses.iter().any(|address| !address.former.is_empty()) {
        words.push_str(" Upright dashes: a check was another one until then.");
    }
    words
}

fn table(markup: &mut Markup, name: &NameView) {
    const HEAD: [&str; 8] = ["Address", "State", "Now", "Checks", "Passed", "Median", "95 %", "Greatest"];
    markup.element("table", &[("class", &"addresses")], |markup| {
        markup.element("thead", &[], |markup| {
            markup.element("tr", &[], |markup| {
                for (place, word) in HEAD.into_iter().enumerate() {
                    let class = if place < 2 { "" } else { "figure" };
                    markup.leaf("th", &[("scope", &"col"), ("class", &class)], word);
                }
            });
        });
        markup.element("tbody", &[], |markup| {
            for address in &name.addresses {
                row(markup, address, &HEAD);
            }
        });
    });
}

fn row(markup: &mut Markup, address: &AddressView, head: &[&'static str; 8]) {
    let series = &address.series;
    let (figures, (checks, passed)) = (series.figures(), series.counts());
    let ms = |value: Option<f32>| value.map_or_else(|| "–".to_owned(), |value| milliseconds(value.into()));
    let cells = [
        address.latency_ms.map_or_else(|| "–".to_owned(), milliseconds),
        grouped(checks),
        share(passed, checks),
        ms(figures.map(|figures| figures.median)),
        ms(figures.map(|figures| figures.p95)),
        ms(figures.map(|figures| figures.greatest)),
    ];
    markup.element("tr", &[], |markup| {
        markup.element("th", &[("scope", &"row")], |markup| {
            markup.leaf("span", &[("class", &format!("chip s{}", colour(address.number)))], address.number);
            markup.raw(" ");
            markup.leaf("span", &[("class", &"address")], &address.address);
            if let Some(host) = &address.host {
                markup.raw(" ");
                markup.leaf("span", &[("class", &"candidate")], host);
            }
            markup.leaf("span", &[("class", &"standing")], &address.standing);
        });
        markup.element("td", &[("data-label", &head[1])], |markup| {
            let sign = match address.state {
                State::Up => "✓",
                State::Down => "✕",
                State::Unknown => "?",
            };
            let state = address.state.as_str();
            markup.leaf("span", &[("class", &format!("word {state}"))], format!("{sign} {state}"));
            if address.chosen {
                markup.leaf("span", &[("class", &"chosen")], " answered");
            }
        });
        for (cell, label) in cells.iter().zip(&head[2..]) {
            markup.leaf("td", &[("data-label", label), ("class", &"figure")], cell);
        }
    });
}

fn event_list(markup: &mut Markup, events: &Events, more: &str) {
    let total = events.marks.len();
    if total == 0 {
        markup.leaf("p", &[("class", &"note quiet")], "Nothing happened in this period.");
        return;
    }
    markup.element("h3", &[], |markup| {
        markup.text(if total == 1 { "1 event".to_owned() } else { format!("{total} events") });
    });
    markup.element("ol", &[("class", &"events")], |markup| {
        for event in &events.listed {
            markup.element("li", &[], |markup| {
                let stamp = event.at.get(..19).unwrap_or(&event.at).replace('T', " ");
                markup.leaf("time", &[("datetime", &event.at)], stamp);
                markup.raw(" ");
                markup.leaf("span", &[("class", &"subject")], subject(event));
                markup.leaf("span", &[("class", &"why")], format!(" {}", event.reason));
            });
        }
    });
    if total > events.listed.len() {
        let words = format!("The latest {} are shown; {more} has the others.", events.listed.len());
        markup.leaf("p", &[("class", &"note")], words);
    }
}

fn badge(markup: &mut Markup, name: &NameView) {
    let words = format!("{} {}", sign(name.level), name.verdict);
    markup.leaf("span", &[("class", &class_of(name.level))], words);
}

fn class_of(level: Level) -> &'static str {
    match level {
        Level::Bad => "badge bad",
        Level::Warn => "badge warn",
        Level::Good => "badge good",
    }
}

fn sign(level: Level) -> &'static str {
    match level {
        Level::Bad => "✕",
        Level::Warn => "!",
        Level::Good => "✓",
    }
}

/// A count with its thousands apart.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{a0}');
        }
        text.push(digit);
    }
    text
}

/// A share in per cent that says 100 only when nothing failed.
fn share(part: u64, all: u64) -> String {
    if all == 0 {
        return "–".to_owned();
    }
    let percent = 100.0 * part as f64 / all as f64;
    let percent: &dyn Display = if part < all { &format!("{:.2}", percent.min(99.99)) } else { &"100" };
    format!("{percent} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_shares_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1\u{a0}000", "1\u{a0}234\u{a0}567"]);
        assert_eq!(
            [(0, 0), (5, 5), (999_999, 1_000_000), (0, 3)].map(|(part, all)| share(part, all)),
            ["–", "100 %", "99.99 %", "0.00 %"]
        );
    }
}
