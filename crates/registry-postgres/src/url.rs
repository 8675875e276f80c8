//! The URL of the database: how to reach it, and whether the way must be encrypted.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_registry::StoreError;
use rustls::ClientConfig;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::tls;

/// For one address; a name may have several.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// What was sent and not acknowledged for so long ends the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// Connections of a process unless the URL says otherwise.
const CONNECTIONS: usize = 16;

/// One for changes, one for lists, and two that are free for lookups.
const CONNECTIONS_MIN: usize = 4;
const CONNECTIONS_MAX: usize = 500;

/// The parameters taken; the rest of PostgreSQL's own would change what this store relies on.
const PARAMETERS: &str =
    "`host`, `port`, `user`, `password`, `dbname`, `sslmode`, `sslrootcert` and `connections`";

/// A database and the way to it. Its `Debug` has no password.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) config: Config,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) connections_max: usize,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("hosts", &self.config.get_hosts())
            .field("database", &self.config.get_dbname())
            .field("user", &self.config.get_user())
            .field("encrypted", &self.tls.is_some())
            .field("connections_max", &self.connections_max)
            .finish_non_exhaustive()
    }
}

impl Target {
    /// Where the database is, for those who read errors.
    pub(crate) fn place(&self) -> String {
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(folder) => folder.display().to_string(),
        };
        let hosts: Vec<String> = self.config.get_hosts().iter().map(host).collect();
        let ports: Vec<String> = self.config.get_ports().iter().map(u16::to_string).collect();
        let ports = if ports.is_empty() { "5432".to_owned() } else { ports.join(",") };
        format!("{} port {ports}", hosts.join(","))
    }

    /// Reads `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?PARAMETER=VALUE&...]`.
    ///
    /// `sslmode=disable` is plain text. `require`, `verify-ca` and `verify-full` are TLS with the name
    /// and the certificate verified against the PEM file `sslrootcert`; there is no TLS that trusts
    /// anybody. Without `sslmode`, or with `prefer`, a Unix socket and a loopback address may be plain
    /// text, and all else is as `require`.
    pub(crate) fn parse(url: &str, writer: &str) -> Result<Self, StoreError> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let Some(rest) = rest else {
            return Err(refused("it does not begin with `postgres://`"));
        };
        if rest.contains('#') {
            return Err(refused("it has a `#`"));
        }
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        if query.contains('@') {
            // Otherwise a part of a password might be taken for a parameter, and be shown.
            return Err(refused("it has an `@` after a `?`"));
        }
        let (mut mode, mut roots, mut connections_max) = (None, None, CONNECTIONS);
        let mut kept = form_urlencoded::Serializer::new(String::new());
        // In a URL of PostgreSQL a `+` is a plus.
        for (name, value) in form_urlencoded::parse(query.replace('+', "%2B").as_bytes()) {
            match &*name {
                "sslmode" => mode = Some(Mode::parse(&value)?),
                "sslrootcert" => roots = Some(value.into_owned()),
                "connections" => connections_max = parse_connections(&value)?,
                "host" | "port" | "user" | "password" | "dbname" => {
                    kept.append_pair(&name, &value);
                }
                _ => return Err(refused(&format!("it has the parameter `{name}`, taken are {PARAMETERS}"))),
            }
        }
        let kept = kept.finish().replace('+', "%20");
        let place = if kept.is_empty() { place.to_owned() } else { format!("{place}?{kept}") };
        // Its errors may show what stands in the URL, the password among it.
        let mut config: Config = place.parse().map_err(|_| refused("it cannot be read"))?;
        for (what, there) in [
            ("host", !config.get_hosts().is_empty()),
            ("user", config.get_user().is_some_and(|user| !user.is_empty())),
            ("database", config.get_dbname().is_some_and(|database| !database.is_empty())),
        ] {
            if !there {
                return Err(refused(&format!("it names no {what}")));
            }
        }
        let tls = judge_mode(mode, roots.as_deref(), config.get_hosts())?;
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        config.connect_timeout(CONNECT_MAX);
        config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
        config.keepalives_idle(Duration::from_secs(30));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3);
        // A standby could answer lookups, but out of date: a revoked device would get in.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.application_name(format!("drawbridge {writer}"));
        Ok(Self { config, tls, connections_max })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
}

impl Mode {
    fn parse(word: &str) -> Result<Self, StoreError> {
        match word {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" | "verify-ca" | "verify-full" => Ok(Self::Require),
            _ => Err(refused("its `sslmode` is none of `disable`, `prefer`, `require`, `verify-full`")),
        }
    }
}

