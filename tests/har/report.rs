//! `har report` beside a real daemon: what the page says, that it is well-formed, and what a browser makes of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::daemon::BINARY;
use crate::harness::{Backend, Har, Mode, har, missing, program, skip};

/// A daemon whose fastest server failed and came back.
fn after_a_failure(server: &str) -> (Har, Vec<Backend>) {
    let backends = Backend::group(&[("127.0.0.3", 40), ("127.0.0.2", 5)]);
    let port = backends[0].port();
    let names = format!(
        "[names.\"api.example\"]\ncheck = \"http://{{address}}:{port}/\"\ncandidates = [\"127.0.0.3\", \"127.0.0.2\"]\n\
         interval = \"500ms\"\nfast_interval = \"100ms\"\n\
         [names.\"dead.example\"]\ncheck = \"http://{{address}}:{port}/\"\ncandidates = [\"127.0.0.4\"]\n\
         interval = \"500ms\"\nfast_interval = \"100ms\"\n\
         [names.\"quiet.example\"]\ncheck = \"http://{{address}}:{port}/\"\ncandidates = [\"127.0.0.3\"]\ninterval = \"500ms\"\n"
    );
    let har = har().server(server).names(&names).start();
    har.until_a("api.example", "127.0.0.2");
    backends[1].set(Mode::Answer(500, std::time::Duration::ZERO));
    har.until_a("api.example", "127.0.0.3");
    backends[1].delay(5);
    har.until_a("api.example", "127.0.0.2");
    let back = "SELECT count(*) FROM event WHERE kind = 'answer' AND after LIKE '127.0.0.2%' AND at > \
                (SELECT max(at) FROM event WHERE kind = 'answer' AND before LIKE '127.0.0.2%')";
    har.until_sql(back, |count| count != "0");
    har.until_sql("SELECT state FROM address WHERE address = '127.0.0.4'", |state| state == "down");
    har.until_sql("SELECT count(*) FROM address WHERE state = 'up'", |count| count == "3");
    (har, backends)
}

fn report(har: &Har, arguments: &[&str]) -> PathBuf {
    let path = har.folder().join("report.html");
    let mut command = har.tool("report");
    let output = command.arg("--output").arg(&path).args(arguments).output().expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty());
    path
}

#[test]
fn a_page_tells_of_a_failure_and_a_recovery() {
    let (mut har, _backends) = after_a_failure("");
    let page = std::fs::read_to_string(report(&har, &["--since", "1h"])).unwrap();
    for wanted in [
        "1 name nothing up",
        "2 names all up",
        "127.0.0.2 → 127.0.0.3",
        "127.0.0.3 → 127.0.0.2",
        "up → down",
        "down → up",
        "class=\"line l1\"",
        "class=\"line l2\"",
        "class=\"failures\"",
        "Nothing older is recorded",
    ] {
        assert!(page.contains(wanted), "{wanted}\n{page}");
    }
    let place = |name: &str| page.find(&format!("<span>{name}</span>")).unwrap_or_else(|| panic!("{name}"));
    assert!(
        place("dead.example") < place("api.example") && place("api.example") < place("quiet.example"),
        "trouble first"
    );
    // Three segments of the answer: before, while it was down, after.
    let answer = &page[page.find("A answered").unwrap()..];
    assert!(answer.matches("class=\"band s").count() >= 3, "{answer}");
    assert!(
        !page.contains("<script") && !page.contains("src=") && !page.contains("url(http"),
        "nothing from elsewhere"
    );

    let limited = std::fs::read_to_string(report(&har, &["--limit", "1"])).unwrap();
    assert!(
        limited.contains("1 of 3 names are shown") && limited.contains("0 with trouble, 1 with changes, 1 quiet"),
        "{limited}"
    );
    let one = har.run(&["report", "quiet.example", "--output", "-"]).ok();
    assert!(one.contains("<span>quiet.example</span>") && !one.contains("<span>api.example</span>"));

    let slip = har.run(&["report", "nothing.example", "--output", "-"]);
    assert_eq!((slip.code, slip.out.as_str()), (2, ""), "{}", slip.err);
    let unwritable = har.run(&["report", "--output", "/nonexistent/report.html"]);
    assert_eq!(unwritable.code, 1, "{}", unwritable.err);
    assert!(unwritable.err.contains("cannot write /nonexistent/report.html"), "{}", unwritable.err);
    let left: Vec<_> = std::fs::read_dir(har.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".new")), "{left:?}");

    assert!(har.stop().success());
    let stopped = std::fs::read_to_string(report(&har, &[])).unwrap();
    assert!(stopped.contains("har is not running: it was stopped"), "{stopped}");
}

#[test]
fn a_daemon_without_history_has_a_page_that_says_so() {
    let (har, _backends) = after_a_failure("history = \"0s\"");
    let page = std::fs::read_to_string(report(&har, &[])).unwrap();
    assert!(page.contains("server.history = &quot;0s&quot;") && page.contains("no latencies to draw"), "{page}");
    assert!(page.contains("up → down"), "events are there all the same");
}

