//! Files of the configuration that not everybody may read: what that means to who looks, and to who runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::Path;

use crate::harness::daemon::NOBODY;
use crate::harness::{Har, har, is_root, skip};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]\n";

/// Changes a mode; for root alone, whom no mode keeps out.
fn close(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("own file");
}

/// A daemon with an included file and a key in files of their own.
fn start() -> Har {
    let mut har = har().names(NAMES).prepare();
    let text = fs::read_to_string(har.config_path()).expect("own file");
    fs::write(har.config_path(), format!("include = [\"part.toml\"]\n{text}")).expect("own folder");
    let check = "{ type = \"https\", url = \"https://{host}/\", client_cert = \"c.pem\", client_key = \"k.pem\" }";
    let part = format!("[names.\"tls.example\"]\ncheck = {check}\ncandidates = [\"127.0.0.2\"]\n");
    for (file, text) in [("part.toml", part.as_str()), ("c.pem", ""), ("k.pem", "")] {
        fs::write(har.folder().join(file), text).expect("own folder");
    }
    har.start();
    har.until_sql("SELECT count(*) FROM name", |count| count == "2");
    har
}

#[test]
fn what_only_checks_read_is_not_asked_of_who_looks() {
    if !is_root() {
        return skip("needs root: another user");
    }
    let har = start();
    close(&har.folder().join("k.pem"), 0o600);
    for arguments in [&["status"][..], &["explain", "tls.example"], &["metrics"], &["overrides"]] {
        let ran = har.run_as_nobody(arguments);
        assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
    }
    let ran = har.run_as_nobody(&["status", "--check", "api.example"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "OK: everything up for 1 name\n"), "{ran:?}");
    let doctor = har.run_as_nobody(&["doctor"]).out;
    assert!(!doctor.contains("k.pem") && doctor.contains("valid, with 2 names"), "{doctor}");
    // Whether the daemon could run is another question: who asks it is told.
    let ran = har.run_as_nobody(&["check-config"]);
    assert!(ran.code == 2 && ran.err.contains("k.pem: Permission denied"), "{ran:?}");
    assert!(ran.err.ends_with("1 problem, in what this user may not read\n"), "{ran:?}");
}

#[test]
fn a_file_that_this_user_may_not_read_is_no_invalid_configuration() {
    if !is_root() {
        return skip("needs root: another user");
    }
    let har = start();
    let state = har.state_path().display().to_string();
    for (file, mode) in [("part.toml", 0o600), ("har.toml", 0o640)] {
        close(&har.folder().join(file), mode);
        let ran = har.run_as_nobody(&["status", "--check", "api.example", "--state", &state]);
        assert_eq!(ran.code, 0, "{ran:?}");
        if file == "part.toml" {
            let ran = har.run_as_nobody(&["status", "--check", "api.example"]);
            assert_eq!((ran.code, ran.out.as_str()), (0, "OK: everything up for 1 name\n"), "{ran:?}");
            let ran = har.run_as_nobody(&["status"]);
            assert!(
                ran.code == 0 && ran.err.starts_with("har: the configuration is not this user's to read ("),
                "{ran:?}"
            );
        } else {
            // It alone says where this state file is.
            let ran = har.run_as_nobody(&["status", "--check", "api.example"]);
            assert!(ran.code == 3 && ran.out.contains("har.toml") && ran.out.contains("--state"), "{ran:?}");
        }
        let ran = har.run_as_nobody(&["doctor"]);
        assert!(ran.out.contains("this user may not read it") && !ran.out.contains("har does not start"), "{ran:?}");
        close(&har.folder().join(file), 0o644);
    }
}

#[test]
fn root_is_told_what_the_user_of_the_daemon_may_not_read() {
    if !is_root() {
        return skip("needs root: another user");
    }
    // By the name that is stated, and by whose the state folder is.
    for stated in [true, false] {
        let user = if stated { "user = \"nobody\"" } else { "" };
        let har = har().server(user).names(NAMES).prepare();
        let part = har.folder().join("conf.d/part.toml");
        let state = har.folder().join("state");
        for folder in [part.parent().expect("below"), state.as_path()] {
            fs::create_dir_all(folder).expect("own folder");
        }
        chown(&state, Some(NOBODY), None).expect("root may");
        let text = fs::read_to_string(har.config_path()).expect("own file");
        fs::write(har.config_path(), format!("include = [\"conf.d/*.toml\"]\n{text}")).expect("own folder");
        fs::write(&part, "").expect("own folder");
        let told = || {
            let (out, shown) = (har.run(&["check-config"]).ok(), part.display().to_string());
            out.lines().find(|line| line.starts_with(&format!("warning: {shown}: "))).map(str::to_owned)
        };
        let doctor = || har.run(&["doctor", "--json"]).out.contains("\"config-unreadable\"");
        assert_eq!((told(), doctor()), (None, false));
        close(&part, 0o640);
        let line = told().expect("a warning");
        let (how, mend) =
            if stated { ("nobody (server.user)", "; chgrp ") } else { ("whose the state folder is", "; chgrp ") };
        assert!(
            line.contains(how) && line.contains(mend) && line.ends_with(&format!("; chmod 640 {}", part.display()))
        );
        assert!(doctor());
        close(&part, 0o644);
        close(part.parent().expect("below"), 0o700);
        let line = told().expect("a warning");
        assert!(line.contains(&format!("let nobody pass {}/conf.d (chmod o+x)", har.folder().display())), "{line}");
        close(part.parent().expect("below"), 0o755);
        assert_eq!((told(), doctor()), (None, false), "mended");
    }
}

#[test]
fn a_user_who_does_not_exist_is_told_of_before_the_start() {
    let har = har().server("user = \"har-no-such-user\"").names(NAMES).prepare();
    let out = har.run(&["check-config"]).ok();
    assert!(
        out.contains("warning: ") && out.contains("\"har-no-such-user\" does not exist on this host; create"),
        "{out}"
    );
    let out = har.run(&["doctor"]).out;
    assert!(out.contains("problem: ") && out.contains("\"har-no-such-user\" does not exist on this host\n"), "{out}");
}
