//! The flags of `drawbridge bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Args, Subcommand, ValueEnum, value_parser};
use drawbridge_device::{ProtocolVersion, Qos};

use crate::files;

/// `drawbridge bench ...`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Many publish, one receives: the rate, and the server's CPU for each message
    FanIn(FanArgs),
    /// One publishes, many receive
    FanOut(FanArgs),
    /// Pairs of a publisher and a subscriber at a fixed rate in all: the time from one to the other, counted from
    /// when a message was due
    Pairs(PairsArgs),
    /// Connects: rate, time and the server's CPU for each; with --storm all reconnect at once beside other traffic
    Connect(ConnectArgs),
    /// Connections that do nothing, with one subscription each: the server's memory for each
    Idle(IdleArgs),
    /// Many wildcard filters: the server's memory for each, then publishes that match one each
    Filters(FiltersArgs),
    /// QoS 1 to sessions that outlive their connections: rate, and the time to PUBACK
    Durable(DurableArgs),
    /// Make the identities of many devices for --keys, and the file that registers them; contacts no server
    Keys(KeysArgs),
}

/// The version of MQTT that the clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Version {
    /// MQTT 3.1.1
    #[value(name = "3.1.1")]
    V311,
    /// MQTT 5.0
    #[value(name = "5")]
    V5,
}

impl Version {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }

    pub(crate) fn protocol(self) -> ProtocolVersion {
        match self {
            Self::V311 => ProtocolVersion::V311,
            Self::V5 => ProtocolVersion::V5,
        }
    }
}

/// The flags of [`crate::args::Common`] that say which of our servers to ask, and for what: a scenario asks an MQTT
/// broker, whosever it is, and no API. Hidden as those of `serve` are.
fn flags_of_operators() -> [Arg; 4] {
    let hidden = |name: &'static str| Arg::new(name).long(name).hide(true);
    let file = || value_parser!(PathBuf);
    [
        hidden("data").value_parser(file()),
        hidden("server"),
        hidden("token-file").id("token_file").value_parser(file()),
        hidden("registry"),
    ]
}

/// What every scenario takes.
#[derive(Debug, Clone, Args)]
#[command(args = flags_of_operators())]
pub struct Load {
    /// The broker, `host:port`
    #[arg(long, value_name = "ADDR")]
    pub target: String,
    /// Speak MQTT without TLS
    #[arg(long, conflicts_with = "tls")]
    pub plain: bool,
    /// Speak MQTT over TLS: the default; the root is that of --ca, else `ca.pem` of the identity
    #[arg(long)]
    pub tls: bool,
    /// Offer X25519 alone, as a small device does, and no post-quantum group
    #[arg(long)]
    pub x25519: bool,
    /// The version of MQTT
    #[arg(long = "version", value_name = "VERSION", default_value = "3.1.1")]
    pub version: Version,
    /// Identity folder (key.pem, ca.pem, device.json) of an application: every client logs in with a JWT of it, and a
    /// client id of its own; with --keys it is the identity of the clients that receive
    #[arg(long = "as", value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// A folder of identity folders: each client is a device of its own, with a JWT of its own
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// User name of every client
    #[arg(long, value_name = "NAME", conflicts_with_all = ["identity", "keys"])]
    pub username: Option<String>,
    /// Read the password of every client from standard input, one line
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Process id of the broker, if it runs on this machine: its CPU time and memory are in the result
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// The topics: `{client}` is the number of the client, `{id}` the device with --keys
    /// [default: bench/{client}, with --keys devices/{id}/events/bench]
    #[arg(long, value_name = "TEMPLATE")]
    pub topic: Option<String>,
}

impl Load {
    /// The template of the topics.
    pub(crate) fn topic(&self) -> &str {
        match (&self.topic, &self.keys) {
            (Some(topic), _) => topic,
            (None, Some(_)) => "devices/{id}/events/bench",
            (None, None) => "bench/{client}",
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    files::duration(text).map_err(|e| e.to_string())
}

/// How long the load runs.
#[derive(Debug, Clone, Copy, Args)]
pub struct Span {
    /// How long is measured: `4s`, `1m`
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = seconds)]
    pub duration: Duration,
    /// How long the same load runs before that
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = seconds)]
    pub warm_up: Duration,
}

