//! Changes of what a few paths lead to, as inotify(7) announces them.
//!
//! What a path leads to changes by a write, by a rename over it, by a symbolic link that is swapped on the way there
//! and by a folder that comes or goes. So the folders are watched in which each step of the way is looked up: of the
//! path itself, of the targets of links, and the nearest one that exists where one is missing.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// Links in a row that are followed; the kernel follows 40.
const MOST_LINKS: usize = 16;
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

/// The folders in which a path is looked up, each with the entry that matters.
fn steps(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut steps = Vec::new();
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Some(step) = nearest(&path) else { break };
        steps.push(step);
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    steps
}

/// The nearest folder above a path that exists, and its entry on the way.
fn nearest(path: &Path) -> Option<(PathBuf, OsString)> {
    let (mut folder, mut entry) = (path.parent()?, path.file_name()?);
    while !folder.is_dir() {
        (folder, entry) = (folder.parent()?, folder.file_name()?);
    }
    Some((folder.to_owned(), entry.to_owned()))
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
}
