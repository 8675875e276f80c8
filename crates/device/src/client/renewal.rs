//! When a credential is renewed, and what the server says to it.

use std::time::Duration;

use serde_json::Value;

use crate::backoff::share;

/// Where a new token is published.
pub(crate) const AUTH_TOPIC: &str = "$drawbridge/auth";
/// Where the server says what became of it.
pub(crate) const RESULT_TOPIC: &str = "$drawbridge/auth/result";
/// Where the server says the nonce that the next JWT of ours may carry.
pub(crate) const NONCE_TOPIC: &str = "$drawbridge/auth/nonce";
/// So long is a nonce used; the server takes it for 60 s.
pub(crate) const NONCE_LIFE: Duration = Duration::from_secs(45);
/// How long a nonce may take to come.
pub(crate) const NONCE_ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long the server may take to answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Least between two attempts, unless the credential ends before: the server takes one in 10 s.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How long the result may come behind the PUBACK that refuses.
pub(crate) const RESULT_BESIDE_MAX: Duration = Duration::from_secs(1);
/// The same behind a refusal that told the time: the server takes one in 1 s.
pub(crate) const AGAIN_AFTER_TIME: Duration = Duration::from_millis(1100);

/// So long after it was made is a credential with this life renewed: after 7/10 of it, and up to 1/10 later, so
/// that a fleet that connected in one minute does not renew in one. Tokens count in whole seconds, and one of them may
/// be over already.
pub(crate) fn renew_after(life: Duration, random: u64) -> Duration {
    let second = Duration::from_secs(1);
    let life = if life > 2 * second { life - second } else { life };
    // Not sooner than the server takes it, however short the life is.
    (life * 7 / 10 + share(life / 10, random)).max(AGAIN_AFTER_TIME.min(life))
}

/// So long after a failed attempt comes the next, if the credential is good for `left` still.
pub(crate) fn again_after(left: Duration, random: u64) -> Duration {
    let wait = AGAIN_AFTER + share(AGAIN_AFTER, random);
    // Twice in what is left is better than once too late.
    wait.min(left / 2).max(Duration::from_secs(1))
}

/// What the server says on [`RESULT_TOPIC`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Renewed {
    /// How long the new credential is good, in seconds.
    pub(crate) life_s: Option<u64>,
    /// Filters that it has cut.
    pub(crate) removed: Vec<String>,
}

/// Why a renewal did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotRenewed {
    pub(crate) why: String,
    /// The server's time, in seconds since 1970-01-01 UTC: it was refused for the time.
    pub(crate) server_time_s: Option<u64>,
}

impl From<String> for NotRenewed {
    fn from(why: String) -> Self {
        Self { why, server_time_s: None }
    }
}

/// Reads the result.
pub(crate) fn read_result(payload: &[u8]) -> Result<Renewed, NotRenewed> {
    let json: Value = serde_json::from_slice(payload).unwrap_or(Value::Null);
    match json["ok"].as_bool() {
        Some(true) => {
            let filters = json["removed"].as_array().map(Vec::as_slice).unwrap_or_default();
            let removed = filters.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            Ok(Renewed { life_s: json["expires_in"].as_u64(), removed })
        }
        Some(false) => Err(NotRenewed {
            why: json["error"].as_str().unwrap_or("the server gives no reason").to_owned(),
            server_time_s: json["time"].as_u64(),
        }),
        None => Err("the server answers the renewal with something else than a result".to_owned().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_renewed_between_7_and_8_tenths_of_its_life() {
        for life_s in [3, 60, 3600, 86_400] {
            let told = Duration::from_secs(life_s);
            let life = told - Duration::from_secs(1);
            for random in [0, 1 << 63, u64::MAX] {
                let after = renew_after(told, random);
                assert!(after >= life * 7 / 10 && after <= life * 8 / 10, "{after:?} of {life:?}");
            }
        }
        assert_eq!(renew_after(Duration::from_secs(1), 0), Duration::from_secs(1), "once in 1 s");
        assert!(renew_after(Duration::from_millis(400), u64::MAX) <= Duration::from_millis(400));
        assert!(renew_after(Duration::from_secs(101), 1 << 63) > Duration::from_secs(74), "jitter is used");
    }

    #[test]
    fn a_failed_renewal_is_tried_again_before_the_credential_ends() {
        assert!(again_after(Duration::from_secs(3600), 0) >= Duration::from_secs(10));
        assert!(again_after(Duration::from_secs(3600), u64::MAX) <= Duration::from_secs(20));
        assert_eq!(again_after(Duration::from_secs(6), u64::MAX), Duration::from_secs(3));
        assert_eq!(again_after(Duration::ZERO, 0), Duration::from_secs(1));
    }

    #[test]
    fn results_are_read_and_anything_else_is_a_failure() {
        let good = read_result(br#"{"ok":true,"exp":1800000000,"expires_in":900,"removed":["a/#"]}"#);
        assert_eq!(good, Ok(Renewed { life_s: Some(900), removed: vec!["a/#".to_owned()] }));
        assert_eq!(read_result(br#"{"ok":true}"#), Ok(Renewed { life_s: None, removed: vec![] }));
        let refused = |why: &str, server_time_s| Err(NotRenewed { why: why.to_owned(), server_time_s });
        assert_eq!(read_result(br#"{"ok":false,"error":"too-often"}"#), refused("too-often", None));
        assert_eq!(
            read_result(br#"{"ok":false,"error":"not-authorized","time":1800000000}"#),
            refused("not-authorized", Some(1_800_000_000))
        );
        for other in [&b""[..], b"[]", b"{}", br#"{"ok":1}"#] {
            assert!(read_result(other).is_err(), "{other:?}");
        }
    }
}
