//! Strict compact JWS: parse, verify, sign (RFC 7515 to 7518), and the keys it needs.
