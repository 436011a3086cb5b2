//! A minimal client of the broker's HTTP port.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{connect::destination, error::CliError};

/// Timeout of a response.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest response that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Longest line of a response that is shown.
const LINE_CHARACTERS_MAX: usize = 300;
/// Largest size of a token file.
const TOKEN_BYTES_MAX: u64 = 4096;

/// A broker's HTTP port, and its token.
#[derive(Clone, Debug, Args)]
pub(super) struct HttpPort {
    /// HTTP address of the broker.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9644",
        env = "MILLSTREAM_HTTP_ADDR",
        value_parser = destination
    )]
    pub(super) http_addr: String,
    /// A file with the token, if the broker has http.admin.token.file.
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_HTTP_TOKEN_FILE")]
    http_token_file: Option<PathBuf>,
}

impl HttpPort {
    fn token(&self) -> Result<Option<String>, CliError> {
        let Some(path) = &self.http_token_file else { return Ok(None) };
        let what = format!("cannot read the token file {}", path.display());
        let mut token = String::new();
        let read = File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut token));
        read.map_err(CliError::io(what.clone()))?;
        // It becomes a line of the request.
        let token = token.trim();
        match token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Some(token.to_string())),
            false => Err(CliError::io(what)(io::Error::other("a token is one line of visible characters"))),
        }
    }

    /// Sends a request with the token; a body is JSON.
    pub(super) async fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<Answer, CliError> {
        ask_with(&self.http_addr, method, path, body, self.token()?.as_deref()).await
    }
}

/// A status and a body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Requests a path that needs no permission.
pub(super) async fn get(address: &str, path: &str) -> Result<Answer, CliError> {
    ask_with(address, "GET", path, None, None).await
}

/// The text of a response that is not JSON, as far as it can be shown in a line.
pub(super) fn first_line(body: &str) -> String {
    let line = body.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or("no reason was given").chars().take(LINE_CHARACTERS_MAX).collect()
}

async fn ask_with(
    address: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
    token: Option<&str>,
) -> Result<Answer, CliError> {
    let failed = |source| CliError::Http { url: format!("http://{address}{path}"), source };
    match tokio::time::timeout(TIMEOUT, exchange(address, method, path, body, token)).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

async fn exchange(
    address: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
    token: Option<&str>,
) -> io::Result<Answer> {
    let mut socket = TcpStream::connect(address).await?;
    let body = body.unwrap_or_default();
    let about = match body {
        "" => String::new(),
        body => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
    };
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n{token}{about}\r\n{body}");
    socket.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    socket.take(ANSWER_BYTES_MAX).read_to_string(&mut text).await?;
    parse(&text).ok_or_else(|| io::Error::other("this is not an HTTP answer"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_text_says_what_its_first_line_does() {
        assert_eq!(first_line("\r\n this is the Kafka port\nmore"), "this is the Kafka port");
        assert_eq!(first_line(" \n"), "no reason was given");
        assert_eq!(first_line(&"ä".repeat(1_000)).chars().count(), LINE_CHARACTERS_MAX);
    }

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = parse("HTTP/1.0 404 Not Found\r\na: b\r\n\r\nnothing\r\n\r\nhere").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (404, "nothing\r\n\r\nhere"));
        assert!(parse("\x00\x00").is_none() && parse("").is_none());
    }
}
