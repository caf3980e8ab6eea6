//! The drawings: what was answered and how every address did, and the latencies, as SVG.
//!
//! Units are those of a drawing 800 wide that scales with the page. Text in it is larger on a narrow page (the style
//! sheet sees to that), so every label has room for twice its size. Colour never stands alone: addresses have
//! numbers, what is down is hatched, lines differ in their dashes.

use std::fmt::Write as _;

use super::bands::Band;
use super::data::{AddressView, Answered, Events, NameView, Report};
use super::markup::Markup;
use super::sampling::Point;
use super::scale::{Period, Values, milliseconds};
use crate::health::{State, Time};
use crate::store::time;

const WIDTH: f64 = 800.0;

/// Width of everything that has a time; what remains on the right is for the numbers of the lines.
const PLOT: f64 = WIDTH - 30.0;

/// Lines in one drawing of latencies.
pub const LINES: usize = 6;

/// Height of the drawing of latencies without its axis.
const TALL: f64 = 230.0;

/// Height of the axis of time.
const AXIS: f64 = 34.0;

/// Room for the words above a lane.
const WORDS: f64 = 30.0;

/// Places at which events may be marked: no more marks than can be told apart.
const MARKS: f64 = 200.0;

/// What both drawings of a name share.
pub struct Canvas<'a> {
    /// The page.
    pub report: &'a Report,
    /// Makes the ids of this name's elements distinct.
    pub id: usize,
}

/// Patterns that the drawings refer to; once a page.
pub fn definitions(markup: &mut Markup) {
    markup.raw(concat!(
        "<svg class=\"definitions\" width=\"0\" height=\"0\" aria-hidden=\"true\" focusable=\"false\"><defs>",
        "<pattern id=\"down\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">",
        "<rect class=\"down\" width=\"8\" height=\"8\"/><rect class=\"stripe\" width=\"3\" height=\"8\"/></pattern>",
        "<pattern id=\"away\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\">",
        "<circle class=\"dot\" cx=\"2\" cy=\"2\" r=\"1\"/></pattern>",
        "</defs></svg>"
    ));
}

/// The answer over time, a lane a family, and below it the state of every address.
pub fn timeline(markup: &mut Markup, canvas: &Canvas<'_>, name: &NameView) {
    let answers = name.answers.len() as f64 * (WORDS + 34.0);
    let states = name.addresses.len() as f64 * (WORDS + 24.0);
    let marks = 26.0;
    let bottom = answers + states + marks;
    let describe = describe_timeline(name);
    let title = format!("What {} answered and how its addresses did", name.name);
    drawing(markup, ("t", canvas.id), (&title, &describe), bottom + AXIS, |markup| {
        let period = canvas.report.period;
        grid(markup, period, bottom);
        let mut y = 0.0;
        for answer in &name.answers {
            let words = format!("{} answered", answer.family);
            markup.leaf("text", &[("class", &"lane"), ("x", &0), ("y", &place(y + 22.0))], words);
            for band in &answer.bands {
                answer_band(markup, period, band, y + WORDS);
            }
            y += WORDS + 34.0;
        }
        for address in &name.addresses {
            address_lane(markup, period, address, y);
            y += WORDS + 24.0;
        }
        absent(markup, canvas.report, bottom);
        event_marks(markup, period, &name.events, y + 14.0);
        axis(markup, period, bottom);
    });
}

