//! The house rules that a machine can check. CONTRIBUTING.md describes them; each test here lists the
//! violations of one rule.

use std::collections::BTreeMap;

use millstream_tests::{
    source::{code_only, functions, lines_without_tests, without_tests},
    tree::{self, Manifest},
};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// `expect` calls outside tests per 1,000 lines of a crate; each states the reason.
const EXPECTS_PER_THOUSAND_LINES_MAX: usize = 4;

/// The crates that each of our crates may depend on.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("millstream-batch", &[]),
    ("millstream-protocol", &[]),
    ("millstream-client", &["millstream-batch", "millstream-protocol"]),
    ("millstream-model", &["millstream-batch"]),
    ("millstream-state", &["millstream-model"]),
    ("millstream-store", &["millstream-model", "millstream-batch"]),
    ("millstream-replica", &["millstream-model", "millstream-batch", "millstream-state", "millstream-store"]),
    (
        "millstream-broker",
        &[
            "millstream-model",
            "millstream-batch",
            "millstream-state",
            "millstream-store",
            "millstream-replica",
            "millstream-protocol",
        ],
    ),
    ("millstream-bench", &["millstream-client"]),
    (
        "millstream",
        &[
            "millstream-broker",
            "millstream-bench",
            "millstream-client",
            "millstream-batch",
            "millstream-protocol",
            "millstream-model",
            "millstream-store",
            "millstream-replica",
        ],
    ),
    ("millstream-tests", &[]),
    ("base2histogram", &[]),
];

/// Modules of the broker from the lowest layer to the highest: each may name only those of lower layers.
const BROKER_LAYERS: &[&[&str]] = &[
    &["clock", "console", "signals", "suggest"],
    &["config", "telemetry", "memory_pressure"],
    &["partition"],
    &["service"],
    &["kafka", "admin", "housekeeping"],
    &["net", "reload"],
    &["node", "lib"],
];

/// Synchronous crates, which must not use tasks and sockets.
const WITHOUT_TOKIO: &[&str] = &["model", "state", "store", "batch", "protocol"];

/// Files that may read a clock, and why.
const MAY_LOOK_AT_A_CLOCK: &[&str] = &[
    "broker/src/clock.rs",            // the one source of time
    "client/src/clock.rs",            // the same, of the clients
    "bench/src/clock.rs",             // the same, of the load generator
    "broker/store/src/wal/writer.rs", // measures how long a sync takes; nothing depends on it
];

fn rust_files() -> impl Iterator<Item = (String, String)> {
    tree::files().into_iter().filter(|(path, _)| path.ends_with(".rs"))
}

/// Whether the whole file is a test, an example or a bench.
fn is_test(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "examples" | "benches" | "tests.rs"))
        || path.ends_with("_tests.rs")
}

/// Whether the file is a test itself or is included by its parent under `cfg(test)`.
fn is_product(path: &str) -> bool {
    ["broker/", "client/", "bench/src/"].iter().any(|folder| path.starts_with(folder)) && !is_test(path)
}

fn product_code() -> impl Iterator<Item = (String, String)> {
    rust_files()
        .filter(|(path, _)| is_product(path))
        .map(|(path, text)| (path, code_only(without_tests(&text))))
}

fn crates() -> Vec<Manifest> {
    tree::manifests(&tree::files())
}

#[track_caller]
fn none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// "path:line" of every line of the code that has the needle.
fn lines_with(path: &str, code: &str, needle: &str) -> Vec<String> {
    let lines = code.lines().enumerate().filter(|(_, line)| line.contains(needle));
    lines.map(|(n, _)| format!("{path}:{} {needle}", n + 1)).collect()
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_DEPEND_ON.iter().copied().collect();
    let mut broken = Vec::new();
    for found in crates() {
        let Some(may) = allowed.get(found.name.as_str()) else {
            broken.push(format!("{} is not in MAY_DEPEND_ON", found.name));
            continue;
        };
        let ours = found.dependencies.iter().filter(|(name, _)| name.starts_with("millstream"));
        broken.extend(
            ours.filter(|(name, _)| !may.contains(&name.as_str()))
                .map(|(name, _)| format!("{} on {name}", found.name)),
        );
    }
    none("a crate depends on one that it may not know", broken);
}

/// Modules that the code names below `crate::`.
fn modules_named(code: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_string)
    };
    let mut named = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            named.extend(name(rest));
            continue;
        };
        let (mut depth, mut start) = (1, 0);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && c == ',') {
                named.extend(name(&list[start..at]));
                start = at + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    named.retain(|name| !name.is_empty());
    named
}

