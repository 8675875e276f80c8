//! `drawbridge top`: the numbers of `/metrics` on one screen, with what they did meanwhile.
#![expect(clippy::disallowed_methods, reason = "the time between two looks is measured")]

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::args::{Common, DEFAULT_REGISTRY, TopArgs};
use crate::{Failure, Server, output};

/// Words of refusals and reasons that are shown, the most frequent first.
const WORDS_MAX: usize = 8;
/// Clears a terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What the server said at one moment: series and their values.
struct Look {
    at: Instant,
    series: BTreeMap<String, f64>,
}

pub(crate) fn top(common: &Common, args: &TopArgs) -> Result<(), Failure> {
    // The numbers are those of the server, whatever registry one works in.
    let server = Server::find(&Common { registry: DEFAULT_REGISTRY.to_owned(), ..common.clone() })?;
    let is_screen = stdout().is_terminal() && !common.json;
    let count = args.count.unwrap_or(if is_screen { u64::MAX } else { 1 });
    let mut before = look(&server)?;
    for _ in 0..count {
        std::thread::sleep(Duration::from_secs(args.interval_s));
        let now = look(&server)?;
        let change = Change { before: &before, now: &now };
        let went = if common.json {
            say!("{}", change.json())
        } else {
            if is_screen {
                say!("{CLEAR}");
            }
            change.show();
            let words: Vec<&str> = match change.word() {
                Some(word) => vec!["explain", word],
                None => vec!["audit", "tail"],
            };
            output::next(common, &words);
            output::fault().is_ok()
        };
        if !went {
            return Ok(()); // nobody reads any more
        }
        before = now;
    }
    Ok(())
}

fn look(server: &Server) -> Result<Look, Failure> {
    let page = server.call("GET", "/metrics", None)?;
    Ok(Look { at: Instant::now(), series: series(&page.text) })
}

/// The samples of a page in the text format of Prometheus; what is no number is left out.
fn series(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.filter_map(|line| line.rsplit_once(' '));
    samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// The value of a label in the name of a series.
fn label<'a>(series: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = series.split_once(&format!("{label}=\""))?;
    rest.split('"').next()
}

/// Two looks at the same numbers.
struct Change<'a> {
    before: &'a Look,
    now: &'a Look,
}

impl Change<'_> {
    fn value(&self, name: &str) -> f64 {
        self.now.series.get(name).copied().unwrap_or(0.0)
    }

    /// How much more it is than before, each second. A server that was started anew counts from 0.
    fn per_s(&self, name: &str) -> f64 {
        let before = self.before.series.get(name).copied().unwrap_or(0.0);
        let now = self.value(name);
        let more = if now < before { now } else { now - before };
        more / self.now.at.saturating_duration_since(self.before.at).as_secs_f64().max(0.001)
    }

    /// The series of a family, by value, the largest first; those of 0 are left out.
    fn of(&self, family: &str) -> Vec<(&str, f64)> {
        let prefix = format!("{family}{{");
        let found = self.now.series.iter().filter(|(name, value)| name.starts_with(&prefix) && **value > 0.0);
        let mut found: Vec<_> = found.map(|(name, value)| (name.as_str(), *value)).collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        found.truncate(WORDS_MAX);
        found
    }

    /// The word that was refused most since the last look.
    fn word(&self) -> Option<&str> {
        let mut grown = self.of("drawbridge_refusals_total");
        grown.retain(|(name, _)| self.per_s(name) > 0.0);
        grown.sort_by(|a, b| self.per_s(b.0).total_cmp(&self.per_s(a.0)));
        grown.first().and_then(|(name, _)| label(name, "word"))
    }

    fn json(&self) -> String {
        let counters = self.now.series.keys().filter(|name| name.split('{').next().is_some_and(is_counter));
        let per_s: BTreeMap<&str, f64> = counters.map(|name| (name.as_str(), self.per_s(name))).collect();
        json!({ "now": self.now.series, "per_s": per_s }).to_string()
    }

    fn show(&self) {
        let version = self.now.series.keys().find_map(|name| label(name, "version")).unwrap_or("?");
        let cores = self.per_s("process_cpu_seconds_total");
        say!(
            "drawbridge {version}: {} shards, {:.0} % of a core, {:.1} MiB, {} open files",
            self.value("drawbridge_shards"),
            cores * 100.0,
            self.value("process_resident_memory_bytes") / f64::from(1 << 20),
            self.value("process_open_fds")
        );
        let mut rows = Vec::new();
        for (what, gauge, most, counter) in ROWS {
            let now = match (*gauge, *most) {
                ("", _) => self.value(counter).to_string(),
                (gauge, "") => self.value(gauge).to_string(),
                (gauge, most) => format!("{} of {}", self.value(gauge), self.value(most)),
            };
            let rate = if counter.is_empty() { String::new() } else { format!("{:.1}", self.per_s(counter)) };
            rows.push(vec![(*what).to_owned(), now, rate]);
        }
        for (what, family, name) in [
            ("received, QoS", "drawbridge_messages_received_total", "qos"),
            ("sent, QoS", "drawbridge_messages_sent_total", "qos"),
            ("dropped,", "drawbridge_messages_dropped_total", "reason"),
            ("refused,", "drawbridge_refusals_total", "word"),
        ] {
            for (series, value) in self.of(family) {
                let what = format!("{what} {}", label(series, name).unwrap_or("?"));
                rows.push(vec![what, value.to_string(), format!("{:.1}", self.per_s(series))]);
            }
        }
        output::table(&["what", "now", "per second"], &rows);
        let groups = self.per_s("drawbridge_log_groups_total");
        if self.value("drawbridge_log_stalled") > 0.0 {
            say!("NOTHING CAN BE STORED: make room on the disk of the messages");
        } else if groups > 0.0 {
            say!(
                "a group of the log has {:.1} records and takes {:.1} ms",
                self.per_s("drawbridge_log_records_total") / groups,
                self.per_s("drawbridge_log_sync_seconds_sum") / groups * 1_000.0
            );
        }
    }
}