fn describe_timeline(name: &NameView) -> String {
    let answers = name.answers.iter().map(|answer| {
        let known = answer.bands.iter().filter(|band| band.what.is_some()).count();
        format!("{}: {}, now {}.", answer.family, counted(known, "period"), answer.now)
    });
    let down = name.addresses.iter().map(|address| {
        let times = address.bands.iter().filter(|band| band.what == Some(State::Down)).count();
        let times = counted(times, "period");
        format!("{} is {}; down in {times}.", address.address, address.state.as_str())
    });
    answers.chain(down).collect::<Vec<_>>().join(" ")
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// An SVG element with its title and description for those who hear it.
fn drawing(
    markup: &mut Markup,
    (kind, id): (&'static str, usize),
    (title, description): (&str, &str),
    height: f64,
    inside: impl FnOnce(&mut Markup),
) {
    let (title_id, description_id) = (format!("{kind}{id}-t"), format!("{kind}{id}-d"));
    let labelled = format!("{title_id} {description_id}");
    let size = format!("0 0 {WIDTH} {}", place(height));
    let attributes: &[(&str, &dyn std::fmt::Display)] = &[
        ("xmlns", &"http://www.w3.org/2000/svg"),
        ("viewBox", &size),
        ("role", &"img"),
        ("aria-labelledby", &labelled),
    ];
    markup.element("svg", attributes, |markup| {
        markup.leaf("title", &[("id", &title_id)], title);
        markup.leaf("desc", &[("id", &description_id)], description);
        inside(markup);
    });
}

fn answer_band(markup: &mut Markup, period: Period, band: &Band<Answered>, y: f64) {
    let (from, width) = stretch(period, (band.from, band.to));
    let number = band.what.as_ref().and_then(|what| what.number);
    let class = match (&band.what, number) {
        (Some(_), Some(number)) => format!("band s{}", colour(number)),
        (Some(_), None) => "band none".to_owned(),
        (None, _) => "band unknown".to_owned(),
    };
    let words = band.what.as_ref().map_or("not recorded", |what| &what.words);
    markup.element("g", &[], |markup| {
        markup.leaf("title", &[], format!("{words}, {}", from_to(band.from, band.to)));
        rectangle(markup, &class, (from, y), (width, 28.0));
        let key = number.map(|number| number.to_string());
        let mut room = 6.0;
        if let Some(key) = key.filter(|_| width >= 22.0) {
            markup.leaf("text", &[("class", &"in key"), ("x", &place(from + 5.0)), ("y", &place(y + 21.0))], &key);
            room = 24.0;
        }
        if width >= room + 8.0 + words.chars().count() as f64 * 7.4 {
            markup.leaf("text", &[("class", &"in wide"), ("x", &place(from + room)), ("y", &place(y + 19.5))], words);
        }
    });
}

fn address_lane(markup: &mut Markup, period: Period, address: &AddressView, y: f64) {
    markup.element("text", &[("class", &"lane"), ("x", &0), ("y", &place(y + 22.0))], |markup| {
        markup.leaf("tspan", &[("class", &format!("number t{}", colour(address.number)))], address.number);
        markup.text(format!(" {}", address.address));
        if let Some(host) = &address.host {
            markup.leaf("tspan", &[("class", &"wide faint")], format!(" {host}"));
        }
    });
    for band in &address.bands {
        let (from, width) = stretch(period, (band.from, band.to));
        let state = band.what.unwrap_or(State::Unknown);
        markup.element("g", &[], |markup| {
            let words = band.what.map_or("not recorded", State::as_str);
            markup.leaf("title", &[], format!("{} {words}, {}", address.address, from_to(band.from, band.to)));
            rectangle(markup, &format!("state {}", state.as_str()), (from, y + WORDS), (width, 18.0));
        });
    }
    let mut ticks = String::new();
    for (share, _) in address.series.failures() {
        let _ = write!(ticks, "M{} {}v7", place(share * PLOT), place(y + WORDS + 11.0));
    }
    if !ticks.is_empty() {
        markup.empty("path", &[("class", &"failures"), ("d", &ticks)]);
    }
}

/// Marks on a lane of their own, at most so many: those that would cover each other are one.
fn event_marks(markup: &mut Markup, period: Period, events: &Events, y: f64) {
    let mut places: Vec<(f64, Vec<&str>)> = Vec::new();
    for (at, words) in &events.marks {
        let x = (period.share(*at) * MARKS).round() / MARKS * PLOT;
        match places.last_mut() {
            Some((last, all)) if *last == x => all.push(words),
            _ => places.push((x, vec![words])),
        }
    }
    for (x, words) in places {
        let shown = words.len().min(4);
        let mut title = words[..shown].join("; ");
        if words.len() > shown {
            title = format!("{title}; {} more", words.len() - shown);
        }
        let x = x.clamp(5.0, PLOT - 5.0);
        let shape = format!("M{} {}l5 9h-10z", place(x), place(y - 5.0));
        markup.element("path", &[("class", &"mark"), ("d", &shape)], |markup| markup.leaf("title", &[], title));
    }
}

/// The latencies of some addresses of a name: the median as a line, from least to greatest as its shadow.
pub fn latencies(markup: &mut Markup, canvas: &Canvas<'_>, name: &NameView, addresses: &[AddressView], part: usize) {
    let ranges = addresses.iter().filter_map(|address| address.series.range());
    let Some((low, high)) = ranges.reduce(|(a, b), (c, d)| (a.min(c), b.max(d))) else { return };
    let values = Values::of(low.into(), high.into());
    let title = format!("Latency of the checks of {}", name.name);
    let describe = describe_latencies(addresses);
    drawing(markup, ("l", canvas.id * 100 + part), (&title, &describe), TALL + AXIS, |markup| {
        let period = canvas.report.period;
        grid(markup, period, TALL);
        value_lines(markup, values);
        let mut ends = Vec::new();
        for address in addresses {
            let runs = address.series.runs(name.gap_ms);
            if let Some(last) = runs.last().and_then(|run| run.last()) {
                ends.push((height(values, last.median), address.number));
            }
            line(markup, address.number, &runs, values);
        }
        redefinitions(markup, period, addresses);
        value_labels(markup, values);
        numbers(markup, ends);
        axis(markup, period, TALL);
    });
}

/// A line upright where the check of an address was another one before: the latencies on its sides do not compare.
fn redefinitions(markup: &mut Markup, period: Period, addresses: &[AddressView]) {
    let all = addresses.iter().flat_map(|address| address.former.iter().map(move |(until, was)| (until, was, address)));
    for (until, was, address) in all {
        let shape = format!("M{} 0V{}", place(period.share(*until) * PLOT), place(TALL));
        let title = format!("{} was checked by {was} until {}", address.address, minute(*until));
        markup.element("path", &[("class", &"redefined"), ("d", &shape)], |markup| markup.leaf("title", &[], title));
    }
}

fn describe_latencies(addresses: &[AddressView]) -> String {
    let words = addresses.iter().map(|address| match address.series.figures() {
        Some(figures) => format!(
            "{}: median {}, 95th percentile {}, greatest {}.",
            address.address,
            milliseconds(figures.median.into()),
            milliseconds(figures.p95.into()),
            milliseconds(figures.greatest.into())
        ),
        None => format!("{}: no single results.", address.address),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn line(markup: &mut Markup, number: usize, runs: &[Vec<Point>], values: Values) {
    let (mut shadow, mut median) = (String::new(), String::new());
    for run in runs {
        for (at, point) in run.iter().enumerate() {
            let x = place(point.share * PLOT);
            let (low, high) = (height(values, point.low), height(values, point.high));
            if low - high > 0.5 {
                let _ = write!(shadow, "M{x} {}V{}", place(low), place(high));
            }
            let _ = write!(median, "{}{x} {}", if at == 0 { 'M' } else { 'L' }, place(height(values, point.median)));
        }
        if run.len() == 1 {
            // A line of no length has round ends: a dot.
            median.push_str("h0");
        }
    }
    if !shadow.is_empty() {
        markup.empty("path", &[("class", &format!("shadow l{}", colour(number))), ("d", &shadow)]);
    }
    markup.empty("path", &[("class", &format!("line l{}", colour(number))), ("d", &median)]);
}

/// The numbers at the ends of the lines, pushed apart where they would cover each other.
fn numbers(markup: &mut Markup, mut ends: Vec<(f64, usize)>) {
    const APART: f64 = 21.0;
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut floor = 12.0;
    for end in &mut ends {
        end.0 = end.0.max(floor);
        floor = end.0 + APART;
    }
    let mut ceiling = TALL - 2.0;
    for (y, number) in ends.into_iter().rev() {
        let y = y.min(ceiling);
        ceiling = y - APART;
        let class = format!("number end t{}", colour(number));
        let (x, y) = (place(PLOT + 8.0), place(y + 6.0));
        markup.leaf("text", &[("class", &class), ("x", &x), ("y", &y)], number);
    }
}

fn height(values: Values, value: f64) -> f64 {
    TALL - values.share(value) * (TALL - 14.0)
}

/// Lines across.
fn value_lines(markup: &mut Markup, values: Values) {
    for tick in values.ticks() {
        let line = format!("M0 {}H{}", place(height(values, tick)), place(PLOT));
        markup.empty("path", &[("class", &"grid"), ("d", &line)]);
    }
}

/// What the lines across stand for. On a narrow page the words are twice as high: those that would cover another there
/// are left out by the style sheet.
fn value_labels(markup: &mut Markup, values: Values) {
    let (mut last, mut last_narrow) = (f64::INFINITY, f64::INFINITY);
    for tick in values.ticks().into_iter().filter(|tick| *tick > 0.0) {
        let y = height(values, tick);
        if last - y < 17.0 {
            continue;
        }
        let narrow = last_narrow - y >= 34.0;
        let class = if narrow { "value" } else { "value wide" };
        markup.leaf("text", &[("class", &class), ("x", &2), ("y", &place(y - 3.0))], milliseconds(tick));
        last = y;
        if narrow {
            last_narrow = y;
        }
    }
}

fn grid(markup: &mut Markup, period: Period, height: f64) {
    let mut lines = String::new();
    for (at, _) in period.ticks() {
        let _ = write!(lines, "M{} 0V{}", place(period.share(at) * PLOT), place(height));
    }
    markup.empty("path", &[("class", &"grid"), ("d", &lines)]);
}

fn axis(markup: &mut Markup, period: Period, y: f64) {
    let line = format!("M0 {}H{}", place(y), place(PLOT));
    markup.empty("path", &[("class", &"axis"), ("d", &line)]);
    for (at, label) in period.ticks() {
        let x = period.share(at) * PLOT;
        let anchor = match x {
            x if x < 36.0 => "start",
            x if x > PLOT - 30.0 => "end",
            _ => "middle",
        };
        let attributes: &[(&str, &dyn std::fmt::Display)] =
            &[("class", &"tick"), ("x", &place(x)), ("y", &place(y + 24.0)), ("text-anchor", &anchor)];
        markup.leaf("text", attributes, label);
    }
}

/// The time in which har did not run lies over everything.
fn absent(markup: &mut Markup, report: &Report, height: f64) {
    for &(from, to) in &report.absences {
        let (x, width) = stretch(report.period, (from, to));
        markup.element("g", &[], |markup| {
            markup.leaf("title", &[], format!("har did not run, {}", from_to(from, to)));
            rectangle(markup, "away", (x, 0.0), (width, height));
            rectangle(markup, "dots", (x, 0.0), (width, height));
        });
    }
}

fn rectangle(markup: &mut Markup, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
    let attributes: &[(&str, &dyn std::fmt::Display)] =
        &[("class", &class), ("x", &place(x)), ("y", &place(y)), ("width", &place(width)), ("height", &place(height))];
    markup.empty("rect", attributes);
}

/// Where a stretch of time begins and how wide it is: wide enough to be seen.
fn stretch(period: Period, (from, to): (Time, Time)) -> (f64, f64) {
    let x = period.share(from) * PLOT;
    let width = (period.share(to) * PLOT - x).max(1.5);
    (x.min(PLOT - width), width)
}

fn from_to(from: Time, to: Time) -> String {
    format!("{} to {}", minute(from), minute(to))
}

/// A time to the second, for people: `2026-11-21 06:45:00`.
pub fn minute(at: Time) -> String {
    time::to_text(at).get(..19).unwrap_or_default().replace('T', " ")
}

/// The colour of an address, by its number; they come round after the sixth.
pub fn colour(number: usize) -> usize {
    (number + LINES - 1) % LINES + 1
}

/// A coordinate, to a tenth.
fn place(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}
