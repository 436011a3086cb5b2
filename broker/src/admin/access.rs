//! Access control of the HTTP port.
//!
//! Health and metrics are open. Everything else requires:
//! 1. a Host that is this broker's. A page whose name was pointed at this machine (DNS rebinding) sends its
//!    own name, and is refused.
//! 2. for changes, no Origin but this broker's own, and no Sec-Fetch-Site of a foreign page: foreign pages
//!    change nothing. Programs send neither.
//! 3. the token, if `http.admin.token.file` is set.
//! 4. for changes, the token or a loopback address: an operator who opens the port to other machines must set
//!    a token.

use std::{
    fs::File,
    hint::black_box,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header, uri::Authority};

use super::problem::Problem;
use crate::config::BrokerConfig;

/// Paths that need no permission.
const OPEN_PATHS: &[&str] = &["/health/live", "/health/ready", "/metrics"];
/// The headers by which a browser names the page that sends the request.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Largest size of a token file.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Why the token is not available.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("the token file {} (http.admin.token.file) cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file does not contain a token.
    #[error(
        "the token file {} (http.admin.token.file) has no token: allowed is one line of 1 to {TOKEN_BYTES_MAX} visible characters",
        path.display()
    )]
    NoToken {
        /// The file.
        path: PathBuf,
    },
}

/// The token in a file; read for each request, so that it can be changed while the broker runs.
fn read_token(path: &Path) -> Result<String, TokenError> {
    let refused = |source| TokenError::Read { path: path.to_path_buf(), source };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(refused)?;
    let token = text.trim_end_matches(['\r', '\n']);
    let is_token = !token.is_empty()
        && text.len() as u64 <= TOKEN_BYTES_MAX
        && token.bytes().all(|b| b.is_ascii_graphic());
    if is_token { Ok(token.to_string()) } else { Err(TokenError::NoToken { path: path.to_path_buf() }) }
}

/// The rules for requests.
#[derive(Debug)]
pub(super) struct Access {
    /// Addresses that the port is bound to.
    bound: Vec<IpAddr>,
    /// Names of this broker, in lower case.
    hosts: Vec<String>,
    token_file: Option<PathBuf>,
}

impl Access {
    /// The rules of a port that was configured with the host `given` and is bound to these addresses.
    pub(super) fn new(
        given: &str,
        bound: &[SocketAddr],
        config: &BrokerConfig,
    ) -> Result<Access, TokenError> {
        let token_file = config.http_token_file.clone();
        token_file.as_deref().map(read_token).transpose()?;
        let hosts = config.http_allowed_hosts.iter().map(String::as_str).chain([given]);
        let hosts = hosts.map(|host| host_of(host).to_ascii_lowercase()).collect();
        Ok(Access { bound: bound.iter().map(SocketAddr::ip).collect(), hosts, token_file })
    }

    /// Whether no change at all is allowed over this port.
    pub(super) fn only_reads(&self) -> bool {
        self.token_file.is_none() && self.bound.iter().any(|address| !address.is_loopback())
    }

    /// Whether [`Access::check`] reads a file for this request, and so may block on the disk.
    pub(super) fn reads_file(&self, asked: &Asked) -> bool {
        self.token_file.is_some() && !asked.is_open()
    }

    /// Checks a request. May block on the token file.
    pub(super) fn check(&self, asked: &Asked) -> Result<(), Problem> {
        if asked.is_open() {
            return Ok(());
        }
        self.check_host(asked)?;
        self.check_token(asked)?;
        if !asked.changes {
            return Ok(());
        }
        self.check_origin(asked)?;
        self.check_site(asked)?;
        if self.only_reads() {
            return Err(forbidden(
                "the HTTP port is open to other machines, so that nothing is changed without a token: \
                 start the broker with --set http.admin.token.file=FILE, or with --http-addr on 127.0.0.1",
            ));
        }
        Ok(())
    }

    fn check_host(&self, asked: &Asked) -> Result<(), Problem> {
        let Some(host) = &asked.host else {
            return Err(forbidden("the request does not say which host it is for (the header Host)"));
        };
        if self.is_ours(host_of(host)) {
            return Ok(());
        }
        Err(forbidden(format_args!(
            "'{host}' is not known as a name of this broker: ask for it by its address, or start it with --set http.allowed.hosts=NAME"
        )))
    }

    fn is_ours(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if let Ok(address) = host.parse::<IpAddr>() {
            // A port that is bound to every address does not know by which of them it is reached from
            // outside; an address, unlike a name, cannot be pointed elsewhere.
            return address.is_loopback()
                || self.bound.iter().any(|bound| *bound == address || bound.is_unspecified());
        }
        host == "localhost" || host.ends_with(".localhost") || self.hosts.contains(&host)
    }

