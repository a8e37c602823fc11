//! Why a message cannot be understood, as a word for dead letters and metrics.

use std::fmt;

/// Why a message was refused. Neither `Display` nor `Debug` repeats anything of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Malformed {
    /// Not JSON, or JSON with `NaN`, `Infinity` or half a surrogate pair, which Python writes and nobody else reads.
    NotJson,
    /// JSON, but no object.
    NotAnObject,
    /// No headers, and no body that could stand for them.
    NoHeaders,
    /// No task id, or one that is not text.
    NoId,
    /// The id that a script finds at the front is not the id of the headers: somebody wants one task taken for another.
    IdMismatch,
    /// No task name, or one that is not text.
    NoTask,
    /// No body, or one that is not text.
    NoBody,
    /// The body says that it is base64, and is not.
    BadBase64,
    /// The body is not JSON: pickle, YAML, msgpack or nothing that was named.
    UnsupportedContentType,
    /// The body's character set or transport encoding is not one of ours.
    UnsupportedEncoding,
    /// Compressed by something other than zlib and gzip.
    UnsupportedCompression,
    /// The compressed stream does not decompress.
    BadCompression,
    /// The body is not `[args, kwargs, embed]`, nor the object of protocol 1.
    BodyShape,
    /// Larger than the [`Limits`](super::Limits), before or after decompression.
    TooLarge,
    /// Nested deeper than a hundred levels.
    TooDeep,
    /// `eta` is no time.
    BadEta,
    /// `expires` is no time.
    BadExpires,
    /// A header of protocol 2 with a value of the wrong type; the name is one of the protocol's, not the message's.
    BadHeader(&'static str),
    /// A stored result that is not Celery's.
    ResultShape,
    /// A `__type__` of kombu's typed JSON that is unknown, or a `__value__` that does not fit it.
    BadTypedValue,
    /// A signature without a task, or with fields of the wrong type.
    BadSignature,
    /// A control message without a method, or with fields of the wrong type.
    BadControl,
}

impl Malformed {
    /// The word for dead letters, logs and metrics; stable.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::NoHeaders => "no_headers",
            Self::NoId => "no_id",
            Self::IdMismatch => "id_mismatch",
            Self::NoTask => "no_task",
            Self::NoBody => "no_body",
            Self::BadBase64 => "bad_base64",
            Self::UnsupportedContentType => "unsupported_content_type",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::UnsupportedCompression => "unsupported_compression",
            Self::BadCompression => "bad_compression",
            Self::BodyShape => "body_shape",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::BadEta => "bad_eta",
            Self::BadExpires => "bad_expires",
            Self::BadHeader(_) => "bad_header",
            Self::ResultShape => "result_shape",
            Self::BadTypedValue => "bad_typed_value",
            Self::BadSignature => "bad_signature",
            Self::BadControl => "bad_control",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::NotJson => "the message is not JSON",
            Self::NotAnObject => "the message is not a JSON object",
            Self::NoHeaders => "the message has no headers",
            Self::NoId => "the headers have no task id",
            Self::IdMismatch => "the id at the front is not the id of the headers",
            Self::NoTask => "the headers have no task name",
            Self::NoBody => "the message has no body",
            Self::BadBase64 => "the body is not base64",
            Self::UnsupportedContentType => "the content type is not application/json; set task_serializer to json",
            Self::UnsupportedEncoding => "the encoding of the body is neither utf-8 nor base64",
            Self::UnsupportedCompression => "the compression is not application/x-gzip; set task_compression to gzip",
            Self::BadCompression => "the body does not decompress",
            Self::BodyShape => "the body is not [args, kwargs, embed]",
            Self::TooLarge => "the message is larger than the limit",
            Self::TooDeep => "the message is nested too deeply",
            Self::BadEta => "eta is not a time",
            Self::BadExpires => "expires is not a time",
            Self::BadHeader(name) => return write!(f, "the header {name} has the wrong type"),
            Self::ResultShape => "the stored result is not one of Celery's",
            Self::BadTypedValue => "a typed value is of an unknown type or does not fit its type",
            Self::BadSignature => "the signature has no task or a field of the wrong type",
            Self::BadControl => "the control message has no method or a field of the wrong type",
        };
        f.write_str(text)
    }
}

impl std::error::Error for Malformed {}
