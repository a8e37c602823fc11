//! The algorithms: XChaCha20-Poly1305 bodies, AES-256-SIV tokens (RFC 5297), HMAC-SHA-256 (RFC 2104) digests.

use aes_siv::siv::Aes256Siv;
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, Payload};
use forge_core::{Digest, Error, ErrorKind, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const VERSION: u8 = 1;
const KEY_ID: usize = 8;
const NONCE: usize = 24;

/// 32 random bytes, wiped on drop. No `Debug`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Key([u8; 32]);

/// 64 random bytes for AES-256-SIV, wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct TokenKey([u8; 64]);

/// The keys of one tenant, one for each purpose.
pub(super) struct TenantKeys {
    pub(super) body: Key,
    pub(super) token: TokenKey,
    pub(super) digest: Key,
}

impl Key {
    pub(super) fn random() -> Result<Self> {
        random().map(Self)
    }

    /// `None` if it is not 32 bytes in base64.
    pub(super) fn from_base64(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(data_encoding::BASE64.decode(text.trim().as_bytes()).ok()?);
        bytes.as_slice().try_into().map(Self).ok()
    }

    pub(super) fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(data_encoding::BASE64.encode(&self.0))
    }

    /// A key for one purpose: HMAC of its label.
    pub(super) fn derived(&self, label: &[u8]) -> Self {
        Self(*self.mac(label).as_bytes())
    }

    /// Names the key without telling it.
    pub(super) fn id(&self) -> String {
        let id: String = self.mac(b"forge key id").to_string();
        id.chars().take(2 * KEY_ID).collect()
    }

    pub(super) fn mac(&self, bytes: &[u8]) -> Digest {
        let mut mac = self.hmac();
        mac.update(bytes);
        Digest::from_bytes(mac.finalize().into_bytes().into())
    }

    /// In constant time.
    pub(super) fn mac_is(&self, bytes: &[u8], expected: &Digest) -> bool {
        let mut mac = self.hmac();
        mac.update(bytes);
        mac.verify_slice(expected.as_bytes()).is_ok()
    }

    fn hmac(&self) -> Hmac<Sha256> {
        // a key that is shorter than a block is padded with zeros (RFC 2104, section 2)
        let mut block = Zeroizing::new([0_u8; 64]);
        block.iter_mut().zip(&self.0).for_each(|(b, k)| *b = *k);
        <Hmac<Sha256> as KeyInit>::new((&*block).into())
    }
}

impl TokenKey {
    /// The same bytes for the same value: what makes a token searchable. They tell that two values are equal, nothing more.
    pub(super) fn deterministic(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut siv = Aes256Siv::new(&self.0.into());
        siv.encrypt([b"forge token v1"], plain)
            .map_err(|_| Error::new(ErrorKind::Redaction, "keyring.tokenize", "the value cannot be encrypted"))
    }

    pub(super) fn undo(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        Aes256Siv::new(&self.0.into()).decrypt([b"forge token v1"], cipher).ok()
    }
}

impl TenantKeys {
    pub(super) fn random() -> Result<Self> {
        Ok(Self { body: Key::random()?, token: TokenKey(random()?), digest: Key::random()? })
    }

    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.body.0.as_slice(), &self.token.0, &self.digest.0].concat())
    }

    /// `None` if there are more bytes or fewer.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (body, rest) = bytes.split_first_chunk::<32>()?;
        let (token, digest) = rest.split_first_chunk::<64>()?;
        Some(Self { body: Key(*body), token: TokenKey(*token), digest: Key(digest.try_into().ok()?) })
    }
}

/// `version, key id, nonce, ciphertext and tag`.
pub(super) fn seal_bytes(key: &Key, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
    let nonce: [u8; NONCE] = random()?;
    let cipher = XChaCha20Poly1305::new(&key.0.into());
    let sealed = cipher
        .encrypt(&nonce.into(), Payload { msg: plain, aad })
        .map_err(|_| Error::new(ErrorKind::Redaction, "keyring.encrypt", "the body cannot be encrypted"))?;
    let mut blob = Vec::with_capacity(1 + KEY_ID + NONCE + sealed.len());
    blob.push(VERSION);
    blob.extend_from_slice(&id_bytes(key));
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(&sealed);
    Ok(blob)
}

pub(super) fn open(key: &Key, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>> {
    let corrupt = |why: &'static str| Error::new(ErrorKind::Corrupt, "keyring.decrypt", why);
    let (version, rest) = blob.split_first().ok_or_else(|| corrupt("the blob is empty"))?;
    if *version != VERSION {
        return Err(corrupt("the blob has a version that this build does not know"));
    }
    let (id, rest) = rest.split_first_chunk::<KEY_ID>().ok_or_else(|| corrupt("the blob is cut off"))?;
    if *id != id_bytes(key) {
        return Err(corrupt("the blob was made with another key"));
    }
    let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or_else(|| corrupt("the blob is cut off"))?;
    XChaCha20Poly1305::new(&key.0.into())
        .decrypt(&(*nonce).into(), Payload { msg: sealed, aad })
        .map_err(|_| corrupt("the blob is damaged, or belongs to another place"))
}

/// Whether a blob says that it was made with this key, which is no proof.
pub(super) fn is_under(key: &Key, blob: &[u8]) -> bool {
    blob.get(..1 + KEY_ID).and_then(<[u8]>::split_first).is_some_and(|(_, id)| id == id_bytes(key))
}

fn id_bytes(key: &Key) -> [u8; KEY_ID] {
    key.mac(b"forge key id").as_bytes().first_chunk::<KEY_ID>().copied().unwrap_or_default()
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(ErrorKind::Unavailable, "keyring.random", "the system gives no random bytes").with_source(e)
    })?;
    Ok(bytes)
}
