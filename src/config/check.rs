//! The forms a check can have in the file, and the check of one candidate made from them.
//!
//! [`read`] takes the short form (`http://…`, `https://…`, `tcp:PORT`, `none`), the table form or a list of
//! either; [`Definition::build`] fills the placeholders in for a candidate. Secrets that a check holds appear
//! neither in its [`Check::definition`] nor in its `Debug` form.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue, Method};

use super::databases::{Database, read_postgres, read_redis};
use super::discover::tcp_port;
use super::table::{At, Item, Problems, Spot, Table};
use super::url::{Filling, Url, check_placeholders, final_host, placeholders, without_placeholders};
use super::{Check, CheckKind, HttpCheck, Target, TcpCheck, Trust, defaults, values};

/// Check types that the contract has and this version does not know yet.
pub(super) const NOT_YET: [&str; 2] = ["tls", "exec"];
/// Time limits that can be stated for a check.
pub(super) const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

/// What a check may be, for messages.
const FORMS: &str = r#""http://…", "https://…", "tcp:PORT", "none", a table with a type, or a list of these"#;
/// The types of the table form, for messages.
const TYPES: &str = r#""http", "https", "tcp", "redis", "postgres", "none""#;

/// A check as it stands in the file, placeholders and all.
pub(super) struct Definition {
    /// Where it stands.
    pub spot: Spot,
    /// The path of its key.
    pub key: String,
    /// Its own time limit.
    pub timeout: Option<At<Duration>>,
    /// Check this address instead of the candidate's.
    address: Option<IpAddr>,
    /// Local address to check from.
    source: Option<IpAddr>,
    /// Whether `{name}` is in it.
    uses_name: bool,
    /// What is done.
    kind: Kind,
}

/// The kinds of [`Definition`].
enum Kind {
    /// The URL, and the rest with templates for texts and nothing in the fields that the URL fills.
    Http(Url, Box<HttpCheck>),
    /// With a template in `send`.
    Tcp(TcpCheck),
    /// `redis` or `postgres`
    Database(Database),
    /// `none`
    None,
}

