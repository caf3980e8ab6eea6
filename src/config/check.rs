//! The forms a check can have in the file, and the check of one candidate made from them.
//!
//! [`read`] takes the short form (`http://…`, `https://…`, `tcp:PORT`, `tls:PORT`, `none`), the table form or a list of
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
use super::tls::write_trust;
use super::url::{Filling, Url, check_placeholders, final_host, placeholders, without_placeholders};
use super::values::mark;
use super::{Check, CheckKind, ExecCheck, HttpCheck, Target, TcpCheck, TlsCheck, Trust, defaults, values};

/// Time limits that can be stated for a check.
pub(super) const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

/// What a check may be, for messages.
const FORMS: &str =
    r#""http://…", "https://…", "tcp:PORT", "tls:PORT", "none", a table with a type, or a list of these"#;
/// The types of the table form, for messages.
const TYPES: &str = r#""http", "https", "tcp", "tls", "exec", "redis", "postgres", "none""#;

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
    /// With a template in `server_name`.
    Tls(TlsCheck),
    /// With templates in `command`.
    Exec(ExecCheck),
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
    if let Some((kind @ ("tcp" | "tls"), port)) = text.split_once(':') {
        let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten();
        let Some(port) = port.filter(|&port: &u16| port > 0) else {
            item.wrong(problems, format_args!("{kind}:PORT with a port from 1 to 65535"));
            return None;
        };
        return Some(match kind {
            "tls" => Kind::Tls(TlsCheck::new(port)),
            _ => Kind::Tcp(TcpCheck { port, send: None, expect: None }),
        });
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
        Some("tls") => TlsCheck::read(&mut table, folder, problems).map(Kind::Tls),
        Some("exec") if definition.source.is_some() => {
            problems.error(table.spot, table.key, "source means nothing here: a command connects by itself");
            None
        }
        Some("exec") => ExecCheck::read(&mut table, folder, problems).map(Kind::Exec),
        Some("none") => Some(Kind::None),
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
pub(super) fn pattern(table: &mut Table<'_>, name: &'static str, problems: &mut Problems) -> Option<String> {
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
            if values::is_secret_header(name.value) {
                problems.secret(item.spot, item.key);
            }
            headers.push((name.value.to_owned(), value.to_owned()));
        }
    }
    headers
}

/// Reads the keys of a `tcp` check.
fn read_tcp(table: &mut Table<'_>, problems: &mut Problems) -> Option<Kind> {
    // Without one, discovery may find it; where it does not, `build` says so.
    let port = port(table, "tcp", problems);
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
    Some(Kind::Tcp(TcpCheck { port: port?, send, expect }))
}

/// Reads the port that a check of this type cannot do without.
pub(super) fn port(table: &mut Table<'_>, kind: &str, problems: &mut Problems) -> Option<u16> {
    if let Some(port) = table.take("port") {
        let number = super::table::integer(port.value).and_then(|port| u16::try_from(port).ok());
        let number = number.filter(|&port| port > 0);
        if number.is_none() {
            port.wrong(problems, "a whole number from 1 to 65535");
        }
        return number;
    }
    if kind == "tcp" {
        return Some(0);
    }
    problems.error(table.spot, table.key, format!("port is missing; a check of type {kind:?} needs one"));
    None
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
        let (url, http, others) = match self {
            Kind::Http(url, http) => (Some(url), Some(http), Vec::new()),
            Kind::Tcp(tcp) => (None, None, tcp.send.as_deref().into_iter().collect()),
            Kind::Tls(tls) => (None, None, tls.server_name.as_deref().into_iter().collect()),
            Kind::Exec(exec) => (None, None, exec.command.iter().map(String::as_str).collect()),
            Kind::Database(_) | Kind::None => (None, None, Vec::new()),
        };
        let of_url = url.into_iter().flat_map(|url| [url.host.as_deref(), Some(url.path.as_str())]).flatten();
        let of_http = http
            .into_iter()
            .flat_map(|http| http.headers.iter().map(|(_, value)| value.as_str()).chain(http.host_header.as_deref()));
        of_url.chain(of_http).chain(others)
    }
}

