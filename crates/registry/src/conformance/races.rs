//! Several at once: exactly one wins.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use super::fixtures::*;
use crate::*;

const RACERS: u8 = 8;

/// Runs all futures side by side in this task, until each has its answer.
async fn side_by_side<'a, T, F: Future<Output = T> + Send + 'a>(futures: impl Iterator<Item = F>) -> Vec<T> {
    enum Racer<'a, T> {
        Running(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
        Done(T),
    }
    let mut racers: Vec<Racer<'a, T>> = futures
        .map(|future| Racer::Running(Box::pin(future) as Pin<Box<dyn Future<Output = T> + Send>>))
        .collect();
    poll_fn(|context| {
        let mut all_done = true;
        for racer in &mut racers {
            if let Racer::Running(future) = racer {
                match future.as_mut().poll(context) {
                    Poll::Ready(answer) => *racer = Racer::Done(answer),
                    Poll::Pending => all_done = false,
                }
            }
        }
        if all_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let answer = |racer| match racer {
        Racer::Done(answer) => answer,
        Racer::Running(_) => unreachable!("`poll_fn` ends when all are done"),
    };
    racers.into_iter().map(answer).collect()
}

/// How many answers are the winner's; every other one must be a loser's.
#[track_caller]
fn exactly_one<T: std::fmt::Debug>(
    answers: &[Result<T, StoreError>],
    won: impl Fn(&T) -> bool,
    lost: impl Fn(&T) -> bool,
) {
    let is =
        |test: &dyn Fn(&T) -> bool| answers.iter().filter(|answer| answer.as_ref().is_ok_and(test)).count();
    assert_eq!((answers.len(), is(&won), is(&lost)), (8, 1, 7), "{answers:?}");
}

pub(super) async fn of_eight_racing_for_one_jti_exactly_one_is_fresh(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    for sort in [timed(1, 1, NOW_S + 9), lasting(2, 1)] {
        let racers = (0..RACERS).map(|racer| JtiMark { token_digest: [racer; 16], ..sort.clone() });
        let answers = side_by_side(racers.map(|mark| store.remember_jti(&registry, lamp, mark, NOW_S))).await;
        let winner = answers.iter().position(|answer| matches!(answer, Ok(JtiOutcome::Fresh)));
        let winner = u8::try_from(winner.expect("one is fresh")).expect("eight racers");
        let lost = JtiOutcome::Seen { token_digest: [winner; 16] };
        exactly_one(&answers, |answer| *answer == JtiOutcome::Fresh, |answer| *answer == lost);
    }
}

pub(super) async fn of_eight_rotations_of_one_key_exactly_one_is_done(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let racers = (0..RACERS).map(|racer| rotation(1, 10 + u32::from(racer), racer));
    let answers = side_by_side(
        racers.map(|racer| store.rotate_key(&registry, lamp, racer, NOW_S, entry("key.rotate"))),
    )
    .await;
    exactly_one(&answers, |a| *a == RotateKey::Rotated, |a| *a == RotateKey::OldNotActive);
    let now = known(store, &registry, lamp).await;
    assert_eq!((now.keys.len(), now.principal.revision), (2, 2));
    assert_eq!(audit(store, &registry).await.len(), 3);
}

pub(super) async fn of_eight_copies_of_one_update_exactly_one_is_done(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let racers = (0..RACERS).map(|_| rotation(1, 2, 1));
    let answers = side_by_side(
        racers.map(|racer| store.rotate_key(&registry, lamp, racer, NOW_S, entry("key.rotate"))),
    )
    .await;
    exactly_one(&answers, |a| *a == RotateKey::Rotated, |a| matches!(a, RotateKey::Seen { .. }));
    assert_eq!(known(store, &registry, lamp).await.keys.len(), 2);
}

pub(super) async fn of_eight_principals_of_one_name_exactly_one_is_added(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let racers = (0..RACERS).map(|racer| principal(&registry, "lamp", u64::from(racer)));
    let answers =
        side_by_side(racers.map(|racer| store.add_principal(racer, vec![], entry("device.add")))).await;
    exactly_one(&answers, |a| *a == AddPrincipal::Added, |a| matches!(a, AddPrincipal::NameTaken(_)));
    assert_eq!(store.principals(&registry, None, None, 9).await.expect("principals").len(), 1);
}

pub(super) async fn of_eight_owners_of_one_key_exactly_one_is_registered(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let racers = (0..RACERS).map(|racer| principal(&registry, &format!("lamp{racer}"), u64::from(racer)));
    let answers =
        side_by_side(racers.map(|racer| store.add_principal(racer, vec![key(1)], entry("device.add")))).await;
    exactly_one(&answers, |a| *a == AddPrincipal::Added, |a| *a == AddPrincipal::KeyInUse(kid(1)));
    assert_eq!(store.principals(&registry, None, None, 9).await.expect("principals").len(), 1);
}

pub(super) async fn of_eight_changes_against_one_revision_exactly_one_is_done(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let racers = (0..RACERS).map(|_| PrincipalChange::Revoke { not_before_s: NOW_S });
    let answers = side_by_side(
        racers.map(|change| store.change_principal(&registry, lamp, change, Some(1), entry("device.revoke"))),
    )
    .await;
    exactly_one(&answers, |a| matches!(a, Changed::Done(_)), |a| *a == Changed::Stale { revision: 2 });
    assert_eq!(known(store, &registry, lamp).await.principal.epoch.0, 1);
    let configs = (0..RACERS).map(|racer| vec![racer]);
    let answers = side_by_side(
        configs.map(|payload| store.set_config(&registry, lamp, payload, Some(0), 1, entry("config.set"))),
    )
    .await;
    exactly_one(&answers, |a| *a == SetConfig::Set { version: 1 }, |a| *a == SetConfig::Stale { version: 1 });
}

pub(super) async fn of_eight_replacements_of_one_key_exactly_one_is_done(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let old = kid(1);
    let racers = (0..RACERS).map(|racer| key(10 + u32::from(racer)));
    let answers = side_by_side(
        racers.map(|new| store.replace_key(&registry, lamp, &old, new, NOW_S + 60, 5, entry("key.replace"))),
    )
    .await;
    exactly_one(&answers, |a| *a == RotateKey::Rotated, |a| *a == RotateKey::OldNotActive);
    assert_eq!(known(store, &registry, lamp).await.principal.revision, 2);
}

pub(super) async fn of_eight_batches_with_one_device_exactly_one_adds_it(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let racers = (0..RACERS).map(|racer| {
        let uid = u64::from(racer);
        let own = principal(&registry, &format!("own{racer}"), uid);
        vec![(own, vec![]), (principal(&registry, "lamp", 10 + uid), vec![key(1)])]
    });
    let answers =
        side_by_side(racers.map(|batch| store.import_principals(&registry, batch, entry("device.import"))))
            .await;
    exactly_one(
        &answers,
        |a| a[..] == [AddPrincipal::Added, AddPrincipal::Added],
        |a| matches!(a[..], [AddPrincipal::Added, AddPrincipal::NameTaken(_)]),
    );
    assert_eq!(store.principals(&registry, None, None, 99).await.expect("principals").len(), 9);
}

pub(super) async fn of_eight_renewals_of_one_token_exactly_one_successor_is_left(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let added = store.add_token(&registry, kept_token(100, lamp), 9, NOW_S).await;
    assert_eq!(added.expect("add_token"), AddToken::Added);
    let successors =
        (0..RACERS).map(|racer| KeptToken { family: [100; 16], generation: 1, ..kept_token(racer, lamp) });
    let old = &[100; 32];
    let answers = side_by_side(
        successors.map(|successor| store.renew_token(&registry, old, successor, NOW_S + 60, NOW_S)),
    )
    .await;
    // Nobody has used a successor yet, so to each of the eight it is an answer that was lost.
    assert!(answers.iter().all(|answer| matches!(answer, Ok(TokenUse::Good(_)))), "{answers:?}");
    let mut left = 0;
    for racer in 0..RACERS {
        left += usize::from(store.token(&registry, &[racer; 32], NOW_S).await.expect("token").is_some());
    }
    assert_eq!(left, 1);
}

pub(super) async fn of_eight_tokens_for_the_last_room_exactly_one_is_kept(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let racers = (0..RACERS).map(|racer| kept_token(racer, lamp));
    let answers = side_by_side(racers.map(|token| store.add_token(&registry, token, 1, NOW_S))).await;
    exactly_one(&answers, |a| *a == AddToken::Added, |a| *a == AddToken::Full);
}

pub(super) async fn of_eight_devices_for_the_last_claim_exactly_one_is_enrolled(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let last = Enrolment { claims_max: 3, claims: 2, ..enrolment("e") };
    store.add_enrolment(&registry, last, entry("enrolment.add")).await.expect("add_enrolment");
    let racers = (0..RACERS).map(|racer| principal(&registry, &format!("pump{racer}"), u64::from(racer)));
    let answers = side_by_side(
        racers.map(|pump| store.enrol(&registry, "e", pump, vec![], NOW_S, entry("device.enrol"))),
    )
    .await;
    exactly_one(&answers, |a| *a == Enrol::Enrolled, |a| *a == Enrol::Spent);
    assert_eq!(store.principals(&registry, None, None, 99).await.expect("principals").len(), 1);
    assert_eq!(store.enrolments(&registry).await.expect("enrolments")[0].claims, 3);
}

pub(super) async fn of_eight_copies_of_one_enrolment_exactly_one_is_done(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    store.add_enrolment(&registry, enrolment("e"), entry("enrolment.add")).await.expect("add_enrolment");
    let racers = (0..RACERS).map(|racer| principal(&registry, "pump", u64::from(racer)));
    let answers = side_by_side(
        racers.map(|pump| store.enrol(&registry, "e", pump, vec![key(1)], NOW_S, entry("device.enrol"))),
    )
    .await;
    let taken = |a: &Enrol| matches!(a, Enrol::Refused(AddPrincipal::NameTaken(_)));
    exactly_one(&answers, |a| *a == Enrol::Enrolled, taken);
    assert_eq!(store.enrolments(&registry).await.expect("enrolments")[0].claims, 1);
}

pub(super) async fn of_eight_links_of_one_pair_exactly_one_is_a_change(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let gateway = make_device(store, &registry, "gateway", 2, &[]).await;
    let rows = audit(store, &registry).await.len();
    for (at, on) in [true, false].into_iter().enumerate() {
        let racers = (0..RACERS).map(|_| entry("gateway.link"));
        let answers = side_by_side(racers.map(|audit| store.link(&registry, gateway, lamp, on, audit))).await;
        exactly_one(&answers, |a| *a == Link::Changed, |a| *a == Link::Unchanged);
        assert_eq!(audit(store, &registry).await.len(), rows + at + 1);
    }
}
