//! The walk over the configuration file and its includes: which table is read by whom.
//!
//! Every file is read and parsed, whatever is wrong with the others, and all findings go into one list. The
//! tables `server` and `upstream` are read here, those of names in `names`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::check::address;
use super::files::{self, Open, open_file};
use super::names::{Common, MAX_TTL, Names, Settings, check_fast};
use super::report::Source;
use super::table::{At, Item, Problems, Purpose, Table};
use super::values;
use super::{Config, Order, Report, Route, Server, Servers, Upstream, defaults, include, syntax};
use crate::dns::HostName;

/// `server.tcp_idle`
const TCP_IDLES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// `server.history`: at most a year.
const HISTORIES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(366 * 86_400);
/// `upstream.timeout`: stub resolvers give up after seconds.
const UPSTREAM_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

/// Reads everything, the main file through `open`. See [`super::load`].
pub(super) fn load(path: &Path, open: Open, purpose: Purpose) -> Result<Config, Report> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let mut problems = Problems::new(purpose);
    let text = match files::read(&path, open) {
        Ok(text) => text,
        Err(unread) => {
            let message = format!("cannot read the configuration: {unread}; {}", unread.mend());
            problems.unread(&path, &unread, message);
            return Err(problems.finish().0);
        }
    };
    let file = add_source(&mut problems, &path, &text);
    let (document, damage) = syntax::parse(&text, file, &mut problems);
    let mut root = Table::root(file, document.get_ref());
    let included = match root.take("include") {
        Some(item) => include::files(&item, &path, &folder, &mut problems),
        None => Vec::new(),
    };
    let parts = read_parts(root, &folder, &mut problems);
    let mut names = Names {
        general: parts.general.as_ref().filter(|_| damage.is_none()),
        ttl: parts.server.as_ref().map_or(defaults::TTL, |(_, ttl)| *ttl),
        folder: &folder,
        names: Vec::new(),
        seen: HashMap::new(),
        common: Common::default(),
    };
    if let Some(item) = Table::root(file, document.get_ref()).take("names") {
        names.read(&item, &mut problems);
    }
    if let Some(damage) = damage {
        problems.forget(|spot| damage.makes_up(&text, file, spot));
    }
    let mut sources = vec![path.clone()];
    for path in included {
        read_included(&path, &mut names, &mut problems);
        sources.push(path);
    }
    let mut names = names.names;
    names.shrink_to_fit();
    warn_of_secrets(parts.server.as_ref().and_then(|(server, _)| server.user.as_deref()), &mut problems);
    match (parts.server, parts.upstream) {
        (Some((server, _)), Some(upstream)) if problems.is_empty() => {
            let warnings = problems.finish().1;
            Ok(Config { path, server, upstream, names, sources, warnings })
        }
        _ => Err(problems.finish().0),
    }
}

/// What the main file has beside names.
#[derive(Default)]
struct Parts {
    /// `[server]` and its `ttl`.
    server: Option<(Server, u32)>,
    /// `[upstream]`
    upstream: Option<Upstream>,
    /// `[defaults]`
    general: Option<Settings>,
}

/// Reads the tables of the main file, names aside.
fn read_parts(mut root: Table<'_>, folder: &Path, problems: &mut Problems) -> Parts {
    // The names are read once `[defaults]` is known.
    let _ = root.take("names");
    let (server, upstream, general) = (root.take("server"), root.take("upstream"), root.take("defaults"));
    root.finish(problems);
    let server = read_server(server.as_ref(), folder, problems);
    let upstream = read_upstream(upstream.as_ref(), folder, &server.0.listen, problems);
    let general = read_defaults(general.as_ref(), folder, problems);
    Parts { server: Some(server), upstream: Some(upstream), general: Some(general) }
}

/// Reads a file of names.
fn read_included(path: &Path, names: &mut Names<'_>, problems: &mut Problems) {
    let text = match files::read(path, open_file) {
        Ok(text) => text,
        Err(unread) => {
            problems.unread(path, &unread, format!("cannot read the included file: {unread}"));
            return;
        }
    };
    let file = add_source(problems, path, &text);
    let (document, damage) = syntax::parse(&text, file, problems);
    let mut root = Table::root(file, document.get_ref());
    let item = root.take("names");
    root.finish_with(problems, "an included file holds [names] only; this belongs into the main file");
    if let Some(item) = item {
        names.read(&item, problems);
    }
    if let Some(damage) = damage {
        problems.forget(|spot| damage.makes_up(&text, file, spot));
    }
}