#[test]
fn modules_of_the_broker_name_only_lower_layers() {
    let layer_of = |module: &str| BROKER_LAYERS.iter().position(|layer| layer.contains(&module));
    let mut broken = Vec::new();
    for (path, code) in product_code() {
        let Some(inner) = path.strip_prefix("broker/src/") else { continue };
        let module = inner.split(['/', '.']).next().unwrap_or(inner);
        let Some(layer) = layer_of(module) else {
            broken.push(format!("{path}: {module} is not in BROKER_LAYERS"));
            continue;
        };
        let higher = modules_named(&code)
            .into_iter()
            .filter(|named| named != module && layer_of(named).is_some_and(|of_named| of_named >= layer));
        broken.extend(higher.map(|named| format!("{path}: {named}")));
    }
    none("a module names one of its own or a higher layer", broken);
}

#[test]
fn only_the_shard_proposes() {
    let places = ["broker/replica/", "broker/src/partition/shard.rs"];
    let broken = product_code()
        .filter(|(path, _)| !places.iter().any(|place| path.starts_with(place)))
        .flat_map(|(path, code)| lines_with(&path, &code, "group().propose("));
    none("a proposal past the shard's queue", broken.collect());
}

#[test]
fn only_the_console_prints() {
    // `println!` and its like end the process where their output is closed or full.
    let printing = ["println!(", "print!("];
    let broken = product_code()
        .filter(|(path, _)| path != "broker/src/console.rs" && !path.ends_with("/build.rs"))
        .flat_map(|(path, code)| printing.map(|needle| lines_with(&path, &code, needle)).concat());
    none("a line is printed past broker/src/console.rs", broken.collect());
}

#[test]
fn the_core_knows_no_runtime() {
    let cores = || WITHOUT_TOKIO.iter().map(|name| format!("/{name}"));
    let mut broken: Vec<String> = Vec::new();
    for found in crates().iter().filter(|found| cores().any(|core| found.folder.ends_with(&core))) {
        let runtimes = found.dependencies.iter().filter(|(name, _)| name == "tokio" || name == "futures");
        broken.extend(runtimes.map(|(name, _)| format!("{} on {name}", found.name)));
    }
    for (path, code) in product_code() {
        if cores().any(|core| path.contains(&format!("{core}/src/"))) {
            broken.extend(lines_with(&path, &code, "tokio::"));
            broken.extend(lines_with(&path, &code, "async fn"));
            broken.extend(lines_with(&path, &code, ".await"));
        }
    }
    none("the core decides and stores, it does not wait for tasks", broken);
}

#[test]
fn each_edge_keeps_its_library_to_itself() {
    let mut broken = Vec::new();
    for found in crates() {
        for (library, owner) in
            [("openraft", "millstream-replica"), ("clap", "millstream"), ("axum", "millstream-broker")]
        {
            let named =
                found.dependencies.iter().chain(&found.dev_dependencies).any(|(name, _)| name == library);
            if named && found.name != owner {
                broken.push(format!("{} on {library}", found.name));
            }
        }
    }
    let owners = [
        ("openraft::", &["broker/replica/"][..]),
        ("clap::", &["broker/cli/"]),
        ("axum::", &["broker/src/admin/"]),
        (
            "millstream_protocol::",
            &[
                "broker/src/kafka/",
                "broker/src/net/",
                "broker/src/admin/",
                // Addresses are not messages.
                "broker/src/config/address.rs",
                "broker/cli/",
                "client/",
            ],
        ),
        ("millstream_client::", &["broker/cli/", "bench/", "client/"]),
    ];
    for (path, code) in product_code() {
        for (library, places) in owners {
            if !places.iter().any(|place| path.starts_with(place)) {
                broken.extend(lines_with(&path, &code, library));
            }
        }
    }
    none("a library is named outside the one place that knows it", broken);
}

#[test]
fn versions_live_in_the_root_manifest_only() {
    let mut broken = Vec::new();
    for found in crates() {
        for (name, rest) in found.dependencies.iter().chain(&found.dev_dependencies) {
            if !rest.contains("workspace = true") || rest.contains("version") {
                broken.push(format!("{}/Cargo.toml: {name} {rest}", found.folder));
            }
        }
    }
    none("a version outside the root manifest", broken);
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    let bare = crates().into_iter().filter(|found| !found.workspace_lints);
    none("no `[lints] workspace = true`", bare.map(|found| found.folder).collect());
}

