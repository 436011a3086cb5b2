//! `millstream health`: whether a broker is ready.

use clap::Args;

use super::{
    connect::{destination, runtime},
    error::CliError,
    http::{self, first_line},
    output::Out,
};

/// Exit with 0 if the broker is ready to produce. For health checks without another HTTP client, as in the
/// container image.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// HTTP address of the broker.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644", env = "MILLSTREAM_HTTP_ADDR", value_parser = destination)]
    http_addr: String,
}

/// Prints the broker's response; an error unless it is ready.
pub(super) fn run(args: &HealthArgs) -> Result<(), CliError> {
    let answer = runtime()?.block_on(http::get(&args.http_addr, "/health/ready"))?;
    match answer.status {
        200 => {
            let mut out = Out::new();
            out.line(answer.body.trim_end())?;
            out.flush()
        }
        status => Err(CliError::Answer { status, said: first_line(&answer.body) }),
    }
}
