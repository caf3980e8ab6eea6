//! The .rpm: install, upgrade, erase.

use super::{ELSEWHERE, answer, configure, has_what_is_to_be_copied, on_a_machine};

/// Packages that it asks for have other names here, and Debian's rpm asks whether one means it.
const RPM: &str = "rpm --force-debian --nodeps";

#[test]
fn an_rpm_is_installed_upgraded_and_erased() {
    on_a_machine(&["rpm"], |machine, _upstream| {
        // Where no preset names a unit, systemd takes it for one to be enabled.
        machine.sh(&format!("{RPM} -i /run/share/har-0.1.0.rpm"));
        assert_eq!(machine.sh("rpm -q --configfiles har"), "/etc/har/har.toml");
        let files = machine.sh("rpm -ql har");
        assert!(files.contains("/usr/share/man/man5/har.toml.5"));
        has_what_is_to_be_copied(&files);
        assert_eq!(machine.run("systemctl is-active har.service").text.trim(), "inactive");
        let enabled = machine.run("systemctl is-enabled har.service har.socket").text;
        assert_eq!(enabled.trim(), "disabled\ndisabled");
        assert_eq!(machine.sh("stat -c '%U %a' /var/lib/har"), "har 755");

        machine.sh("systemctl enable --now har.service 2>&1; echo '# mine' >>/etc/har/har.toml");
        assert_eq!(answer(ELSEWHERE).as_deref(), Some("198.51.100.7"));
        let before = machine.pid();
        machine.sh(&format!("{RPM} -U /run/share/har-0.2.0.rpm"));
        assert_eq!(machine.sh("rpm -q --qf '%{VERSION}' har"), "0.2.0");
        assert_ne!(machine.pid(), before, "restarted");
        assert_eq!(machine.sh("systemctl is-active har.service; systemctl is-enabled har.service"), "active\nenabled");
        assert_eq!(answer(ELSEWHERE).as_deref(), Some("198.51.100.7"));
        machine.sh("tail -n 1 /etc/har/har.toml | grep -q mine");

        // Root can read it, har cannot.
        let before = machine.pid();
        configure(machine, "api.example.com", "192.0.2.7");
        machine.sh("chmod 600 /etc/har/conf.d/*.toml");
        let text = machine.sh(&format!("{RPM} -U --oldpackage /run/share/har-0.1.0.rpm 2>&1"));
        assert!(text.contains("Permission denied") && text.contains("the running daemon goes on"), "{text}");
        assert_eq!(machine.pid(), before);
        assert_eq!(answer(ELSEWHERE).as_deref(), Some("198.51.100.7"));

        machine.sh(&format!("{RPM} -e har"));
        assert_eq!(machine.run("systemctl is-active har.service").text.trim(), "inactive");
        machine.sh("test ! -e /usr/bin/har; test -s /var/lib/har/har.db; grep -q mine /etc/har/har.toml.rpmsave");
        machine.sh("test ! -e /etc/systemd/system/multi-user.target.wants/har.service");
        assert_eq!(machine.sh("cat /etc/resolv.conf"), "nameserver 127.0.0.9");

        machine.sh(
            "mkdir -p /etc/systemd/system-preset; echo 'enable har.service' >/etc/systemd/system-preset/50-site.preset",
        );
        machine.sh(&format!("{RPM} -i /run/share/har-0.2.0.rpm"));
        let enabled = machine.run("systemctl is-enabled har.service har.socket").text;
        assert_eq!(enabled.trim(), "enabled\ndisabled", "as the site's preset says");
    });
}
