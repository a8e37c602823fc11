//! Texts that have got out of stores before.

/// Keys and ids for a backend to keep apart or to refuse, never to mix up: paths, separators, quotes, wildcards, statement
/// endings, control characters, look-alikes, another tenant's name.
pub const HOSTILE: [&str; 22] = [
    "..",
    "../globex/notes",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a:b",
    "acme:ana:notes",
    "globex:bo:notes",
    "'; DROP TABLE kv; --",
    "\" OR \"1\"=\"1",
    "%",
    "_",
    "*",
    "{globex}",
    "a\0b",
    "a\nb",
    "\u{202E}key",
    "ke\u{200B}y",
    "KEY",
    "key",
    "ｋｅｙ",
    "🔑",
];
