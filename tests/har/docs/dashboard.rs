//! The dashboard against the rules that Grafana's own schema of dashboards states (`kinds/dashboard` of its sources).
//!
//! That schema is in CUE, for which no validator is at hand: what it says of the kinds of panels, variables and options
//! that the dashboard uses is written down here as rules on JSON.

use std::fs;

use serde_json::Value;

use super::pages::root;

/// Kinds of variables that the schema knows.
const VARIABLES: [&str; 8] = ["query", "adhoc", "constant", "datasource", "interval", "textbox", "custom", "system"];

/// Panels that come with Grafana, of those that are used.
const PANELS: [&str; 4] = ["stat", "state-timeline", "timeseries", "table"];

#[test]
fn the_dashboard_keeps_to_the_schema_of_grafana() {
    let text = fs::read_to_string(root().join("packaging/monitoring/har-dashboard.json")).expect("the file");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(faults(&dashboard), Vec::<String>::new());
}

#[test]
fn what_the_schema_forbids_is_found() {
    let text = fs::read_to_string(root().join("packaging/monitoring/har-dashboard.json")).expect("the file");
    let whole: Value = serde_json::from_str(&text).expect("JSON");
    for (place, wrong) in [
        ("/schemaVersion", Value::from("38")),
        ("/graphTooltip", Value::from(3)),
        ("/refresh", Value::from(60)),
        ("/time/from", Value::Null),
        ("/templating/list/0/type", Value::from("list")),
        ("/templating/list/1/hide", Value::from(true)),
        ("/panels/1/type", Value::from("")),
        ("/panels/1/gridPos/w", Value::from(25)),
        ("/panels/1/targets", Value::from("up")),
        ("/panels/1/options", Value::Null),
        ("/panels/1/fieldConfig/overrides", Value::Null),
        ("/panels/1/fieldConfig/defaults/unit", Value::from(1)),
        ("/panels/1/fieldConfig/defaults/thresholds/mode", Value::from("relative")),
        ("/panels/1/fieldConfig/defaults/thresholds/steps/0/value", Value::from(1)),
        ("/panels/8/fieldConfig/defaults/mappings/0/type", Value::from("equal")),
        ("/panels/0/panels", Value::Null),
        ("/annotations/list/1/iconColor", Value::Null),
        ("/annotations/list/1/datasource", Value::from("prometheus")),
    ] {
        let mut broken = whole.clone();
        *broken.pointer_mut(place).unwrap_or_else(|| panic!("{place} is there")) = wrong;
        assert_eq!(faults(&broken).len(), 1, "{place}: {:?}", faults(&broken));
    }
}

/// What is wrong, in words.
fn faults(dashboard: &Value) -> Vec<String> {
    let mut faults = Faults::default();
    let text = |key: &str| dashboard[key].is_string();
    faults.unless(text("title") && text("uid") && text("description"), "title, uid and description are texts");
    faults.unless(dashboard["schemaVersion"].as_u64().is_some_and(|version| version <= 0xffff), "schemaVersion");
    faults.unless(dashboard["graphTooltip"].as_u64().is_some_and(|kind| kind <= 2), "graphTooltip");
    faults.unless(dashboard["fiscalYearStartMonth"].as_u64().is_some_and(|month| month < 12), "fiscalYearStartMonth");
    faults.unless(text("refresh") || dashboard["refresh"] == false, "refresh");
    faults.unless(dashboard["editable"].is_boolean() && dashboard["liveNow"].is_boolean(), "editable, liveNow");
    faults.unless(["from", "to"].iter().all(|end| dashboard["time"][end].is_string()), "time");
    faults.unless(list(&dashboard["tags"]).iter().all(Value::is_string), "tags");
    for variable in list(&dashboard["templating"]["list"]) {
        let known = variable["type"].as_str().is_some_and(|kind| VARIABLES.contains(&kind));
        faults.unless(known && variable["name"].is_string(), &format!("variable {}", variable["name"]));
        faults.unless(variable["hide"].as_u64().is_some_and(|hide| hide <= 2), "variable: hide");
        let query = &variable["query"];
        faults.unless(query.is_string() || query.is_object(), "variable: query");
    }
    for note in list(&dashboard["annotations"]["list"]) {
        let said = note["name"].is_string() && note["enable"].is_boolean() && note["iconColor"].is_string();
        faults.unless(said && is_source(&note["datasource"]), &format!("annotation {}", note["name"]));
    }
    for panel in list(&dashboard["panels"]) {
        faults.of_panel(panel);
    }
    faults.0
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A reference to a data source.
fn is_source(value: &Value) -> bool {
    value["type"].is_string() && value["uid"].is_string()
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, good: bool, what: &str) {
        if !good {
            self.0.push(what.to_owned());
        }
    }

    fn of_panel(&mut self, panel: &Value) {
        let title = panel["title"].to_string();
        let place = &panel["gridPos"];
        let within = |key: &str, from: u64, to: u64| place[key].as_u64().is_some_and(|at| (from..=to).contains(&at));
        let fits = within("w", 1, 24) && within("h", 1, 100) && within("x", 0, 23) && within("y", 0, 1000);
        self.unless(fits && panel["id"].as_u64().is_some(), &format!("{title}: gridPos, id"));
        if panel["type"] == "row" {
            return self.unless(panel["collapsed"].is_boolean() && panel["panels"].is_array(), &format!("row {title}"));
        }
        let known = panel["type"].as_str().is_some_and(|kind| PANELS.contains(&kind));
        self.unless(known && panel["options"].is_object(), &format!("{title}: type, options"));
        self.unless(panel["targets"].is_array() && is_source(&panel["datasource"]), &format!("{title}: targets"));
        let steps = list(&panel["transformations"]).iter().all(|step| step["id"].is_string());
        self.unless(steps, &format!("{title}: transformations"));
        let overrides = panel["fieldConfig"]["overrides"].as_array();
        let is_override = |one: &Value| one["matcher"]["id"].is_string() && one["properties"].is_array();
        self.unless(overrides.is_some_and(|all| all.iter().all(is_override)), &format!("{title}: overrides"));
        self.of_field(&panel["fieldConfig"]["defaults"], &title);
    }

    fn of_field(&mut self, field: &Value, title: &str) {
        self.unless(field["unit"].is_string() && field["custom"].is_object(), &format!("{title}: unit, custom"));
        self.unless(field["color"]["mode"].is_string(), &format!("{title}: color"));
        let mode = field["thresholds"]["mode"].as_str();
        self.unless(matches!(mode, Some("absolute" | "percentage")), &format!("{title}: thresholds"));
        // The first step begins at minus infinity, which JSON has no number for.
        let steps: Vec<Option<f64>> =
            list(&field["thresholds"]["steps"]).iter().map(|step| step["value"].as_f64()).collect();
        let sorted = steps.windows(2).all(|pair| pair[0] < pair[1]);
        self.unless(steps.first() == Some(&None) && sorted, &format!("{title}: steps of thresholds"));
        let is_mapping = |mapping: &Value| {
            let known = ["value", "range", "regex", "special"].contains(&mapping["type"].as_str().unwrap_or_default());
            known && mapping["options"].is_object()
        };
        self.unless(list(&field["mappings"]).iter().all(is_mapping), &format!("{title}: mappings"));
    }
}
