//! Times as Celery writes and reads them.

use forge_core::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::Offset;
use serde_json::Value;

/// What Python's `datetime.isoformat` writes: `2026-11-23T00:55:20.663699+00:00`, without a fraction where there is none. Nanoseconds
/// are kept where there are any; Celery's reader cuts them.
pub(crate) fn iso(t: Timestamp) -> String {
    let nanos = t.as_nanos();
    let digits = match nanos {
        n if n % 1_000_000_000 == 0 => 0,
        n if n % 1_000 == 0 => 6,
        _ => 9,
    };
    match jiff::Timestamp::from_nanosecond(i128::from(nanos)) {
        Ok(t) => DateTimePrinter::new().precision(Some(digits)).timestamp_with_offset_to_string(&t, Offset::UTC),
        // every i64 of nanoseconds is within jiff's range
        Err(_) => String::new(),
    }
}

/// Reads `eta`, `expires` and `date_done`: ISO 8601, UTC where it names no offset, or a number of seconds since 1970. Nothing where
/// there is none, which to Celery is also an empty text and zero. What lies beyond the years of [`Timestamp`] is held at its ends.
pub(crate) fn read(value: Option<&Value>) -> Result<Option<Timestamp>, ()> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s.is_empty() => Ok(None),
        Some(Value::String(s)) => parse(s).map(Some).ok_or(()),
        Some(Value::Number(n)) => {
            let seconds = n.as_f64().ok_or(())?;
            if seconds == 0.0 { Ok(None) } else { Ok(Some(from_seconds(seconds))) }
        }
        Some(_) => Err(()),
    }
}

/// Seconds since 1970 as Python's `time.time()` gives them, to the microsecond: a float has no more.
pub(crate) fn seconds(t: Timestamp) -> f64 {
    std::time::Duration::from_micros(u64::try_from(t.as_nanos() / 1_000).unwrap_or(0)).as_secs_f64()
}

/// From a float of seconds, rounded to the microsecond.
fn from_seconds(seconds: f64) -> Timestamp {
    let span = std::time::Duration::try_from_secs_f64(seconds.abs());
    let micros = span.ok().and_then(|d| i64::try_from((d.as_nanos() + 500) / 1_000).ok()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(if seconds < 0.0 { micros.saturating_neg() } else { micros }.saturating_mul(1_000))
}

fn parse(s: &str) -> Option<Timestamp> {
    let nanos = match s.parse::<jiff::Timestamp>() {
        Ok(t) => t.as_nanosecond(),
        Err(_) => {
            let civil: jiff::civil::DateTime = s.parse().ok()?;
            // jiff ends hours before Python's `datetime.max`, which stands for never
            if civil.year() == 9999 {
                return Some(Timestamp::from_nanos(i64::MAX));
            }
            // an offset that is none, such as `+99:99`, is passed over by the reader of civil times
            if s.get(10..).unwrap_or("").contains(['+', '-', 'Z', 'z', '[']) {
                return None;
            }
            Offset::UTC.to_timestamp(civil).ok()?.as_nanosecond()
        }
    };
    let end = if nanos < 0 { i64::MIN } else { i64::MAX };
    Some(Timestamp::from_nanos(i64::try_from(nanos).unwrap_or(end)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_celery_writes_is_read_and_written_again() {
        for s in
            ["2026-11-23T00:55:20.663699+00:00", "2026-11-23T00:55:20+00:00", "2026-11-23T00:55:20.663699001+00:00"]
        {
            assert_eq!(iso(read(Some(&json!(s))).unwrap().unwrap()), s);
        }
    }

    #[test]
    fn foreign_times_are_understood() {
        let t = read(Some(&json!("2026-11-23T00:55:20.500Z"))).unwrap();
        for same in [json!("2026-11-23T00:55:20.5"), json!("2026-11-23 02:55:20.5+02:00"), json!(1_795_395_320.5)] {
            assert_eq!(read(Some(&same)), Ok(t), "{same}");
        }
        assert_eq!(read(Some(&json!("2026-11-23"))), read(Some(&json!("2026-11-23T00:00:00Z"))));
        for none in [json!(null), json!(""), json!(0)] {
            assert_eq!(read(Some(&none)), Ok(None));
        }
        assert_eq!(read(Some(&json!("9999-12-31T23:59:59+00:00"))), Ok(Some(Timestamp::from_nanos(i64::MAX))));
        assert_eq!(read(Some(&json!(1e300))).unwrap().unwrap().as_nanos(), i64::MAX);
        for bad in [
            json!("tomorrow"),
            json!(true),
            json!([]),
            json!("2026-13-01T00:00:00Z"),
            json!("2026-11-23T00:00:00+99:99"),
        ] {
            assert_eq!(read(Some(&bad)), Err(()), "{bad}");
        }
    }
}
