//! A table of `docs/compatibility.md`: written by a test, compared with what is committed.
//!
//! `HAR_WRITE_COMPATIBILITY=1` puts the measured rows into the document. Versions differ between machines, so they
//! stand below the table and are not compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::skip;

/// Set to put what was measured into the document.
const WRITE: &str = "HAR_WRITE_COMPATIBILITY";

/// How a cell begins that must not be committed.
pub const WRONG: &str = "WRONG";

/// A cell for what a program cannot be asked.
pub const NOT_ASKED: &str = "–";

/// Rows as they were measured.
pub struct Table {
    section: &'static str,
    headings: Vec<&'static str>,
    rows: Vec<Row>,
    versions: BTreeMap<&'static str, String>,
}

struct Row {
    name: &'static str,
    /// The reason, when it could not be measured.
    cells: Result<Vec<String>, String>,
}

impl Table {
    /// An empty table of the section with this name.
    pub fn new(section: &'static str, headings: Vec<&'static str>) -> Table {
        Table { section, headings, rows: Vec::new(), versions: BTreeMap::new() }
    }

    /// A measured row.
    pub fn row(&mut self, name: &'static str, cells: Vec<String>) {
        assert_eq!(cells.len() + 1, self.headings.len(), "{name}: a cell for each heading");
        self.rows.push(Row { name, cells: Ok(cells) });
    }

    /// A row that cannot be measured here.
    pub fn absent(&mut self, name: &'static str, reason: String) {
        self.rows.push(Row { name, cells: Err(reason) });
    }

    /// Notes the version of a program.
    pub fn version(&mut self, program: &'static str, version: String) {
        self.versions.insert(program, version);
    }

    /// Compares with the document, or writes into it. Fails when a row differs.
    pub fn settle(&self) {
        let measured = self.text(&BTreeMap::new());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compatibility");
        fs::create_dir_all(&folder).expect("the target folder is writable");
        fs::write(folder.join(format!("{}.md", self.section)), &measured).expect("the target folder is writable");
        for row in &self.rows {
            let cells = row.cells.as_deref().unwrap_or_default();
            let wrong: Vec<&String> = cells.iter().filter(|cell| cell.starts_with(WRONG)).collect();
            assert!(wrong.is_empty(), "{}: {wrong:?} in\n{measured}", row.name);
        }
        if std::env::var_os(WRITE).is_some() {
            self.write(&folder);
        } else {
            self.compare();
        }
        let absent: Vec<String> = self.rows.iter().filter_map(Row::absence).collect();
        if !absent.is_empty() {
            skip(&format!("rows neither measured nor compared: {}", absent.join("; ")));
        }
    }

    /// The rows as text; those that could not be measured as they were `before`.
    fn text(&self, before: &BTreeMap<String, String>) -> String {
        let mut text = format!("| {} |\n|{}\n", self.headings.join(" | "), "---|".repeat(self.headings.len()));
        for row in &self.rows {
            match &row.cells {
                Ok(cells) => text.push_str(&format!("| {} | {} |\n", row.name, cells.join(" | "))),
                Err(_) => before.get(row.name).iter().for_each(|line| text.push_str(&format!("{line}\n"))),
            }
        }
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        text.push_str(&format!("\nMeasured with {}.\n", versions.join(", ")));
        text
    }

    fn markers(&self) -> (String, String) {
        (format!("<!-- begin {} -->\n", self.section), format!("<!-- end {} -->\n", self.section))
    }

    /// The document in three parts: before this table, the table, after it.
    fn document(&self) -> (String, String, String) {
        let text = fs::read_to_string(document()).expect("docs/compatibility.md");
        let (begin, end) = self.markers();
        let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{begin:?} in docs/compatibility.md"));
        let (inside, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{end:?} in docs/compatibility.md"));
        (before.to_owned(), inside.to_owned(), after.to_owned())
    }

    fn write(&self, folder: &Path) {
        // The tests run at the same time and write into one document.
        let lock = fs::File::create(folder.join("lock")).expect("the target folder is writable");
        lock.lock().expect("a lock");
        let (before, inside, after) = self.document();
        let (begin, end) = self.markers();
        let text = self.text(&lines_by_name(&inside));
        fs::write(document(), format!("{before}{begin}{text}{end}{after}")).expect("docs/compatibility.md is writable");
    }

    fn compare(&self) {
        let (_, inside, _) = self.document();
        let committed = lines_by_name(&inside);
        let text = self.text(&committed);
        let tables = [inside.as_str(), text.as_str()].map(|text| {
            // What follows the blank line are versions.
            text.split_once("\n\n").map_or(text, |(table, _)| table).trim_end().to_owned()
        });
        let [was, is] = &tables;
        let mut difference = String::new();
        for line in was.lines().filter(|line| !is.lines().any(|other| other == *line)) {
            difference.push_str(&format!("- {line}\n"));
        }
        for line in is.lines().filter(|line| !was.lines().any(|other| other == *line)) {
            difference.push_str(&format!("+ {line}\n"));
        }
        assert!(
            was == is,
            "docs/compatibility.md does not say what was measured:\n{difference}\n\
             If the new rows are right: {WRITE}=1 cargo test --test har compatibility"
        );
    }
}

impl Row {
    fn absence(&self) -> Option<String> {
        self.cells.as_ref().err().map(|reason| format!("{} ({reason})", self.name))
    }
}

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md")
}

/// The lines of a table by their first cell.
fn lines_by_name(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| line.starts_with("| "));
    lines
        .filter_map(|line| Some((line.split(" | ").next()?.trim_start_matches("| ").to_owned(), line.to_owned())))
        .collect()
}