    fn check_origin(&self, asked: &Asked) -> Result<(), Problem> {
        let Some(origin) = &asked.origin else { return Ok(()) };
        // The scheme may differ: a proxy may have terminated TLS.
        let from = origin.split_once("://").map(|(_, authority)| authority);
        if from.is_some_and(|from| asked.host.as_deref().is_some_and(|host| host.eq_ignore_ascii_case(from)))
        {
            return Ok(());
        }
        Err(forbidden(format_args!("a page of '{origin}' may change nothing here (the header Origin)")))
    }

    /// A browser that omits the Origin still says which page sends the request. Another port of this machine
    /// is the same site, but not this broker.
    fn check_site(&self, asked: &Asked) -> Result<(), Problem> {
        match asked.site.as_deref().map(str::trim) {
            None | Some("same-origin" | "none") => Ok(()),
            Some(site) => Err(forbidden(format_args!(
                "a page of others may change nothing here (the header Sec-Fetch-Site is '{site}'; allowed are same-origin and none)"
            ))),
        }
    }

    fn check_token(&self, asked: &Asked) -> Result<(), Problem> {
        let Some(path) = &self.token_file else { return Ok(()) };
        let wanted = read_token(path).map_err(|error| {
            tracing::warn!(%error, "HTTP requests are refused: the token cannot be read");
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the broker's token file cannot be read; see its log",
            )
        })?;
        if asked.token.as_ref().is_some_and(|given| is_same(given.as_bytes(), wanted.as_bytes())) {
            return Ok(());
        }
        let said = if asked.token.is_some() { "the token is not the broker's" } else { "a token is needed" };
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            format_args!(
                "{said}: send 'Authorization: Bearer TOKEN' with the text of the broker's http.admin.token.file \
                 (`millstream` takes such a file with --http-token-file)"
            ),
        ))
    }
}

fn forbidden(error: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, error)
}

/// Takes equally long for all wrong tokens of the same length.
fn is_same(given: &[u8], wanted: &[u8]) -> bool {
    let pairs = given.iter().zip(wanted.iter().cycle());
    let differ =
        pairs.fold(given.len() ^ wanted.len(), |differ, (a, b)| black_box(differ | usize::from(a ^ b)));
    differ == 0
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(host, _)| host);
    }
    match authority.split_once(':') {
        // More than one colon: an IPv6 address without brackets.
        Some((host, rest)) if !rest.contains(':') => host,
        _ => authority,
    }
}

/// The parts of a request that matter for its permission.
#[derive(Debug, Default)]
pub(super) struct Asked {
    path: String,
    changes: bool,
    host: Option<String>,
    origin: Option<String>,
    site: Option<String>,
    token: Option<String>,
}

impl Asked {
    fn is_open(&self) -> bool {
        OPEN_PATHS.contains(&self.path.trim_end_matches('/'))
    }

