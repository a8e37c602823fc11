//! The README's tables say what is there: every feature of `Cargo.toml`, every example.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The rows of the table under a heading, each cell without its quotes.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = read("README.md");
    let after = text.split_once(heading).unwrap_or_else(|| panic!("the README has no `{heading}`")).1;
    let rows = after.lines().skip_while(|l| !l.starts_with('|')).take_while(|l| l.starts_with('|')).skip(2);
    rows.map(|l| l.trim_matches('|').split('|').map(|c| c.trim().trim_matches('`').to_owned()).collect()).collect()
}

#[test]
fn the_table_of_features_is_that_of_the_manifest() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let of_manifest: BTreeMap<String, Vec<String>> = manifest["features"].clone().try_into().unwrap();
    let default: BTreeSet<&String> = of_manifest["default"].iter().collect();
    let expected: BTreeMap<&str, &str> = of_manifest
        .keys()
        .filter(|f| *f != "default")
        .map(|f| (f.as_str(), if default.contains(f) { "yes" } else { "no" }))
        .collect();
    let rows = table("## Features");
    let told: BTreeMap<&str, &str> = rows.iter().map(|r| (r[0].as_str(), r[1].as_str())).collect();
    assert_eq!(told, expected, "a feature is missing in the README, or there too much");
}

/// Programs to use, not examples to read at a glance; tests/queue_examples.rs runs them.
const PROGRAMS: [&str; 2] = ["celery_worker", "queue_ctl"];

#[test]
fn the_table_of_examples_is_that_of_the_directory() {
    let mut there = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "rs") {
            let (lines, name) = (std::fs::read_to_string(&path).unwrap().lines().count(), path.file_stem().unwrap());
            let name = name.to_string_lossy().into_owned();
            if PROGRAMS.contains(&name.as_str()) {
                assert!(read("README.md").contains(&format!("`{name}`")), "the README does not know {name}");
                continue;
            }
            assert!(lines < 100, "{} has {lines} lines: an example is read at a glance", path.display());
            there.insert(name);
        }
    }
    // named in the sentence above the table
    assert!(there.remove("hello"));
    let told: BTreeSet<String> =
        table("a crash in the middle. Between them").into_iter().map(|r| r[0].clone()).collect();
    assert_eq!(told, there);
    let script = read("scripts/test.sh");
    assert!(there.iter().all(|e| script.contains(e.as_str())), "the command that tests everything runs every example");
}

/// Every adapter trait has a mock: a trait that is added without one is red here.
#[test]
fn every_adapter_trait_has_a_mock() {
    let core = root().join("forge-core/src");
    let mut traits = BTreeSet::new();
    let mut dirs = vec![core.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|l| l.starts_with("pub trait ")) {
                let is_adapter = ["Adapter", "'static", "Tool {"].iter().any(|s| line.contains(s));
                let name = line.trim_start_matches("pub trait ").split([':', ' ', '<']).next().unwrap();
                if is_adapter && !["Adapter", "WholeQueue"].contains(&name) {
                    traits.insert(name.to_owned());
                }
            }
        }
    }
    assert!(traits.len() > 20, "the traits are found: {traits:?}");
    let mocks = read("forge-core/src/mock.rs");
    for name in &traits {
        assert!(mocks.contains(&format!("Mock{name}: {name}")), "{name} has no mock");
    }
}
