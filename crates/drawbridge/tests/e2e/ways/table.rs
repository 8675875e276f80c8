//! The rows and columns of the table, and what `ways-expected.tsv` says of each cell.

use crate::bytes::Version;

/// What is to come of every cell, written by hand.
const EXPECTED: &str = include_str!("../../ways-expected.tsv");

/// A way in, with what the client has to show. Where admission knows one way, clients can come in several: by each
/// form of token, by each kind of certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Password,
    PasswordUnasked,
    DeviceJwt,
    AccessTokenJwt,
    AccessTokenOpaque,
    CertificateRegistered,
    CertificateOfCa,
    CertificateSelfSigned,
    CertificateUnasked,
    CertificateAndOwnJwt,
    CertificateAndOtherJwt,
    RawKey,
    AceExporter,
    AceChallenge,
    AceStored,
    AceStoredAsked,
    AceUnasked,
    AceUserName,
    OauthJwt,
    CustomJwt,
    OtherMethod,
    AuthzInfo,
    AuthzInfoCertificate,
    AuthzInfoRawKey,
    Anonymous,
    AnonymousAsked,
}

impl By {
    /// All of them, and the way of admission that each is.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 26] = [
        (Self::Password, "password", "password"),
        (Self::PasswordUnasked, "password-unasked", "password"),
        (Self::DeviceJwt, "device-jwt", "device-jwt"),
        (Self::AccessTokenJwt, "access-token-jwt", "access-token"),
        (Self::AccessTokenOpaque, "access-token-opaque", "access-token"),
        (Self::CertificateRegistered, "certificate-registered", "certificate"),
        (Self::CertificateOfCa, "certificate-of-ca", "certificate"),
        (Self::CertificateSelfSigned, "certificate-self-signed", "certificate"),
        (Self::CertificateUnasked, "certificate-unasked", "certificate"),
        (Self::CertificateAndOwnJwt, "certificate-and-own-jwt", "device-jwt"),
        (Self::CertificateAndOtherJwt, "certificate-and-other-jwt", "device-jwt"),
        (Self::RawKey, "raw-key", "raw-key"),
        (Self::AceExporter, "ace-exporter", "ace"),
        (Self::AceChallenge, "ace-challenge", "ace"),
        (Self::AceStored, "ace-stored", "ace"),
        (Self::AceStoredAsked, "ace-stored-asked", "ace"),
        (Self::AceUnasked, "ace-unasked", "ace"),
        (Self::AceUserName, "ace-user-name", "ace-user-name"),
        (Self::OauthJwt, "oauth2-jwt", "token-method"),
        (Self::CustomJwt, "custom-jwt", "token-method"),
        (Self::OtherMethod, "other-method", "token-method"),
        (Self::AuthzInfo, "authz-info", "authz-info"),
        (Self::AuthzInfoCertificate, "authz-info-certificate", "authz-info"),
        (Self::AuthzInfoRawKey, "authz-info-raw-key", "authz-info"),
        (Self::Anonymous, "anonymous", "anonymous"),
        (Self::AnonymousAsked, "anonymous-asked", "anonymous"),
    ];

    /// As in the file.
    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(by, ..)| *by == self).expect("all are there").1
    }
}

/// What is wrong with what the client shows, if something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Good,
    Expired,
    WrongKey,
    WrongAudience,
    Revoked,
    Blocked,
    OtherClientId,
    Plaintext,
}

impl Case {
    pub(crate) const ALL: [(Self, &'static str); 8] = [
        (Self::Good, "good"),
        (Self::Expired, "expired"),
        (Self::WrongKey, "wrong-key"),
        (Self::WrongAudience, "wrong-audience"),
        (Self::Revoked, "revoked"),
        (Self::Blocked, "blocked"),
        (Self::OtherClientId, "other-client-id"),
        (Self::Plaintext, "plaintext"),
    ];

    /// As in the file.
    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(case, _)| *case == self).expect("all are there").1
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    V12,
    V13,
}

/// One place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) by: By,
    pub(crate) tls: Tls,
    pub(crate) mqtt: Version,
    pub(crate) case: Case,
}

impl Cell {
    /// The whole product.
    pub(crate) fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for (by, ..) in By::ALL {
            for (case, _) in Case::ALL {
                for tls in [Tls::V12, Tls::V13] {
                    for mqtt in [Version::V311, Version::V5] {
                        cells.push(Self { by, tls, mqtt, case });
                    }
                }
            }
        }
        cells
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tls = if self.tls == Tls::V12 { "1.2" } else { "1.3" };
        let mqtt = if self.mqtt == Version::V311 { "3.1.1" } else { "5" };
        write!(f, "{} TLS {tls} MQTT {mqtt} {}", self.by.word(), self.case.word())
    }
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// CONNACK of success, and PINGREQ is answered.
    Accepted,
    /// CONNACK with another code, and the connection is closed.
    Refused,
    /// TLS does not come about.
    Handshake,
    /// There is no such thing.
    NotApplicable,
}

