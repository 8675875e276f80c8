//! What a scenario was told and found: named figures, the unit at the end of the name.

use serde_json::{Map, Value, json};

use super::histogram::Histogram;
use crate::args::Common;
use crate::output;

/// The result of one run.
#[derive(Debug)]
pub(super) struct Report {
    scenario: &'static str,
    settings: Vec<(&'static str, Value)>,
    figures: Vec<(String, f64)>,
}

impl Report {
    pub(super) fn new(scenario: &'static str) -> Self {
        Self { scenario, settings: Vec::new(), figures: Vec::new() }
    }

    /// Something that was asked for.
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.settings.push((name, value.into()));
    }

    /// Something that was found.
    pub(super) fn found(&mut self, name: impl Into<String>, value: f64) {
        self.figures.push((name.into(), value));
    }

    /// The quantiles of times, in microseconds, under names that begin with `of`.
    pub(super) fn times(&mut self, of: &str, times: &Histogram) {
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            self.found(format!("{of}_{name}_us"), times.at_us(share));
        }
        self.found(format!("{of}_max_us"), times.max_us());
    }

    fn json(&self) -> Value {
        let settings: Map<String, Value> =
            self.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let figures: Map<String, Value> =
            self.figures.iter().map(|(name, value)| (name.clone(), json!(rounded(*value)))).collect();
        json!({ "scenario": self.scenario, "settings": settings, "results": figures })
    }

    pub(super) fn print(&self, common: &Common) {
        if common.json {
            output::json(&self.json());
            return;
        }
        let told: Vec<String> =
            self.settings.iter().map(|(name, value)| format!("{name} {}", output::cell(value))).collect();
        say!("{}: {}", self.scenario, told.join(", "));
        let rows: Vec<Vec<String>> =
            self.figures.iter().map(|(name, value)| vec![name.replace('_', " "), shown(*value)]).collect();
        output::table(&["FIGURE", "VALUE"], &rows);
    }
}

/// Six digits are more than any run can tell.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powi(5 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// A number as people read it: thousands apart, three digits after the point where they matter.
fn shown(value: f64) -> String {
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{value:.3}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_people_read_them() {
        let cases = [(0.0, "0"), (0.2465, "0.246"), (12.0, "12"), (123.4, "123"), (1_234_567.8, "1,234,568")];
        for (value, text) in cases {
            assert_eq!(shown(value), text);
        }
        assert_eq!(shown(-1_000.0), "-1,000");
    }

    #[test]
    fn json_has_settings_and_results_apart_and_no_false_precision() {
        let mut report = Report::new("fan-in");
        report.set("qos", 1);
        report.found("messages_per_s", 123_456.789);
        report.found("cpu_s", 0.123_456_789);
        report.found("nothing", f64::NAN);
        let json = report.json();
        assert_eq!(json["settings"]["qos"], 1);
        assert_eq!(json["results"]["messages_per_s"], 123_457.0);
        assert_eq!(json["results"]["cpu_s"], 0.123_457);
        assert_eq!(json["results"]["nothing"], 0.0);
    }
}