/// The settings of TLS, or none for plain text.
fn judge_mode(
    mode: Option<Mode>,
    roots: Option<&str>,
    hosts: &[Host],
) -> Result<Option<Arc<ClientConfig>>, StoreError> {
    let all_local = hosts.iter().all(is_local);
    let has_socket = hosts.iter().any(|host| !matches!(host, Host::Tcp(_)));
    let plain = match mode.unwrap_or(Mode::Prefer) {
        Mode::Disable => true,
        Mode::Prefer => all_local && (roots.is_none() || has_socket),
        Mode::Require => false,
    };
    if plain {
        return Ok(None);
    }
    if has_socket {
        return Err(refused("there is no TLS over a Unix socket; leave `sslmode` out"));
    }
    let Some(roots) = roots else {
        return Err(refused(
            "the database is on another machine, so the way there must be encrypted: add \
             `sslrootcert=FILE` with the certificate (PEM) of the authority that signed the server's, or \
             `sslmode=disable` if the network between is yours alone",
        ));
    };
    tls::settings(Path::new(roots)).map(Some)
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

fn parse_connections(text: &str) -> Result<usize, StoreError> {
    let number = text.parse().ok().filter(|number| (CONNECTIONS_MIN..=CONNECTIONS_MAX).contains(number));
    number.ok_or_else(|| {
        refused(&format!("its `connections` is not a number from {CONNECTIONS_MIN} to {CONNECTIONS_MAX}"))
    })
}

/// Never shows the URL: it has a password.
fn refused(why: &str) -> StoreError {
    StoreError::Address(format!(
        "{why}. Wanted: postgres://USER:PASSWORD@HOST:PORT/DATABASE with `@`, `:`, `/`, `?`, `#` and `%` in \
         names and password written as %40, %3A, %2F, %3F, %23 and %25"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_how_to_reach_the_database_and_whether_in_plain_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        let made = rcgen::generate_simple_self_signed(vec!["db.example".into()]).expect("a certificate");
        std::fs::write(&ca, made.cert.pem()).expect("written");
        let ca = ca.to_str().expect("is text");
        let with = |rest: &str| format!("postgres://u:sesame@{}", rest.replace("CA", ca));
        for (rest, encrypted) in [
            ("127.0.0.1:5432/d", Some(false)),
            ("127.9.9.9/d", Some(false)),
            ("[::1]/d", Some(false)),
            ("localhost/d?sslmode=prefer", Some(false)),
            ("%2Frun%2Fpostgresql/d", Some(false)),
            ("/d?host=/run/postgresql", Some(false)),
            ("localhost/d?sslrootcert=CA", Some(true)),
            ("localhost/d?sslmode=require&sslrootcert=CA", Some(true)),
            ("localhost/d?sslmode=require", None),
            ("db.example/d", None),
            ("db.example/d?sslmode=prefer", None),
            ("db.example/d?sslmode=require", None),
            ("db.example/d?sslmode=verify-full&sslrootcert=CA", Some(true)),
            ("db.example/d?sslrootcert=CA", Some(true)),
            ("db.example/d?sslrootcert=/no/such/file", None),
            ("db.example/d?sslmode=disable", Some(false)),
            ("db.example/d?sslmode=allow&sslrootcert=CA", None),
            ("10.0.0.1/d", None),
            ("localhost,db.example/d", None),
            ("localhost,db.example/d?sslrootcert=CA", Some(true)),
            ("%2Frun%2Fpostgresql/d?sslmode=require&sslrootcert=CA", None),
        ] {
            let target = Target::parse(&with(rest), "w");
            let got = target.as_ref().ok().map(|target| target.tls.is_some());
            assert_eq!(got, encrypted, "{rest}: {target:?}");
            assert!(!format!("{target:?}").contains("sesame"), "{rest}: the password is shown");
        }
    }

    #[test]
    fn no_error_shows_any_part_of_a_password() {
        for url in [
            "postgres://u:sesame",
            "postgres://u:se?same=1@h/d",
            "postgres://u:se?sa@me=1@h/d",
            "postgres://u:se#same@h/d",
            "postgres://u:ses%zzame@h/d",
            "postgres://u:sesame@/d",
            "postgres://u:sesame@h",
            "postgres://u:sesame@h:port/d",
            "postgres://u:sesame@localhost/d?options=-c",
            "postgres://u:sesame@localhost/d?connections=3",
            "postgres://:sesame@localhost/d",
            "mysql://u:sesame@h/d",
            "sesame",
            "",
        ] {
            let error = Target::parse(url, "w").expect_err(url);
            let shown = format!("{error} {error:?}");
            for part in ["sesame", "same", "ses"] {
                assert!(!shown.contains(part), "{url}: {shown}");
            }
            assert!(shown.contains("postgres://USER:PASSWORD@HOST:PORT/DATABASE"), "{shown}");
        }
    }

    #[test]
    fn parts_of_the_url_arrive_decoded() {
        let url = "postgres://us%40er:p%2Fw@127.0.0.1:6000/d%20b?connections=7";
        let target = Target::parse(url, "one").expect("is read");
        assert_eq!(target.config.get_user(), Some("us@er"));
        assert_eq!(target.config.get_password(), Some(b"p/w".as_slice()));
        assert_eq!(target.config.get_dbname(), Some("d b"));
        assert_eq!(target.config.get_ports(), [6000]);
        assert_eq!(target.config.get_application_name(), Some("drawbridge one"));
        assert_eq!(target.connections_max, 7);
        let by_parameter = Target::parse("postgres:///?host=/tmp/a+b&user=u&dbname=d&password=x+y", "w");
        let by_parameter = by_parameter.expect("is read");
        assert_eq!(by_parameter.config.get_password(), Some(b"x+y".as_slice()));
        assert_eq!(by_parameter.config.get_hosts(), [Host::Unix("/tmp/a+b".into())]);
    }
}
