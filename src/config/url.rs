//! URLs of `http` checks, as templates.
//!
//! A URL is taken apart once, where it stands in the file; each candidate then fills the placeholders of the
//! parts it needs. `{host}`, `{name}` and `{port}` are filled in here, `{address}` is left for the moment a check
//! runs, except as the URL's whole host, where it means "the address itself". An IPv6 literal is bracketed where
//! a URL needs it, and only there.

use std::borrow::Cow;

use super::Target;
use super::values;
use ureq::http::uri::PathAndQuery;

/// The placeholders, in the order in which messages name them.
pub(super) const PLACEHOLDERS: [&str; 4] = ["host", "address", "name", "port"];

/// A URL of an `http` check, taken apart.
#[derive(Clone, PartialEq)]
pub(super) struct Url {
    /// `https`
    pub tls: bool,
    /// `user:password`, decoded. A secret.
    pub userinfo: Option<String>,
    /// The host, which may hold placeholders; `None` = `{address}`.
    pub host: Option<String>,
    /// The port, or the scheme's.
    pub port: u16,
    /// Whether the port is in the URL.
    pub port_stated: bool,
    /// Path and query, beginning with `/`; may hold placeholders.
    pub path: String,
}

impl Url {
    /// Takes a URL apart. The error is a sentence without secrets.
    pub fn parse(text: &str) -> Result<Url, String> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme: http:// or https://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(format!("its scheme is {scheme:?}; http and https are allowed")),
        };
        check_placeholders(text)?;
        if without_placeholders(text).contains(['{', '}']) {
            return Err("a brace stands alone; a placeholder is {host}, {address}, {name} or {port}".to_owned());
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(user).filter(|user| !user.is_empty()), authority),
            None => (None, authority),
        };
        let userinfo = userinfo.map(percent_decoded).transpose()?;
        let place = split_port(authority).and_then(|(host, port)| Ok((host_template(host)?, port)));
        let (host, port) = place.map_err(|reason| match userinfo.is_none() && path.contains('@') {
            // What was taken for the host may be the beginning of a password: it is not shown.
            true => "its host is no good; before an @, the characters / ? # must be percent-encoded".to_owned(),
            false => reason,
        })?;
        let port_stated = port.is_some();
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Ok(Url { tls, userinfo, host, port, port_stated, path: path_template(path)? })
    }
}

impl Url {
    /// The same at the port that discovery found, unless it states one.
    pub fn at_port(&self, port: Option<u16>) -> Url {
        let port = port.filter(|_| !self.port_stated);
        Url { port: port.unwrap_or(self.port), port_stated: self.port_stated || port.is_some(), ..self.clone() }
    }
}

/// Splits the port off; brackets of an IPv6 literal are removed.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']').ok_or("a bracket of an IPv6 address is not closed")?;
            match rest.strip_prefix(':') {
                Some(port) => (host, port),
                None if rest.is_empty() => (host, ""),
                None => return Err(format!("{rest:?} stands behind the bracket of an IPv6 address")),
            }
        }
        None => authority.rsplit_once(':').unwrap_or((authority, "")),
    };
    if !authority.starts_with('[') && host.contains(':') {
        return Err("an IPv6 address stands in brackets in a URL".to_owned());
    }
    if port.is_empty() {
        return Ok((host, None));
    }
    if port == "{port}" {
        return Err("{port} is the URL's own port and cannot stand for it".to_owned());
    }
    let number = port.parse().ok().filter(|&number: &u16| number > 0 && !port.starts_with('+'));
    match number {
        Some(number) => Ok((host, Some(number))),
        None => Err(format!("its port is {port:?}; allowed: 1 to 65535")),
    }
}

/// Checks a URL's host; a host without placeholders is put into its final form.
fn host_template(host: &str) -> Result<Option<String>, String> {
    match host {
        "" => Err("it has no host".to_owned()),
        "{address}" => Ok(None),
        _ if host.contains("{address}") => Err("{address} can only be the whole host of a URL".to_owned()),
        _ if host.contains('{') => Ok(Some(host.to_owned())),
        _ => final_host(host).map(Some),
    }
}

/// A host of a URL as it is sent: lower case, A-labels, no trailing dot, no brackets.
pub(super) fn final_host(host: &str) -> Result<String, String> {
    match values::target(host) {
        Ok(target) => Ok(target.to_string()),
        Err(reason) => Err(format!("its host {host:?} is neither a host name nor an address: {reason}")),
    }
}

/// Checks path and query; the fragment is nobody's business on the wire.
fn path_template(path: &str) -> Result<String, String> {
    let path = path.split('#').next().unwrap_or("");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    match PathAndQuery::try_from(without_placeholders(&path).as_str()) {
        // The crate lets bytes above ASCII through, which no request line may hold.
        Ok(_) if path.is_ascii() => Ok(path),
        _ => Err("its path or query holds a character that must be percent-encoded".to_owned()),
    }
}

/// Decodes `%41`.
fn percent_decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err("a % of its user information is not followed by two hexadecimal digits".to_owned()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "its user information is not UTF-8".to_owned())
}

/// What is filled in for one candidate.
pub(super) struct Filling<'a> {
    /// `{host}`
    pub host: &'a str,
    /// Whether `{host}` is an IPv6 literal.
    pub host_is_v6: bool,
    /// `{name}`
    pub name: &'a str,
    /// `{port}`
    pub port: u16,
}

