//! Which configured name a question belongs to, and what each answers by its own settings.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::NULL;

use crate::harness::{Backend, Upstream, har, wait_for};

#[test]
fn the_exact_name_comes_before_a_wildcard_and_the_longer_suffix_first() {
    let upstream = Upstream::start();
    upstream.addresses("example.com", &["198.51.100.1"]).addresses("other.example", &["198.51.100.2"]);
    let names = "[defaults]\ncheck = \"none\"\n\
                 [names.\"*.example.com\"]\ncandidates = [\"192.0.2.1\"]\n\
                 [names.\"*.apps.example.com\"]\ncandidates = [\"192.0.2.2\"]\n\
                 [names.\"x.apps.example.com\"]\ncandidates = [\"192.0.2.3\"]\n\
                 [names.\"apps.example.com\"]\ncandidates = [\"192.0.2.4\"]\n";
    let har = har().upstream(&[&upstream]).names(names).start();
    for (name, address) in [
        ("x.apps.example.com", "192.0.2.3"),
        ("X.Apps.Example.COM", "192.0.2.3"),
        ("y.apps.example.com", "192.0.2.2"),
        // An exact name hides nothing below it.
        ("z.x.apps.example.com", "192.0.2.2"),
        ("apps.example.com", "192.0.2.4"),
        ("web.example.com", "192.0.2.1"),
        ("a.b.web.example.com", "192.0.2.1"),
        // A wildcard stands for one label at least.
        ("example.com", "198.51.100.1"),
        ("other.example", "198.51.100.2"),
    ] {
        assert_eq!(har.a(name), address, "{name}");
    }
    assert!(upstream.seen("web.example.com").is_empty());
}

#[test]
fn an_international_name_is_known_by_its_a_label() {
    let upstream = Upstream::start();
    upstream.addresses("xn--mller-kva.example", &["192.0.2.6"]);
    let names = "[names.\"bücher.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.5\", \"müller.example\"]\nselect = \"all\"";
    let har = har().upstream(&[&upstream]).names(names).start();
    wait_for("both addresses", || {
        let reply = har.query("xn--bcher-kva.example", "A");
        (reply.addresses().len() == 2).then_some(())
    });
    har.until_sql("SELECT name FROM name", |name| name == "xn--bcher-kva.example");
    har.until_sql("SELECT host FROM candidate WHERE position = 1", |host| host == "xn--mller-kva.example");
}

#[test]
fn an_observed_name_is_forwarded_and_what_would_be_answered_is_recorded() {
    let mut backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 60)]);
    let upstream = Upstream::start();
    upstream.addresses("api.example", &["198.51.100.1"]);
    let names = format!(
        "[names.\"api.example\"]\nmode = \"observe\"\ncheck = \"http://{{host}}:{}/\"\ninterval = \"200ms\"\n\
         candidates = [\"127.0.0.2\", \"127.0.0.3\"]",
        backends[0].port()
    );
    let har = har().upstream(&[&upstream]).names(&names).start();
    let would_be = "SELECT addresses FROM answer WHERE name = 'api.example' AND family = 'A'";
    har.until_sql(would_be, |address| address == "127.0.0.2");
    let reply = har.query("api.example", "A");
    assert_eq!((reply.first().as_str(), reply.message.metadata.authoritative), ("198.51.100.1", false));
    backends[0].close();
    har.until_sql(would_be, |address| address == "127.0.0.3");
    har.until_sql(
        "SELECT count(*) FROM event WHERE kind = 'answer' AND name = 'api.example' AND after LIKE '%127.0.0.3%'",
        |count| count != "0",
    );
    assert_eq!(har.a("api.example"), "198.51.100.1", "the forwarded answer stays what it is");
    assert_eq!(har.sql("SELECT mode FROM name"), [["observe"]]);
}

#[test]
fn other_types_are_forwarded_kept_free_of_hints_or_empty() {
    let upstream = Upstream::start();
    for way in ["forward", "no-hints", "nodata"] {
        upstream.txt(&format!("{way}.example"), &["from upstream"]);
        upstream.records(&format!("{way}.example"), "HTTPS", vec![RData::NULL(NULL::with(vec![0, 1, 0]))]);
    }
    let mut names = String::from("[defaults]\ncheck = \"none\"\nttl = 9\n");
    for way in ["forward", "no-hints", "nodata", "here-alone"] {
        let types = if way == "here-alone" { "forward" } else { way };
        names += &format!("[names.\"{way}.example\"]\nother_types = \"{types}\"\ncandidates = [\"192.0.2.1\"]\n");
    }
    let har = har().upstream(&[&upstream]).names(&names).start();
    let empty = |name: &str, kind: &str| {
        let reply = har.query(name, kind);
        assert_eq!((reply.rcode(), reply.message.answers.len()), (ResponseCode::NoError, 0), "{name} {kind}");
        assert_eq!(reply.soa().map(|(_, ttl, minimum)| (ttl, minimum)), Some((9, 9)), "{name} {kind}");
    };
    assert_eq!(har.query("forward.example", "TXT").message.answers.len(), 1);
    assert_eq!(har.query("forward.example", "HTTPS").message.answers.len(), 1);
    assert_eq!(har.query("no-hints.example", "TXT").message.answers.len(), 1);
    for kind in ["HTTPS", "SVCB", "ANY"] {
        empty("no-hints.example", kind);
    }
    for kind in ["TXT", "HTTPS", "MX"] {
        empty("nodata.example", kind);
    }
    assert_eq!(upstream.seen("nodata.example").len(), 0);
    // The name exists here, whatever the upstream says.
    let reply = har.query("here-alone.example", "TXT");
    assert_eq!((reply.rcode(), upstream.seen("here-alone.example").len()), (ResponseCode::NoError, 1));
}

#[test]
fn the_ttl_is_the_names_own_or_that_of_the_defaults_or_of_the_server() {
    let own = "[names.\"own.example\"]\nttl = 30\ncandidates = [\"192.0.2.1\"]\n[names.\"default.example\"]\ncandidates = [\"192.0.2.2\"]\n";
    for (defaults, expected) in [("ttl = 7\n", 7), ("", 5)] {
        let names = format!("[defaults]\ncheck = \"none\"\n{defaults}{own}");
        let har = har().server("ttl = 5").names(&names).start();
        for (name, ttl) in [("own.example", 30), ("default.example", expected)] {
            assert_eq!(har.query(name, "A").message.answers[0].ttl, ttl, "{name}");
            let soa = har.query(name, "AAAA").soa().map(|(_, ttl, minimum)| (ttl, minimum));
            assert_eq!(soa, Some((ttl, ttl)), "{name}: the empty family");
        }
    }
}
