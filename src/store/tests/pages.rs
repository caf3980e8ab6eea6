//! `docs/schema.md` is true: its lines run, its tables list every column.

use super::*;

const PAGE: &str = include_str!("../../../docs/schema.md");

#[test]
fn every_line_of_the_page_runs_and_every_question_has_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    let mut batch = complete(3);
    batch.results.push(result(1, time::now(), Outcome::ConnectError, 3));
    batch.results.extend((1..20).map(|total_ms| result(1, time::now(), Outcome::Ok, total_ms)));
    for _ in 0..3 {
        let mut flap = event(time::now(), "refused");
        (flap.kind, flap.host) = (EventKind::State, Some(Host::Name("h1.example.com".into())));
        batch.events.push(flap);
    }
    writer.send(batch);
    assert!(writer.stop(LONG));
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("INSERT INTO override (kind, target) VALUES ('drain', 'h2.example.com')").unwrap();

    let (mut questions, mut orders) = (0, 0);
    for line in PAGE.lines().filter_map(|line| line.strip_prefix("    sqlite3 ")) {
        let quote = if line.contains('"') { '"' } else { '\'' };
        let sql = line.split_once(quote).and_then(|(_, rest)| rest.rsplit_once(quote)).unwrap().0;
        if sql.starts_with("SELECT") {
            let rows = connection.prepare(sql).unwrap().query_map([], |_| Ok(())).unwrap().count();
            assert!(rows > 0, "no answer: {sql}");
            questions += 1;
        } else {
            assert_eq!(connection.execute(sql, []).unwrap(), 1, "{sql}");
            orders += 1;
        }
    }
    assert_eq!((questions, orders), (11, 2), "ten questions and the line at the top");
}

#[test]
fn every_table_is_strict_and_every_column_is_on_the_page() {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("../schema.sql")).unwrap();
    let sql = "SELECT t.name, t.strict, c.name, t.type = 'view' FROM pragma_table_list t, pragma_table_xinfo(t.name) c
        WHERE t.schema = 'main' AND t.name NOT LIKE 'sqlite_%'";
    let mut statement = connection.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut columns = 0;
    while let Some(row) = rows.next().unwrap() {
        let (table, strict, column): (String, bool, String) =
            (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
        let is_view: bool = row.get(3).unwrap();
        assert!(strict || is_view, "{table}");
        let heading = if is_view { "## Views".to_owned() } else { format!("### {table}:") };
        let rest = PAGE.split_once(&heading).unwrap_or_else(|| panic!("{table} is not on the page")).1;
        let section = rest.split("\n#").next().unwrap();
        assert!(is_view || section.contains(&format!("`{column}`")), "{table}.{column} is not on the page");
        columns += 1;
    }
    assert!(columns > 100, "{columns}");
}
