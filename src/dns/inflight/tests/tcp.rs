//! Queries over TCP: which connection, what comes after its end or its silence.

use super::*;

fn answer(table: &mut Table, sent: &Sent, millis: u64) -> Vec<Sent> {
    let more = table.receive(sent, &reply(&sent.bytes, 0), millis);
    assert_eq!(table.code(), Some(0));
    more
}

/// Asks once over TCP and returns the transmission.
fn ask(table: &mut Table, connection: u64, millis: u64) -> Sent {
    let mut sent = table.ask(tcp(connection), &query(connection as u16, "a"), millis);
    assert_eq!(sent.len(), 1);
    sent.remove(0)
}

fn open(table: &Table) -> usize {
    table.core.streams.open.len()
}

#[test]
fn a_query_stands_behind_another_only_when_no_more_connections_may_be_opened() {
    let mut table = Table::new(vec![listed(&[1])], 100);
    let first: Vec<Sent> = (1..=4).map(|client| ask(&mut table, client, 0)).collect();
    assert_eq!(open(&table), 4);
    // A burst shares them.
    let behind = ask(&mut table, 5, 10);
    assert_eq!((open(&table), behind.from), (4, first[0].from));
    // None of them says anything.
    let fresh: Vec<Sent> = (6..=9).map(|client| ask(&mut table, client, 60)).collect();
    assert_eq!(open(&table), 8);
    assert!(fresh.iter().all(|sent| first.iter().all(|other| other.from != sent.from)));
    // More are not opened; one that moves is preferred, and one that owes nothing even more.
    let last = ask(&mut table, 10, 61);
    assert_eq!((open(&table), last.from), (8, fresh[0].from));
    answer(&mut table, &first[0], 120);
    assert_eq!(ask(&mut table, 11, 121).from, first[0].from);
    answer(&mut table, &first[1], 122);
    assert_eq!(ask(&mut table, 12, 123).from, first[1].from);
}

#[test]
fn who_stands_behind_a_slow_answer_gets_another_connection_and_the_slow_one_is_not_repeated() {
    let mut table = Table::new(vec![listed(&[1])], 100);
    let first: Vec<Sent> = (1..=4).map(|client| ask(&mut table, client, 0)).collect();
    assert_eq!(ask(&mut table, 5, 10).from, first[0].from);
    assert!(table.expire(200).is_empty(), "the first in line");
    let again = table.expire(210);
    assert_eq!(again.len(), 1);
    assert!(again[0].tcp && first.iter().all(|other| other.from != again[0].from));
    answer(&mut table, &again[0], 215);
    assert!((220..1000).step_by(20).all(|at| table.expire(at).is_empty()));
    // A second is long: once more, and not in the way of others. The answer counts whichever way it comes.
    let late = table.expire(1000);
    assert_eq!((late.len(), late.iter().any(|sent| sent.tcp)), (4, false));
    first.iter().for_each(|sent| drop(answer(&mut table, sent, 1500)));
    assert!(ask(&mut table, 6, 1501).tcp, "it was slow, and did not refuse");
}

#[test]
fn a_query_that_is_gone_keeps_its_place_until_it_is_answered() {
    let mut table = Table::new(vec![listed(&[1])], 100);
    let slow = ask(&mut table, 1, 0);
    table.call(10, |core, now, _| core.forget(1, now));
    let other = ask(&mut table, 2, 20);
    assert_ne!(other.from, slow.from);
    // What was not asked is no answer.
    table.receive(&slow, &reply(&query(wire::id(&slow.bytes).unwrap() ^ 1, "a"), 0), 29);
    table.receive(&slow, &reply(&slow.bytes, 0), 30);
    assert_eq!((table.reply(), table.core.books().ignored), (None, 2));
    assert_eq!(ask(&mut table, 3, 31).from, slow.from);
    // All connections are in the way: one on which nobody waits gives its place to a fresh one.
    (4..=7).for_each(|client| drop(ask(&mut table, client, 100)));
    (8..=9).for_each(|client| drop(ask(&mut table, client, 160)));
    assert_eq!(open(&table), 8);
    table.call(210, |core, now, _| core.forget(2, now));
    let fresh = ask(&mut table, 10, 211);
    assert_eq!((open(&table), table.closed.as_slice()), (8, [other.from].as_slice()));
    assert!(!table.closed.contains(&fresh.from));
    // Nobody waits any more: idle, whatever is owed.
    (3..=10).for_each(|client| table.call(220, |core, now, _| core.forget(client, now)));
    while let Some(at) = table.core.deadline() {
        table.expire(at.duration_since(table.base).as_millis() as u64);
    }
    assert_eq!(open(&table), 0);
}

