-- The state file of har, version 2. An operator reads it with `sqlite3 -readonly /var/lib/har/har.db`.
--
-- Times are UTC text (2026-11-21T06:45:00.123Z), durations are milliseconds in columns that end in _ms.
-- Columns with a word are 'up', 'ok', … as in the log. Yes and no are 1 and 0.
-- Only `override` is for writing; everything else is har's own and is overwritten.
-- docs/schema.md explains every column and holds the questions this file answers.

-- The daemon that owns this file: one row.
CREATE TABLE daemon (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    version      TEXT    NOT NULL,           -- of har
    pid          INTEGER NOT NULL,           -- its process
    config       TEXT    NOT NULL,           -- its configuration file
    listen       TEXT    NOT NULL,           -- its listeners, separated by spaces
    started_at   TEXT    NOT NULL,
    heartbeat_at TEXT    NOT NULL,           -- moves every second or so while it runs
    stopped_at   TEXT,                       -- NULL while it runs, and after a crash
    note         TEXT    NOT NULL            -- its status line: what is up, and what is wrong
) STRICT;

-- Totals that belong to no name: a row a counter, since the state file was begun.
CREATE TABLE counter (
    key   TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The configured names, with what was asked for and answered since the state file was begun.
CREATE TABLE name (
    name           TEXT    PRIMARY KEY,      -- lower case; a wildcard begins with *.
    position       INTEGER NOT NULL,         -- place in the configuration, from 0
    mode           TEXT    NOT NULL,         -- answer, observe
    select_by      TEXT    NOT NULL,         -- lowest-latency, latency-group, round-robin, failover, all
    ttl_s          INTEGER NOT NULL,         -- seconds, of its answers
    interval_ms    INTEGER NOT NULL,         -- between checks of an address that is up
    queries_a      INTEGER NOT NULL DEFAULT 0,
    queries_aaaa   INTEGER NOT NULL DEFAULT 0,
    queries_other  INTEGER NOT NULL DEFAULT 0,
    answers_ranked INTEGER NOT NULL DEFAULT 0,   -- with addresses, as ranked
    answers_stale  INTEGER NOT NULL DEFAULT 0,   -- with addresses under the all-down rule, held or not known yet
    answers_empty  INTEGER NOT NULL DEFAULT 0,   -- NOERROR without addresses
    answers_servfail INTEGER NOT NULL DEFAULT 0,
    answers_forwarded INTEGER NOT NULL DEFAULT 0 -- replies of upstream servers
) STRICT, WITHOUT ROWID;

-- What a name answers now: a row a family.
CREATE TABLE answer (
    name      TEXT NOT NULL,
    family    TEXT NOT NULL CHECK (family IN ('A', 'AAAA')),
    addresses TEXT NOT NULL,                 -- best first, separated by spaces; '' when nothing is answered
    basis     TEXT NOT NULL,                 -- ranked, not-known-yet, all-down, held, panic, pinned, bypass, empty, no-address, not-ready
    reason    TEXT NOT NULL,                 -- why, in a sentence
    since     TEXT NOT NULL,
    last_good TEXT NOT NULL,                 -- last answered while something was fit
    PRIMARY KEY (name, family)
) STRICT, WITHOUT ROWID;

-- The candidates of each name, as configured or discovered.
CREATE TABLE candidate (
    name        TEXT    NOT NULL,
    host        TEXT    NOT NULL,            -- a host name or an address
    position    INTEGER NOT NULL,            -- place in the list, from 0
    priority    INTEGER NOT NULL,            -- tier, lower first
    weight      INTEGER NOT NULL,            -- share in round-robin and latency-group
    resolved_at TEXT,                        -- when its name was last looked up with success
    error       TEXT,                        -- why the last look-up failed, NULL if it did not
    PRIMARY KEY (name, host)
) STRICT, WITHOUT ROWID;

-- Every address of every candidate of every name: its health, its place and what its checks came to. To be looked at
-- through the view `address`.
CREATE TABLE endpoint (
    id             INTEGER PRIMARY KEY,
    name           TEXT    NOT NULL,
    host           TEXT    NOT NULL,
    address        TEXT    NOT NULL,
    family         TEXT    NOT NULL CHECK (family IN ('A', 'AAAA')),
    checks_defined TEXT    NOT NULL,         -- its checks in words, joined by '; '
    -- The real one, whatever an override says. Not `IN (...)`: of three values SQLite makes a table for each row written.
    state          TEXT    NOT NULL CHECK (state = 'unknown' OR state = 'up' OR state = 'down'),
    since          TEXT    NOT NULL,
    successes      INTEGER NOT NULL,         -- in a row
    failures       INTEGER NOT NULL,         -- in a row
    window         INTEGER NOT NULL,         -- the last checks since it came up, newest in bit 0, 1 = ok
    window_len     INTEGER NOT NULL,         -- how many bits of window count
    latency_ms     REAL,                     -- smoothed
    deviation_ms   REAL,                     -- mean deviation of it
    connect_ms     REAL,                     -- of the last check
    first_byte_ms  REAL,                     -- of the last check
    total_ms       REAL,                     -- of the last check
    last_check     TEXT,
    last_outcome   TEXT,
    last_error     TEXT,                     -- of the last check that failed
    interval_ms    INTEGER NOT NULL,         -- it is polled at
    stale          INTEGER NOT NULL,         -- 1 = its name no longer resolves, kept for resolve_hold
    resolved_at    TEXT,                     -- when a look-up last gave it
    rank           INTEGER,                  -- in its name and family, 1 = first; NULL = not ranked
    chosen         INTEGER NOT NULL,         -- 1 = in the answer now
    standing       TEXT    NOT NULL,         -- why it is where it is
    drained        TEXT,                     -- taken out by an override or a drain record: until when and by whom
    forced         INTEGER NOT NULL,         -- 1 = held up by an override
    keeps_place    INTEGER NOT NULL,         -- 1 = unknown, but keeps its place until its own first result
    over_limit     INTEGER NOT NULL,         -- 1 = slower than max_latency, not yet back below 0.9 of it
    reported_priority INTEGER,               -- by its check; -1 = not to be used
    certificate_days INTEGER,                -- until its certificate expires, as last found by a tls check
    ok             INTEGER NOT NULL,         -- results so far, by outcome
    timeout        INTEGER NOT NULL,
    connect_error  INTEGER NOT NULL,
    tls_error      INTEGER NOT NULL,
    response_error INTEGER NOT NULL,
    other_error    INTEGER NOT NULL,
    local_error    INTEGER NOT NULL,         -- this host's own trouble: says nothing about the candidate
    UNIQUE (name, host, address)
) STRICT;

-- How often each of them was given out; no row = never. Apart, since traffic alone changes it: in the wide rows a counter
-- of eight bytes would rewrite the page that it lies on.
CREATE TABLE given (
    endpoint_id  INTEGER PRIMARY KEY,        -- of endpoint
    times_chosen INTEGER NOT NULL            -- answers that carried it
) STRICT;

CREATE TRIGGER endpoint_gone AFTER DELETE ON endpoint
BEGIN
    DELETE FROM given WHERE endpoint_id = old.id;
END;

-- What an operator ordered: plain INSERT and DELETE work too and take effect within a second.
CREATE TABLE override (
    id         INTEGER PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('drain', 'force-up', 'pin', 'bypass')),
    name       TEXT,                         -- one configured name; NULL = all
    target     TEXT CHECK (target IS NOT NULL OR kind = 'bypass'),   -- host name or address
    expires_at TEXT CHECK (expires_at IS NULL OR julianday(expires_at) IS NOT NULL), -- NULL = until deleted
    reason     TEXT,
    created_by TEXT,
    created_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    CHECK (kind <> 'pin' OR name IS NOT NULL)
) STRICT;

