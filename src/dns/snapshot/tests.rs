//! Tests of the snapshot: what is set is what is answered.

use proptest::prelude::*;

use super::*;

fn names(texts: &[&str]) -> Vec<NameSettings> {
    let settings = |text: &&str| NameSettings { name: text.parse().unwrap(), ttl: 1, other_types: OtherTypes::Forward };
    texts.iter().map(settings).collect()
}

fn fold(text: &str) -> Folded {
    Folded::new(&super::super::wire::tests::wire_name(text))
}

#[test]
fn exact_before_wildcard_and_longer_before_shorter() {
    let snapshot = Snapshot::new(0, names(&["*.example", "api.example", "*.apps.example", "x.y.apps.example"]), &[]);
    for (name, found) in [
        ("API.example", Some(1)),
        ("other.example", Some(0)),
        ("below.api.example", Some(0)),
        ("apps.example", Some(0)),
        ("a.apps.example", Some(2)),
        ("a.b.c.apps.EXAMPLE", Some(2)),
        ("x.y.apps.example", Some(3)),
        ("z.x.y.apps.example", Some(2)),
        ("*.example", Some(0)),
        ("*.apps.example", Some(2)),
        ("example", None),
        ("api.example.com", None),
        ("xapi.com", None),
        ("", None),
    ] {
        assert_eq!(snapshot.find(&fold(name)), found, "{name}");
    }
    assert_eq!((snapshot.len(), snapshot.is_empty()), (4, false));
    assert_eq!(snapshot.settings(1).unwrap().name.to_string(), "api.example");
    assert!(snapshot.settings(4).is_none());
}

#[test]
fn a_wildcard_below_the_root_stands_for_every_name() {
    let snapshot = Snapshot::new(0, names(&["*"]), &[]);
    assert_eq!(snapshot.find(&fold("a.b")), Some(0));
    assert_eq!(snapshot.find(&fold("")), None);
}

#[test]
fn routes_by_longest_suffix() {
    let routes = ["corp.example", "lab.corp.example", "test"].map(|text| text.parse().unwrap());
    let snapshot = Snapshot::new(0, Vec::new(), &routes);
    for (name, route) in [
        ("corp.example", 1),
        ("www.CORP.example", 1),
        ("lab.corp.example", 2),
        ("a.b.lab.corp.example", 2),
        ("test", 3),
        ("example", 0),
        ("mycorp.example", 0),
        ("", 0),
    ] {
        assert_eq!(snapshot.route(&fold(name)), route, "{name}");
    }
}

#[test]
fn what_does_not_fit_a_family_is_left_out() {
    let mut snapshot = Snapshot::new(0, names(&["a"]), &[]);
    let turn = |texts: &[&str]| Turn {
        addresses: texts.iter().map(|text| text.parse().unwrap()).collect(),
        given: Arc::default(),
    };
    let mixed = FamilyAnswer::Addresses {
        turns: vec![turn(&["::1", "192.0.2.1"]), turn(&["::2"]), turn(&["192.0.2.2"])],
        stale: false,
    };
    let nothing = FamilyAnswer::Addresses { turns: vec![turn(&["192.0.2.1"])], stale: true };
    snapshot.set(0, NameAnswer { v4: mixed, v6: nothing, bypass: false });
    snapshot.set(9, NameAnswer { v4: FamilyAnswer::Empty, v6: FamilyAnswer::Empty, bypass: true });
    let line = snapshot.line(0).unwrap();
    assert_eq!(line.standing(Family::V4), Standing { state: State::More, waiting: false, stale: false });
    assert_eq!(line.standing(Family::V6), Standing { state: State::Empty, waiting: false, stale: false });
    assert_eq!(snapshot.take_turn(0, Family::V4, line), b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\xc0\0\x02\x01");
    assert_eq!(snapshot.take_turn(0, Family::V4, line)[12..], [192, 0, 2, 2]);
}

#[test]
fn one_address_stands_in_the_line_of_its_name() {
    let mut snapshot = Snapshot::new(0, names(&["a"]), &[]);
    let one = |text: &str, stale| FamilyAnswer::Addresses {
        turns: vec![Turn { addresses: vec![text.parse().unwrap()], given: Arc::default() }],
        stale,
    };
    snapshot.set(0, NameAnswer { v4: one("192.0.2.1", false), v6: one("2001:db8::1", true), bypass: false });
    let line = snapshot.line(0).unwrap();
    assert_eq!(line.standing(Family::V6), Standing { state: State::One, waiting: false, stale: true });
    let (v4, length) = address_record(line, Family::V4);
    assert_eq!(v4[..length], *b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\xc0\0\x02\x01");
    let (v6, length) = address_record(line, Family::V6);
    assert_eq!(v6[..length], *b"\xc0\x0c\0\x1c\0\x01\0\0\0\x01\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01");
}

#[test]
fn what_is_kept_beside_the_line_stays_small() {
    assert!(size_of::<[Held; 2]>() <= 32, "{} bytes, ten thousand times", size_of::<[Held; 2]>());
}

/// The rule of the contract in the plainest way: every name is looked at.
fn naive(configured: &[NameSettings], asked: &HostName) -> Option<u32> {
    let text = asked.to_string();
    let matches = |settings: &NameSettings| {
        let pattern = settings.name.to_string();
        match pattern.strip_prefix('*') {
            Some(suffix) => (text.len() > suffix.len() && text.ends_with(suffix)).then_some(suffix.len()),
            None => (text == pattern).then_some(usize::MAX),
        }
    };
    let fitting = (0..).zip(configured).filter_map(|(index, settings)| Some((matches(settings)?, index)));
    fitting.max_by_key(|&(length, index)| (length, std::cmp::Reverse(index))).map(|(_, index)| index)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn as_the_naive_model_finds(
        configured in prop::collection::vec("(\\*\\.)?([abc]\\.){0,3}[abc]", 0..12),
        asked in prop::collection::vec("([abcABC]\\.){0,4}[abcABC]", 1..12),
    ) {
        let configured = names(&configured.iter().map(String::as_str).collect::<Vec<_>>());
        let routes: Vec<HostName> = configured.iter().map(|settings| settings.name.clone()).collect();
        let snapshot = Snapshot::new(0, configured.clone(), &routes);
        for text in &asked {
            let name: HostName = text.parse().unwrap();
            prop_assert_eq!(snapshot.find(&fold(text)), naive(&configured, &name), "{}", text);
            let mut best = (0, 0);
            for (number, route) in (1..).zip(&routes) {
                let below = format!(".{name}").ends_with(&format!(".{route}"));
                if below && route.labels() > best.0 {
                    best = (route.labels(), number);
                }
            }
            prop_assert_eq!(snapshot.route(&fold(text)), best.1, "{}", text);
        }
    }
}
