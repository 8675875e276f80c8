//! What every path takes and answers, in the order of the router.

use serde_json::{Value, json};

use super::schemas::{bytes, count, of, text, words};
use super::{ACE_CBOR, ACE_JSON, JSON, Operation, op};

/// Name and description of each group of operations.
pub(super) const TAGS: [(&str, &str); 12] = [
    ("tokens", "How a device or application gets, checks and ends access tokens."),
    ("registration", "How a device registers itself."),
    ("self", "What a device sees and changes of itself."),
    ("devices", "The records of devices."),
    (
        "applications",
        "The records of applications: backend services, and people's tools with operator roles.",
    ),
    ("mqtt", "MQTT on this port."),
    ("control", "Commands, configs and states of devices."),
    ("enrolments", "Who may register itself."),
    ("gateways", "Which gateway may act for which device."),
    ("policies", "Who may publish and subscribe to what."),
    ("registry", "Registries, their issuer keys, CAs and audit."),
    ("iot-idp", "The paths of the IoT IdP, for devices whose assertion profile is `legacy`."),
];

const FORM: &str = "application/x-www-form-urlencoded";
const NDJSON: &str = "application/x-ndjson";
const TOML: &str = "text/toml";

/// Every operation.
pub(super) fn all() -> Vec<Operation> {
    let mut all = Vec::new();
    all.extend(discovery());
    all.extend(tokens());
    all.extend(registration());
    all.extend(own());
    all.extend(iot_idp());
    all.extend(principals("devices", "devices", "Device", "operator"));
    all.extend(principals("applications", "applications", "Application", "admin"));
    all.extend(devices());
    all.extend(control());
    all.extend(enrolments());
    all.extend(gateways());
    all.extend(policies());
    all.extend(audit());
    all.extend(registries());
    all
}

