//! The demo's temporary folder: made for this process alone, gone when the demo is over.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// Tries for a name that nobody has; more only meet somebody who does it on purpose.
const TRIES: usize = 8;

/// A folder that is removed with everything in it when the value is dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes a new one below the system's temporary folder.
    ///
    /// # Errors
    /// When that folder cannot be written to.
    pub fn create() -> Result<Folder, Error> {
        for _ in 0..TRIES {
            let path = std::env::temp_dir().join(format!("har-demo-{:08x}", getrandom::u32()?));
            // Fails on anything that is there already, a symbolic link included.
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Folder(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            log::warn!("{} cannot be removed: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_what_is_in_it() {
        let folder = Folder::create().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("file"), "text").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
