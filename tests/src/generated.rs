//! Generated parts of documents: tests compare them with the code, and rewrite them when
//! `MILLSTREAM_UPDATE_DOCS` is set.

use std::{env, fs, path::Path};

/// Compares the part between `<!-- generated: NAME -->` and `<!-- end -->` with the generated text.
pub fn check(document: &Path, name: &str, wanted: &str) {
    let text = fs::read_to_string(document).expect("the document is there");
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) =
        text.split_once(&begin).unwrap_or_else(|| panic!("no {begin:?} in {}", document.display()));
    let (found, after) = rest.split_once("<!-- end -->").expect("what is generated has an end");
    let wanted = format!("\n{}\n\n", wanted.trim());
    if found == wanted {
        return;
    }
    if env::var_os("MILLSTREAM_UPDATE_DOCS").is_some() {
        fs::write(document, format!("{before}{begin}{wanted}<!-- end -->{after}"))
            .expect("it can be written");
        return;
    }
    let differ = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    panic!(
        "{} is not what the code says, first at {differ:?}; `MILLSTREAM_UPDATE_DOCS=1 cargo test -p millstream-broker -p millstream --lib document -- --test-threads=1` writes it",
        document.display()
    );
}