impl<'a> Filling<'a> {
    /// For a candidate of a name.
    pub fn new(host: &'a str, target: &Target, name: &'a str, port: u16) -> Filling<'a> {
        let host_is_v6 = matches!(target, Target::Address(address) if address.is_ipv6());
        Filling { host, host_is_v6, name, port }
    }

    /// A text with everything but `{address}` filled in.
    pub fn fill(&self, template: &str) -> String {
        self.replaced(template, self.host)
    }

    /// The same for the `Host` header, where an IPv6 literal is bracketed.
    pub fn fill_authority(&self, template: &str) -> String {
        let host = if self.host_is_v6 && !template.contains("[{host}]") {
            Cow::Owned(format!("[{}]", self.host))
        } else {
            Cow::Borrowed(self.host)
        };
        self.replaced(template, &host)
    }

    /// Replaces the placeholders.
    fn replaced(&self, template: &str, host: &str) -> String {
        if !template.contains('{') {
            return template.to_owned();
        }
        let text = template.replace("{host}", host).replace("{name}", self.name);
        if text.contains("{port}") { text.replace("{port}", &self.port.to_string()) } else { text }
    }
}

/// Words in braces.
pub(super) fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| {
        let (word, _) = rest.split_once('}')?;
        let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_word.then_some(word)
    })
}

/// Refuses a placeholder that does not exist.
pub(super) fn check_placeholders(text: &str) -> Result<(), String> {
    match placeholders(text).find(|word| !PLACEHOLDERS.contains(word)) {
        Some(word) => Err(format!("{{{word}}} is unknown; allowed: {{host}}, {{address}}, {{name}}, {{port}}")),
        None => Ok(()),
    }
}

/// A text with every known placeholder replaced by a harmless letter.
pub(super) fn without_placeholders(text: &str) -> String {
    let fill = |text: String, word: &&str| text.replace(&format!("{{{word}}}"), "x");
    PLACEHOLDERS.iter().fold(text.to_owned(), fill)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn urls_taken_apart() {
        for (text, tls, user, host, port, stated, path) in [
            ("http://{host}:8080/healthz", false, None, Some("{host}"), 8080, true, "/healthz"),
            ("https://{address}/", true, None, None, 443, false, "/"),
            ("https://{address}", true, None, None, 443, false, "/"),
            ("http://user:pw@{host}/x?y=z", false, Some("user:pw"), Some("{host}"), 80, false, "/x?y=z"),
            ("http://u%40:p%3a%25@h", false, Some("u@:p:%"), Some("h"), 80, false, "/"),
            ("http://[::1]:80/", false, None, Some("::1"), 80, true, "/"),
            ("http://[{host}]:80/", false, None, Some("{host}"), 80, true, "/"),
            ("HTTPS://API.Example.COM.:8443?x#frag", true, None, Some("api.example.com"), 8443, true, "/?x"),
            ("http://bücher.example/", false, None, Some("xn--bcher-kva.example"), 80, false, "/"),
            ("http://www.{name}/{host}", false, None, Some("www.{name}"), 80, false, "/{host}"),
            ("http://192.0.2.7:", false, None, Some("192.0.2.7"), 80, false, "/"),
        ] {
            let url = parsed(text);
            assert_eq!((url.tls, url.port, url.port_stated), (tls, port, stated), "{text}");
            assert_eq!((url.userinfo.as_deref(), url.host.as_deref()), (user, host), "{text}");
            assert_eq!(url.path, path, "{text}");
        }
    }

    #[test]
    fn urls_that_are_none() {
        for (text, reason) in [
            ("api.example.com/healthz", "scheme"),
            ("ftp://{host}/", "\"ftp\""),
            ("http://", "no host"),
            ("http:///healthz", "no host"),
            ("http://:80/", "no host"),
            ("http://{hots}/", "{hots} is unknown"),
            ("http://{host}/{", "brace"),
            ("http://{host}:0/", "\"0\""),
            ("http://{host}:70000/", "70000"),
            ("http://{host}:{port}/", "own port"),
            ("http://::1/", "brackets"),
            ("http://[::1/", "not closed"),
            ("http://[::1]x/", "behind the bracket"),
            ("http://a{address}/", "whole host"),
            ("http://{host}/a b", "percent-encoded"),
            ("http://{host}/ä", "percent-encoded"),
            ("http://a b/", "neither"),
            ("http://u%4:p@h/", "hexadecimal"),
            ("http://u:pw/x@h/", "percent-encoded"),
        ] {
            let error = Url::parse(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("pw"), "{error}");
        }
    }

    #[test]
    fn fillings() {
        let v6 = Filling { host: "2001:db8::7", host_is_v6: true, name: "api.example", port: 81 };
        assert_eq!(v6.fill("{host} {name} {port} {address} {}"), "2001:db8::7 api.example 81 {address} {}");
        assert_eq!(v6.fill_authority("{host}:{port}"), "[2001:db8::7]:81");
        assert_eq!(v6.fill_authority("[{host}]:{port}"), "[2001:db8::7]:81");
        let plain = Filling { host: "a.example", host_is_v6: false, name: "n", port: 1 };
        assert_eq!(plain.fill_authority("{host}"), "a.example");
    }
}
