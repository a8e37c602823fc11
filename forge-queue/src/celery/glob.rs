//! Names of workers by pattern.

/// Python's `fnmatch`, in time proportional to the product of the lengths whatever the pattern.
pub(super) fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // which prefixes of the pattern match the name so far, as offsets into the pattern
    let mut at = past_stars(&pattern, vec![0]);
    for c in name {
        let next = at.into_iter().filter_map(|p| step(&pattern, p, c)).collect();
        at = past_stars(&pattern, next);
    }
    at.contains(&pattern.len())
}

/// Adds the places behind a `*`, which may stand for nothing.
fn past_stars(pattern: &[char], mut at: Vec<usize>) -> Vec<usize> {
    let mut i = 0;
    while let Some(p) = at.get(i).copied() {
        if pattern.get(p) == Some(&'*') {
            at.push(p + 1);
        }
        i += 1;
    }
    at.sort_unstable();
    at.dedup();
    at
}

/// Where the pattern goes on from `p` after the character `c`.
fn step(pattern: &[char], p: usize, c: char) -> Option<usize> {
    let rest = pattern.get(p..)?;
    match rest.first()? {
        '*' => Some(p),
        '?' => Some(p + 1),
        '[' => match class(rest) {
            Some((len, set, negated)) => (contains(set, c) != negated).then_some(p + len),
            None => (c == '[').then_some(p + 1),
        },
        literal => (*literal == c).then_some(p + 1),
    }
}

/// The length of `[…]` at the front, what is inside, and whether it begins with `!`. A `]` right after the opening is a member.
fn class(rest: &[char]) -> Option<(usize, &[char], bool)> {
    let negated = rest.get(1) == Some(&'!');
    let start = if negated { 2 } else { 1 };
    let close = rest.iter().skip(start + 1).position(|c| *c == ']')? + start + 1;
    Some((close + 1, rest.get(start..close)?, negated))
}

fn contains(set: &[char], c: char) -> bool {
    let ranges = set.windows(3).any(|w| matches!(w, [a, '-', b] if (a..=b).contains(&&c)));
    ranges || set.contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_python() {
        for (pattern, name, matches) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("w[0-9]@*", "w1@vm", true),
            ("w[!0-9]@*", "w1@vm", false),
            ("w[]x]", "w]", true),
            ("w[", "w[", true),
            ("?", "ab", false),
            ("ä*", "ä€", true),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern} {name}");
        }
        assert!(!glob(&"*a".repeat(500), &"a".repeat(400)));
    }
}
