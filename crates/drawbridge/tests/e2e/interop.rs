//! OAuth clients and verifiers that no one here wrote, against the real server over TLS. None of them is patched,
//! and none has its checks switched off.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

use crate::harness::{Core, node, node_folder, python, repository, run_node, run_python, wait_for};

/// A principal that a script plays: its name, the file of its key, and what it signs with.
fn principal(core: &Core, registry: &str, name: &str, algorithm: Algorithm) -> Value {
    let key = SigningKey::generate(algorithm).expect("generates");
    let file = |tail: &str| core.place().join(format!("{name}{tail}"));
    let (private, public) = (file("-key.pem"), file(".pem"));
    fs::write(&private, key.to_pkcs8_pem().as_bytes()).expect("write");
    fs::write(&public, key.public_key().to_pem()).expect("write");
    core.cli_ok(&["--registry", registry, "device", "add", name, "--key", &public.to_string_lossy()]);
    let alg = if algorithm == Algorithm::EdDsa { "Ed25519" } else { "ES256" };
    json!({ "name": name, "key": private, "alg": alg })
}

fn metadata(core: &Core, base: &str) -> Value {
    let path = format!("{base}/.well-known/openid-configuration");
    let answer = core.api().send("GET", &path, None, None).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The principals of a server, told to scripts by a file.
fn world(core: &Core) -> PathBuf {
    let add = |name, algorithm| principal(core, "default", name, algorithm);
    let (es256, ed25519) = (add("lamp", Algorithm::Es256), add("door", Algorithm::EdDsa));
    let (coarse, gateway) = (add("meter", Algorithm::Es256), add("gw", Algorithm::Es256));
    core.admin("PATCH", "/v1/devices/meter", Some(&json!({ "clock": "coarse" })));
    core.admin("PATCH", "/v1/devices/gw", Some(&json!({ "gateway": true })));
    core.cli_ok(&["gateway", "link", "gw", "lamp"]);
    core.application("backend", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let secret = core.cli_ok(&["app", "secret", "backend"]);
    let secret = secret.lines().next().expect("a secret");
    core.cli_ok(&["registry", "add", "plant"]);
    core.cli_ok(&["registry", "set", "plant", "--token-format", "opaque"]);
    let mut opaque = principal(core, "plant", "pump", Algorithm::Es256);
    opaque["issuer"] = metadata(core, "/r/plant")["issuer"].clone();
    opaque["metadata_url"] =
        json!(format!("{}/.well-known/openid-configuration", opaque["issuer"].as_str().expect("a URL")));
    let metadata = metadata(core, "");
    let world = json!({
        "issuer": metadata["issuer"], "bridge_audience": metadata["bridge_audience"], "metadata": metadata,
        "ca": core.data().join("ca.pem"), "packages": node_folder(),
        "es256": es256, "ed25519": ed25519, "coarse": coarse, "gateway": gateway, "opaque": opaque,
        "secret": { "name": "backend", "secret": secret },
    });
    let path = core.place().join("world.json");
    fs::write(&path, world.to_string()).expect("write");
    path
}

/// A script that skipped its checks would not have counted them.
fn all_passed(text: &str, least: u32) {
    let count = text.lines().find_map(|line| line.strip_suffix(" checks passed")).expect("a last line");
    assert!(count.parse::<u32>().expect("a number") >= least, "{text}");
}

fn by_node(script: &str, least: u32) {
    let core = Core::start();
    let world = world(&core);
    all_passed(&run_node(script, &core.data().join("ca.pem"), &[&world.to_string_lossy()]), least);
}

#[test]
fn oauth4webapi_logs_in_introspects_revokes_and_binds_its_tokens() {
    by_node("oauth4webapi_client.mjs", 79);
}

#[test]
fn openid_client_logs_in_introspects_revokes_and_binds_its_tokens() {
    by_node("openid_client.mjs", 35);
}

#[test]
fn a_client_that_was_not_given_the_root_of_the_server_does_not_talk_to_it() {
    let core = Core::start();
    let (world, other) = (world(&core), Core::start());
    let output =
        node("openid_client.mjs", &other.data().join("ca.pem")).arg(world).output().expect("node runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("unable to verify"), "{said}");
}

#[test]
fn authlib_joserfc_and_requests_log_in_introspect_revoke_exchange_and_bind_their_tokens() {
    let core = Core::start();
    let world = world(&core);
    all_passed(&run_python("interop.py", &[&world.to_string_lossy()]), 74);
}

/// A verifier in a process of its own, which keeps the JWK set while the test does something to the issuer.
struct Verifier {
    child: Child,
    input: ChildStdin,
    said: Receiver<String>,
}

impl Verifier {
    fn start(mut command: Command, world: &Path) -> Self {
        let child = command.arg(world).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the verifier starts");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let (sender, said) = channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        let verifier = Self { child, input, said };
        println!("{}", verifier.line());
        verifier
    }

    fn line(&self) -> String {
        self.said.recv_timeout(Duration::from_secs(20)).expect("the verifier answers")
    }

    /// What it says of a token: `good ALG KID` or `bad WHY`.
    fn judge(&mut self, token: &Path) -> String {
        writeln!(self.input, "{}", token.display()).expect("written");
        self.line()
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn verifiers_that_keep_the_key_set_go_on_while_the_issuer_changes_to_rs256_and_its_keys_are_rotated() {
    let place = tempfile::tempdir().expect("temporary folder");
    let settings = place.path().join("settings.toml");
    fs::write(&settings, "[admission]\nissuer_key_lead_s = 4\n").expect("write");
    let core = Core::start_with(&["--config", &settings.to_string_lossy()]);
    let world = world(&core);
    let lamp = drawbridge_device::DeviceIdentity {
        key: SigningKey::from_pkcs8_pem(
            &fs::read_to_string(core.place().join("lamp-key.pem")).expect("a key"),
        )
        .expect("a key"),
        ..core.device("spare")
    };
    let mut count = 0;
    let mut token = || {
        count += 1;
        let path = core.place().join(format!("token-{count}"));
        let answer = core.api().token("lamp", &lamp.issuer, None, &lamp.key).expect("a token");
        fs::write(&path, answer.access_token).expect("write");
        path
    };
    let current = || {
        let keys: Value =
            serde_json::from_str(&core.cli_ok(&["registry", "keys", "default", "--json"])).expect("JSON");
        let keys = keys.as_array().expect("keys").clone();
        keys.into_iter().find(|key| key["state"] == "current").expect("a key that signs")
    };
    let mut script = Command::new(python());
    script.arg(repository().join("crates/drawbridge/tests/clients/rotation.py"));
    let jose = node("rotation.mjs", &core.data().join("ca.pem"));
    let mut verifiers = [Verifier::start(script, &world), Verifier::start(jose, &world)];
    let all_say = |verifiers: &mut [Verifier; 2], token: &Path, wanted: &str| {
        for verifier in verifiers {
            let said = verifier.judge(token);
            assert!(said.starts_with(wanted), "{said}; wanted {wanted}");
        }
    };

    let first = token();
    all_say(&mut verifiers, &first, "good ES256");
    let es256 = current()["kid"].clone();
    core.cli_ok(&["registry", "set", "default", "--issuer-algorithm", "RS256"]);
    core.cli_ok(&["registry", "rotate-key", "default"]);
    let second = token();
    all_say(&mut verifiers, &second, "good ES256");
    wait_for("the next key to sign", Duration::from_secs(20), || (current()["kid"] != es256).then_some(()));
    let third = token();
    all_say(&mut verifiers, &third, "good RS256");
    // The old key is still published, so what it signed is good until it ends.
    all_say(&mut verifiers, &first, "good ES256");
    let rs256 = current()["kid"].clone();
    assert_eq!(metadata(&core, "")["introspection_signing_alg_values_supported"], json!(["RS256"]));

    core.cli_ok(&["registry", "rotate-key", "default", "--now"]);
    assert_ne!(current()["kid"], rs256);
    // Nothing was published in advance: a verifier goes on when it has read the set again.
    let fourth = token();
    for verifier in &mut verifiers {
        wait_for("the new key in the set", Duration::from_secs(20), || {
            let said = verifier.judge(&fourth);
            if !said.starts_with("good RS256") {
                std::thread::sleep(Duration::from_millis(200));
                return None;
            }
            Some(())
        });
    }
    // Who reads the set anew sees that the dropped keys are gone.
    let mut script = Command::new(python());
    script.arg(repository().join("crates/drawbridge/tests/clients/rotation.py"));
    let mut anew = Verifier::start(script, &world);
    for dead in [&first, &third] {
        assert_eq!(anew.judge(dead), "bad PyJWKClientError");
    }
    for dead in [&first, &second, &third] {
        let text = fs::read_to_string(dead).expect("a token");
        let answer = core.api().send("GET", "/v1/self", Some(&text), None).expect("an answer");
        assert_eq!(answer.status, 401, "{answer:?}");
    }

    // Both libraries run all their flows against an issuer that signs with RS256.
    let mut told: Value =
        serde_json::from_str(&fs::read_to_string(&world).expect("the world")).expect("JSON");
    told["metadata"] = metadata(&core, "");
    fs::write(&world, told.to_string()).expect("write");
    let script = [&*world.to_string_lossy()];
    all_passed(&run_python("interop.py", &script), 74);
    all_passed(&run_node("openid_client.mjs", &core.data().join("ca.pem"), &script), 35);
}
