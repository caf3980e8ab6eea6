//! Giving root up: another user, CAP_NET_BIND_SERVICE alone, nothing for children.
//!
//! The order matters: state folder, then sockets, then [`drop_to`], then [`check_readable`]. All of it before the first
//! thread is started, since capabilities belong to threads. capabilities(7), PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{self, Gid, Uid, User};

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

/// Looks up `server.user`. `None` when there is nothing to become: no user stated, or not started as root.
///
/// # Errors
/// When the user does not exist.
pub fn account(user: Option<&str>) -> Result<Option<Account>, Error> {
    let Some(name) = user else { return Ok(None) };
    let found =
        User::from_name(name).map_err(|errno| Error(format!("server.user {name:?} cannot be looked up: {errno}")))?;
    let Some(found) = found else {
        let mend = format!(
            "create it (`useradd --system --no-create-home --shell /usr/sbin/nologin {name}`) or change server.user"
        );
        return Err(Error(format!("server.user {name:?} does not exist on this host; {mend}")));
    };
    let me = Uid::effective();
    if !me.is_root() {
        if me != found.uid {
            log::warn!("server.user {name:?} is ignored: har was not started as root, and runs as uid {me}");
        }
        return Ok(None);
    }
    Ok(Some(Account { name: name.to_owned(), uid: found.uid, gid: found.gid }))
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
