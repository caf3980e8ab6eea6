//! Giving root up: another user, CAP_NET_BIND_SERVICE alone, nothing for children.
//!
//! The order matters: state folder, then sockets, then [`drop_to`], then [`check_readable`]. All of it before the first
//! thread is started, since capabilities belong to threads. capabilities(7), PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::unistd::{self, Gid, Group, Uid, User};

use super::Error;

/// Mode of the state folder: anyone may read what har learned.
const FOLDER_MODE: u32 = 0o755;

/// Whom to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As configured.
    pub name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    fn of(user: User) -> Account {
        Account { name: user.name, uid: user.uid, gid: user.gid }
    }

    /// Whether it is root, who needs not become anybody.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// The name of its group, or the number of one that has none.
    fn group(&self) -> String {
        Group::from_gid(self.gid).ok().flatten().map_or_else(|| self.gid.to_string(), |group| group.name)
    }
}

/// Looks up `server.user`.
///
/// # Errors
/// When the user does not exist.
pub fn stated(name: &str) -> Result<Account, Error> {
    let found =
        User::from_name(name).map_err(|errno| Error(format!("server.user {name:?} cannot be looked up: {errno}")))?;
    let Some(found) = found else {
        let mend = format!(
            "create it (`useradd --system --no-create-home --shell /usr/sbin/nologin {name}`) or change server.user"
        );
        return Err(Error(format!("server.user {name:?} does not exist on this host; {mend}")));
    };
    Ok(Account::of(found))
}

/// Whom to become. `None` when there is nothing to become: no user stated, or not started as root.
///
/// # Errors
/// When the user does not exist.
pub fn account(user: Option<&str>) -> Result<Option<Account>, Error> {
    let Some(name) = user else { return Ok(None) };
    let found = stated(name)?;
    let me = Uid::effective();
    if !me.is_root() {
        if me != found.uid {
            log::warn!("server.user {name:?} is ignored: har was not started as root, and runs as uid {me}");
        }
        return Ok(None);
    }
    Ok(Some(found))
}

/// A user of this host, by name or by number.
pub fn user(text: &str) -> Option<Account> {
    let found = match text.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(text),
    };
    found.ok().flatten().map(Account::of)
}

/// Whom a folder belongs to.
pub fn owner(folder: &Path) -> Option<Account> {
    let uid = fs::metadata(folder).ok()?.uid();
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(Account::of)
}

/// A file that somebody may not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Which one.
    pub path: PathBuf,
    /// What to do about it.
    pub mend: String,
}

/// Those of `paths` that are there and that `account` may not read, asked by root: not by the modes, but by trying it
/// with that user's rights, so that groups, access lists and the folders on the way count as they will for the daemon.
/// The whole process has these rights meanwhile: only for a command, before it has a second thread.
///
/// # Errors
/// When root's rights cannot be had back.
pub fn closed_to(account: &Account, paths: &[PathBuf]) -> Result<Vec<Closed>, Error> {
    if !Uid::effective().is_root() || account.is_root() {
        return Ok(Vec::new());
    }
    let is_denied = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    let seen = with_rights_of(account, || {
        let refused = paths.iter().filter(|path| fs::File::open(path).is_err_and(|error| is_denied(&error)));
        // The folder that keeps it out, if it is not the file itself.
        let folder = |path: &Path| {
            let mut steps: Vec<&Path> = path.ancestors().collect();
            steps.reverse();
            let hidden = steps.into_iter().find(|step| fs::metadata(step).is_err_and(|error| is_denied(&error)))?;
            hidden.parent().map(Path::to_owned)
        };
        refused.map(|path| (path.clone(), folder(path))).collect::<Vec<_>>()
    })?;
    let group = account.group();
    let name = &account.name;
    let closed = seen.unwrap_or_default().into_iter().map(|(path, folder)| {
        let shown = path.display();
        let mend = match folder {
            Some(folder) => {
                format!("let {name} pass {} (chmod o+x), or move the file to where it may", folder.display())
            }
            None => format!("chgrp {group} {shown}; chmod 640 {shown}"),
        };
        Closed { path, mend }
    });
    Ok(closed.collect())
}

/// Does something with another user's rights and takes root's back. `None` when they cannot be had.
fn with_rights_of<T>(account: &Account, look: impl FnOnce() -> T) -> Result<Option<T>, Error> {
    let failed = |errno: Errno| Error(format!("root's rights cannot be had back: {errno}"));
    let Ok(name) = std::ffi::CString::new(account.name.as_str()) else { return Ok(None) };
    let Ok(groups) = unistd::getgroups() else { return Ok(None) };
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let taken = unistd::initgroups(&name, account.gid)
        .and_then(|()| unistd::setegid(account.gid))
        .and_then(|()| unistd::seteuid(account.uid));
    let seen = taken.is_ok().then(look);
    unistd::seteuid(uid).map_err(failed)?;
    unistd::setegid(gid).map_err(failed)?;
    // Where a namespace allows no groups, none were taken either.
    match unistd::setgroups(&groups) {
        Err(errno) if taken.is_ok() => Err(failed(errno)),
        _ => Ok(seen),
    }
}

/// Creates the state folder where it is missing, 0755 whatever the umask; what was made here is given to `owner`.
///
/// # Errors
/// When it cannot be created or handed over.
pub fn prepare_folder(folder: &Path, owner: Option<&Account>) -> Result<(), Error> {
    let failed = |error: std::io::Error, path: &Path| {
        let mend = "create it by hand, or change server.state";
        Error(format!("the state folder {} cannot be made: {error}; {mend}", path.display()))
    };
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    for path in missing.into_iter().rev() {
        match DirBuilder::new().mode(FOLDER_MODE).create(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            other => other.map_err(|error| failed(error, path))?,
        }
        fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE)).map_err(|error| failed(error, path))?;
        // Folders above it are made for the way, and stay root's.
        if let Some(account) = owner.filter(|_| path == folder) {
            let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
            chown(path, Some(uid), Some(gid)).map_err(|error| failed(error, path))?;
        }
    }
    Ok(())
}

