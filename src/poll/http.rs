//! `http` and `https` checks: the status is a listed one and the body matches.
//!
//! The URL's host is used for `Host`, SNI and the certificate's name and never looked up. Redirects are followed
//! only when asked for, always to the same address, and what belongs to the first origin (extra headers, user
//! and password, a stated `Host`) goes to no other. The body is read to its end, to 64 KiB after decompression
//! or until the time is up, whether there is a pattern for it or not: an answer cut short is no answer.

use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;

use regex::bytes::Regex;
use rustls::ClientConfig;
use ureq::Agent;
use ureq::http::{Method, Request, Response, StatusCode, Uri, header};

use crate::config::HttpCheck;
use crate::health::{CheckResult, Outcome};
use crate::poll::checks::Route;
use crate::poll::connect::{Failure, Limit, bare};
use crate::poll::http_connector::{MAX_HEADER, NoResolver, PinnedConnector, Trace};
use crate::poll::tcp::compile;
use crate::poll::trust::{SystemRoots, client_config};

/// As much of a body is read and held against the pattern, after decompression.
const MAX_BODY: u64 = 64 << 10;
/// More redirects than this lead nowhere.
const MAX_REDIRECTS: usize = 5;
const USER_AGENT: &str = concat!("har/", env!("CARGO_PKG_VERSION"));

/// A prepared `http` check.
pub struct HttpRunner {
    check: HttpCheck,
    method: Method,
    body: Option<Regex>,
    authorization: Option<String>,
    tls: Option<Arc<ClientConfig>>,
    config: ureq::config::Config,
}

impl HttpRunner {
    /// Compiles the pattern, reads certificates and tries the request's parts.
    ///
    /// # Errors
    /// What is wrong, in a sentence without secrets.
    pub fn new(check: &HttpCheck, roots: &SystemRoots) -> Result<HttpRunner, String> {
        // A redirect may lead from http to https.
        let needs_tls = check.tls || check.follow_redirects;
        let runner = HttpRunner {
            method: Method::from_bytes(check.method.as_bytes())
                .map_err(|_| format!("{:?} is not a request method", check.method))?,
            body: check.body.as_deref().map(compile).transpose()?,
            authorization: check.userinfo.as_deref().map(|user| format!("Basic {}", base64(user.as_bytes()))),
            tls: if needs_tls { Some(client_config(&check.trust, roots)?) } else { None },
            config: ureq_config(),
            check: check.clone(),
        };
        let nowhere = Route { candidate: [127, 0, 0, 1].into(), to: [127, 0, 0, 1].into(), source: None };
        let first = runner.first_url(nowhere)?;
        runner.request(&first, &first, &runner.method, nowhere)?;
        Ok(runner)
    }

    /// Runs it.
    pub fn run(&self, route: Route, limit: Limit) -> CheckResult {
        let trace = Trace::default();
        let mut status = None;
        let outcome = self.attempt(route, limit, &trace, &mut status);
        let total = limit.elapsed();
        let traced = trace.read();
        let result = match outcome {
            Ok(()) => bare(Outcome::Ok, total),
            Err(failure) => failure.into_result(total),
        };
        CheckResult { status, connect: traced.connect, first_byte: traced.first_byte, ..result }
    }

    fn attempt(&self, route: Route, limit: Limit, trace: &Trace, status: &mut Option<i64>) -> Result<(), Failure> {
        let connector =
            PinnedConnector { to: route.to, source: route.source, limit, tls: self.tls.clone(), trace: trace.clone() };
        // An agent for each run: the address, the deadline and the trace are its connector's.
        let agent = Agent::with_parts(self.config.clone(), connector, NoResolver);
        let failed = |error: &ureq::Error| trace.read().failure.unwrap_or_else(|| malformed(error));
        let other = |text: String| Failure::heard(Outcome::OtherError, text);
        let response_error = |text: &str| Failure::heard(Outcome::ResponseError, text);

        let first = self.first_url(route).map_err(other)?;
        let (mut url, mut method) = (first.clone(), self.method.clone());
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request(&url, &first, &method, route).map_err(other)?;
            let response = agent.run(request).map_err(|error| failed(&error))?;
            *status = Some(i64::from(response.status().as_u16()));
            if !self.check.follow_redirects || !is_redirect(&response) {
                return self.judge(response, trace);
            }
            if method != Method::HEAD && response.status().as_u16() < 307 {
                method = Method::GET;
            }
            url = redirected(&url, &response)
                .ok_or_else(|| response_error("a redirect to something other than an http or https URL"))?;
        }
        Err(response_error("more than 5 redirects"))
    }

    fn judge(&self, response: Response<ureq::Body>, trace: &Trace) -> Result<(), Failure> {
        let failure = |text: String| Failure::heard(Outcome::ResponseError, text);
        let code = response.status().as_u16();
        if !self.check.status.iter().any(|&(low, high)| (low..=high).contains(&code)) {
            return Err(failure(format!("status {code}, expected {}", ranges(&self.check.status))));
        }
        let mut body = Vec::new();
        let read = response.into_body().into_reader().take(MAX_BODY).read_to_end(&mut body);
        // ureq takes a reset for the end of a body without a length; the trace knows better.
        if let Some(failure) = trace.read().failure {
            return Err(failure);
        }
        if let Err(error) = read {
            let text = match error.kind() {
                std::io::ErrorKind::UnexpectedEof => "the body was cut short: connection closed".to_owned(),
                _ => format!("the body cannot be read: {}", in_words(&ureq::Error::from(error))),
            };
            return Err(failure(text));
        }
        match &self.body {
            Some(pattern) if !pattern.is_match(&body) => {
                let text = format!("the body ({} bytes) does not match {:?}", body.len(), pattern.as_str());
                Err(failure(text))
            }
            _ => Ok(()),
        }
    }

    fn first_url(&self, route: Route) -> Result<Uri, String> {
        let check = &self.check;
        let host = match &check.host {
            Some(host) => bracketed(host),
            None => bracketed(&route.candidate.to_string()),
        };
        let scheme = if check.tls { "https" } else { "http" };
        let path = check.path.replace("{address}", &route.candidate.to_string());
        let path = path.split('#').next().unwrap_or("/");
        // The text stays out of the message: its query may be a secret.
        format!("{scheme}://{host}:{}{path}", check.port)
            .parse()
            .map_err(|_| format!("the URL for host {host} holds characters that a URL cannot"))
    }

    fn request(&self, url: &Uri, first: &Uri, method: &Method, route: Route) -> Result<Request<()>, String> {
        let mut request = Request::builder().method(method).uri(url).header(header::CONNECTION, "close");
        let mut host = Some(host_header(url));
        if origin(url) == origin(first) {
            let filled = |text: &str, address: String| text.replace("{address}", &address);
            if let Some(stated) = &self.check.host_header {
                host = Some(filled(stated, bracketed(&route.candidate.to_string())));
            }
            for (name, value) in &self.check.headers {
                if name.eq_ignore_ascii_case("host") {
                    host = None;
                }
                request = request.header(name, filled(value, route.candidate.to_string()));
            }
            let stated = |(name, _): &(String, String)| name.eq_ignore_ascii_case("authorization");
            if let Some(authorization) = self.authorization.as_ref().filter(|_| !self.check.headers.iter().any(stated))
            {
                request = request.header(header::AUTHORIZATION, authorization);
            }
        }
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            request = request.header(header::CONTENT_LENGTH, "0");
        }
        request.body(()).map_err(|_| "a header holds characters that a header cannot".to_owned())
    }
}