#[test]
fn a_page_is_well_formed_for_parsers_of_xml_and_of_html() {
    if let Some(reason) = missing(&["xmllint", "python3"]) {
        return skip(&reason);
    }
    let (mut har, backends) = after_a_failure("");
    // What a stranger's server says goes into the page.
    backends[0].set(Mode::Reset);
    har.until_sql("SELECT state FROM address WHERE name = 'quiet.example'", |state| state == "down");
    assert!(har.stop().success());
    let connection = rusqlite::Connection::open(har.state_path()).unwrap();
    let hostile = "</style></svg><script>alert(1)</script>\" onload='x' & \u{202e} ]]> <!-- \u{1}";
    for sql in [
        "UPDATE endpoint SET last_error = ?1, standing = ?1",
        "UPDATE answer SET reason = ?1",
        "UPDATE event SET reason = ?1, after = ?1",
    ] {
        connection.execute(sql, [hostile]).unwrap();
    }
    drop(connection);
    let path = report(&har, &[]);
    let output = Command::new("xmllint").args(["--nonet", "--noout"]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new("python3").args(["-c", BALANCED]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with("balanced") && said.contains("svg") && !said.contains("script"), "{said}");
}

/// Prints which elements a page has, for one whose elements are all closed in order, and where references lead.
const BALANCED: &str = "
import sys
from html.parser import HTMLParser
VOID = {'meta', 'link', 'br', 'img', 'hr', 'input'}
class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.ids = [], set(), []
    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.ids += [value for name, value in attributes if name == 'id']
        assert not any(name.startswith('on') for name, _ in attributes), attributes
        for name, value in attributes:
            if name in ('href', 'src'): assert value == 'data:,' or value.startswith('#'), value
        if tag not in VOID: self.open.append(tag)
    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID: self.open.pop()
    def handle_endtag(self, tag):
        if tag not in VOID: assert self.open.pop() == tag, tag
reader = Reader()
reader.feed(open(sys.argv[1], encoding='utf-8').read())
assert not reader.open, reader.open
assert len(set(reader.ids)) == len(reader.ids), 'ids are distinct'
print('balanced', *sorted(reader.seen))
";

/// The browser, unless it is neither there nor asked for.
fn browser() -> Option<PathBuf> {
    let asked = std::env::var_os("HAR_TEST_BROWSER").filter(|value| !value.is_empty()).map(PathBuf::from);
    let found =
        asked.filter(|path| path.is_file()).or_else(|| program("chromium")).or_else(|| program("chromium-browser"));
    if found.is_none() {
        skip("no chromium; with HAR_TEST_BROWSER=1 tests/run installs it");
    }
    found
}

/// Runs the browser without a window and without a network on a page, and returns its standard output.
fn browse(browser: &Path, har: &Har, arguments: &[&str], page: &Path) -> String {
    let profile = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new("timeout")
        .arg("120")
        .arg(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .env("HOME", har.folder())
        .output()
        .expect("timeout starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Looks at the page through a frame of `width` and prints how wide its content is and what it loaded.
fn measure(har: &Har, page: &Path, width: u32) -> PathBuf {
    let name = page.file_name().expect("a file").to_string_lossy().into_owned();
    // Without the page's own policy, which forbids scripts, also the measuring one.
    let text = std::fs::read_to_string(page).expect("own folder");
    let start = text.find("<meta http-equiv=\"Content-Security-Policy\"").expect("a policy");
    let end = start + text[start..].find("/>").expect("its end") + 2;
    let probe = "<script>addEventListener('load',()=>{const root=document.documentElement;\
        const wide=[...document.querySelectorAll('body *:not(svg *)')].filter(e=>e.getBoundingClientRect().right>innerWidth+1)\
        .map(e=>e.tagName+'.'+e.getAttribute('class'));\
        document.title='WIDTH '+root.scrollWidth+' OF '+innerWidth+' LOADED '+performance.getEntriesByType('resource').length\
        +' OUTSIDE '+wide.length+' '+wide.slice(0,5).join(' ');parent.postMessage(document.title,'*')})</script></body>";
    let probed = format!("{}{}", &text[..start], &text[end..]).replace("</body>", probe);
    std::fs::write(har.folder().join(format!("probed-{name}")), probed).expect("own folder");
    let frame = format!(
        "<!DOCTYPE html><title>waiting</title><script>addEventListener('message',e=>document.title=e.data)</script>\
         <iframe src=\"probed-{name}\" style=\"border:0;width:{width}px;height:900px\"></iframe>"
    );
    let path = har.folder().join(format!("frame-{width}.html"));
    std::fs::write(&path, frame).expect("own folder");
    path
}

#[test]
fn a_browser_shows_it_at_every_width_and_asks_nobody_for_anything() {
    let Some(browser) = browser() else { return };
    let (har, _backends) = after_a_failure("");
    let page = report(&har, &[]);
    for width in [320, 390, 768, 1280] {
        let dom = browse(&browser, &har, &["--dump-dom", "--virtual-time-budget=3000"], &measure(&har, &page, width));
        let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or(&dom);
        assert_eq!(title.trim_end(), format!("WIDTH {width} OF {width} LOADED 0 OUTSIDE 0"), "no horizontal scrolling");
    }
    let mut pictures = Vec::new();
    for (scheme, setting) in [("light", 1), ("dark", 0)] {
        let picture = har.folder().join(format!("{scheme}.png"));
        let (shot, scheme) =
            (format!("--screenshot={}", picture.display()), format!("--blink-settings=preferredColorScheme={setting}"));
        browse(&browser, &har, &[&shot, &scheme, "--window-size=1000,1400"], &page);
        let bytes = std::fs::read(&picture).unwrap();
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((number(16), number(20)), (1000, 1400), "a picture of the window");
        assert!(bytes.len() > 30_000, "it is not blank: {} bytes", bytes.len());
        pictures.push(bytes);
    }
    assert_ne!(pictures[0], pictures[1], "light and dark differ");
}

#[test]
fn the_page_can_go_to_a_pipe_that_closes() {
    let (har, _backends) = after_a_failure("");
    let line = format!("{BINARY} report --output - --config {} | head -c 100", har.config_path().display());
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert!(output.stdout.starts_with(b"<!DOCTYPE html>") && output.stderr.is_empty(), "{output:?}");
}
