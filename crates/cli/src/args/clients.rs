//! `pub`, `sub`, `device run`, and how they log in.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};

/// How `pub`, `sub` and `device run` log in: by a JWT signed with the identity's key, unless told otherwise.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Identity folder (key.pem, ca.pem, device.json)
    #[arg(long = "as", alias = "identity", value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// Where MQTT over TLS is [default: as the identity or the data folder says]
    #[arg(long, value_name = "HOST:PORT")]
    pub mqtts: Option<String>,
    /// MQTT client id [default: the name, and what the command does]
    #[arg(short = 'i', long = "id", value_name = "ID")]
    pub client_id: Option<String>,
    /// MQTT version
    #[arg(short = 'V', long, value_name = "VERSION", default_value = "5")]
    pub mqtt_version: MqttVersion,
    /// What is presented instead; a token comes from --token-file FILE, else the identity's key makes or gets it
    #[arg(long, value_name = "METHOD")]
    pub method: Option<LoginMethod>,
    /// User name of a login by password [default: the client id]
    #[arg(short = 'u', long, value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// File with the password, one line
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Client certificate (PEM), with those that lead to its root
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Private key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Show a self-signed certificate of the identity's key
    #[arg(long, conflicts_with = "cert")]
    pub self_signed: bool,
    /// Raw public keys instead of certificates (RFC 7250): the server's is in this file (`raw-key.pub.pem` of its data
    /// folder), the identity's is shown
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cert", "self_signed", "ws", "tls_1_2"])]
    pub raw_key: Option<PathBuf>,
    /// A JWT that it signs is good for its TLS connection alone (claim `cb`)
    #[arg(long)]
    pub bound: bool,
    /// With a method of RFC 9431: prove by a symmetric key that the server makes (HS256)
    #[arg(long, requires = "method")]
    pub symmetric: bool,
    /// Over WebSocket
    #[arg(long)]
    pub ws: bool,
    /// Life of the JWTs that it signs, in seconds; a new one renews the session before
    #[arg(long = "life-s", value_name = "SECONDS", default_value_t = 3600, value_parser = value_parser!(u64).range(1..=86_400))]
    pub life_s: u64,
    /// Keep alive, in seconds; 0 for none
    #[arg(short = 'k', long = "keepalive", value_name = "SECONDS", default_value_t = 60)]
    pub keep_alive_s: u16,
    /// TLS 1.2 and no other
    #[arg(long = "tls-1-2")]
    pub tls_1_2: bool,
}

/// The versions of MQTT, as mosquitto's clients name them and shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MqttVersion {
    /// MQTT 3.1.1
    #[value(name = "3.1.1", alias = "311", alias = "mqttv311")]
    V311,
    /// MQTT 5
    #[value(name = "5", alias = "mqttv5")]
    V5,
}

/// What a client presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoginMethod {
    /// A token as the password: the one of --token-file, or a JWT that the identity's key signs
    Token,
    /// An access token as the password, fetched over HTTPS: needs no clock
    AccessToken,
    /// RFC 9431 with a bound access token, proven by what TLS exports
    Ace,
    /// RFC 9431 with a bound access token, proven by a challenge
    AceChallenge,
    /// The token as data of the Authentication Method OAUTH2-JWT
    #[value(name = "OAUTH2-JWT", alias = "oauth2-jwt")]
    Oauth2Jwt,
    /// The token as data of the Authentication Method CUSTOM-JWT
    #[value(name = "CUSTOM-JWT", alias = "custom-jwt")]
    CustomJwt,
    /// Nothing but the certificate of --cert or --self-signed
    Certificate,
}

/// `drawbridge pub`.
#[derive(Debug, Args)]
pub struct PubArgs {
    /// Topic
    pub topic: Option<String>,
    /// Payload, as text
    pub payload: Option<String>,
    /// Topic, as mosquitto_pub takes it
    #[arg(short = 't', long = "topic", value_name = "TOPIC")]
    pub topic_flag: Option<String>,
    /// Payload, as text
    #[arg(short = 'm', long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: Option<String>,
    /// Payload: all of a file
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A message for each line of standard input
    #[arg(short = 'l', long)]
    pub stdin_line: bool,
    /// Payload: all of standard input
    #[arg(short = 's', long)]
    pub stdin_file: bool,
    /// No payload; with -r it clears the retained message
    #[arg(short = 'n', long)]
    pub null_message: bool,
    /// QoS
    #[arg(short = 'q', long, default_value_t = 1, value_parser = value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Keep it as the retained message of the topic
    #[arg(short = 'r', long)]
    pub retain: bool,
    /// How it logs in.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `drawbridge sub`.
#[derive(Debug, Args)]
pub struct SubArgs {
    /// Topic filter
    pub filter: Option<String>,
    /// A further topic filter; may be repeated
    #[arg(short = 't', long = "topic", value_name = "FILTER")]
    pub topics: Vec<String>,
    /// Highest QoS
    #[arg(short = 'q', long, default_value_t = 1, value_parser = value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Stop after so many messages; 0 runs until stopped
    #[arg(short = 'C', long, default_value_t = 0)]
    pub count: u64,
    /// Stop when nothing came for so many seconds
    #[arg(short = 'W', long = "wait-s", value_name = "SECONDS")]
    pub wait_s: Option<u64>,
    /// Let the server keep the session for so long, and take up the one that is kept
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub session_expiry_s: u32,
    /// How it logs in.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `drawbridge device run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The device
    pub id: String,
    /// Stop after so many reports; 0 runs until stopped
    #[arg(long, default_value_t = 0)]
    pub count: u64,
    /// Seconds between reports
    #[arg(long, default_value_t = 5)]
    pub every: u64,
    /// Report the lines of standard input instead, to their end; `/state TEXT` reports a state
    #[arg(short = 'l', long)]
    pub stdin_line: bool,
    /// How it logs in.
    #[command(flatten)]
    pub client: ClientArgs,
}
