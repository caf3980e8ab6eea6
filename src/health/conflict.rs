//! Two addresses that both claim to be the one master or primary.
//!
//! A name whose checks pass at one server alone can have one good address. When two pass at once, nothing seen from
//! here says which of them is right: the answer stays where it was while that one is up. It begins with two that
//! passed in their latest check, so that an ordinary change of roles, in which the old one fails before it is down,
//! is none; it ends when fewer than two are up.

use std::net::IpAddr;

use super::rank::Standing;

/// One address as far as a conflict is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// Whose.
    pub(super) address: IpAddr,
    /// Up and not drained.
    pub(super) up: bool,
    /// Its latest check passed.
    pub(super) passed: bool,
    /// Something is known of it.
    pub(super) heard: bool,
}

/// The conflict of one family of a name, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Conflict {
    /// `None` = there is none. Boxed, since there hardly ever is.
    dispute: Option<Box<Dispute>>,
    /// The answer was decided with everything known at least once: from then on it means something.
    settled: bool,
}

/// Who is in a conflict.
#[derive(Clone, Debug)]
struct Dispute {
    /// Who claims, as listed.
    claimants: Vec<IpAddr>,
    /// Who is answered meanwhile.
    keeper: IpAddr,
}

/// What became of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// These claim, and the answer stays at the first.
    Begins(IpAddr, Vec<IpAddr>),
    /// Fewer than two are left.
    Ends,
}

impl Conflict {
    /// The answer comes from the state file: it was decided in a former run.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// Takes in who claims now, in the order of the file; `incumbent` is what is answered.
    pub(super) fn update(&mut self, claims: &[Claim], incumbent: &[IpAddr]) -> Option<News> {
        let distinct = |pass: fn(&Claim) -> bool| {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for claim in claims.iter().filter(|claim| claim.up && pass(claim)) {
                if !addresses.contains(&claim.address) {
                    addresses.push(claim.address);
                }
            }
            addresses
        };
        let up = distinct(|_| true);
        let before = self.dispute.take();
        let began = before.is_some();
        let holds = up.len() >= 2 && (began || distinct(|claim| claim.passed).len() >= 2);
        let known = self.settled;
        self.settled |= claims.iter().all(|claim| claim.heard);
        if !holds {
            return began.then_some(News::Ends);
        }
        let stays = |address: &IpAddr| known && up.contains(address);
        let kept = before.as_ref().map(|dispute| dispute.keeper).filter(stays);
        let keeper = kept.or_else(|| incumbent.iter().copied().find(stays)).unwrap_or(up[0]);
        let had = |address: &IpAddr| before.as_ref().is_some_and(|before| before.claimants.contains(address));
        let more = !up.iter().all(had);
        let others = up.iter().copied().filter(|address| *address != keeper).collect();
        self.dispute = Some(Box::new(Dispute { claimants: up, keeper }));
        more.then_some(News::Begins(keeper, others))
    }

    /// Whether an address is not to be answered for the sake of the one that was.
    pub(super) fn leaves_out(&self, address: IpAddr) -> bool {
        self.dispute.as_ref().is_some_and(|dispute| dispute.keeper != address && dispute.claimants.contains(&address))
    }

    /// What an address that is left out is said to be.
    pub(super) fn standing() -> Standing {
        Standing::RoleConflict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    /// `u` up and passing, `f` up and failing, `d` down, `?` unknown.
    fn claims(words: &str) -> Vec<Claim> {
        let of = |(address, word): (IpAddr, char)| Claim {
            address,
            up: matches!(word, 'u' | 'f'),
            passed: word == 'u',
            heard: word != '?',
        };
        [A, B].into_iter().zip(words.chars()).map(of).collect()
    }

    #[test]
    fn the_answer_stays_where_it_was() {
        let mut conflict = Conflict::default();
        assert_eq!(conflict.update(&claims("du"), &[B]), None);
        assert_eq!(conflict.update(&claims("uu"), &[B]), Some(News::Begins(B, vec![A])));
        assert!(conflict.leaves_out(A) && !conflict.leaves_out(B));
        // One failure does not make it move, nor is the same conflict told twice.
        assert_eq!(conflict.update(&claims("uf"), &[B]), None);
        assert!(conflict.leaves_out(A));
        assert_eq!(conflict.update(&claims("ud"), &[B]), Some(News::Ends));
        assert!(!conflict.leaves_out(A));
    }

    #[test]
    fn at_first_it_is_the_first_listed() {
        let mut conflict = Conflict::default();
        assert_eq!(conflict.update(&claims("?u"), &[B]), None);
        assert_eq!(conflict.update(&claims("uu"), &[B]), Some(News::Begins(A, vec![B])));
        let mut stored = Conflict::default();
        stored.settle();
        assert_eq!(stored.update(&claims("uu"), &[B]), Some(News::Begins(B, vec![A])));
    }

    #[test]
    fn a_change_of_roles_is_no_conflict() {
        let mut conflict = Conflict::default();
        for (words, incumbent) in [("ud", A), ("fd", A), ("fu", A), ("du", B)] {
            assert_eq!(conflict.update(&claims(words), &[incumbent]), None, "{words}");
            assert!(!conflict.leaves_out(A) && !conflict.leaves_out(B), "{words}");
        }
    }
}
