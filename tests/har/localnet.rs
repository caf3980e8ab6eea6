//! This host's own network: a link that goes down is no outage of everybody else, and an outage is none of the link.
//!
//! The daemon runs in a network namespace of its own, a veth link away from the servers; it is asked with `dig` in
//! there and seen through its state file.

use std::process::{Child, Command};
use std::time::Duration;

use crate::harness::{Backend, Har, Mode, har, namespace, wait_for};

/// What these tests start.
const PROGRAMS: [&str; 4] = ["ip", "nsenter", "sleep", "dig"];

/// Events of a fault of this host so far.
const FAULTS: &str = "SELECT count(*) FROM event WHERE kind = 'local_fault'";

fn run(program: &str, words: &str) {
    let output = Command::new(program).args(words.split_whitespace()).output().expect("the program starts");
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The daemon's namespace, held open by a process that does nothing, and the link to it.
struct Far {
    holder: Child,
}

impl Far {
    fn new() -> Far {
        let holder = Command::new("unshare").args(["-n", "sleep", "600"]).spawn().expect("unshare starts");
        let far = Far { holder };
        let own = std::fs::read_link("/proc/self/ns/net").expect("own namespace");
        let path = format!("/proc/{}/ns/net", far.holder.id());
        wait_for("the namespace", || std::fs::read_link(&path).ok().filter(|other| *other != own));
        run("ip", &format!("link add near type veth peer name far netns {}", far.holder.id()));
        for last in 1..=2 {
            run("ip", &format!("address add 10.9.0.{last}/24 dev near"));
        }
        run("ip", "link set near up");
        far.run("ip", "link set lo up");
        far.run("ip", "address add 10.9.0.100/24 dev far");
        far.run("ip", "link set far up");
        far
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program);
        command
    }

    fn run(&self, program: &str, words: &str) {
        let output = self.command(program).args(words.split_whitespace()).output().expect("nsenter starts");
        assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts a prepared daemon there.
    fn start(&self, har: &mut Har) {
        let plain = har.command();
        let mut command = self.command(&plain.get_program().to_string_lossy());
        command.args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        har.spawn_as(command);
        assert!(har.becomes_ready(), "{}", har.log());
    }

    /// What the daemon there answers for A, line by line.
    fn dig(&self, har: &Har, name: &str) -> Vec<String> {
        let port = har.port.to_string();
        let mut dig = self.command("dig");
        let output =
            dig.args(["@127.0.0.1", "-p", &port, name, "A", "+short", "+timeout=5"]).output().expect("dig starts");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Two servers of one name beyond the link, the first the faster; a second name has the first alone.
fn start(far: &Far) -> (Har, Vec<Backend>) {
    let backends = Backend::group(&[("10.9.0.1", 1), ("10.9.0.2", 60)]);
    let name = |name: &str, candidates: &str| {
        format!(
            "[names.\"{name}\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [{candidates}]\ninterval = \"1s\"\n\
             fast_interval = \"200ms\"\ndown_interval = \"300ms\"\nwhen_all_down = \"servfail\"\n",
            backends[0].port()
        )
    };
    let names = name("api.example", "\"10.9.0.1\", \"10.9.0.2\"") + &name("one.example", "\"10.9.0.1\"");
    let mut har = har().port(5300).names(&names).prepare();
    far.start(&mut har);
    until_answer(&har, "10.9.0.1", "ranked");
    (har, backends)
}

/// Waits until the answer for A of `api.example` is this one, on this ground.
#[track_caller]
fn until_answer(har: &Har, address: &str, basis: &str) {
    let query = "SELECT addresses || ' ' || basis FROM answer WHERE name = 'api.example' AND family = 'A'";
    let wanted = format!("{address} {basis}");
    har.until_sql(query, |found| found == wanted);
}

#[track_caller]
fn until_down(har: &Har, count: &str) {
    har.until_sql("SELECT count(*) FROM address WHERE state = 'down'", |found| found == count);
}

#[test]
fn a_link_that_goes_down_holds_the_answers_until_it_is_back() {
    namespace::inside(&PROGRAMS, || {
        let far = Far::new();
        let (har, backends) = start(&far);
        run("ip", "link set near down");
        until_answer(&har, "10.9.0.1", "held");
        assert_eq!(far.dig(&har, "api.example"), ["10.9.0.1"]);
        assert_eq!(har.sql(FAULTS), [["1"]]);
        let checks = backends[1].connections();
        run("ip", "link set near up");
        until_answer(&har, "10.9.0.1", "ranked");
        // Released by the first sign of life, and everything is checked at once: the other address too.
        wait_for("a check of the other", || (backends[1].connections() > checks).then_some(()));
        har.until_sql(FAULTS, |count| count == "2");
        har.until_sql("SELECT count(*) FROM address WHERE state = 'up'", |count| count == "3");
        har.until_log("works again");
        // It was a fault of the link twice, too.
        run("ip", "link set near down");
        until_answer(&har, "10.9.0.1", "held");
        run("ip", "link set near up");
        until_answer(&har, "10.9.0.1", "ranked");
    });
}

#[test]
fn what_fails_elsewhere_is_no_fault_of_this_host() {
    namespace::inside(&PROGRAMS, || {
        let far = Far::new();
        let (har, mut backends) = start(&far);
        let no_fault = |case: &str| assert_eq!(har.sql(FAULTS), [["0"]], "{case}:\n{}", har.log());
        let back = |har: &Har| {
            har.until_sql("SELECT count(*) FROM address WHERE state = 'up'", |count| count == "3");
            until_answer(har, "10.9.0.1", "ranked");
        };

        // One server behind all names goes silent: the other one answers.
        run("ip", "route add blackhole 10.9.0.100/32 table 100");
        run("ip", "rule add from 10.9.0.1 to 10.9.0.100 table 100");
        until_answer(&har, "10.9.0.2", "ranked");
        no_fault("one server is silent");
        run("ip", "rule delete from 10.9.0.1 to 10.9.0.100 table 100");
        back(&har);

        // Every port refused.
        backends.iter_mut().for_each(Backend::close);
        until_down(&har, "3");
        assert_eq!(far.dig(&har, "api.example"), [""; 0], "servfail is what was asked for");
        no_fault("ports are refused");
        backends.iter_mut().for_each(Backend::open);
        back(&har);

        // Every server answers, and says that it is not the one (a failover under way).
        backends.iter().for_each(|backend| backend.set(Mode::Answer(503, Duration::ZERO)));
        until_down(&har, "3");
        no_fault("an error of HTTP");
        backends[0].delay(1);
        backends[1].delay(60);
        back(&har);
    });
}
