//! Puts the code that a running daemon needs side by side in the program.
//!
//! Memory is mapped by the page and filled by the 16 pages: a function that runs now and then keeps 64 KiB of code in
//! memory, whatever its neighbours are. `steady.txt` names the functions that ran in a daemon at work; each is a section
//! of its own until it is linked, and a linker script collects them. A name that no longer exists is nothing, and a
//! function that is missing lies where it would without this.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Written by a test, see its header.
const NAMES: &str = "packaging/link/steady.txt";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed={NAMES}");
    println!("cargo:rerun-if-changed=packaging/link/main.rs");
    // A build for development is linked all day.
    if variable("CARGO_CFG_TARGET_OS") != "linux" || variable("OPT_LEVEL") == "0" {
        return Ok(());
    }
    let folder = PathBuf::from(variable("OUT_DIR"));
    let file = folder.join("steady.ld");
    fs::write(&file, script(&fs::read_to_string(NAMES)?))?;
    let argument = format!("-Wl,-T,{}", file.display());
    if takes(&folder, &argument)? {
        println!("cargo:rustc-link-arg-bins={argument}");
    } else {
        println!("cargo:warning=this linker takes no script that adds to its own: har will need 2 MB more memory");
    }
    Ok(())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// A linker script, for what comes in front of all other code, in the order of the names.
fn script(names: &str) -> String {
    let names = names.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let sections: Vec<String> = names.map(|name| format!("    *({})\n", patterns(name))).collect();
    format!("SECTIONS\n{{\n  .text.steady :\n  {{\n{}  }}\n}}\nINSERT BEFORE .text;\n", sections.concat())
}

/// The sections in which a function of this name can be.
fn patterns(name: &str) -> String {
    match name.starts_with("_ZN") || name.starts_with("_R") {
        // What Rust calls cold does run now and then: a list that grows, a first use.
        true => format!(".text.{name} .text.unlikely.{name}"),
        // A C compiler tells its versions of a function apart by a suffix.
        false => format!(".text.{name} .text.{name}.*"),
    }
}

/// Whether the linker of this build takes the argument: GNU ld and lld do, gold does not.
fn takes(folder: &Path, argument: &str) -> io::Result<bool> {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--crate-name", "probe", "--edition", "2024", "--target", &variable("TARGET")]);
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    rustc.arg(format!("-Clink-arg={argument}")).arg("-o").arg(folder.join("probe")).arg("-");
    let mut child = rustc.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    if let Some(mut source) = child.stdin.take() {
        source.write_all(b"fn main() {}")?;
    }
    Ok(child.wait()?.success())
}
