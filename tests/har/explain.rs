//! `har explain`: sentences that agree with what is answered.

use crate::harness::{Backend, Upstream, har, wait_for};

#[test]
fn it_says_what_is_answered_and_why() {
    let mut backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 40), ("127.0.0.4", 0)]);
    let port = backends[0].port();
    let upstream = Upstream::start();
    upstream.addresses("fast.example", &["127.0.0.2"]);
    backends[2].close();
    let entry = |name: &str| {
        format!(
            "[names.\"{name}\"]\ncheck = \"http://{{address}}:{port}/\"\n\
             candidates = [\"127.0.0.3\", \"fast.example\", \"127.0.0.4\", \"gone.example\"]\n\
             interval = \"300ms\"\nfast_interval = \"100ms\"\n"
        )
    };
    let names = entry("api.example") + &entry("*.apps.example").replace("[names", "\n[names");
    let mut har = har().upstream(&[&upstream]).names(&names).start();
    har.until_a("api.example", "127.0.0.2");
    har.until_sql("SELECT max(state) FROM address WHERE address = '127.0.0.4'", |state| state == "down");
    let has = |text: &str, parts: &[&str]| parts.iter().all(|part| text.contains(part));
    let until = |har: &crate::harness::Har, name: &str, parts: &[&str]| -> String {
        let mut last = String::new();
        wait_for(&format!("{parts:?}"), || {
            last = har.run(&["explain", name]).ok();
            has(&last, parts).then(|| last.clone())
        })
    };
    let text = until(
        &har,
        "API.example.",
        &[
            "runs as process",
            "A: 127.0.0.2 is answered, for ",
            "  127.0.0.2 (fast.example): chosen. It is up (for ",
            "  127.0.0.3: reserve: slower than what is answered. It is up",
            "  127.0.0.4: down since ",
            "last checked 0 s ago: connect_error (",
            "AAAA: an empty answer is given, for ",
            "gone.example: no address is known: the name does not exist",
        ],
    );
    assert!(!text.contains("By this configuration"), "it agrees with the daemon:\n{text}");

    har.run(&["drain", "fast.example", "--name", "api.example", "--reason", "disk"]).ok();
    until(
        &har,
        "api.example",
        &[
            "Ordered: drain fast.example for api.example until undone (disk), by ",
            "A: 127.0.0.3 is answered",
            "  127.0.0.2 (fast.example): drained until undone by ",
            "Really it is up",
        ],
    );
    har.run(&["pin", "api.example", "127.0.0.4"]).ok();
    until(&har, "api.example", &["A: 127.0.0.4 is answered, for ", ": pinned to 127.0.0.4 until undone"]);
    har.run(&["bypass"]).ok();
    until(&har, "api.example", &["Ordered: bypass every name", "So every query for it is forwarded"]);
    let wild = until(&har, "x.apps.example", &["x.apps.example is covered by the wildcard *.apps.example."]);
    assert!(!wild.contains("Ordered: drain"), "an order for another name:\n{wild}");

    for order in
        [&["undrain", "fast.example", "--name", "api.example"][..], &["unpin", "api.example"], &["bypass", "--remove"]]
    {
        har.run(order).ok();
    }
    har.until_a("api.example", "127.0.0.2");
    until(&har, "api.example", &["A: 127.0.0.2 is answered"]);
    har.rewrite_names(&entry("api.example").replace("\"fast.example\", ", ""));
    let text = har.run(&["explain", "api.example"]).ok();
    assert!(
        has(
            &text,
            &[
                "127.0.0.3 would be answered, 127.0.0.2 is recorded",
                "127.0.0.2 (fast.example) is in the state, but no candidate in the configuration any more",
            ]
        ),
        "{text}"
    );
    assert!(har.stop().success());
    let text = har.run(&["explain", "api.example"]).ok();
    assert!(has(&text, &["har is not running: it was stopped", "What follows is what it knew then"]), "{text}");
    let wrong = har.run(&["explain", "apj.example"]);
    assert!(wrong.code == 2 && wrong.err.contains("did you mean 'api.example'?"), "{wrong:?}");
}

#[test]
fn a_fallback_list_with_names_and_a_file_that_is_not_loaded_do_not_change_what_is_answered() {
    let backends = Backend::group(&[("127.0.0.2", 0)]);
    let upstream = Upstream::start();
    upstream.addresses("spare.example", &["192.0.2.9"]);
    let entry = |port: u16, candidate: &str| {
        format!(
            "[names.\"api.example\"]\ncheck = \"tcp:{port}\"\ncandidates = [\"{candidate}\"]\ninterval = \"300ms\"\n\
             when_all_down = \"fallback\"\nfallback = [\"192.0.2.8\", \"spare.example\"]\n"
        )
    };
    // Nobody listens at the other address.
    let port = backends[0].port();
    let mut har = har().upstream(&[&upstream]).names(&entry(port, "127.0.0.3")).start();
    har.until_sql("SELECT addresses FROM answer WHERE family = 'A'", |list| list == "192.0.2.8 192.0.2.9");
    let text = har.run(&["explain", "api.example"]).ok();
    let head = "\nA: 192.0.2.8, 192.0.2.9 are answered as a stale answer (EDE 3), for ";
    assert!(text.contains(head) && !text.contains("By this configuration"), "{text}");
    har.rewrite_names(&entry(port, "gone.example").replace("when_all_down = \"fallback\"\nfallback = ", "# "));
    let text = har.run(&["explain", "api.example"]).ok();
    assert!(text.contains(head), "what is recorded is answered, whatever the file says now:\n{text}");
    let would = "SERVFAIL (no address known) would be answered, 192.0.2.8 192.0.2.9 is recorded";
    assert!(text.contains(would), "{text}");
    assert_eq!(har.query("api.example", "A").addresses().len(), 2);
}

#[test]
fn without_any_state_it_says_what_is_missing() {
    let har = har().names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]").prepare();
    let ran = har.run(&["explain", "api.example"]);
    assert!(ran.code == 1 && ran.err.contains("there is no state file"), "{ran:?}");
}
