//! Changes of what a few paths lead to, as inotify(7) announces them.
//!
//! What a path leads to changes by a write, by a rename over it, by a symbolic link that is swapped on the way there
//! and by a folder that comes or goes. So the folders are watched in which a step of the way is looked up that may lead
//! elsewhere: the links, of folders too, the last entry, and the first one that is missing.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// Links that are followed on the way of one path: as many as the kernel follows.
const MOST_LINKS: usize = 40;
/// Times that the folders are gone through at most, when they change while they are.
const MOST_ROUNDS: usize = 4;

/// Watches a few paths.
pub struct FileWatch {
    inotify: Arc<Inotify>,
    paths: Vec<PathBuf>,
    /// The entries of each folder that matter.
    watched: HashMap<WatchDescriptor, HashSet<OsString>>,
}

impl FileWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance.
    pub fn new() -> Result<FileWatch, Errno> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(FileWatch { inotify: Arc::new(inotify), paths: Vec::new(), watched: HashMap::new() })
    }

    /// Readable when [`FileWatch::take`] has something.
    pub fn handle(&self) -> Arc<Inotify> {
        Arc::clone(&self.inotify)
    }

    /// Watches these paths from now on, in place of the earlier ones.
    ///
    /// # Errors
    /// When a folder cannot be watched: changes may go unnoticed.
    pub fn set(&mut self, paths: Vec<PathBuf>) -> Result<(), Errno> {
        self.paths = paths;
        self.arm()
    }

    /// Takes what was announced; whether one of the paths may lead to something else now.
    pub fn take(&mut self) -> bool {
        let mut changed = false;
        while let Ok(events) = self.inotify.read_events() {
            changed |= events.iter().any(|event| self.concerns(event));
        }
        if changed {
            // A link may lead elsewhere now. What cannot be watched any more is looked at now and then.
            let _ = self.arm();
        }
        changed
    }

    fn concerns(&self, event: &InotifyEvent) -> bool {
        match (&event.name, self.watched.get(&event.wd)) {
            (Some(name), Some(entries)) => entries.contains(name),
            // Of a folder that is no longer watched.
            (Some(_), None) => false,
            // The folder itself, or more than the queue could hold. The end of a watch is of no interest if it was
            // ended here.
            (None, known) => known.is_some() || event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW),
        }
    }

    /// Watches the folders that matter now, and no others.
    fn arm(&mut self) -> Result<(), Errno> {
        let mask = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF;
        let mut places = None;
        let mut result = Ok(());
        for _ in 0..MOST_ROUNDS {
            let now: HashSet<(PathBuf, OsString)> = self.paths.iter().flat_map(|path| steps(path)).collect();
            if places.as_ref() == Some(&now) {
                break;
            }
            let mut fresh: HashMap<WatchDescriptor, HashSet<OsString>> = HashMap::new();
            for (folder, entry) in &now {
                match self.inotify.add_watch(folder, mask) {
                    Ok(watch) => {
                        fresh.entry(watch).or_default().insert(entry.clone());
                    }
                    Err(errno) => result = Err(errno),
                }
            }
            places = Some(now);
            for (gone, _) in std::mem::replace(&mut self.watched, fresh) {
                if !self.watched.contains_key(&gone) {
                    let _ = self.inotify.rm_watch(gone);
                }
            }
        }
        result
    }
}

/// The folders in which an absolute path is looked up, each with the entry that matters.
fn steps(path: &Path) -> Vec<(PathBuf, OsString)> {
    let (mut steps, mut links) = (Vec::new(), 0);
    // No link is on the way to it.
    let mut folder = PathBuf::from("/");
    let mut ahead = entries(path);
    while let Some(entry) = ahead.pop() {
        if entry == ".." {
            folder.pop();
            continue;
        }
        let at = folder.join(&entry);
        let target = std::fs::read_link(&at).ok();
        if target.is_some() || ahead.is_empty() || !at.is_dir() {
            steps.push((folder.clone(), entry));
        }
        match target {
            Some(target) if links < MOST_LINKS => {
                links += 1;
                if target.is_absolute() {
                    folder = PathBuf::from("/");
                }
                ahead.extend(entries(&target));
            }
            None if at.is_dir() => folder = at,
            // It is waited for, or leads nowhere.
            _ => break,
        }
    }
    steps
}

/// What is to be looked up for a path, the first entry last.
fn entries(path: &Path) -> Vec<OsString> {
    let ways = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    ways.rev().map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_way_in_which_a_path_changes_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut watch = FileWatch::new().unwrap();
        watch.set(vec![at("link"), at("later/sub/file")]).unwrap();
        assert!(!watch.take(), "nothing happened");
        fs::write(at("other"), "x").unwrap();
        assert!(!watch.take(), "somebody else's file");
        fs::create_dir(at("elsewhere")).unwrap();
        symlink("elsewhere/target", at("link")).unwrap();
        assert!(watch.take(), "a link appears");
        fs::write(at("elsewhere/target"), "1").unwrap();
        assert!(watch.take(), "its target appears");
        fs::write(at("elsewhere/target"), "2").unwrap();
        assert!(watch.take(), "it is rewritten");
        fs::write(at("new"), "3").unwrap();
        fs::rename(at("new"), at("elsewhere/target")).unwrap();
        assert!(watch.take(), "another one is renamed over it");
        symlink("new", at("swap")).unwrap();
        fs::rename(at("swap"), at("link")).unwrap();
        assert!(watch.take(), "the link is swapped");
        fs::write(at("elsewhere/target"), "4").unwrap();
        assert!(!watch.take(), "it is not on the way any more");
        fs::create_dir_all(at("later/sub")).unwrap();
        assert!(watch.take(), "a folder appears");
        fs::write(at("later/sub/file"), "5").unwrap();
        assert!(watch.take(), "the file in it appears");
        fs::remove_dir_all(at("later")).unwrap();
        assert!(watch.take(), "all of it goes");
        fs::create_dir_all(at("later/sub")).unwrap();
        assert!(watch.take(), "and comes back");
        watch.set(Vec::new()).unwrap();
        fs::write(at("link"), "6").unwrap();
        assert!(!watch.take(), "nothing is watched any more");
    }

    #[test]
    fn a_folder_on_the_way_that_is_a_link_may_be_swapped() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // As Kubernetes keeps the files of a ConfigMap: each a link by way of one that is swapped.
        for version in ["one", "two"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("file"), version).unwrap();
        }
        symlink("one", at("data")).unwrap();
        symlink("data/file", at("file")).unwrap();
        fs::create_dir_all(at("deep/er")).unwrap();
        symlink("../../data", at("deep/er/link")).unwrap();
        for path in ["file", "data/file", "deep/er/link/file", "deep/er/../er/link/file"] {
            let mut watch = FileWatch::new().unwrap();
            watch.set(vec![at(path)]).unwrap();
            assert!(!watch.take(), "{path}: nothing happened");
            for (from, to) in [("one", "two"), ("two", "one")] {
                symlink(to, at("swap")).unwrap();
                fs::rename(at("swap"), at("data")).unwrap();
                assert!(watch.take(), "{path}: it is in {to}");
                fs::write(at(from).join("file"), "0").unwrap();
                assert!(!watch.take(), "{path}: {from} is not on the way any more");
                fs::write(at(to).join("file"), "1").unwrap();
                assert!(watch.take(), "{path}: it is rewritten in {to}");
            }
        }
        symlink("loop", at("loop")).unwrap();
        assert!(steps(&at("loop/file")).len() <= MOST_LINKS + 1);
    }
}
