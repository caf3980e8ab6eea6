//! The keys of `tls` and `exec` checks.

use super::*;

const TWO: &str = "candidates = [\"one.example\", \"2001:db8::7\"]\n";

fn kinds(text: &str) -> Vec<CheckKind> {
    let config = good(&format!("{A}{TWO}{text}"));
    config.names[0].candidates.iter().map(|candidate| candidate.checks[0].kind.clone()).collect()
}

fn tls(kind: &CheckKind) -> &TlsCheck {
    let CheckKind::Tls(tls) = kind else { panic!("{kind:?}") };
    tls
}

fn exec(kind: &CheckKind) -> &ExecCheck {
    let CheckKind::Exec(exec) = kind else { panic!("{kind:?}") };
    exec
}

#[test]
fn tls_checks_expect_the_candidates_own_name() {
    for text in ["check = \"tls:8443\"", "check = { type = \"tls\", port = 8443 }"] {
        let kinds = kinds(text);
        let names: Vec<_> = kinds.iter().map(|kind| tls(kind).server_name.as_deref().unwrap()).collect();
        assert_eq!(names, ["one.example", "2001:db8::7"]);
        let trust = Trust { verify: true, ca_file: None, client: None };
        assert_eq!((tls(&kinds[0]).port, tls(&kinds[0]).min_days_left, &tls(&kinds[0]).trust), (8443, 0, &trust));
    }
    let named = |name: &str| {
        let kinds =
            kinds(&format!("check = {{ type = \"tls\", port = 1, server_name = \"{name}\", min_days_left = 21 }}"));
        assert_eq!(tls(&kinds[0]).min_days_left, 21);
        tls(&kinds[0]).server_name.clone()
    };
    assert_eq!(named("www.{name}").as_deref(), Some("www.a.example"));
    assert_eq!(named("Bücher.example").as_deref(), Some("xn--bcher-kva.example"));
    assert_eq!(named("{address}"), None);
    for (line, message) in [
        ("port = 1, server_name = \"a b\"", "server_name: its host \"a b\" is neither a host name nor an address"),
        ("port = 1, server_name = \"{hots}\"", "{hots} is unknown"),
        ("port = 1, server_name = \"x{address}\"", "a host name, {host}, {name} or {address} alone"),
        ("port = 1, server_name = \"\"", "server_name"),
        ("port = 1, min_days_left = -1", "a whole number from 0 to 36500"),
        ("port = 1, client_cert = \"har.toml\"", "client_cert and client_key belong together"),
        ("server_name = \"x\"", "port is missing; a check of type \"tls\" needs one"),
        ("port = 0", "a whole number from 1 to 65535"),
    ] {
        let problems = bad(&format!("{A}{TWO}check = {{ type = \"tls\", {line} }}"));
        assert!(problems[0].contains(message), "{line}: {problems:?}");
    }
    assert!(bad(&format!("{A}{TWO}check = \"tls:0\""))[0].contains("allowed: tls:PORT with a port from 1 to 65535"));
}

#[test]
fn exec_checks_fill_in_within_one_argument() {
    let kinds = kinds(
        "check = { type = \"exec\", command = [\"true\", \"--host={host}\", \"a b {name}\", \"{address}\", \"$(id);\"], \
         expect = \"ok\", priority = \"p=(\\\\d+)\" }",
    );
    let command = ["true", "--host=one.example", "a b a.example", "{address}", "$(id);"];
    assert_eq!(exec(&kinds[0]).command, command);
    assert_eq!(exec(&kinds[1]).command[1], "--host=2001:db8::7");
    assert_eq!((exec(&kinds[0]).name.as_str(), exec(&kinds[0]).host.as_str()), ("a.example", "one.example"));
    assert_eq!(exec(&kinds[0]).expect.as_deref(), Some("ok"));
    assert_eq!(exec(&kinds[0]).priority.as_deref(), Some("p=(\\d+)"));
}

#[test]
fn a_host_cannot_become_an_option() {
    // Host names may begin with a hyphen, which DNS allows.
    let name = |argument: &str| {
        format!("{A}candidates = [\"-rf.example\"]\ncheck = {{ type = \"exec\", command = [\"rm\", \"{argument}\"] }}")
    };
    let problems = bad(&name("{host}"));
    assert_eq!(
        problems[0],
        "3:9 names.\"a.example\".check: for the candidate -rf.example: argument 1 would begin with \"-\" and be taken for an option"
    );
    let config = good(&name("-H{host}"));
    assert_eq!(exec(&config.names[0].candidates[0].checks[0].kind).command[1], "-H-rf.example");
}

