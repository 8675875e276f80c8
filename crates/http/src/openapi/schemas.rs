//! What stands in bodies and parameters.

use drawbridge_admission::{ApiWord, Way};
use drawbridge_names::{KeyId, PolicyName, PrincipalName, RegistryName};
use drawbridge_registry::Role;
use serde_json::{Map, Value, json};

/// A schema of [`all`] by its name.
pub(super) fn of(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// A body that is not described: its RFC does.
pub(super) fn bytes() -> Value {
    json!({ "type": "string", "format": "binary" })
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

pub(super) fn limit() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": 1000 })
}

pub(super) fn words(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

pub(super) fn count(minimum: u64) -> Value {
    json!({ "type": "integer", "minimum": minimum })
}

/// The schema of a part of a path, and what it names.
pub(super) fn path_part(path: &str, part: &str) -> (Value, &'static str) {
    match part {
        "kid" => (of("KeyId"), "The key: its RFC 7638 thumbprint."),
        "device" => (of("PrincipalName"), "The device."),
        "name" => (of("RegistryName"), "The registry of this path; others are asked under their own issuer."),
        "fingerprint" => (
            json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" }),
            "SHA-256 of the certificate in hex digits; colons between them are ignored.",
        ),
        _ if path.starts_with("/v1/policies") => (of("PolicyName"), "The policy."),
        _ if path.starts_with("/v1/enrolments") => {
            (text(), "The id of the enrolment; where devices are listed, `-` for any.")
        }
        _ if path.starts_with("/v1/applications") => (of("PrincipalName"), "The application."),
        _ if path.starts_with("/v1/gateways") => (of("PrincipalName"), "The gateway."),
        _ if path.starts_with("/v1/principals") => (of("PrincipalName"), "The device or application."),
        _ => (of("PrincipalName"), "The device."),
    }
}

fn pattern(first: &str, rest: &str, bytes_max: usize) -> Value {
    json!({ "type": "string", "pattern": format!("^{first}{rest}{{0,{}}}$", bytes_max - 1) })
}

fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

fn or_null(mut schema: Value) -> Value {
    let description = schema.as_object_mut().and_then(|members| members.remove("description"));
    let mut schema = json!({ "anyOf": [schema, { "type": "null" }] });
    if let Some(description) = description {
        schema["description"] = description;
    }
    schema
}

fn list(schema: Value) -> Value {
    json!({ "type": "array", "items": schema })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn label() -> Value {
    json!({ "type": "string", "pattern": "^[ -~]{1,128}$" })
}

fn texts() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}

fn said(mut schema: Value, description: &str) -> Value {
    schema["description"] = json!(description);
    schema
}

/// What we answer: all members are there, but for those in `sometimes`.
fn answer(members: Value, sometimes: &[&str]) -> Value {
    let names = members.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let required: Vec<&str> = names.filter(|name| !sometimes.contains(name)).collect();
    json!({ "type": "object", "required": required, "properties": members })
}

/// What we are sent: no further members. One that is not required may be `null` as well, but for the
/// `solid` ones; without a description of its own that is the same as leaving it out.
fn body(required: &[&str], solid: &[&str], members: Value) -> Value {
    let mut schema = json!({ "type": "object", "required": required, "additionalProperties": false });
    let members = members.as_object().into_iter().flatten().map(|(name, schema)| {
        let fixed = required.contains(&name.as_str()) || solid.contains(&name.as_str());
        (name.clone(), if fixed { schema.clone() } else { or_null(schema.clone()) })
    });
    schema["properties"] = Value::Object(members.collect());
    schema
}

/// Exactly one of these members, each with its type, is there and not `null`.
fn exactly_one(mut schema: Value, members: &[(&str, &str)]) -> Value {
    let branch = |(name, kind): &(&str, &str)| json!({ "required": [name], "properties": { *name: { "type": kind } } });
    schema["oneOf"] = members.iter().map(branch).collect();
    schema
}

/// An object that may say more than is described here: by its standard, or by who sent it.
fn open(required: &[&str], members: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": members, "additionalProperties": true })
}

fn page(items: Value) -> Value {
    answer(
        json!({ "items": list(items), "next_cursor": said(or_null(text()), "For the next page; `null` on the last.") }),
        &[],
    )
}

fn items(items: Value) -> Value {
    answer(json!({ "items": list(items) }), &[])
}

/// Every schema that has a name.
pub(super) fn all() -> Value {
    let mut schemas = Map::new();
    for part in [names(), errors(), oauth(), keys(), principals(), enrolments(), control(), registries()] {
        if let Value::Object(part) = part {
            schemas.extend(part);
        }
    }
    Value::Object(schemas)
}

fn names() -> Value {
    json!({
        "PrincipalName": said(
            pattern("[A-Za-z0-9]", "[A-Za-z0-9._~%-]", PrincipalName::BYTES_MAX),
            "A device or application. All of a registry share one namespace.",
        ),
        "PolicyName": pattern("[A-Za-z0-9]", "[A-Za-z0-9._-]", PolicyName::BYTES_MAX),
        "RegistryName": pattern("[a-z0-9]", "[a-z0-9-]", RegistryName::BYTES_MAX),
        "KeyId": said(
            json!({ "type": "string", "pattern": format!("^[A-Za-z0-9_-]{{1,{}}}$", KeyId::BYTES_MAX) }),
            "A key's RFC 7638 SHA-256 thumbprint.",
        ),
        "Role": words(&Role::ALL.map(Role::as_str)),
        "ClockTrust": said(words(&["none", "coarse", "good"]), "What the clock of a device is worth."),
        "TokenFormat": words(&["at+jwt", "opaque"]),
        "Way": said(words(&Way::ALL.map(Way::as_str)), "A way into MQTT."),
        "IssuerAlgorithm": words(&["ES256", "RS256", "EdDSA"]),
    })
}

fn errors() -> Value {
    let code = || {
        said(json!({ "type": "string", "pattern": "^DB-[0-9]{4}$" }), "Stable; the list is docs/errors.md.")
    };
    let server_time = || said(count(0), "Seconds since 1970-01-01 UTC, for who has a wrong clock.");
    let nonce = || said(text(), "For the next try.");
    json!({
        "Problem": open(&["type", "title", "status", "code", "detail", "request_id"], json!({
            "type": said(json!({ "type": "string", "pattern": "^urn:drawbridge:error:[a-z0-9-]+$" }), "Stable."),
            "title": text(),
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "code": code(),
            "detail": said(text(), "What was found, what was wanted, the mend."),
            "request_id": text(),
            "server_time": server_time(),
            "nonce": nonce(),
            "faults": said(list(text()), "Every fault of a policy."),
            "revision": said(count(0), "The revision that is there."),
            "version": said(count(0), "The version of the config that is there."),
            "topic": text(),
            "rule": said(text(), "Which rule denied it."),
            "reason": said(count(0), "The reason code of the device's PUBACK."),
        })),
        "OAuthError": open(&["error", "error_description", "code"], json!({
            "error": said(text(), "RFC 6749 section 5.2 and its extensions."),
            "error_description": text(),
            "code": code(),
            "server_time": server_time(),
            "nonce": nonce(),
        })),
        "AliasError": answer(json!({
            "error": answer(json!({
                "code": { "type": "integer" }, "status": text(), "request": text(), "message": text(),
            }), &[]),
        }), &[]),
    })
}

fn oauth() -> Value {
    let client = |more: Value| {
        let mut members = json!({
            "client_id": said(text(), "Optional beside an assertion or Basic; needed with a secret or a certificate."),
            "client_secret": said(text(), "`client_secret_post`."),
            "client_assertion_type": words(&["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]),
            "client_assertion": said(text(), "`private_key_jwt`: a JWT by a registered key, `aud` the issuer (RFC 7523)."),
        });
        if let (Value::Object(members), Value::Object(more)) = (&mut members, more) {
            members.extend(more);
        }
        members
    };
    let access_token = || words(&["urn:ietf:params:oauth:token-type:access_token"]);
    let scopes: Vec<&str> = ApiWord::ALL.iter().map(|word| word.as_str()).collect();
    json!({
        "TokenForm": open(&["grant_type"], client(json!({
            "grant_type": words(&["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"]),
            "scope": said(text(), &format!("Words, separated by a space. For the API: {}.", scopes.join(", "))),
            "resource": said(text(), "Who the token is for: the issuer and `/v1`, or `bridge_audience`; without it the bridge (RFC 8707)."),
            "subject_token": said(text(), "Exchange: the token to act by (RFC 8693)."),
            "subject_token_type": access_token(),
            "actor_token": text(),
            "actor_token_type": access_token(),
            "requested_token_type": access_token(),
            "audience": text(),
            "device": said(text(), "Exchange: the device that the gateway acts for."),
        }))),
        "TokenQuestion": open(&["token"], client(json!({ "token": text(), "token_type_hint": text() }))),
        "TokenGrant": answer(json!({
            "access_token": text(),
            "issued_token_type": text(),
            "token_type": words(&["Bearer", "bearer", "DPoP"]),
            "expires_in": said(count(0), "Seconds."),
            "scope": text(),
        }), &["issued_token_type", "scope"]),
        "AceRequest": said(open(&[], client(json!({
            "grant_type": words(&["client_credentials"]),
            "audience": said(text(), "`bridge_audience`, which it is without this too."),
            "scope": said(text(), "AIF-MQTT in JSON, base64url."),
            "req_cnf": said(json!({ "type": "object" }), "`jwk`, or `kid` of a registered key; without it the server makes a symmetric key."),
            "ace_profile": said(words(&["mqtt_tls", ""]), "Empty: the answer shall say it."),
            "cnonce": text(),
        }))), "RFC 9200 section 5.8.1. In CBOR it has the numbers of RFC 9200 section 5.8.5."),
        "AceGrant": answer(json!({
            "access_token": text(),
            "token_type": words(&["PoP"]),
            "expires_in": said(count(0), "Seconds."),
            "scope": text(),
            "ace_profile": words(&["mqtt_tls"]),
            "cnf": said(json!({ "type": "object", "properties": { "jwk": { "type": "object" } }, "additionalProperties": false }), "The symmetric key that was made, told this once."),
            "rs_cnf": said(json!({ "type": "object", "properties": { "jwk": { "type": "object" } }, "additionalProperties": false }), "The public key of the broker."),
        }), &["scope", "ace_profile", "cnf", "rs_cnf"]),
        "Introspection": open(&["active"], json!({
            "active": flag(), "sub": text(), "client_id": text(), "iss": text(), "aud": text(), "iat": count(0),
            "exp": count(0), "jti": text(), "token_type": text(), "scope": text(),
            "cnf": { "type": "object" }, "act": { "type": "object" },
        })),
        "ChallengeForm": json!({
            "type": "object",
            "properties": { "purpose": said(words(&["assertion", "dpop", "enrolment", ""]), "What the nonce is for; `assertion` also for key updates and removals.") },
            "additionalProperties": { "type": "string" },
        }),
        "Challenge": answer(json!({
            "nonce": text(),
            "server_time": said(count(0), "Seconds since 1970-01-01 UTC."),
            "expires_in": said(count(0), "Seconds."),
        }), &[]),
        "Jwk": said(open(&["kty"], json!({
            "kty": text(), "crv": text(), "x": text(), "y": text(), "n": text(), "e": text(), "alg": text(),
            "kid": text(), "use": text(),
        })), "A public key (RFC 7517)."),
        "JwkSet": open(&["keys"], json!({ "keys": list(of("Jwk")) })),
        "Metadata": said(open(
            &["issuer", "token_endpoint", "jwks_uri", "introspection_endpoint", "revocation_endpoint",
              "registration_endpoint", "challenge_endpoint", "time_endpoint", "bridge_audience", "api_audience",
              "response_types_supported", "grant_types_supported"],
            json!({
                "issuer": text(), "token_endpoint": text(), "jwks_uri": text(), "introspection_endpoint": text(),
                "revocation_endpoint": text(), "registration_endpoint": text(),
                "challenge_endpoint": said(text(), "Ours: nonces for devices without a trusted clock."),
                "time_endpoint": said(text(), "Ours: the time, signed."),
                "bridge_audience": said(text(), "Ours: `aud` of tokens for MQTT."),
                "api_audience": said(text(), "Ours: `resource` of tokens for `/v1`."),
                "api_description": said(text(), "Ours: this document."),
                "response_types_supported": list(text()), "grant_types_supported": list(text()),
            }),
        ), "RFC 8414, OpenID Connect Discovery 1.0."),
        "ClientMetadata": said(open(&[], json!({
            "client_id": said(text(), "In `PUT`: the name of this registration."),
            "client_id_hint": said(text(), "The name that the device wants."),
            "jwks": open(&["keys"], json!({ "keys": list(of("Jwk")) })),
            "proof": said(text(), "`key-pop+jwt` by the one key, over the nonce of a challenge."),
            "proofs": said(list(text()), "One by each key."),
            "software_statement": said(text(), "The word of a manufacturer, instead of an enrolment token (RFC 7591 section 2.3)."),
        })), "RFC 7591. Further members are ignored."),
        "ClientInformation": answer(json!({
            "client_id": text(), "client_id_issued_at": count(0), "jwks": of("JwkSet"),
            "token_endpoint_auth_method": text(), "grant_types": list(text()), "response_types": list(text()),
            "registration_access_token": text(), "registration_client_uri": text(),
            "status": said(words(&["active", "pending"]), "`pending`: an operator has to approve it."),
            "registry": of("RegistryName"), "issuer": text(), "bridge_audience": text(),
        }), &[]),
        "AliasForm": said(open(&[], json!({
            "client_id": text(), "scope": text(), "token": text(),
            "pop": said(text(), "base64 of the DER signature by the new key over the JWT in Authorization."),
        })), "A form, or a JSON object of texts."),
        "AliasUpdated": answer(json!({ "Success": text() }), &[]),
        "Health": answer(json!({ "status": words(&["ok"]) }), &[]),
        "TimeQuestion": body(&["nonce"], &[], json!({
            "nonce": said(json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$" }), "New for each question."),
        })),
        "Time": answer(json!({ "time": said(text(), "A JWT by the issuer over the nonce."), "now": time() }), &[]),
    })
}

fn keys() -> Value {
    let new_key = |more: Value| {
        let mut members = json!({
            "jwk": of("Jwk"),
            "pem": said(text(), "A `PUBLIC KEY`."),
            "certificate": said(text(), "An X.509 certificate in PEM: its key, which ends with it unless `expires` says otherwise."),
            "alg": said(words(&["ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256"]), "`PS256` for an RSA key that is to sign with it."),
            "label": label(),
            "not_before": time(),
            "expires": said(time(), "`null`: never, also for a certificate."),
        });
        if let (Value::Object(members), Value::Object(more)) = (&mut members, more) {
            members.extend(more);
        }
        let members = body(&[], &[], members);
        let mut schema =
            exactly_one(members, &[("jwk", "object"), ("pem", "string"), ("certificate", "string")]);
        schema["examples"] = json!([{
            "jwk": {
                "kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
            },
            "label": "from the assembly line",
        }]);
        schema
    };
    let key = json!({
        "kid": of("KeyId"),
        "alg": text(),
        "label": or_null(text()),
        "state": words(&["active", "grace", "retired", "expired", "not_yet"]),
        "not_before": or_null(time()),
        "expires": or_null(time()),
        "expires_in_days": or_null(count(0)),
        "added": time(),
        "last_used": or_null(time()),
        "certificate": or_null(answer(json!({ "x5t#S256": text() }), &[])),
        "previous": said(answer(json!({ "kid": of("KeyId"), "expires": time() }), &[]), "The key that was replaced."),
    });
    json!({
        "NewKey": new_key(json!({})),
        "AddedKey": new_key(json!({
            "replaces": said(of("KeyId"), "The key whose place it takes."),
            "grace_s": said(json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }), "How long that may still be used, in seconds."),
        })),
        "Key": answer(key, &["previous"]),
        "Keys": items(of("Key")),
        "KeyChange": {
            "type": "object", "minProperties": 1, "additionalProperties": false,
            "properties": { "label": or_null(label()), "not_before": or_null(time()), "expires": or_null(time()) },
        },
        "KeyRevoked": answer(json!({ "kid": of("KeyId"), "state": words(&["retired"]), "epoch": count(0) }), &[]),
        "Reason": body(&[], &["reason"], json!({ "reason": said(text(), "For the audit.") })),
        "KeyUpdate": body(&["update", "pop"], &["retire"], json!({
            "update": said(text(), "`key-update+jwt` by the old key."),
            "pop": said(text(), "`key-pop+jwt` by the new key."),
            "retire": said(words(&["old", "keep"]), "What becomes of the old key; `old` if it is not there."),
        })),
        "KeyUpdated": answer(json!({
            "kid": of("KeyId"), "status": words(&["active"]),
            "previous": or_null(answer(json!({ "kid": of("KeyId"), "expires": time() }), &[])),
        }), &[]),
        "KeyRemoval": body(&["remove"], &[], json!({ "remove": said(text(), "`key-remove+jwt` by an active key.") })),
        "SessionsRefresh": body(&[], &[], json!({ "client_id": said(text(), "The session of this client id alone.") })),
        "SessionsRefreshed": answer(json!({
            "renewed": count(0),
            "sessions": list(answer(json!({
                "client_id": text(),
                "expires": or_null(time()),
                "removed": said(list(text()), "Subscriptions that the new right does not cover: they are cut."),
                "will_dropped": said(flag(), "The will may not speak any more."),
            }), &[])),
        }), &[]),
        "KeyRemoved": answer(json!({ "kid": of("KeyId"), "status": words(&["retired"]), "changed": flag() }), &[]),
    })
}

fn principals() -> Value {
    let subjects: Vec<Value> = ["subject_dn", "san_dns", "san_uri", "san_ip", "san_email"]
        .iter()
        .map(|name| body(&[name], &[], json!({ *name: text() })))
        .collect();
    let settings = json!({
        "policy": of("PolicyName"),
        "assertion_profile": said(words(&["standard", "legacy"]), "`legacy`: of the IoT IdP; devices only."),
        "attributes": said(texts(), "For the templates of policies; devices only."),
        "clock": json!({ "$ref": "#/components/schemas/ClockTrust", "description": "`null`: as the registry says." }),
        "gateway": said(flag(), "May act for the devices that are linked to it."),
        "roles": said(list(of("Role")), "Applications only."),
        "certificate_subject": json!({ "$ref": "#/components/schemas/CertificateSubject", "description": "`null`: none." }),
        "bound_tokens": said(flag(), "Gets only tokens that are bound to a key or certificate."),
        "bound_connections": said(or_null(flag()), "Opens MQTT connections only by a proof for that very connection; `null`: as the registry says."),
        "ways": said(list(of("Way")), "The ways into MQTT that are open to it. `null`: all that listener and registry allow."),
    });
    let with = |more: Value| {
        let mut members = settings.clone();
        if let (Value::Object(members), Value::Object(more)) = (&mut members, more) {
            members.extend(more);
        }
        members
    };
    json!({
        "CertificateSubject": said(json!({ "oneOf": subjects }), "The one field that a certificate of a CA must have (RFC 8705 section 2.1.2)."),
        "NewPrincipal": body(&["name"], &["keys"], with(json!({ "name": of("PrincipalName"), "keys": list(of("NewKey")) }))),
        "PrincipalPut": body(&[], &["keys"], with(json!({ "name": of("PrincipalName"), "keys": list(of("NewKey")) }))),
        "PrincipalPatch": body(&[], &[], settings.clone()),
        "Principal": answer(json!({
            "name": of("PrincipalName"),
            "kind": words(&["device", "application"]),
            "uid": text(),
            "registry": of("RegistryName"),
            "blocked": flag(),
            "pending": said(flag(), "Waits for an operator's approval."),
            "enrolment": said(or_null(text()), "How it registered itself."),
            "epoch": said(count(0), "Tokens of an older epoch are dead."),
            "policy": or_null(of("PolicyName")),
            "assertion_profile": words(&["standard", "legacy"]),
            "attributes": texts(),
            "clock": or_null(of("ClockTrust")),
            "gateway": flag(),
            "roles": list(of("Role")),
            "certificate_subject": or_null(of("CertificateSubject")),
            "bound_tokens": flag(),
            "bound_connections": or_null(flag()),
            "ways": or_null(list(of("Way"))),
            "secret": said(or_null(words(&["password", "generated"])), "What it can log in with besides its keys."),
            "created": time(),
            "revision": count(0),
            "keys": list(of("Key")),
            "warnings": said(
                list(answer(json!({ "word": text(), "kid": or_null(of("KeyId")), "detail": text() }), &[])),
                "Where one principal is shown: what an operator should look at.",
            ),
            "sessions_closed": said(count(0), "In the answer to a revocation: how many sessions it ends."),
        }), &["warnings", "sessions_closed"]),
        "Principals": page(of("Principal")),
        "Password": body(&["password"], &[], json!({ "password": { "type": "string", "minLength": 8, "maxLength": 1024 } })),
        "Secret": answer(json!({
            "client_id": of("PrincipalName"),
            "client_secret": said(json!({ "type": "string", "pattern": "^dbs_[A-Za-z0-9_-]+$" }), "Shown this once."),
        }), &[]),
        "PolicyChoice": body(&["policy"], &[], json!({ "policy": said(or_null(of("PolicyName")), "`null`: none.") })),
        "PolicyChosen": answer(json!({ "name": of("PrincipalName"), "policy": or_null(of("PolicyName")) }), &[]),
        "Name": answer(json!({ "name": of("PrincipalName") }), &[]),
        "Names": items(of("Name")),
        "NamesPage": page(of("Name")),
        "Link": answer(json!({ "gateway": of("PrincipalName"), "device": of("PrincipalName") }), &[]),
        "ImportLine": answer(json!({
            "line": said(count(0), "The number of a line."),
            "id": said(or_null(text()), "Of a line with a fault."),
            "error": said(json!({ "type": "string", "pattern": "^DB-[0-9]{4}$" }), "What is wrong with it, or why the import stopped."),
            "detail": text(),
            "added": count(0),
            "exists": count(0),
            "errors": count(0),
            "done": said(flag(), "In the last line."),
        }), &["id", "error", "detail", "added", "exists", "errors", "done"]),
    })
}

fn enrolments() -> Value {
    let enrolment = json!({
        "id": text(),
        "state": words(&["open", "used", "expired", "ended"]),
        "label": or_null(text()),
        "count": said(count(0), "How many devices may come by it."),
        "claims": said(count(0), "How many have."),
        "policy": or_null(of("PolicyName")),
        "auto": said(flag(), "Devices need no approval."),
        "expires": time(),
        "created": time(),
        "ids": list(text()),
        "id_pattern": text(),
        "key_thumbprints": list(text()),
        "token": said(text(), "Only in the answer to `POST`: what a device registers with."),
    });
    let new = body(
        &[],
        &["any", "auto"],
        json!({
            "ids": said(list(of("PrincipalName")), "The names that may be taken."),
            "id_pattern": said(text(), "A name with `*` for any characters."),
            "key_thumbprints": said(list(of("KeyId")), "The keys that may come."),
            "any": said(flag(), "Wanted beside a pattern that fits every name."),
            "count": json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            "expires": said(time(), "Or `life_s`."),
            "life_s": json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            "policy": of("PolicyName"),
            "auto": said(flag(), "Devices need no approval."),
            "label": label(),
        }),
    );
    let mut new =
        exactly_one(new, &[("ids", "array"), ("id_pattern", "string"), ("key_thumbprints", "array")]);
    new["examples"] = json!([{ "ids": ["pump-1", "pump-2"], "life_s": 86400, "label": "hall 3" }]);
    json!({
        "NewEnrolment": new,
        "Enrolment": answer(enrolment, &["ids", "id_pattern", "key_thumbprints", "token"]),
        "Enrolments": items(of("Enrolment")),
        "Enrolled": answer(json!({
            "name": of("PrincipalName"), "state": words(&["pending", "blocked", "active"]),
            "enrolment": or_null(text()), "policy": or_null(of("PolicyName")), "kids": list(of("KeyId")),
            "created": time(),
        }), &[]),
        "EnrolledPage": page(of("Enrolled")),
        "Approved": answer(json!({ "approved": count(0), "more": said(flag(), "Others still wait: ask again.") }), &[]),
    })
}

fn control() -> Value {
    let payload = |more: Value| {
        let mut members = json!({
            "payload": said(json!({ "type": "string", "contentEncoding": "base64" }), "Standard base64 with padding; or `text`."),
            "text": said(text(), "UTF-8, instead of `payload`."),
        });
        if let (Value::Object(members), Value::Object(more)) = (&mut members, more) {
            members.extend(more);
        }
        let mut schema = exactly_one(body(&[], &[], members), &[("payload", "string"), ("text", "string")]);
        schema["examples"] = json!([{ "text": "on" }]);
        schema
    };
    json!({
        "Command": payload(json!({
            "subfolder": said(text(), "Topic levels below `commands/`."),
            "wait_s": json!({ "type": "integer", "minimum": 1, "maximum": 60, "description": "How long to wait for the PUBACK." }),
        })),
        "CommandDelivered": answer(json!({ "delivered": words(&["acknowledged"]), "topic": text() }), &[]),
        "NewConfig": payload(json!({ "version": said(count(0), "Only if this is the current version (0: none yet).") })),
        "ConfigSet": answer(json!({ "version": count(1), "delivered": words(&["acknowledged", "stored"]) }), &[]),
        "Config": answer(json!({
            "version": count(1), "payload": said(text(), "Base64."), "set": time(), "acknowledged": or_null(time()),
        }), &[]),
        "States": items(answer(json!({ "received": time(), "payload": said(text(), "Base64.") }), &[])),
        "Policy": answer(json!({
            "name": of("PolicyName"), "revision": count(1), "updated": time(), "source": said(text(), "TOML."),
        }), &["source"]),
        "Policies": items(of("Policy")),
        "PolicySource": json!({
            "type": "object", "required": ["source"], "additionalProperties": false,
            "properties": { "source": said(text(), "TOML.") },
            "examples": [{ "source": "[[allow]]\npublish = [\"devices/{device}/#\"]\n" }],
        }),
        "PolicySet": answer(json!({ "name": of("PolicyName"), "revision": count(1) }), &[]),
        "Can": answer(json!({
            "allowed": flag(), "action": words(&["publish", "subscribe", "receive"]), "topic": text(),
            "policy": or_null(of("PolicyName")),
            "rule": or_null(answer(json!({
                "policy": of("PolicyName"), "effect": words(&["allow", "deny"]), "index": count(0), "action": text(),
                "pattern_index": count(0), "written": text(), "compiled": text(),
                "when": or_null(said(text(), "What the rule asks of a connection.")),
            }), &[])),
            "grant_pair": or_null(count(0)),
            "code": or_null(text()), "word": or_null(text()), "reason": text(),
            "granted_qos": or_null(said(count(0), "Of a subscription that is allowed.")),
            "left_out": said(json!({ "type": "array", "items": text() }), "Patterns that speak of nothing: a variable in them has no value."),
        }), &[]),
    })
}

fn registries() -> Value {
    let change = json!({
        "clock_skew_s": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
        "token_life_s": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
        "token_format": of("TokenFormat"),
        "clock": of("ClockTrust"),
        "issuer_algorithm": of("IssuerAlgorithm"),
        "bound_connections": said(flag(), "MQTT connections are opened only by a proof for that very connection."),
        "ways": said(list(of("Way")), "The ways into MQTT that are open to its principals. `null`: all that the listener allows."),
        "certificate_registration": json!({
            "$ref": "#/components/schemas/CertificateRegistration",
            "description": "Devices register themselves by connecting with a certificate of a CA of the registry. `null`: none does.",
        }),
    });
    let google = || json!({ "project": text(), "location": text() });
    let mut new = change.clone();
    new["name"] = of("RegistryName");
    new["issuer"] = said(text(), "Without it the address of this server and `/r/NAME`.");
    new["bridge_audience"] = text();
    new["google"] =
        said(body(&["project", "location"], &[], google()), "For devices that speak to Google's IoT Core.");
    json!({
        "CertificateRegistration": json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "names": said(text(), "Which common names may register; `*` stands for any characters. Without it, all."),
                "cas": said(list(json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })), "Fingerprints of CAs whose certificates may; none: every CA of the registry."),
                "auto": said(flag(), "They are admitted at once; else they wait for an operator."),
                "policy": or_null(of("PolicyName")),
                "pending_max": said(json!({ "type": "integer", "minimum": 1, "maximum": 10_000 }), "How many devices may wait at a time; without it 1,000."),
                "hourly_max": said(json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 }), "How many may register in an hour; without it 1,000."),
            },
        }),
        "NewRegistry": body(&["name"], &[], new),
        "RegistryChange": body(&[], &[], change),
        "Registry": answer(json!({
            "name": of("RegistryName"), "issuer": text(), "bridge_audience": text(), "clock_skew_s": count(0),
            "token_life_s": count(0), "google": or_null(answer(google(), &[])),
            "token_format": of("TokenFormat"), "clock": of("ClockTrust"), "issuer_algorithm": of("IssuerAlgorithm"),
            "bound_connections": flag(),
            "ways": or_null(list(of("Way"))), "certificate_registration": or_null(of("CertificateRegistration")),
            "created": time(),
        }), &[]),
        "Registries": items(of("Registry")),
        "AdminToken": answer(json!({ "admin_token": { "type": "string", "pattern": "^dba_[A-Za-z0-9_-]+$" } }), &[]),
        "Rotation": body(&["when"], &[], json!({
            "when": said(words(&["planned", "now"]), "`planned` publishes the next key first; `now` is for a key that was stolen: every token is dead."),
        })),
        "IssuerKeys": items(answer(json!({
            "kid": of("KeyId"), "state": words(&["current", "next", "old"]), "alg": text(), "signs_from": or_null(time()),
            "until": or_null(time()), "jwk": of("Jwk"),
        }), &[])),
        "NewCa": body(&["certificate"], &[], json!({ "certificate": said(text(), "PEM, or base64 of DER."), "label": label() })),
        "Ca": answer(json!({
            "fingerprint": said(text(), "SHA-256 of the certificate, in hex digits."), "subject": text(), "not_before": time(),
            "not_after": time(), "label": or_null(text()), "added": time(),
        }), &[]),
        "Cas": items(of("Ca")),
        "AuditRow": answer(json!({
            "writer": text(), "seq": count(1), "at": time(), "actor": text(), "action": text(), "subject": text(),
            "detail": said(json!({}), "What was changed, as JSON."), "at_ms": count(0),
            "detail_text": said(text(), "`detail` as it is hashed."), "prev": text(), "hash": text(),
        }), &[]),
        "AuditRows": answer(json!({
            "items": list(of("AuditRow")),
            "next_before": said(or_null(count(0)), "For the next page, newest first."),
            "next_from": said(or_null(count(0)), "For the next page of a writer."),
        }), &["next_before", "next_from"]),
        "AuditHeads": answer(json!({
            "drawbridge_audit": { "const": 1 }, "registry": of("RegistryName"), "issuer": text(), "jwks": of("JwkSet"),
            "heads": list(answer(json!({ "writer": text(), "seq": count(0), "hash": text() }), &[])),
        }), &[]),
    })
}