#[test]
fn a_connection_that_owes_much_gets_no_more() {
    let now = Instant::now();
    let mut streams = streams::Streams::default();
    let (limits, query) = (servers::Server::new(address(1)).tcp_limits(now), Key { slot: 0, generation: 1 });
    let busy = streams.enter(0, now);
    let waiting = |id| sockets::Waiting { id, query, attempt: 0 };
    streams.give(busy, waiting(0), now);
    for id in 1..=32 {
        assert_eq!(streams.place(0, limits, true, now), Some(streams::Place::Behind(busy)));
        streams.give(busy, waiting(id), now);
        streams.give_up(busy, id, now);
    }
    assert_eq!(streams.place(0, limits, true, now), None);
    streams.heard(busy, 7, true, now);
    assert_eq!(streams.place(0, limits, true, now), Some(streams::Place::Behind(busy)));
}

#[test]
fn who_was_closed_on_waits_for_the_budget_and_is_not_told_that_nobody_can_be_reached() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let good = ask(&mut table, 1, 0);
    answer(&mut table, &good, 1);
    let closed = ask(&mut table, 2, 2);
    table.call(2, |core, now, _| while core.budget.extra(budget::Need::Replacement, now) {});
    assert!(table.fail(&closed, Failure::Closed, 3).is_empty());
    let mut again = Vec::new();
    for at in (10..3000).step_by(10) {
        assert_eq!(table.reply(), None, "{at}");
        again.extend(table.expire(at));
    }
    answer(&mut table, &again[0], 3000);
}

#[test]
fn a_query_that_just_missed_an_idle_connection_teaches_nothing() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let first = ask(&mut table, 1, 0);
    answer(&mut table, &first, 1);
    let missed = ask(&mut table, 2, 2000);
    assert_eq!(missed.from, first.from);
    let again = table.fail(&missed, Failure::Closed, 2001).remove(0);
    answer(&mut table, &again, 2002);
    assert_eq!(ask(&mut table, 3, 2003).from, again.from);
}

#[test]
fn no_way_over_tcp_is_a_refusal() {
    for failure in [Failure::Refused, Failure::Unreachable] {
        let mut table = Table::new(vec![listed(&[1])], 10);
        let sent = ask(&mut table, 1, 0);
        let again = table.fail(&sent, failure, 1);
        assert!(again.len() == 1 && !again[0].tcp, "{failure:?}");
        answer(&mut table, &again[0], 2);
        assert!(!ask(&mut table, 2, 3).tcp, "{failure:?}");
    }
}

#[test]
fn closed_without_a_word_twice_is_a_refusal_and_sends_all_of_its_queries_over_udp() {
    let mut table = Table::new(vec![listed(&[1])], 100);
    let first: Vec<Sent> = (1..=8).map(|client| ask(&mut table, client, 0)).collect();
    let mut again = Vec::new();
    for sent in &first[..4] {
        again.extend(table.fail(sent, Failure::Closed, 1));
    }
    let rest: Vec<Sent> = again.iter().filter(|sent| sent.tcp).cloned().collect();
    for sent in &rest {
        again.extend(table.fail(sent, Failure::Closed, 2));
    }
    let over_udp: Vec<&Sent> = again.iter().filter(|sent| !sent.tcp).collect();
    assert_eq!(over_udp.len(), 8);
    over_udp.into_iter().for_each(|sent| drop(answer(&mut table, sent, 3)));
    assert_eq!(table.core.under_way(), 0);
}

