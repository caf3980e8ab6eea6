//! Started as root, har binds port 53, becomes another user and keeps one capability.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::harness::{har, is_root, namespace, skip};

/// `nobody` on every distribution that matters.
const NOBODY: u32 = 65_534;

/// Bit 10 of a capability set.
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;

#[test]
fn it_becomes_the_user_and_keeps_the_right_to_bind_alone() {
    if !is_root() {
        return skip("needs root: changing to another user");
    }
    namespace::inside(&[], || {
        let mut har = har()
            .port(53)
            .server("user = \"nobody\"")
            .names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]")
            .prepare();
        let state = har.folder().join("state");
        fs::create_dir(&state).unwrap();
        chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
        har.start();
        assert_eq!(har.a("api.example"), "192.0.2.7");
        let status = fs::read_to_string(format!("/proc/{}/status", har.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says");
            line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(field("Uid"), [const { "65534" }; 4], "{status}");
        assert_ne!(field("Gid")[0], "0", "{status}");
        assert!(!field("Groups").contains(&"0".to_owned()), "{status}");
        let set = |name| u64::from_str_radix(&field(name)[0], 16).unwrap();
        assert_eq!(set("CapEff"), CAP_NET_BIND_SERVICE, "{status}");
        assert_eq!(set("CapPrm"), CAP_NET_BIND_SERVICE, "{status}");
        assert_eq!(set("CapAmb"), 0, "not passed on to children\n{status}");
        // The state file is written after the change of user.
        har.until_sql("SELECT count(*) FROM ranking", |count| count != "0");
        assert!(har.stop().success());
        assert!(!har.log().contains("server.user"), "{}", har.log());
    });
}

#[test]
fn a_daemon_that_stays_root_says_so_once() {
    if !is_root() {
        return skip("needs root: not giving it up");
    }
    let mut har = har().prepare();
    har.start();
    assert!(har.stop().success());
    assert_eq!(har.log().matches("server.user").count(), 1, "{}", har.log());
}

#[test]
fn a_file_that_the_user_cannot_read_is_named_at_start() {
    if !is_root() {
        return skip("needs root: changing to another user");
    }
    let mut har = har()
        .server("user = \"nobody\"")
        .names("[names.\"api.example\"]\ncheck = { type = \"http\", url = \"https://{host}/\", ca_file = \"ca.pem\" }\ncandidates = [\"127.0.0.2\"]")
        .prepare();
    crate::harness::Authority::new().write(&har.folder().join("ca.pem"));
    fs::set_permissions(har.folder().join("ca.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    har.spawn();
    assert_eq!(har.ended().code(), Some(1));
    assert!(har.log().contains("ca.pem") && har.log().contains("nobody"), "{}", har.log());
}

#[test]
fn an_unknown_user_is_named() {
    if !is_root() {
        return skip("needs root: changing to another user");
    }
    let mut har = har().server("user = \"no-such-user\"").prepare();
    har.spawn();
    let code = har.ended().code();
    assert!(matches!(code, Some(1 | 2)), "{code:?}");
    assert!(har.log().contains("no-such-user"), "{}", har.log());
}
