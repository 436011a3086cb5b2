//! `millstream bench report`: runs side by side, as one page that needs nothing else.
//!
//! The page holds the runs as they were read; its script draws from these and from nothing else. Here it is only decided
//! whether they belong on one page.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Deserializer, Value, json};

use super::result::{Run, RunError};

const STYLE: &str = include_str!("report/page.css");
const SCRIPT: &[&str] =
    &[include_str!("report/data.js"), include_str!("report/chart.js"), include_str!("report/page.js")];
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// More runs than a reader could tell apart.
const RUNS_MAX: usize = 500;
/// Nothing is asked for from anywhere, even if a run's text were to try.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file is too large to be a result.
    #[error("{} is larger than {} MiB: it cannot be a result of `millstream bench`", path.display(), FILE_BYTES_MAX >> 20)]
    Large { path: PathBuf },
    /// A file is no JSON.
    #[error("{}: not JSON at line {}, column {}; `millstream bench ... --save FILE` writes files that a report reads", path.display(), source.line(), source.column())]
    Json { path: PathBuf, source: serde_json::Error },
    /// A file has nothing in it.
    #[error("{} has no results in it", path.display())]
    Empty { path: PathBuf },
    /// A result cannot be shown.
    #[error("{}, result {number}: {source}", path.display())]
    Run { path: PathBuf, number: usize, source: RunError },
    /// Two runs say that they repeat each other, and do not.
    #[error(transparent)]
    Mixed(Box<Mixed>),
    /// The same result is given twice, which would pretend that it was confirmed.
    #[error("{} holds a result that {} has too (\"{case}\" of \"{label}\"); give each one once", path.display(), before.display())]
    Duplicate { before: PathBuf, path: PathBuf, case: String, label: String },
    /// More than a page can show.
    #[error("there are {found} results, and a page shows at most {RUNS_MAX}; give fewer files")]
    Many { found: usize },
    /// The page cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Two runs of one case and label that were not asked for the same.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} and {} both measure \"{case}\" of \"{label}\", but {name} is {one} in one and {other} in the other; \
     give runs that differ different labels (--label)",
    before.display(), path.display()
)]
pub struct Mixed {
    before: PathBuf,
    path: PathBuf,
    case: String,
    label: String,
    name: String,
    one: String,
    other: String,
}

/// A run and the file that it stands in.
struct Found {
    path: PathBuf,
    run: Run,
}

/// Reads the files and writes the page.
pub fn write(files: &[PathBuf], out: &Path, title: &str) -> Result<(), ReportError> {
    let mut found = Vec::new();
    for path in files {
        found.extend(read(path)?);
    }
    check(&found)?;
    let page = page(title, &found);
    fs::write(out, page).map_err(|source| ReportError::Write { path: out.to_path_buf(), source })
}

fn read(path: &Path) -> Result<Vec<Found>, ReportError> {
    let path = path.to_path_buf();
    let failed = |source| ReportError::Read { path: path.clone(), source };
    if fs::metadata(&path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(ReportError::Large { path });
    }
    parse(&path, &fs::read(&path).map_err(failed)?)
}

/// The results in a file: one after the other, or as an array.
fn parse(path: &Path, text: &[u8]) -> Result<Vec<Found>, ReportError> {
    let path = path.to_path_buf();
    let mut values = Vec::new();
    for value in Deserializer::from_slice(text).into_iter::<Value>() {
        match value.map_err(|source| ReportError::Json { path: path.clone(), source })? {
            Value::Array(many) => values.extend(many),
            one => values.push(one),
        }
    }
    if values.is_empty() {
        return Err(ReportError::Empty { path });
    }
    let runs = values.into_iter().enumerate().map(|(at, value)| match Run::read(value) {
        Ok(run) => Ok(Found { path: path.clone(), run }),
        Err(source) => Err(ReportError::Run { path: path.clone(), number: at + 1, source }),
    });
    runs.collect()
}

/// Whether the runs can stand beside each other.
fn check(found: &[Found]) -> Result<(), ReportError> {
    if found.len() > RUNS_MAX {
        return Err(ReportError::Many { found: found.len() });
    }
    let mut first: BTreeMap<(&str, &str), &Found> = BTreeMap::new();
    for (at, Found { path, run }) in found.iter().enumerate() {
        let (case, label) = (run.case.clone(), run.label.clone());
        if let Some(same) = found[..at].iter().find(|before| before.run == *run) {
            return Err(ReportError::Duplicate {
                before: same.path.clone(),
                path: path.clone(),
                case,
                label,
            });
        }
        let before = *first.entry((&run.case, &run.label)).or_insert(&found[at]);
        if let Some((name, one, other)) = difference(&before.run, run) {
            let before = before.path.clone();
            let mixed = Mixed { before, path: path.clone(), case, label, name, one, other };
            return Err(ReportError::Mixed(Box::new(mixed)));
        }
    }
    Ok(())
}