/// Reads a check or a list of checks. `None` when nothing usable is there; the problem then is noted.
pub(super) fn read(item: &Item<'_>, folder: &Path, problems: &mut Problems) -> Option<Vec<Definition>> {
    if item.value.as_array().is_none() {
        return Some(vec![read_one(item, folder, problems)?]);
    }
    let items = item.list(problems, FORMS)?;
    if items.is_empty() {
        problems.error(item.spot, item.key, format!("found an empty list; allowed: {FORMS}"));
        return None;
    }
    let definitions: Vec<_> = items.iter().map(|item| read_one(item, folder, problems)).collect();
    let definitions: Vec<_> = definitions.into_iter().collect::<Option<_>>()?;
    if definitions.len() > 1
        && let Some(none) = definitions.iter().find(|definition| matches!(definition.kind, Kind::None))
    {
        problems.error(none.spot, &none.key, r#""none" stands alone: beside another check it would say nothing"#);
        return None;
    }
    Some(definitions)
}

/// Reads one check of either form.
fn read_one(item: &Item<'_>, folder: &Path, problems: &mut Problems) -> Option<Definition> {
    let mut definition = Definition {
        spot: item.spot,
        key: item.key.to_string(),
        timeout: None,
        address: None,
        source: None,
        uses_name: false,
        kind: Kind::None,
    };
    match item.value.as_str() {
        Some(text) => definition.kind = read_short(text, item, problems)?,
        None => read_table(item, folder, problems, &mut definition)?,
    }
    definition.uses_name = definition.kind.templates().any(|text| placeholders(text).any(|word| word == "name"));
    Some(definition)
}

/// Reads the short form.
fn read_short(text: &str, item: &Item<'_>, problems: &mut Problems) -> Option<Kind> {
    if text == "none" {
        return Some(Kind::None);
    }
    if let Some(port) = text.strip_prefix("tcp:") {
        let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten();
        let Some(port) = port.filter(|&port: &u16| port > 0) else {
            item.wrong(problems, "tcp:PORT with a port from 1 to 65535");
            return None;
        };
        return Some(Kind::Tcp(TcpCheck { port, send: None, expect: None }));
    }
    if let Some(kind) = text.split(':').next().filter(|kind| NOT_YET.contains(kind)) {
        problems.error(item.spot, item.key, format!("checks of type {kind:?} are not supported yet; allowed: {FORMS}"));
        return None;
    }
    if !text.contains("://") {
        item.wrong(problems, FORMS);
        return None;
    }
    let at = At { value: text, spot: item.spot };
    Some(Kind::Http(read_url(&at, item, problems)?, Box::new(empty_http())))
}

/// Reads a URL.
fn read_url(text: &At<&str>, item: &Item<'_>, problems: &mut Problems) -> Option<Url> {
    match Url::parse(text.value) {
        Ok(url) => {
            if url.userinfo.is_some() {
                problems.secret(text.spot, item.key);
            }
            Some(url)
        }
        Err(reason) => {
            item.wrong(problems, format_args!("a URL such as \"http://{{host}}:8080/healthz\"; {reason}"));
            None
        }
    }
}

/// Reads the table form into `definition`.
fn read_table(item: &Item<'_>, folder: &Path, problems: &mut Problems, definition: &mut Definition) -> Option<()> {
    let mut table = Table::open(item, problems, FORMS)?;
    let Some(kind) = table.take("type") else {
        problems.error(item.spot, item.key, format!("type is missing; allowed: {TYPES}"));
        return None;
    };
    definition.timeout = table.duration(problems, "timeout", TIMEOUTS);
    definition.address = address(&mut table, "address", problems);
    definition.source = address(&mut table, "source", problems);
    let read = match kind.value.as_str() {
        Some("http" | "https") => read_http(&mut table, folder, problems),
        Some("tcp") => read_tcp(&mut table, problems),
        Some("redis") => read_redis(&mut table, folder, problems).map(Kind::Database),
        Some("postgres") => read_postgres(&mut table, folder, problems).map(Kind::Database),
        Some("none") => Some(Kind::None),
        Some(word) if NOT_YET.contains(&word) => {
            let message = format!("checks of type {word:?} are not supported yet; allowed: {TYPES}");
            problems.error(kind.spot, kind.key, message);
            return None;
        }
        _ => {
            kind.wrong(problems, TYPES);
            return None;
        }
    };
    table.finish(problems);
    definition.kind = read?;
    Some(())
}

/// Reads an optional address; `""` is none.
pub(super) fn address(table: &mut Table<'_>, name: &'static str, problems: &mut Problems) -> Option<IpAddr> {
    let item = table.take(name)?;
    let text = item.text(problems, "an address")?.value;
    if text.is_empty() {
        return None;
    }
    match values::ip_address(text).map(|address| (address, values::not_unicast(address))) {
        Some((address, None)) => Some(address),
        Some((_, Some(reason))) => {
            item.wrong(problems, format_args!("the address of one host; {reason}"));
            None
        }
        None => {
            item.wrong(problems, r#"an address such as "192.0.2.7" or "2001:db8::7""#);
            None
        }
    }
}

/// Reads the keys of an `http` check. Every key is looked at even when the URL is no good.
fn read_http(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> Option<Kind> {
    let mut http = empty_http();
    let url = match table.take("url") {
        Some(item) => item.text(problems, "a URL").and_then(|text| read_url(&text, &item, problems)),
        None => {
            problems.error(table.spot, table.key, "url is missing; a check of type \"http\" needs one");
            None
        }
    };
    if let Some(method) = table.take("method") {
        let upper = method.value.as_str().map(str::to_ascii_uppercase);
        match upper.filter(|word| word != "CONNECT" && Method::from_bytes(word.as_bytes()).is_ok()) {
            Some(word) => http.method = word,
            None => method.wrong(problems, r#"a method such as "GET", "HEAD" or "OPTIONS""#),
        }
    }
    if let Some(item) = table.take("status")
        && let Some(status) = read_status(&item, problems)
    {
        http.status = status;
    }
    http.body = pattern(table, "body", problems);
    if let Some(item) = table.take("headers") {
        http.headers = read_headers(&item, problems);
    }
    if let Some(item) = table.take("host")
        && let Some(host) = item.text(problems, "a host, with :PORT where the server wants one")
    {
        if host.value.is_empty() || host.value.contains(['/', '@', ' ']) {
            item.wrong(problems, "a host, with :PORT where the server wants one");
        } else if template(&item, host.value, problems) {
            http.host_header = Some(host.value.to_owned());
        }
    }
    http.follow_redirects = table.flag(problems, "follow_redirects").unwrap_or(defaults::FOLLOW_REDIRECTS);
    http.trust = read_trust(table, folder, problems);
    Some(Kind::Http(url?, Box::new(http)))
}

/// Reads the keys that every check over TLS has.
pub(super) fn read_trust(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> Trust {
    let verify = table.flag(problems, "verify").unwrap_or(defaults::VERIFY);
    let ca_file = file(table, "ca_file", folder, problems);
    let cert = file(table, "client_cert", folder, problems);
    let key = file(table, "client_key", folder, problems);
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert.value, key.value)),
        (None, None) => None,
        (Some(lone), None) | (None, Some(lone)) => {
            problems.error(lone.spot, table.key, "client_cert and client_key belong together; one of them is missing");
            None
        }
    };
    Trust { verify, ca_file: ca_file.map(|file| file.value), client }
}

/// Reads the path of a file that must be readable.
pub(super) fn file(
    table: &mut Table<'_>,
    name: &'static str,
    folder: &Path,
    problems: &mut Problems,
) -> Option<At<PathBuf>> {
    let item = table.take(name)?;
    let text = item.text(problems, "the path of a file")?;
    let path = folder.join(text.value);
    problems.readable(&path, text.spot, &item.key);
    Some(At { value: path, spot: text.spot })
}

/// Reads a pattern that must compile.
fn pattern(table: &mut Table<'_>, name: &'static str, problems: &mut Problems) -> Option<String> {
    let item = table.take(name)?;
    let text = item.text(problems, "a regular expression")?;
    problems.pattern(&text, &item.key).then(|| text.value.to_owned())
}

/// Checks a text that may hold placeholders and ends up in a header.
fn template(item: &Item<'_>, text: &str, problems: &mut Problems) -> bool {
    if let Err(reason) = check_placeholders(text) {
        problems.error(item.spot, item.key, reason);
        return false;
    }
    if HeaderValue::from_str(&without_placeholders(text)).is_err() {
        problems.error(item.spot, item.key, "it holds a character that a header cannot hold");
        return false;
    }
    true
}

/// Reads `status`: codes and ranges.
fn read_status(item: &Item<'_>, problems: &mut Problems) -> Option<Vec<(u16, u16)>> {
    const ALLOWED: &str = r#"a list of codes and ranges from 100 to 599, such as ["200-299", "304"]"#;
    if item.value.as_array().is_none() {
        return Some(vec![read_codes(item, ALLOWED, problems)?]);
    }
    let items = item.list(problems, ALLOWED)?;
    if items.is_empty() {
        item.wrong(problems, ALLOWED);
    }
    let ranges: Vec<_> = items.iter().filter_map(|item| read_codes(item, ALLOWED, problems)).collect();
    (!ranges.is_empty()).then_some(ranges)
}

/// Reads `204`, `"204"` or `"200-299"`.
fn read_codes(item: &Item<'_>, allowed: &str, problems: &mut Problems) -> Option<(u16, u16)> {
    let code = |text: &str| text.trim().parse::<u16>().ok();
    let range = match item.value.as_str() {
        Some(text) => match text.split_once('-') {
            Some((first, last)) => code(first).zip(code(last)),
            None => code(text).map(|code| (code, code)),
        },
        None => super::table::integer(item.value).and_then(|code| u16::try_from(code).ok()).map(|code| (code, code)),
    };
    let range = range.filter(|&(first, last)| first <= last && (100..=599).contains(&first) && last <= 599);
    if range.is_none() {
        item.wrong(problems, allowed);
    }
    range
}

/// Reads `headers`; values are never shown.
fn read_headers(item: &Item<'_>, problems: &mut Problems) -> Vec<(String, String)> {
    let Some(mut table) = Table::open(item, problems, r#"a table such as { Accept = "text/plain" }"#) else {
        return Vec::new();
    };
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, item) in table.take_all() {
        let Some(value) = item.value.as_str() else {
            problems.error(item.spot, item.key, "a header's value is a text in quotes");
            continue;
        };
        if HeaderName::from_bytes(name.value.as_bytes()).is_err() {
            problems.error(name.spot, item.key, "this cannot be the name of a header");
        } else if name.value.eq_ignore_ascii_case("host") {
            problems.error(name.spot, item.key, "this header is set with the key host of the check");
        } else if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name.value)) {
            problems.error(name.spot, item.key, "this header is given twice (letter case does not count)");
        } else if template(&item, value, problems) {
            if is_secret_header(name.value) {
                problems.secret(item.spot, item.key);
            }
            headers.push((name.value.to_owned(), value.to_owned()));
        }
    }
    headers
}

