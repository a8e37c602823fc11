//! Phase 3: the arguments against the tool's own schema, before a policy is asked.
//!
//! Typed tools are checked in full by serde when they parse; this catches what can be said early: not an object, a field that
//! is missing or unknown, a scalar of another type. A full JSON Schema validator is for foreign schemas, behind a feature.

use serde_json::Value;

use crate::{Error, Result};

pub(super) fn check(tool: &str, schema: &Value, args: &Value) -> Result<()> {
    let wrong = |what: &'static str, field: &str| {
        Err(Error::invalid("guard.schema", what).with("tool", tool.to_owned()).with("field", field.to_owned()))
    };
    let Some(fields) = args.as_object() else { return wrong("the arguments must be a JSON object", "") };
    let empty = serde_json::Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for name in required {
        if !fields.contains_key(name) {
            return wrong("a required argument is missing", name);
        }
    }
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    for (name, value) in fields {
        match properties.get(name) {
            // the name came from outside: its length is said, not its text
            None if closed => {
                return wrong("an argument that the tool does not know", &format!("({} bytes)", name.len()));
            }
            Some(property) if !type_fits(property.get("type"), value) => {
                return wrong("an argument has another type", name);
            }
            _ => {}
        }
    }
    Ok(())
}

fn type_fits(declared: Option<&Value>, value: &Value) -> bool {
    let fits = |t: &str| match t {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    };
    match declared {
        Some(Value::String(t)) => fits(t),
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).any(fits),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_arguments_are_named_and_not_repeated() {
        let schema = json!({ "properties": { "city": { "type": "string" } }, "required": ["city"], "additionalProperties": false });
        assert!(check("w", &schema, &json!({ "city": "Lisbon" })).is_ok());
        for bad in [json!("x"), json!({}), json!({ "city": 1 }), json!({ "city": "x", "hunter2": 1 })] {
            let e = check("w", &schema, &bad).unwrap_err().to_string();
            assert!(!e.contains("hunter2"), "{e}");
        }
    }
}