#[test]
fn a_server_that_closes_after_each_answer_gets_one_query_at_a_time() {
    let mut table = Table::new(vec![listed(&[1])], 100);
    let first = ask(&mut table, 1, 0);
    (2..=4).for_each(|client| drop(ask(&mut table, client, 0)));
    assert_eq!(ask(&mut table, 5, 0).from, first.from);
    answer(&mut table, &first, 1);
    // Asked again at once, on a connection of its own.
    let again = table.fail(&first, Failure::Closed, 1);
    assert!(again.len() == 1 && again[0].tcp && open(&table) == 4);
    (6..=9).for_each(|client| drop(ask(&mut table, client, 2)));
    assert_eq!(open(&table), 8);
    // No more may be opened: it waits for the next that ends.
    assert!(table.ask(tcp(10), &query(10, "a"), 2).is_empty());
    assert!(table.ask(tcp(11), &query(11, "a"), 2).is_empty());
    table.call(3, |core, now, _| core.forget(10, now));
    let held = answer(&mut table, &again[0], 4);
    assert_eq!(table.closed, [again[0].from]);
    assert_eq!((held.len(), wire::matches_question(&query(0, "a"), &reply(&held[0].bytes, 0))), (1, true));
    answer(&mut table, &held[0], 5);
    // Where nothing ends who waits has an answer in time.
    assert_eq!(table.ask(tcp(12), &query(12, "a"), 6).len() + table.ask(tcp(13), &query(13, "a"), 6).len(), 1);
    while table.core.under_way() > 0 {
        let at = table.core.deadline().unwrap().duration_since(table.base).as_millis() as u64;
        table.expire(at);
        while let Some((_, reply)) = table.reply() {
            assert!(at >= 3900 && wire::rcode(&reply) == Some(rcode::SERVFAIL), "{at}");
        }
    }
}

#[test]
fn who_waits_for_room_is_not_told_that_nobody_can_be_reached() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let sent = ask(&mut table, 1, 0);
    table.call(0, |core, _, _| core.entries.keys(&mut core.scratch));
    let key = table.core.scratch[0];
    let entry = table.core.entries.get_mut(key).unwrap();
    entry.attempts[0].state = AttemptState::Lost;
    assert!(entry.is_refused());
    entry.held = Some(0);
    assert!(!entry.is_refused());
    (entry.held, entry.attempts[0].state) = (None, AttemptState::Waiting);
    answer(&mut table, &sent, 1);
}

#[test]
fn without_descriptors_nothing_is_sent_twice_on_one_connection() {
    let mut table = Table::new(vec![listed(&[1])], 100);
    let first: Vec<Sent> = (1..=4).map(|client| ask(&mut table, client, 0)).collect();
    let behind = ask(&mut table, 5, 10);
    let moved = table.expire(210);
    assert!(table.fail(&moved[0], Failure::Exhausted, 210).is_empty());
    answer(&mut table, &first[0], 300);
    answer(&mut table, &behind, 301);
}

#[test]
fn one_connection_too_many_is_no_refusal() {
    for failure in [Failure::Closed, Failure::Refused] {
        let mut table = Table::new(vec![listed(&[1])], 100);
        let first = ask(&mut table, 1, 0);
        answer(&mut table, &first, 1);
        assert_eq!(ask(&mut table, 2, 2).from, first.from);
        let second = ask(&mut table, 3, 3);
        assert_ne!(second.from, first.from);
        let again = table.fail(&second, failure, 4);
        assert_eq!((again.len(), again[0].from, again[0].tcp), (1, first.from, true), "{failure:?}");
        assert_eq!(ask(&mut table, 4, 5).from, first.from);
        // That may change.
        assert_ne!(ask(&mut table, 5, 11_000).from, first.from);
    }
}

