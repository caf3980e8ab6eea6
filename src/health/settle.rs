//! What is known of a name, settled: its decision, the event that tells of a change, the records to write.

use std::net::IpAddr;
use std::sync::Arc;

use super::conflict::{Conflict, News};
use super::decide::{Answered, Basis, Decision, FamilyDecision, Plan, View, decide};
use super::endpoint::Endpoint;
use super::events::place;
use super::overrides::{SEAM, row_words};
use super::rank::{Input, Sharer};
use super::roster::{Name, Records, Roster};
use super::{AnswerRecord, Event, EventKind, Family, Host, State, Time};

/// Addresses named in one event at most: a line that nobody can read tells nothing.
const TOLD_ADDRESSES: usize = 8;

impl Roster {
    /// Ranks a name again. Its decision, if it differs from the last one that was taken.
    pub(super) fn decide_name(&mut self, index: usize, now: Time) -> Option<Decision> {
        let name = self.names.get(index)?;
        let by_family = Family::BOTH.map(|family| indices_of(name, family));
        if name.spec.wants_the_one() {
            self.settle_conflicts(index, &by_family, now);
        }
        let name = self.names.get(index)?;
        let view = self.view(name, &by_family);
        let mut answered = decide(&view);
        for (family, answered) in Family::BOTH.into_iter().zip(&mut answered) {
            let conflict = &name.families[family.index()].conflict;
            for place in &mut answered.ranking.places {
                if conflict.leaves_out(view.inputs[family.index()][place.input].address) {
                    place.standing = Conflict::standing();
                }
            }
        }
        let reasons = Family::BOTH.map(|family| {
            let (state, new) = (&name.families[family.index()], &answered[family.index()]);
            let same = state.decided && !state.reason_is_old && state.basis == new.basis;
            let changed = !same || !state.plan.gives_what(&new.plan);
            let error = |address| {
                let endpoint = name.endpoints.iter().find(|endpoint| endpoint.address == address)?;
                endpoint.last_error().map(str::to_owned)
            };
            changed.then(|| view.reason(family, state.basis, new, error))
        });
        drop(view);
        let waiting = self.warm_up(index);
        // Neither waits for anything to pass a check.
        let pinned = answered.iter().any(|answered| answered.basis == Basis::Pinned);
        let waiting = waiting && !pinned;
        let bypass = self.overrides.bypasses(&self.names[index].spec.name);
        let mut changed = false;
        for ((family, answered), reason) in Family::BOTH.into_iter().zip(&answered).zip(reasons) {
            self.take_places(index, &by_family[family.index()], answered);
            changed |= self.take_answer(index, family, answered, reason, now);
        }
        let name = &mut self.names[index];
        if name.told.map(|(bypassed, _)| bypassed) != Some(bypass) {
            name.families.iter_mut().for_each(|family| family.unwritten = true);
            self.changed.insert(index);
        }
        changed |= name.told != Some((bypass, waiting));
        name.told = Some((bypass, waiting));
        let name = &self.names[index];
        changed.then(|| Decision {
            name: index,
            bypass,
            waiting,
            families: Family::BOTH.map(|family| family_decision(name, family)),
        })
    }

    /// Has the next [`Roster::take_records`] give everything: the state file is new.
    pub fn rewrite(&mut self) {
        for (index, name) in self.names.iter_mut().enumerate() {
            name.endpoints.iter_mut().for_each(|endpoint| endpoint.dirty = true);
            name.families.iter_mut().for_each(|family| family.unwritten = true);
            self.changed.insert(index);
        }
    }

    /// The name with this index and the candidate behind one of its addresses; of several the one that ranks
    /// first.
    pub fn endpoint_of(&self, name: usize, address: IpAddr) -> Option<(Arc<str>, Host)> {
        let name = self.names.get(name)?;
        let endpoints = name.endpoints.iter().filter(|endpoint| endpoint.address == address);
        let first = endpoints.min_by_key(|endpoint| endpoint.rank().unwrap_or(u32::MAX))?;
        let candidate = name.spec.candidates.get(first.candidate())?;
        Some((Arc::clone(&name.spec.name), candidate.host.clone()))
    }

