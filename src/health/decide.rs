//! What is answered for a name: both families of one moment, with reasons.
//!
//! [`super::rank`] orders the addresses of a family; here the two families meet the rules that are about the
//! whole name: not known yet, all down, families compared, pins, and answers held through a fault of this
//! host's own network.

use std::net::IpAddr;
use std::sync::Arc;

use super::events::{milliseconds, place};
use super::few::Few;
use super::overrides::own_reason;
use super::rank::{Input, Ranking, Sharer, Standing, rank};
use super::selection::margin;
use super::{AllDown, DualStack, Family, Policy, Select, State, Time};

/// Addresses that the all-down rule gives at most.
const ALL_DOWN_ADDRESSES: usize = 16;

/// How the reason of an answer without any known address begins.
pub(super) const NO_ADDRESS: &str = "no address is known";
/// How the reason ends where the all-down rule forwards, answers SERVFAIL, or gives the fallback list. What an answer
/// without addresses is can be told by these alone.
pub(super) const RULE_FORWARD: &str = "the query is forwarded";
pub(super) const RULE_SERVFAIL: &str = "SERVFAIL";
pub(super) const RULE_FALLBACK: &str = "the fallback list is given";

/// Why no address of a name is known, by the reason of its answer: what became of the search for its candidates.
pub fn why_unknown(reason: &str) -> Option<&str> {
    own_reason(reason).strip_prefix(NO_ADDRESS)?.strip_prefix(": ")
}

/// What became of a name: both families of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Index in the specs of the last `configure`.
    pub name: usize,
    /// The whole name is forwarded by an override.
    pub bypass: bool,
    /// Cold start without any state: a query waits for this to change, up to the server's limit.
    pub waiting: bool,
    /// For A, then AAAA ([`Family::BOTH`]).
    pub families: [FamilyDecision; 2],
}

/// What is answered for one family.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilyDecision {
    /// Which.
    pub family: Family,
    /// What is sent.
    pub plan: Plan,
    /// How it came about.
    pub basis: Basis,
    /// Why, in a sentence.
    pub reason: Arc<str>,
    /// Since when this plan holds.
    pub since: Time,
}

/// What is sent to who asks for one family of a name.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Plan {
    /// Addresses: whole answers, used one after the other. Never empty, none of them empty.
    Addresses {
        /// Each a whole answer in its order: one list for all who keep it.
        turns: Few<Arc<[IpAddr]>>,
        /// To be marked as stale (EDE 3).
        stale: bool,
    },
    /// NOERROR without an address.
    Empty,
    /// SERVFAIL, EDE 22: all down.
    AllDown,
    /// SERVFAIL, EDE 14: no address known yet.
    #[default]
    NotReady,
    /// Ask upstream.
    Forward,
}

impl Plan {
    /// One answer, or an empty one without addresses.
    pub(super) fn one(addresses: impl Into<Arc<[IpAddr]>>, stale: bool) -> Plan {
        let addresses = addresses.into();
        if addresses.is_empty() { Plan::Empty } else { Plan::Addresses { turns: Few::One(addresses), stale } }
    }

    /// Every address that any turn gives, in the order of the first that do.
    pub fn addresses(&self) -> Arc<[IpAddr]> {
        let Plan::Addresses { turns, .. } = self else { return Arc::default() };
        if let Few::One(turn) = turns {
            return Arc::clone(turn);
        }
        // Rotations are told by their members in a stable order, not by whose turn is first.
        let mut all: Vec<IpAddr> = turns.iter().flat_map(|turn| &**turn).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.into()
    }

    /// Whether the same addresses come of it. What is given in turn may come in other shares.
    pub(super) fn gives_what(&self, other: &Plan) -> bool {
        let alike = std::mem::discriminant(self) == std::mem::discriminant(other);
        self == other || (alike && self.addresses() == other.addresses())
    }

    /// The same with stale marks and without some addresses; `None` when nothing would be left of it.
    fn held(&self, left_out: impl Fn(IpAddr) -> bool) -> Option<Plan> {
        let Plan::Addresses { turns, .. } = self else { return (*self == Plan::Empty).then_some(Plan::Empty) };
        let turns: Few<Arc<[IpAddr]>> = turns
            .iter()
            .map(|turn| turn.iter().copied().filter(|address| !left_out(*address)).collect::<Arc<[_]>>())
            .filter(|turn| !turn.is_empty())
            .collect();
        (!turns.is_empty()).then_some(Plan::Addresses { turns, stale: true })
    }
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Basis {
    /// By health and rank.
    Ranked,
    /// Too few fit: health is ignored.
    Panic,
    /// Nothing up but something unknown: the stored order.
    NotKnownYet,
    /// The all-down rule.
    AllDown,
    /// Held through a fault of this host's own network.
    Held,
    /// An operator's pin.
    Pinned,
    /// Addresses are known, but none is given: the other family is answered.
    Empty,
    /// The candidates have no address of this family.
    NoAddress,
    /// It is not known yet which addresses they have.
    #[default]
    NotReady,
}

impl Basis {
    /// The word of the state file.
    pub fn as_str(self) -> &'static str {
        match self {
            Basis::Ranked => "ranked",
            Basis::Panic => "panic",
            Basis::NotKnownYet => "not-known-yet",
            Basis::AllDown => "all-down",
            Basis::Held => "held",
            Basis::Pinned => "pinned",
            Basis::Empty => "empty",
            Basis::NoAddress => "no-address",
            Basis::NotReady => "not-ready",
        }
    }
}