    pub(super) fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Asked {
        let text = |name: HeaderName| {
            headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let token = text(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_string())
        });
        Asked {
            path: uri.path().to_string(),
            changes: !method.is_safe(),
            host: uri.authority().map(Authority::to_string).or_else(|| text(header::HOST)),
            origin: text(header::ORIGIN),
            site: text(SEC_FETCH_SITE),
            token,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::http::Request;

    use super::*;

    fn access(bound: &str, token_file: Option<&Path>) -> Access {
        let config = BrokerConfig {
            http_allowed_hosts: vec!["Broker.example.org".into(), "other:9644".into()],
            http_token_file: token_file.map(Path::to_path_buf),
            ..BrokerConfig::from_values(&Default::default())
        };
        Access::new("given:9644", &[bound.parse().expect("an address")], &config).expect("good rules")
    }

    /// Status of a request with these headers; 200 if it is allowed.
    fn status(access: &Access, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let request =
            headers.iter().fold(Request::builder().method(method).uri(path), |r, (k, v)| r.header(*k, *v));
        let request = request.body(()).expect("a request");
        let asked = Asked::of(request.method(), request.uri(), request.headers());
        access.check(&asked).map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_host_that_is_not_the_brokers_is_refused() {
        let loopback = access("127.0.0.1:9644", None);
        let of = |access: &Access, host| status(access, "GET", "/v1/topics", &[("host", host)]);
        let ours = [
            "localhost:9644",
            "LOCALHOST",
            "a.localhost",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:9644",
            "given:1",
            "broker.example.org.",
            "other",
        ];
        for host in ours {
            assert_eq!(of(&loopback, host), 200, "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.5", "127.0.0.1.evil.example", "", "[::2]:9644"]
        {
            assert_eq!(of(&loopback, host), 403, "{host}");
        }
        assert_eq!(status(&loopback, "GET", "/v1/topics", &[]), 403, "no host");
        assert_eq!(of(&access("10.0.0.5:9644", None), "10.0.0.5:9644"), 200);
        let everywhere = access("0.0.0.0:9644", None);
        assert_eq!((of(&everywhere, "10.0.0.5"), of(&everywhere, "evil.example")), (200, 403));
        for path in ["/health/live", "/health/ready", "/metrics", "/metrics/"] {
            assert_eq!(status(&loopback, "GET", path, &[("host", "evil.example")]), 200, "{path}");
        }
        assert_eq!(status(&loopback, "GET", "/metrics/../v1/topics", &[("host", "evil.example")]), 403);
    }

    #[test]
    fn a_page_of_others_changes_nothing() {
        let access = access("127.0.0.1:9644", None);
        let with = |method, origin| {
            status(&access, method, "/v1/topics", &[("host", "localhost:9644"), ("origin", origin)])
        };
        for origin in ["http://evil.example", "null", "http://localhost:8080", "localhost:9644", ""] {
            assert_eq!((with("POST", origin), with("GET", origin)), (403, 200), "{origin}");
        }
        assert_eq!(
            (with("POST", "http://localhost:9644"), with("DELETE", "https://LOCALHOST:9644")),
            (200, 200)
        );
    }

    #[test]
    fn a_page_of_others_that_sends_no_origin_changes_nothing_either() {
        let access = access("127.0.0.1:9644", None);
        let with = |method, site| {
            status(&access, method, "/v1/topics/a", &[("host", "localhost:9644"), ("sec-fetch-site", site)])
        };
        for method in ["DELETE", "PUT", "POST", "PATCH"] {
            for site in ["cross-site", "same-site", "CROSS-SITE", "unheard-of", ""] {
                assert_eq!((with(method, site), with("GET", site)), (403, 200), "{method} {site}");
            }
            assert_eq!((with(method, "none"), with(method, "same-origin")), (200, 200), "{method}");
            assert_eq!(
                status(&access, method, "/v1/topics/a", &[("host", "localhost:9644")]),
                200,
                "a program"
            );
        }
    }

    #[test]
    fn a_port_that_others_reach_changes_nothing_without_a_token() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        writeln!(file, "s3cret").expect("written");
        let host = ("host", "localhost");
        for bound in ["0.0.0.0:9644", "[::]:9644", "10.0.0.5:9644"] {
            let open = access(bound, None);
            assert_eq!(status(&open, "DELETE", "/v1/topics/a", &[host]), 403, "{bound}");
            assert_eq!(status(&open, "GET", "/v1/topics", &[host]), 200, "{bound}");
            let kept = access(bound, Some(file.path()));
            let with = |token| status(&kept, "DELETE", "/v1/topics/a", &[host, ("authorization", token)]);
            assert_eq!((with("Bearer s3cret"), with("bearer s3cret")), (200, 200), "{bound}");
            assert_eq!(
                (with("Bearer s3cre"), with("Basic s3cret"), with("Bearer s3crets3cret")),
                (401, 401, 401)
            );
        }
    }

    #[test]
    fn a_token_is_asked_for_by_all_but_health_and_metrics_and_is_what_the_file_says_now() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        write!(file, "one").expect("written");
        let access = access("127.0.0.1:9644", Some(file.path()));
        let with =
            |path, token| status(&access, "GET", path, &[("host", "localhost"), ("authorization", token)]);
        assert_eq!((with("/v1/topics", ""), with("/", ""), with("/metrics", "")), (401, 401, 200));
        assert_eq!(with("/v1/topics", "Bearer one"), 200);
        std::fs::write(file.path(), "two\n").expect("written");
        assert_eq!((with("/v1/topics", "Bearer one"), with("/v1/topics", "Bearer two")), (401, 200));
        std::fs::write(file.path(), "").expect("written");
        assert_eq!(with("/v1/topics", "Bearer "), 503, "an empty token grants no access");
    }

    #[test]
    fn a_file_without_a_token_is_refused_by_its_name() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_path_buf();
        for text in ["", "\n", "two words", "two\nlines", "ü"] {
            std::fs::write(&path, text).expect("written");
            let error = read_token(&path).expect_err(text).to_string();
            assert!(error.contains(&path.display().to_string()) && error.contains("visible"), "{error}");
        }
        file.write_all(&[b'x'; 5000]).expect("written");
        assert!(read_token(&path).is_err(), "too long");
        assert!(matches!(read_token(Path::new("/no/such/file")), Err(TokenError::Read { .. })));
    }
}
