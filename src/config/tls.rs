//! Keys of a `tls` check: who is expected to be there, and for how long.

use std::fmt::{self, Write as _};
use std::path::Path;

use super::check::{port, read_trust};
use super::table::{Problems, Table};
use super::url::{Filling, check_placeholders, final_host};
use super::{Trust, defaults};

/// Largest `min_days_left`: a hundred years.
const MAX_DAYS: u32 = 36_500;

/// Keys of a `tls` check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsCheck {
    /// Port to connect to.
    pub port: u16,
    /// Sent as SNI and expected in the certificate; `None` = the address that is checked.
    pub server_name: Option<String>,
    /// Trust store and client certificate.
    pub trust: Trust,
    /// Fewer days than this until the certificate expires draw a warning (0..=36500).
    pub min_days_left: u32,
}

impl TlsCheck {
    /// With every default, the name still a template.
    pub(super) fn new(port: u16) -> TlsCheck {
        TlsCheck {
            port,
            server_name: Some("{host}".to_owned()),
            trust: Trust { verify: defaults::VERIFY, ca_file: None, client: None },
            min_days_left: defaults::MIN_DAYS_LEFT,
        }
    }

    /// Reads the table form; the name stays a template.
    pub(super) fn read(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> Option<TlsCheck> {
        let mut name = Some("{host}".to_owned());
        if let Some(item) = table.take("server_name")
            && let Some(text) = item.text(problems, "the name that the certificate must hold")
        {
            let template = text.value;
            let fixed = (!template.contains('{')).then(|| final_host(template).map(drop));
            match check_placeholders(template).and(fixed.unwrap_or(Ok(()))) {
                Err(reason) => problems.error(item.spot, item.key, reason),
                Ok(()) if template == "{address}" => name = None,
                Ok(()) if template.contains("{address}") || template.contains("{port}") => {
                    item.wrong(problems, "a host name, {host}, {name} or {address} alone");
                }
                Ok(()) => name = Some(template.to_owned()),
            }
        }
        let trust = read_trust(table, folder, problems);
        let min_days_left = table.integer(problems, "min_days_left", 0..=MAX_DAYS).unwrap_or(defaults::MIN_DAYS_LEFT);
        let port = port(table, "tls", problems)?;
        Some(TlsCheck { port, server_name: name, trust, min_days_left })
    }

    /// For one candidate.
    pub(super) fn filled(&self, filling: &Filling<'_>) -> Result<TlsCheck, String> {
        let server_name = self.server_name.as_deref().map(|name| final_host(&filling.fill(name))).transpose()?;
        Ok(TlsCheck { server_name, ..self.clone() })
    }

    /// In words, without `min_days_left`: whom to warn when is no part of what is found out.
    pub(super) fn write_words(&self, words: &mut String) -> fmt::Result {
        write!(words, "tls:{} server_name={}", self.port, self.server_name.as_deref().unwrap_or("{address}"))?;
        write_trust(words, &self.trust)
    }
}

/// Whom a check over TLS trusts, in words; what has its default is left out.
pub(super) fn write_trust(words: &mut String, trust: &Trust) -> fmt::Result {
    if !trust.verify {
        words.push_str(" verify=false");
    }
    if let Some(file) = &trust.ca_file {
        write!(words, " ca_file={}", file.display())?;
    }
    if let Some((cert, _)) = &trust.client {
        write!(words, " client_cert={}", cert.display())?;
    }
    Ok(())
}
