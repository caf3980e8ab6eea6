//! The files of packaging/integration under the programs that read them, which are installed or were unpacked by
//! `tests/run` into the target folder. Scripts with fixed paths are run as copies whose paths lead into a folder of the
//! test's; nothing of this host's own configuration is touched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::daemon::Ran;
use crate::harness::{namespace, program, skip, wait_for};

/// Runs a body where `/etc` is a copy and `/run` is empty, whoever writes there: some of these programs are made to
/// change a host, and a path that was forgotten in a copy of theirs must not lead to this one's.
fn apart(programs: &[&str], body: impl FnOnce()) {
    namespace::inside(programs, || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let copy = "cp -a /etc \"$1\" 2>/dev/null; mount --bind \"$1/etc\" /etc && mount -t tmpfs tmpfs /run";
        let ran = Ran::of(Command::new("sh").args(["-c", copy, "sh"]).arg(folder.path()));
        assert_eq!(ran.code, 0, "{ran:?}");
        body();
        let ran = Ran::of(Command::new("umount").args(["-l", "/etc"]));
        assert_eq!(ran.code, 0, "{ran:?}");
    });
}

/// A file of packaging/integration.
fn ready(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/integration").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(ready(name)).expect("a file of the project")
}

/// A file of a package that `tests/run` has unpacked; says that it is missing otherwise.
fn unpacked(package: &str, file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("integration").join(package).join(file);
    if path.is_file() {
        return Some(path);
    }
    skip(&format!("{package} is not unpacked (tests/run does it)"));
    None
}

/// A program that is installed, or else unpacked.
fn tool(package: &str, file: &str) -> Option<PathBuf> {
    let name = file.rsplit('/').next()?;
    program(name).or_else(|| unpacked(package, file))
}

/// Runs with the unpacked package's own libraries, where there are any.
fn command(package: &str, tool: &Path) -> Command {
    let libraries =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("integration").join(package).join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(tool);
    if libraries.is_dir() {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command
}

/// Everything below a folder, with `from` replaced by `to` in each file.
fn copy_moved(from: &Path, to: &Path, moves: &[(&str, String)]) {
    fs::create_dir_all(to).expect("own folder");
    for entry in fs::read_dir(from).expect("unpacked") {
        let path = entry.expect("an entry").path();
        let place = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_moved(&path, &place, moves);
        } else {
            install(&path, &place, moves);
        }
    }
}

fn install(from: &Path, to: &Path, moves: &[(&str, String)]) {
    let mut text = fs::read_to_string(from).expect("a script");
    for (old, new) in moves {
        text = text.replace(old, new);
    }
    fs::create_dir_all(to.parent().expect("below")).expect("own folder");
    fs::write(to, text).expect("own folder");
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("own folder");
}

/// Hands a resolvconf a record on its standard input.
fn add_record(script: &Path, record: &str, text: &str) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-c", "printf '%s' \"$3\" | sh \"$1\" -a \"$2\"", "sh"]).arg(script).args([record, text]);
    let ran = Ran::of(&mut shell);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.err
}

