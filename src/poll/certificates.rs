//! Certificates about to expire: said once when it comes to it, and once when there is a new one.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::health::{CheckResult, Event, EventKind, Host, Time};

/// Which certificates were warned of, by the number of the check and the address.
#[derive(Default)]
pub struct Certificates {
    pub(super) warned: HashSet<(u32, IpAddr)>,
}

impl Certificates {
    /// Forgets the addresses that are not checked like this any more.
    pub fn forget(&mut self, is_there: impl Fn(u32, IpAddr) -> bool) {
        self.warned.retain(|(number, address)| is_there(*number, *address));
    }

    /// What there is to say of a result of the check `number` of an address. Fewer than `min_days_left` days are worth
    /// a warning, which is no failure.
    pub fn look(
        &mut self,
        (number, host, address): (u32, Host, IpAddr),
        min_days_left: u32,
        result: &CheckResult,
        now: Time,
    ) -> Option<Event> {
        let days = result.certificate_days?;
        let short = days < i64::from(min_days_left);
        let was_short = self.warned.contains(&(number, address));
        if short == was_short {
            return None;
        }
        let reason = if short {
            self.warned.insert((number, address));
            let when = match days {
                ..0 => "expired".to_owned(),
                0 => "expires within a day".to_owned(),
                1 => "expires in 1 day".to_owned(),
                _ => format!("expires in {days} days"),
            };
            format!("the certificate {when}, min_days_left is {min_days_left}")
        } else {
            self.warned.remove(&(number, address));
            format!("the certificate is good for {days} days again")
        };
        let mut event = Event::new(now, EventKind::Certificate, reason);
        event.host = Some(host);
        event.address = Some(address);
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::Outcome;
    use crate::poll::connect::bare;

    #[test]
    fn each_certificate_is_spoken_of_once() {
        let mut certificates = Certificates::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        let mut look = |number, days: Option<i64>, least| {
            let result = CheckResult { certificate_days: days, ..bare(Outcome::Ok, Duration::ZERO) };
            let event = certificates.look((number, Host::Address(one), one), least, &result, Time(0));
            event.map(|event| event.reason.to_string())
        };
        assert_eq!(look(1, Some(14), 14), None);
        assert_eq!(look(1, None, 14), None);
        assert_eq!(look(1, Some(13), 14).unwrap(), "the certificate expires in 13 days, min_days_left is 14");
        assert_eq!(look(1, Some(12), 14), None, "said already");
        assert_eq!(look(1, None, 14), None, "a failed handshake says nothing of the certificate");
        assert_eq!(look(2, Some(12), 14).unwrap(), "the certificate expires in 12 days, min_days_left is 14");
        assert_eq!(look(1, Some(90), 14).unwrap(), "the certificate is good for 90 days again");
        assert_eq!(look(1, Some(90), 14), None);
        assert_eq!(look(3, Some(0), 0), None);
        assert_eq!(look(3, Some(-1), 0).unwrap(), "the certificate expired, min_days_left is 0");
    }
}