/// Gives files that root has written to `account`; those that do not exist are no matter.
///
/// # Errors
/// When one cannot be handed over.
pub fn hand_over(paths: &[PathBuf], account: &Account) -> Result<(), Error> {
    for path in paths {
        match chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw())) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error(format!("{} cannot be given to {}: {error}", path.display(), account.name)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is to be said of a daemon that stays root.
pub fn stays_root(user: Option<&str>) -> Option<&'static str> {
    (user.is_none() && Uid::effective().is_root()).then_some(
        "har runs as root and keeps all its rights: with server.user it becomes that user once its sockets are bound",
    )
}

/// Becomes `account`, when there is one, and in any case keeps no capability but CAP_NET_BIND_SERVICE, which children
/// do not inherit, and can gain none.
///
/// # Errors
/// When the kernel refuses a step; the process must then not go on.
pub fn drop_to(account: Option<&Account>) -> Result<(), Error> {
    if let Some(account) = account {
        become_account(account)?;
    }
    // Root that nobody told to become another user stays root: it needs what it has to write where it was told to.
    if !Uid::effective().is_root() {
        give_up_capabilities(Some(Capability::CAP_NET_BIND_SERVICE))?;
    }
    gain_nothing()
}

/// For a thread that does nothing but start a program: whatever it starts has no capability and can gain none.
///
/// # Errors
/// When the kernel refuses a step; the program must then not be started.
pub fn leave_nothing_to_children() -> Result<(), Error> {
    gain_nothing()?;
    // A program of another user than root begins without them. One of root's begins with all, but under no_new_privs with
    // none that this thread has not: it needs none to start a program.
    if Uid::effective().is_root() {
        give_up_capabilities(None)?;
    }
    Ok(())
}

fn gain_nothing() -> Result<(), Error> {
    nix::sys::prctl::set_no_new_privs().map_err(|errno| Error(format!("no_new_privs cannot be set: {errno}")))
}

/// Leaves `kept` alone. capset(2) is called only when there is more, so that the unit of a service manager
/// that gives nothing else may forbid the call: what is still inheritable then, no_new_privs and the empty ambient set
/// keep from every child.
fn give_up_capabilities(kept: Option<Capability>) -> Result<(), Error> {
    reduce_to(kept).map_err(|error| Error(format!("capabilities cannot be given up: {error}")))
}

fn reduce_to(kept: Option<Capability>) -> Result<(), CapsError> {
    // A kernel before 4.3 has no ambient set, and then nothing to clear.
    let _ = caps::clear(None, CapSet::Ambient);
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = permitted.iter().copied().filter(|cap| Some(*cap) == kept).collect();
    if kept == permitted {
        return Ok(());
    }
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

fn become_account(account: &Account) -> Result<(), Error> {
    let failed = |what: &str| {
        let user = account.name.clone();
        let what = what.to_owned();
        move |errno| Error(format!("cannot become server.user {user:?}: {what}: {errno}"))
    };
    nix::sys::prctl::set_keepcaps(true).map_err(failed("PR_SET_KEEPCAPS"))?;
    let name = std::ffi::CString::new(account.name.as_str())
        .map_err(|_| Error(format!("server.user {:?} is no user name", account.name)))?;
    unistd::initgroups(&name, account.gid).map_err(failed("initgroups"))?;
    unistd::setgid(account.gid).map_err(failed("setgid"))?;
    unistd::setuid(account.uid).map_err(failed("setuid"))?;
    nix::sys::prctl::set_keepcaps(false).map_err(failed("PR_SET_KEEPCAPS"))
}

/// Checks that what a reload or a check opens again can be opened by whom har runs as now.
///
/// # Errors
/// Every file that cannot, with the user and the remedy, in one line.
pub fn check_readable(paths: &[PathBuf]) -> Result<(), Error> {
    let refused: Vec<String> = paths
        .iter()
        .filter_map(|path| fs::File::open(path).err().map(|error| format!("{} ({error})", path.display())))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name);
    let mend = format!("har needs them again later: let {user} read them and pass the folders above them");
    Err(Error(format!("not readable by {user}: {}; {mend}", refused.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_named() {
        let text = account(Some("har-no-such-user")).unwrap_err().to_string();
        assert!(text.contains("har-no-such-user") && text.contains("useradd"), "{text}");
        assert_eq!(account(None), Ok(None));
    }

    #[test]
    fn folders_are_made_for_everyone_to_read() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("a/b");
        prepare_folder(&folder, None).unwrap();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        prepare_folder(&folder, None).unwrap();
        fs::write(top.path().join("file"), "").unwrap();
        let text = prepare_folder(&top.path().join("file/c"), None).unwrap_err().to_string();
        assert!(text.contains("file/c") && text.contains("server.state"), "{text}");
    }

    #[test]
    fn files_that_cannot_be_read_are_all_named() {
        let top = tempfile::tempdir().unwrap();
        let there = top.path().join("there");
        fs::write(&there, "").unwrap();
        assert_eq!(check_readable(std::slice::from_ref(&there)), Ok(()));
        let missing = [top.path().join("x.pem"), there, top.path().join("y.toml")];
        let text = check_readable(&missing).unwrap_err().to_string();
        assert!(text.contains("x.pem") && text.contains("y.toml") && !text.contains("there ("), "{text}");
    }
}
