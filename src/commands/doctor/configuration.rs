//! The configuration file: there, readable, valid, nobody else's to write.

use super::Scene;
use super::finding::Finding;
use super::root::Content;

/// Written by everybody.
const ALL_WRITE: u32 = 0o002;

/// Says what is wrong with it.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let place = scene.config_shown();
    let seen = scene.facts.files.get(&place);
    let before = out.len();
    if seen.is_some_and(|seen| seen.mode & ALL_WRITE != 0 && seen.content != Content::Nothing) {
        out.push(
            Finding::problem("config-open", &place, "everybody can write it")
                .why("who writes it decides what every program connects to, and an exec check runs what it says")
                .mend(format!("chmod o-w {place}")),
        );
    }
    match &scene.facts.config {
        Err(report) if seen.is_none_or(|seen| seen.content == Content::Nothing) => {
            let why = report.0.first().map(|problem| problem.message.clone()).unwrap_or_default();
            out.push(
                Finding::problem("config-missing", &place, why)
                    .why("har does not start without it; the rest is judged as with an empty one")
                    .mend("begin with har.toml.example, or name the file with --config"),
            );
        }
        Err(report) => {
            for problem in &report.0 {
                let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
                let found = format!("{key}{}", problem.message);
                let line =
                    if problem.line > 0 { format!(":{}:{}", problem.line, problem.column) } else { String::new() };
                out.push(
                    Finding::problem("config-invalid", format!("{place}{line}"), found)
                        .why("har does not start with it, and a reload keeps the old one; the rest is judged as with an empty one")
                        .mend(format!("har check-config --config {place}")),
                );
            }
        }
        Ok(config) => {
            for warning in &config.warnings {
                out.push(
                    Finding::hint("config-warning", &place, warning.message.clone())
                        .why("it is allowed, and may not be what was meant")
                        .mend(format!("har check-config --config {place}")),
                );
            }
            if out.len() == before {
                out.push(Finding::ok("config", &place, format!("valid, with {}", counted(config.names.len(), "name"))));
            }
        }
    }
}

/// `1 name`, `2 names`.
pub fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