fn ureq_config() -> ureq::config::Config {
    Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .max_idle_connections(0)
        .max_response_header_size(MAX_HEADER)
        .user_agent(USER_AGENT)
        .build()
}

/// The failure behind an error that no connection caused: what came was not HTTP.
fn malformed(error: &ureq::Error) -> Failure {
    let class = match error {
        ureq::Error::Protocol(_)
        | ureq::Error::LargeResponseHeader(..)
        | ureq::Error::Decompress(..)
        | ureq::Error::BodyStalled
        | ureq::Error::Io(_) => Outcome::ResponseError,
        _ => Outcome::OtherError,
    };
    Failure::heard(class, in_words(error))
}

// Only texts that cannot quote the request or the reply: either may hold a secret.
fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection was closed before a whole reply".into()
        }
        ureq::Error::Io(error) if error.raw_os_error().is_some() => crate::poll::connect::io_text(error),
        ureq::Error::LargeResponseHeader(..) => format!("the reply's header is longer than {} KiB", MAX_HEADER >> 10),
        ureq::Error::Decompress(..) => "its compression is damaged".into(),
        ureq::Error::Protocol(_) => "the reply is not valid HTTP/1.1".into(),
        _ => "the request could not be made".into(),
    }
}

fn is_redirect(response: &Response<ureq::Body>) -> bool {
    let status = response.status();
    let followed = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    followed.contains(&status) && response.headers().contains_key(header::LOCATION)
}

/// The URL that a reply's `Location` means, seen from `base` (RFC 3986 section 5.2, dot segments left to the server).
fn redirected(base: &Uri, response: &Response<ureq::Body>) -> Option<Uri> {
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let location = location.split('#').next()?;
    let (scheme, authority, path) = (base.scheme_str()?, base.authority()?, base.path());
    let has_scheme = location.split(['/', '?']).next()?.contains(':');
    let url = if has_scheme {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.is_empty() || location.starts_with('?') {
        format!("{scheme}://{authority}{path}{location}")
    } else {
        let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
        format!("{scheme}://{authority}{folder}{location}")
    };
    let url: Uri = url.parse().ok()?;
    let fits = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty());
    // Userinfo in a redirect is someone else's secret and no part of what is asked.
    let plain = !url.authority()?.as_str().contains('@');
    (fits && plain).then_some(url)
}

fn origin(url: &Uri) -> (Option<&str>, Option<&str>, u16) {
    (url.scheme_str(), url.host(), port(url))
}

fn port(url: &Uri) -> u16 {
    url.port_u16().unwrap_or_else(|| default_port(url))
}

fn default_port(url: &Uri) -> u16 {
    if url.scheme_str() == Some("https") { 443 } else { 80 }
}

pub(crate) fn host_header(url: &Uri) -> String {
    let host = url.host().unwrap_or_default();
    if port(url) == default_port(url) { host.to_owned() } else { format!("{host}:{}", port(url)) }
}

fn bracketed(host: &str) -> String {
    if host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) { format!("[{host}]") } else { host.to_owned() }
}

fn ranges(status: &[(u16, u16)]) -> String {
    let shown = |&(low, high): &(u16, u16)| if low == high { low.to_string() } else { format!("{low}-{high}") };
    status.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// RFC 4648 section 4, for `Authorization: Basic`.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place) & 63) as usize;
            text.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("user:pä", "dXNlcjpww6Q=")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