#[test]
fn openresolv_gives_programs_har_and_har_the_servers() {
    let Some(script) = unpacked("openresolv", "sbin/resolvconf") else { return };
    apart(&[], || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| folder.path().join(path);
        let moves = [
            ("SYSCONFDIR=/etc", format!("SYSCONFDIR={}", at("etc").display())),
            ("LIBEXECDIR=/lib/resolvconf", format!("LIBEXECDIR={}", at("lib").display())),
            ("VARDIR=/run/resolvconf", format!("VARDIR={}", at("run").display())),
            ("\"/etc\"/resolvconf.conf", at("etc/resolvconf.conf").display().to_string()),
            ("\"/etc/resolvconf.conf\"", at("etc/resolvconf.conf").display().to_string()),
            // A dnsmasq of this host is nobody's to signal.
            ("/var/run", at("run").display().to_string()),
        ];
        install(&script, &at("resolvconf"), &moves);
        let package = script.parent().and_then(Path::parent).expect("sbin in the package");
        copy_moved(&package.join("lib/resolvconf"), &at("lib"), &moves);
        fs::create_dir(at("etc")).expect("own folder");
        let ready =
            text("resolvconf.conf").replace("/run/har-upstream.conf", &at("har-upstream.conf").display().to_string());
        fs::write(
            at("etc/resolvconf.conf"),
            format!("{ready}\nresolv_conf={}\ndnsmasq_restart=:\n", at("etc/resolv.conf").display()),
        )
        .expect("own folder");
        add_record(&at("resolvconf"), "eth0.dhcp", "search office.example\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n");
        let read = |path: &str| fs::read_to_string(at(path)).unwrap_or_default();
        let servers = |text: &str| {
            text.lines().filter(|line| line.starts_with("nameserver")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(servers(&read("etc/resolv.conf")), ["nameserver 127.0.0.1"], "{}", read("etc/resolv.conf"));
        assert_eq!(
            servers(&read("har-upstream.conf")),
            ["nameserver 10.0.0.2", "nameserver 10.0.0.3"],
            "{}",
            read("har-upstream.conf")
        );
        add_record(&at("resolvconf"), "wlan0.dhcp", "nameserver 10.7.0.1\n");
        assert!(read("har-upstream.conf").contains("nameserver 10.7.0.1\n"), "{}", read("har-upstream.conf"));
    });
}

#[test]
fn debians_resolvconf_gives_programs_har_and_har_the_servers() {
    let Some(script) = unpacked("resolvconf", "sbin/resolvconf") else { return };
    apart(&[], || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| folder.path().join(path);
        let moved = |path: &str| at(path).display().to_string();
        let moves = [
            ("/run/har-upstream.conf", moved("har-upstream.conf")),
            ("/run/resolvconf", moved("run/resolvconf")),
            ("/lib/resolvconf", moved("lib/resolvconf")),
            ("/etc/resolvconf", moved("etc/resolvconf")),
            ("ETC=/etc", format!("ETC={}", moved("etc"))),
        ];
        let package = script.parent().and_then(Path::parent).expect("sbin in the package");
        install(&script, &at("resolvconf"), &moves);
        copy_moved(&package.join("lib/resolvconf"), &at("lib/resolvconf"), &moves);
        copy_moved(&package.join("etc/resolvconf"), &at("etc/resolvconf"), &moves);
        install(&ready("resolvconf-update"), &at("etc/resolvconf/update.d/har"), &moves);
        fs::create_dir_all(at("run/resolvconf/interface")).expect("own folder");
        // What its service does at boot.
        fs::write(at("run/resolvconf/enable-updates"), "").expect("own folder");
        std::os::unix::fs::symlink(at("run/resolvconf/resolv.conf"), at("etc/resolv.conf")).expect("own folder");
        let read = |path: &str| fs::read_to_string(at(path)).unwrap_or_default();
        let servers = |text: &str| {
            text.lines().filter(|line| line.starts_with("nameserver")).map(str::to_owned).collect::<Vec<_>>()
        };
        add_record(
            &at("resolvconf"),
            "eth0.dhclient",
            "search office.example\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n",
        );
        assert_eq!(servers(&read("etc/resolv.conf")), ["nameserver 10.0.0.2", "nameserver 10.0.0.3"], "before har");
        let complaints = add_record(&at("resolvconf"), "lo.har", "nameserver 127.0.0.1\n");
        assert_eq!(complaints, "");
        assert_eq!(servers(&read("etc/resolv.conf")), ["nameserver 127.0.0.1"], "{}", read("etc/resolv.conf"));
        assert_eq!(read("har-upstream.conf"), "nameserver 10.0.0.2\nnameserver 10.0.0.3\n");
        add_record(&at("resolvconf"), "wlan0.dhclient", "nameserver 10.7.0.1\n");
        assert_eq!(servers(&read("etc/resolv.conf")), ["nameserver 127.0.0.1"]);
        assert!(read("har-upstream.conf").ends_with("nameserver 10.7.0.1\n"), "{}", read("har-upstream.conf"));
    });
}

