//! From the text in `body` to the bytes of JSON that a producer signed or a handler reads, and back.

use std::io::Read;

use data_encoding::{BASE64, BASE64_MIME_PERMISSIVE};
use flate2::Compression;
use flate2::bufread::{GzDecoder, ZlibDecoder, ZlibEncoder};
use serde_json::{Map, Value};

use super::Malformed;

/// How much a message may hold. Whoever can write to the queue chooses the message, so nothing is read without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of an item of the queue, or of a stored result; 256 KiB.
    pub envelope: usize,
    /// Bytes of a body after decompression; 4 MiB.
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { envelope: 256 * 1024, body: 4 * 1024 * 1024 }
    }
}

impl Limits {
    /// Bytes of an item of the queue, or of a stored result.
    #[must_use]
    pub const fn with_envelope(mut self, bytes: usize) -> Self {
        self.envelope = bytes;
        self
    }

    /// Bytes of a body after decompression.
    #[must_use]
    pub const fn with_body(mut self, bytes: usize) -> Self {
        self.body = bytes;
        self
    }
}

/// The decoded body of a message, and whether it was compressed.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) compressed: bool,
}

/// Takes the body out of `message`, the whole JSON object of a queue item or of a publication.
///
/// Kombu ignores `content-encoding` for JSON; the names under which JSON is utf-8 all the same are accepted.
pub(crate) fn decode(message: &Map<String, Value>, limits: &Limits) -> Result<Body, Malformed> {
    if text(message.get("content-type")) != Some("application/json") {
        return Err(Malformed::UnsupportedContentType);
    }
    match message.get("content-encoding") {
        None | Some(Value::Null) => {}
        Some(Value::String(s)) if is_utf8(s) => {}
        Some(_) => return Err(Malformed::UnsupportedEncoding),
    }
    let body = match message.get("body") {
        None | Some(Value::Null) => return Err(Malformed::NoBody),
        Some(Value::String(s)) if s.is_empty() => return Err(Malformed::NoBody),
        Some(Value::String(s)) => s,
        Some(_) => return Err(Malformed::BodyShape),
    };
    let transported = transported(body, message.get("properties").and_then(|p| p.get("body_encoding")))?;
    match message.get("headers").and_then(|h| h.get("compression")) {
        None | Some(Value::Null) if transported.len() > limits.body => Err(Malformed::TooLarge),
        None | Some(Value::Null) => Ok(Body { bytes: transported, compressed: false }),
        Some(method) => {
            decompress(&transported, text(Some(method)), limits).map(|bytes| Body { bytes, compressed: true })
        }
    }
}

/// Base64, as kombu writes it.
pub(crate) fn encode(body: &[u8], compressed: bool) -> String {
    if !compressed {
        return BASE64.encode(body);
    }
    let mut out = Vec::new();
    // reading from memory into memory cannot fail
    let _ = ZlibEncoder::new(body, Compression::default()).read_to_end(&mut out);
    BASE64.encode(&out)
}

/// Undoes kombu's compression methods `gzip` and `zlib`, which are both a zlib stream; real gzip is what foreign producers take the
/// name for.
pub(crate) fn decompress(bytes: &[u8], method: Option<&str>, limits: &Limits) -> Result<Vec<u8>, Malformed> {
    let Some("application/x-gzip" | "application/gzip" | "application/zlib" | "gzip" | "zlib") = method else {
        return Err(Malformed::UnsupportedCompression);
    };
    if bytes.starts_with(&[0x1f, 0x8b]) {
        capped(GzDecoder::new(bytes), limits.body)
    } else {
        capped(ZlibDecoder::new(bytes), limits.body)
    }
}

/// Reads to the end, and no further than one byte past the limit: the stream may be made to be endless.
fn capped(stream: impl Read, limit: usize) -> Result<Vec<u8>, Malformed> {
    let cap = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut out = Vec::new();
    let done = stream.take(cap).read_to_end(&mut out);
    if out.len() > limit {
        return Err(Malformed::TooLarge);
    }
    done.map(|_| out).map_err(|_| Malformed::BadCompression)
}