/// Whether a header is likely to carry a secret.
fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "cookie", "token", "secret", "password", "api-key", "apikey", "api_key", "auth"]
        .iter()
        .any(|word| name.contains(word))
}

/// Reads the keys of a `tcp` check.
fn read_tcp(table: &mut Table<'_>, problems: &mut Problems) -> Option<Kind> {
    let port = table.take("port");
    let send = table.take("send").and_then(|item| {
        let text = item.text(problems, "a text to send")?;
        match check_placeholders(text.value) {
            Ok(()) => Some(text.value.to_owned()),
            Err(reason) => {
                problems.error(item.spot, item.key, reason);
                None
            }
        }
    });
    let expect = pattern(table, "expect", problems);
    let Some(port) = port else {
        // Discovery may find one; without any, `build` says so.
        return Some(Kind::Tcp(TcpCheck { port: 0, send, expect }));
    };
    match super::table::integer(port.value).and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0) {
        Some(port) => Some(Kind::Tcp(TcpCheck { port, send, expect })),
        None => {
            port.wrong(problems, "a whole number from 1 to 65535");
            None
        }
    }
}

/// An `http` check with every default and an empty URL.
fn empty_http() -> HttpCheck {
    HttpCheck {
        tls: false,
        host: None,
        port: 0,
        port_stated: false,
        path: String::new(),
        userinfo: None,
        method: defaults::METHOD.to_owned(),
        status: vec![defaults::STATUS],
        body: None,
        headers: Vec::new(),
        host_header: None,
        follow_redirects: defaults::FOLLOW_REDIRECTS,
        trust: Trust { verify: defaults::VERIFY, ca_file: None, client: None },
    }
}

