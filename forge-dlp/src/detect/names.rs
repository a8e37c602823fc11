//! Which names of fields, variables, flags and headers say that their value is a secret.
//!
//! By whole words in snake, kebab or camel case, never by a part of one: `tokens_in`, `keyboard` and `secretary` hold none.

/// Whether a field, a variable or a label of this name holds a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let words = words(name);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.first().is_some_and(|w| ABOUT_BEFORE.contains(w)) || words.last().is_some_and(|w| ABOUT.contains(w)) {
        return false;
    }
    let short = words.len() > 1 && words.last() == Some(&"pass");
    short || words.iter().any(|w| is_secret_word(w)) || ends_in_token(&words) || words.windows(2).any(is_key)
}

fn is_secret_word(word: &str) -> bool {
    SECRET.contains(&word) || ["password", "passwords", "passwd", "passphrase"].iter().any(|w| word.ends_with(w))
}

/// Pages and parsers have tokens too.
fn ends_in_token(words: &[&str]) -> bool {
    match words {
        [.., kind, "token" | "tokens"] if AUTH_TOKENS.contains(kind) => true,
        [.., kind, "token"] => !OTHER_TOKENS.contains(kind),
        ["token"] => true,
        _ => false,
    }
}

fn is_key(pair: &[&str]) -> bool {
    matches!(pair, [kind, "key" | "keys"] if KEYS.contains(kind))
}

const SECRET: &[&str] = &[
    "pwd",
    "passcode",
    "secret",
    "apikey",
    "apikeys",
    "credential",
    "credentials",
    "authorization",
    "bearer",
    "accesskey",
    "secretkey",
    "privatekey",
    "clientsecret",
    "accesstoken",
    "authtoken",
    "refreshtoken",
    "sessiontoken",
    "apitoken",
];
const KEYS: &[&str] =
    &["api", "access", "private", "secret", "signing", "encryption", "master", "service", "ssh", "deploy", "license"];
const AUTH_TOKENS: &[&str] = &["access", "api", "auth", "bearer", "refresh"];
const OTHER_TOKENS: &[&str] = &[
    "next",
    "page",
    "continuation",
    "pagination",
    "sync",
    "cancel",
    "cancellation",
    "fencing",
    "start",
    "end",
    "stop",
    "eos",
    "bos",
    "pad",
    "unk",
    "mask",
    "special",
    "prompt",
    "completion",
    "per",
];
/// Last words of what is about a secret and not one: its name, its place, its rules.
const ABOUT: &[&str] = &[
    "name", "ref", "id", "ids", "policy", "expires", "expiry", "expired", "in", "at", "on", "date", "length", "type",
    "count", "hint", "status", "scope", "scopes", "path", "file", "label", "required", "enabled", "strength",
    "version", "url", "uri", "kind", "limit", "usage",
];
const ABOUT_BEFORE: &[&str] = &["has", "is", "max", "min", "num", "public"];

/// The words of a name, in lower case, without digits at their end.
pub(super) fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut before, mut rest) = (None::<char>, name.chars().peekable());
    while let Some(c) = rest.next() {
        let lower_next = rest.peek().is_some_and(|n| n.is_lowercase());
        // `dbPassword` and `APIKey` both hide a boundary
        let camel = c.is_uppercase()
            && before.is_some_and(|b| b.is_lowercase() || b.is_ascii_digit() || (b.is_uppercase() && lower_next));
        let starts = camel || !before.is_some_and(char::is_alphanumeric);
        if c.is_alphanumeric() {
            match words.last_mut() {
                Some(word) if !starts => word.extend(c.to_lowercase()),
                _ => words.push(c.to_lowercase().collect()),
            }
        }
        before = Some(c);
    }
    for word in &mut words {
        let end = word.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        word.truncate(if end == 0 { word.len() } else { end });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_case() {
        assert_eq!(words("db_passwordHash-APIKey2 ok"), ["db", "password", "hash", "api", "key", "ok"]);
        assert_eq!(words("JWTToken"), ["jwt", "token"]);
        assert_eq!(words("2024"), ["2024"]);
        assert!(words("--").is_empty());
    }

    #[test]
    fn names_of_secrets() {
        for yes in [
            "password",
            "db_password",
            "dbPassword",
            "Passwd",
            "pwd",
            "MYSQL_PWD",
            "PGPASSWORD",
            "smtp_pass",
            "X-Api-Key",
            "apikey",
            "apiKey",
            "APIKey",
            "api_keys",
            "OPENAI_API_KEY",
            "access_token",
            "accessToken",
            "token",
            "id_token",
            "client_secret",
            "Authorization",
            "Proxy-Authorization",
            "private-key",
            "privateKeyPem",
            "credential",
            "credentials",
            "secret",
            "secret_key",
            "AWS_SECRET_ACCESS_KEY",
            "password_1",
            "password2",
            "JWTToken",
            "refresh_tokens",
            "config.db.password",
        ] {
            assert!(is_secret_name(yes), "{yes}");
        }
    }

    #[test]
    fn names_of_other_things() {
        for no in [
            "token_type",
            "tokens_in",
            "tokens",
            "max_tokens",
            "maxTokens",
            "next_page_token",
            "idempotency_key",
            "public_key",
            "ssh_public_key",
            "primary_key",
            "cache_key",
            "key",
            "secrets",
            "secret_name",
            "secret_ref",
            "password_policy",
            "password_changed_at",
            "access_key_id",
            "access_token_expires_in",
            "secretary",
            "keyboard",
            "passport",
            "authorization_status",
            "has_password",
            "compass",
            "",
        ] {
            assert!(!is_secret_name(no), "{no}");
        }
    }
}
