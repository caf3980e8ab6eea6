//! The manual pages: har(8), one for each command, and har.toml(5).

use std::collections::BTreeMap;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use har::cli::Cli;

use super::markdown;

/// What har(8) says beside the grammar.
const MORE: &str = include_str!("har.8.md");

/// What stands at the end of har(8) and har.toml(5).
const SEE_ALSO: &str = ".SH \"SEE ALSO\"\n";

/// Every page, by the name of its file.
pub fn all() -> BTreeMap<String, String> {
    let mut grammar = Cli::command().disable_help_subcommand(true);
    grammar.build();
    let commands: Vec<&Command> = grammar.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    let mut pages = BTreeMap::new();
    for command in &commands {
        let end = format!("{SEE_ALSO}\\fBhar\\fR(8), \\fBhar.toml\\fR(5)\n");
        pages.insert(format!("har-{}.8", command.get_name()), page(command, "", &end));
    }
    let list: Vec<String> =
        commands.iter().map(|command| format!("\\fBhar\\-{}\\fR(8)", markdown::escape(command.get_name()))).collect();
    let end = format!("{SEE_ALSO}\\fBhar.toml\\fR(5), {}, \\fBsystemd.service\\fR(5)\n", list.join(", "));
    pages.insert("har.8".to_owned(), page(&grammar, &markdown::roff(MORE), &end));
    pages.insert("har.toml.5".to_owned(), configuration());
    pages
}

fn heading(name: &str, section: &str, manual: &str) -> String {
    format!(".TH \"{name}\" \"{section}\" \"\" \"har {}\" \"{manual}\"\n", env!("CARGO_PKG_VERSION"))
}

/// A page of a command: its grammar, what follows, and the end.
fn page(command: &Command, more: &str, end: &str) -> String {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command.clone()).section("8");
    // Not the library's heading: it loses an empty date, and a date would make every build another.
    let mut bytes = heading(&name.to_uppercase(), "8", "System Administration").into_bytes();
    man.render_name_section(&mut bytes).expect("a vector takes everything");
    man.render_synopsis_section(&mut bytes).expect("a vector takes everything");
    man.render_description_section(&mut bytes).expect("a vector takes everything");
    man.render_options_section(&mut bytes).expect("a vector takes everything");
    if command.has_subcommands() {
        man.render_subcommands_section(&mut bytes).expect("a vector takes everything");
    }
    let text = String::from_utf8(bytes).expect("text");
    format!("{}{more}{end}", text.trim_end_matches('\n').to_owned() + "\n")
}

/// har.toml(5) is docs/configuration.md.
fn configuration() -> String {
    let text = include_str!("../../../docs/configuration.md");
    format!(
        "{}.SH NAME\nhar.toml \\- the configuration of har\n\
         .SH SYNOPSIS\n\\fI/etc/har/har.toml\\fR\n\
         .SH DESCRIPTION\n{}{SEE_ALSO}\\fBhar\\fR(8), \\fBhar\\-check\\-config\\fR(8)\n",
        heading("HAR.TOML", "5", "File Formats"),
        markdown::roff(text)
    )
}