impl Kind {
    /// Every text that may hold placeholders.
    fn templates(&self) -> impl Iterator<Item = &str> {
        let (url, http, tcp) = match self {
            Kind::Http(url, http) => (Some(url), Some(http), None),
            Kind::Tcp(tcp) => (None, None, Some(tcp)),
            Kind::Database(_) | Kind::None => (None, None, None),
        };
        let of_url = url.into_iter().flat_map(|url| [url.host.as_deref(), Some(url.path.as_str())]).flatten();
        let of_http = http
            .into_iter()
            .flat_map(|http| http.headers.iter().map(|(_, value)| value.as_str()).chain(http.host_header.as_deref()));
        of_url.chain(of_http).chain(tcp.and_then(|tcp| tcp.send.as_deref()))
    }
}

/// The name and the candidate that a check is built for.
#[derive(Clone, Copy)]
pub(super) struct For<'a> {
    /// The configured name.
    pub name: &'a str,
    /// The candidate.
    pub host: &'a Target,
    /// The candidate as text.
    pub host_text: &'a str,
    /// The port that discovery found.
    pub port: Option<u16>,
}

impl Definition {
    /// The check of one candidate. A problem is noted when the placeholders do not fit there.
    pub fn build(&self, of: For<'_>, timeout: Duration, problems: &mut Problems) -> Option<Check> {
        if self.uses_name && of.name.starts_with('*') {
            let message = format!("{{name}} cannot stand for the wildcard {}: it is many names", of.name);
            problems.error(self.spot, &self.key, message);
            return None;
        }
        let kind = match &self.kind {
            Kind::None => CheckKind::None,
            Kind::Database(database) => database.build(of.host_text, of.port),
            Kind::Tcp(tcp) => {
                let Some(port) = tcp_port(tcp, of) else {
                    problems.error(self.spot, &self.key, "port is missing; a check of type \"tcp\" needs one");
                    return None;
                };
                let filling = Filling::new(of.host_text, of.host, of.name, port);
                let send = tcp.send.as_deref().map(|text| filling.fill(text));
                CheckKind::Tcp(TcpCheck { port, send, expect: tcp.expect.clone() })
            }
            Kind::Http(url, http) => {
                let url = &url.at_port(of.port);
                let host = match url.host.as_deref() {
                    Some("{host}") => Some(of.host_text.to_owned()),
                    Some(template) if template.contains('{') => {
                        let filling = Filling::new(of.host_text, of.host, of.name, url.port);
                        match final_host(&filling.fill(template)) {
                            Ok(host) => Some(host),
                            Err(reason) => {
                                let message = format!("for the candidate {}: {reason}", of.host_text);
                                problems.error(self.spot, &self.key, message);
                                return None;
                            }
                        }
                    }
                    fixed => fixed.map(str::to_owned),
                };
                let filling = Filling::new(of.host_text, of.host, of.name, url.port);
                CheckKind::Http(filled_http(url, http, host, &filling))
            }
        };
        Some(Check { kind, timeout, address: self.address, source: self.source })
    }
}

