//! I10: nothing secret stands in `Debug`, so none can come into a log by way of it.

mod world;

use drawbridge_admission::{Actor, AesSeal};
use drawbridge_names::MqttClientId;
use world::{ISSUER, World, request};

const PASSWORD: &str = "correct horse battery";

#[tokio::test]
async fn i10_nothing_secret_stands_in_debug() {
    let world = World::new().await;
    let device = world.device("lamp").await;
    let (admission, registry) = (&world.admission, &world.registry);
    let grant = world.login(&device.assertion(ISSUER, world.now_s()).sign()).await.expect("logged in");
    let secret = admission.make_secret(registry, &device.name, None, &Actor::Admin).await.expect("made").1;
    let of_secret = admission.show(registry, &device.name).await.expect("shown");
    let set = admission.set_password(registry, &device.name, Some(PASSWORD), None, &Actor::Admin).await;
    let of_password = set.expect("set");
    let client_id = MqttClientId::parse("lamp").expect("an id");
    let shown = [
        format!("{admission:?}"),
        format!("{grant:?}"),
        format!("{of_secret:?}"),
        format!("{of_password:?}"),
        format!("{:?}", request(&client_id, Some(PASSWORD.as_bytes()))),
        format!("{:?}", AesSeal::new([0x5a; 32])),
    ];
    // Bytes are shown as numbers: of a verifier, which is no secret but helps who guesses, not even these.
    let kept: Vec<String> = [of_password.password, of_secret.and_then(|known| known.principal.password)]
        .into_iter()
        .map(|kept| format!("{:?}", kept.expect("a verifier")))
        .map(|kept| kept.trim_matches(['[', ']']).to_owned())
        .collect();
    for shown in shown {
        for hidden in [PASSWORD, &secret, &grant.access_token, "90, 90"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
        assert!(!kept.iter().any(|kept| shown.contains(kept)), "{shown}");
    }
}