#[test]
fn dhclients_own_script_leaves_resolv_conf_alone_and_tells_har() {
    let Some(script) = unpacked("isc-dhcp-client", "sbin/dhclient-script") else { return };
    apart(&["run-parts"], || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| folder.path().join(path);
        let moves = [("/etc/dhcp", at("dhcp").display().to_string())];
        install(&script, &at("dhclient-script"), &moves);
        let lease = |servers: &str| {
            let mut shell = Command::new("sh");
            shell.arg(at("dhclient-script")).env("HAR_UPSTREAM_FILE", at("upstream.conf"));
            for (name, value) in [
                ("reason", "BOUND"),
                ("interface", "lo"),
                ("new_ip_address", "192.0.2.77"),
                ("new_subnet_mask", "255.255.255.0"),
                ("new_domain_name_servers", servers),
            ] {
                shell.env(name, value);
            }
            Ran::of(&mut shell)
        };
        let own = || fs::read_to_string("/etc/resolv.conf").expect("the namespace's own");
        install(&ready("dhclient-hook"), &at("dhcp/dhclient-enter-hooks.d/har"), &[]);
        let ran = lease("10.0.0.2 10.0.0.3");
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(own(), "nameserver 127.0.0.1\n");
        let told = fs::read_to_string(at("upstream.conf")).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        assert_eq!(told, "nameserver 10.0.0.2\nnameserver 10.0.0.3\n");
    });
}

/// A process that ends with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nscd_does_not_cache_hosts() {
    let Some(nscd) = tool("nscd", "usr/sbin/nscd") else { return };
    apart(&[], || {
        fs::create_dir_all("/run/nscd").expect("the namespace's own /run");
        let statistics = |conf: &Path| {
            let child =
                Command::new(&nscd).arg("-F").arg("-f").arg(conf).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let running = Running(child.expect("nscd starts"));
            let text = wait_for("nscd's statistics", || {
                let ran = Ran::of(Command::new(&nscd).arg("-g").arg("-f").arg(conf));
                (ran.code == 0 && ran.out.contains("hosts cache:")).then_some(ran.out)
            });
            drop(running);
            let (_, hosts) = text.split_once("hosts cache:").expect("found above");
            hosts.lines().map(str::trim).find(|line| line.ends_with("cache is enabled")).expect("a line").to_owned()
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let conf = folder.path().join("nscd.conf");
        fs::write(&conf, "enable-cache hosts yes\npersistent hosts no\nshared hosts no\n").expect("own folder");
        assert_eq!(statistics(&conf), "yes  cache is enabled", "what the ready file is against");
        let _ = fs::remove_file("/run/nscd/socket");
        assert_eq!(statistics(&ready("nscd.conf")), "no  cache is enabled");
    });
}

#[test]
fn network_manager_reads_its_file() {
    let Some(manager) = tool("network-manager", "usr/sbin/NetworkManager") else { return };
    apart(&[], || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("conf.d")).expect("own folder");
        fs::write(at("main.conf"), "[main]\ndns=default\n").expect("own folder");
        let printed = || {
            let option = |name: &str, path: &str| format!("--{name}={}", at(path).display());
            let mut command = command("network-manager", &manager);
            command.args([
                option("config", "main.conf"),
                option("config-dir", "conf.d"),
                option("system-config-dir", "none"),
            ]);
            Ran::of(command.args([option("intern-config", "intern"), "--print-config".to_owned()])).ok()
        };
        assert!(printed().lines().any(|line| line == "dns=default"), "{}", printed());
        fs::copy(ready("NetworkManager.conf"), at("conf.d/har.conf")).expect("own folder");
        assert!(printed().lines().any(|line| line == "dns=none"), "{}", printed());
    });
}

