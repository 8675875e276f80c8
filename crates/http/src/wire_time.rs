//! Times in `/v1`: RFC 3339, UTC.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since 1970-01-01 UTC, as RFC 3339.
pub(crate) fn from_s(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
}

/// The seconds since 1970-01-01 UTC of a time in RFC 3339, fractions dropped; `None`: it is none, or before.
pub(crate) fn to_s(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp()).ok()
}

/// Milliseconds since 1970-01-01 UTC, as RFC 3339 with three decimals.
pub(crate) fn from_ms(milliseconds: u64) -> String {
    let whole = from_s(milliseconds / 1000);
    let whole = whole.trim_end_matches('Z');
    format!("{whole}.{:03}Z", milliseconds % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(from_s(1_795_301_000), "2026-11-21T22:43:20Z");
        assert_eq!(from_ms(1_795_301_000_007), "2026-11-21T22:43:20.007Z");
        assert_eq!(from_s(u64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(to_s("2026-11-21T22:43:20Z"), Some(1_795_301_000));
        assert_eq!(to_s("2026-11-21T23:43:20.9+01:00"), Some(1_795_301_000));
        for bad in ["", "tomorrow", "2026-11-21", "2026-11-21T22:43:20", "1969-12-31T23:59:59Z", "1795301000"]
        {
            assert_eq!(to_s(bad), None, "{bad}");
        }
    }
}
