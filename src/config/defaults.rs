//! The built-in defaults, each under the name of its key.
//!
//! `har.toml.example` and `docs/configuration.md` show the same values; a test loads the example with every
//! default uncommented and compares. A key's value comes from here last: candidate, name, `[defaults]`, this.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{Mode, Order, OtherTypes};
use crate::health::{AllDown, DualStack, LatencyOf, Select, Spread};

/// The configuration file when `--config` is not given.
pub const CONFIG: &str = "/etc/har/har.toml";
/// Whom the packages have har run as: nobody's default, for what is said where no user is stated.
pub const USER: &str = "har";
/// `server.listen`
pub const LISTEN: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), super::values::DNS_PORT),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), super::values::DNS_PORT),
];
/// `server.state`
pub const STATE: &str = "/var/lib/har/har.db";
/// `server.ttl` and with it every name's `ttl`, seconds.
pub const TTL: u32 = 1;
/// `server.tcp_connections`
pub const TCP_CONNECTIONS: usize = 256;
/// `server.tcp_idle`
pub const TCP_IDLE: Duration = Duration::from_secs(10);
/// `server.max_forwards`
pub const MAX_FORWARDS: usize = 4096;
/// `server.history`
pub const HISTORY: Duration = Duration::from_secs(24 * 3600);
/// `server.log`
pub const LOG: log::LevelFilter = log::LevelFilter::Info;

/// `upstream.order` beside `servers`.
pub const ORDER_OF_SERVERS: Order = Order::Fastest;
/// `upstream.order` beside `resolv_conf`, whose lists are ordered.
pub const ORDER_OF_RESOLV_CONF: Order = Order::Listed;
/// `upstream.timeout`
pub const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(4);

/// `mode`
pub const MODE: Mode = Mode::Answer;
/// `select`
pub const SELECT: Select = Select::LowestLatency;
/// `latency`
pub const LATENCY: LatencyOf = LatencyOf::Total;
/// `within`
pub const WITHIN: Duration = Duration::from_millis(10);
/// `spread`
pub const SPREAD: Spread = Spread::Rotate;
/// `hysteresis`
pub const HYSTERESIS: f64 = 0.1;
/// `max_latency`; zero = no limit.
pub const MAX_LATENCY: Duration = Duration::ZERO;
/// `answers`
pub const ANSWERS: usize = 1;
/// `min_up`
pub const MIN_UP: usize = 1;
/// `panic_below`; 0 = never.
pub const PANIC_BELOW: f64 = 0.0;
/// `dual_stack`
pub const DUAL_STACK: DualStack = DualStack::Independent;
/// `when_all_down`
pub const WHEN_ALL_DOWN: AllDown = AllDown::All;
/// `other_types`
pub const OTHER_TYPES: OtherTypes = OtherTypes::Forward;
/// `interval`, and with it `down_interval`.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// `fast_interval`, cut to `interval`.
pub const FAST_INTERVAL: Duration = Duration::from_secs(1);
/// `idle_after`; zero = never idle.
pub const IDLE_AFTER: Duration = Duration::ZERO;
/// `idle_interval`
pub const IDLE_INTERVAL: Duration = Duration::from_secs(60);
/// `timeout`, cut to `interval`.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// `rise`
pub const RISE: u32 = 2;
/// `fall`
pub const FALL: u32 = 3;
/// `min_success`
pub const MIN_SUCCESS: f64 = 0.5;
/// `resolve_interval`
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// `resolve_hold`
pub const RESOLVE_HOLD: Duration = Duration::from_secs(3600);

/// `priority` of a candidate.
pub const PRIORITY: u32 = 1;
/// `weight` of a candidate.
pub const WEIGHT: u32 = 1;

/// `method` of an `http` check.
pub const METHOD: &str = "GET";
/// `status` of an `http` check.
pub const STATUS: (u16, u16) = (200, 299);
/// `follow_redirects` of an `http` check.
pub const FOLLOW_REDIRECTS: bool = false;
/// `port` of a `redis` check.
pub const REDIS_PORT: u16 = 6379;
/// `port` of a `postgres` check.
pub const POSTGRES_PORT: u16 = 5432;
/// `verify` of a check that speaks TLS.
pub const VERIFY: bool = true;
/// `min_days_left` of a `tls` check; 0 = warns of an expired certificate only.
pub const MIN_DAYS_LEFT: u32 = 0;
