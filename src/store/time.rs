//! Times as the state file writes them: UTC text, ISO 8601, milliseconds (`2026-11-21T06:45:00.123Z`).
//!
//! Written by hand since 50,000 rows are read before a restart answers, and each row that is written has three. Only this
//! one form is read here; what an operator writes into an override is brought into it by SQLite first.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::health::Time;

const DAY_MS: u64 = 86_400_000;

/// The largest time the form has a place for: the end of the year 9999.
const LAST: Time = Time(253_402_300_799_999);

/// The text of a time.
pub fn to_text(time: Time) -> String {
    let ms = time.0.min(LAST.0);
    let (year, month, day) = civil(ms / DAY_MS);
    let (seconds, millis) = (ms % DAY_MS / 1000, ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (from, to, mut value) in [
        (0, 4, year),
        (5, 7, month),
        (8, 10, day),
        (11, 13, hour),
        (14, 16, minute),
        (17, 19, second),
        (20, 23, millis),
    ] {
        for digit in text[from..to].iter_mut().rev() {
            *digit += (value % 10) as u8;
            value /= 10;
        }
    }
    text.map(char::from).iter().collect()
}

/// The time of a text in exactly that form, from 1970 on.
pub fn from_text(text: &str) -> Option<Time> {
    let bytes: &[u8; 24] = text.as_bytes().try_into().ok()?;
    let punctuation = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
    if punctuation.iter().any(|&(at, byte)| bytes[at] != byte) {
        return None;
    }
    let number = |from: usize, to: usize| {
        bytes[from..to]
            .iter()
            .try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second, millis) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59
    {
        return None;
    }
    Some(Time(days(year, month, day) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + millis))
}

/// The wall clock.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

// The proleptic Gregorian calendar in years that begin in March, so that the leap day comes last;
// 719,468 days lie between its 0000-03-01 and 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_time_agree_with_sqlite() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        for ms in [0, 1, 951_782_399_999, 951_782_400_000, 1_709_164_800_123, 1_795_243_500_123, LAST.0] {
            let text = to_text(Time(ms));
            let sql = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', ?1 / 1000.0, 'unixepoch')";
            let theirs: String = connection.query_row(sql, [ms as i64], |row| row.get(0)).unwrap();
            assert_eq!(text, theirs);
            assert_eq!(from_text(&text), Some(Time(ms)));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "2026-11-21", "2026-11-21 06:45:00.123Z", "2026-13-21T06:45:00.123Z", "1969-12-31T23:59:59.999Z"]
        {
            assert_eq!(from_text(text), None, "{text}");
        }
    }
}
