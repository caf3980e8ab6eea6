//! `exec` checks: what a command gets, what its end and its output mean, and that nothing of it stays.

use std::path::PathBuf;

use super::*;
use crate::config::ExecCheck;

/// A check of a shell script, which gets the rest as its arguments.
fn script(text: &str, arguments: &[&str]) -> ExecCheck {
    let command = ["/bin/sh", "-c", text, "sh"].iter().chain(arguments).map(|text| (*text).to_owned()).collect();
    ExecCheck { command, expect: None, priority: None, name: "api.example".into(), host: "one.example".into() }
}

fn exec(check: ExecCheck, timeout: Duration) -> CheckResult {
    run(&super::check(CheckKind::Exec(check), timeout), LOCAL)
}

fn said(text: &str) -> CheckResult {
    exec(script(text, &[]), PLENTY)
}

/// Whether a process is there and not merely waiting to be reaped.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

fn until_gone(pid: &str) {
    let start = Instant::now();
    while is_running(pid) {
        assert!(start.elapsed() < PLENTY, "process {pid} stays");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a script wrote, once it has.
fn written(path: &PathBuf) -> String {
    let start = Instant::now();
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => assert!(start.elapsed() < PLENTY, "nothing was written"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_end_of_a_command_is_its_outcome() {
    for (text, outcome, status, error) in [
        ("exit 0", Outcome::Ok, Some(0), None),
        ("exit 3", Outcome::ResponseError, Some(3), Some("exit status 3")),
        (
            "echo out; echo >&2; echo ' no route ' >&2; echo more >&2; exit 2",
            Outcome::ResponseError,
            Some(2),
            Some("exit status 2: no route"),
        ),
        ("kill -TERM $$", Outcome::OtherError, None, Some("the command was ended by SIGTERM")),
        (
            "no-such-program",
            Outcome::ResponseError,
            Some(127),
            Some("exit status 127: sh: 1: no-such-program: not found"),
        ),
    ] {
        let result = said(text);
        assert_eq!((result.outcome, result.status, result.error.as_deref()), (outcome, status, error), "{text}");
        assert!(!result.silent && result.connect.is_none() && result.priority.is_none());
    }
    let long = said("i=0; while [ $i -lt 500 ]; do printf 'ä\\033' >&2; i=$((i+1)); done; exit 1").error.unwrap();
    assert!(long.starts_with("exit status 1: ä ä") && long.chars().count() == 200, "{long}");
}

/// In a process that gave nothing up itself, as `har probe` is one.
#[test]
fn a_command_has_no_capability_and_gains_none() {
    let mut check = script("cat /proc/self/status", &[]);
    check.expect = Some("(?s)CapPrm:\t0+\nCapEff:\t0+\n.*CapAmb:\t0+\nNoNewPrivs:\t1\n".into());
    let own = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().filter(|line| line.starts_with("Cap") || line.starts_with("NoNew")).collect::<String>()
    };
    let before = own();
    assert_eq!(exec(check, PLENTY).outcome, Outcome::Ok);
    assert_eq!(own(), before, "the thread of the command alone gives up");
}

#[test]
fn programs_that_cannot_be_started_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    for (program, error) in [
        ("/no/such/program", "/no/such/program cannot be started: no such file or directory"),
        ("no-such-program", "no-such-program cannot be started: no such file or directory"),
        (plain.to_str().unwrap(), "plain cannot be started: permission denied"),
    ] {
        let result = exec(ExecCheck { command: vec![program.to_owned()], ..script("", &[]) }, PLENTY);
        assert_eq!((result.outcome, result.status), (Outcome::OtherError, None));
        assert!(result.error.as_deref().unwrap().ends_with(error), "{result:?}");
    }
    let by_name = exec(ExecCheck { command: vec!["true".to_owned()], ..script("", &[]) }, PLENTY);
    assert_eq!(by_name.outcome, Outcome::Ok, "found in the usual folders");
}

#[test]
fn the_output_is_matched_up_to_64_kib() {
    let expect = |text: &str, pattern: &str| {
        let result = exec(ExecCheck { expect: Some(pattern.to_owned()), ..script(text, &[]) }, PLENTY);
        (result.outcome, result.error)
    };
    assert_eq!(expect("echo PONG; echo noise >&2", "^PONG$|^PONG\n"), (Outcome::Ok, None));
    assert_eq!(expect("printf '\\377ok'", "ok"), (Outcome::Ok, None));
    let (outcome, error) = expect("echo ERR; echo PONG >&2", "PONG");
    assert_eq!((outcome, &*error.unwrap()), (Outcome::ResponseError, "the output (4 bytes) does not match \"PONG\""));
    // 65536 bytes count, further ones are read and thrown away.
    let fill = "head -c 65536 /dev/zero | tr '\\0' x";
    assert_eq!(expect(&format!("{fill}; echo END"), "x{100}").0, Outcome::Ok);
    assert_eq!(expect(&format!("{fill}; echo END"), "END").0, Outcome::ResponseError);
    assert_eq!(expect("head -c 900000 /dev/zero; head -c 90000 /dev/zero >&2", "").0, Outcome::Ok);
    let (outcome, error) = expect("yes", "y");
    assert_eq!(outcome, Outcome::ResponseError);
    assert_eq!(*error.unwrap(), *"the command printed more than 1 MiB and was killed");
    assert_eq!(expect("exec yes >&2", "y").0, Outcome::ResponseError);
}

#[test]
fn a_priority_is_read_from_the_output() {
    let priority = |text: &str| {
        let check = ExecCheck { priority: Some("priority=(\\S+)".into()), ..script(&format!("echo '{text}'"), &[]) };
        let result = exec(check, PLENTY);
        (result.outcome, result.priority)
    };
    assert_eq!(priority("role=a priority=7"), (Outcome::Ok, Some(Some(7))));
    assert_eq!(priority("priority=0"), (Outcome::Ok, Some(Some(0))));
    assert_eq!(priority("role=a"), (Outcome::Ok, Some(None)), "not to be used");
    for text in ["priority=high", "priority=-1", "priority=65536", "priority=99999999999999999999"] {
        assert_eq!(priority(text), (Outcome::ResponseError, None), "{text}");
    }
    assert_eq!(said("echo priority=1").priority, None);
}

#[test]
fn a_command_gets_its_arguments_and_a_clean_environment() {
    let show = "for a in \"$@\"; do echo \"<$a>\"; done; env | sort; pwd; ls -l /proc/self/fd/0";
    let nasty = ["{address}", "a b;touch /x", "$(id) `id` * ~", "", "-{address}"];
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let text = format!("exec 3>{}; ({show}) >&3; echo >&3", out.display());
    assert_eq!(exec(script(&text, &nasty), PLENTY).outcome, Outcome::Ok);
    let shown = written(&out);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..5], ["<127.0.0.1>", "<a b;touch /x>", "<$(id) `id` * ~>", "<>", "<-127.0.0.1>"]);
    let environment: Vec<&str> = lines[5..].iter().copied().take_while(|line| line.contains('=')).collect();
    let own = ["HAR_ADDRESS=127.0.0.1", "HAR_HOST=one.example", "HAR_NAME=api.example"];
    assert_eq!(environment[..3], own, "{shown}");
    // The shell itself adds PWD, OLDPWD, SHLVL and _.
    assert!(
        environment[3..]
            .iter()
            .all(|line| ["PATH=", "PWD=", "OLDPWD=", "SHLVL=", "_="].iter().any(|own| line.starts_with(own))),
        "{shown}"
    );
    let rest = &lines[5 + environment.len()..];
    assert_eq!(rest[0], "/");
    assert!(rest[1].ends_with("-> /dev/null"), "{shown}");
}

