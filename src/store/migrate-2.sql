-- From version 1 to 2: what traffic counts leaves the wide rows of addresses, which are seen through a view from now on.

DROP VIEW status;
DROP VIEW ranking;
ALTER TABLE address RENAME TO endpoint;

-- How often each of them was given out; no row = never. Apart, since traffic alone changes it: in the wide rows a counter
-- of eight bytes would rewrite the page that it lies on.
CREATE TABLE given (
    endpoint_id  INTEGER PRIMARY KEY,        -- of endpoint
    times_chosen INTEGER NOT NULL            -- answers that carried it
) STRICT;

INSERT INTO given SELECT id, times_chosen FROM endpoint WHERE times_chosen > 0;

ALTER TABLE endpoint DROP COLUMN times_chosen;

CREATE TRIGGER endpoint_gone AFTER DELETE ON endpoint
BEGIN
    DELETE FROM given WHERE endpoint_id = old.id;
END;

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