#[test]
fn cloud_init_knows_every_key() {
    let Some(module) = unpacked("cloud-init", "usr/lib/python3/dist-packages/cloudinit/cmd/main.py") else { return };
    apart(&[], || {
        let packages = module.ancestors().nth(3).expect("dist-packages");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let checked = |file: &Path| {
            let mut python = Command::new("/usr/bin/python3");
            python.args(["-m", "cloudinit.cmd.main", "schema", "--config-file"]).arg(file).env("PYTHONPATH", packages);
            Ran::of(&mut python)
        };
        let ran = checked(&ready("cloud-init.cfg"));
        assert!(ran.code == 0 && ran.out.contains("Valid cloud-config"), "{ran:?}");
        let wrong = folder.path().join("wrong.cfg");
        fs::write(&wrong, text("cloud-init.cfg").replace("nameservers", "nameserverz")).expect("own folder");
        assert_eq!(checked(&wrong).code, 1, "a key that it does not know is told");
    });
}

#[test]
fn docker_takes_the_servers_from_its_file() {
    let Some(docker) = tool("docker.io", "usr/sbin/dockerd") else { return };
    apart(&[], || {
        // The same key on the command line has it say what it read, and end before it starts anything.
        let read = |file: &Path| {
            let mut command = command("docker.io", &docker);
            Ran::of(command.args(["--dns", "192.0.2.9", "--config-file"]).arg(file))
        };
        let ran = read(&ready("docker-daemon.json"));
        assert!(ran.code != 0 && ran.err.contains("from file: [10.0.0.2 10.0.0.3]"), "{ran:?}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let wrong = folder.path().join("daemon.json");
        fs::write(&wrong, text("docker-daemon.json").replace("dns", "dnss")).expect("own folder");
        assert!(read(&wrong).err.contains("don't match any configuration option: dnss"));
    });
}

#[test]
fn podman_reads_its_file() {
    let Some(podman) = tool("podman", "usr/bin/podman") else { return };
    apart(&[], || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let helpers = podman.parent().expect("a folder").display().to_string();
        let path = format!("{helpers}:{}", std::env::var("PATH").unwrap_or_default());
        let info = |file: &Path| {
            let mut command = command("podman", &podman);
            command.env("CONTAINERS_CONF", file).env("PATH", &path).args(["--storage-driver", "vfs"]);
            for (option, name) in [("--root", "root"), ("--runroot", "run")] {
                command.arg(option).arg(folder.path().join(name));
            }
            Ran::of(command.arg("info"))
        };
        let ran = info(&ready("containers.conf"));
        assert_eq!(ran.code, 0, "{ran:?}");
        let wrong = folder.path().join("wrong.conf");
        fs::write(&wrong, text("containers.conf").replace("[\"10.0.0.2\", \"10.0.0.3\"]", "\"10.0.0.2\""))
            .expect("own folder");
        let ran = info(&wrong);
        assert!(ran.err.contains("containers.dns_servers"), "the key is known, and its type: {ran:?}");
    });
}

#[test]
fn java_takes_the_time_to_live_from_its_file() {
    const SOURCE: &str = "class Ttl { public static void main(String[] a) {
        System.out.println(java.security.Security.getProperty(\"networkaddress.cache.ttl\") + \" \"
            + java.security.Security.getProperty(\"networkaddress.cache.negative.ttl\")); } }";
    if let Some(reason) = crate::harness::missing(&["java", "javac"]) {
        return skip(&reason);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("Ttl.java");
    fs::write(&source, SOURCE).expect("own folder");
    let java = |option: Option<String>| Ran::of(Command::new("java").args(option).arg(&source)).ok();
    assert!(java(None).starts_with("null "), "unset as it comes");
    let option = format!("-Djava.security.properties={}", ready("java.security").display());
    assert_eq!(java(Some(option)).trim(), "1 1");
}

#[test]
fn the_kubelets_file_has_the_fields_of_its_api() {
    // There is no small program that checks it: the three fields of kubelet.config.k8s.io/v1beta1 by hand.
    let text = text("kubelet.yaml");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        lines,
        [
            "apiVersion: kubelet.config.k8s.io/v1beta1",
            "kind: KubeletConfiguration",
            "resolvConf: /run/systemd/resolve/resolv.conf"
        ]
    );
}
