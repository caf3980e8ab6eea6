//! The `hosts` line of `/etc/nsswitch.conf`, by which glibc's programs decide whether DNS is asked at all, and
//! `/etc/hosts`, which comes before it.

use super::finding::Finding;
use super::{PAGE, Scene};

/// The file.
pub const PATH: &str = "/etc/nsswitch.conf";
/// The static table of names.
const HOSTS: &str = "/etc/hosts";

/// The `hosts` line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostsLine {
    /// Line number.
    pub line: usize,
    /// Services and the actions behind each, such as `[NOTFOUND=return]`.
    pub services: Vec<(String, String)>,
}

impl HostsLine {
    /// The line in a text.
    pub fn parse(text: &str) -> Option<HostsLine> {
        let lines = text.lines().enumerate().map(|(number, line)| (number, line.split('#').next().unwrap_or_default()));
        let (number, rest) =
            lines.filter_map(|(number, line)| Some((number, line.trim().strip_prefix("hosts:")?))).next()?;
        let mut services: Vec<(String, String)> = Vec::new();
        let mut inside = false;
        for word in rest.split_whitespace() {
            if word.starts_with('[') || inside {
                inside = !word.ends_with(']');
                if let Some((_, actions)) = services.last_mut() {
                    actions.push_str(&word.to_ascii_lowercase());
                }
            } else {
                services.push((word.to_ascii_lowercase(), String::new()));
            }
        }
        Some(HostsLine { line: number + 1, services })
    }

    fn position(&self, service: &str) -> Option<usize> {
        self.services.iter().position(|(name, _)| name == service)
    }

    /// Whether a service comes before DNS, or stands where there is no DNS.
    pub fn is_before_dns(&self, service: &str) -> bool {
        self.position(service).is_some_and(|at| self.position("dns").is_none_or(|dns| at < dns))
    }
}

/// Says what is wrong with the line and the table.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let before = out.len();
    if let Some(line) = &scene.hosts_line {
        without_dns(scene, line, out);
        resolve(scene, line, out);
        multicast(scene, line, out);
        own_name(scene, line, out);
        if line.position("sss").is_some() {
            out.push(
                Finding::hint("sss", place(line), "hosts are looked up by sssd, too")
                    .why("where sssd serves hosts it keeps their addresses longer than har's TTL of a second")
                    .mend("take `sss` out of the hosts line unless names come from the directory"),
            );
        }
    }
    if out.len() == before {
        let found = match &scene.hosts_line {
            Some(line) => (place(line), "DNS is asked as resolv.conf says"),
            None => (PATH.to_owned(), "there is no hosts line: DNS is asked as resolv.conf says"),
        };
        out.push(Finding::ok("nsswitch", found.0, found.1));
    }
    shadows(scene, out);
}

fn place(line: &HostsLine) -> String {
    format!("{PATH}:{}", line.line)
}

fn without_dns(scene: &Scene<'_>, line: &HostsLine, out: &mut Vec<Finding>) {
    let by_resolved = line.position("resolve").is_some() && scene.resolved.runs;
    if line.position("dns").is_none() && !by_resolved {
        out.push(
            Finding::problem("nss-no-dns", place(line), "the hosts line has no `dns`")
                .why("glibc's programs never ask a name server")
                .mend("hosts: files dns"),
        );
    }
}

fn resolve(scene: &Scene<'_>, line: &HostsLine, out: &mut Vec<Finding>) {
    if line.is_before_dns("resolve") && scene.resolved.runs && !scene.resolved.in_front {
        out.push(
            Finding::problem(
                "nss-resolve",
                place(line),
                "`resolve` comes before `dns`, and systemd-resolved does not ask har",
            )
            .why("glibc's programs go to systemd-resolved and past /etc/resolv.conf, and with it past har")
            .mend(format!(
                "take `resolve` and what is in brackets behind it out, or set systemd-resolved in front of har; {PAGE}"
            )),
        );
    }
}

/// Multicast DNS in front: the minimal module knows `.local` alone.
fn multicast(scene: &Scene<'_>, line: &HostsLine, out: &mut Vec<Finding>) {
    for (service, actions) in &line.services {
        if !service.starts_with("mdns") || !line.is_before_dns(service) || !actions.contains("notfound=return") {
            continue;
        }
        if !service.ends_with("_minimal") {
            out.push(
                Finding::problem("nss-mdns", place(line), format!("`{service} {actions}` comes before `dns`"))
                    .why("a name that multicast DNS does not know ends there: DNS, and har, are never asked")
                    .mend(format!("{service}_minimal instead, which takes names in .local alone")),
            );
        } else if let Some(name) = scene.names().find(|name| name.ends_with(".local")) {
            out.push(
                Finding::problem("nss-mdns-local", place(line), format!("`{service}` takes {name}"))
                    .why("names in .local go to multicast DNS and never to har")
                    .mend("give the name another ending (RFC 6762 keeps .local for multicast), or take the module out"),
            );
        }
    }
}

/// This host's own name is answered before DNS.
fn own_name(scene: &Scene<'_>, line: &HostsLine, out: &mut Vec<Finding>) {
    let own = scene.facts.files.text("/etc/hostname").unwrap_or_default().trim().to_ascii_lowercase();
    if !own.is_empty() && line.is_before_dns("myhostname") && scene.covers(&own) {
        out.push(
            Finding::warning("nss-myhostname", place(line), format!("`myhostname` answers {own}, which is configured"))
                .why("it is this host's own name and gets this host's addresses, not har's answer")
                .mend("put `myhostname` behind `dns`, or take the name out of har.toml"),
        );
    }
}

/// Configured names that stand in `/etc/hosts`.
fn shadows(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    // Without a line glibc asks files first; musl always does.
    if scene.hosts_line.as_ref().is_some_and(|line| !line.is_before_dns("files")) {
        return;
    }
    let text = scene.facts.files.text(HOSTS).unwrap_or_default();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut names = line.split_ascii_whitespace().skip(1).map(str::to_ascii_lowercase);
        if let Some(name) = names.find(|name| scene.covers(name)) {
            out.push(
                Finding::problem(
                    "hosts-file",
                    format!("{HOSTS}:{}", number + 1),
                    format!("{name} has an address here"),
                )
                .why("the file is read before DNS: programs use this address and never ask har for the name")
                .mend("take the line out"),
            );
        }
    }
}
