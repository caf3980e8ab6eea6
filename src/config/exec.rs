//! Keys of an `exec` check: a program, its arguments, and what its output means.
//!
//! No shell takes part. Placeholders are filled in within one argument each and never split it; an argument that
//! would begin with `-` only because of what was filled in is refused, since a program would take it for an option.

use std::fmt::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::check::pattern;
use super::table::{Item, Problems, Table};
use super::url::{Filling, check_placeholders, placeholders};
use super::values::mark;

/// Arguments at most, the program included.
const MAX_ARGUMENTS: usize = 256;

/// Keys of an `exec` check. `{address}` may still be in the arguments.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ExecCheck {
    /// The program and its arguments, never empty. A program without `/` is looked for in the usual folders.
    pub command: Vec<String>,
    /// Pattern that standard output must match, known to compile.
    pub expect: Option<String>,
    /// Pattern with one group, whose text is the priority; known to compile.
    pub priority: Option<String>,
    /// The configured name, for the command's environment.
    pub name: String,
    /// The candidate, for the command's environment.
    pub host: String,
}

impl ExecCheck {
    /// Reads the table form; name and host are not known yet.
    pub(super) fn read(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> Option<ExecCheck> {
        let command = match table.take("command") {
            Some(item) => read_command(&item, folder, problems),
            None => {
                problems.error(table.spot, table.key, "command is missing; a check of type \"exec\" needs one");
                None
            }
        };
        let expect = pattern(table, "expect", problems);
        let at = table.spot;
        let priority = pattern(table, "priority", problems);
        if let Some(text) = &priority {
            let groups = regex::bytes::Regex::new(text).map_or(0, |regex| regex.captures_len() - 1);
            if groups != 1 {
                let message =
                    format!("it has {groups} groups; allowed: one, around the number, such as \"^prio=(\\\\d+)\"");
                problems.error(at, format!("{}.priority", table.key), message);
            }
        }
        Some(ExecCheck { command: command?, expect, priority, name: String::new(), host: String::new() })
    }

    /// For one candidate.
    pub(super) fn filled(&self, filling: &Filling<'_>) -> Result<ExecCheck, String> {
        let fill = |(position, template): (usize, &String)| {
            let argument = filling.fill(template);
            if argument.starts_with('-') && !template.starts_with('-') {
                return Err(format!("argument {position} would begin with \"-\" and be taken for an option"));
            }
            Ok(argument)
        };
        let command = self.command.iter().enumerate().map(fill).collect::<Result<_, _>>()?;
        Ok(ExecCheck { command, name: filling.name.to_owned(), host: filling.host.to_owned(), ..self.clone() })
    }

    /// In words. Arguments may hold secrets: they show as their number and a mark that tells a changed command.
    pub(super) fn write_words(&self, words: &mut String) -> fmt::Result {
        let (program, arguments) = self.command.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
        write!(words, "exec {program}")?;
        if !arguments.is_empty() {
            let parts: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
            write!(words, " {} arguments {}", arguments.len(), mark(&parts))?;
        }
        for (key, pattern) in [("expect", &self.expect), ("priority", &self.priority)] {
            if let Some(pattern) = pattern {
                write!(words, " {key}={pattern:?}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ExecCheck {
    /// Everything but the arguments, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = String::new();
        self.write_words(&mut words)?;
        write!(f, "ExecCheck({words} name={} host={})", self.name, self.host)
    }
}

/// Reads `command`.
fn read_command(item: &Item<'_>, folder: &Path, problems: &mut Problems) -> Option<Vec<String>> {
    const ALLOWED: &str =
        r#"a list of texts, the program first, such as ["/usr/lib/har/check", "--host", "{address}"]"#;
    let items = item.list(problems, ALLOWED)?;
    if items.is_empty() || items.len() > MAX_ARGUMENTS {
        problems.error(
            item.spot,
            item.key,
            format!("found {} texts; allowed: {ALLOWED}, {MAX_ARGUMENTS} at most", items.len()),
        );
        return None;
    }
    let mut command = Vec::with_capacity(items.len());
    let mut sound = true;
    for (position, item) in items.iter().enumerate() {
        // An argument may be a secret: it is not shown.
        let Some(text) = item.value.as_str() else {
            problems.error(item.spot, item.key, format!("not a text; allowed: {ALLOWED}"));
            sound = false;
            continue;
        };
        let fault = if text.contains('\0') {
            Some("it holds a NUL character, which no argument can".to_owned())
        } else if position == 0 && text.is_empty() {
            Some("the program has no name".to_owned())
        } else if position == 0 && placeholders(text).next().is_some() {
            Some("the program is fixed: placeholders may stand in the arguments only".to_owned())
        } else if placeholders(text).any(|word| word == "port") {
            Some("{port} means nothing here: an exec check has no port of its own".to_owned())
        } else {
            check_placeholders(text).err()
        };
        if let Some(fault) = fault {
            problems.error(item.spot, item.key, fault);
            sound = false;
        } else if position == 0 && text.contains('/') {
            let path = folder.join(text);
            warn_of_program(&path, item, problems);
            command.push(path.to_string_lossy().into_owned());
        } else {
            command.push(text.to_owned());
        }
    }
    sound.then_some(command)
}

/// Warns of a program that could not be started now: it may be installed later, or by another package.
fn warn_of_program(path: &Path, item: &Item<'_>, problems: &mut Problems) {
    let reason = match std::fs::metadata(path) {
        Ok(file) if !file.is_file() => "it is not a file".to_owned(),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => "it is not executable (chmod +x)".to_owned(),
        Ok(_) => return,
        Err(error) => error.to_string(),
    };
    problems.warn(item.spot, item.key, format!("{} cannot be started: {reason}", path.display()));
}