#[test]
fn exec_checks_that_cannot_be() {
    for (line, message) in [
        ("expect = \"x\"", "check: command is missing; a check of type \"exec\" needs one"),
        ("command = []", "command: found 0 texts; allowed: a list of texts, the program first"),
        ("command = \"ls -l\"", "command: found \"ls -l\"; allowed: a list of texts"),
        ("command = [\"ls\", 5]", "command[2]: not a text"),
        ("command = [\"\"]", "command[1]: the program has no name"),
        ("command = [\"/bin/{host}\"]", "command[1]: the program is fixed"),
        ("command = [\"ls\", \"{hots}\"]", "command[2]: {hots} is unknown"),
        ("command = [\"ls\", \"{port}\"]", "command[2]: {port} means nothing here"),
        ("command = [\"ls\", \"a\\u0000b\"]", "command[2]: it holds a NUL character"),
        ("command = [\"ls\"], expect = \"(\"", "expect: not a regular expression"),
        ("command = [\"ls\"], priority = \"x\"", "priority: it has 0 groups; allowed: one"),
        ("command = [\"ls\"], priority = \"(x)(y)\"", "priority: it has 2 groups; allowed: one"),
        ("command = [\"ls\"], source = \"192.0.2.1\"", "source means nothing here"),
        ("command = [\"ls\"], port = 1", "port: unknown key"),
    ] {
        let problems = bad(&format!("{A}{TWO}check = {{ type = \"exec\", {line} }}"));
        assert!(problems.iter().any(|problem| problem.contains(message)), "{line}: {problems:?}");
    }
    assert!(bad(&format!("{A}{TWO}check = \"exec:ls\""))[0].contains("a table with a type"));
}

#[test]
fn arguments_are_in_no_error() {
    for check in [
        "{ type = \"exec\", command = [\"/bin/x\", \"--pass=hunter2\"], expect = 5 }",
        "{ type = \"exec\", expect = 5, command = [\n\"/bin/x\",\n\"hunter2\", \"\\u0000\"\n] }",
        "{ type = \"exec\", command = [\n\"/bin/x\",\n\"hunter2\" \"x\"\n] }",
        "{ type = \"exec\", command = [\n\"/bin/x\",\n\"hunter2\"], timeout = 5 }",
        "{ type = \"exec\", command = [\"/bin/x\", \"{host}hunter2\"] }",
    ] {
        let text = format!("{A}candidates = [\"-one.example\"]\ncheck = {check}\n");
        let report = Folder::new(&text).load().unwrap_err().to_string();
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn programs_that_are_not_there_are_warned_of() {
    let folder = Folder::new(&format!("{A}{TWO}check = {{ type = \"exec\", command = [\"bin/check\"] }}"));
    let warnings = |folder: &Folder| {
        let config = folder.load().unwrap();
        let program = exec(&config.names[0].candidates[0].checks[0].kind).command[0].clone();
        assert_eq!(program, folder.path("bin/check").to_str().unwrap(), "relative to the file");
        config.warnings.iter().map(|warning| warning.message.clone()).collect::<Vec<_>>()
    };
    assert!(warnings(&folder)[0].ends_with("bin/check cannot be started: No such file or directory (os error 2)"));
    folder.put("bin/check", "");
    assert!(warnings(&folder)[0].ends_with("it is not executable (chmod +x)"));
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder.path("bin/check"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(warnings(&folder), [""; 0]);
}

#[test]
fn definitions_tell_secrets_apart_and_show_none() {
    let words = |check: &str| {
        let check = good(&format!("{A}candidates = [\"one.example\"]\ncheck = {check}")).names[0].candidates[0].checks
            [0]
        .clone();
        let words = check.definition();
        assert!(!words.contains("s3cret") && !words.contains("sesame"), "{words}");
        words
    };
    for check in [
        "\"http://{host}/x?key=s3cret\"",
        "{ type = \"http\", url = \"http://{host}/x\", headers = { Authorization = \"s3cret\" } }",
        "{ type = \"tcp\", port = 1, send = \"s3cret\" }",
    ] {
        assert_eq!(words(check), words(check));
        assert_ne!(words(check), words(&check.replace("s3cret", "sesame")));
    }
    assert_eq!(words("\"http://me:s3cret@{host}/\""), "GET http://one.example/", "a new password is no new check");
}

#[test]
fn definitions_show_no_argument_and_tell_commands_apart() {
    let words = |arguments: &str| {
        let text = format!(
            "{A}candidates = [\"one.example\"]\ncheck = {{ type = \"exec\", command = [\"curl\", {arguments}], expect = \"ok\" }}"
        );
        let check = good(&text).names[0].candidates[0].checks[0].clone();
        assert!(!format!("{check:?}").contains("s3cret"), "{check:?}");
        check.definition()
    };
    let one = words("\"-u\", \"s3cret\"");
    assert!(one.starts_with("exec curl 2 arguments #") && one.ends_with(" expect=\"ok\""), "{one}");
    assert_eq!(one, words("\"-u\", \"s3cret\""));
    assert_ne!(one, words("\"-u\", \"other\""));
    let check =
        &good(&format!("{A}candidates = [\"one.example\"]\ncheck = {{ type = \"tls\", port = 443, verify = false }}"))
            .names[0]
            .candidates[0]
            .checks[0];
    assert_eq!(check.definition(), "tls:443 server_name=one.example verify=false");
}
