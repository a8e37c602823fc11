//! What the dependency tree promises: areas never depend on each other, the core has no driver, no HTTP client and no policy
//! engine, `support/` knows no area, and nobody turns on serde_json's arbitrary precision.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const AREAS: [&str; 6] =
    ["forge-dlp", "forge-memory", "forge-metering", "forge-policy", "forge-queue", "forge-telemetry"];
const SUPPORT: [&str; 4] = ["forge-http", "forge-redis", "forge-sqlite", "forge-testkit"];

fn cargo(args: &[&str]) -> String {
    let run = Command::new(env!("CARGO")).current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().unwrap();
    assert!(run.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

/// Package to the members of the family that it depends on, development dependencies left out.
fn family() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    let mut family = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let ours = dependencies
            .filter(|d| d["kind"].is_null())
            .map(|d| d["name"].as_str().unwrap().to_owned())
            .filter(|name| name == "forge" || name.starts_with("forge-"));
        family.insert(package["name"].as_str().unwrap().to_owned(), ours.collect());
    }
    family
}

#[test]
fn areas_meet_in_the_core_and_support_knows_no_area() {
    let family = family();
    assert_eq!(
        family.len(),
        1 + 1 + AREAS.len() + SUPPORT.len(),
        "a new member needs a place in this test: {:?}",
        family.keys()
    );
    assert!(family["forge-core"].is_empty(), "{:?}", family["forge-core"]);
    for support in SUPPORT {
        assert!(family[support].iter().all(|d| d == "forge-core"), "{support}: {:?}", family[support]);
    }
    for area in AREAS {
        let allowed = |d: &String| d == "forge-core" || (SUPPORT.contains(&d.as_str()) && d != "forge-testkit");
        assert!(family[area].iter().all(allowed), "{area}: {:?}", family[area]);
    }
    assert!(!family["forge"].contains("forge-testkit"), "the stand-ins are for development");
}

#[test]
fn the_core_has_no_driver_no_http_client_and_no_policy_engine() {
    let tree = cargo(&["tree", "-p", "forge-core", "--all-features", "--edges", "normal", "--prefix", "none"]);
    for heavy in [
        "rusqlite",
        "libsqlite3-sys",
        "redis",
        "reqwest",
        "hyper",
        "rustls",
        "regorus",
        "axum",
        "prometheus-client",
        "ring",
    ] {
        assert!(!tree.lines().any(|l| l.starts_with(&format!("{heavy} "))), "forge-core depends on {heavy}:\n{tree}");
    }
}

#[test]
fn the_default_host_has_one_tls_and_no_server() {
    let tree = cargo(&["tree", "-p", "forge", "--edges", "normal", "--prefix", "none"]);
    for absent in ["openssl-sys", "native-tls", "aws-lc-rs", "axum", "reqwest"] {
        assert!(!tree.lines().any(|l| l.starts_with(&format!("{absent} "))), "forge depends on {absent} by default");
    }
}

#[test]
fn nobody_turns_on_arbitrary_precision() {
    let features = cargo(&[
        "tree",
        "--workspace",
        "--all-features",
        "--edges",
        "features",
        "--prefix",
        "none",
        "-i",
        "serde_json",
    ]);
    assert!(
        !features.contains("serde_json feature \"arbitrary_precision\""),
        "numbers would change their meaning for every crate"
    );
}