/// The first thing in which rounds of one measurement must not differ, and does.
fn difference(one: &Run, other: &Run) -> Option<(String, String, String)> {
    let commit = |run: &Run| json!(run.broker.commit);
    if one.broker.commit != other.broker.commit {
        return Some(("commit".to_string(), commit(one).to_string(), commit(other).to_string()));
    }
    let names = one.parameters.keys().chain(other.parameters.keys());
    let value = |run: &Run, name: &str| run.parameters.get(name).cloned().unwrap_or_default();
    let differs = names.into_iter().find(|name| value(one, name) != value(other, name))?;
    Some((differs.clone(), value(one, differs).to_string(), value(other, differs).to_string()))
}

/// Text that is shown as it is.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// JSON inside a script element: nothing in it can end that element.
fn embedded(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

fn page(title: &str, found: &[Found]) -> String {
    let file = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let runs: Vec<Value> =
        found.iter().map(|found| json!({ "file": file(&found.path), "run": found.run })).collect();
    let parts = [
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"",
        POLICY,
        "\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>",
        &escaped(title),
        "</title>\n<style>\n",
        STYLE,
        "</style>\n</head>\n<body>\n<main id=\"page\">\n<h1>",
        &escaped(title),
        "</h1>\n<noscript><p>The plots are drawn by the script in this page. The results themselves are in its source, as JSON.</p></noscript>\n\
         </main>\n<script type=\"application/json\" id=\"results\">",
        &embedded(&Value::Array(runs)),
        "</script>\n<script>\n\"use strict\";\n(() => {\n",
        &SCRIPT.concat(),
        "})();\n</script>\n</body>\n</html>\n",
    ];
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::run;

    fn found(path: &str, run: Run) -> Found {
        Found { path: path.into(), run }
    }

    fn lines(runs: &[Run]) -> Vec<u8> {
        runs.iter().map(|run| serde_json::to_string(run).expect("JSON") + "\n").collect::<String>().into()
    }

    #[test]
    fn a_file_holds_results_one_after_the_other_or_as_an_array() {
        let path = Path::new("f.json");
        assert_eq!(parse(path, &lines(&[run("a"), run("b")])).expect("two").len(), 2);
        let array = serde_json::to_vec(&[run("a")]).expect("JSON");
        assert_eq!(parse(path, &array).expect("one").len(), 1);
    }

    #[test]
    fn a_file_that_is_none_says_which_and_where() {
        let said = |text: &[u8]| parse(Path::new("f.json"), text).err().expect("refused").to_string();
        assert!(said(b"").contains("f.json has no results"));
        assert!(said(b"{\n x").contains("f.json: not JSON at line 2, column 2"), "{}", said(b"{\n x"));
        assert!(said(br#"{"a": 1}"#).contains("f.json, result 1: it is no result of `millstream bench`"));
        let mut second = lines(&[run("a")]);
        second.extend(br#"{"format": "millstream-bench/9"}"#);
        assert!(said(&second).contains("f.json, result 2") && said(&second).contains("millstream-bench/9"));
    }

    #[test]
    fn rounds_of_one_label_must_measure_the_same() {
        let later = Run { started_ms: 2, ..run("a") };
        assert!(check(&[found("1", run("a")), found("2", later.clone())]).is_ok());
        let other = Run { parameters: BTreeMap::from([("size_bytes".to_string(), json!(9))]), ..later };
        let error = check(&[found("1", run("a")), found("2", other.clone())]).expect_err("mixed").to_string();
        assert!(error.contains("size_bytes is 100 in one and 9") && error.contains("--label"), "{error}");
        let labelled = Run { label: "b".to_string(), ..other };
        assert!(check(&[found("1", run("a")), found("2", labelled)]).is_ok(), "other labels may differ");
    }

    #[test]
    fn a_result_counts_once() {
        let error = check(&[found("1", run("a")), found("2", run("a"))]).expect_err("twice").to_string();
        assert!(error.contains("2 holds a result that 1 has too"), "{error}");
        let many = (0..=RUNS_MAX).map(|n| found("1", Run { started_ms: n as i64, ..run("a") }));
        assert!(matches!(check(&many.collect::<Vec<_>>()), Err(ReportError::Many { found: 501 })));
    }

    #[test]
    fn no_text_of_a_run_leaves_its_place() {
        let evil = "</script><img src=\"http://x/\">{{}}";
        let page = page(evil, &[found(evil, run(evil))]);
        assert!(!page.contains("<img") && page.contains("&lt;/script&gt;&lt;img"));
        assert_eq!(page.matches("</script>").count(), 2);
    }

    #[test]
    fn the_page_asks_for_nothing() {
        let page = page("t", &[found("f", run("a"))]);
        let namespaces = page.replace("http://www.w3.org/2000/svg", "");
        for needle in ["http://", "https://", "fetch(", "XMLHttpRequest", "import(", "@import", "url("] {
            assert!(!namespaces.contains(needle), "{needle}");
        }
    }
}