/// Keeps a file for messages and gives it a number.
fn add_source(problems: &mut Problems, path: &Path, text: &Arc<str>) -> u32 {
    problems.sources.push(Source::new(path.into(), Arc::clone(text)));
    // The number of files is bounded by what a folder holds, far below 2³².
    problems.sources.len() as u32 - 1
}

/// Reads `[server]`, which may be absent.
fn read_server(item: Option<&Item<'_>>, folder: &Path, problems: &mut Problems) -> (Server, u32) {
    let mut server = Server {
        listen: defaults::LISTEN.to_vec(),
        listen_stated: false,
        state: PathBuf::from(defaults::STATE),
        user: None,
        tcp_connections: defaults::TCP_CONNECTIONS,
        tcp_idle: defaults::TCP_IDLE,
        max_forwards: defaults::MAX_FORWARDS,
        history: defaults::HISTORY,
        log: defaults::LOG,
    };
    let Some(mut table) = item.and_then(|item| Table::open(item, problems, "a table")) else {
        return (server, defaults::TTL);
    };
    if let Some(item) = table.take("listen") {
        server.listen = read_listen(&item, problems);
        server.listen_stated = true;
    }
    if let Some(item) = table.take("state")
        && let Some(text) = item.text(problems, "the path of a file")
    {
        match text.value {
            "" => item.wrong(problems, "the path of a file"),
            path => server.state = folder.join(path),
        }
    }
    server.user = table.text(problems, "user", "the name of a user").map(|text| text.value.to_owned());
    server.user.take_if(|user| user.is_empty());
    let ttl = table.integer(problems, "ttl", 0..=MAX_TTL).unwrap_or(defaults::TTL);
    if let Some(number) = table.integer(problems, "tcp_connections", 1..=65_535) {
        server.tcp_connections = number;
    }
    if let Some(idle) = table.duration(problems, "tcp_idle", TCP_IDLES) {
        server.tcp_idle = idle.value;
    }
    if let Some(number) = table.integer(problems, "max_forwards", 1..=65_535) {
        server.max_forwards = number;
    }
    if let Some(history) = table.duration(problems, "history", HISTORIES) {
        server.history = history.value;
    }
    if let Some(level) = table.choice(problems, "log", LEVELS) {
        server.log = level.value;
    }
    table.finish(problems);
    (server, ttl)
}

/// Words of `log`.
const LEVELS: &[(&str, log::LevelFilter)] = &[
    ("error", log::LevelFilter::Error),
    ("warn", log::LevelFilter::Warn),
    ("info", log::LevelFilter::Info),
    ("debug", log::LevelFilter::Debug),
    ("trace", log::LevelFilter::Trace),
];

/// Reads `listen`: loopback addresses.
fn read_listen(item: &Item<'_>, problems: &mut Problems) -> Vec<SocketAddr> {
    const ALLOWED: &str = r#"loopback addresses such as "127.0.0.1:53" or "[::1]:53""#;
    let addresses = read_addresses(item, ALLOWED, problems, |address| match address.ip().is_loopback() {
        true => None,
        false => Some("har serves this host only"),
    });
    addresses.into_iter().map(|at| at.value).collect()
}

/// Reads a list of upstream servers, none of them har itself.
fn read_servers(item: &Item<'_>, listen: &[SocketAddr], problems: &mut Problems) -> Vec<SocketAddr> {
    const ALLOWED: &str = r#"addresses such as "10.0.0.2", "10.0.0.3:5353" or "[2001:db8::1]:53""#;
    let addresses = read_addresses(item, ALLOWED, problems, |address| match listen.contains(&address) {
        true => Some("this is where har itself listens"),
        false => values::not_unicast(address.ip()),
    });
    addresses.into_iter().map(|at| at.value).collect()
}

/// Reads a list of addresses with ports, each once; `refuse` says what is wrong with one.
fn read_addresses(
    item: &Item<'_>,
    allowed: &str,
    problems: &mut Problems,
    refuse: impl Fn(SocketAddr) -> Option<&'static str>,
) -> Vec<At<SocketAddr>> {
    let Some(items) = item.list(problems, format_args!("a list of {allowed}")) else { return Vec::new() };
    if items.is_empty() {
        item.wrong(problems, format_args!("a list of {allowed}"));
    }
    let mut addresses: Vec<At<SocketAddr>> = Vec::with_capacity(items.len());
    for item in &items {
        let Some(address) = item.value.as_str().and_then(values::socket_address) else {
            item.wrong(problems, allowed);
            continue;
        };
        let port = (address.port() == 0).then_some("port 0 is none");
        if let Some(reason) = port.or_else(|| refuse(address)) {
            item.wrong(problems, format_args!("{allowed}; {reason}"));
        } else if addresses.iter().any(|at| at.value == address) {
            problems.error(item.spot, item.key, format!("{address} is listed twice"));
        } else {
            addresses.push(At { value: address, spot: item.spot });
        }
    }
    addresses
}

