//! `har status --watch` on a terminal: tmux is the terminal, and says what a person would see.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::daemon::BINARY;
use crate::harness::{Backend, Har, har, missing, skip, wait_for};

/// A terminal of its own server, which ends with the value.
struct Terminal {
    folder: tempfile::TempDir,
}

impl Terminal {
    fn open(columns: u32, rows: u32) -> Terminal {
        let terminal = Terminal { folder: tempfile::tempdir().expect("a temporary folder") };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, "env PS1='$ ' sh"]);
        terminal.tmux(&["set-option", "-g", "status", "off"]);
        terminal.until("a prompt", |screen| screen.contains('$'));
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.folder.path().join("socket")).args(arguments);
        // A terminal that speaks UTF-8, whatever the test's own.
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").env_remove("NO_COLOR");
        let output = command.output().expect("tmux starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn type_line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Waits until the cursor is shown again, on the screen from before.
    #[track_caller]
    fn until_given_back(&self) {
        wait_for("cursor and screen", || {
            (self.tmux(&["display-message", "-p", "#{cursor_flag} #{alternate_on}"]).trim() == "1 0").then_some(())
        });
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, || {
                last = self.screen();
                condition(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{what}; the screen:\n{last}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        let _ = command.arg("-S").arg(self.folder.path().join("socket")).arg("kill-server").output();
    }
}

/// A daemon of two servers and as many further names as asked for.
fn start(more: usize) -> (Har, Vec<Backend>) {
    let backends = Backend::group(&[("127.0.0.3", 40), ("127.0.0.2", 5)]);
    let name = |name: String| {
        format!(
            "[names.\"{name}\"]\ncheck = \"http://{{address}}:{}/\"\ncandidates = [\"127.0.0.3\", \"127.0.0.2\"]\n\
             interval = \"200ms\"\nfast_interval = \"100ms\"\n",
            backends[0].port()
        )
    };
    let names: String = (0..more).map(|number| name(format!("n{number:02}.example"))).collect();
    let har = har().names(&(name("api.example".to_owned()) + &names)).start();
    har.until_a("api.example", "127.0.0.2");
    har.until_sql("SELECT addresses FROM answer WHERE name = 'api.example'", |addresses| addresses == "127.0.0.2");
    (har, backends)
}

fn watch(har: &Har) -> String {
    format!("{BINARY} status --watch --config {}", har.config_path().display())
}

/// The process that a terminal's shell started.
fn watcher(har: &Har) -> Option<Pid> {
    let config = har.config_path().display().to_string();
    let folders = std::fs::read_dir("/proc").ok()?.flatten();
    folders.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).find_map(|pid| {
        let line = std::fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).ok()?;
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        (words.first()? == BINARY && words.contains(&"--watch".to_owned()) && words.contains(&config))
            .then_some(Pid::from_raw(pid))
    })
}

#[test]
fn the_live_table_follows_a_failure_and_gives_the_terminal_back() {
    if let Some(reason) = missing(&["tmux", "stty"]) {
        return skip(&reason);
    }
    let (har, mut backends) = start(0);
    let terminal = Terminal::open(100, 20);
    let folder = har.folder().display().to_string();
    terminal.type_line(&format!("echo 'before it'; stty -a >{folder}/before"));
    terminal.until("what was before", |screen| screen.contains("\nbefore it\n"));
    terminal.type_line(&watch(&har));
    // The slower address may be up some frames after the faster one is chosen.
    let screen = terminal.until("the table", |screen| {
        screen.contains("* 127.0.0.2") && screen.contains("1 name: 0 with nothing up, 0 partly up, 1 all up")
    });
    assert!(screen.starts_with("● har ") && screen.contains("queries/s"), "{screen}");
    assert!(screen.contains("api.example A → 127.0.0.2") && screen.contains(" ms  "), "{screen}");
    assert!(!screen.contains("before it"), "a screen of its own:\n{screen}");
    terminal.until("a sparkline", |screen| screen.lines().any(|line| line.contains("127.0.0.3") && line.contains('█')));

    backends[1].close();
    // Marks, places and the head follow in their turn: no frame needs to show the first of them with the last.
    terminal.until("the failure", |screen| {
        let answer = screen.contains("api.example A → 127.0.0.3") && screen.contains('×');
        answer && screen.contains("! api.example") && screen.contains("1 partly up")
    });
    backends[1].open();
    terminal
        .until("the recovery", |screen| screen.contains("api.example A → 127.0.0.2") && screen.contains("1 all up"));
    let coloured = terminal.tmux(&["capture-pane", "-p", "-e"]);
    assert!(coloured.contains("\u{1b}[32m"), "up is green: {coloured:?}");

    terminal.key("q");
    let screen = terminal.until("the screen from before", |screen| screen.contains("\nbefore it\n"));
    assert!(!screen.contains("queries/s"), "{screen}");
    terminal.type_line(&format!("stty -a >{folder}/after; echo status=$?"));
    terminal.until("the shell", |screen| screen.contains("\nstatus=0\n"));
    let settings = |file: &str| std::fs::read_to_string(har.folder().join(file)).unwrap();
    assert_eq!(settings("before"), settings("after"), "the keyboard is as it was");
    terminal.until_given_back();
}

