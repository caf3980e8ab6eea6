//! Host names as har compares them: wire format, lower case, absolute.
//!
//! RFC 1035 section 3.1 (labels and limits), RFC 4343 (case), RFC 5890 (internationalised names become A-labels).
//! A configured name and the name of a question meet as these bytes, so matching is byte equality and
//! never a prefix of a text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name on the wire, the root's zero byte included (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// Longest label (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;
/// How the names begin that har asks its upstream servers for to find those that ask har.
pub const LOOP_TEST: &str = "har-loop-test-";

/// A host name in lower-case wire format, ending in the root's zero byte.
///
/// A leading `*` label is kept as it is; [`HostName::is_wildcard`] tells. A clone is the same bytes: a configured name is
/// in the configuration and in the snapshot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<[u8]>);

/// Why a text is not a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Nothing there, or only a dot.
    Empty,
    /// Two dots in a row, or a dot at the start.
    EmptyLabel,
    /// A label of more than 63 bytes.
    LabelTooLong,
    /// More than 255 bytes on the wire.
    TooLong,
    /// A character that a host name cannot hold.
    Character(char),
    /// Not a valid internationalised name (IDNA, UTS 46).
    Idna,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => f.write_str("it is empty"),
            NameError::EmptyLabel => f.write_str("it has an empty label (two dots in a row, or one at the start)"),
            NameError::LabelTooLong => f.write_str("a label is longer than 63 bytes"),
            NameError::TooLong => f.write_str("it is longer than 255 bytes"),
            NameError::Character(c) => write!(f, "{c:?} cannot be part of a host name"),
            NameError::Idna => f.write_str("it is not a valid internationalised name"),
        }
    }
}

impl std::error::Error for NameError {}

impl HostName {
    /// The bytes as they stand in a message: length-prefixed lower-case labels and the final zero.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// Takes a name from an uncompressed wire name, whatever its case. `None` when it is malformed.
    pub fn from_wire(wire: &[u8]) -> Option<HostName> {
        let mut at = 0;
        loop {
            let length = usize::from(*wire.get(at)?);
            if length == 0 {
                break;
            }
            if length > MAX_LABEL {
                return None;
            }
            at += length + 1;
        }
        if at + 1 > MAX_NAME {
            return None;
        }
        // Length bytes are at most 63 and therefore below 'A': lower-casing the whole slice leaves them alone.
        Some(HostName(wire[..=at].to_ascii_lowercase().into()))
    }

    /// Whether the first label is `*`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with(b"\x01*")
    }

    /// The name below which a wildcard matches; the name itself when it is no wildcard.
    pub fn suffix(&self) -> &[u8] {
        if self.is_wildcard() { &self.0[2..] } else { &self.0 }
    }

    /// Number of labels, the root not counted.
    pub fn labels(&self) -> usize {
        let (mut at, mut count) = (0, 0);
        while self.0[at] != 0 {
            at += usize::from(self.0[at]) + 1;
            count += 1;
        }
        count
    }
}

impl FromStr for HostName {
    type Err = NameError;

    /// Parses presentation format; a trailing dot is allowed, case is folded, IDNs become A-labels.
    fn from_str(text: &str) -> Result<HostName, NameError> {
        let ascii;
        let text = if text.is_ascii() {
            text
        } else {
            // The full stops of other scripts separate labels, too (RFC 3490, section 3.1).
            let labels = text.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']);
            ascii = labels.map(a_label).collect::<Result<Vec<_>, _>>()?.join(".");
            &ascii
        };
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        for (position, label) in text.split('.').enumerate() {
            if label.is_empty() {
                return Err(NameError::EmptyLabel);
            }
            if label.len() > MAX_LABEL {
                return Err(NameError::LabelTooLong);
            }
            if !(position == 0 && label == "*") {
                let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                if let Some(c) = label.chars().find(|&c| !allowed(c)) {
                    return Err(NameError::Character(c));
                }
            }
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        wire.push(0);
        if wire.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        Ok(HostName(wire.into()))
    }
}

/// A label as ASCII. One that is it already stays as it is: IDNA would refuse the underscores of services.
fn a_label(label: &str) -> Result<Cow<'_, str>, NameError> {
    if label.is_ascii() {
        return Ok(label.into());
    }
    let name = hickory_proto::rr::Name::from_utf8(label).map_err(|_| NameError::Idna)?;
    Ok(name.to_ascii().into())
}

impl fmt::Display for HostName {
    /// Presentation format, lower case, without the trailing dot; the root is `.`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        let mut at = 0;
        while self.0[at] != 0 {
            let end = at + 1 + usize::from(self.0[at]);
            if at > 0 {
                f.write_str(".")?;
            }
            write_label(f, &self.0[at + 1..end])?;
            at = end;
        }
        Ok(())
    }
}

fn write_label(f: &mut fmt::Formatter<'_>, label: &[u8]) -> fmt::Result {
    let plain = |byte: &u8| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'.' | b'\\');
    // A start writes ten thousand names several times, and hardly one has a byte to be escaped.
    if let Some(text) = str::from_utf8(label).ok().filter(|_| label.iter().all(plain)) {
        return f.write_str(text);
    }
    for &byte in label {
        match byte {
            b'.' | b'\\' => write!(f, "\\{}", byte as char)?,
            0x21..=0x7e => write!(f, "{}", byte as char)?,
            _ => write!(f, "\\{byte:03}")?,
        }
    }
    Ok(())
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostName({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_names() {
        for (text, shown, wire) in [
            ("API.example.com", "api.example.com", &b"\x03api\x07example\x03com\0"[..]),
            ("a.", "a", b"\x01a\0"),
            ("*.Apps.x", "*.apps.x", b"\x01*\x04apps\x01x\0"),
            ("_http._tcp.x", "_http._tcp.x", b"\x05_http\x04_tcp\x01x\0"),
            ("Bücher\u{3002}example\u{ff61}", "xn--bcher-kva.example", b"\x0dxn--bcher-kva\x07example\0"),
            ("bücher.example", "xn--bcher-kva.example", b"\x0dxn--bcher-kva\x07example\0"),
            ("*.X_y.bücher", "*.x_y.xn--bcher-kva", b"\x01*\x03x_y\x0dxn--bcher-kva\0"),
        ] {
            let name: HostName = text.parse().unwrap();
            assert_eq!(name.to_string(), shown);
            assert_eq!(name.as_wire(), wire);
            assert_eq!(HostName::from_wire(wire), Some(name));
        }
    }

    #[test]
    fn texts_that_are_not() {
        let long_label = "a".repeat(64);
        let long_name = vec!["a".repeat(63); 4].join(".");
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("ü..b", NameError::EmptyLabel),
            ("x_ü.b", NameError::Idna),
            ("a b", NameError::Character(' ')),
            ("a.*.b", NameError::Character('*')),
            (long_label.as_str(), NameError::LabelTooLong),
            (long_name.as_str(), NameError::TooLong),
        ] {
            assert_eq!(text.parse::<HostName>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn wildcards_and_labels() {
        let wild: HostName = "*.apps.example".parse().unwrap();
        assert!(wild.is_wildcard());
        assert_eq!(wild.suffix(), b"\x04apps\x07example\0");
        assert_eq!(wild.labels(), 3);
        let plain: HostName = "apps.example".parse().unwrap();
        assert!(!plain.is_wildcard());
        assert_eq!(plain.suffix(), wild.suffix());
    }
}