/// One line of the file.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) line: usize,
    by: By,
    tls: Option<Tls>,
    mqtt: Option<Version>,
    case: Case,
    pub(crate) outcome: Outcome,
    /// Of CONNACK in 3.1.1 and in 5.
    codes: [Option<u8>; 2],
    /// Code and reason in the log; `("connected", "")` of who is let in.
    pub(crate) log: Option<(String, String)>,
}

impl Row {
    /// Of CONNACK.
    pub(crate) fn code(&self, mqtt: Version) -> Option<u8> {
        self.codes[usize::from(mqtt == Version::V5)]
    }

    fn is_for(&self, cell: &Cell) -> bool {
        self.by == cell.by
            && self.case == cell.case
            && self.tls.is_none_or(|tls| tls == cell.tls)
            && self.mqtt.is_none_or(|mqtt| mqtt == cell.mqtt)
    }
}

/// The file; or every line of it that cannot be read.
pub(crate) fn expected() -> Result<Vec<Row>, Vec<String>> {
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for (at, text) in EXPECTED.lines().enumerate() {
        if text.starts_with('#') || text.trim().is_empty() {
            continue;
        }
        let columns: Vec<&str> = text.split('\t').map(str::trim).collect();
        match row(at + 1, &columns) {
            Some(row) => rows.push(row),
            None => faults.push(format!("line {}: {columns:?}", at + 1)),
        }
    }
    if faults.is_empty() { Ok(rows) } else { Err(faults) }
}

fn row(line: usize, columns: &[&str]) -> Option<Row> {
    let [by, tls, mqtt, case, outcome, codes, log, source] = columns else { return None };
    if source.is_empty() {
        return None;
    }
    let mqtt = match *mqtt {
        "*" => None,
        "3.1.1" => Some(Version::V311),
        "5" => Some(Version::V5),
        _ => return None,
    };
    let outcome = match *outcome {
        "accepted" => Outcome::Accepted,
        "refused" => Outcome::Refused,
        "handshake" => Outcome::Handshake,
        "n/a" => Outcome::NotApplicable,
        _ => return None,
    };
    // `5/0x87`: of 3.1.1 and of 5; one alone where the row is for one version, or where both say the same.
    let codes = match (*codes, codes.split_once('/')) {
        ("-", _) => [None; 2],
        (_, Some((old, new))) if mqtt.is_none() => [Some(number(old)?), Some(number(new)?)],
        (_, Some(_)) => return None,
        (one, None) => [Some(number(one)?); 2],
    };
    let log = match *log {
        "-" => None,
        "connected" => Some(("connected".to_owned(), String::new())),
        both => both.split_once(' ').map(|(code, reason)| (code.to_owned(), reason.trim().to_owned())),
    };
    let says = (codes[0].is_some(), log.is_some());
    let wanted = match outcome {
        Outcome::Accepted | Outcome::Refused => (true, true),
        Outcome::Handshake => (false, true),
        Outcome::NotApplicable => (false, false),
    };
    let refuses = codes[0].is_some_and(|code| code != 0);
    if says != wanted || refuses != (outcome == Outcome::Refused) {
        return None;
    }
    Some(Row {
        line,
        by: By::ALL.iter().find(|(_, word, _)| word == by)?.0,
        tls: match *tls {
            "*" => None,
            "1.2" => Some(Tls::V12),
            "1.3" => Some(Tls::V13),
            _ => return None,
        },
        mqtt,
        case: Case::ALL.iter().find(|(_, word)| word == case)?.0,
        outcome,
        codes,
        log,
    })
}

fn number(text: &str) -> Option<u8> {
    match text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Each cell with its row, in the order of [`Cell::all`]; or every cell without one or with two, and every row without
/// a cell.
pub(crate) fn matched(rows: &[Row]) -> Result<Vec<(Cell, &Row)>, Vec<String>> {
    let (mut matched, mut faults) = (Vec::new(), Vec::new());
    let mut used = vec![false; rows.len()];
    for cell in Cell::all() {
        let mut found = rows.iter().enumerate().filter(|(_, row)| row.is_for(&cell));
        match (found.next(), found.next()) {
            (Some((at, row)), None) => {
                used[at] = true;
                matched.push((cell, row));
            }
            (None, _) => faults.push(format!("no row for {cell}")),
            (Some((_, one)), Some((_, other))) => {
                faults.push(format!("two rows for {cell}: lines {} and {}", one.line, other.line));
            }
        }
    }
    let idle = rows.iter().zip(used).filter(|(_, used)| !used);
    faults.extend(idle.map(|(row, _)| format!("line {} is for no cell", row.line)));
    if faults.is_empty() { Ok(matched) } else { Err(faults) }
}
