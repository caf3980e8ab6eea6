//! `exec` checks of the daemon: what a command gets, what it says, and that nothing of it stays.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use crate::harness::{har, is_root, namespace, skip, wait_for};

const PACE: &str = "[defaults]\ninterval = \"1s\"\nfast_interval = \"100ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 1\n";

/// A name of two addresses whose command is a shell script in the configuration's folder.
fn name(script: &str, more: &str) -> String {
    format!(
        "[names.\"api.example\"]\ncandidates = [\"127.0.0.2\", \"127.0.0.3\"]\nselect = \"failover\"\n\
         [names.\"api.example\".check]\ntype = \"exec\"\n\
         command = [\"/bin/sh\", \"-c\", '''{script}''', \"sh\", \"{{address}}\"]\n{more}\n"
    )
}

/// What a command wrote, once all of it is there.
fn written(path: &Path) -> String {
    wait_for("what the command wrote", || fs::read_to_string(path).ok().filter(|text| text.ends_with("end\n")))
}

/// Whether a process is there and not merely waiting to be reaped.
fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

fn until_gone(pid: &str) {
    wait_for("the end of the command's process", || (!is_running(pid)).then_some(()));
}

#[test]
fn a_command_gets_nothing_of_the_daemons() {
    let show = "[ $1 = 127.0.0.2 ] || exit 0; cd FOLDER; f=$$.new
        { for a; do echo \"<$a>\"; done; tr '\\\\0' '\\\\n' </proc/self/environ; ls -l /proc/$$/fd; cat /proc/self/status; echo end; } >$f
        mv -n $f seen || rm $f";
    let mut har = har().environment("SECRET_TOKEN", "s3cret").environment("LD_DEBUG_OUTPUT", "/x").prepare();
    let folder = har.folder().to_owned();
    let command = show.replace("FOLDER", &folder.display().to_string()).replace("\\\\", "\\");
    har.rewrite_names(&format!("{PACE}{}", name(&command, "timeout = \"1s\"")));
    har.start();
    let seen = written(&folder.join("seen"));
    assert!(seen.starts_with("<127.0.0.2>\n"), "{seen}");
    for line in ["HAR_NAME=api.example\n", "HAR_HOST=127.0.0.2\n", "HAR_ADDRESS=127.0.0.2\n", "PATH=/usr/local/sbin:"] {
        assert!(seen.contains(line), "{line} {seen}");
    }
    for foreign in ["NOTIFY_SOCKET", "SECRET_TOKEN", "s3cret", "HOME=", "LD_DEBUG", "socket:", "har.db", "eventpoll"] {
        assert!(!seen.contains(foreign), "{foreign} {seen}");
    }
    // The kernel's list of descriptors: standard input is empty.
    assert!(seen.contains("0 -> /dev/null"), "{seen}");
    // Of a daemon that stays root, too.
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(seen.contains(&format!("{set}:\t0000000000000000\n")), "{set} {seen}");
    }
    assert!(seen.contains("NoNewPrivs:\t1\n"), "{seen}");
}