/// What the messages are.
#[derive(Debug, Clone, Copy, Args)]
pub struct Shape {
    /// QoS of publishes and subscriptions
    #[arg(long, value_name = "0|1|2", default_value_t = 0, value_parser = value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = value_parser!(u32).range(16..=16_777_216))]
    pub payload: u32,
}

impl Shape {
    pub(crate) fn qos(self) -> Qos {
        Qos::from_bits(self.qos).expect("clap takes 0 to 2")
    }

    pub(crate) fn payload_bytes(self) -> usize {
        usize::try_from(self.payload).expect("16 MiB fit")
    }
}

/// How much is under way.
#[derive(Debug, Clone, Copy, Args)]
pub struct Window {
    /// Messages of a publisher that are under way at once: sent and not yet received or acknowledged
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = value_parser!(u32).range(1..=30_000))]
    pub in_flight: u32,
    /// Messages of a publisher in one write; at most --in-flight
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(1..=1_000))]
    pub batch: u32,
}

/// `drawbridge bench fan-in` and `fan-out`.
#[derive(Debug, Args)]
pub struct FanArgs {
    /// What every scenario takes.
    #[command(flatten)]
    pub load: Load,
    /// Clients on the side of the many [default: 50 in, 200 out]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    pub clients: Option<u32>,
    /// The messages.
    #[command(flatten)]
    pub shape: Shape,
    /// How much at once.
    #[command(flatten)]
    pub window: Window,
    /// How long.
    #[command(flatten)]
    pub span: Span,
}

/// `drawbridge bench pairs`.
#[derive(Debug, Args)]
pub struct PairsArgs {
    /// What every scenario takes.
    #[command(flatten)]
    pub load: Load,
    /// Pairs
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=50_000))]
    pub pairs: u32,
    /// Messages a second, all pairs together
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,
    /// The messages.
    #[command(flatten)]
    pub shape: Shape,
    /// How long.
    #[command(flatten)]
    pub span: Span,
}

/// `drawbridge bench connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// What every scenario takes.
    #[command(flatten)]
    pub load: Load,
    /// Connects
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// So many at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..=100_000))]
    pub at_once: u32,
    /// Connect them all, lose them all, and reconnect all at once while other clients exchange messages
    #[arg(long)]
    pub storm: bool,
    /// With --storm: the other clients, in pairs, with messages of QoS 1
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..=10_000))]
    pub pairs: u32,
    /// With --storm: their messages a second, all together
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// With --storm: give up when not all are back after this time
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = seconds)]
    pub patience: Duration,
}

/// `drawbridge bench idle`.
#[derive(Debug, Args)]
pub struct IdleArgs {
    /// What every scenario takes.
    #[command(flatten)]
    pub load: Load,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// How long they do nothing before memory is read, and again after the burst
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds)]
    pub rest: Duration,
    /// Messages of 1 KiB to each of them in the burst; 0 for no burst
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(0..=10_000))]
    pub burst: u32,
}

/// `drawbridge bench filters`.
#[derive(Debug, Args)]
pub struct FiltersArgs {
    /// What every scenario takes.
    #[command(flatten)]
    pub load: Load,
    /// Wildcard filters: the topic with its `{k}` replaced by a number, and `+` at its end
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(u32).range(1..=9_999_999))]
    pub filters: u32,
    /// Connections that hold them
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Publishers
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..=10_000))]
    pub publishers: u32,
    /// The messages.
    #[command(flatten)]
    pub shape: Shape,
    /// How much at once.
    #[command(flatten)]
    pub window: Window,
    /// How long.
    #[command(flatten)]
    pub span: Span,
}

/// `drawbridge bench durable`.
#[derive(Debug, Args)]
pub struct DurableArgs {
    /// What every scenario takes.
    #[command(flatten)]
    pub load: Load,
    /// Publishers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=100_000))]
    pub publishers: u32,
    /// Sessions that receive, and outlive their connections
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..=100_000))]
    pub sessions: u32,
    /// The sessions are away meanwhile: what they are owed waits in the broker
    #[arg(long)]
    pub away: bool,
    /// Messages a second, all publishers together; 0 for as many as --in-flight permits
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u32).range(0..=10_000_000))]
    pub rate: u32,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = value_parser!(u32).range(16..=16_777_216))]
    pub payload: u32,
    /// How much at once.
    #[command(flatten)]
    pub window: Window,
    /// How long.
    #[command(flatten)]
    pub span: Span,
}

