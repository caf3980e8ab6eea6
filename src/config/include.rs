//! `include`: which files a pattern stands for.
//!
//! A pattern may have `*` and `?` in its last component. One that matches nothing is fine (an empty `conf.d`); a
//! path without a pattern must exist. Files come in the order of their names, each once, hidden ones never.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::files::Unread;
use super::table::{Item, Problems};

/// Files that one configuration can include; more than a folder of names holds is a mistake.
const MAX_FILES: usize = 100_000;

/// The files of `include`, absolute.
pub(super) fn files(item: &Item<'_>, main: &Path, folder: &Path, problems: &mut Problems) -> Vec<PathBuf> {
    const ALLOWED: &str = r#"a list of paths such as ["conf.d/*.toml"]"#;
    let mut files: Vec<PathBuf> = Vec::new();
    let mut seen: HashSet<PathBuf> = HashSet::new();
    for item in item.list(problems, ALLOWED).unwrap_or_default() {
        let Some(text) = item.text(problems, "a path such as \"conf.d/*.toml\"") else { continue };
        match matching(&folder.join(text.value), main) {
            Ok(found) if files.len() + found.len() > MAX_FILES => {
                item.wrong(problems, format_args!("at most {MAX_FILES} files; this stands for {}", found.len()));
            }
            Ok(found) => files.extend(found.into_iter().filter(|path| seen.insert(path.clone()))),
            Err(unread @ Unread::Denied(_)) => {
                let message = format!("cannot look for included files: {unread}");
                problems.unopened(item.spot, item.key, &unread, message);
            }
            Err(reason) => item.wrong(problems, format_args!("a path such as \"conf.d/*.toml\"; {reason}")),
        }
    }
    files
}

/// The files a path or pattern stands for.
fn matching(path: &Path, main: &Path) -> Result<Vec<PathBuf>, Unread> {
    let wrong = |words: &str| Err(Unread::Wrong(words.to_owned()));
    let failed = |path: &Path, error: std::io::Error| match Unread::from(error) {
        Unread::Denied(words) => Unread::Denied(format!("{}: {words}", path.display())),
        unread => Unread::Wrong(format!("{}: {unread}", path.display())),
    };
    let is_pattern = |text: &str| text.contains(['*', '?']);
    let Some(last) = path.file_name().and_then(|name| name.to_str()) else {
        return wrong("it names no file");
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    if folder.to_str().is_some_and(is_pattern) {
        return wrong("* and ? are only known in the last part of a path");
    }
    if path.to_str().is_some_and(|text| text.ends_with('/')) {
        return wrong("it names a folder");
    }
    if !is_pattern(last) {
        return match std::fs::metadata(path) {
            _ if path == main => wrong("the file includes itself"),
            Ok(metadata) if metadata.is_dir() => wrong(&format!("{} is a folder", path.display())),
            Ok(_) => Ok(vec![path.to_owned()]),
            Err(error) => Err(failed(path, error)),
        };
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(folder, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(folder, error))?;
        let name = entry.file_name();
        let hit = name.to_str().is_some_and(|name| !name.starts_with('.') && matches(last.as_bytes(), name.as_bytes()));
        let path = entry.path();
        if hit && path != main && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name fits a pattern of `*` (any bytes) and `?` (any one byte).
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stands and how far the name was taken by it: the only place to go back to.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml.bak", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXc", false),
            ("?.toml", "a.toml", true),
            ("?.toml", "ab.toml", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }
}
