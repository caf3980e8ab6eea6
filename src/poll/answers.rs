//! What `health` decided, in the words of `dns`: the answers that the event loop gives.

use super::Poller;
use crate::config::Mode;
use crate::dns::snapshot::{FamilyAnswer, NameAnswer, Turn};
use crate::health::Time;
use crate::health::decide::{Decision, FamilyDecision, Plan};

impl Poller {
    /// Every name's answer; all decisions are new after `configure`.
    pub(super) fn all_answers(&mut self, now: Time) -> Vec<NameAnswer> {
        let mut answers = vec![not_known(); self.config.names.len()];
        self.tally.make_room(answers.len());
        while let Some(decision) = self.roster.next_decision(now) {
            let answer = self.name_answer(&decision);
            if let Some(place) = answers.get_mut(decision.name) {
                *place = answer;
            }
        }
        answers
    }

    /// A decision of `health` in the words of `dns`.
    pub(super) fn name_answer(&mut self, decision: &Decision) -> NameAnswer {
        let observed = self.config.names.get(decision.name).is_some_and(|name| name.mode == Mode::Observe);
        let [v4, v6] = &decision.families;
        NameAnswer {
            v4: self.family_answer(decision, v4),
            v6: self.family_answer(decision, v6),
            bypass: decision.bypass || observed,
        }
    }

    fn family_answer(&mut self, decision: &Decision, family: &FamilyDecision) -> FamilyAnswer {
        let tally = &mut self.tally;
        let answer = match &family.plan {
            Plan::Addresses { turns, stale } => FamilyAnswer::Addresses {
                turns: turns
                    .iter()
                    .map(|addresses| Turn {
                        given: tally.watch(decision.name, addresses, *stale),
                        addresses: addresses.to_vec(),
                    })
                    .collect(),
                stale: *stale,
            },
            Plan::Empty => FamilyAnswer::Empty,
            Plan::AllDown => FamilyAnswer::AllDown,
            Plan::NotReady => FamilyAnswer::NotReady,
            Plan::Forward => FamilyAnswer::Forward,
        };
        if decision.waiting { FamilyAnswer::Wait(Box::new(answer)) } else { answer }
    }
}

/// What a name answers before anything is known of it.
fn not_known() -> NameAnswer {
    let wait = || FamilyAnswer::Wait(Box::new(FamilyAnswer::NotReady));
    NameAnswer { v4: wait(), v6: wait(), bypass: false }
}
