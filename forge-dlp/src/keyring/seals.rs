//! The keys of seals: derived from the master key by their number, so that hosts that share it need to tell each other nothing.
//!
//! A host that has not rotated yet accepts the seals of one that has: it looks a few numbers ahead. So hosts are rotated one by one, in
//! any order, while they go on exchanging work.

use forge_core::keyring::Seal;
use forge_core::{Error, ErrorKind, Result};

use super::cipher::Key;

/// How many rotations another host may be ahead of this one.
const AHEAD: usize = 8;

/// How far a host has come: the number of the key that seals, and of the oldest that is accepted. Counted from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rotation {
    pub(super) current: u32,
    pub(super) oldest: u32,
}

impl Rotation {
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        let numbers = self.current.to_be_bytes().into_iter().chain(self.oldest.to_be_bytes());
        bytes.iter_mut().zip(numbers).for_each(|(b, n)| *b = n);
        bytes
    }

    /// `None` if it is not a rotation.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (current, oldest) = bytes.split_first_chunk::<4>()?;
        let (current, oldest) = (u32::from_be_bytes(*current), u32::from_be_bytes(oldest.try_into().ok()?));
        (oldest <= current).then_some(Self { current, oldest })
    }
}

/// The keys of seals up to a number, by number.
pub(super) struct SealKeys {
    current: usize,
    oldest: usize,
    keys: Vec<(String, Key)>,
}

impl SealKeys {
    pub(super) fn new(master: &Key, rotation: Rotation) -> Self {
        let number = |n| usize::try_from(n).unwrap_or(usize::MAX - AHEAD);
        let (current, oldest) = (number(rotation.current), number(rotation.oldest));
        let key = |n| {
            let key = master.derived(&label(n));
            (key.id(), key)
        };
        Self { current, oldest, keys: (0..=current + AHEAD).map(key).collect() }
    }

    /// The id of the key that seals.
    pub(super) fn id(&self) -> &str {
        self.keys.get(self.current).map_or("", |(id, _)| id)
    }

    /// The accepted ones that this host has sealed with, the newest first.
    pub(super) fn ids(&self) -> Vec<String> {
        let ours = self.keys.get(self.oldest..=self.current).unwrap_or_default();
        ours.iter().rev().map(|(id, _)| id.clone()).collect()
    }

    /// The key that seals.
    pub(super) fn key(&self) -> Result<&Key> {
        let current = self.keys.get(self.current).map(|(_, key)| key);
        current.ok_or_else(|| Error::new(ErrorKind::Unavailable, "keyring.seal", "the host has no key for seals"))
    }

    pub(super) fn seal(&self, bytes: &[u8]) -> Result<Seal> {
        Ok(Seal { key_id: self.id().to_owned(), mac: self.key()?.mac(bytes) })
    }

    pub(super) fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()> {
        let refused = |why: &'static str| Err(Error::new(ErrorKind::Unauthenticated, "keyring.verify", why));
        match self.keys.iter().enumerate().find(|(_, (id, _))| *id == seal.key_id) {
            // whatever else the id is, it came from outside: it is not repeated
            None => refused("the seal's key is not one of this host's"),
            Some((n, _)) if n < self.oldest => {
                refused("the seal's key is retired; what it sealed must be queued again")
            }
            Some((_, (_, key))) if !key.mac_is(bytes, &seal.mac) => refused("the seal does not fit what it is on"),
            Some(_) => Ok(()),
        }
    }

    /// The rotation after this key and those before it are retired.
    pub(super) fn retiring(&self, key_id: &str) -> Result<Rotation> {
        const OPERATION: &str = "keyring.retire_seal_key";
        let known = self.keys.iter().take(self.current + 1).position(|(id, _)| id == key_id);
        let n = known.ok_or_else(|| Error::not_found(OPERATION, "this host has sealed with no such key"))?;
        if n == self.current {
            return Err(Error::new(ErrorKind::Conflict, OPERATION, "this key seals; rotate first"));
        }
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Rotation { current: number(self.current), oldest: number(self.oldest.max(n + 1)) })
    }
}

/// The first key has the label that it had before there were others.
fn label(n: usize) -> Vec<u8> {
    const FIRST: &[u8] = b"forge context seal v1";
    if n == 0 { FIRST.to_vec() } else { [FIRST, format!(" #{n}").as_bytes()].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_survives_its_bytes_and_nothing_else_is_one() {
        let r = Rotation { current: 7, oldest: 3 };
        assert_eq!(Rotation::from_bytes(&r.to_bytes()), Some(r));
        let upside_down = Rotation { current: 3, oldest: 7 };
        for bad in [&upside_down.to_bytes()[..], &r.to_bytes()[..7], &[0; 9], &[]] {
            assert_eq!(Rotation::from_bytes(bad), None);
        }
    }

    #[test]
    fn no_two_numbers_share_a_key() {
        let keys = SealKeys::new(&Key::random().unwrap(), Rotation { current: 3, oldest: 0 });
        let ids: std::collections::BTreeSet<_> = keys.keys.iter().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), 3 + 1 + AHEAD);
        assert_eq!((keys.ids().len(), keys.ids()[0].as_str()), (4, keys.id()));
    }
}
