//! In which list a task waits.

/// The priorities that have a list of their own, kombu's `priority_steps`.
pub const STEPS: [u8; 4] = [0, 3, 6, 9];

/// Between a queue's name and its step, kombu's `sep`.
pub const PRIORITY_SEPARATOR: &str = "\u{6}\u{16}";

/// The Redis list where a task of `priority` waits, 0 to 9, in `queue`. In kombu's Redis transport 0 is served first.
pub fn queue_for(queue: &str, priority: u8) -> String {
    match STEPS.into_iter().rev().find(|step| *step <= priority).unwrap_or(0) {
        0 => queue.to_owned(),
        step => format!("{queue}{PRIORITY_SEPARATOR}{step}"),
    }
}

/// All lists of `queue`, in the order in which they are served.
pub fn queues(queue: &str) -> [String; 4] {
    STEPS.map(|step| queue_for(queue, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_priorities_have_four_lists() {
        let lists: Vec<String> = (0..=10).map(|p| queue_for("hi", p)).collect();
        assert_eq!(lists.iter().filter(|l| *l == "hi").count(), 3);
        assert_eq!(lists[7], "hi\x06\x166");
        assert_eq!(lists[9], "hi\x06\x169");
        assert_eq!(queues("q"), ["q", "q\x06\x163", "q\x06\x166", "q\x06\x169"]);
    }
}
