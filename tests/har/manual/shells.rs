//! Completions: made from the grammar, and understood by the shells themselves.

use std::collections::BTreeMap;
use std::process::Command;

use clap::CommandFactory;
use clap_complete::Shell;
use har::cli::Cli;

use crate::harness::daemon::BINARY;
use crate::harness::{missing, skip};

fn made() -> BTreeMap<String, String> {
    let files = [("har.bash", Shell::Bash), ("_har", Shell::Zsh), ("har.fish", Shell::Fish)];
    let text = |shell| {
        let mut bytes = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "har", &mut bytes);
        String::from_utf8(bytes).expect("text")
    };
    files.into_iter().map(|(name, shell)| (name.to_owned(), text(shell))).collect()
}

#[test]
fn the_completions_are_what_they_are_made_from() {
    super::compare("packaging/completions", &made());
}

/// What a shell prints for a script, in a home of its own and with the built binary as `har`.
fn shell(name: &str, arguments: &[&str], script: &str) -> Option<String> {
    if let Some(reason) = missing(&[name]) {
        skip(&reason);
        return None;
    }
    let home = tempfile::tempdir().expect("a temporary folder");
    let path = format!("{}:/usr/bin:/bin", std::path::Path::new(BINARY).parent().expect("a folder").display());
    let mut command = Command::new(name);
    command.args(arguments).arg(script).env_clear().env("HOME", home.path()).env("PATH", path).env("LC_ALL", "C.UTF-8");
    let output = command.env("TERM", "dumb").output().expect("the shell starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{name}: {complaint}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn bash_completes_commands_and_options() {
    let script = "source <(har completions bash); complete -p har; \
                  ask() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); \
                  _har har \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; echo \"${COMPREPLY[@]}\"; }; \
                  ask har und; ask har drain --re; ask har completions ''";
    let Some(text) = shell("bash", &["--norc", "-c"], script) else { return };
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("complete ") && lines[0].ends_with(" har"), "{text}");
    assert_eq!(lines[1], "undrain", "{text}");
    assert_eq!(lines[2], "--reason", "{text}");
    assert!(lines[3].contains("bash") && lines[3].contains("zsh") && lines[3].contains("fish"), "{text}");
}

#[test]
fn zsh_loads_them() {
    let script = "autoload -U compinit; compinit -D; source <(har completions zsh); \
                  print ${_comps[har]}; _har_commands() { print $#commands }; functions _har__subcmd__drain_commands _har | wc -l";
    let Some(text) = shell("zsh", &["-f", "-c"], script) else { return };
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "_har", "{text}");
    assert!(lines[1].trim().parse::<u32>().expect("a number") > 50, "the function is defined: {text}");
}

#[test]
fn fish_completes_commands_and_options() {
    let script = "har completions fish | source; complete --do-complete 'har und'; \
                  complete --do-complete 'har drain --re'";
    let Some(text) = shell("fish", &["--no-config", "-c"], script) else { return };
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("undrain\t"), "{text}");
    assert!(lines[1].starts_with("--reason"), "{text}");
}