#[test]
fn the_live_table_fits_every_window_and_moves() {
    if let Some(reason) = missing(&["tmux"]) {
        return skip(&reason);
    }
    let (har, _backends) = start(12);
    let terminal = Terminal::open(80, 24);
    terminal.type_line(&watch(&har));
    // 13 names with two addresses: 39 lines, below a head of four.
    terminal.until("the first lines", |screen| screen.contains("lines 1-19 of 39, 20 more below"));
    terminal.key("Down");
    terminal.until("a line further", |screen| screen.contains("lines 2-20 of 39"));
    terminal.key("NPage");
    terminal.until("a page further", |screen| screen.contains("lines 19-37 of 39"));
    terminal.key("End");
    let screen = terminal.until("the last lines", |screen| screen.contains("lines 21-39 of 39, 0 more below"));
    assert!(screen.contains("n11.example"), "{screen}");
    terminal.key("Home");
    terminal.until("the first again", |screen| screen.contains("lines 1-19 of 39"));
    terminal.tmux(&["resize-window", "-x", "200", "-y", "50"]);
    let screen = terminal.until("everything in a large window", |screen| {
        screen.contains("n11.example") && screen.contains("q quits") && !screen.contains("lines 1-")
    });
    assert_eq!(screen.lines().count(), 50, "{screen}");
    terminal.tmux(&["resize-window", "-x", "40", "-y", "10"]);
    let screen = terminal.until("a small window", |screen| screen.contains("q quits") && screen.lines().count() == 10);
    assert!(screen.lines().all(|line| line.chars().count() <= 40), "{screen}");
    terminal.key("C-c");
    terminal.until("the prompt", |screen| !screen.contains("q quits"));
    wait_for("its end", || watcher(&har).is_none().then_some(()));
}

#[test]
fn the_terminal_is_given_back_for_a_pause_and_at_a_signal() {
    if let Some(reason) = missing(&["tmux"]) {
        return skip(&reason);
    }
    let (har, _backends) = start(0);
    let terminal = Terminal::open(90, 20);
    terminal.type_line(&format!("NO_COLOR=1 {}", watch(&har)));
    terminal.until("the table", |screen| screen.contains("queries/s"));
    let coloured = terminal.tmux(&["capture-pane", "-p", "-e"]);
    assert!(!coloured.contains("\u{1b}[32m") && !coloured.contains("\u{1b}[31m"), "NO_COLOR: {coloured:?}");
    terminal.key("C-z");
    terminal.until("the shell in between", |screen| !screen.contains("queries/s") && screen.contains("--watch"));
    terminal.type_line("fg");
    terminal.until("the table again", |screen| screen.contains("queries/s") && screen.contains("q quits"));
    let pid = watcher(&har).expect("it runs");
    kill(pid, Signal::SIGTERM).unwrap();
    terminal.until("the prompt", |screen| !screen.contains("queries/s"));
    terminal.until_given_back();
}

#[test]
fn a_terminal_without_control_sequences_gets_plain_tables() {
    if let Some(reason) = missing(&["script"]) {
        return skip(&reason);
    }
    let (har, _backends) = start(0);
    let mut seconds = 0;
    // As long as a loaded machine needs for the first table.
    wait_for("a plain table", || {
        seconds += 3;
        let output = Command::new("timeout")
            .args([&seconds.to_string(), "script", "-qefc", &watch(&har), "/dev/null"])
            .env("TERM", "dumb")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains('\u{1b}'), "{text:?}");
        text.contains("api.example A  127.0.0.2 ").then_some(())
    });
}