/// Reads `[upstream]`, which may be absent.
fn read_upstream(item: Option<&Item<'_>>, folder: &Path, listen: &[SocketAddr], problems: &mut Problems) -> Upstream {
    let mut upstream = Upstream {
        servers: Servers::Auto,
        order: defaults::ORDER_OF_RESOLV_CONF,
        timeout: defaults::UPSTREAM_TIMEOUT,
        source: None,
        routes: Vec::new(),
    };
    let Some(mut table) = item.and_then(|item| Table::open(item, problems, "a table")) else { return upstream };
    let servers = table.take("servers");
    let resolv_conf = table.take("resolv_conf");
    if let (Some(_), Some(file)) = (servers, resolv_conf) {
        problems.error(file.spot, file.key, "servers and resolv_conf exclude each other; keep one of them");
    }
    if let Some(item) = resolv_conf
        && let Some(text) = item.text(problems, "\"auto\" or the path of a file")
    {
        match text.value {
            "auto" => {}
            "" => item.wrong(problems, "\"auto\" or the path of a file"),
            path => upstream.servers = Servers::File(folder.join(path)),
        }
    }
    if let Some(item) = servers {
        upstream.servers = Servers::Listed(read_servers(&item, listen, problems));
        upstream.order = defaults::ORDER_OF_SERVERS;
    }
    let orders = [("fastest", Order::Fastest), ("listed", Order::Listed)];
    if let Some(order) = table.choice(problems, "order", &orders) {
        upstream.order = order.value;
    }
    if let Some(timeout) = table.duration(problems, "timeout", UPSTREAM_TIMEOUTS) {
        upstream.timeout = timeout.value;
    }
    upstream.source = address(&mut table, "source", problems);
    if let Some(item) = table.take("routes") {
        upstream.routes = read_routes(&item, listen, problems);
    }
    table.finish(problems);
    upstream
}

/// Reads `[upstream.routes]`.
fn read_routes(item: &Item<'_>, listen: &[SocketAddr], problems: &mut Problems) -> Vec<Route> {
    let Some(mut table) = Table::open(item, problems, "a table of suffixes") else { return Vec::new() };
    let mut routes: Vec<Route> = Vec::new();
    for (key, item) in table.take_all() {
        let servers = read_servers(&item, listen, problems);
        match key.value.parse::<HostName>() {
            Ok(suffix) if suffix.is_wildcard() => {
                problems.error(key.spot, item.key, "a route holds for the name and all below it; leave \"*.\" out");
            }
            Ok(suffix) if routes.iter().any(|route| route.suffix == suffix) => {
                problems.error(key.spot, item.key, format!("the suffix {suffix} is routed twice"));
            }
            Ok(suffix) => routes.push(Route { suffix, servers }),
            Err(reason) => {
                let message = format!("found {:?}; allowed: a name such as \"corp.example\"; {reason}", key.value);
                problems.error(key.spot, item.key, message);
            }
        }
    }
    routes
}

/// Reads `[defaults]`, which may be absent.
fn read_defaults(item: Option<&Item<'_>>, folder: &Path, problems: &mut Problems) -> Settings {
    let Some(item) = item else { return Settings::default() };
    let Some(mut table) = Table::open(item, problems, "a table") else { return Settings::default() };
    let settings = Settings::read(&mut table, folder, problems);
    for name in ["candidates", "fallback", "discover"] {
        table.refuse(problems, name, &format!("{name} belongs to a name and has no default"));
    }
    table.finish(problems);
    check_fast(&settings, &item.key, problems);
    settings
}

/// Warns of files that hold a secret and that everybody may read. What mends it must leave them to whom har runs as.
fn warn_of_secrets(user: Option<&str>, problems: &mut Problems) {
    for (spot, key) in problems.take_secrets() {
        let Some(source) = problems.sources.get(spot.file as usize) else { continue };
        let mode = std::fs::metadata(&source.path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o004 != 0) {
            let message = format!(
                "this file holds a password and everybody on this host can read it; leave it to the group of the user \
                 that har runs as: chgrp {} {path}; chmod 640 {path}",
                user.unwrap_or(defaults::USER),
                path = source.path.display()
            );
            problems.warn(spot, key, message);
        }
    }
}