#[test]
fn it_runs_after_the_change_of_user_and_holds_no_capability() {
    if !is_root() {
        return skip("needs root: changing to another user");
    }
    namespace::inside(&[], || {
        let mut har = har().port(53).server("user = \"nobody\"").prepare();
        let folder = har.folder().to_owned();
        // What nobody may write into.
        let out = folder.join("out");
        for path in [&out, &folder.join("state")] {
            fs::create_dir(path).unwrap();
            chown(path, Some(65_534), Some(65_534)).unwrap();
        }
        let script = folder.join("check");
        let text = format!(
            "#!/bin/sh\ncat /proc/self/status >{0}/$$ && echo end >>{0}/$$ && mv {0}/$$ {0}/seen\n",
            out.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        har.rewrite_names(&format!(
            "{PACE}[names.\"api.example\"]\ncandidates = [\"127.0.0.2\"]\ncheck = {{ type = \"exec\", command = [\"./check\"] }}\n"
        ));
        har.start();
        let status = written(&out.join("seen"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(field("Uid"), [const { "65534" }; 4], "{status}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(set), ["0000000000000000"], "{status}");
        }
        assert_eq!(field("NoNewPrivs"), ["1"], "{status}");
        assert_eq!(field("SigBlk"), ["0000000000000000"], "{status}");
        har.until_sql("SELECT state FROM address", |state| state == "up");
    });
}

#[test]
fn the_output_decides_who_is_answered() {
    let mut har = har().prepare();
    let folder = har.folder().to_owned();
    let say = |address: &str, text: &str| {
        fs::write(folder.join("new"), text).unwrap();
        fs::rename(folder.join("new"), folder.join(address)).unwrap();
    };
    say("127.0.0.2", "ok priority=1\n");
    say("127.0.0.3", "ok priority=2\n");
    let script = format!("cat {}/$1", folder.display());
    let more = "expect = \"^ok\"\npriority = \"priority=([0-9a-z]+)\"";
    har.rewrite_names(&format!("{PACE}{}", name(&script, more)));
    har.start();
    har.until_a("api.example", "127.0.0.2");
    say("127.0.0.2", "ok priority=3\n");
    har.until_a("api.example", "127.0.0.3");
    // No priority at all: not to be used, though it is up.
    say("127.0.0.3", "ok\n");
    har.until_a("api.example", "127.0.0.2");
    har.until_sql("SELECT state || reported_priority FROM address WHERE address = '127.0.0.3'", |cell| cell == "up-1");
    say("127.0.0.3", "ok priority=0\n");
    har.until_a("api.example", "127.0.0.3");
    say("127.0.0.3", "broken\n");
    har.until_a("api.example", "127.0.0.2");
    let query = "SELECT state || ' ' || last_outcome || ': ' || last_error FROM address WHERE address = '127.0.0.3'";
    har.until_sql(query, |row| row == "down response_error: the output (7 bytes) does not match \"^ok\"");
}

#[test]
fn nothing_of_a_command_outlives_its_time_or_the_daemon() {
    let mut har = har().prepare();
    let folder = har.folder().to_owned();
    // One runs into its time limit again and again, the other is under way when the daemon stops.
    let script = format!("sleep 600 & echo $$ $! end >{0}/$$.$1 && mv {0}/$$.$1 {0}/$1; wait", folder.display());
    let pace = PACE.replace("interval = \"1s\"", "interval = \"60s\"");
    har.rewrite_names(&format!("{PACE}{}", name(&script, "")));
    har.start();
    let pids = |address: &str| {
        let text = written(&folder.join(address));
        text.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = pids("127.0.0.2");
    har.until_sql("SELECT sum(timeout) FROM address", |count| count.parse::<u32>().is_ok_and(|count| count >= 4));
    first.iter().for_each(|pid| until_gone(pid));
    har.until_sql("SELECT last_error FROM address", |error| error == "the command took longer than 1s");
    let slow = pace.replace("timeout = \"1s\"", "timeout = \"60s\"");
    har.rewrite_names(&format!("{slow}{}", name(&script.replace("/$1;", "/late-$1;"), "")));
    har.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the new configuration", || har.log().contains("was loaded again").then_some(()));
    let last = pids("late-127.0.0.3");
    assert!(is_running(&last[0]) && is_running(&last[1]));
    let start = std::time::Instant::now();
    assert!(har.stop().success());
    assert!(start.elapsed() < Duration::from_secs(30), "it waits for no command");
    last.iter().for_each(|pid| until_gone(pid));
}

#[test]
fn a_program_that_is_missing_is_a_warning_and_then_an_error() {
    let har = har()
        .names(PACE)
        .names("[names.a]\ncandidates = [\"127.0.0.2\"]\ncheck = { type = \"exec\", command = [\"/no/such/check\"] }")
        .start();
    har.until_log("/no/such/check cannot be started: No such file");
    let row = har.until_sql("SELECT last_outcome, last_error FROM address", |outcome| !outcome.is_empty()).remove(0);
    assert_eq!(row, ["other_error", "/no/such/check cannot be started: no such file or directory"]);
}