#[test]
fn a_truncated_reply_over_tcp_is_none() {
    let mut table = Table::new(vec![listed(&[1, 2])], 10);
    let sent = ask(&mut table, 1, 0);
    let next = table.receive(&sent, &truncated_reply(&sent.bytes), 1);
    assert_eq!((to(&next), next[0].tcp, table.reply()), (vec![2], true, None));
    answer(&mut table, &next[0], 2);
    let sent = ask(&mut table, 2, 3);
    let next = table.receive(&sent, &truncated_reply(&sent.bytes), 4);
    assert!(table.receive(&next[0], &truncated_reply(&next[0].bytes), 5).is_empty());
    let (_, reply) = table.reply().unwrap();
    assert_eq!((wire::rcode(&reply), wire::is_truncated(&reply)), (Some(rcode::SERVFAIL), false));
}

#[test]
fn truncation_over_udp_does_not_end_the_wait_for_a_slow_answer_over_tcp() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let slow = ask(&mut table, 1, 0);
    table.expire(200);
    let copy = table.expire(1000);
    assert!(copy.len() == 1 && !copy[0].tcp);
    // The server is there: another connection, in case it is this one that is broken.
    let again = table.receive(&copy[0], &truncated_reply(&copy[0].bytes), 1001);
    assert!(again.len() == 1 && again[0].tcp && again[0].from != slow.from);
    let mut copies = 0;
    for at in (1010..3500).step_by(10) {
        for copy in table.expire(at) {
            assert!(!copy.tcp);
            copies += 1;
            assert!(table.receive(&copy, &truncated_reply(&copy.bytes), at).is_empty());
        }
    }
    assert_eq!((copies > 0, table.reply()), (true, None));
    answer(&mut table, &slow, 3500);
}

#[test]
fn dropped_tcp_is_found_within_half_of_a_short_timeout_and_by_the_next_query_at_once() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let mut settings = with_limits(vec![listed(&[1])], 10);
    settings.timeout = Duration::from_millis(1000);
    table.core.reconfigure(&settings);
    ask(&mut table, 1, 0);
    assert!(ask(&mut table, 2, 400).tcp);
    assert!(table.expire(200).is_empty());
    let over_udp = table.expire(500);
    assert!(over_udp.len() == 1 && !over_udp[0].tcp);
    answer(&mut table, &over_udp[0], 501);
    assert!(!ask(&mut table, 3, 502).tcp);
    // Whoever waited meanwhile: as soon as it looks.
    let over_udp = table.expire(600);
    assert!(over_udp.iter().any(|sent| !sent.tcp));
}

#[test]
fn an_answer_over_tcp_takes_the_refusal_back() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let slow = ask(&mut table, 1, 0);
    table.expire(200);
    assert_eq!(table.expire(1000).len(), 1);
    assert!(!ask(&mut table, 2, 1001).tcp);
    answer(&mut table, &slow, 1500);
    assert!(ask(&mut table, 3, 1501).tcp);
}

#[test]
fn truncation_that_tcp_clients_have_no_use_for_is_no_failure_of_the_server() {
    let mut table = Table::new(vec![listed(&[1, 2])], 100);
    (0..50).for_each(|_| table.prove(0));
    let refused = ask(&mut table, 1, 0);
    let over_udp = table.fail(&refused, Failure::Refused, 0);
    let next = table.receive(&over_udp[0], &truncated_reply(&over_udp[0].bytes), 1);
    answer(&mut table, &next[0], 2);
    // TCP gets another chance with each, and is refused again.
    let mut all = Vec::new();
    for client in 2..10 {
        let mut sent = ask(&mut table, client, 10);
        if !sent.tcp {
            sent = table.receive(&sent, &truncated_reply(&sent.bytes), 10).remove(0);
        }
        let over_udp = table.fail(&sent, Failure::Refused, 10);
        all.extend(over_udp);
    }
    let mut elsewhere = Vec::new();
    for sent in &all {
        elsewhere.extend(table.receive(sent, &truncated_reply(&sent.bytes), 11));
    }
    assert!(elsewhere.len() >= 8 && to(&elsewhere).contains(&2));
    for sent in elsewhere.iter().filter(|sent| sent.to == 2) {
        table.receive(sent, &reply(&sent.bytes, 0), 12);
    }
    assert_eq!(to(&table.ask(udp(1), &query(1, "b"), 13)), [1]);
}