fn lines() -> [(&'static str, Value); 1] {
    [(NDJSON, text())]
}

fn discovery() -> Vec<Operation> {
    let kept = &["Cache-Control"];
    let metadata = |path: &str, id: &str| {
        op("tokens", "GET", path, id, "What this issuer serves")
            .answers(200, "The metadata.", "Metadata")
            .with(200, kept)
    };
    let health = |path: &str, id: &str| {
        op("registry", "GET", path, id, "Whether requests can be served")
            .answers(200, "They can.", "Health")
            .refuses(&[503])
    };
    vec![
        metadata("/.well-known/oauth-authorization-server", "metadata"),
        metadata("/.well-known/openid-configuration", "openidMetadata"),
        op("tokens", "GET", "/oauth/jwks", "jwks", "The public keys that access tokens are signed with")
            .answers_with(200, "The keys.", &[("application/jwk-set+json", of("JwkSet"))], kept),
        op("registry", "GET", "/openapi.json", "openapi", "This document").answers_with(
            200,
            "OpenAPI 3.1.",
            &[(JSON, json!({ "type": "object" }))],
            kept,
        ),
        op("mqtt", "GET", "/mqtt", "mqtt", "MQTT 3.1.1 and 5 over WebSocket")
            .about("The opening handshake of RFC 6455, version 13, with the subprotocol `mqtt`. The credential stands in \
                CONNECT, as at the other port. Web pages are let in from the origin of the issuer, and from those that \
                the settings name.")
            .parameter("header", "Upgrade", false, text(), "`websocket`; what comes without is answered 426.")
            .parameter("header", "Sec-WebSocket-Version", false, text(), "`13`; another is answered 426.")
            .parameter("header", "Sec-WebSocket-Key", false, text(), "16 random bytes in base64.")
            .parameter("header", "Sec-WebSocket-Protocol", false, text(), "A list with `mqtt` in it.")
            .answers_with(101, "From here on it is MQTT in binary frames.", &[], &[])
            .refuses(&[400, 403, 426, 503]),
        health("/health", "health"),
        health("/healthz", "healthz"),
    ]
}

fn tokens() -> Vec<Operation> {
    let client = &["client_secret", "client_certificate", ""];
    let asked = |path: &str, id: &str, summary: &str, form: &str| {
        op("tokens", "POST", path, id, summary)
            .secured(client)
            .refuses(&[401])
            .takes(true, &[(FORM, of(form))])
            .about("The client proves who it is by one of: an assertion in the form, a secret, a TLS certificate.")
    };
    vec![
        op("tokens", "POST", "/oauth/challenge", "challenge", "A nonce and the server's time")
            .about("For devices without a trusted clock. Nobody has to prove anything, and nothing is kept.")
            .secured(&[""])
            .takes(false, &[(FORM, of("ChallengeForm")), (JSON, of("ChallengeForm"))])
            .answers(200, "The nonce.", "Challenge")
            .with(200, &["Cache-Control", "DPoP-Nonce"]),
        asked("/oauth/token", "token", "Log in, or act for a device: get an access token", "TokenForm")
            .dpop()
            .about("The client proves who it is by one of: an assertion in the body, a secret, a TLS certificate. A body in the words of RFC 9200 gets a token that is bound to a key for MQTT (RFC 9431), as CWT where the answer is CBOR.")
            .takes(
                true,
                &[(FORM, of("TokenForm")), (ACE_JSON, of("AceRequest")), (ACE_CBOR, bytes())],
            )
            .answers_with(
                200,
                "The token.",
                &[(JSON, of("TokenGrant")), (ACE_JSON, of("AceGrant")), (ACE_CBOR, bytes())],
                &["Cache-Control"],
            ),
        asked("/oauth/introspect", "introspect", "What a token says, for whom it concerns", "TokenQuestion")
            .answers_with(
                200,
                "What it says; of one that is dead or does not concern the caller only that it is not active.",
                &[(JSON, of("Introspection")), ("application/token-introspection+jwt", text())],
                &["Cache-Control"],
            ),
        asked("/oauth/revoke", "revokeToken", "End a token before its time", "TokenQuestion").answers_with(
            200,
            "Done, or there was nothing to do.",
            &[],
            &[],
        ),
    ]
}

fn registration() -> Vec<Operation> {
    let one = |method, id: &str, summary: &str| {
        op("registration", method, "/oauth/register/{id}", id, summary)
            .secured(&["registration"])
            .refuses(&[401, 403])
            .about("Takes the registration token.")
    };
    vec![
        op("registration", "POST", "/oauth/register", "register", "Register this device")
            .about("By an enrolment token, or by a software statement in the body (RFC 7591).")
            .secured(&["registration", ""])
            .refuses(&[401, 403, 409])
            .json("ClientMetadata")
            .answers(201, "Registered.", "ClientInformation")
            .answers(200, "It was registered the same way before.", "ClientInformation")
            .with(201, &["Cache-Control"])
            .with(200, &["Cache-Control"]),
        one("GET", "registration", "Look at a registration")
            .answers(200, "The registration.", "ClientInformation")
            .with(200, &["Cache-Control"]),
        one("PUT", "replaceRegistration", "Repeat a registration; nothing is changed by it")
            .json("ClientMetadata")
            .answers(200, "The registration.", "ClientInformation")
            .with(200, &["Cache-Control"]),
        one("DELETE", "deregister", "End a registration; its keys can never be registered again")
            .answers_with(204, "Gone.", &[], &[]),
    ]
}

fn own() -> Vec<Operation> {
    let signed = |operation: Operation| {
        operation.secured(&[""]).refuses(&[401, 403, 404, 409]).about(
            "The JWT in the body, by a registered key, is the credential; a token alone changes nothing.",
        )
    };
    let refresh = |path: &str, id: &str| {
        op("self", "POST", path, id, "Renew the open MQTT sessions")
            .bearer()
            .dpop()
            .about(
                "The token, a new one for the bridge, is the right of the sessions from now on: their end, their \
                 rights. One that was opened with a proof of possession takes a bound token only.",
            )
            .takes(false, &[(JSON, of("SessionsRefresh"))])
            .refuses(&[415])
            .answers(200, "Those that were renewed; none when none is open.", "SessionsRefreshed")
    };
    vec![
        op("self", "GET", "/v1/self", "self", "The caller's own record")
            .bearer()
            .about("For the token of a device or application, with the scope `self:read` if it has any.")
            .dpop()
            .answers(200, "The record.", "Principal"),
        op("self", "GET", "/v1/self/keys", "ownKeys", "The caller's own keys").bearer().dpop().answers(
            200,
            "The keys, retired ones included.",
            "Keys",
        ),
        signed(op("self", "POST", "/v1/self/keys", "updateOwnKey", "Replace a key, or add one"))
            .json("KeyUpdate")
            .answers(201, "The new key is registered.", "KeyUpdated")
            .answers(200, "It was before; nothing has changed.", "KeyUpdated"),
        signed(op("self", "POST", "/v1/self/keys:remove", "removeOwnKey", "Remove a key"))
            .json("KeyRemoval")
            .answers(200, "Removed, or it was before.", "KeyRemoved"),
        signed(op("self", "DELETE", "/v1/self/keys/{kid}", "deleteOwnKey", "Remove a key"))
            .json("KeyRemoval")
            .refuses(&[422])
            .answers(200, "Removed, or it was before.", "KeyRemoved"),
        refresh("/v1/self/sessions:refresh", "refreshOwnSessions"),
        refresh("/session/refresh", "refreshSession"),
        op("self", "POST", "/v1/time", "time", "The time, signed by the issuer")
            .secured(&[""])
            .json("TimeQuestion")
            .answers(200, "The time.", "Time")
            .with(200, &["Cache-Control"]),
    ]
}

fn iot_idp() -> Vec<Operation> {
    let alias = |path: &str, id: &str, summary: &str| {
        op("iot-idp", "POST", path, id, summary)
            .secured(&["legacy"])
            .takes(false, &[(FORM, of("AliasForm")), (JSON, of("AliasForm"))])
            .refuses(&[401, 403])
    };
    vec![
        alias("/as/token", "aliasToken", "Log in")
            .answers(200, "A token.", "TokenGrant")
            .with(200, &["Cache-Control"]),
        alias("/as/renew/token", "aliasRenew", "Give a token for the next one")
            .answers(200, "A token.", "TokenGrant")
            .with(200, &["Cache-Control"]),
        alias("/idp/introspect", "aliasIntrospect", "What a token says")
            .secured(&["client_secret"])
            .answers(200, "What it says.", "Introspection")
            .with(200, &["Cache-Control"]),
        alias("/device/update/pubkey", "aliasUpdateKey", "Replace the device's key").answers(
            200,
            "Replaced.",
            "AliasUpdated",
        ),
    ]
}

/// `one`: `Device` or `Application`. `role`: who may change them.
fn principals(tag: &str, collection: &str, one: &str, role: &str) -> Vec<Operation> {
    let word = one.to_lowercase();
    let at = |rest: &str| format!("/v1/{collection}{rest}");
    let of_one = |method, rest: &str, id: String, summary: &str| {
        op(tag, method, at(&format!("/{{id}}{rest}")), id, summary).refuses(&[422])
    };
    let record =
        |operation: Operation| operation.answers(200, "The record.", "Principal").with(200, &["ETag"]);
    let gone = |operation: Operation| operation.answers_with(204, "Done.", &[], &[]);
    let reason = |operation: Operation| operation.takes(false, &[(JSON, of("Reason"))]);
    vec![
        op(
            tag,
            "GET",
            at(""),
            format!("list{one}s"),
            &format!("The {word}s, page by page, in byte order of name"),
        )
        .role("viewer")
        .paged()
        .answers(200, "A page.", "Principals"),
        op(
            tag,
            "POST",
            at(""),
            format!("add{one}"),
            &format!("Register a {word}").replace("a app", "an app"),
        )
        .role(role)
        .json("NewPrincipal")
        .refuses(&[409, 422])
        .answers(201, "The record.", "Principal")
        .with(201, &["ETag", "Location"]),
        record(of_one("GET", "", format!("show{one}"), "One record").role("viewer")),
        record(
            of_one(
                "PUT",
                "",
                format!("put{one}"),
                "Make a record, or change those members that the body names",
            )
            .role(role)
            .if_match()
            .parameter("header", "If-None-Match", false, words(&["*"]), "Only if there is none.")
            .json("PrincipalPut")
            .refuses(&[409])
            .answers(201, "The new record.", "Principal")
            .with(201, &["ETag", "Location"]),
        ),
        record(
            of_one("PATCH", "", format!("patch{one}"), "Change those members that the body names")
                .role(role)
                .if_match()
                .json("PrincipalPatch"),
        ),
        gone(
            of_one("DELETE", "", format!("delete{one}"), "Delete a record with its keys; sessions end")
                .role(role)
                .if_match(),
        ),
        record(
            of_one("POST", "/block", format!("block{one}"), "Admit it nowhere any more; sessions end")
                .role(role)
                .if_match(),
        ),
        record(of_one("POST", "/unblock", format!("unblock{one}"), "Admit it again").role(role).if_match()),
        record(reason(
            of_one("POST", "/revoke", format!("revoke{one}"), "End every token and session that it has")
                .role(role)
                .if_match(),
        )),
        gone(
            of_one("PUT", "/password", format!("set{one}Password"), "Set its password")
                .role(role)
                .if_match()
                .json("Password"),
        )
        .with(204, &["ETag"]),
        gone(
            of_one("DELETE", "/password", format!("remove{one}Password"), "Take its password away")
                .role(role)
                .if_match(),
        ),
        of_one("POST", "/secret", format!("make{one}Secret"), "Make it a new secret")
            .role(role)
            .if_match()
            .answers(201, "The secret, shown this once.", "Secret")
            .with(201, &["ETag", "Cache-Control"]),
        gone(
            of_one("DELETE", "/secret", format!("remove{one}Secret"), "Take its secret away")
                .role(role)
                .if_match(),
        ),
        of_one("GET", "/keys", format!("list{one}Keys"), "Its keys, retired ones included")
            .role("viewer")
            .answers(200, "The keys.", "Keys"),
        of_one(
            "POST",
            "/keys",
            format!("add{one}Key"),
            "Register a further key, or one in the place of another",
        )
        .role(role)
        .if_match()
        .json("AddedKey")
        .refuses(&[409])
        .answers(201, "The key.", "Key")
        .answers(200, "It was registered before.", "Key"),
        of_one("PATCH", "/keys/{kid}", format!("change{one}Key"), "Change label or validity of a key")
            .role(role)
            .if_match()
            .json("KeyChange")
            .refuses(&[409])
            .answers(200, "The key.", "Key"),
        gone(
            of_one("DELETE", "/keys/{kid}", format!("remove{one}Key"), "Retire a key; what it opened ends")
                .role(role)
                .if_match()
                .refuses(&[409]),
        ),
        reason(
            of_one(
                "POST",
                "/keys/{kid}/revoke",
                format!("revoke{one}Key"),
                "A key is in wrong hands: retire it, end all",
            )
            .role(role)
            .if_match(),
        )
        .answers(200, "Retired.", "KeyRevoked"),
    ]
}

fn devices() -> Vec<Operation> {
    let lines_in = || {
        json!({
            "type": "string",
            "description": "A JSON object a line: `id`, and if wanted `keys`, `policy`, `attributes`, \
                `legacy_assertions`, `clock`, `gateway`.",
            "examples": ["{\"id\":\"pump-1\"}\n{\"id\":\"pump-2\",\"policy\":\"device\"}\n"],
        })
    };
    let waiting = |rest: &str, id: &str, summary: &str| {
        op("enrolments", "POST", format!("/v1/devices/{{id}}/{rest}"), id, summary)
            .role("operator")
            .refuses(&[409, 422])
    };
    vec![
        op("devices", "POST", "/v1/devices:import", "importDevices", "Register many devices, line by line")
            .role("operator")
            .query("first_line", count(1), "The number of the first line of this body.")
            .query("from_line", count(1), "Lines before this number are skipped.")
            .parameter("header", "Import-From-Line", false, count(1), "Instead of `from_line`.")
            .takes(true, &[(NDJSON, lines_in()), ("application/jsonl", lines_in()), ("application/jsonlines", lines_in())])
            .refuses(&[415])
            .about("The answer comes while the body is read: a line for each fault and batch (`ImportLine`), and a last one with `done`.")
            .answers_with(200, "Lines of `ImportLine`.", &lines(), &["Cache-Control"]),
        waiting("approve", "approveDevice", "Admit a device that has registered itself")
            .if_match()
            .answers(200, "The device.", "Enrolled"),
        waiting("reject", "rejectDevice", "Send a waiting device away for good").answers_with(204, "Gone.", &[], &[]),
        waiting("undo-enrolment", "undoEnrolment", "Take back a device's claim of its name")
            .answers_with(204, "Gone.", &[], &[]),
        op("gateways", "GET", "/v1/devices/{id}/gateways", "listGatewaysOfDevice", "The gateways that may act for a device")
            .role("viewer")
            .refuses(&[422])
            .answers(200, "Their names.", "Names"),
    ]
}

fn control() -> Vec<Operation> {
    let of_device = |method, rest: &str, id: &str, summary: &str, word: &str| {
        op("control", method, format!("/v1/devices/{{id}}/{rest}"), id, summary)
            .bearer()
            .refuses(&[422])
            .about(&format!("For whoever may do the same over MQTT, by a token with the scope `{word}`; or the admin credential."))
    };
    vec![
        of_device(
            "POST",
            "commands",
            "sendCommand",
            "Send a command and wait for the device's PUBACK",
            "commands:send",
        )
        .json("Command")
        .refuses(&[409, 504])
        .answers(200, "The device has acknowledged it.", "CommandDelivered"),
        of_device("GET", "config", "showConfig", "The newest config", "config:read")
            .answers(200, "The config.", "Config")
            .with(200, &["ETag"]),
        of_device(
            "PUT",
            "config",
            "setConfig",
            "Store a config under a new version and publish it",
            "config:write",
        )
        .if_match()
        .json("NewConfig")
        .answers(200, "Stored, and perhaps acknowledged.", "ConfigSet")
        .with(200, &["ETag"]),
        of_device(
            "GET",
            "state",
            "listStates",
            "The states that the device reported, newest first",
            "state:read",
        )
        .answers(200, "The states.", "States"),
    ]
}

fn enrolments() -> Vec<Operation> {
    let all = |method, id: &str, summary: &str, role: &str| {
        op("enrolments", method, "/v1/enrolments", id, summary).role(role)
    };
    let one = |method, rest: &str, id: &str, summary: &str, role: &str| {
        op("enrolments", method, format!("/v1/enrolments/{{id}}{rest}"), id, summary).role(role)
    };
    vec![
        all("GET", "listEnrolments", "All enrolments, newest first", "viewer").answers(
            200,
            "The enrolments.",
            "Enrolments",
        ),
        all("POST", "addEnrolment", "Let devices register themselves", "operator")
            .json("NewEnrolment")
            .refuses(&[422])
            .answers(201, "The enrolment with its token, shown this once.", "Enrolment")
            .with(201, &["Cache-Control"]),
        one("GET", "", "showEnrolment", "One enrolment", "viewer").answers(
            200,
            "The enrolment.",
            "Enrolment",
        ),
        one("DELETE", "", "endEnrolment", "End an enrolment; the devices that came by it stay", "operator")
            .answers_with(204, "Ended.", &[], &[]),
        one("GET", "/devices", "listEnrolled", "The devices that came by an enrolment", "viewer")
            .paged()
            .query("pending", words(&["true", "false"]), "Only those that wait for approval.")
            .answers(200, "A page.", "EnrolledPage"),
        one(
            "POST",
            "/approve",
            "approveEnrolled",
            "Admit those that wait, as many as one call does",
            "operator",
        )
        .answers(200, "How many.", "Approved"),
    ]
}

fn gateways() -> Vec<Operation> {
    let link = |method, id: &str, summary: &str| {
        op("gateways", method, "/v1/gateways/{id}/devices/{device}", id, summary)
            .role("operator")
            .refuses(&[422])
    };
    vec![
        op(
            "gateways",
            "GET",
            "/v1/gateways/{id}/devices",
            "listDevicesOfGateway",
            "The devices that a gateway may act for",
        )
        .role("viewer")
        .paged()
        .refuses(&[422])
        .answers(200, "A page.", "NamesPage"),
        link("PUT", "link", "Let a gateway act for a device")
            .refuses(&[409])
            .answers(201, "Linked.", "Link")
            .answers(200, "They were linked.", "Link"),
        link("DELETE", "unlink", "Take a link away; what the gateway opened by it ends").answers_with(
            204,
            "Gone.",
            &[],
            &[],
        ),
    ]
}

fn policies() -> Vec<Operation> {
    let one = |method, id: &str, summary: &str, role: &str| {
        op("policies", method, "/v1/policies/{id}", id, summary).role(role).refuses(&[422])
    };
    vec![
        op("policies", "GET", "/v1/policies", "listPolicies", "All policies, without their texts")
            .role("viewer")
            .answers(200, "The policies.", "Policies"),
        one("GET", "showPolicy", "One policy as it was written", "viewer").answers_with(
            200,
            "The policy.",
            &[(JSON, of("Policy")), (TOML, text())],
            &["ETag"],
        ),
        one(
            "PUT",
            "setPolicy",
            "Set a policy; all its faults are told at once, and then nothing has changed",
            "admin",
        )
        .takes(true, &[(TOML, text()), (JSON, of("PolicySource"))])
        .refuses(&[415])
        .answers(201, "New.", "PolicySet")
        .answers(200, "Changed.", "PolicySet")
        .with(201, &["ETag"])
        .with(200, &["ETag"]),
        op(
            "policies",
            "PUT",
            "/v1/principals/{id}/policy",
            "attachPolicy",
            "Give a principal a policy, or none",
        )
        .role("operator")
        .about("Of an application it needs the role `admin`.")
        .json("PolicyChoice")
        .refuses(&[422])
        .answers(200, "What it has now.", "PolicyChosen"),
        op(
            "policies",
            "GET",
            "/v1/can",
            "can",
            "Whether a principal may do something, and which rule says so",
        )
        .role("viewer")
        .parameter("query", "principal", true, of("PrincipalName"), "Who.")
        .parameter("query", "action", true, words(&["publish", "subscribe", "receive"]), "What.")
        .parameter("query", "topic", true, text(), "The topic, or the filter of a subscription.")
        .query("qos", words(&["0", "1", "2"]), "Of the message, or asked for by the subscription. Without this and the next three: any message.")
        .query("retain", words(&["true", "false"]), "Whether the message is to be retained.")
        .query("will", words(&["true", "false"]), "Whether it is a will.")
        .query("payload_bytes", count(0), "How long its payload is.")
        .query("protocol", words(&["mqtt3", "mqtt5", "http"]), "What is spoken. Without this and the next six: over any connection; with one of them the others are not known.")
        .query("websocket", words(&["true", "false"]), "Whether MQTT comes over WebSocket.")
        .query("port", count(1), "The local port.")
        .query("address", text(), "The remote address.")
        .query("tls", words(&["1.3", "1.2", "none"]), "How the connection is protected.")
        .query("method", words(&["password", "jwt", "token", "certificate", "raw-key", "ace", "anonymous"]), "How the principal proves who it is.")
        .query("client_id", text(), "The MQTT client id.")
        .refuses(&[404, 422])
        .answers(200, "The question was answered, whatever the answer is.", "Can"),
    ]
}

fn audit() -> Vec<Operation> {
    let of_audit =
        |path: &str, id: &str, summary: &str| op("registry", "GET", path, id, summary).role("viewer");
    vec![
        of_audit("/metrics", "metrics", "The numbers of the whole server, for Prometheus")
            .about("Of all registries together: only at `default`, whose viewers may read it. What each number means: docs/operations.md.")
            .refuses(&[404])
            .answers_with(200, "Text format 0.0.4.", &[("text/plain", text())], &["Cache-Control"]),
        of_audit("/v1/audit", "listAudit", "Rows of the audit, newest first; or of one writer, oldest first")
            .query("limit", super::schemas::limit(), "How many rows, 100 if it is not there.")
            .query("before", count(0), "Newest first: only rows below this `seq`.")
            .query("writer", text(), "Only the rows of this writer.")
            .query("from", count(0), "With `writer`: from this `seq` on.")
            .answers(200, "The rows.", "AuditRows"),
        of_audit("/v1/audit:heads", "auditHeads", "The newest row of every chain, and the issuer's keys")
            .answers(200, "The heads.", "AuditHeads"),
        of_audit("/v1/audit:export", "exportAudit", "The whole audit, line by line")
            .about("A line about the registry, each writer's rows oldest first, and a line with the heads, without which it is not whole.")
            .answers_with(200, "Lines of JSON.", &lines(), &[]),
    ]
}

fn registries() -> Vec<Operation> {
    let all = |method, id: &str, summary: &str| {
        op("registry", method, "/v1/registries", id, summary)
            .bearer()
            .about("Needs the admin credential itself.")
    };
    let one = |method, rest: &str, id: &str, summary: &str, role: &str| {
        op("registry", method, format!("/v1/registries/{{name}}{rest}"), id, summary).role(role)
    };
    let cas = |method, path: &str, id: &str, summary: &str, role: &str| {
        op("registry", method, path, id, summary).role(role)
    };
    vec![
        op("registry", "POST", "/v1/admin-token:rotate", "rotateAdminToken", "Replace the admin credential")
            .bearer()
            .about("Needs the admin credential itself, which is dead from then on.")
            .answers(200, "The new credential, shown this once.", "AdminToken")
            .with(200, &["Cache-Control"]),
        all("GET", "listRegistries", "All registries").answers(200, "The registries.", "Registries"),
        all("POST", "addRegistry", "Make a registry").json("NewRegistry").refuses(&[409, 422]).answers(
            201,
            "The registry.",
            "Registry",
        ),
        one("GET", "", "showRegistry", "One registry", "viewer").answers(200, "The registry.", "Registry"),
        one("PATCH", "", "changeRegistry", "Change what may be changed of a registry", "admin")
            .json("RegistryChange")
            .refuses(&[422])
            .answers(200, "The registry.", "Registry"),
        one("GET", "/issuer-keys", "listIssuerKeys", "The issuer's keys and what each is for", "viewer")
            .answers(200, "The keys.", "IssuerKeys"),
        one("POST", "/issuer-keys", "rotateIssuerKey", "Change the issuer's key", "admin")
            .json("Rotation")
            .answers(200, "The keys.", "IssuerKeys"),
        cas("GET", "/v1/cas", "listCas", "The certificate authorities of the registry", "viewer")
            .answers(200, "The CAs.", "Cas"),
        cas("POST", "/v1/cas", "addCa", "Register a CA", "admin")
            .json("NewCa")
            .refuses(&[422])
            .answers(201, "The CA.", "Ca")
            .answers(200, "It was registered.", "Ca"),
        cas("DELETE", "/v1/cas/{fingerprint}", "removeCa", "Remove a CA", "admin").answers_with(
            204,
            "Gone.",
            &[],
            &[],
        ),
    ]
}