/// `drawbridge bench keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// Folder to make, with a folder for each device in it and `devices.ndjson` for `device import`
    pub dir: PathBuf,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// Identity folder of a device or application of the same registry, for the addresses and the root
    #[arg(long, value_name = "DIR")]
    pub like: PathBuf,
    /// What their names begin with
    #[arg(long, value_name = "TEXT", default_value = "bench")]
    pub prefix: String,
    /// The policy they get [default: device]
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::{Cli, Command};

    #[test]
    fn every_flag_of_every_scenario_says_what_it_does() {
        let mut cli = Cli::command();
        cli.build();
        let bench = cli.find_subcommand("bench").expect("there is one");
        let mut flags = 0;
        for scenario in bench.get_subcommands().filter(|scenario| scenario.get_name() != "help") {
            assert!(scenario.get_about().is_some(), "{}", scenario.get_name());
            for flag in scenario.get_arguments().filter(|flag| !flag.is_hide_set()) {
                assert!(flag.get_help().is_some(), "{} {}", scenario.get_name(), flag.get_id());
                flags += 1;
            }
        }
        assert!(flags > 80, "only {flags} flags were looked at");
    }

    #[test]
    fn help_of_a_scenario_is_whole_and_shows_no_flag_that_means_nothing_to_it() {
        let mut cli = Cli::command();
        cli.build();
        let bench = cli.find_subcommand_mut("bench").expect("there is one");
        let verbs = |verb: &&mut clap::Command| !["help", "keys"].contains(&verb.get_name());
        let mut scenarios = 0;
        for scenario in bench.get_subcommands_mut().filter(verbs) {
            let help = scenario.render_long_help().to_string();
            // To clap `{n}` is the end of a line.
            for words in
                ["`{client}` is the number of the client", "bench/{client},", "--ca <FILE>", "--json"]
            {
                assert!(help.contains(words), "{words}: {help}");
            }
            for flag in ["--data", "--server <", "--token-file", "--registry"] {
                assert!(!help.contains(flag), "{flag}: {help}");
            }
            scenarios += 1;
        }
        assert_eq!(scenarios, 7);
        // Taken all the same, as before and after every verb.
        let words = "drawbridge --data core bench fan-in --registry plant --target a:1";
        let common = Cli::try_parse_from(words.split(' ')).expect("parses").common;
        assert_eq!((common.data, common.registry.as_str()), (PathBuf::from("core"), "plant"));
        let words = "drawbridge bench fan-in --target a:1";
        let common = Cli::try_parse_from(words.split(' ')).expect("parses").common;
        assert_eq!(
            (common.data, common.registry.as_str()),
            (PathBuf::from(crate::args::DEFAULT_DATA), "default")
        );
    }

    #[test]
    fn the_loads_of_the_budgets_are_the_defaults() {
        let parse = |words: &str| {
            let words =
                ["drawbridge", "bench"].into_iter().chain(words.split(' ')).chain(["--target", "a:1"]);
            let Command::Bench(command) = Cli::try_parse_from(words).expect("parses").command else {
                unreachable!("a scenario")
            };
            command
        };
        let BenchCommand::Pairs(pairs) = parse("pairs") else { unreachable!("pairs") };
        assert_eq!((pairs.pairs, pairs.rate, pairs.shape.payload), (100, 2_000, 64));
        let BenchCommand::Idle(idle) = parse("idle") else { unreachable!("idle") };
        assert_eq!((idle.connections, idle.rest), (5_000, Duration::from_secs(10)));
        let BenchCommand::Filters(filters) = parse("filters") else { unreachable!("filters") };
        assert_eq!(filters.filters, 100_000);
        let BenchCommand::FanIn(fan) = parse("fan-in --keys fleet") else { unreachable!("fan-in") };
        assert_eq!((fan.load.topic(), fan.load.version), ("devices/{id}/events/bench", Version::V311));
    }
}
