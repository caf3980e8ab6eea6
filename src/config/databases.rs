//! The keys of `redis` and `postgres` checks, and of whoever else logs in to a Redis.
//!
//! Read like the other checks, in one place because they share login and TLS. A password is either in the file,
//! which then must not be readable by everyone, or in a file of its own that is read when the check is prepared.
//! It appears neither in a definition nor in any `Debug` form.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::{file, read_trust};
use super::table::{Problems, Table};
use super::{Trust, defaults};

/// Longest `max_lag`: a day; a replica further behind is no replica.
const LAGS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
/// Ports.
const PORTS: std::ops::RangeInclusive<u16> = 1..=65_535;

/// Where a password is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Password {
    /// In the configuration. A secret.
    Text(String),
    /// In a file of its own, read when the check is prepared; blanks and line ends around it do not count.
    File(PathBuf),
}

impl Password {
    /// The file it is in.
    fn file(&self) -> Option<&PathBuf> {
        match self {
            Password::File(path) => Some(path),
            Password::Text(_) => None,
        }
    }
}

impl RedisLogin {
    /// The trust of its TLS, and the file of its password.
    pub(super) fn files(&self) -> (Option<&Trust>, Option<&PathBuf>) {
        (self.tls.as_ref(), self.password.as_ref().and_then(Password::file))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Text(_) => f.write_str("Password(hidden)"),
            Password::File(path) => write!(f, "Password({})", path.display()),
        }
    }
}

/// How to log in to a Redis or a Sentinel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RedisLogin {
    /// ACL user; without one the password alone is given.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Password>,
    /// TLS, and whom to trust.
    pub tls: Option<Trust>,
}

/// Keys of a `redis` check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisCheck {
    /// Port to connect to.
    pub port: u16,
    /// How to log in.
    pub login: RedisLogin,
    /// What `ROLE` must say.
    pub role: RedisRole,
    /// Host for the certificate, where TLS is spoken.
    pub server_name: Option<String>,
}

/// What a Redis is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedisRole {
    /// Whatever it is.
    Any,
    /// The one master.
    Master,
    /// A replica.
    Replica,
}

/// Keys of a `postgres` check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PostgresCheck {
    /// Port to connect to.
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Its password.
    pub password: Option<Password>,
    /// Database to connect to.
    pub dbname: String,
    /// What the server must be.
    pub role: PostgresRole,
    /// How far behind a replica may be.
    pub max_lag: Option<Duration>,
    /// Whether TLS is spoken.
    pub tls: PostgresTls,
    /// Whom to trust then, and who to be.
    pub trust: Trust,
    /// Host for the certificate, where TLS may be spoken.
    pub server_name: Option<String>,
}

/// What a PostgreSQL server is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PostgresRole {
    /// Whatever it is.
    Any,
    /// The one primary.
    Primary,
    /// A replica (in recovery).
    Replica,
}

/// Whether a `postgres` check speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PostgresTls {
    /// Where the server offers it; whoever answers is the right one.
    Prefer,
    /// Always; whoever answers is the right one.
    Require,
    /// Always, and the certificate must be good and the candidate's.
    Verify,
    /// Never.
    Disable,
}

/// A check of a database as it stands in the file: without a port where none is stated.
pub(super) enum Database {
    /// `redis`
    Redis(Option<u16>, RedisCheck),
    /// `postgres`
    Postgres(Option<u16>, PostgresCheck),
}

impl Database {
    /// The check of one candidate; `port` is the one that discovery found.
    pub fn build(&self, host: &str, port: Option<u16>) -> super::CheckKind {
        match self {
            Database::Redis(stated, redis) => super::CheckKind::Redis(RedisCheck {
                port: stated.or(port).unwrap_or(redis.port),
                server_name: redis.login.tls.as_ref().map(|_| host.to_owned()),
                ..redis.clone()
            }),
            Database::Postgres(stated, postgres) => super::CheckKind::Postgres(PostgresCheck {
                port: stated.or(port).unwrap_or(postgres.port),
                server_name: (postgres.tls != PostgresTls::Disable).then(|| host.to_owned()),
                ..postgres.clone()
            }),
        }
    }
}

