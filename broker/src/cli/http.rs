//! The broker's HTTP port, asked in the plainest way.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::error::CliError;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A status and what came with it.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks `address` for `path`; a body is JSON.
pub(super) async fn ask(
    address: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Answer, CliError> {
    let failed = |source| CliError::Http { url: format!("http://{address}{path}"), source };
    match tokio::time::timeout(TIMEOUT, exchange(address, method, path, body)).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

async fn exchange(address: &str, method: &str, path: &str, body: Option<&str>) -> io::Result<Answer> {
    let mut socket = TcpStream::connect(address).await?;
    let body = body.unwrap_or_default();
    let about = match body {
        "" => String::new(),
        body => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
    };
    let request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n{about}\r\n{body}");
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
    fn an_answer_has_a_status_and_a_body() {
        let answer = parse("HTTP/1.0 404 Not Found\r\na: b\r\n\r\nnothing\r\n\r\nhere").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (404, "nothing\r\n\r\nhere"));
        assert!(parse("\x00\x00").is_none() && parse("").is_none());
    }
}
