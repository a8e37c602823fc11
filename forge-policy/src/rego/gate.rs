//! What a policy must be to be put in force.
//!
//! regorus finds an unknown function only when a rule that calls it is reached, the two evaluators differ on what fails at
//! run time, and a default that allows turns every such failure into a yes. So all rules are looked at before any is used.

use std::collections::BTreeSet;

use forge_core::policy::Verdict;
use forge_core::{Error, Result};
use regorus::Value;
use regorus::unstable::{BUILTINS, Expr, Module, Ref, Rule, RuleHead, Span};

use super::answer::Answer;
use super::sources::config;
use super::walk;

/// Not the same twice, or reaching out of the process. `http.send` exists in some builds as a stub that is always undefined.
const BANNED: [&str; 8] = [
    "http.send",
    "net.lookup_ip_addr",
    "opa.runtime",
    "rand.intn",
    "rego.parse_module",
    "time.now_ns",
    "trace",
    "uuid.rfc4122",
];
/// The data that a policy may read, and the packages that hold rules.
const ROOTS: [&str; 3] = ["tenant", "shared", "forge"];

/// Looks at every module; `policy` is the package that must have a `decision`.
pub(super) fn admit(modules: &[Ref<Module>], policy: &str) -> Result<()> {
    let functions = functions(modules);
    let mut decided = false;
    for module in modules {
        let package = path(&module.package.refr).unwrap_or_default();
        if package != "forge" && !package.starts_with("forge.") {
            return Err(refused(&module.package.span, "a package must be `forge` or lie under it"));
        }
        for import in &module.imports {
            reference(&import.refr)?;
        }
        for rule in &module.policy {
            walk::rule(rule, &mut |e| expression(e, module, &package, &functions))?;
            if let Rule::Default { refr, value, span, .. } = rule.as_ref() {
                let name = path(refr).unwrap_or_default();
                if matches!(name.as_str(), "allow" | "allowed")
                    && matches!(value.as_ref(), Expr::Bool { value: Value::Bool(true), .. })
                {
                    return Err(refused(span, "a default must not allow; make it false and give a rule that says yes"));
                }
                if package == policy && name == "decision" {
                    denies(value)?;
                    decided = true;
                }
            }
        }
    }
    if decided {
        Ok(())
    } else {
        Err(config("there is no `default decision` that denies").with("package", policy.to_owned()))
    }
}

/// The default must be a denial in the shape of a decision.
fn denies(value: &Expr) -> Result<()> {
    let answer = literal(value).ok_or(()).and_then(|v| Answer::read(&v).map_err(|_| ()));
    match answer {
        Ok(answer) if answer.verdict == Verdict::Deny => Ok(()),
        _ => Err(refused(
            value.span(),
            "the default decision must be a literal such as {\"verdict\": \"deny\", \"reasons\": [\"not_granted\"], \"obligations\": {}}",
        )),
    }
}

fn expression(e: &Expr, module: &Module, package: &str, functions: &BTreeSet<String>) -> Result<()> {
    match e {
        Expr::Call { fcn, .. } => call(fcn, module, package, functions),
        Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => reference(e),
        _ => Ok(()),
    }
}

fn call(name: &Expr, module: &Module, package: &str, functions: &BTreeSet<String>) -> Result<()> {
    let Some(path) = path(name) else {
        return Err(refused(name.span(), "a function is called by its name"));
    };
    let (first, rest) = path.split_once('.').map_or((path.as_str(), ""), |(f, r)| (f, r));
    let imported = module.imports.iter().find(|i| alias(i).as_deref() == Some(first)).and_then(|i| self::path(&i.refr));
    let full = match (imported, path.strip_prefix("data.")) {
        (_, Some(full)) => full.to_owned(),
        (Some(target), _) => {
            let target = target.trim_start_matches("data.").to_owned();
            if rest.is_empty() { target } else { format!("{target}.{rest}") }
        }
        (None, None) => format!("{package}.{path}"),
    };
    if functions.contains(&full) || path == "print" {
        return Ok(());
    }
    if BANNED.contains(&path.as_str()) {
        return Err(refused(name.span(), "this builtin is not allowed: its answer is not the policy's alone")
            .with("function", path));
    }
    if BUILTINS.contains_key(path.as_str()) {
        return Ok(());
    }
    Err(refused(name.span(), "there is no such function").with("function", path))
}

/// A reference into `data` must say at once into which part.
fn reference(e: &Expr) -> Result<()> {
    let (root, first) = walk::root(e);
    let Expr::Var { span, .. } = root else { return Ok(()) };
    if span.text() != "data" {
        return Ok(());
    }
    match first {
        Some(field) if ROOTS.contains(&field.as_str()) => Ok(()),
        _ => Err(refused(span, "a policy reads data.tenant, data.shared and data.forge only, by name")),
    }
}

/// Every function that the modules define, as `package.name`.
fn functions(modules: &[Ref<Module>]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for module in modules {
        let package = path(&module.package.refr).unwrap_or_default();
        for rule in &module.policy {
            if let Rule::Spec { head: RuleHead::Func { refr, .. }, .. } = rule.as_ref() {
                all.extend(path(refr).map(|name| format!("{package}.{name}")));
            }
        }
    }
    all
}

/// The dotted name of a reference without variables in it.
fn path(e: &Expr) -> Option<String> {
    match e {
        Expr::Var { span, .. } => Some(span.text().to_owned()),
        Expr::RefDot { refr, field, .. } => Some(format!("{}.{}", path(refr)?, field.0.text())),
        Expr::RefBrack { refr, index, .. } => match index.as_ref() {
            Expr::String { value, .. } => Some(format!("{}.{}", path(refr)?, value.as_string().ok()?)),
            _ => None,
        },
        _ => None,
    }
}

fn alias(import: &regorus::unstable::Import) -> Option<String> {
    match &import.r#as {
        Some(name) => Some(name.text().to_owned()),
        None => path(&import.refr)?.rsplit('.').next().map(str::to_owned),
    }
}

fn literal(e: &Expr) -> Option<Value> {
    match e {
        Expr::String { value, .. }
        | Expr::RawString { value, .. }
        | Expr::Number { value, .. }
        | Expr::Bool { value, .. } => Some(value.clone()),
        Expr::Array { items, .. } => Some(items.iter().map(|i| literal(i)).collect::<Option<Vec<_>>>()?.into()),
        Expr::Object { fields, .. } => {
            let pairs = fields.iter().map(|(_, k, v)| Some((literal(k)?, literal(v)?)));
            Some(pairs.collect::<Option<std::collections::BTreeMap<_, _>>>()?.into())
        }
        _ => None,
    }
}

fn refused(span: &Span, message: &'static str) -> Error {
    config(message).with("file", span.source.get_path().clone()).with("line", span.line.to_string())
}
