//! E-mail addresses: the practical part of RFC 5321, in any script (RFC 6531). Looked for at each `@`, outwards.

use std::ops::Range;

use forge_core::redact::EntityKind;

use super::{Candidates, scan::Scan};

/// RFC 5321, section 4.5.3.1.
const LOCAL: usize = 64;
const DOMAIN: usize = 255;

pub(super) fn find(scan: &Scan<'_>, out: &mut Candidates) {
    let found = scan.text.match_indices('@').filter_map(|(at, _)| address(scan.text, at));
    out.extend(found.map(|r| (EntityKind::Email, r)));
}

fn address(text: &str, at: usize) -> Option<Range<usize>> {
    let local: usize = text.get(..at)?.chars().rev().take(LOCAL).take_while(|c| in_local(*c)).map(char::len_utf8).sum();
    let local = text.get(at - local..at)?;
    // a quotation mark or a full stop before the address is not a part of it
    let trimmed = local.trim_start_matches(['\'', '.', '-', '’']);
    let local = if trimmed.contains("..") { trimmed.rsplit("..").next()? } else { trimmed };
    if local.is_empty() || local.ends_with(['.', '\'', '’']) {
        return None;
    }
    let rest = text.get(at + 1..)?;
    let domain: usize = rest.chars().take(DOMAIN).take_while(|c| in_domain(*c)).map(char::len_utf8).sum();
    Some(at - local.len()..at + 1 + domain_length(rest.get(..domain)?)?)
}

fn in_local(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-' | '\'' | '’' | '&')
}

fn in_domain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '-')
}

/// How much of this is a domain name: labels up to the last that can be a top-level domain, without the full stop behind.
fn domain_length(domain: &str) -> Option<usize> {
    let (mut at, mut good, mut labels) = (0, None, 0);
    for label in domain.split('.') {
        if label.is_empty() || label.starts_with('-') {
            break;
        }
        labels += 1;
        if labels > 1 {
            good = top_level(label).map(|n| at + n).or(good);
        }
        at += label.len() + 1;
    }
    good
}

/// The length of the top-level domain that this label begins with: letters, or the ASCII form of letters.
fn top_level(label: &str) -> Option<usize> {
    let ascii_form = label.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("xn--"));
    if ascii_form {
        return Some(label.trim_end_matches('-').len());
    }
    let letters: usize = label.chars().take_while(|c| c.is_alphabetic()).map(char::len_utf8).sum();
    let count = label.get(..letters)?.chars().count();
    (2..=24).contains(&count).then_some(letters)
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use forge_core::redact::EntityKind::Email;

    #[test]
    fn addresses() {
        for yes in [
            "ana@example.com",
            "a.b-c+d@sub.example.co.uk",
            "o'neil@example.org",
            "jörg@exämple.de",
            "x_1@1and1.com",
            "анна@пример.рф",
            "a@xn--e1afmkfd.xn--p1ai",
            "r&d@example.com",
            "ANA@EXAMPLE.COM",
        ] {
            assert_eq!(found(Email, &format!("<{yes}>, or call")), [yes]);
            assert_eq!(found(Email, &format!("'{yes}'")), [yes]);
            assert_eq!(found(Email, &format!("mail={yes}\nnext")), [yes]);
        }
        assert_eq!(found(Email, "mail ana@example.com."), ["ana@example.com"], "the full stop is the sentence's");
        assert_eq!(found(Email, "to a@b.com,c@d.org;mailto:e@f.net"), ["a@b.com", "c@d.org", "e@f.net"]);
        assert_eq!(found(Email, "see ...ana@example.com_2024"), ["ana@example.com"]);
    }

    #[test]
    fn what_is_no_address() {
        for no in [
            "@handle",
            "a@b",
            "user@localhost",
            "a @ b.com",
            "price@",
            "a@b..com",
            "me@1.2",
            "react@19.1.0",
            "a@.com",
            "two @@ signs.com",
            "5 apples @ 1.20",
        ] {
            assert!(found(Email, no).is_empty(), "{no}: {:?}", found(Email, no));
        }
    }
}
