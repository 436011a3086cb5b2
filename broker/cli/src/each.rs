//! Runs the same operation for several names; a failure does not stop the others.

use super::error::CliError;
use millstream::console;

/// Runs it for each. With several names each failure is reported at once, and their number at the end.
pub(super) async fn each(
    names: &[String],
    kind: &'static str,
    mut act: impl AsyncFnMut(&str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut failed = 0;
    for name in names {
        match act(name).await {
            Err(error) if names.len() > 1 && error.is_about_name() => {
                console::note(format_args!("millstream: {error}"));
                failed += 1;
            }
            done => done?,
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(CliError::NotAll { failed, all: names.len(), kind }),
    }
}
