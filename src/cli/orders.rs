//! The grammar of the commands that give orders to a running daemon: drain, force-up, pin, bypass and their ends.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::{StateFile, duration};
use crate::commands::Ended;
use crate::commands::orders::{Order, Withdrawal, give, withdraw};
use crate::health::OverrideKind;

/// How long and why.
#[derive(Debug, Args)]
pub struct Terms {
    /// End by itself after this long, such as 10m; left out, it holds until it is undone
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub length: Option<Duration>,
    /// Why, for the colleague who finds it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Take a name or target that the configuration does not know
    #[arg(long)]
    pub force: bool,
}

/// `har drain`
#[derive(Debug, Args)]
pub struct Drain {
    /// A candidate as it is configured, or one address
    #[arg(value_name = "HOST|ADDRESS")]
    pub target: String,
    /// Only for this name; left out, for all names
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    /// How long and why.
    pub terms: Terms,
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
}

/// `har undrain`
#[derive(Debug, Args)]
pub struct Undrain {
    /// What was drained
    #[arg(value_name = "HOST|ADDRESS")]
    pub target: String,
    /// The name it was drained for
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
}

/// `har force-up`
#[derive(Debug, Args)]
pub struct ForceUp {
    /// A candidate as it is configured, or one address
    #[arg(value_name = "HOST|ADDRESS")]
    pub target: String,
    /// Only for this name; left out, for all names
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Take it back: its checks count again
    #[arg(long, conflicts_with_all = ["length", "reason", "force"])]
    pub remove: bool,
    #[command(flatten)]
    /// How long and why.
    pub terms: Terms,
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
}

/// `har pin`
#[derive(Debug, Args)]
pub struct Pin {
    /// The name whose answer is frozen
    pub name: String,
    /// What it answers: a candidate as it is configured, or one address
    #[arg(value_name = "HOST|ADDRESS")]
    pub target: String,
    #[command(flatten)]
    /// How long and why.
    pub terms: Terms,
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
}

/// `har unpin`
#[derive(Debug, Args)]
pub struct Unpin {
    /// The name whose answer was frozen
    pub name: String,
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
}

/// `har bypass`
#[derive(Debug, Args)]
pub struct Bypass {
    /// Only this name; left out, every configured name
    pub name: Option<String>,
    /// Take it back: configured names are answered again
    #[arg(long, conflicts_with_all = ["length", "reason", "force"])]
    pub remove: bool,
    #[command(flatten)]
    /// How long and why.
    pub terms: Terms,
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
}

/// The two things that can be done with an override.
enum Act {
    Give(Order),
    Withdraw(Withdrawal),
}

fn run(file: StateFile, act: &Act, out: &mut dyn Write) -> Ended {
    let ground = file.find()?;
    match act {
        Act::Give(order) => give(&ground, order, out),
        Act::Withdraw(order) => withdraw(&ground.state, order, out),
    }
}

fn order(kind: OverrideKind, name: Option<String>, target: Option<String>, terms: Terms) -> Act {
    let Terms { length, reason, force } = terms;
    Act::Give(Order { kind, name, target, length, reason, force })
}

impl Drain {
    /// Takes a candidate out.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        run(self.file, &order(OverrideKind::Drain, self.name, Some(self.target), self.terms), out)
    }
}

impl Undrain {
    /// Takes it in again.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        let end = Withdrawal { kind: OverrideKind::Drain, name: self.name, target: Some(self.target) };
        run(self.file, &Act::Withdraw(end), out)
    }
}

impl ForceUp {
    /// Holds a candidate up, or lets it go.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        let kind = OverrideKind::ForceUp;
        let act = if self.remove {
            Act::Withdraw(Withdrawal { kind, name: self.name, target: Some(self.target) })
        } else {
            order(kind, self.name, Some(self.target), self.terms)
        };
        run(self.file, &act, out)
    }
}

impl Pin {
    /// Freezes an answer.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        run(self.file, &order(OverrideKind::Pin, Some(self.name), Some(self.target), self.terms), out)
    }
}

impl Unpin {
    /// Lets an answer move again.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        let end = Withdrawal { kind: OverrideKind::Pin, name: Some(self.name), target: None };
        run(self.file, &Act::Withdraw(end), out)
    }
}

impl Bypass {
    /// Has configured names forwarded, or answered again.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        let kind = OverrideKind::Bypass;
        let act = if self.remove {
            Act::Withdraw(Withdrawal { kind, name: self.name, target: None })
        } else {
            order(kind, self.name, None, self.terms)
        };
        run(self.file, &act, out)
    }
}
