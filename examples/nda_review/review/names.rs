//! How names of people and companies are written, and which words are none.

use std::collections::BTreeMap;

/// Legal forms and other last words of an organisation's name.
pub(super) const SUFFIX: &str = r"(?:Inc|INC|Incorporated|INCORPORATED|LLC|L\.L\.C|LLP|L\.L\.P|LP|L\.P|Ltd|LTD|Limited|LIMITED|Corp|CORP|Corporation|CORPORATION|Company|COMPANY|Co|CO|PLC|plc|Plc|GmbH|AG|KG|SE|S\.A|SA|SAS|S\.A\.S|S\.p\.A|S\.r\.l|N\.V|NV|B\.V|BV|Pty|PTY|AB|Oy|AS|A/S|Trust|University|UNIVERSITY|Association|Foundation|Institute|Bank|Partners|Partnership|Group|Holdings|Authority|District|Council|College)\b\.?";
/// One word of a name.
pub(super) const WORD: &str = r"[a-z]?[A-Z0-9][\p{L}\p{N}.&'’/-]*";

/// One spelling of a name: no comma before "Inc.", "Ltd." for "Limited", "and" for "&", capitals only where they belong.
pub(super) fn canonical(name: &str) -> String {
    let forms: BTreeMap<&str, &str> = [
        ("INC", "Inc."),
        ("INCORPORATED", "Inc."),
        ("LTD", "Ltd."),
        ("LIMITED", "Ltd."),
        ("CORP", "Corp."),
        ("CO", "Co."),
        ("L.P", "LP"),
        ("L.L.C", "LLC"),
        ("L.L.P", "LLP"),
        ("&", "and"),
    ]
    .into();
    let name = name.replace(['’', '‘'], "'");
    let cut = name.split(" d/b/a ").next().unwrap_or(&name);
    let shouting = cut.chars().filter(|c| c.is_alphabetic()).count() > 5 && !cut.chars().any(char::is_lowercase);
    let words = cut.split_whitespace().map(|word| {
        let bare = word.trim_end_matches(',');
        let key = bare.trim_end_matches('.');
        match forms.get(key.to_uppercase().as_str()) {
            Some(form) => (*form).to_owned(),
            None if shouting && bare.len() > 3 => {
                let mut letters = bare.chars();
                letters.next().into_iter().collect::<String>() + &letters.as_str().to_lowercase()
            }
            None => bare.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The role that an alias gives, if it is a role and not a short name.
pub(super) fn role(aliases: &[String]) -> Option<String> {
    let roles = [
        "company",
        "recipient",
        "discloser",
        "disclosing party",
        "receiving party",
        "employee",
        "executive",
        "supplier",
        "customer",
        "client",
        "vendor",
        "buyer",
        "seller",
        "contractor",
        "consultant",
        "investor",
        "counterparty",
        "purchaser",
        "stockholder",
        "licensor",
        "licensee",
        "participant",
        "provider",
        "owner",
        "partner",
    ];
    aliases.iter().find(|alias| roles.contains(&alias.to_lowercase().as_str())).cloned()
}

/// Whether two spellings name the same party.
pub(super) fn same(a: &str, b: &str) -> bool {
    let key = |name: &str| canonical(name).to_uppercase().chars().filter(|c| c.is_alphanumeric()).collect::<String>();
    key(a) == key(b)
}

/// Whether a name would start with a word that only starts other things.
pub(super) fn not_a_name(name: &str) -> bool {
    let lower = name.to_lowercase();
    let first = lower.split_whitespace().next().unwrap_or_default();
    let words = [
        "the",
        "this",
        "you",
        "your",
        "each",
        "either",
        "party",
        "parties",
        "undersigned",
        "disclosing",
        "receiving",
        "recipient",
        "discloser",
        "company",
        "employee",
        "effective",
        "agreement",
        "exhibit",
        "section",
        "name",
        "insert",
        "date",
        "dated",
        "whereas",
        "a",
        "an",
        "its",
        "their",
        "address",
        "attention",
        "re",
        "all",
        "confidential",
        "confidentiality",
        "mutual",
        "non-disclosure",
        "such",
        "and",
        "title",
        "dear",
        "in",
        "if",
        "any",
        "no",
        "buyer",
        "seller",
        "executive",
        "state",
        "principal",
        "witness",
        "very",
        "sincerely",
        "yours",
        "accepted",
        "agreed",
        "we",
        "i",
        "to",
        "not",
        "for",
        "with",
        "of",
        "or",
        "at",
        "on",
        "by",
        "as",
        "our",
    ];
    words.contains(&first) || name.is_empty()
}

/// Whether a defined term can stand for a party.
pub(super) fn is_party_alias(alias: &str) -> bool {
    let lower = alias.to_lowercase();
    let other = [
        "agreement",
        "nda",
        "information",
        "material",
        "date",
        "transaction",
        "purpose",
        "representative",
        "affiliate",
        "term",
        "project",
        "property",
        "act",
        "record",
        "demand",
        "period",
        "person",
        "service",
        "product",
        "opportunity",
        "parties",
        "party",
        "plan",
        "letter",
        "stock",
        "securities",
        "law",
        "invention",
        "business",
        "shares",
        "competing",
        "merger",
        "restricted",
        "payment",
    ];
    !other
        .iter()
        .any(|word| lower.split([' ', '-']).any(|part| part.trim_end_matches('s') == word.trim_end_matches('s')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_of_a_company() {
        assert_eq!(canonical("ALDER & SONS, INCORPORATED"), "Alder and Sons Inc.");
        assert_eq!(canonical("Birch Healthcare Group, L.P. d/b/a Birch"), "Birch Healthcare Group LP");
        assert!(same("Cedar Group, Inc.", "CEDAR GROUP INC"));
        assert!(!same("Cedar Group, Inc.", "Cedar Group LLC"));
    }

    #[test]
    fn defined_terms_are_no_parties() {
        assert!(is_party_alias("Company") && is_party_alias("Alder"));
        assert!(!is_party_alias("Confidential Information") && !is_party_alias("Effective Date"));
        assert!(not_a_name("The Recipient") && !not_a_name("Mary Moss"));
    }
}