fn is_counter(name: &str) -> bool {
    ["_total", "_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end))
}

/// What, its gauge, the most of it, its counter; an empty name is none.
const ROWS: &[(&str, &str, &str, &str)] = &[
    (
        "connections",
        "drawbridge_connections",
        "drawbridge_connections_max",
        "drawbridge_connections_accepted_total",
    ),
    ("not admitted yet", "drawbridge_connections_unauthenticated", "", ""),
    ("handshakes waiting", "drawbridge_tls_handshakes_waiting", "", "drawbridge_tls_handshakes_total"),
    ("logins pending", "drawbridge_logins_pending", "drawbridge_logins_pending_max", ""),
    ("sessions connected", "drawbridge_sessions{state=\"connected\"}", "", ""),
    ("sessions away", "drawbridge_sessions{state=\"away\"}", "", "drawbridge_sessions_expired_total"),
    ("sessions behind", "drawbridge_sessions_behind", "", ""),
    ("subscriptions", "drawbridge_subscriptions", "", ""),
    ("retained", "drawbridge_retained_messages", "", ""),
    ("messages queued", "drawbridge_queued_messages", "", ""),
    (
        "bytes in the log",
        "drawbridge_log_disk_bytes{part=\"segments\"}",
        "",
        "drawbridge_log_written_bytes_total",
    ),
    ("groups of the log", "", "", "drawbridge_log_groups_total"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn change(before: &str, now: &str, check: impl FnOnce(&Change<'_>)) {
        let at = Instant::now();
        let before = Look { at, series: series(before) };
        let now = Look { at: at + Duration::from_secs(2), series: series(now) };
        check(&Change { before: &before, now: &now });
    }

    #[test]
    fn rates_are_by_the_second_and_a_restart_is_no_step_back() {
        change("# HELP a x\na_total 4\nb_total 100\n", "a_total 10\nb_total 6\nnone x\n", |change| {
            assert_eq!((change.per_s("a_total"), change.per_s("b_total")), (3.0, 3.0));
            assert_eq!((change.per_s("c_total"), change.now.series.len()), (0.0, 2));
            assert_eq!(
                change.json(),
                r#"{"now":{"a_total":10.0,"b_total":6.0},"per_s":{"a_total":3.0,"b_total":3.0}}"#
            );
        });
    }

    #[test]
    fn the_word_that_grows_most_is_the_one_to_be_explained() {
        let of = |role: u32, old: u32| {
            format!(
                "drawbridge_refusals_total{{protocol=\"http\",word=\"role\"}} {role}\n\
                 drawbridge_refusals_total{{protocol=\"mqtt\",word=\"mqtt-publish-denied\"}} {old}\n"
            )
        };
        change(&of(1, 50), &of(3, 50), |change| assert_eq!(change.word(), Some("role")));
        change(&of(1, 50), &of(1, 50), |change| assert_eq!(change.word(), None));
    }
}
