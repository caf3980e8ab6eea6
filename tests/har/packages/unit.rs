//! The unit under a real systemd: rights, reload, watchdog, credentials, checks that need more.

use super::{ELSEWHERE, answer, configure, on_a_machine, until_answered};
use crate::harness::machine::Machine;

/// Installs the package and one of the drop-ins that come with it.
fn install(machine: &Machine, drop_in: &str) {
    machine.sh(
        "dpkg -i --path-include='/usr/share/doc/*' /run/share/har-0.1.0.deb; mkdir -p /etc/systemd/system/har.service.d",
    );
    if !drop_in.is_empty() {
        machine
            .sh(&format!("cp /usr/share/doc/har/packaging/har.service.d/{drop_in} /etc/systemd/system/har.service.d/"));
    }
    machine.sh("systemctl daemon-reload");
}

#[test]
fn har_runs_with_one_capability_and_a_reload_is_checked_first() {
    on_a_machine(&["dpkg"], |machine, _upstream| {
        install(machine, "");
        machine.sh("systemctl start har.service");
        let uid = machine.sh("id -u har");
        assert!(machine.status("Uid").split_whitespace().all(|id| id == uid));
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(u64::from_str_radix(&machine.status(set), 16), Ok(1 << 10), "{set}");
        }
        assert_eq!(machine.status("CapAmb").trim_start_matches('0'), "", "not for children");
        assert_eq!((machine.status("NoNewPrivs").as_str(), machine.status("Seccomp").as_str()), ("1", "2"));
        let pid = machine.pid();
        // Said, where the kernel lets nobody do it here.
        assert_eq!(machine.sh("systemctl show -p OOMScoreAdjust --value har.service"), "-900");
        assert_eq!(machine.sh("stat -c '%U %a' /var/lib/har"), "har 755");
        machine.sh("systemctl show -p Before,After har.service | grep '^Before=.*nss-lookup.target'");
        assert!(!machine.sh("systemctl show -p After har.service").contains("network-online"));

        configure(machine, "api.example.com", "192.0.2.7");
        machine.sh("systemctl reload har.service");
        until_answered("api.example.com", "192.0.2.7");
        machine.sh("echo nonsense >/etc/har/conf.d/bad.toml");
        let refused = machine.run("systemctl reload har.service");
        assert!(!refused.success, "{}", refused.text);
        machine.until("the reason is told", "journalctl --no-pager --unit=har.service | grep -q bad.toml");
        assert_eq!(machine.pid(), pid);
        until_answered("api.example.com", "192.0.2.7");
    });
}

#[test]
fn a_state_file_elsewhere_needs_a_line_in_a_drop_in_and_is_told_so() {
    on_a_machine(&["dpkg"], |machine, _upstream| {
        install(machine, "");
        machine.sh("install -d -o har /srv/har; printf '[server]\\nstate = \"/srv/har/har.db\"\\n' >/etc/har/har.toml");
        assert!(!machine.run("systemctl start har.service").success);
        machine.until("the mend", "journalctl --unit=har.service | grep -q 'ReadWritePaths=/srv/har'");
        machine.sh("printf '[Service]\\nReadWritePaths=/srv/har\\n' >/etc/systemd/system/har.service.d/state.conf
            systemctl stop har.service; systemctl daemon-reload; systemctl start har.service; test -e /srv/har/har.db");
    });
}

#[test]
fn a_daemon_that_hangs_is_replaced() {
    on_a_machine(&["dpkg"], |machine, _upstream| {
        install(machine, "");
        // As in the unit, only sooner.
        machine.sh(
            "printf '[Service]\\nWatchdogSec=4s\\nTimeoutAbortSec=1s\\n' >/etc/systemd/system/har.service.d/soon.conf",
        );
        machine.sh("systemctl daemon-reload; systemctl start har.service");
        let pid = machine.pid();
        machine.sh(&format!("kill -STOP {pid}"));
        machine.until(
            "another process",
            &format!("pid=$(systemctl show -p MainPID --value har.service); test \"$pid\" != 0 -a \"$pid\" != {pid}"),
        );
        until_answered(ELSEWHERE, "198.51.100.7");
        machine.until("the reason in the log", "journalctl --unit=har.service | grep -q 'Watchdog timeout'");
    });
}

#[test]
fn a_password_comes_as_a_credential() {
    on_a_machine(&["dpkg", "redis-server", "redis-cli"], |machine, _upstream| {
        install(machine, "credentials.conf");
        machine.sh(
            "systemd-run --quiet --unit=redis redis-server --bind 127.0.0.2 --port 6390 --requirepass hush --save ''",
        );
        machine.until("redis answers", "redis-cli -h 127.0.0.2 -p 6390 -a hush --no-auth-warning ping | grep -q PONG");
        machine.sh("umask 077; echo hush >/etc/har/redis.secret; umask 022; mkdir -p /etc/har/conf.d
            cat >/etc/har/conf.d/cache.toml <<'X'
[names.\"cache.example.com\"]
candidates = [\"127.0.0.2\", \"192.0.2.9\"]
interval = \"200ms\"
check = { type = \"redis\", port = 6390, role = \"master\", password_file = \"/run/credentials/har.service/redis\" }
X");
        machine.sh("systemctl start har.service; test \"$(stat -c %a /etc/har/redis.secret)\" = 600");
        machine.until(
            "a check that logs in",
            "har status cache.example.com --json | tr -d ' \\n' | grep -q '\"state\":\"up\"'",
        );
        until_answered("cache.example.com", "127.0.0.2");
        machine.sh("systemctl reload har.service");
        let other = machine.run("setpriv --reuid=nobody --clear-groups cat /run/credentials/har.service/redis");
        assert!(!other.success, "nobody else reads it: {}", other.text);
        let probed = machine.sh("har probe cache.example.com");
        assert!(probed.contains("127.0.0.2") && !probed.contains("password_file"), "root's does: {probed}");
    });
}

#[test]
fn checks_that_need_more_get_it_by_the_drop_in() {
    on_a_machine(&["dpkg", "python3"], |machine, _upstream| {
        install(machine, "");
        machine.sh("mkdir -p /etc/har/conf.d /opt/checks
            cat >/opt/checks/load <<'X'
#!/usr/bin/python3
import mmap, os
open('/proc/loadavg').read()
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
os.setpriority(os.PRIO_PROCESS, 0, 5)
open('/var/lib/har-checks/seen', 'w').write('yes')
print('ok')
X
            chmod 755 /opt/checks/load
            cat >/etc/har/conf.d/queue.toml <<'X'
[names.\"queue.example.com\"]
candidates = [\"127.0.0.2\"]
interval = \"3s\"
fast_interval = \"500ms\"
timeout = \"3s\"
check = { type = \"exec\", command = [\"/opt/checks/load\"], expect = \"^ok\" }
X");
        let state = |state: &str| {
            format!("har status queue.example.com --json | tr -d ' \\n' | grep -q '\"state\":\"{state}\"'")
        };
        machine.sh("systemctl start har.service");
        machine.until("the check fails under the unit's rules", &state("down"));
        install(machine, "exec-checks.conf");
        machine.sh("systemctl restart har.service");
        machine.until("the check passes with the drop-in", &state("up"));
        assert_eq!(machine.sh("stat -c %U /var/lib/har-checks/seen"), "har");
        assert_eq!(answer("queue.example.com").as_deref(), Some("127.0.0.2"));
    });
}
