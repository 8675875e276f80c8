//! The device library against a running server: what only a device does.

use drawbridge_device::{ApiClient, DeviceError, DeviceIdentity};
use drawbridge_jose::{Algorithm, Sign, SigningKey};
use serde_json::Value;

use crate::harness::{Core, connect};

/// The identity with another private key.
fn with_key(core: &Core, name: &str, key: SigningKey) -> DeviceIdentity {
    let mut identity = DeviceIdentity::load(&core.identity_folder(name)).expect("an identity");
    identity.key = key;
    identity
}

#[test]
fn a_device_replaces_its_key_by_one_of_another_kind_and_a_lost_answer_costs_nothing() {
    let core = Core::start();
    let old = core.device("lamp");
    assert_eq!(old.key.algorithm(), Algorithm::Es256);
    let key = SigningKey::generate(Algorithm::EdDsa).expect("a key");
    let new = with_key(&core, "lamp", key);
    let api = ApiClient::new(&format!("https://{}", old.https), &old.ca_pem).expect("a client");
    let login = |identity: &DeviceIdentity| api.token("lamp", &identity.issuer, None, &identity.key);

    assert!(matches!(login(&new), Err(DeviceError::Denied(_))), "a key that nobody registered");
    let first = api.replace_key(&old, &new.key).expect("the first call");
    assert_eq!(first.status, 201, "{}", first.text);
    let answer: Value = first.json();
    assert_eq!(answer["kid"], new.public_key().thumbprint(), "{answer}");
    assert_eq!(answer["previous"]["kid"], old.public_key().thumbprint(), "{answer}");

    // The answer was lost: the device knows no better than to ask again, with fresh JWTs.
    let again = api.replace_key(&old, &new.key).expect("the repeated call");
    assert_eq!((again.status, again.json()), (200, answer));
    // Until the new key has proved itself, the old one still opens the door.
    drop(connect(&old));

    login(&new).expect("the new key logs in");
    let refused = login(&old).expect_err("the old key is dead now");
    assert!(matches!(refused, DeviceError::Denied(_)), "{refused}");
    let options = old.mqtt_options().expect("signs");
    let refused = drawbridge_device::MqttClient::connect(&options).expect_err("dead at the bridge too");
    assert!(matches!(refused, DeviceError::Refused { .. }), "{refused}");
    assert!(api.replace_key(&old, &new.key).is_err(), "nor does the old key replace anything");
    drop(connect(&new));

    let keys: Value = serde_json::from_str(&core.cli_ok(&["key", "list", "lamp", "--json"])).expect("JSON");
    let active: Vec<&Value> =
        keys.as_array().expect("a list").iter().filter(|key| key["state"] == "active").collect();
    assert_eq!(active.len(), 1, "{keys}");
    assert_eq!(
        (&active[0]["kid"], &active[0]["alg"]),
        (&Value::from(new.public_key().thumbprint()), &Value::from("EdDSA"))
    );
}
