//! Pages taken apart: prose, code spans, headings, fenced blocks and indented ones.
//!
//! As much of Markdown as har's documentation uses.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use super::regex;

/// A page.
pub struct Page {
    /// Relative to the root, as in `docs/checks.md`.
    pub name: String,
    /// What is fenced.
    pub blocks: Vec<Block>,
    /// Lines of indented blocks, with their number.
    pub indented: Vec<(usize, String)>,
    /// Everything else.
    pub prose: String,
    /// What stands between single backquotes in it.
    pub spans: Vec<String>,
    /// What a link to a heading may say behind `#`.
    pub anchors: BTreeSet<String>,
    /// Whether the last block has its end.
    pub closed: bool,
}

/// A fenced block.
pub struct Block {
    /// Number of its first line.
    pub line: usize,
    /// What stands behind the opening fence.
    pub info: String,
    /// What it holds, without the indentation of its fence.
    pub text: String,
}

impl Block {
    /// The first word of its mark.
    pub fn language(&self) -> &str {
        self.info.split_whitespace().next().unwrap_or("")
    }

    /// What follows the language.
    pub fn mark(&self) -> &str {
        self.info.split_once(' ').map_or("", |(_, mark)| mark.trim())
    }
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page of the documentation.
pub fn pages() -> Vec<Page> {
    let mut names: Vec<String> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(String::from).to_vec();
    let folder = fs::read_dir(root().join("docs")).expect("the folder");
    let files = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    let mut found: Vec<String> =
        files.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    found.sort();
    names.append(&mut found);
    names
        .into_iter()
        .map(|name| Page::read(name.clone(), &fs::read_to_string(root().join(name)).expect("text")))
        .collect()
}

impl Page {
    /// Takes a page apart.
    pub fn read(name: String, text: &str) -> Page {
        let mut page = Page {
            name,
            blocks: Vec::new(),
            indented: Vec::new(),
            prose: String::new(),
            spans: Vec::new(),
            anchors: BTreeSet::new(),
            closed: true,
        };
        let mut inside: Option<(usize, Block)> = None;
        // An indented block begins behind an empty line; other deep lines continue a list.
        let mut may_begin = false;
        for (line, number) in text.lines().zip(1..) {
            let bare = line.trim_start();
            let depth = line.len() - bare.len();
            if let Some((fence, block)) = &mut inside {
                if bare.trim_end() == "```" {
                    page.blocks.extend(inside.take().map(|(_, block)| block));
                } else {
                    block.text.push_str(line.get((*fence).min(depth)..).unwrap_or(""));
                    block.text.push('\n');
                }
            } else if let Some(info) = bare.strip_prefix("```") {
                inside = Some((depth, Block { line: number, info: info.trim().to_owned(), text: String::new() }));
            } else if depth >= 4 && may_begin {
                page.indented.push((number, bare.to_owned()));
            } else {
                may_begin = bare.is_empty();
                page.prose.push_str(line);
                page.prose.push('\n');
            }
        }
        page.closed = inside.is_none();
        page.spans = regex("`([^`\n]+)`").captures_iter(&page.prose).map(|found| found[1].to_owned()).collect();
        page.anchors = anchors(&page.prose);
        page
    }
}

/// The anchors that GitHub and its kin make of headings.
fn anchors(prose: &str) -> BTreeSet<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut anchors = BTreeSet::new();
    for line in prose.lines() {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let slug = kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>();
        let again = seen.entry(slug.clone()).or_default();
        anchors.insert(if *again == 0 { slug } else { format!("{slug}-{again}") });
        *again += 1;
    }
    anchors
}

#[test]
fn a_page_is_taken_apart() {
    let text = "# Two words, `code`\n\nSee `har status` and\n    not a block\n\n    har events\n    har probe\n\n\
                1. A list:\n\n   ```toml fragment\n   a = 1\n     b\n   ```\n\n## Again\n## Again\n```sh\n# no heading\n";
    let page = Page::read("a.md".to_owned(), text);
    assert_eq!(page.spans, ["code", "har status"]);
    assert_eq!(page.indented, [(6, "har events".to_owned()), (7, "har probe".to_owned())]);
    let block = &page.blocks[0];
    assert_eq!(
        (block.line, block.language(), block.mark(), block.text.as_str()),
        (11, "toml", "fragment", "a = 1\n  b\n")
    );
    assert_eq!(page.anchors.iter().map(String::as_str).collect::<Vec<_>>(), ["again", "again-1", "two-words-code"]);
    assert!(!page.closed && page.blocks.len() == 1);
}
