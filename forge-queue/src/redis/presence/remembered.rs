//! What was revoked, as long as it matters.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How many are remembered; beyond, the oldest goes. Celery's `REVOKES_MAX`.
const MOST: usize = 50_000;
/// How long. Celery's `REVOKE_EXPIRES`.
const STAYS: Duration = Duration::from_secs(3 * 3600);
/// Anything longer is no id of a task of ours.
const LONGEST: usize = 255;

/// Texts with the time since which they are known, on the monotonic clock.
#[derive(Default)]
pub(super) struct Remembered {
    since: HashMap<String, Duration>,
    order: BTreeSet<(Duration, String)>,
}

impl Remembered {
    pub(super) fn insert(&mut self, text: &str, now: Duration) {
        if text.len() > LONGEST {
            return;
        }
        if let Some(before) = self.since.insert(text.to_owned(), now) {
            self.order.remove(&(before, text.to_owned()));
        }
        self.order.insert((now, text.to_owned()));
        while self.order.len() > MOST {
            self.forget_oldest();
        }
    }

    pub(super) fn contains(&mut self, text: &str, now: Duration) -> bool {
        self.sweep(now);
        self.since.contains_key(text)
    }

    /// All of them, the oldest first.
    pub(super) fn all(&mut self, now: Duration) -> Vec<&str> {
        self.sweep(now);
        self.order.iter().map(|(_, text)| text.as_str()).collect()
    }

    fn sweep(&mut self, now: Duration) {
        while self.order.first().is_some_and(|(since, _)| now.saturating_sub(*since) >= STAYS) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, text)) = self.order.pop_first() {
            self.since.remove(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_all_go_in_time() {
        let (mut ids, second) = (Remembered::default(), Duration::from_secs(1));
        ids.insert("a", Duration::ZERO);
        ids.insert("b", second);
        ids.insert("a", second * 2);
        assert_eq!(ids.all(second * 3), ["b", "a"], "said again, it is remembered anew");
        assert!(ids.contains("a", STAYS + second) && !ids.contains("b", STAYS + second));
        for n in 0..MOST {
            ids.insert(&n.to_string(), STAYS + second);
        }
        assert_eq!(ids.all(STAYS + second).len(), MOST);
        assert!(!ids.contains("a", STAYS + second), "there is an end to what is remembered");
        ids.insert(&"x".repeat(256), STAYS + second);
        assert!(!ids.contains(&"x".repeat(256), STAYS + second));
    }
}
