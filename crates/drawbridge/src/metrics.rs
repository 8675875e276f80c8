//! `GET /metrics`: what the bridge, the message log, HTTPS and this process count, in the text format of
//! Prometheus. `docs/operations.md` has the table for operators; a test holds the two together.
//!
//! No label names a principal, a client or a topic: there would be as many series as devices.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::pin::Pin;
use std::sync::Arc;

use drawbridge_bridge::{BridgeHandle, BridgeStats};
use drawbridge_broker::Stats;
use drawbridge_http::{HttpCounts, MetricsPage};
use drawbridge_message_log::{LogStats, MessageLog, SYNC_BOUNDS_US};

/// What a family is; the words are those of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}
use Kind::{Counter, Gauge, Histogram};

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Counter => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
        }
    }
}

/// Every family, in the order of the page.
const FAMILIES: &[(&str, Kind, &str)] = &[
    ("drawbridge_build_info", Gauge, "1; the version stands in the label."),
    ("process_start_time_seconds", Gauge, "When the process started, in seconds since 1970-01-01 UTC."),
    ("process_cpu_seconds_total", Counter, "Processor time that the process has used."),
    ("process_resident_memory_bytes", Gauge, "Memory that the process occupies."),
    ("process_open_fds", Gauge, "Open file descriptors."),
    ("drawbridge_shards", Gauge, "Threads that serve MQTT."),
    ("drawbridge_connections", Gauge, "Open connections of MQTT, over TCP, TLS and WebSocket."),
    ("drawbridge_connections_max", Gauge, "The most connections that may be open."),
    ("drawbridge_connections_unauthenticated", Gauge, "Connections that are not admitted yet."),
    ("drawbridge_connections_accepted_total", Counter, "Connections accepted at the ports of MQTT."),
    ("drawbridge_tls_handshakes_total", Counter, "TLS handshakes done at the ports of MQTT."),
    ("drawbridge_tls_handshakes_waiting", Gauge, "TLS handshakes that wait for their turn."),
    ("drawbridge_logins_pending", Gauge, "Logins of MQTT that are being judged."),
    ("drawbridge_logins_pending_max", Gauge, "The most logins that are judged at once."),
    ("drawbridge_sessions", Gauge, "MQTT sessions by state: connected, or stored and away."),
    ("drawbridge_sessions_stored", Gauge, "Sessions that outlive their connections, connected or away."),
    ("drawbridge_sessions_behind", Gauge, "Sessions for which something waits."),
    ("drawbridge_sessions_expired_total", Counter, "Stored sessions that did not come back in time."),
    ("drawbridge_subscriptions", Gauge, "Subscriptions; the members of a shared one count as one."),
    ("drawbridge_retained_messages", Gauge, "Retained messages."),
    ("drawbridge_retained_bytes", Gauge, "Bytes of the retained messages."),
    ("drawbridge_waiting_messages", Gauge, "Messages in memory that wait for sessions, each once."),
    ("drawbridge_waiting_bytes", Gauge, "Bytes of the messages in memory that wait for sessions."),
    (
        "drawbridge_queued_messages",
        Gauge,
        "Messages that wait, in memory or on the disk, once for each session.",
    ),
    ("drawbridge_queued_bytes", Gauge, "Bytes of the messages that wait, once for each session."),
    ("drawbridge_buffer_bytes", Gauge, "Bytes of the buffers of connections."),
    ("drawbridge_delayed_wills", Gauge, "Wills that are held back."),
    ("drawbridge_messages_received_total", Counter, "Messages accepted from clients, by QoS."),
    ("drawbridge_messages_sent_total", Counter, "Messages written to clients, by the QoS of the delivery."),
    ("drawbridge_messages_dropped_total", Counter, "Messages that somebody did not get, by reason."),
    (
        "drawbridge_refusals_total",
        Counter,
        "Refusals and ended sessions, by protocol and the word of docs/errors.md.",
    ),
    ("drawbridge_http_responses_total", Counter, "Responses over HTTPS, by status."),
    ("drawbridge_log_stalled", Gauge, "1 while nothing can be stored."),
    ("drawbridge_log_write_failures_total", Counter, "Writes to the log of messages that failed."),
    ("drawbridge_log_batches_waiting", Gauge, "Batches that wait to be stored."),
    ("drawbridge_log_groups_total", Counter, "Groups that were made durable, each by one sync."),
    ("drawbridge_log_batches_total", Counter, "Batches in those groups."),
    ("drawbridge_log_records_total", Counter, "Records in those groups."),
    ("drawbridge_log_written_bytes_total", Counter, "Bytes written in groups."),
    ("drawbridge_log_sync_seconds", Histogram, "How long a group took to be written and synced."),
    ("drawbridge_log_sync_seconds_max", Gauge, "The longest that a group took, since the start."),
    ("drawbridge_log_disk_bytes", Gauge, "Bytes on the disk, by part."),
    ("drawbridge_log_segments", Gauge, "Files of the log."),
    ("drawbridge_log_live_bytes", Gauge, "Bytes of messages in the log that somebody needs."),
    ("drawbridge_log_messages", Gauge, "Messages in the log that somebody needs."),
    ("drawbridge_log_messages_moved_total", Counter, "Messages copied forward so that a file could go."),
    (
        "drawbridge_log_messages_dropped_total",
        Counter,
        "Messages the log let go before they were read, by reason.",
    ),
    ("drawbridge_log_messages_fetched_total", Counter, "Messages read back from the disk."),
    (
        "drawbridge_log_messages_damaged_total",
        Counter,
        "Messages that were damaged when they were read back.",
    ),
    ("drawbridge_log_checkpoints_total", Counter, "Checkpoints that were written."),
];