-- What is checked: an address with a check definition. Stays as long as results of it are kept.
CREATE TABLE check_target (
    id         INTEGER PRIMARY KEY,
    host       TEXT NOT NULL,
    address    TEXT NOT NULL,
    definition TEXT NOT NULL,                -- in words, without secrets
    last_at    TEXT NOT NULL,                -- of a result, to a few minutes
    UNIQUE (address, host, definition)
) STRICT;

-- Single results, oldest first, for as long as `history` says and 1,000,000 at most. What is stored is
-- small (codes, microseconds); the computed columns say the same as elsewhere in this file.
CREATE TABLE check_result (
    id             INTEGER PRIMARY KEY,
    target_id      INTEGER NOT NULL,         -- of check_target
    at_unix_ms     INTEGER NOT NULL,
    outcome_code   INTEGER NOT NULL,         -- 0..6 in the order of the counters of `address`
    status         INTEGER,                  -- HTTP code, exit status and the like
    connect_us     INTEGER,
    first_byte_us  INTEGER,
    total_us       INTEGER NOT NULL,
    certificate_days INTEGER,                -- until it expires, from tls checks
    error          TEXT,
    at             TEXT AS (strftime('%Y-%m-%dT%H:%M:%fZ', at_unix_ms / 1000.0, 'unixepoch')) VIRTUAL,
    outcome        TEXT AS (CASE outcome_code WHEN 0 THEN 'ok' WHEN 1 THEN 'timeout' WHEN 2 THEN 'connect_error'
                            WHEN 3 THEN 'tls_error' WHEN 4 THEN 'response_error' WHEN 5 THEN 'other_error'
                            ELSE 'local_error' END) VIRTUAL,
    connect_ms     REAL AS (connect_us / 1000.0) VIRTUAL,
    first_byte_ms  REAL AS (first_byte_us / 1000.0) VIRTUAL,
    total_ms       REAL AS (total_us / 1000.0) VIRTUAL
) STRICT;

