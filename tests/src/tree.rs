//! The checkout: its files and its crates.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Directories of the checkout without source.
const SKIPPED: &[&str] = &["target", ".git", "millstream-data", "node_modules", "__pycache__"];

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Every text file of the checkout with its path from the root, sorted.
pub fn files() -> BTreeMap<String, String> {
    let (root, mut found) = (root(), BTreeMap::new());
    collect(&root, &root, &mut found);
    found
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if SKIPPED.iter().any(|name| path.ends_with(name)) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, found);
        } else if let (Ok(text), Ok(name)) = (fs::read_to_string(&path), path.strip_prefix(root)) {
            found.insert(name.display().to_string(), text);
        }
    }
}

/// A crate of the workspace, from its manifest.
#[derive(Debug)]
pub struct Manifest {
    /// Folder from the root.
    pub folder: String,
    /// Package name.
    pub name: String,
    /// Lines of `[dependencies]` and `[build-dependencies]`: name and the rest of the line.
    pub dependencies: Vec<(String, String)>,
    /// Lines of `[dev-dependencies]`.
    pub dev_dependencies: Vec<(String, String)>,
    /// Whether the lints are the workspace's.
    pub workspace_lints: bool,
}

/// The crates of the workspace; test tools with workspaces of their own are not among them.
pub fn manifests(files: &BTreeMap<String, String>) -> Vec<Manifest> {
    let found = files.iter().filter(|(path, _)| path.ends_with("/Cargo.toml"));
    let crates = found.filter(|(_, text)| !text.lines().any(|line| line.trim() == "[workspace]"));
    crates.map(|(path, text)| manifest(path.trim_end_matches("/Cargo.toml"), text)).collect()
}

fn manifest(folder: &str, text: &str) -> Manifest {
    let mut found = Manifest {
        folder: folder.to_string(),
        name: String::new(),
        dependencies: Vec::new(),
        dev_dependencies: Vec::new(),
        workspace_lints: false,
    };
    let mut section = "";
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
            continue;
        };
        match section {
            "[package]" if key == "name" => found.name = value.trim_matches('"').to_string(),
            "[lints]" => found.workspace_lints = (key, value) == ("workspace", "true"),
            "[dependencies]" | "[build-dependencies]" => found.dependencies.push(dependency(key, value)),
            "[dev-dependencies]" => found.dev_dependencies.push(dependency(key, value)),
            _ => {}
        }
    }
    found
}

/// `x.workspace = true` and `x = { workspace = true }` are a dependency on x.
fn dependency(key: &str, value: &str) -> (String, String) {
    match key.split_once('.') {
        Some((name, rest)) => (name.to_string(), format!("{rest} = {value}")),
        None => (key.to_string(), value.to_string()),
    }
}
