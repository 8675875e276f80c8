//! Good JWTs, each with something wrong put into it by chance: nobody gets in, nothing panics, and no
//! attempt costs more than one signature check.

mod world;

use drawbridge_admission::{Audience, Peer, Refusal};
use drawbridge_testkit::{SeededRandom, TestDevice};
use world::{API, BRIDGE, ISSUER, World};

const ROUNDS: u64 = 400;

#[derive(Debug, Clone, Copy)]
enum Place {
    Token,
    Connect,
    Bearer,
    Update,
    AliasToken,
    AliasUpdate,
}

const PLACES: [Place; 6] =
    [Place::Token, Place::Connect, Place::Bearer, Place::Update, Place::AliasToken, Place::AliasUpdate];

fn below(random: &SeededRandom, end: usize) -> usize {
    usize::try_from(random.next() % end.max(1) as u64).expect("small")
}

/// One to three changes of a text: bytes flipped, cut out, put in, doubled, segments exchanged.
fn mutate(random: &SeededRandom, text: &str) -> Vec<u8> {
    const INTERESTING: &[u8] = b".=-_+/AZaz09 \n\0\"{}\xff\xc3";
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=below(random, 3) {
        let at = below(random, bytes.len());
        match random.next() % 7 {
            0 => bytes[at] ^= 1 << below(random, 8),
            1 => bytes[at] = INTERESTING[below(random, INTERESTING.len())],
            2 => bytes.insert(at, INTERESTING[below(random, INTERESTING.len())]),
            3 => drop(bytes.drain(at..(at + 1 + below(random, 40)).min(bytes.len()))),
            4 => bytes.truncate(at.max(1)),
            5 => {
                let piece = bytes[at..(at + below(random, 200)).min(bytes.len())].to_vec();
                let to = below(random, bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                let mut segments: Vec<&[u8]> = bytes.split(|byte| *byte == b'.').collect();
                let (a, b) = (below(random, segments.len()), below(random, segments.len()));
                segments.swap(a, b);
                bytes = segments.join(&b'.');
            }
        }
        if bytes.is_empty() {
            bytes.push(b'.');
        }
    }
    bytes
}

async fn present(world: &World, new: &TestDevice, place: Place, jwt: &[u8]) -> Result<(), Refusal> {
    let (admission, registry, peer) = (&world.admission, &world.registry, Peer::default());
    if let Place::Connect = place {
        let id = drawbridge_names::MqttClientId::parse("sensor").expect("a client id");
        return admission.connect(world::request(&id, Some(jwt))).await.map(drop);
    }
    // Everywhere else a JWT is text.
    let Ok(jwt) = std::str::from_utf8(jwt) else { return Err(Refusal::NoCredential) };
    match place {
        Place::Token => world.login(jwt).await.map(drop),
        Place::Bearer => admission.bearer(Some(registry), jwt, Audience::Api, peer).await.map(drop),
        Place::Update => {
            let pop = new.pop(ISSUER, jwt).sign();
            admission.update_key(registry, jwt, &pop, true, peer).await.map(drop)
        }
        Place::AliasToken => world.legacy_login(jwt).await.map(drop),
        Place::AliasUpdate => {
            admission.legacy_update_key(registry, jwt, &new.legacy_pop(jwt), peer).await.map(drop)
        }
        Place::Connect => unreachable!("judged above"),
    }
}

#[tokio::test]
async fn no_changed_jwt_is_good_anywhere_and_none_costs_more_than_one_check() {
    let seed = 0x1d_1dea;
    let random = SeededRandom::new(seed);
    let world = World::new().await;
    let device = world.legacy_device("sensor").await;
    world.application("backend", &TestDevice::new("backend"), "").await;
    let (new, now_s) = (TestDevice::new("sensor"), world.now_s());
    let good = [
        device.assertion(ISSUER, now_s).sign(),
        device.connect_jwt(BRIDGE, now_s).sign(),
        world.token(&device, Some(API)).await,
        device.update(ISSUER, now_s, new.public_key()).sign(),
        device.legacy_login().sign(),
        device.legacy_update(new.public_key()).sign(),
    ];
    let (mut tried, mut checked) = (0, 0);
    for round in 0..ROUNDS {
        for (jwt, place) in good.iter().zip(PLACES) {
            let changed = mutate(&random, jwt);
            // The padding of a C SDK is no change where it is tolerated.
            let bare: Vec<u8> = changed.iter().copied().filter(|byte| *byte != b'=').collect();
            if bare == jwt.as_bytes() {
                continue;
            }
            let before = world.checks();
            let found = present(&world, &new, place, &changed).await;
            let said = String::from_utf8_lossy(&changed).into_owned();
            let refusal = found.expect_err(&format!("seed {seed}, round {round}, {place:?}: {said}"));
            assert!(!refusal.is_proven(), "seed {seed}, round {round}, {place:?}: {refusal}: {said}");
            let checks = world.checks() - before;
            assert!(checks <= 1, "seed {seed}, round {round}, {place:?}: {checks} checks: {said}");
            (tried, checked) = (tried + 1, checked + checks);
        }
    }
    println!("{tried} changed JWTs, {checked} signature checks");
    assert!(tried > 2_000 && checked > 50, "{tried} {checked}");
    // None of it has spoilt the good ones.
    for (jwt, place) in good.iter().zip(PLACES) {
        present(&world, &new, place, jwt.as_bytes())
            .await
            .unwrap_or_else(|refusal| panic!("{place:?}: {refusal}"));
        if let Place::Update = place {
            break;
        }
    }
}
