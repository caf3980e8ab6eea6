//! The ready-made files in packaging/integration are what the doctor is content with.

use super::*;

#[test]
fn the_ready_made_files_satisfy_the_doctor() {
    let host = Host::sound();
    host.process(201, "NetworkManager")
        .process(202, "dhclient")
        .process(203, "nscd")
        .put("sbin/resolvconf", "")
        .put("usr/bin/dockerd", "")
        .put("usr/bin/podman", "")
        .put("etc/resolv.conf", include_str!("../../../../packaging/integration/resolv.conf"))
        .put(
            "etc/NetworkManager/conf.d/har.conf",
            include_str!("../../../../packaging/integration/NetworkManager.conf"),
        )
        .put("etc/dhcp/dhclient-enter-hooks.d/har", include_str!("../../../../packaging/integration/dhclient-hook"))
        .put("etc/nscd.conf", include_str!("../../../../packaging/integration/nscd.conf"))
        .put("etc/resolvconf.conf", include_str!("../../../../packaging/integration/resolvconf.conf"))
        .put("etc/cloud/cloud.cfg.d/99-har.cfg", include_str!("../../../../packaging/integration/cloud-init.cfg"))
        .put("etc/docker/daemon.json", include_str!("../../../../packaging/integration/docker-daemon.json"))
        .put("etc/containers/containers.conf", include_str!("../../../../packaging/integration/containers.conf"))
        .put(
            "usr/lib/jvm/j/conf/security/java.security",
            include_str!("../../../../packaging/integration/java.security"),
        )
        .put("run/systemd/resolve/resolv.conf", "nameserver 10.0.0.2\n")
        .put("var/lib/kubelet/config.yaml", include_str!("../../../../packaging/integration/kubelet.yaml"));
    assert_eq!(found(&host.facts()), [""; 0]);
    let good: Vec<&str> = diagnose(&host.facts()).iter().map(|finding| finding.id).collect();
    for id in ["docker-dns", "podman-dns", "java-cache", "nscd-hosts", "kubelet-resolv-conf"] {
        assert!(good.contains(&id), "{id} in {good:?}");
    }
}

#[test]
fn systemd_resolved_in_front_by_the_ready_made_file_is_sound() {
    let host = Host::sound();
    host.process(204, "systemd-resolve")
        .link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        .put("run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n")
        .put("run/systemd/resolve/resolv.conf", "nameserver 127.0.0.1\nnameserver 10.0.0.2\n")
        .put("etc/nsswitch.conf", "hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n")
        .put("etc/har/har.toml", &CONFIG.replace("servers = [\"10.0.0.2\"]", ""))
        .put(
            "etc/systemd/resolved.conf.d/har.conf",
            include_str!("../../../../packaging/integration/systemd-resolved.conf"),
        );
    assert_eq!(found(&host.facts()), [""; 0], "{:#?}", diagnose(&host.facts()));
}
