//! Which crate may import which: the house rules, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Crate, what it may depend on, and what its tests may use besides.
const RULES: [(&str, &[&str], &[&str]); 7] = [
    ("protocol", &[], &["testbed"]),
    ("io", &["protocol"], &["testbed"]),
    ("storage-rest", &["io"], &["testbed"]),
    ("engine", &["protocol", "io"], &["testbed"]),
    ("cli", &["protocol", "io", "storage-rest", "engine"], &["testbed"]),
    ("testbed", &["protocol", "io", "storage-rest", "engine"], &[]),
    ("benches", &["protocol", "io", "storage-rest", "engine", "testbed"], &[]),
];

/// Our crates in each table of dependencies of a manifest.
fn imports(manifest: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut table = String::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("bodley-") {
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            tables.entry(table.clone()).or_default().insert(name);
        }
    }
    tables
}

#[test]
fn the_table_of_imports_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let workspace = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = workspace.lines().find(|line| line.starts_with("members = ")).unwrap();
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() >= 5, "{members:?}");
    for member in members {
        let rule = RULES.iter().find(|(name, ..)| *name == member);
        let (_, may, tests_may) = rule.unwrap_or_else(|| panic!("{member} has no rule"));
        let manifest = std::fs::read_to_string(root.join(member).join("Cargo.toml")).unwrap();
        for (table, names) in imports(&manifest) {
            for name in names {
                let allowed = may.contains(&name.as_str())
                    || (table == "dev-dependencies" && tests_may.contains(&name.as_str()));
                assert!(allowed, "{member} must not import {name} in [{table}]");
            }
        }
    }
}

#[test]
fn a_forbidden_import_is_seen() {
    let manifest = "[package]\nname = \"bodley-engine\"\n[dependencies]\nbodley-cli.workspace = true\n[dev-dependencies]\nbodley-testbed = { path = \"x\" }\n";
    let found = imports(manifest);
    assert!(found["dependencies"].contains("cli"));
    assert!(found["dev-dependencies"].contains("testbed"));
}