#[test]
fn a_management_address_is_what_the_command_is_given() {
    let check =
        ExecCheck { expect: Some("^192.0.2.9 192.0.2.9\n$".into()), ..script("echo $1 $HAR_ADDRESS", &["{address}"]) };
    let managed = Check { address: Some([192, 0, 2, 9].into()), ..check_of(check) };
    assert_eq!(run(&managed, LOCAL).error, None);
}

fn check_of(check: ExecCheck) -> Check {
    super::check(CheckKind::Exec(check), PLENTY)
}

#[test]
fn the_deadline_holds_and_the_whole_group_is_killed() {
    // Long enough for a loaded machine to start a shell in.
    let limit = Duration::from_secs(1);
    let folder = tempfile::tempdir().unwrap();
    let case = &|number: usize, text: &str| {
        let file = folder.path().join(number.to_string());
        let result = exec(script(&format!("echo $$ >{}; {text}", file.display()), &[]), limit);
        assert_eq!(
            (result.outcome, result.silent, result.status),
            (Outcome::Timeout, false, None),
            "{text}: {result:?}"
        );
        assert!(result.total >= limit - Duration::from_millis(5));
        let error = result.error.unwrap();
        assert!(error.starts_with("the command took longer than 1s"), "{error}");
        assert_eq!(error.ends_with(": warming up"), number == 0, "{error}");
        until_gone(&written(&file));
    };
    let texts = [
        "echo warming up >&2; sleep 60",
        // Deaf to everything that can be ignored.
        "trap '' TERM INT HUP; while :; do sleep 1; done",
        // Silent and with its streams closed.
        "exec >&- 2>&-; sleep 60",
        // A helper holds the streams.
        "sleep 60 & wait",
        "while :; do echo dripping; sleep 0.01; done",
    ];
    thread::scope(|scope| {
        for (number, text) in texts.into_iter().enumerate() {
            scope.spawn(move || case(number, text));
        }
    });
}

#[test]
fn a_helper_that_stays_behind_neither_delays_nor_survives() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let text = format!("sleep 60 & echo $! >{}; echo ok", file.display());
    let result = exec(ExecCheck { expect: Some("ok".into()), ..script(&text, &[]) }, PLENTY);
    assert_eq!((result.outcome, result.error), (Outcome::Ok, None));
    assert!(result.total < PLENTY / 2, "{:?}", result.total);
    until_gone(&written(&file));
}

#[test]
fn one_that_leaves_the_group_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let text = format!("setsid sh -c 'echo $$ >{}; exec sleep 60' & sleep 60", file.display());
    assert_eq!(exec(script(&text, &[]), Duration::from_secs(2)).outcome, Outcome::Timeout);
    // It is out of reach: ended here, so that nothing of the test stays.
    let pid = written(&file).parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn no_child_stays_to_be_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    for text in ["exit 0", "sleep 60"] {
        exec(script(&format!("echo $$ >{}; {text}", file.display()), &[]), Duration::from_secs(2));
        let stat = PathBuf::from(format!("/proc/{}", written(&file)));
        let start = Instant::now();
        while stat.exists() {
            assert!(start.elapsed() < PLENTY, "{text}: a zombie stays");
            thread::sleep(Duration::from_millis(5));
        }
        std::fs::remove_file(&file).unwrap();
    }
}