/// Why somebody did not get a message, and where that is counted.
type Reason = (&'static str, fn(&Stats) -> u64);
const REASONS: &[Reason] = &[
    ("slow-reader", |stats| stats.dropped_qos0),
    ("queue-full", |stats| stats.queue_full),
    ("expired", |stats| stats.expired),
    ("withheld", |stats| stats.withheld),
    ("too-large", |stats| stats.too_large_for_client),
    ("too-old", |stats| stats.forgotten),
    ("session-ended", |stats| stats.discarded),
    ("storage-full", |stats| stats.storage_full),
];

/// What is counted for each QoS.
type ByQos = (&'static str, fn(&Stats) -> [u64; 3]);
const BY_QOS: &[ByQos] = &[
    ("drawbridge_messages_received_total", |stats| stats.received_by_qos),
    ("drawbridge_messages_sent_total", |stats| stats.delivered_by_qos),
];

/// Whoever knows all the numbers.
pub(crate) struct Metrics {
    pub(crate) bridge: BridgeHandle,
    pub(crate) log: Arc<MessageLog>,
    pub(crate) http: Arc<HttpCounts>,
    /// When the process started, in ms since 1970-01-01 UTC.
    pub(crate) started_ms: u64,
}

impl MetricsPage for Metrics {
    fn render(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>> {
        Box::pin(async {
            let numbers = Numbers {
                bridge: self.bridge.stats_now().await,
                log: self.log.stats(),
                responses: self.http.responses(),
                refused: self.http.refused(),
                process: Process::read(self.started_ms),
            };
            numbers.page()
        })
    }
}

/// All numbers of one moment.
#[derive(Debug, Default)]
struct Numbers {
    bridge: BridgeStats,
    log: LogStats,
    responses: BTreeMap<u16, u64>,
    refused: BTreeMap<&'static str, u64>,
    process: Process,
}

impl Numbers {
    fn page(&self) -> String {
        let mut page = Page::default();
        self.process.put(&mut page);
        self.put_connections(&mut page);
        self.put_shards(&mut page);
        self.put_refusals(&mut page);
        self.put_log(&mut page);
        page.text
    }

    fn put_connections(&self, page: &mut Page) {
        let bridge = &self.bridge;
        page.one("drawbridge_shards", bridge.shards.len());
        page.one("drawbridge_connections", bridge.connections);
        page.one("drawbridge_connections_max", bridge.connections_max);
        page.one("drawbridge_connections_unauthenticated", bridge.unauthenticated);
        page.one("drawbridge_connections_accepted_total", bridge.accepted);
        page.one("drawbridge_tls_handshakes_total", bridge.handshakes);
        page.one("drawbridge_tls_handshakes_waiting", bridge.handshakes_waiting);
        page.one("drawbridge_logins_pending", bridge.logins);
        page.one("drawbridge_logins_pending_max", bridge.logins_max);
    }

    fn put_shards(&self, page: &mut Page) {
        let shards = &self.bridge.shards;
        let sum = |of: fn(&Stats) -> usize| shards.iter().map(of).sum::<usize>();
        // Every shard keeps all retained messages.
        let most = |of: fn(&Stats) -> usize| shards.iter().map(of).max().unwrap_or(0);
        page.family("drawbridge_sessions");
        page.sample("", &[("state", "connected")], sum(|s| s.sessions));
        page.sample("", &[("state", "away")], sum(|s| s.sessions_away));
        page.one("drawbridge_sessions_stored", sum(|s| s.sessions_stored));
        page.one("drawbridge_sessions_behind", sum(|s| s.sessions_behind));
        let expired: u64 = shards.iter().map(|s| s.sessions_expired).sum();
        page.one("drawbridge_sessions_expired_total", expired);
        page.one("drawbridge_subscriptions", sum(|s| s.subscriptions));
        page.one("drawbridge_retained_messages", most(|s| s.retained));
        page.one("drawbridge_retained_bytes", most(|s| s.retained_bytes));
        page.one("drawbridge_waiting_messages", sum(|s| s.waiting));
        page.one("drawbridge_waiting_bytes", sum(|s| s.waiting_bytes));
        page.one("drawbridge_queued_messages", sum(|s| s.queued));
        page.one("drawbridge_queued_bytes", sum(|s| s.queued_bytes));
        page.one("drawbridge_buffer_bytes", sum(|s| s.buffer_bytes));
        page.one("drawbridge_delayed_wills", sum(|s| s.delayed_wills));
        for (family, of) in BY_QOS {
            page.family(family);
            for (qos, label) in ["0", "1", "2"].into_iter().enumerate() {
                page.sample("", &[("qos", label)], shards.iter().map(|s| of(s)[qos]).sum::<u64>());
            }
        }
        page.family("drawbridge_messages_dropped_total");
        for (reason, of) in REASONS {
            page.sample("", &[("reason", reason)], shards.iter().map(of).sum::<u64>());
        }
    }

    fn put_refusals(&self, page: &mut Page) {
        page.family("drawbridge_refusals_total");
        for (protocol, refused) in [("mqtt", &self.bridge.refused), ("http", &self.refused)] {
            for (word, count) in refused {
                page.sample("", &[("protocol", protocol), ("word", word)], count);
            }
        }
        page.family("drawbridge_http_responses_total");
        for (status, count) in &self.responses {
            page.sample("", &[("status", &status.to_string())], count);
        }
    }

    fn put_log(&self, page: &mut Page) {
        let log = &self.log;
        page.one("drawbridge_log_stalled", u8::from(log.stalled));
        page.one("drawbridge_log_write_failures_total", log.failed_writes);
        page.one("drawbridge_log_batches_waiting", log.waiting);
        page.one("drawbridge_log_groups_total", log.groups);
        page.one("drawbridge_log_batches_total", log.batches);
        page.one("drawbridge_log_records_total", log.records);
        page.one("drawbridge_log_written_bytes_total", log.written_bytes);
        page.family("drawbridge_log_sync_seconds");
        let mut below = 0;
        for (bound_us, count) in SYNC_BOUNDS_US.iter().zip(log.syncs) {
            below += count;
            page.sample("_bucket", &[("le", &seconds(*bound_us))], below);
        }
        let all: u64 = log.syncs.iter().sum();
        page.sample("_bucket", &[("le", "+Inf")], all);
        page.sample("_sum", &[], seconds(log.sync_us));
        page.sample("_count", &[], all);
        page.one("drawbridge_log_sync_seconds_max", seconds(log.sync_us_max));
        page.family("drawbridge_log_disk_bytes");
        page.sample("", &[("part", "segments")], log.segment_bytes);
        page.sample("", &[("part", "checkpoint")], log.checkpoint_bytes);
        page.one("drawbridge_log_segments", log.segments);
        page.one("drawbridge_log_live_bytes", log.live_bytes);
        page.one("drawbridge_log_messages", log.messages);
        page.one("drawbridge_log_messages_moved_total", log.moved);
        page.family("drawbridge_log_messages_dropped_total");
        page.sample("", &[("reason", "age")], log.dropped_age);
        page.sample("", &[("reason", "bytes")], log.dropped_bytes);
        page.one("drawbridge_log_messages_fetched_total", log.fetched);
        page.one("drawbridge_log_messages_damaged_total", log.damaged);
        page.one("drawbridge_log_checkpoints_total", log.checkpoints);
    }
}

/// Exact: microseconds as seconds with 6 decimals.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// What the kernel says of this process; 0 where it does not say.
#[derive(Debug, Default)]
struct Process {
    started_ms: u64,
    cpu_hundredths: u64,
    resident_bytes: u64,
    open_files: usize,
}

impl Process {
    /// Source: proc(5). `stat` counts in 1/100 s on every Linux.
    fn read(started_ms: u64) -> Self {
        let text = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let (stat, status) = (text("stat"), text("status"));
        // Behind the name, which is in parentheses and may hold anything.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |field: usize| fields.get(field).and_then(|text| text.parse().ok()).unwrap_or(0_u64);
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        Self {
            started_ms,
            cpu_hundredths: ticks(11) + ticks(12),
            resident_bytes: resident.unwrap_or(0) * 1024,
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        }
    }

    fn put(&self, page: &mut Page) {
        page.family("drawbridge_build_info");
        page.sample("", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.one("process_start_time_seconds", seconds(self.started_ms * 1_000));
        page.one("process_cpu_seconds_total", seconds(self.cpu_hundredths * 10_000));
        page.one("process_resident_memory_bytes", self.resident_bytes);
        page.one("process_open_fds", self.open_files);
    }
}

/// Writes the format.
///
/// Source: Prometheus, "Exposition formats", text format 0.0.4.
#[derive(Default)]
struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    /// Begins a family, which must be in [`FAMILIES`].
    fn family(&mut self, name: &'static str) {
        let row = FAMILIES.iter().find(|row| row.0 == name).expect("`FAMILIES` has every name that is used");
        let (_, kind, help) = row;
        self.family = name;
        let kind = kind.word();
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A family of one sample.
    fn one(&mut self, name: &'static str, value: impl Display) {
        self.family(name);
        self.sample("", &[], value);
    }

    /// A sample of the family that was begun last. Values of labels are words of ours, which need no escape.
    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let family = self.family;
        self.write(format_args!("{family}{suffix}"));
        for (at, (label, text)) in labels.iter().enumerate() {
            debug_assert!(!text.contains(['"', '\\', '\n']), "{text:?} would need an escape");
            let before = if at == 0 { '{' } else { ',' };
            self.write(format_args!("{before}{label}=\"{text}\""));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{end} {value}\n"));
    }

    fn write(&mut self, words: std::fmt::Arguments<'_>) {
        self.text.write_fmt(words).expect("a string takes all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/operations.md");

    fn full() -> Numbers {
        let shard = Stats {
            retained: 7,
            sessions: 2,
            received_by_qos: [1, 2, 3],
            dropped_qos0: 11,
            discarded: 4,
            ..Stats::default()
        };
        let mut numbers = Numbers::default();
        numbers.bridge.shards = vec![shard; 2];
        numbers.bridge.refused = BTreeMap::from([("mqtt-session-taken-over", 3)]);
        numbers.refused = BTreeMap::from([("role", 5)]);
        numbers.responses = BTreeMap::from([(200, 9)]);
        numbers.log.syncs = std::array::from_fn(|at| at as u64);
        numbers.log.sync_us = 1_234_567;
        numbers
    }

    /// Name, kind and samples.
    type Family = (String, String, Vec<(String, f64)>);

    /// The families of a page, which must be in the format to the letter.
    fn parse(page: &str) -> Vec<Family> {
        let mut families: Vec<Family> = Vec::new();
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                && !text.starts_with('_')
        };
        let mut help = None;
        assert!(page.ends_with('\n'));
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, text) = rest.split_once(' ').expect("a text");
                assert!(is_name(name) && text.ends_with('.') && !text.contains('\\'), "{line}");
                help = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a kind");
                assert_eq!(help.take().as_deref(), Some(name), "HELP stands before TYPE");
                families.push((name.to_owned(), kind.to_owned(), Vec::new()));
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let (name, kind, samples) = families.last_mut().expect("a family");
                let bare = series.split('{').next().expect("a name");
                let ends: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(ends.iter().any(|end| bare == format!("{name}{end}")), "{line}");
                if let Some(labels) = series.strip_prefix(bare).filter(|labels| !labels.is_empty()) {
                    let inner = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')).expect("braces");
                    for label in inner.split(',') {
                        let (label, text) = label.split_once('=').expect("a label");
                        assert!(is_name(label) && text.starts_with('"') && text.ends_with('"'), "{line}");
                    }
                }
                assert!(!samples.iter().any(|(known, _)| known == series), "{series} twice");
                samples.push((series.to_owned(), value.parse().expect("a number")));
            }
        }
        families
    }

    #[test]
    fn the_page_has_every_family_once_in_the_format_of_prometheus() {
        let families = parse(&full().page());
        let names: Vec<_> = families.iter().map(|(name, kind, _)| (name.as_str(), kind.as_str())).collect();
        let wanted: Vec<_> = FAMILIES.iter().map(|(name, kind, _)| (*name, kind.word())).collect();
        assert_eq!(names, wanted);
        for (name, kind, samples) in &families {
            assert!(!samples.is_empty(), "{name} says nothing");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        }
    }

    #[test]
    fn numbers_of_shards_are_added_up_and_what_all_of_them_keep_counts_once() {
        let families = parse(&full().page());
        let all: BTreeMap<_, _> = families.into_iter().flat_map(|(_, _, samples)| samples).collect();
        for (series, wanted) in [
            ("drawbridge_shards", 2.0),
            ("drawbridge_retained_messages", 7.0),
            ("drawbridge_sessions{state=\"connected\"}", 4.0),
            ("drawbridge_messages_received_total{qos=\"2\"}", 6.0),
            ("drawbridge_messages_dropped_total{reason=\"slow-reader\"}", 22.0),
            ("drawbridge_messages_dropped_total{reason=\"session-ended\"}", 8.0),
            ("drawbridge_refusals_total{protocol=\"mqtt\",word=\"mqtt-session-taken-over\"}", 3.0),
            ("drawbridge_refusals_total{protocol=\"http\",word=\"role\"}", 5.0),
            ("drawbridge_http_responses_total{status=\"200\"}", 9.0),
            ("drawbridge_log_sync_seconds_bucket{le=\"0.000250\"}", 0.0),
            ("drawbridge_log_sync_seconds_bucket{le=\"0.001000\"}", 3.0),
            ("drawbridge_log_sync_seconds_bucket{le=\"+Inf\"}", 66.0),
            ("drawbridge_log_sync_seconds_count", 66.0),
            ("drawbridge_log_sync_seconds_sum", 1.234_567),
        ] {
            assert_eq!(all.get(series), Some(&wanted), "{series}");
        }
    }

    #[test]
    fn the_kernel_says_what_this_process_uses() {
        let process = Process::read(5);
        assert!(process.resident_bytes > 1 << 20 && process.open_files > 2, "{process:?}");
    }

    #[test]
    fn the_table_of_the_operators_has_every_family_and_every_reason() {
        let rows = |head: &str| -> Vec<Vec<String>> {
            let table = DOCUMENT.split(head).nth(1).expect("the document has the table");
            let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
            let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
            rows.map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
        };
        let shown = rows("| number | kind | what it means, and what to do |");
        let name = |cell: &str| cell.split('{').next().unwrap_or_default().to_owned();
        let shown: Vec<_> = shown.iter().map(|row| (name(&row[0]), row[1].clone())).collect();
        let wanted = FAMILIES.iter().map(|(name, kind, _)| ((*name).to_owned(), kind.word().to_owned()));
        assert_eq!(shown, wanted.collect::<Vec<_>>());
        let reasons: Vec<_> = rows("| reason | what happened, and what to do |")
            .into_iter()
            .map(|row| row[0].clone())
            .collect();
        assert_eq!(reasons, REASONS.iter().map(|(reason, _)| *reason).collect::<Vec<_>>());
    }
}