/// Everything that a name's answer depends on.
pub(super) struct View<'a> {
    /// Its policy.
    pub(super) policy: &'a Policy,
    /// Who shares.
    pub(super) sharer: Sharer<'a>,
    /// Its addresses by family, as listed.
    pub(super) inputs: [Vec<Input<'a>>; 2],
    /// What was answered last, by family.
    pub(super) incumbent: [&'a [IpAddr]; 2],
    /// What was answered last while something was fit.
    pub(super) last_good: [&'a [IpAddr]; 2],
    /// Whether it is known which addresses the family has.
    pub(super) looked_up: [bool; 2],
    /// The fallback list by family.
    pub(super) fallback: [Vec<IpAddr>; 2],
    /// A pin's addresses by family and its words.
    pub(super) pin: Option<([Vec<IpAddr>; 2], String)>,
    /// What is held through a local fault.
    pub(super) held: [Option<&'a Plan>; 2],
    /// Why the last search for candidates found none.
    pub(super) in_vain: Option<&'a str>,
}

/// What is answered, and the order behind it.
pub(super) struct Answered {
    /// What is sent.
    pub(super) plan: Plan,
    /// How it came about.
    pub(super) basis: Basis,
    /// The order.
    pub(super) ranking: Ranking,
}

/// Decides both families.
pub(super) fn decide(view: &View<'_>) -> [Answered; 2] {
    let rankings = Family::BOTH
        .map(|family| rank(&view.inputs[family.index()], view.incumbent[family.index()], view.policy, view.sharer));
    let mut picks = Family::BOTH.map(|family| {
        view.pinned(family).or_else(|| view.held(family)).unwrap_or_else(|| view.by_rules(family, &rankings))
    });
    if view.policy.dual_stack == DualStack::Fastest
        && let Some(slower) = view.slower_family(&picks, &rankings)
    {
        picks[slower.index()] = (Plan::Empty, Basis::Empty);
    }
    let mut rankings = rankings.into_iter();
    let mut inputs = view.inputs.iter();
    picks.map(|(plan, basis)| {
        let mut ranking = rankings.next().unwrap_or_default();
        fit_standings(&mut ranking, inputs.next().map(Vec::as_slice).unwrap_or_default(), &plan, basis);
        Answered { plan, basis, ranking }
    })
}

/// Lets the places say what is really given where something other than the rank decided.
fn fit_standings(ranking: &mut Ranking, inputs: &[Input<'_>], plan: &Plan, basis: Basis) {
    let given = plan.addresses();
    for place in &mut ranking.places {
        let is_given = given.contains(&inputs[place.input].address);
        if place.standing == Standing::Chosen && !is_given {
            place.standing = match basis {
                Basis::Pinned => Standing::OtherPinned,
                Basis::Held => Standing::OtherHeld,
                _ => Standing::OtherFamily,
            };
        } else if is_given && matches!(basis, Basis::Pinned | Basis::Held) {
            place.standing = Standing::Chosen;
        }
    }
}

type Pick = (Plan, Basis);

impl View<'_> {
    fn pinned(&self, family: Family) -> Option<Pick> {
        let (addresses, _) = self.pin.as_ref()?;
        Some((Plan::one(addresses[family.index()].clone(), false), Basis::Pinned))
    }

    /// What was answered before, without what is drained or no candidate's any more. Of the fallback list it may be.
    fn held(&self, family: Family) -> Option<Pick> {
        let left_out = |address| {
            let mut same = self.inputs[family.index()].iter().filter(|input| input.address == address).peekable();
            match same.peek() {
                Some(_) => same.all(|input| input.drained.is_some()),
                None => !self.fallback[family.index()].contains(&address),
            }
        };
        self.held[family.index()]?.held(left_out).map(|plan| (plan, Basis::Held))
    }

    fn by_rules(&self, family: Family, rankings: &[Ranking; 2]) -> Pick {
        let ranking = &rankings[family.index()];
        let inputs = &self.inputs[family.index()];
        if !ranking.turns.is_empty() {
            let stale = ranking.turns.iter().flatten().any(|&i| inputs[i].state == State::Unknown && !inputs[i].forced);
            let turns = ranking.turns.iter().map(|turn| turn.iter().map(|&i| inputs[i].address).collect()).collect();
            return (Plan::Addresses { turns, stale }, if ranking.panic { Basis::Panic } else { Basis::Ranked });
        }
        let other_is_fit = rankings.iter().any(|ranking| !ranking.turns.is_empty());
        let nothing_known = self.inputs.iter().all(Vec::is_empty);
        let hopeful =
            self.inputs.iter().flatten().any(|input| input.state == State::Unknown && input.drained.is_none());
        if inputs.is_empty() {
            let fallback = !other_is_fit && !hopeful && self.policy.when_all_down == AllDown::Fallback;
            return match &self.fallback[family.index()] {
                addresses if fallback && !addresses.is_empty() => (Plan::one(addresses.clone(), true), Basis::AllDown),
                _ if nothing_known || !self.looked_up[family.index()] => (Plan::NotReady, Basis::NotReady),
                _ => (Plan::Empty, Basis::NoAddress),
            };
        }
        if other_is_fit {
            return (Plan::Empty, Basis::Empty);
        }
        if hopeful {
            let limit = if self.policy.select == Select::All { ALL_DOWN_ADDRESSES } else { self.policy.answers };
            let stored = self.known(family, ranking, limit, |input| input.drained.is_none());
            return (Plan::one(stored, true), Basis::NotKnownYet);
        }
        (self.all_down(family, ranking), Basis::AllDown)
    }

    fn all_down(&self, family: Family, ranking: &Ranking) -> Plan {
        match self.policy.when_all_down {
            AllDown::Forward => Plan::Forward,
            AllDown::Servfail => Plan::AllDown,
            AllDown::All | AllDown::Fallback | AllDown::LastGood => match self.list_of_rule() {
                Some(lists) => Plan::one(lists[family.index()].clone(), true),
                None => Plan::one(self.known(family, ranking, ALL_DOWN_ADDRESSES, |i| self.may_be_last(i)), true),
            },
        }
    }

    /// Drained addresses are left out of the all-down rule as long as anything else is left.
    fn may_be_last(&self, input: &Input<'_>) -> bool {
        input.drained.is_none() || self.inputs.iter().flatten().all(|input| input.drained.is_some())
    }

    /// The addresses that the all-down rule names, by family; `None` where it names none: then all that are known are
    /// given.
    fn list_of_rule(&self) -> Option<[Vec<IpAddr>; 2]> {
        let lists = match self.policy.when_all_down {
            AllDown::Fallback => self.fallback.clone(),
            AllDown::LastGood => Family::BOTH.map(|family| {
                let inputs = &self.inputs[family.index()];
                let is_left =
                    |address: &IpAddr| inputs.iter().any(|input| input.address == *address && self.may_be_last(input));
                self.last_good[family.index()].iter().copied().filter(is_left).collect()
            }),
            AllDown::All | AllDown::Forward | AllDown::Servfail => return None,
        };
        lists.iter().any(|list| !list.is_empty()).then_some(lists)
    }

    /// The first distinct addresses of a ranking that pass.
    fn known(&self, family: Family, ranking: &Ranking, limit: usize, pass: impl Fn(&Input<'_>) -> bool) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for input in ranking.places.iter().map(|place| &self.inputs[family.index()][place.input]) {
            if addresses.len() < limit && pass(input) && !addresses.contains(&input.address) {
                addresses.push(input.address);
            }
        }
        addresses
    }

    /// The family that is slower than the other. The one that is answered alone gives way only by the margin.
    fn slower_family(&self, picks: &[Pick; 2], rankings: &[Ranking; 2]) -> Option<Family> {
        if !picks.iter().all(|(_, basis)| matches!(basis, Basis::Ranked | Basis::Panic)) {
            return None;
        }
        // Each answer begins with what its clients take. Of answers that are given in turn the fastest tells what the
        // family can do: its members are equals because the configuration says so.
        let best = |family: Family| {
            let firsts = rankings[family.index()].turns.iter().filter_map(|turn| turn.first());
            let inputs = firsts.map(|&first| &self.inputs[family.index()][first]);
            let measured = inputs.filter_map(|input| Some((input.latency_ms?, input.deviation_ms)));
            measured.min_by(|one, other| one.0.total_cmp(&other.0))
        };
        let (v4, v6) = (best(Family::V4)?, best(Family::V6)?);
        let [v4_answered, v6_answered] = self.incumbent.map(|incumbent| !incumbent.is_empty());
        let slack = |old: f64| margin(old, [v4.1, v6.1], self.policy.hysteresis);
        let v6_is_slower = match (v4_answered, v6_answered) {
            (true, false) => v4.0 - v6.0 <= slack(v4.0),
            (false, true) => v6.0 - v4.0 > slack(v6.0),
            _ => v6.0 > v4.0,
        };
        Some(if v6_is_slower { Family::V6 } else { Family::V4 })
    }

    /// Why the answer is what it is, told when it changes. `before` is how the one until now came about.
    pub(super) fn reason(
        &self,
        family: Family,
        before: Basis,
        answered: &Answered,
        error: impl Fn(IpAddr) -> Option<String>,
    ) -> String {
        match answered.basis {
            Basis::Pinned => {
                let words = self.pin.as_ref().map(|(_, words)| words.as_str()).unwrap_or_default();
                format!("pinned {words}")
            }
            Basis::Held => "held: the fault is taken to be this host's own network".to_owned(),
            Basis::NotKnownYet => "nothing is known to be up yet: the stored order".to_owned(),
            Basis::AllDown => {
                let lists = self.list_of_rule();
                let rule = match (self.policy.when_all_down, &lists) {
                    (AllDown::All, _) => "all known addresses are given, the best known first",
                    (AllDown::LastGood, Some(_)) => "what was last answered is given",
                    (AllDown::LastGood, None) => {
                        "nothing that was answered before is left: all known addresses are given"
                    }
                    (AllDown::Forward, _) => RULE_FORWARD,
                    (AllDown::Servfail, _) => RULE_SERVFAIL,
                    (AllDown::Fallback, Some(_)) => RULE_FALLBACK,
                    (AllDown::Fallback, None) => "the fallback list has no address: all known addresses are given",
                };
                format!("every known address is down or drained: {rule}")
            }
            Basis::Empty if self.policy.dual_stack == DualStack::Fastest && !answered.ranking.turns.is_empty() => {
                "the other family is faster".to_owned()
            }
            Basis::Empty => "nothing of this family is fit, the other family is answered".to_owned(),
            Basis::NotReady => match self.in_vain {
                Some(why) => format!("{NO_ADDRESS}: {why}"),
                None => format!("{NO_ADDRESS} yet"),
            },
            Basis::NoAddress => "the candidates have no address of this family".to_owned(),
            Basis::Panic => "too few addresses are fit (panic_below): health is ignored".to_owned(),
            Basis::Ranked => match before {
                Basis::Pinned => "no longer pinned".to_owned(),
                Basis::Held => "no longer held".to_owned(),
                Basis::AllDown => self.reason_of_rise(family, answered),
                _ => self.reason_of_rank(family, before, answered, error),
            },
        }
    }

    /// Why there is a ranking after the all-down rule, whose addresses need not be any candidate's, or after nothing was
    /// known.
    fn reason_of_rise(&self, family: Family, answered: &Answered) -> String {
        let first = answered.plan.addresses().first().copied();
        let Some(input) = self.inputs[family.index()].iter().find(|input| Some(input.address) == first) else {
            return "something is up again".to_owned();
        };
        let how = if input.forced { "held up by an override" } else { "up" };
        format!("{} is {how}", place(input.host, input.address))
    }

    fn reason_of_rank(
        &self,
        family: Family,
        before: Basis,
        answered: &Answered,
        error: impl Fn(IpAddr) -> Option<String>,
    ) -> String {
        let inputs = &self.inputs[family.index()];
        let new = answered.plan.addresses();
        let Some(&left) = self.incumbent[family.index()].iter().find(|address| !new.contains(address)) else {
            return match self.incumbent[family.index()] {
                [] => format!("{} of {} known addresses are in the answer", new.len(), inputs.len()),
                _ if before == Basis::NotKnownYet => self.reason_of_rise(family, answered),
                _ => "the members of the answer or their order changed".to_owned(),
            };
        };
        let Some(old) = answered.ranking.places.iter().find(|place| inputs[place.input].address == left) else {
            return format!("{left} is no longer an address of any candidate");
        };
        let words = place(inputs[old.input].host, left);
        let first = answered.ranking.places.first().map(|place| &inputs[place.input]);
        match old.standing {
            Standing::Down => {
                let error = error(left).map(|error| format!(" ({error})")).unwrap_or_default();
                format!("{words} is down{error}")
            }
            Standing::NeverChecked | Standing::NotKnownYet => self.reason_of_rise(family, answered),
            Standing::LowerTier => format!("a tier before that of {words} is fit"),
            Standing::Slower | Standing::OutsideGroup => {
                let new = first.map(|input| (place(input.host, input.address), input.latency_ms));
                let (new, new_ms) = new.unwrap_or_default();
                format!(
                    "{new} ({}) is faster than {words} ({})",
                    milliseconds(new_ms),
                    milliseconds(inputs[old.input].latency_ms)
                )
            }
            standing => {
                let input = &inputs[old.input];
                format!("{words}: {}", standing.words(input.since, input.drained))
            }
        }
    }
}
