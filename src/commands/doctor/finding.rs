//! A finding: what was found, where, why it matters and what mends it.
//!
//! Every kind of finding has an id that stays, for scripts that read `--json`.

use serde::Serialize;

/// How much a finding matters, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A subject in order.
    Ok,
    /// Works; could be better, or is good to know.
    Hint,
    /// Works now, and will not under circumstances that are to be expected.
    Warning,
    /// Does not work.
    Problem,
}

impl Severity {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Hint => "hint",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Its kind, such as `resolv-conf-elsewhere`.
    pub id: &'static str,
    /// A file with its line, an address or a process.
    pub place: String,
    /// What was found there.
    pub found: String,
    /// Why it matters; empty when all is well.
    pub why: String,
    /// What to do; empty when there is nothing to be done.
    pub mend: String,
}

impl Finding {
    /// Something that is in order.
    pub fn ok(id: &'static str, place: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(Severity::Ok, id, place.into(), found.into())
    }

    /// Something that is good to know.
    pub fn hint(id: &'static str, place: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(Severity::Hint, id, place.into(), found.into())
    }

    /// Something that will go wrong.
    pub fn warning(id: &'static str, place: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, id, place.into(), found.into())
    }

    /// Something that is wrong.
    pub fn problem(id: &'static str, place: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(Severity::Problem, id, place.into(), found.into())
    }

    fn new(severity: Severity, id: &'static str, place: String, found: String) -> Finding {
        Finding { severity, id, place, found, why: String::new(), mend: String::new() }
    }

    /// Why it matters.
    pub fn why(mut self, why: impl Into<String>) -> Finding {
        self.why = why.into();
        self
    }

    /// What to do.
    pub fn mend(mut self, mend: impl Into<String>) -> Finding {
        self.mend = mend.into();
        self
    }
}
