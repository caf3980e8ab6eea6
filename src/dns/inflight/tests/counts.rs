//! What is counted of queries for configured names, and of the servers in their lists.

use super::*;

fn named(table: &Arc<NameTable>) -> Option<Named<'_>> {
    Some(Named { table, name: 0, exists: false })
}

/// What became of the forwarded queries for the name: replies passed on, SERVFAIL of our own.
fn became(names: &NameTable) -> (u64, u64) {
    let name = names.name(0).unwrap();
    (name.relayed(), name.unreached())
}

/// Queries, answers, time-outs and SERVFAIL of a server in a list.
fn of(core: &InFlight, server: u8, suffix: &str) -> [u64; 4] {
    let listed = core.listed();
    let mut found = listed.iter().filter(|one| one.address == address(server) && &*one.route == suffix);
    let counters = &found.next().unwrap().counters;
    assert!(found.next().is_none(), "once");
    [&counters.queries, &counters.answers, &counters.timeouts, &counters.servfail].map(|count| count.load(Relaxed))
}

/// Lets the time go on until nothing is under way, with every transmission refused if so.
fn run_out(table: &mut Table, mut sent: Vec<Sent>, refused: bool) {
    let mut now = 0;
    while table.core.under_way() > 0 {
        for sent in std::mem::take(&mut sent).iter().filter(|_| refused) {
            table.fail(sent, Failure::Refused, now);
        }
        now = table.core.deadline().unwrap().duration_since(table.base).as_millis() as u64;
        sent = table.expire(now);
    }
}

#[test]
fn a_query_for_a_name_is_counted_by_what_became_of_it() {
    let names = Arc::new(NameTable::new(0, 1));
    let mut table = Table::new(vec![listed(&[1]), Route { suffix: "none.example".into(), ..listed(&[]) }], 2);
    let sent = table.ask_as(udp(1), &query(1, "a"), 0, named(&names), 0);
    assert_eq!(became(&names), (0, 0), "nothing is known yet");
    table.ask_as(udp(1), &query(1, "a"), 0, named(&names), 1);
    table.receive(&sent[0], &reply(&sent[0].bytes, 0), 2);
    assert_eq!(became(&names), (1, 0), "one reply for the query and its repetition");
    let sent = table.ask_as(udp(1), &query(2, "a"), 0, named(&names), 3);
    table.receive(&sent[0], &reply(&sent[0].bytes, rcode::SERVFAIL), 4);
    assert_eq!(became(&names), (2, 0), "the server's own SERVFAIL is passed on");
    table.ask_as(udp(1), &query(3, "a"), 1, named(&names), 5);
    assert_eq!(became(&names), (2, 1), "no server");
    table.ask_as(tcp(7), &query(4, "a"), 0, named(&names), 6);
    table.call(7, |core, now, _| core.forget(7, now));
    assert_eq!(became(&names), (2, 1), "its client went away");
    for port in 1..4 {
        table.ask_as(udp(port), &query(5, "a"), 0, named(&names), 8);
    }
    assert_eq!(became(&names), (2, 2), "the oldest gave way");
    run_out(&mut table, Vec::new(), false);
    assert_eq!(became(&names), (2, 4), "no reply in time");
    assert_eq!(Arc::strong_count(&names), 1, "entries that wait for use hold no table");
}

#[test]
fn a_server_that_is_silent_or_refuses_leaves_everything_unanswered() {
    for refused in [false, true] {
        let mut table = Table::new(vec![listed(&[1])], 100);
        for port in 1..20 {
            let sent = table.ask(udp(port), &query(port, "a"), 0);
            run_out(&mut table, sent, refused);
        }
        let [queries, answers, timeouts, servfail] = of(&table.core, 1, "");
        assert_eq!((answers, timeouts, servfail), (0, queries, 0), "refused: {refused}");
        assert!(queries >= 19, "{queries}");
    }
}

#[test]
fn a_datagram_that_is_repeated_counts_once() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    table.prove(0);
    let first = table.ask(udp(1), &query(1, "a"), 10);
    let again = table.expire(25);
    assert_eq!((again.len(), again[0].from), (1, first[0].from), "the same from the same port");
    table.receive(&first[0], &reply(&first[0].bytes, 0), 26);
    table.receive(&first[0], &reply(&first[0].bytes, 0), 27);
    let sent = table.ask(udp(2), &query(2, "a"), 30);
    table.receive(&sent[0], &reply(&sent[0].bytes, rcode::SERVFAIL), 31);
    assert_eq!(of(&table.core, 1, ""), [3, 3, 0, 1]);
    assert_eq!(table.core.books().sent, 4);
}

#[test]
fn a_server_is_counted_in_the_list_that_it_was_asked_from() {
    let corp = |servers: &[u8]| Route { suffix: "corp.example".into(), ..listed(servers) };
    let mut table = Table::new(vec![listed(&[1]), corp(&[1, 2])], 10);
    let sent = table.ask_as(udp(1), &query(1, "a"), 1, None, 0);
    table.receive(&sent[0], &reply(&sent[0].bytes, 0), 1);
    for id in 2..4 {
        let sent = table.ask(udp(1), &query(id, "b"), 2);
        table.receive(&sent[0], &reply(&sent[0].bytes, 0), 3);
    }
    let rows = |core: &InFlight| [of(core, 1, ""), of(core, 1, "corp.example"), of(core, 2, "corp.example")];
    assert_eq!(rows(&table.core), [[2, 2, 0, 0], [1, 1, 0, 0], [0; 4]]);
    // With other lists in other places they go on; what is under way too.
    let sent = table.ask_as(udp(1), &query(4, "a"), 1, None, 4);
    let other = Route { suffix: "a.example".into(), ..listed(&[3]) };
    let settings = with_limits(vec![listed(&[3, 1]), other, corp(&[2, 1])], 10);
    table.call(5, |core, _, _| core.reconfigure(&settings));
    table.receive(&sent[0], &reply(&sent[0].bytes, 0), 6);
    assert_eq!(rows(&table.core), [[2, 2, 0, 0], [2, 2, 0, 0], [0; 4]]);
}
