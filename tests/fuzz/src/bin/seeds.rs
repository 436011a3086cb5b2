//! Writes the initial corpus of each target: `seeds FOLDER` creates `FOLDER/TARGET/NAME`.

use std::{env, fs, path::Path, process::ExitCode};

// Defines the counters that the library was built with.
use libfuzzer_sys as _;
use millstream_fuzz::{image, seeds};

fn main() -> ExitCode {
    let Some(folder) = env::args().nth(1) else {
        eprintln!("usage: seeds FOLDER");
        return ExitCode::from(2);
    };
    for (target, inputs) in seeds::all() {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder).expect("a folder");
        for input in inputs {
            let name = format!("seed-{:08x}-{}", image::crc(&input), input.len());
            fs::write(folder.join(name), input).expect("written");
        }
    }
    ExitCode::SUCCESS
}
