//! Celery's crontab: five fields, and the local minutes that fit all of them.
//!
//! Own code, because it has to be Celery's grammar: both fields of days must fit (cron's own rule is either), and a range may wrap around.

use jiff::civil::{Date, DateTime};

/// The minutes of a calendar that five fields let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    /// Of its numbers, from the least on.
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[] };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[] };
const DAY: Field = Field { name: "day of month", least: 1, most: 31, names: &[] };
const MONTH: Field = Field { name: "month", least: 1, most: 12, names: &MONTHS };
const WEEKDAY: Field = Field { name: "day of week", least: 0, most: 6, names: &WEEKDAYS };

impl Fields {
    /// Parses `minute hour day-of-month month day-of-week`; what is wrong, in words, if it cannot.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err("a crontab has five fields: minute, hour, day of month, month, day of week".to_owned());
        };
        Ok(Self {
            minutes: MINUTE.parse(minute)?,
            hours: HOUR.parse(hour)?,
            days: DAY.parse(day)?,
            months: MONTH.parse(month)?,
            weekdays: WEEKDAY.parse(weekday)?,
        })
    }

    /// Whether every hour fits.
    pub(super) fn every_hour(&self) -> bool {
        self.hours == HOUR.all()
    }

    /// The first minute that fits, not before `from` and before `to`.
    pub(super) fn first(&self, from: DateTime, to: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        let mut earliest = (from.hour(), from.minute());
        if from.second() > 0 || from.subsec_nanosecond() > 0 {
            earliest = match earliest {
                (23, 59) => {
                    date = date.tomorrow().ok()?;
                    (0, 0)
                }
                (hour, 59) => (hour + 1, 0),
                (hour, minute) => (hour, minute + 1),
            };
        }
        while date <= to.date() {
            if !has(self.months, date.month()) {
                date = date.last_of_month().tomorrow().ok()?;
            } else if let Some((hour, minute)) = self.fits(date).then(|| self.time(earliest)).flatten() {
                return Some(date.at(hour, minute, 0, 0)).filter(|found| *found < to);
            } else {
                date = date.tomorrow().ok()?;
            }
            earliest = (0, 0);
        }
        None
    }

    fn fits(&self, date: Date) -> bool {
        has(self.days, date.day()) && has(self.weekdays, date.weekday().to_sunday_zero_offset())
    }

    /// The first time of a day, not before this hour and minute.
    fn time(&self, (hour, minute): (i8, i8)) -> Option<(i8, i8)> {
        let later = || Some((next(self.hours, hour + 1)?, next(self.minutes, 0)?));
        match has(self.hours, hour).then(|| next(self.minutes, minute)).flatten() {
            Some(minute) => Some((hour, minute)),
            None => later(),
        }
    }
}

fn has(set: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| set.checked_shr(n).unwrap_or(0) & 1 == 1)
}

/// The smallest number of the set that is not below `from`.
fn next(set: u64, from: i8) -> Option<i8> {
    let from = u32::try_from(from).ok()?;
    let rest = set.checked_shr(from).unwrap_or(0);
    (rest != 0).then(|| i8::try_from(rest.trailing_zeros() + from).ok()).flatten()
}

impl Field {
    fn all(&self) -> u64 {
        (self.least..=self.most).fold(0, |set, n| set | 1 << n)
    }

