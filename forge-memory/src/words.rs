//! Text to words, the same for the embedder and the extractive model, and for what is asked of the index.

/// Lower-case words of letters and digits. A word is never cut: a token's tail tells it from another's.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase)
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): stable over versions and machines, unlike std's hasher.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_and_whole() {
        assert_eq!(words("The Term: 3-year, ÜBERGANG").collect::<Vec<_>>(), ["the", "term", "3", "year", "übergang"]);
        assert_eq!(words(&"x".repeat(300)).map(|w| w.len()).collect::<Vec<_>>(), [300]);
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // from the authors' own list of test vectors
        for (text, hash) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("b", 0xaf63_df4c_8601_f1a5),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(fnv1a(text.bytes()), hash, "{text}");
        }
    }
}
