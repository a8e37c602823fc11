//! Reading a directory of policies, with a cap on everything that could grow.

use std::fs;
use std::path::Path;

use forge_core::{Error, Result, TenantId};
use serde_json::Value;

use super::sources::{Sources, config, twice};

const MAX_DEPTH: usize = 8;
const MAX_ENTRIES: usize = 100_000;
const MAX_POLICY_BYTES: u64 = 1024 * 1024;
const MAX_DATA_BYTES: u64 = 16 * 1024 * 1024;

/// Adds what the directory holds.
pub(super) fn read(root: &Path, into: &mut Sources) -> Result<()> {
    let mut pending = vec![(root.to_path_buf(), String::new(), 0)];
    let mut entries = 0;
    while let Some((dir, prefix, depth)) = pending.pop() {
        // the root as the host gave it; below it, names within
        let shown = if prefix.is_empty() { root.display().to_string() } else { prefix.clone() };
        for entry in fs::read_dir(&dir).map_err(|e| unreadable(&shown, e))? {
            let entry = entry.map_err(|e| unreadable(&prefix, e))?;
            let Ok(file) = entry.file_name().into_string() else {
                return Err(config("a file's name is not UTF-8; rename it").with("directory", prefix));
            };
            if file.starts_with('.') {
                continue;
            }
            let name = if prefix.is_empty() { file } else { format!("{prefix}/{file}") };
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(config("the directory holds too many files").with("limit", MAX_ENTRIES.to_string()));
            }
            let kind = entry.file_type().map_err(|e| unreadable(&name, e))?;
            if kind.is_symlink() {
                return Err(config("links are not followed; put the file itself there").with("file", name));
            }
            if kind.is_dir() {
                if depth == MAX_DEPTH {
                    return Err(config("the directory is too deep").with("file", name));
                }
                pending.push((entry.path(), name, depth + 1));
            } else {
                add(&entry.path(), name, into)?;
            }
        }
    }
    Ok(())
}

fn add(path: &Path, name: String, into: &mut Sources) -> Result<()> {
    if name.ends_with(".rego") && !name.ends_with("_test.rego") {
        let text = text(path, &name, MAX_POLICY_BYTES)?;
        if into.policies.contains_key(&name) {
            return Err(twice(&name));
        }
        into.policies.insert(name, text);
    } else if name.ends_with(".checks.json") {
        let text = text(path, &name, MAX_DATA_BYTES)?;
        into.checks.insert(name, text);
    } else if name == "shared/data.json" {
        into.shared.push(json(path, &name)?);
    } else if let Some(tenant) = name.strip_prefix("tenants/").and_then(|n| n.strip_suffix("/data.json")) {
        let tenant = TenantId::parse(tenant)
            .map_err(|e| config("the folder's name is no tenant id").with("file", name.clone()).with_source(e))?;
        if into.tenants.insert(tenant, json(path, &name)?).is_some() {
            return Err(twice(&name));
        }
    } else if name.ends_with("data.json") || name.ends_with("data.yaml") {
        // it would be ignored, and its rules with it
        return Err(config("data belongs into shared/data.json or tenants/<tenant>/data.json").with("file", name));
    }
    Ok(())
}

fn text(path: &Path, name: &str, limit: u64) -> Result<String> {
    let size = fs::metadata(path).map_err(|e| unreadable(name, e))?.len();
    if size > limit {
        return Err(config("the file is too large")
            .with("file", name)
            .with("bytes", size.to_string())
            .with("limit", limit.to_string()));
    }
    fs::read_to_string(path).map_err(|e| unreadable(name, e))
}

fn json(path: &Path, name: &str) -> Result<Value> {
    parse(name, &text(path, name, MAX_DATA_BYTES)?)
}

/// Parses a JSON file; the error names its line.
pub(super) fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        config("the file is not the JSON that is expected")
            .with("file", name)
            .with("line", e.line().to_string())
            .with_source(e)
    })
}

fn unreadable(name: &str, e: std::io::Error) -> Error {
    config("the file cannot be read; check that it is there, its owner and its mode").with("file", name).with_source(e)
}