#[test]
fn files_and_functions_are_short() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        let lines = lines_without_tests(&text);
        if lines > FILE_LINES_MAX && !is_test(&path) {
            broken.push(format!("{path}: {lines} lines without tests, at most {FILE_LINES_MAX}"));
        }
        let long = functions(&text).into_iter().filter(|(_, _, lines)| *lines > FUNCTION_LINES_MAX);
        broken.extend(long.map(|(name, at, lines)| {
            format!("{path}:{at} {name}: {lines} lines, at most {FUNCTION_LINES_MAX}")
        }));
    }
    none("too long to read", broken);
}

#[test]
fn nothing_is_left_to_do_and_nothing_unwrapped() {
    let mut broken = Vec::new();
    for (path, code) in product_code() {
        for needle in [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "anyhow"] {
            broken.extend(lines_with(&path, &code, needle));
        }
    }
    none("not in the product", broken);
}

#[test]
fn an_expectation_is_rare_and_says_its_reason() {
    let (mut broken, mut counts) = (Vec::new(), BTreeMap::<String, (usize, usize)>::new());
    for (path, text) in rust_files().filter(|(path, _)| is_product(path)) {
        let code = code_only(without_tests(&text));
        let of_crate = path.split_once("/src/").map_or(path.clone(), |(name, _)| name.to_string());
        let count = counts.entry(of_crate).or_default();
        count.0 += code.matches(".expect(").count();
        count.1 += code.lines().count();
        broken.extend(lines_with(&path, without_tests(&text), ".expect(\"\")"));
    }
    for (name, (expects, lines)) in counts {
        if expects * 1000 > EXPECTS_PER_THOUSAND_LINES_MAX * lines.max(1000) {
            broken.push(format!(
                "{name}: {expects} in {lines} lines, at most {EXPECTS_PER_THOUSAND_LINES_MAX} in 1000"
            ));
        }
    }
    none("`expect` is for what cannot happen, with the reason", broken);
}

#[test]
fn time_is_an_input() {
    let mut broken = Vec::new();
    for (path, code) in product_code().filter(|(path, _)| !MAY_LOOK_AT_A_CLOCK.contains(&path.as_str())) {
        for needle in ["Instant::now", "SystemTime::now"] {
            broken.extend(lines_with(&path, &code, needle));
        }
    }
    none("time comes from broker/src/clock.rs", broken);
}

#[test]
fn files_name_no_machine_and_no_mirror() {
    // In two pieces, so that this file does not contain them either.
    let machine = [("/ro", "ot/"), ("/ho", "me/"), ("/wo", "rk/"), ("/Us", "ers/")];
    let mirrors = [
        ("pypi", ".org"),
        ("npmjs", ".org"),
        ("proxy.golang", ".org"),
        ("index.crates", ".io"),
        ("repo.maven", ".apache"),
        ("artifact", "ory"),
    ];
    let mut broken = Vec::new();
    for (path, text) in tree::files() {
        for (a, b) in machine.iter().chain(&mirrors) {
            broken.extend(lines_with(&path, &text, &format!("{a}{b}")));
        }
    }
    let lock = tree::files().remove("Cargo.lock").unwrap_or_default();
    let sources = lock.lines().filter(|line| {
        line.starts_with("source = ")
            && !line.contains("registry+https://github.com/rust-lang/crates.io-index")
    });
    broken.extend(sources.map(|line| format!("Cargo.lock: {line}")));
    none("a path or host of one machine", broken);
}

#[test]
fn main_stays_small() {
    let lines = tree::files().get("broker/cli/src/main.rs").map_or(0, |text| text.lines().count());
    assert!(lines <= 60, "broker/cli/src/main.rs has {lines} lines, at most 60");
}

/// Pages may only link to existing files.
#[test]
fn links_in_the_documents_lead_somewhere() {
    let files = tree::files();
    let mut broken = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in links(text) {
            let target = tree::root().join(folder).join(&link);
            if !target.exists() {
                broken.push(format!("{path}: {link}"));
            }
        }
    }
    none("a link that leads nowhere", broken);
}

/// Targets of Markdown links within the repository, without their anchors.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    let local =
        targets.filter(|target| !target.contains("://") && !target.starts_with('#') && !target.contains(' '));
    local
        .map(|target| target.split('#').next().unwrap_or(target).to_string())
        .filter(|target| !target.is_empty())
        .collect()
}
