//! The host's own programs, in a network and mount namespace with har on port 53 as the only name server.

use std::process::Command;

use hickory_proto::op::ResponseCode;

use crate::harness::{Backend, Har, Upstream, har, namespace, wait_for};

/// What a program printed.
fn output(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A configured name with servers on .2 and .3, and a forwarded one with a server on .4.
fn start() -> (Har, Vec<Backend>, Upstream) {
    let backends = Backend::group(&[("127.0.0.2", 60), ("127.0.0.3", 1), ("127.0.0.4", 1)]);
    let upstream = Upstream::start();
    upstream.addresses("plain.example", &["127.0.0.4"]);
    let names = format!(
        "[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\n\
         candidates = [\"127.0.0.2\", \"127.0.0.3\"]\ninterval = \"1s\"",
        backends[0].port()
    );
    let har = har().port(53).upstream(&[&upstream]).names(&names).start();
    har.until_a("api.example", "127.0.0.3");
    (har, backends, upstream)
}

#[test]
fn getent_resolves_a_configured_and_a_forwarded_name() {
    namespace::inside(&["getent"], || {
        let (_har, _backends, _upstream) = start();
        for (name, address) in [("api.example", "127.0.0.3"), ("plain.example", "127.0.0.4")] {
            let text = output(Command::new("getent").args(["ahosts", name]));
            assert!(text.lines().all(|line| line.starts_with(address)) && !text.is_empty(), "{name}: {text}");
        }
    });
}

#[test]
fn curl_reaches_a_configured_and_a_forwarded_name() {
    namespace::inside(&["curl"], || {
        let (_har, backends, _upstream) = start();
        let port = backends[0].port();
        for (name, server) in [("api.example", &backends[1]), ("plain.example", &backends[2])] {
            let url = format!("http://{name}:{port}/by-curl");
            output(Command::new("curl").args(["--silent", "--fail", "--noproxy", "*", "--max-time", "15", &url]));
            let asked = server.requests().into_iter().filter(|request| request.line.contains("/by-curl"));
            assert_eq!(asked.map(|request| request.host).collect::<Vec<_>>(), [format!("{name}:{port}")]);
        }
    });
}

#[test]
fn dig_sees_a_clean_answer_over_udp_and_tcp() {
    namespace::inside(&["dig"], || {
        let (_har, _backends, _upstream) = start();
        for transport in ["+notcp", "+tcp"] {
            let text = output(Command::new("dig").args(["api.example", "A", transport]));
            for part in ["status: NOERROR", "flags: qr aa rd ra;", "api.example.\t\t1\tIN\tA\t127.0.0.3"] {
                assert!(text.contains(part), "{transport}: {part:?} in\n{text}");
            }
            assert!(!text.contains("WARNING") && !text.contains("Warning"), "{transport}:\n{text}");
        }
    });
}

#[test]
fn without_an_upstream_configured_names_go_on_until_one_is_there() {
    namespace::inside(&[], || {
        let upstream = Upstream::start_at("127.0.0.77:53");
        upstream.addresses("late.example", &["198.51.100.10"]);
        let har = har()
            .port(53)
            .upstream_lines("resolv_conf = \"resolv.conf\"")
            .names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]")
            .start();
        assert_eq!(har.a("api.example"), "192.0.2.7");
        assert_eq!(har.query("late.example", "A").rcode(), ResponseCode::ServFail);
        // har's own listener in the file is no upstream.
        let file = har.folder().join("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.0.1\nnameserver 127.0.0.77\n").unwrap();
        har.until_a("late.example", "198.51.100.10");
        // An emptied file keeps the last servers.
        std::fs::write(&file, "").unwrap();
        let stay = upstream.seen("late.example").len();
        wait_for("more answers", || {
            assert_eq!(har.a("late.example"), "198.51.100.10");
            (upstream.seen("late.example").len() > stay + 20).then_some(())
        });
    });
}

#[test]
fn the_default_listeners_are_port_53_of_both_families() {
    namespace::inside(&[], || {
        let mut har =
            har().port(53).names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]").prepare();
        let text = std::fs::read_to_string(har.config_path()).expect("own folder");
        let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("listen")).collect();
        std::fs::write(har.config_path(), without.join("\n")).unwrap();
        har.start();
        assert_eq!(har.a("api.example"), "192.0.2.7");
        let text = std::fs::read_to_string("/proc/net/udp6").unwrap();
        assert!(text.contains("00000000000000000000000001000000:0035"), "::1 too:\n{text}");
    });
}

/// Replaces the line of the configuration that says where to listen.
fn listen(har: &Har, line: &str) {
    let text = std::fs::read_to_string(har.config_path()).expect("own file");
    let lines: Vec<&str> = text.lines().map(|old| if old.starts_with("listen") { line } else { old }).collect();
    std::fs::write(har.config_path(), lines.join("\n")).expect("own file");
}

#[test]
fn a_missing_ipv6_loopback_is_a_warning() {
    namespace::inside(&["sysctl"], || {
        output(Command::new("sysctl").args(["-w", "net.ipv6.conf.all.disable_ipv6=1"]));
        // Left out, or stated as it is by default.
        for lines in ["", "listen = [\"127.0.0.1:53\", \"[::1]:53\"]"] {
            let names = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]";
            let mut har = har().port(53).names(names).prepare();
            listen(&har, lines);
            har.start();
            assert_eq!(har.a("api.example"), "192.0.2.7");
            har.until_log("::1");
        }
        let mut har = har().port(53).prepare();
        listen(&har, "listen = [\"[::1]:53\"]");
        har.spawn();
        assert_eq!(har.ended().code(), Some(1));
        assert!(har.log().contains("cannot listen on [::1]:53 (UDP): this host has no such address"), "{}", har.log());
    });
}