/// Fills an `http` check in.
fn filled_http(url: &Url, http: &HttpCheck, host: Option<String>, filling: &Filling<'_>) -> HttpCheck {
    HttpCheck {
        tls: url.tls,
        host,
        port: url.port,
        port_stated: url.port_stated,
        path: filling.fill(&url.path),
        userinfo: url.userinfo.clone(),
        method: http.method.clone(),
        status: http.status.clone(),
        body: http.body.clone(),
        headers: http.headers.iter().map(|(name, value)| (name.clone(), filling.fill(value))).collect(),
        host_header: http.host_header.as_deref().map(|host| filling.fill_authority(host)),
        follow_redirects: http.follow_redirects,
        trust: http.trust.clone(),
    }
}

impl Check {
    /// The check in words, kept in the state file to tell a changed check. Without secrets: no user information,
    /// no query, no header values, no text to send. Without the time limit either: another patience does not make
    /// what was learned worthless.
    pub fn definition(&self) -> String {
        let mut words = String::new();
        // Writing to a `String` cannot fail.
        let _ = self.write_definition(&mut words);
        words
    }

    /// Writes the words of [`Check::definition`].
    fn write_definition(&self, words: &mut String) -> fmt::Result {
        match &self.kind {
            CheckKind::None => words.push_str("none"),
            CheckKind::Redis(redis) => redis.write_definition(words)?,
            CheckKind::Postgres(postgres) => postgres.write_definition(words)?,
            CheckKind::Tcp(tcp) => {
                write!(words, "tcp:{}", tcp.port)?;
                if let Some(send) = &tcp.send {
                    write!(words, " send={}bytes", send.len())?;
                }
                if let Some(expect) = &tcp.expect {
                    write!(words, " expect={expect:?}")?;
                }
            }
            CheckKind::Http(http) => write_http(words, http)?,
        }
        if let Some(address) = self.address {
            write!(words, " address={address}")?;
        }
        if let Some(source) = self.source {
            write!(words, " source={source}")?;
        }
        Ok(())
    }
}

/// An `http` check in words; what has its default is left out.
fn write_http(words: &mut String, http: &HttpCheck) -> fmt::Result {
    write!(words, "{} {}", http.method, PublicUrl(http))?;
    if http.status != [defaults::STATUS] {
        let codes: Vec<String> = http.status.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        write!(words, " status={}", codes.join(","))?;
    }
    if let Some(body) = &http.body {
        write!(words, " body={body:?}")?;
    }
    if !http.headers.is_empty() {
        let names: Vec<&str> = http.headers.iter().map(|(name, _)| name.as_str()).collect();
        write!(words, " headers={}", names.join(","))?;
    }
    if let Some(host) = &http.host_header {
        write!(words, " host={host}")?;
    }
    if http.follow_redirects {
        words.push_str(" follow_redirects");
    }
    if !http.tls {
        return Ok(());
    }
    if !http.trust.verify {
        words.push_str(" verify=false");
    }
    if let Some(file) = &http.trust.ca_file {
        write!(words, " ca_file={}", file.display())?;
    }
    if let Some((cert, _)) = &http.trust.client {
        write!(words, " client_cert={}", cert.display())?;
    }
    Ok(())
}

/// A URL as it may be shown: no user information, no query.
struct PublicUrl<'a>(&'a HttpCheck);

impl fmt::Display for PublicUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let http = self.0;
        f.write_str(if http.tls { "https://" } else { "http://" })?;
        match &http.host {
            None => f.write_str("{address}")?,
            Some(host) if host.contains(':') => write!(f, "[{host}]")?,
            Some(host) => f.write_str(host)?,
        }
        if http.port_stated {
            write!(f, ":{}", http.port)?;
        }
        f.write_str(http.path.split('?').next().unwrap_or(""))
    }
}

impl fmt::Debug for HttpCheck {
    /// Everything but the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = String::new();
        write_http(&mut words, self)?;
        write!(f, "HttpCheck({words})")
    }
}

impl fmt::Debug for TcpCheck {
    /// Everything but the text to send, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.send.as_ref().map(String::len);
        f.debug_struct("TcpCheck")
            .field("port", &self.port)
            .field("send_bytes", &sent)
            .field("expect", &self.expect)
            .finish()
    }
}
