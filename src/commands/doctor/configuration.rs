//! The configuration: there, readable, valid, nobody else's to write, taken by the daemon that runs.

use super::Scene;
use super::finding::Finding;
use super::root::Content;
use crate::config::Problem;

/// Says what is wrong with it.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let place = scene.config_shown();
    let seen = scene.facts.files.get(&place);
    let check = format!("har check-config --config {place}");
    let before = out.len();
    for open in &scene.facts.open {
        out.push(
            Finding::problem("config-open", open, "everybody can write it")
                .why("who writes it decides what every program connects to, and an exec check runs what it says")
                .mend(format!("chmod o-w {open}")),
        );
    }
    runner(scene, out);
    match &scene.facts.config {
        Err(report) if report.is_denied() => out.extend(report.0.iter().map(|problem| {
            Finding::warning("config-closed", at(problem), "this user may not read it")
                .why("whether it is valid is not known here; the rest is judged as with an empty one")
                .mend("look as root, or as the user that har runs as")
        })),
        Err(report) if seen.is_none_or(|seen| seen.content == Content::Nothing) => {
            let why = report.0.first().map(|problem| problem.message.clone()).unwrap_or_default();
            out.push(
                Finding::problem("config-missing", &place, why)
                    .why("har does not start without it; the rest is judged as with an empty one")
                    .mend("begin with har.toml.example, or name the file with --config"),
            );
        }
        Err(report) => out.extend(report.0.iter().map(|problem| {
            Finding::problem("config-invalid", at(problem), keyed(problem))
                .why("har does not start with it, and a reload keeps the old one; the rest is judged as with an empty one")
                .mend(&check)
        })),
        Ok(config) => {
            out.extend(config.warnings.iter().map(|warning| {
                Finding::hint("config-warning", at(warning), keyed(warning))
                    .why("it is allowed, and may not be what was meant")
                    .mend(&check)
            }));
            refused(scene, &place, out);
            if out.len() == before {
                out.push(Finding::ok("config", &place, format!("valid, with {}", counted(config.names.len(), "name"))));
            }
        }
    }
}

/// Whom the daemon runs as: there, and able to read what root can.
fn runner(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let runner = &scene.facts.runner;
    if let Some(why) = &runner.missing {
        let (found, mend) = why.split_once("; ").unwrap_or((why, "create the user, or change server.user"));
        out.push(
            Finding::problem("no-user", scene.config_shown(), found)
                .why("har does not start: it would have to stay root")
                .mend(mend),
        );
    }
    for closed in &runner.closed {
        let found = format!("the daemon runs as {}, who may not read it", runner.name);
        out.push(
            Finding::problem("config-unreadable", closed.path.to_string_lossy(), found)
                .why("a reload is refused, and after a restart or a boot har does not run, or the check cannot that needs it")
                .mend(&closed.mend),
        );
    }
}

/// A configuration that the running daemon did not take. One that is invalid still is told of as that.
fn refused(scene: &Scene<'_>, place: &str, out: &mut Vec<Finding>) {
    let Some((at, why)) = scene.kept().and_then(|kept| kept.refused.as_ref()) else { return };
    out.push(
        Finding::warning("reload-refused", place, format!("the daemon refused its last reload, at {at}: {why}"))
            .why("it goes on with what it had before, and the file is valid as it is seen here")
            .mend("systemctl reload har; `har events --limit 5` says whether it was taken"),
    );
}

/// Where a problem is.
fn at(problem: &Problem) -> String {
    let file = problem.file.display();
    if problem.line > 0 { format!("{file}:{}:{}", problem.line, problem.column) } else { file.to_string() }
}

/// What is wrong, with its key.
fn keyed(problem: &Problem) -> String {
    let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
    format!("{key}{}", problem.message)
}

/// `1 name`, `2 names`.
pub fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