/// The text of a JSON value, if it is text.
pub(crate) fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str)
}

/// The text of a JSON value as one of its own, if it is text.
pub(crate) fn owned(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Undoes `body_encoding`. Without one kombu takes the text as it is; a producer that forgets the properties may have meant either,
/// and base64 has no brackets.
fn transported(body: &str, encoding: Option<&Value>) -> Result<Vec<u8>, Malformed> {
    let base64 = || BASE64_MIME_PERMISSIVE.decode(body.as_bytes()).map_err(|_| Malformed::BadBase64);
    match encoding {
        None | Some(Value::Null) if body.trim_start().starts_with(['[', '{']) => Ok(body.as_bytes().to_vec()),
        None | Some(Value::Null) => base64(),
        Some(Value::String(s)) if s.eq_ignore_ascii_case("base64") => base64(),
        Some(Value::String(s)) if is_utf8(s) => Ok(body.as_bytes().to_vec()),
        Some(_) => Err(Malformed::UnsupportedEncoding),
    }
}

fn is_utf8(name: &str) -> bool {
    ["utf-8", "utf8", "us-ascii", "ascii", "binary"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(body: &str, headers: Value) -> Map<String, Value> {
        let message = json!({"body": body, "content-type": "application/json", "headers": headers,
            "properties": {"body_encoding": "base64"}});
        message.as_object().unwrap().clone()
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let bomb = encode(&vec![b' '; 3_000_000], true);
        assert!(bomb.len() < 10_000);
        let limits = Limits::default().with_body(1_000_000);
        let message = message(&bomb, json!({"compression": "application/x-gzip"}));
        assert_eq!(decode(&message, &limits).unwrap_err(), Malformed::TooLarge);
        assert_eq!(decode(&message, &Limits::default()).unwrap().bytes.len(), 3_000_000);
    }

    #[test]
    fn no_more_is_read_than_the_limit() {
        struct Endless(usize);
        impl Read for Endless {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.0 += buf.len();
                assert!(self.0 < 1_000_000, "it reads on");
                buf.fill(b' ');
                Ok(buf.len())
            }
        }
        assert_eq!(capped(Endless(0), 1_000), Err(Malformed::TooLarge));
    }

    #[test]
    fn both_streams_that_go_by_the_name_of_gzip_are_read() {
        let mut gzip = Vec::new();
        flate2::bufread::GzEncoder::new(&b"[[], {}, {}]"[..], Compression::fast()).read_to_end(&mut gzip).unwrap();
        let body = decompress(&gzip, Some("application/x-gzip"), &Limits::default()).unwrap();
        assert_eq!(body, b"[[], {}, {}]");
        let mut bomb = Vec::new();
        flate2::bufread::GzEncoder::new(&[b' '; 3_000][..], Compression::fast()).read_to_end(&mut bomb).unwrap();
        assert_eq!(decompress(&bomb, Some("gzip"), &Limits::default().with_body(2_999)), Err(Malformed::TooLarge));
        let cut = &gzip[..gzip.len() - 9];
        assert_eq!(decompress(cut, Some("gzip"), &Limits::default()), Err(Malformed::BadCompression));
        assert_eq!(decompress(b"{}", Some("zlib"), &Limits::default()), Err(Malformed::BadCompression));
        assert_eq!(decompress(b"", Some("zlib"), &Limits::default()), Err(Malformed::BadCompression));
        assert_eq!(
            decompress(b"x", Some("application/zstd"), &Limits::default()),
            Err(Malformed::UnsupportedCompression)
        );
    }

    #[test]
    fn base64_with_line_breaks_is_read_and_what_is_none_is_refused() {
        assert_eq!(decode(&message("W1td\r\nLHt9\n", json!({})), &Limits::default()).unwrap().bytes, b"[[],{}");
        assert_eq!(decode(&message("W1td%", json!({})), &Limits::default()).unwrap_err(), Malformed::BadBase64);
        assert_eq!(decode(&message("", json!({})), &Limits::default()).unwrap_err(), Malformed::NoBody);
    }
}