    /// `*`, `*/n`, `a`, `a-b`, `a-b/n`, and lists of them.
    fn parse(&self, text: &str) -> Result<u64, String> {
        let mut set = 0;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, self.step(step)?),
                None => (part, 1),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (self.least, self.most),
                Some((from, to)) => (self.number(from)?, self.number(to)?),
                None if part != range => return Err(self.wrong("a step needs a range or * before it")),
                None => (self.number(range)?, self.number(range)?),
            };
            // a range that ends below its beginning wraps around
            let numbers: Vec<u8> =
                if to < from { (from..=self.most).chain(self.least..=to).collect() } else { (from..=to).collect() };
            set = numbers.iter().step_by(step).fold(set, |set, n| set | 1 << n);
        }
        Ok(set)
    }

    fn step(&self, text: &str) -> Result<usize, String> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let step = digits.then(|| text.parse().ok()).flatten();
        step.filter(|n| *n > 0).ok_or_else(|| self.wrong("a step is a whole number from 1"))
    }

    /// A number, or a name: whole, or its first three letters.
    fn number(&self, text: &str) -> Result<u8, String> {
        let named = |name: &str| {
            name.eq_ignore_ascii_case(text) || name.get(..3).is_some_and(|short| short.eq_ignore_ascii_case(text))
        };
        if let Some(n) = self.names.iter().position(|name| named(name)) {
            return Ok(self.least.saturating_add(u8::try_from(n).unwrap_or(u8::MAX)));
        }
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let n = digits.then(|| text.parse().ok()).flatten();
        n.filter(|n| (self.least..=self.most).contains(n)).ok_or_else(|| {
            let names = if self.names.is_empty() { "" } else { " or a name" };
            self.wrong(&format!("expected {} to {}{names}", self.least, self.most))
        })
    }

    fn wrong(&self, what: &str) -> String {
        format!("{}: {what}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(field: &Field, text: &str) -> Vec<u8> {
        let set = field.parse(text).unwrap();
        (0..64).filter(|n| set >> n & 1 == 1).collect()
    }

    /// What `celery.schedules.crontab_parser` of Celery 5.7.0 makes of the same texts.
    #[test]
    fn the_grammar_is_celerys() {
        assert_eq!(numbers(&MINUTE, "*/15"), [0, 15, 30, 45]);
        assert_eq!(numbers(&MINUTE, "1,13,30-33,50-59/2"), [1, 13, 30, 31, 32, 33, 50, 52, 54, 56, 58]);
        assert_eq!(numbers(&HOUR, "22-2"), [0, 1, 2, 22, 23]);
        assert_eq!(numbers(&HOUR, "22-5/3"), [1, 4, 22]);
        assert_eq!(numbers(&DAY, "*/3"), [1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31]);
        assert_eq!(numbers(&MONTH, "*/2"), [1, 3, 5, 7, 9, 11]);
        assert_eq!(numbers(&MONTH, "2-12/2"), [2, 4, 6, 8, 10, 12]);
        assert_eq!(numbers(&MONTH, "jan,OCT-feb"), [1, 2, 10, 11, 12]);
        assert_eq!(numbers(&WEEKDAY, "mon-fri"), [1, 2, 3, 4, 5]);
        assert_eq!(numbers(&WEEKDAY, "Sunday,fri-mon/2"), [0, 5]);
        assert_eq!(numbers(&MINUTE, "*/99"), [0]);
    }

    #[test]
    fn what_celery_refuses_or_lets_slip_is_refused() {
        let bad =
            ["", ",", "1,", "60", "-1", "1-", "-", "*/0", "*/", "/2", "5/2", "a", "mon", "1-2-3", "+1", "**", "1.5"];
        for text in bad {
            assert!(MINUTE.parse(text).is_err(), "{text:?}");
        }
        assert!(DAY.parse("0").is_err() && DAY.parse("32").is_err() && HOUR.parse("24").is_err());
        assert!(WEEKDAY.parse("7").is_err() && MONTH.parse("mo").is_err());
        assert!(Fields::parse("* * * *").is_err() && Fields::parse("* * * * * *").is_err());
        assert_eq!(Fields::parse("61 * * * *").unwrap_err(), "minute: expected 0 to 59");
    }

    #[test]
    fn both_fields_of_days_must_fit() {
        let friday_13th = Fields::parse("0 9 13 * fri").unwrap();
        let (from, to) = (Date::constant(2026, 3, 1).at(0, 0, 0, 0), Date::constant(2027, 1, 1).at(0, 0, 0, 0));
        let first = friday_13th.first(from, to).unwrap();
        assert_eq!(first, Date::constant(2026, 3, 13).at(9, 0, 0, 0));
        assert_eq!(
            friday_13th.first(first.saturating_add(jiff::SignedDuration::from_secs(1)), to).unwrap().month(),
            11
        );
        assert_eq!(Fields::parse("0 0 30 2 *").unwrap().first(from, to), None);
    }
}