    /// Records to write that were not taken yet, about `room` of them at most; the others wait, and change meanwhile
    /// without costing memory. To be called after `take_decisions`.
    pub fn take_records(&mut self, room: usize) -> Records {
        let mut records = Records {
            removed: std::mem::take(&mut self.removed),
            removed_names: std::mem::take(&mut self.removed_names),
            ..Records::default()
        };
        while records.endpoints.len() + records.answers.len() < room
            && let Some(index) = self.changed.next_unwritten()
        {
            let bypass = self.names.get(index).and_then(|name| self.overrides.bypass(&name.spec.name)).map(row_words);
            let Some(Name { spec, endpoints, families, .. }) = self.names.get_mut(index) else { continue };
            for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.dirty) {
                endpoint.dirty = false;
                if let Some(candidate) = spec.candidates.get(endpoint.candidate()) {
                    records.endpoints.push(endpoint.record(&spec.name, candidate));
                }
            }
            for (family, state) in Family::BOTH.into_iter().zip(families) {
                if !std::mem::take(&mut state.unwritten) {
                    continue;
                }
                records.answers.push(AnswerRecord {
                    name: Arc::clone(&spec.name),
                    family,
                    addresses: Arc::clone(&state.addresses),
                    basis: bypass.as_ref().map_or(state.basis.as_str(), |_| "bypass").into(),
                    reason: match &bypass {
                        Some(words) => {
                            format!("bypassed {words}: every query is forwarded{SEAM}{}", state.reason).into()
                        }
                        None => Arc::clone(&state.reason),
                    },
                    since: state.since,
                    last_good: Arc::clone(&state.last_good),
                });
            }
        }
        records
    }

    /// Whether records wait to be taken.
    pub fn has_records(&self) -> bool {
        self.changed.has_unwritten()
    }

    /// Finds out who claims to be the one master or primary, and tells of what changed.
    fn settle_conflicts(&mut self, index: usize, by_family: &[Vec<usize>; 2], now: Time) {
        let Some(Name { spec, endpoints, families, .. }) = self.names.get_mut(index) else { return };
        for (family, (indices, state)) in Family::BOTH.into_iter().zip(by_family.iter().zip(families)) {
            let exclusive = |e: &&Endpoint| {
                spec.candidates.get(e.candidate()).is_some_and(|c| c.checks.iter().any(|check| check.exclusive))
            };
            let own = indices.iter().filter_map(|&i| endpoints.get(i)).filter(exclusive);
            let claims: Vec<_> = own.map(Endpoint::claim).collect();
            let Some(news) = state.conflict.update(&claims, &state.addresses) else { continue };
            let word = |address: &IpAddr| {
                let endpoint = endpoints.iter().find(|e| e.address == *address);
                let host = endpoint.and_then(|e| spec.candidates.get(e.candidate())).map(|c| &c.host);
                host.map_or_else(|| address.to_string(), |host| place(host, *address))
            };
            let reason = match news {
                News::Begins(keeper, others) => {
                    let others: Vec<String> = others.iter().take(TOLD_ADDRESSES).map(word).collect();
                    let keeper = word(&keeper);
                    format!(
                        "{keeper} and {} claim to be the one master or primary: the answer stays at {keeper}",
                        others.join(", ")
                    )
                }
                News::Ends => "no two claim to be the one master or primary any more".to_owned(),
            };
            let mut event = Event::new(now, EventKind::RoleConflict, reason);
            event.name = Some(Arc::clone(&spec.name));
            event.family = Some(family);
            self.events.push(event);
        }
    }

    fn view<'a>(&'a self, name: &'a Name, by_family: &[Vec<usize>; 2]) -> View<'a> {
        let spec = &name.spec;
        let [v4, v6] = &name.families;
        let inputs = |indices: &Vec<usize>, conflict: &Conflict| {
            let endpoints = indices.iter().map(|&i| &name.endpoints[i]);
            let input = |e: &'a Endpoint| {
                let input = e.input(spec.candidates.get(e.candidate())?);
                let priority = input.priority.filter(|_| !conflict.leaves_out(e.address));
                Some(Input { priority, since: self.wall.at(input.since), ..input })
            };
            let mut inputs = Vec::with_capacity(indices.len());
            inputs.extend(endpoints.filter_map(input));
            inputs
        };
        View {
            policy: &spec.policy,
            sharer: Sharer { machine: self.machine, name: &spec.name },
            inputs: [inputs(&by_family[0], &v4.conflict), inputs(&by_family[1], &v6.conflict)],
            incumbent: [&v4.addresses, &v6.addresses],
            last_good: [&v4.last_good, &v6.last_good],
            looked_up: Family::BOTH.map(|family| self.looked_up(name, family)),
            fallback: Family::BOTH.map(|family| self.fallback(name, family)),
            pin: self.pin(name),
            held: [v4.held.as_deref(), v6.held.as_deref()],
            in_vain: self.in_vain.get(&spec.name).map(|why| &**why),
        }
    }

    /// Whether it is known which addresses the candidates have in a family.
    fn looked_up(&self, name: &Name, family: Family) -> bool {
        let mut known = name.spec.candidates.iter().any(|candidate| matches!(candidate.host, Host::Address(_)));
        for entry in name.hosts().filter_map(|host| self.lookups.get(host)) {
            let succeeded = entry.succeeded[family.index()];
            if !succeeded && !entry.finished {
                return false;
            }
            known |= succeeded;
        }
        known
    }

    fn fallback(&self, name: &Name, family: Family) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for host in &name.spec.fallback {
            let of_host = match host {
                Host::Address(address) => vec![*address],
                Host::Name(host) => {
                    let entry = self.lookups.get(host);
                    entry.map(|entry| entry.addresses.iter().map(|k| k.address).collect()).unwrap_or_default()
                }
            };
            for address in of_host {
                if Family::of(address) == family && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    /// A name is cold until something of it passed or everything failed.
    fn warm_up(&mut self, index: usize) -> bool {
        let name = &self.names[index];
        let passed = name.endpoints.iter().any(|e| e.health.state == State::Up || e.effect().forced);
        let resolved = name.hosts().all(|host| self.lookups.get(host).is_some_and(|entry| entry.finished));
        let heard = name.endpoints.iter().all(|e| e.health.state != State::Unknown);
        let found = !self.discovering.contains(&name.spec.name);
        let cold = name.cold && !passed && !(found && resolved && heard);
        self.names[index].cold = cold;
        cold
    }

    /// Writes ranks and standings down.
    fn take_places(&mut self, index: usize, family: &[usize], answered: &Answered) {
        let given = answered.plan.addresses();
        let endpoints = &mut self.names[index].endpoints;
        for (rank, placed) in answered.ranking.places.iter().enumerate() {
            let Some(endpoint) = family.get(placed.input).and_then(|&i| endpoints.get_mut(i)) else { continue };
            let rank = u32::try_from(rank + 1).ok();
            let chosen = given.contains(&endpoint.address);
            if (endpoint.rank(), endpoint.chosen, endpoint.standing) != (rank, chosen, placed.standing) {
                endpoint.set_rank(rank);
                endpoint.chosen = chosen;
                endpoint.standing = placed.standing;
                endpoint.dirty = true;
                self.changed.insert(index);
            }
        }
    }

    /// Takes an answer over; tells of it when it changed. Whether it differs.
    fn take_answer(
        &mut self,
        index: usize,
        family: Family,
        answered: &Answered,
        reason: Option<String>,
        now: Time,
    ) -> bool {
        let episode = self.fault.episode();
        let name = &mut self.names[index];
        let state = &mut name.families[family.index()];
        let addresses = answered.plan.addresses();
        let fit = matches!(answered.basis, Basis::Ranked | Basis::Panic | Basis::Empty);
        if fit && *state.last_good != *addresses {
            state.last_good = Arc::clone(&addresses);
            state.unwritten = true;
            self.changed.insert(index);
        }
        let differs = state.plan != answered.plan;
        if !differs && reason.is_none() {
            return false;
        }
        let is_new = !state.plan.gives_what(&answered.plan);
        let before = std::mem::replace(&mut state.plan, answered.plan.clone());
        if let Some(episode) = episode.filter(|_| differs)
            && state.before_episode.as_ref().is_none_or(|kept| kept.0 != episode)
        {
            state.before_episode = Some(Box::new((episode, before.clone())));
        }
        let old = std::mem::replace(&mut state.addresses, addresses);
        let Some(reason) = reason else { return differs };
        let first = !std::mem::replace(&mut state.decided, true);
        state.reason_is_old = false;
        state.basis = answered.basis;
        state.unwritten = true;
        self.changed.insert(index);
        let quiet = first && state.addresses.is_empty();
        let kind_differs = std::mem::discriminant(&before) != std::mem::discriminant(&state.plan);
        // What it answers may be what it began with: then it has done so since it was first decided.
        if is_new || state.since == Time::default() {
            state.since = now;
        }
        state.reason = self.common.share(&reason);
        if !quiet && (old != state.addresses || kind_differs) {
            let event = answer_event(name, family, &before, &old, first, now);
            self.events.push(event);
        }
        differs
    }
}

/// The endpoints of a family, in their order.
fn indices_of(name: &Name, family: Family) -> Vec<usize> {
    let mut indices = Vec::with_capacity(name.endpoints.len());
    indices.extend((0..name.endpoints.len()).filter(|&i| Family::of(name.endpoints[i].address) == family));
    indices
}

fn family_decision(name: &Name, family: Family) -> FamilyDecision {
    let state = &name.families[family.index()];
    FamilyDecision {
        family,
        plan: state.plan.clone(),
        basis: state.basis,
        reason: Arc::clone(&state.reason),
        since: state.since,
    }
}

fn answer_event(name: &Name, family: Family, before: &Plan, old: &[IpAddr], first: bool, now: Time) -> Event {
    let state = &name.families[family.index()];
    let latency = |addresses: &[IpAddr]| {
        let address = addresses.first()?;
        name.endpoints.iter().find(|e| e.address == *address)?.health.latency_ms.get()
    };
    let mut event = Event::new(now, EventKind::Answer, Arc::clone(&state.reason));
    event.name = Some(Arc::clone(&name.spec.name));
    event.family = Some(family);
    event.before = (!first).then(|| describe(name, before, old).into());
    event.after = Some(describe(name, &state.plan, &state.addresses).into());
    (event.before_ms, event.after_ms) = (latency(old), latency(&state.addresses));
    event
}

/// A plan in the words of an event.
fn describe(name: &Name, plan: &Plan, addresses: &[IpAddr]) -> String {
    match plan {
        Plan::Addresses { .. } => {
            let word = |address: &IpAddr| {
                let endpoint = name.endpoints.iter().find(|e| e.address == *address);
                let host = endpoint.and_then(|e| name.spec.candidates.get(e.candidate())).map(|c| &c.host);
                host.map_or_else(|| address.to_string(), |host| place(host, *address))
            };
            let mut words: Vec<String> = addresses.iter().take(TOLD_ADDRESSES).map(word).collect();
            if addresses.len() > TOLD_ADDRESSES {
                words.push(format!("{} more", addresses.len() - TOLD_ADDRESSES));
            }
            words.join(", ")
        }
        Plan::Empty => "no address".to_owned(),
        Plan::AllDown => "SERVFAIL".to_owned(),
        Plan::NotReady => "not ready".to_owned(),
        Plan::Forward => "forwarded".to_owned(),
    }
}
