//! Turns `messages/*.kmsg` into Rust: see `build/notation.rs` for the notation, `build/generate.rs` for the code.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

#[path = "build/generate.rs"]
mod generate;
#[path = "build/notation.rs"]
mod notation;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=messages");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut modules = Vec::new();
    for path in notation_files(Path::new("messages"))? {
        let module = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = format!("client/protocol/{}", path.display());
        let file = notation::parse(&name, &fs::read_to_string(&path)?)?;
        fs::write(out.join(format!("{module}.rs")), generate::module(&file))?;
        modules.push((module, file));
    }
    generate::check_keys(&modules)?;
    fs::write(out.join("messages.rs"), generate::index(&modules))?;
    fs::write(out.join("api_key.rs"), generate::api_keys(&modules))?;
    fs::write(out.join("cases.rs"), generate::cases(&modules))?;
    Ok(())
}

fn notation_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "kmsg"));
    paths.sort();
    Ok(paths)
}
