//! Files of a host as they stood when it was looked at, below `/` or below another root.
//!
//! Symbolic links are followed inside the root: `/etc/resolv.conf -> /run/…` of a fabricated host or of a mounted
//! image leads to that host's own `/run`. Nothing is written, and of no file more than its beginning is read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As much of a file is read: configuration files are smaller, and device files have no end.
const MAX_FILE: u64 = 256 << 10;
/// Links followed for one path, as in the kernel.
const MAX_LINKS: usize = 40;
/// Entries of a folder that are looked at: a folder of drop-ins has a few.
const MAX_ENTRIES: usize = 256;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As it is named on that host: absolute.
    pub path: String,
    /// Where the path itself points, when it is a symbolic link.
    pub link: Option<String>,
    /// The file at the end of all links, as that host names it.
    pub real: String,
    /// Its content.
    pub content: Content,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Text; bytes that are none are replaced.
    Text(String),
    /// A folder.
    Folder,
    /// A pipe, a socket or a device, which is not opened.
    Other,
    /// A link that leads nowhere.
    Nothing,
    /// It could not be read, and why.
    Unreadable(String),
}

/// Files that were looked at, by path.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<String, Seen>);

impl Files {
    /// A file, if it was there.
    pub fn get(&self, path: &str) -> Option<&Seen> {
        self.0.get(path)
    }

    /// The text of a file; `None` when there is none or it could not be read.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.text()
    }

    /// Whether there is something.
    pub fn has(&self, path: &str) -> bool {
        self.get(path).is_some_and(|seen| seen.content != Content::Nothing)
    }

    /// Everything directly or indirectly below a folder whose path ends as given, in the order of the paths.
    pub fn below<'a>(&'a self, folder: &'a str, end: &'a str) -> impl Iterator<Item = &'a Seen> {
        let inside = move |path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        self.0.iter().filter(move |(path, _)| inside(path) && path.ends_with(end)).map(|(_, seen)| seen)
    }

    /// Looks at everything that a pattern stands for; `*` stands for any part of one component.
    pub fn look(&mut self, root: &Root, pattern: &str) {
        let mut paths = vec![String::new()];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            paths = match part.split_once('*') {
                None => paths.iter().map(|path| format!("{path}/{part}")).collect(),
                Some((start, end)) => paths.iter().flat_map(|path| root.entries(path, start, end)).collect(),
            };
        }
        for path in paths {
            if let Some(seen) = root.see(&path) {
                self.0.insert(path, seen);
            }
        }
    }
}

impl Seen {
    /// The text of a file.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What the path itself points at, or else the path.
    pub fn target(&self) -> &str {
        self.link.as_deref().unwrap_or(&self.path)
    }
}

/// The folder below which a host's files are.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// `/` is this host.
    pub fn new(folder: &Path) -> Root {
        Root(folder.to_owned())
    }

    /// Whether it is this host, whose sockets can be asked.
    pub fn is_this_host(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a path of that host is on this one; links are not followed.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The path at the end of all links, as that host names it; `None` when there are too many.
    pub fn real(&self, path: &str) -> Option<String> {
        let mut rest: Vec<OsString> = components(Path::new(path));
        let (mut done, mut links) = (PathBuf::from("/"), 0);
        while let Some(part) = rest.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let Ok(target) = fs::read_link(self.outside(&done.join(&part).to_string_lossy())) else {
                done.push(part);
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            rest.extend(components(&target));
        }
        Some(done.to_string_lossy().into_owned())
    }

    /// What a path leads to; `None` when there is nothing.
    pub fn see(&self, path: &str) -> Option<Seen> {
        let link = fs::read_link(self.outside(path)).ok().map(|target| target.to_string_lossy().into_owned());
        let real = self.real(path).unwrap_or_else(|| path.to_owned());
        let place = self.outside(&real);
        let seen = |content, mode, uid| Seen {
            path: path.to_owned(),
            link: link.clone(),
            real: real.clone(),
            content,
            mode,
            uid,
        };
        match fs::metadata(&place) {
            Ok(found) => {
                let content = if found.is_file() {
                    read(&place).map_or_else(|error| Content::Unreadable(error.to_string()), Content::Text)
                } else if found.is_dir() {
                    Content::Folder
                } else {
                    Content::Other
                };
                Some(seen(content, found.mode() & 0o7777, found.uid()))
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                link.is_some().then(|| seen(Content::Nothing, 0, 0))
            }
            Err(error) => Some(seen(Content::Unreadable(error.to_string()), 0, 0)),
        }
    }

    /// Paths of the entries of a folder whose names begin and end as given, sorted.
    fn entries(&self, folder: &str, start: &str, end: &str) -> Vec<String> {
        let real = self.real(folder).unwrap_or_else(|| folder.to_owned());
        let Ok(entries) = fs::read_dir(self.outside(&real)) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        // As in a shell, `*` does not stand for a dot in front.
        let hidden = |name: &str| name.starts_with('.') && !start.starts_with('.');
        let fits = |name: &String| {
            let long = name.len() >= start.len() + end.len();
            long && name.starts_with(start) && name.ends_with(end) && !hidden(name)
        };
        let mut paths: Vec<String> = names.filter(fits).map(|name| format!("{folder}/{name}")).collect();
        paths.sort_unstable();
        paths.truncate(MAX_ENTRIES);
        paths
    }
}

/// The parts of a path, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        for made in ["etc", "run/resolve"] {
            fs::create_dir_all(folder.path().join(made)).unwrap();
        }
        fs::write(folder.path().join("run/resolve/stub"), "inside").unwrap();
        symlink("/run/resolve/stub", folder.path().join("etc/absolute")).unwrap();
        symlink("../../../run/resolve/stub", folder.path().join("etc/relative")).unwrap();
        symlink("/etc/hostname", folder.path().join("etc/outside")).unwrap();
        symlink("circle", folder.path().join("etc/circle")).unwrap();
        let mut files = Files::default();
        files.look(&root, "/etc/*");
        for link in ["/etc/absolute", "/etc/relative"] {
            let seen = files.get(link).unwrap();
            assert_eq!((seen.text(), seen.real.as_str()), (Some("inside"), "/run/resolve/stub"), "{link}");
        }
        assert_eq!(files.get("/etc/outside").unwrap().content, Content::Nothing, "that root has no such file");
        assert!(!files.has("/etc/outside"));
        assert!(matches!(files.get("/etc/circle").unwrap().content, Content::Unreadable(_)));
        assert_eq!(files.get("/etc/none"), None);
    }

    #[test]
    fn patterns_stand_for_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        for made in ["a/one/x.conf", "a/two/x.conf", "a/two/y.txt"] {
            let path = folder.path().join(made);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, made).unwrap();
        }
        let mut files = Files::default();
        files.look(&Root::new(folder.path()), "a/*/x*.conf");
        let found: Vec<&str> = files.below("/a", ".conf").map(|seen| seen.path.as_str()).collect();
        assert_eq!(found, ["/a/one/x.conf", "/a/two/x.conf"]);
        assert_eq!(files.text("/a/two/y.txt"), None);
    }
}