/// Reads the keys of a `redis` check.
pub(super) fn read_redis(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> Option<Database> {
    const ROLES: &[(&str, RedisRole)] =
        &[("any", RedisRole::Any), ("master", RedisRole::Master), ("replica", RedisRole::Replica)];
    let port = table.integer(problems, "port", PORTS);
    let login = read_login(table, folder, problems);
    let role = table.choice(problems, "role", ROLES).map_or(RedisRole::Any, |at| at.value);
    let check = RedisCheck { port: defaults::REDIS_PORT, login, role, server_name: None };
    Some(Database::Redis(port, check))
}

/// Reads the keys with which one logs in to a Redis.
pub(super) fn read_login(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> RedisLogin {
    let username = table.text(problems, "username", "the name of an ACL user").map(|at| (at.value.to_owned(), at.spot));
    let password = read_password(table, folder, problems);
    if let (Some((_, spot)), None) = (&username, &password) {
        problems.error(*spot, table.key, "username needs a password or password_file beside it");
    }
    let tls = table.flag(problems, "tls").unwrap_or(false);
    let trust = read_trust(table, folder, problems);
    let username = username.map(|(name, _)| name).filter(|name| !name.is_empty());
    RedisLogin { username, password, tls: tls.then_some(trust) }
}

/// Reads `password` or `password_file`.
fn read_password(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> Option<Password> {
    let stated = table.take("password");
    // Whether it can be read is found out by who uses it: commands run as other users than the daemon.
    let path = table.text(problems, "password_file", "the path of a file").filter(|at| !at.value.is_empty());
    if let Some(item) = &stated {
        let Some(text) = item.value.as_str() else {
            problems.error(item.spot, item.key, "a password is a text in quotes");
            return None;
        };
        if let Some(path) = &path {
            problems.error(path.spot, table.key, "password and password_file exclude each other");
        }
        if text.contains('\0') {
            problems.error(item.spot, item.key, "a password cannot hold a zero byte");
            return None;
        }
        if !text.is_empty() {
            problems.secret(item.spot, item.key);
            return Some(Password::Text(text.to_owned()));
        }
    }
    path.map(|path| Password::File(folder.join(path.value)))
}

/// Reads the keys of a `postgres` check.
pub(super) fn read_postgres(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> Option<Database> {
    const ROLES: &[(&str, PostgresRole)] =
        &[("any", PostgresRole::Any), ("primary", PostgresRole::Primary), ("replica", PostgresRole::Replica)];
    const TLS: &[(&str, PostgresTls)] = &[
        ("prefer", PostgresTls::Prefer),
        ("require", PostgresTls::Require),
        ("verify", PostgresTls::Verify),
        ("disable", PostgresTls::Disable),
    ];
    let port = table.integer(problems, "port", PORTS);
    let mut name = |key: &'static str, problems: &mut Problems| {
        let at = table.text(problems, key, "a name without zero bytes")?;
        if at.value.contains('\0') || at.value.is_empty() {
            problems.error(at.spot, table.key, format!("{key} is empty or holds a zero byte"));
            return None;
        }
        Some(at.value.to_owned())
    };
    let (user, dbname) = (name("user", problems), name("dbname", problems));
    let password = read_password(table, folder, problems);
    let role = table.choice(problems, "role", ROLES);
    let max_lag = table.duration(problems, "max_lag", LAGS);
    if let (Some(lag), Some(PostgresRole::Primary)) = (&max_lag, role.map(|at| at.value)) {
        problems.error(lag.spot, table.key, "max_lag says nothing about a primary; it goes with role any or replica");
    }
    let tls = table.choice(problems, "tls", TLS).map_or(PostgresTls::Prefer, |at| at.value);
    let ca_file = file(table, "ca_file", folder, problems);
    if let Some(at) = ca_file.as_ref().filter(|_| tls != PostgresTls::Verify) {
        problems.error(at.spot, table.key, "ca_file is only looked at with tls = \"verify\"");
    }
    let (cert, key) = (file(table, "client_cert", folder, problems), file(table, "client_key", folder, problems));
    if cert.is_some() != key.is_some() {
        let message = "client_cert and client_key belong together; one of them is missing";
        problems.error(table.spot, table.key, message);
    }
    let Some(user) = user else {
        if !table.is_there("user") {
            problems.error(table.spot, table.key, "user is missing; a check of type \"postgres\" needs one");
        }
        return None;
    };
    let client = cert.zip(key).map(|(cert, key)| (cert.value, key.value));
    let check = PostgresCheck {
        port: defaults::POSTGRES_PORT,
        dbname: dbname.unwrap_or_else(|| user.clone()),
        user,
        password,
        role: role.map_or(PostgresRole::Any, |at| at.value),
        max_lag: max_lag.map(|at| at.value),
        tls,
        trust: Trust { verify: tls == PostgresTls::Verify, ca_file: ca_file.map(|at| at.value), client },
        server_name: None,
    };
    Some(Database::Postgres(port, check))
}

impl RedisCheck {
    /// In words, without the password.
    pub(super) fn write_definition(&self, words: &mut String) -> fmt::Result {
        write!(words, "redis:{}", self.port)?;
        if let Some(user) = &self.login.username {
            write!(words, " username={user}")?;
        }
        match self.role {
            RedisRole::Any => {}
            RedisRole::Master => words.push_str(" role=master"),
            RedisRole::Replica => words.push_str(" role=replica"),
        }
        if self.login.tls.is_some() {
            words.push_str(" tls");
        }
        Ok(())
    }
}

impl PostgresCheck {
    /// In words, without the password.
    pub(super) fn write_definition(&self, words: &mut String) -> fmt::Result {
        write!(words, "postgres:{} user={} dbname={}", self.port, self.user, self.dbname)?;
        match self.role {
            PostgresRole::Any => {}
            PostgresRole::Primary => words.push_str(" role=primary"),
            PostgresRole::Replica => words.push_str(" role=replica"),
        }
        if let Some(lag) = self.max_lag {
            write!(words, " max_lag={}", super::values::show_duration(lag))?;
        }
        match self.tls {
            PostgresTls::Prefer => {}
            PostgresTls::Require => words.push_str(" tls=require"),
            PostgresTls::Verify => words.push_str(" tls=verify"),
            PostgresTls::Disable => words.push_str(" tls=disable"),
        }
        Ok(())
    }
}

impl super::Check {
    /// Whether it passes at the one master or primary alone.
    pub fn wants_the_one(&self) -> bool {
        match &self.kind {
            super::CheckKind::Redis(redis) => redis.role == RedisRole::Master,
            super::CheckKind::Postgres(postgres) => postgres.role == PostgresRole::Primary,
            _ => false,
        }
    }

    /// The trust of its TLS, and the file of its password, for who must be able to read them.
    pub(super) fn database_files(&self) -> (Option<&Trust>, Option<&PathBuf>) {
        match &self.kind {
            super::CheckKind::Redis(redis) => redis.login.files(),
            super::CheckKind::Postgres(postgres) => {
                (Some(&postgres.trust), postgres.password.as_ref().and_then(Password::file))
            }
            _ => (None, None),
        }
    }
}
