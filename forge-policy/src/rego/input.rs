//! The input document: built straight from the typed one, since a serde round trip costs more than the decision.
//!
//! It is the same document that `serde_json` makes of a [`PolicyInput`], so that a policy means the same in a remote engine.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use forge_core::policy::PolicyInput;
use forge_core::{ExecutionContext, SecurityLevel};
use regorus::Value;

use super::Failure;

const FIELDS: [&str; 15] = [
    "tenant_id",
    "employee_id",
    "role",
    "request_id",
    "on_behalf_of",
    "security_level",
    "compliance_flags",
    "action",
    "tool_name",
    "effect",
    "resource",
    "doc_tags",
    "pii_flags",
    "candidates",
    "args_digest",
];

/// Made once: cloning one counts a reference.
static KEYS: LazyLock<[Value; 15]> = LazyLock::new(|| FIELDS.map(Value::from));

/// The document of this input, with all that the context knows taken from the context.
pub(super) fn document(ctx: &ExecutionContext, input: &PolicyInput, max_bytes: usize) -> Result<Value, Failure> {
    check(input, max_bytes)?;
    let [
        tenant,
        employee,
        role,
        request,
        behalf,
        level,
        flags,
        action,
        tool,
        effect,
        resource,
        tags,
        pii,
        candidates,
        digest,
    ] = &*KEYS;
    let optional = |text: Option<Value>| text.unwrap_or(Value::Null);
    let pairs = [
        (tenant, ctx.tenant().as_str().into()),
        (employee, ctx.employee().as_str().into()),
        (role, ctx.role().as_str().into()),
        (request, ctx.request_id().to_string().into()),
        (behalf, optional(ctx.on_behalf_of().map(|e| e.as_str().into()))),
        (level, level_word(ctx.security_level()).into()),
        (flags, list(ctx.compliance_flags().iter().map(|f| f.as_str()))),
        (action, input.action.as_str().into()),
        (tool, input.tool_name.as_str().into()),
        (effect, input.effect.as_str().into()),
        (resource, input.resource.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect::<Map>().into()),
        (tags, list(input.doc_tags.iter().map(String::as_str))),
        (pii, list(input.pii_flags.iter().map(|k| k.as_str()))),
        (candidates, list(input.candidates.iter().map(String::as_str))),
        (digest, optional(input.args_digest.map(|d| d.to_string().into()))),
    ];
    Ok(pairs.into_iter().map(|(k, v)| (k.clone(), v)).collect::<Map>().into())
}

type Map = BTreeMap<Value, Value>;

fn list<'a>(words: impl Iterator<Item = &'a str>) -> Value {
    words.map(Value::from).collect::<Vec<_>>().into()
}

fn level_word(level: SecurityLevel) -> &'static str {
    match level {
        SecurityLevel::Public => "public",
        SecurityLevel::Internal => "internal",
        SecurityLevel::Confidential => "confidential",
        SecurityLevel::Restricted => "restricted",
    }
}

/// A grant is `action:resource`, so an action without a colon keeps the two apart.
fn check(input: &PolicyInput, max_bytes: usize) -> Result<(), Failure> {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    let action = (1..=64).contains(&input.action.len()) && input.action.bytes().all(word);
    let effect = matches!(input.effect.as_str(), "read" | "write" | "send");
    let fields: usize = input.resource.iter().map(|(k, v)| k.len() + v.len()).sum();
    let words = input.doc_tags.iter().chain(&input.candidates);
    let bytes = input.tool_name.len() + fields + words.map(String::len).sum::<usize>();
    let sound = action && effect && !input.tool_name.is_empty() && bytes <= max_bytes;
    if sound { Ok(()) } else { Err(Failure::Input) }
}

#[cfg(test)]
mod tests {
    use forge_core::redact::EntityKind;
    use forge_core::testing::context;
    use forge_core::{Digest, Principal, Slug};

    use super::*;

    #[test]
    fn it_is_the_document_that_serde_makes() {
        let principal = Principal::employee("acme", "ana", "analyst")
            .unwrap()
            .with_security_level(SecurityLevel::Restricted)
            .with_compliance_flag(Slug::parse("gdpr").unwrap());
        let ctx = ExecutionContext::issue(principal, context("acme", "ana", "analyst").request_id());
        let mut input = PolicyInput::new(&ctx, "tool.call", "slack_post", "send");
        for full in [false, true] {
            if full {
                input.resource.insert("channel".into(), "#deals".into());
                input.doc_tags.insert("confidential".into());
                input.candidates.insert("local/small".into());
                input.pii_flags.extend(EntityKind::ALL);
                input.args_digest = Some(Digest::of(b"x"));
            }
            let ours = serde_json::to_value(document(&ctx, &input, 1024).unwrap()).unwrap();
            assert_eq!(ours, serde_json::to_value(&input).unwrap());
        }
        for level in [SecurityLevel::Public, SecurityLevel::Internal, SecurityLevel::Confidential] {
            assert_eq!(serde_json::json!(level), level_word(level));
        }
    }

    #[test]
    fn the_context_overrides_what_an_input_claims() {
        let (ctx, other) = (context("acme", "ana", "analyst"), context("globex", "eve", "admin"));
        let claimed = PolicyInput::new(&other, "tool.call", "x", "read");
        let honest = PolicyInput::new(&ctx, "tool.call", "x", "read");
        assert_eq!(document(&ctx, &claimed, 1024), document(&ctx, &honest, 1024));
    }

    #[test]
    fn words_and_sizes_are_checked() {
        let ctx = context("acme", "ana", "analyst");
        let of =
            |action: &str, tool: &str, effect: &str| document(&ctx, &PolicyInput::new(&ctx, action, tool, effect), 100);
        assert!(of("tool.call", "x", "read").is_ok());
        let long = "x".repeat(101);
        for (action, tool, effect) in [
            ("", "x", "read"),
            ("tool:call", "x", "read"),
            ("tool.call", "", "read"),
            ("tool.call", "x", "Send"),
            ("tool.call", &long, "read"),
        ] {
            assert_eq!(of(action, tool, effect), Err(Failure::Input), "{action} {effect}");
        }
    }
}