-- Results of one target in five minutes; kept for 30 days. Times are those of the ok ones.
CREATE TABLE check_summary (
    slot       INTEGER NOT NULL,             -- its first second since 1970, divided by 300
    target_id  INTEGER NOT NULL,             -- of check_target
    checks     INTEGER NOT NULL,
    ok         INTEGER NOT NULL,
    least_us   INTEGER,
    mean_us    INTEGER,
    p95_us     INTEGER,
    at         TEXT AS (strftime('%Y-%m-%dT%H:%M:%fZ', slot * 300.0, 'unixepoch')) VIRTUAL,
    least_ms   REAL AS (least_us / 1000.0) VIRTUAL,
    mean_ms    REAL AS (mean_us / 1000.0) VIRTUAL,
    p95_ms     REAL AS (p95_us / 1000.0) VIRTUAL,
    PRIMARY KEY (slot, target_id)
) STRICT, WITHOUT ROWID;

-- What happened: changes of state and of answer, overrides, faults. The last 10,000.
CREATE TABLE event (
    id        INTEGER PRIMARY KEY,
    at        TEXT NOT NULL,
    kind      TEXT NOT NULL,                 -- state, answer, resolution, override, local_fault, role_conflict, certificate, daemon
    name      TEXT,
    family    TEXT,
    host      TEXT,
    address   TEXT,
    before    TEXT,                          -- a state, or the addresses answered
    after     TEXT,
    before_ms REAL,                          -- latency of what was answered
    after_ms  REAL,                          -- latency of what is answered
    reason    TEXT NOT NULL
) STRICT;

-- The upstream resolvers.
CREATE TABLE upstream (
    address     TEXT    NOT NULL,            -- with port
    route       TEXT    NOT NULL,            -- the suffix it serves; '' = a general server
    usable      INTEGER NOT NULL,            -- 0 = left out for now, or no longer listed
    note        TEXT    NOT NULL,            -- why, '' if it is in use
    queries     INTEGER NOT NULL,
    answers     INTEGER NOT NULL,
    timeouts    INTEGER NOT NULL,
    servfail    INTEGER NOT NULL,
    rtt_ms      REAL,                        -- smoothed round trip
    PRIMARY KEY (address, route)
) STRICT, WITHOUT ROWID;

-- Every address of every candidate of every name, with all that is known of it.
CREATE VIEW address AS
SELECT e.id, e.name, e.host, e.address, e.family, e.checks_defined, e.state, e.since, e.successes, e.failures,
       e.window, e.window_len, e.latency_ms, e.deviation_ms, e.connect_ms, e.first_byte_ms, e.total_ms,
       e.last_check, e.last_outcome, e.last_error, e.interval_ms, e.stale, e.resolved_at, e.rank, e.chosen,
       e.standing, e.drained, e.forced, e.keeps_place, e.over_limit, e.reported_priority, e.certificate_days,
       coalesce(g.times_chosen, 0) AS times_chosen, e.ok, e.timeout, e.connect_error, e.tls_error,
       e.response_error, e.other_error, e.local_error
FROM endpoint e
LEFT JOIN given g ON g.endpoint_id = e.id;

-- Every ranked address with its place: the table to look at first.
CREATE VIEW ranking AS
SELECT name, family, rank, host, address, state, chosen, latency_ms, connect_ms, total_ms,
       ok + timeout + connect_error + tls_error + response_error + other_error AS checks,
       timeout + connect_error + tls_error + response_error + other_error AS failures,
       last_check, last_error, standing
FROM endpoint
ORDER BY name, family, rank IS NULL, rank, host, address;

-- A line for each name: what is answered now and why.
CREATE VIEW status AS
SELECT n.name,
       n.mode,
       coalesce(a.addresses, '') AS a,
       coalesce(a.reason, 'not looked up yet') AS a_reason,
       a.since AS a_since,
       coalesce(b.addresses, '') AS aaaa,
       coalesce(b.reason, 'not looked up yet') AS aaaa_reason,
       b.since AS aaaa_since,
       (SELECT count(*) FROM endpoint x WHERE x.name = n.name) AS addresses,
       (SELECT count(*) FROM endpoint x WHERE x.name = n.name AND x.state = 'up') AS up,
       (SELECT count(*) FROM endpoint x WHERE x.name = n.name AND x.state = 'down') AS down,
       n.queries_a + n.queries_aaaa + n.queries_other AS queries
FROM name n
LEFT JOIN answer a ON a.name = n.name AND a.family = 'A'
LEFT JOIN answer b ON b.name = n.name AND b.family = 'AAAA'
ORDER BY n.position;

-- Single results with their host and address, in words.
CREATE VIEW check_history AS
SELECT r.id, r.at, t.host, t.address, t.definition, r.outcome, r.status, r.connect_ms, r.first_byte_ms,
       r.total_ms, r.certificate_days, r.error
FROM check_result r JOIN check_target t ON t.id = r.target_id;
