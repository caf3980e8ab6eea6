//! Opening and reading the files of a configuration, and why that cannot be done.
//!
//! That a file is wrong and that this user may not read it are two things: the second says nothing about the
//! configuration, only about who looks.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;

/// Longest file that is read: a hundred thousand names fit, and offsets in it fit 32 bits.
const MAX_FILE: u64 = 64 << 20;

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// There is none.
    Missing(String),
    /// This user may not.
    Denied(String),
    /// It is not what it should be: a folder, a pipe, no text.
    Wrong(String),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Unread {
        match error.kind() {
            ErrorKind::NotFound => Unread::Missing(error.to_string()),
            ErrorKind::PermissionDenied => Unread::Denied(error.to_string()),
            _ => Unread::Wrong(error.to_string()),
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Unread::Missing(words) | Unread::Denied(words) | Unread::Wrong(words)) = self;
        f.write_str(words)
    }
}

impl Unread {
    /// What is to be done when it is the configuration file itself.
    pub(super) fn mend(&self) -> &'static str {
        match self {
            Unread::Missing(_) => "write one (har.toml.example is a start), or name another with --config",
            Unread::Denied(_) => "let this user read it (chgrp, chmod 640), or run the command as one who may",
            Unread::Wrong(_) => "a text file in UTF-8 is wanted; --config names another",
        }
    }
}

/// How a file is opened, or why not.
pub(super) type Open = fn(&Path) -> Result<File, Unread>;

/// Opens what may be read only once: a command's configuration may come through a pipe.
pub(super) fn open_any(path: &Path) -> Result<File, Unread> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(a_folder());
    }
    Ok(file)
}

/// Opens a regular file. A pipe in its place would keep its reader waiting for ever.
///
/// # Errors
/// What it is instead, or why it cannot be opened.
pub fn open_file(path: &Path) -> Result<File, Unread> {
    match std::fs::metadata(path)? {
        metadata if metadata.is_dir() => Err(a_folder()),
        metadata if !metadata.is_file() => Err(Unread::Wrong("it is no regular file".to_owned())),
        _ => Ok(File::open(path)?),
    }
}

fn a_folder() -> Unread {
    Unread::Wrong("it is a folder".to_owned())
}

/// Reads a text file.
pub(super) fn read(path: &Path, open: Open) -> Result<Arc<str>, Unread> {
    let mut text = Vec::new();
    open(path)?.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Unread::Wrong(format!("it is longer than {} MiB", MAX_FILE >> 20)));
    }
    match String::from_utf8(text) {
        Ok(text) => Ok(text.into()),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..good].iter().filter(|&&byte| byte == b'\n').count() + 1;
            Err(Unread::Wrong(format!("it is not UTF-8 text (line {line})")))
        }
    }
}