/// The name and the candidate that a check is built for.
#[derive(Clone, Copy)]
pub(super) struct For<'a> {
    /// The configured name.
    pub name: &'a str,
    /// The candidate.
    pub host: &'a Target,
    /// The candidate as text; may be empty where [`Definition::wants_text`] does not ask for it.
    pub host_text: &'a str,
    /// The port that discovery found.
    pub port: Option<u16>,
}

impl Definition {
    /// Whether [`Definition::build`] reads the candidate as text.
    pub fn wants_text(&self) -> bool {
        !matches!(&self.kind, Kind::Tcp(TcpCheck { send: None, .. }) | Kind::None)
    }

    /// The check of one candidate. A problem is noted when the placeholders do not fit there.
    pub fn build(&self, of: For<'_>, timeout: Duration, problems: &mut Problems) -> Option<Check> {
        if self.uses_name && of.name.starts_with('*') {
            let message = format!("{{name}} cannot stand for the wildcard {}: it is many names", of.name);
            problems.error(self.spot, &self.key, message);
            return None;
        }
        let filling = |port| Filling::new(of.host_text, of.host, of.name, port);
        let filled = match &self.kind {
            Kind::Tls(tls) => tls.filled(&filling(tls.port)).map(CheckKind::Tls),
            Kind::Exec(exec) => exec.filled(&filling(0)).map(CheckKind::Exec),
            Kind::None => Ok(CheckKind::None),
            Kind::Database(database) => Ok(database.build(of.host_text, of.port)),
            Kind::Tcp(tcp) => {
                let fill = |port| tcp.send.as_deref().map(|text| filling(port).fill(text));
                let filled = |port| TcpCheck { port, send: fill(port), expect: tcp.expect.clone() };
                tcp_port(tcp, of).map(|port| CheckKind::Tcp(filled(port)))
            }
            Kind::Http(url, http) => {
                let url = &url.at_port(of.port);
                let host = match url.host.as_deref() {
                    Some("{host}") => Ok(Some(of.host_text.to_owned())),
                    Some(template) if template.contains('{') => final_host(&filling(url.port).fill(template)).map(Some),
                    fixed => Ok(fixed.map(str::to_owned)),
                };
                host.map(|host| CheckKind::Http(filled_http(url, http, host, &filling(url.port))))
            }
        };
        let note = |reason| problems.error(self.spot, &self.key, format!("for the candidate {}: {reason}", of.host));
        let kind = filled.map_err(note).ok()?;
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
    /// The check in words, kept in the state file to tell a changed check. Without secrets: no user information, and a
    /// mark in place of a query, of header values and of a text to send. Without the time limit either: another patience
    /// does not make what was learned worthless.
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
                    write!(words, " send={}bytes {}", send.len(), mark(&[send.as_bytes()]))?;
                }
                if let Some(expect) = &tcp.expect {
                    write!(words, " expect={expect:?}")?;
                }
            }
            CheckKind::Http(http) => write_http(words, http)?,
            CheckKind::Tls(tls) => tls.write_words(words)?,
            CheckKind::Exec(exec) => exec.write_words(words)?,
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
    if let Some((_, query)) = http.path.split_once('?') {
        write!(words, " query={}", mark(&[query.as_bytes()]))?;
    }
    if !http.headers.is_empty() {
        let (names, texts): (Vec<&str>, Vec<&[u8]>) =
            http.headers.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).unzip();
        write!(words, " headers={} {}", names.join(","), mark(&texts))?;
    }
    if let Some(host) = &http.host_header {
        write!(words, " host={host}")?;
    }
    if http.follow_redirects {
        words.push_str(" follow_redirects");
    }
    if http.tls { write_trust(words, &http.trust) } else { Ok(()) }
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
