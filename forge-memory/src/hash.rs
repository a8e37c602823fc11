//! An embedder without a model: feature hashing of words and word pairs (Weinberger et al. 2009, arXiv:0902.2206).

use async_trait::async_trait;
use forge_core::embed::{Embedder, EmbedderCapability};
use forge_core::{Depth, Error, ExecutionContext, Health, HealthCheck, Result};

use crate::words::{fnv1a, words};

const DIMENSIONS: usize = 256;
const MAX_BATCH: usize = 1024;

/// Texts that share words lie near each other; it knows no meaning, and says so (`semantic` is false).
///
/// A word adds ±1 to one of 256 places, two words that follow each other ±½; the sum is scaled to length 1. Place and sign
/// are the low eight bits and bit 40 of the FNV-1a hash (64 bits) of the lower-case words' UTF-8 bytes, each word followed by
/// the byte `ff`. Stored vectors depend on this: another rule is another model's name.
#[derive(Debug, Clone, Copy, Default)]
pub struct HashEmbedder;

#[async_trait]
impl HealthCheck for HashEmbedder {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl Embedder for HashEmbedder {
    async fn embed(&self, _: &ExecutionContext, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        if texts.len() > MAX_BATCH {
            return Err(Error::invalid("embed", "too many texts in one call").with("limit", MAX_BATCH.to_string()));
        }
        Ok(texts.iter().map(|t| embed(t)).collect())
    }

    fn model(&self) -> &str {
        "local/hash-256"
    }

    fn capability(&self) -> EmbedderCapability {
        EmbedderCapability::new(DIMENSIONS, MAX_BATCH, false, false)
    }
}

fn embed(text: &str) -> Vec<f32> {
    let mut v = vec![0.0_f32; DIMENSIONS];
    let mut add = |feature: u64, weight: f32| {
        let place = usize::from(feature.to_le_bytes()[0]);
        // the sign comes from another bit, so that collisions cancel on average
        let sign = if feature & (1 << 40) == 0 { 1.0 } else { -1.0 };
        if let Some(x) = v.get_mut(place) {
            *x += sign * weight;
        }
    };
    let mut before: Option<String> = None;
    for word in words(text) {
        add(feature(&[&word]), 1.0);
        if let Some(before) = &before {
            add(feature(&[before, &word]), 0.5);
        }
        before = Some(word);
    }
    let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        v.iter_mut().for_each(|x| *x /= norm);
    }
    v
}

fn feature(words: &[&str]) -> u64 {
    // ff is in no UTF-8, so `ab c` and `a bc` differ
    fnv1a(words.iter().flat_map(|w| w.bytes().chain([0xff])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: &str, b: &str) -> f32 {
        embed(a).iter().zip(embed(b)).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn texts_that_share_words_are_nearer() {
        let query = "how long does confidentiality last";
        assert!(near(query, "confidentiality shall last for three years") > near(query, "the parties are in Delaware"));
        assert!((near(query, query) - 1.0).abs() < 1e-5);
        assert!(embed("… !").iter().all(|x| *x == 0.0));
    }

    #[test]
    fn case_and_punctuation_do_not_count_and_order_does() {
        assert_eq!(embed("The ÄRGER, ends!"), embed("the ärger ends"));
        assert_ne!(embed("ends the term"), embed("the term ends"));
        assert_ne!(feature(&["ab", "c"]), feature(&["a", "bc"]));
    }

    #[test]
    fn stored_vectors_stay_comparable() {
        let set: Vec<_> = embed("term ends").into_iter().enumerate().filter(|(_, x)| *x != 0.0).collect();
        // 1, 1 and ½ over their length, which is 1.5
        let expected = GOLDEN.map(|(place, sign, weight)| (place, sign * weight / 1.5));
        assert_eq!(set.len(), expected.len(), "{set:?}");
        for ((place, x), (at, y)) in set.into_iter().zip(expected) {
            assert!(place == at && (x - y).abs() < 1e-6, "{place}: {x}, not {at}: {y}");
        }
    }

    /// Computed apart, by ten lines of Python that follow the type's documentation.
    const GOLDEN: [(usize, f32, f32); 3] = [(47, -1.0, 0.5), (216, -1.0, 1.0), (236, -1.0, 1.0)];
}
