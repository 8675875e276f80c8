//! Opaque tokens and their renewals, and the `jti` of revoked signed ones.

use drawbridge_names::{RegistryName, Uid};

use super::fixtures::*;
use crate::*;

async fn add(store: &dyn Store, registry: &RegistryName, token: &KeptToken) {
    let added = store.add_token(registry, token.clone(), 100, NOW_S).await;
    assert_eq!(added.expect("add_token"), AddToken::Added);
}

async fn token_at(
    store: &dyn Store,
    registry: &RegistryName,
    token: &KeptToken,
    now_s: u64,
) -> Option<KeptToken> {
    store.token(registry, &token.digest, now_s).await.expect("token")
}

async fn use_at(store: &dyn Store, registry: &RegistryName, token: &KeptToken, now_s: u64) -> TokenUse {
    store.use_token(registry, &token.digest, now_s).await.expect("use_token")
}

/// Renews at `NOW_S`; the old one is good for a minute more.
async fn renew(store: &dyn Store, registry: &RegistryName, old: &KeptToken, new: &KeptToken) -> TokenUse {
    let renewed = store.renew_token(registry, &old.digest, new.clone(), NOW_S + 60, NOW_S).await;
    renewed.expect("renew_token")
}

/// The old token as a renewal leaves it.
fn renewed(token: &KeptToken) -> KeptToken {
    KeptToken { used: true, renewed: true, expires_s: NOW_S + 60, ..token.clone() }
}

/// What the next generation of `token`'s family is, under another digest.
fn after(token: &KeptToken, number: u8) -> KeptToken {
    KeptToken { digest: [number; 32], generation: token.generation + 1, ..token.clone() }
}

pub(super) async fn a_token_is_read_back_as_given_until_its_end_and_not_a_second_longer(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let before = audit(store, &registry).await;
    let odd = KeptToken {
        uid: lamp,
        generation: u32::MAX,
        claims: "{\"scope\":\"ä \\\"x\\\"\"}\n".into(),
        used: true,
        renewed: true,
        expires_s: NOW_S + 9,
        ..kept_token(1, lamp)
    };
    let plain = kept_token(2, lamp);
    add(store, &registry, &odd).await;
    add(store, &registry, &plain).await;
    for (now_s, expected) in [(0, true), (NOW_S + 8, true), (NOW_S + 9, false), (u64::MAX, false)] {
        let found = token_at(store, &registry, &odd, now_s).await;
        assert_eq!(found, expected.then(|| odd.clone()), "at {now_s}");
    }
    assert_eq!(token_at(store, &registry, &plain, NOW_S + 3599).await, Some(plain));
    assert_eq!(token_at(store, &registry, &kept_token(3, lamp), NOW_S).await, None);
    assert_eq!(audit(store, &registry).await, before, "tokens are not audited");
    assert_eq!(known(store, &registry, lamp).await.principal.revision, 1);
}

pub(super) async fn a_principal_full_of_good_tokens_gets_no_more_until_one_ends(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let pump = make_device(store, &registry, "pump", 2, &[2]).await;
    let at = async |token, live_max, now_s| {
        store.add_token(&registry, token, live_max, now_s).await.expect("add_token")
    };
    let short = |number| KeptToken { expires_s: NOW_S + 5, ..kept_token(number, lamp) };
    assert_eq!(at(short(1), 2, NOW_S).await, AddToken::Added);
    assert_eq!(at(kept_token(2, lamp), 2, NOW_S).await, AddToken::Added);
    assert_eq!(at(kept_token(3, lamp), 2, NOW_S).await, AddToken::Full);
    assert_eq!(token_at(store, &registry, &kept_token(3, lamp), NOW_S).await, None, "refused");
    assert_eq!(at(kept_token(3, lamp), 2, NOW_S + 4).await, AddToken::Full);
    assert_eq!(at(kept_token(4, pump), 2, NOW_S).await, AddToken::Added, "another's are not counted");
    assert_eq!(at(kept_token(3, lamp), 2, NOW_S + 5).await, AddToken::Added, "one ended");
    assert_eq!(at(kept_token(5, lamp), 2, NOW_S + 5).await, AddToken::Full);
    assert_eq!(at(kept_token(5, pump), 0, NOW_S).await, AddToken::Full);
    assert_eq!(at(kept_token(6, Uid(99)), 0, NOW_S).await, AddToken::Gone, "asked before the limit");
    // Ending one makes room as well.
    let ended = store.end_token(&registry, &[2; 32], NOW_S + 5).await;
    assert_eq!(ended.expect("end_token"), 1);
    assert_eq!(at(kept_token(5, lamp), 2, NOW_S + 5).await, AddToken::Added);
}

pub(super) async fn a_token_that_was_not_renewed_may_be_used_again_and_again(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let token = kept_token(1, lamp);
    add(store, &registry, &token).await;
    let used = KeptToken { used: true, ..token.clone() };
    for now_s in [NOW_S, NOW_S, NOW_S + 3599] {
        assert_eq!(use_at(store, &registry, &token, now_s).await, TokenUse::Good(used.clone()));
        assert_eq!(token_at(store, &registry, &token, now_s).await, Some(used.clone()));
    }
    // A later one of its family that did not come of it is no successor of it.
    let later = KeptToken { used: true, ..after(&token, 2) };
    add(store, &registry, &later).await;
    assert_eq!(use_at(store, &registry, &token, NOW_S).await, TokenUse::Good(used.clone()));
    assert_eq!(use_at(store, &registry, &token, NOW_S + 3600).await, TokenUse::Gone);
    assert_eq!(use_at(store, &registry, &kept_token(9, lamp), NOW_S).await, TokenUse::Gone);
    assert_eq!(renew(store, &registry, &kept_token(9, lamp), &kept_token(8, lamp)).await, TokenUse::Gone);
    assert_eq!(token_at(store, &registry, &kept_token(8, lamp), NOW_S).await, None);
}

pub(super) async fn a_renewal_keeps_the_successor_and_lets_the_old_token_run_out(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let first = kept_token(1, lamp);
    let second = KeptToken { claims: "{\"n\":2}".into(), expires_s: NOW_S + 7200, ..after(&first, 2) };
    add(store, &registry, &first).await;
    let answer = renew(store, &registry, &first, &second).await;
    assert_eq!(answer, TokenUse::Good(renewed(&first)));
    assert_eq!(token_at(store, &registry, &first, NOW_S + 59).await, Some(renewed(&first)));
    assert_eq!(token_at(store, &registry, &first, NOW_S + 60).await, None);
    assert_eq!(token_at(store, &registry, &second, NOW_S + 7199).await, Some(second.clone()));
    // The old one may still be used as long as nobody has used the new one.
    assert_eq!(use_at(store, &registry, &first, NOW_S).await, TokenUse::Good(renewed(&first)));

    // A grace never lengthens a life, and may be none at all.
    let brief = KeptToken { expires_s: NOW_S + 10, ..kept_token(3, lamp) };
    add(store, &registry, &brief).await;
    let answer = renew(store, &registry, &brief, &after(&brief, 4)).await;
    let expected = KeptToken { expires_s: NOW_S + 10, ..renewed(&brief) };
    assert_eq!(answer, TokenUse::Good(expected));
    let none = store.renew_token(&registry, &[4; 32], after(&after(&brief, 4), 5), NOW_S, NOW_S).await;
    assert!(matches!(none, Ok(TokenUse::Good(ref old)) if old.expires_s == NOW_S), "{none:?}");
    assert_eq!(store.token(&registry, &[4; 32], NOW_S).await.expect("token"), None);
    assert!(store.token(&registry, &[5; 32], NOW_S).await.expect("token").is_some());
}

pub(super) async fn a_renewal_whose_answer_was_lost_is_done_again_and_its_first_successor_is_forgotten(
    store: &dyn Store,
) {
    let (registry, lamp) = make_lamp(store).await;
    let first = kept_token(1, lamp);
    let (lost, second) = (after(&first, 2), after(&first, 3));
    add(store, &registry, &first).await;
    assert!(matches!(renew(store, &registry, &first, &lost).await, TokenUse::Good(_)));
    assert_eq!(renew(store, &registry, &first, &second).await, TokenUse::Good(renewed(&first)));
    assert_eq!(token_at(store, &registry, &lost, NOW_S).await, None);
    assert_eq!(use_at(store, &registry, &lost, NOW_S).await, TokenUse::Gone);
    assert_eq!(token_at(store, &registry, &second, NOW_S).await, Some(second.clone()));
    // The end that the first renewal set is not moved by a later one.
    let later = store.renew_token(&registry, &first.digest, after(&first, 4), NOW_S + 90, NOW_S + 30).await;
    assert_eq!(later.expect("renew_token"), TokenUse::Good(renewed(&first)));
    assert_eq!(token_at(store, &registry, &second, NOW_S).await, None);
}

pub(super) async fn a_token_used_after_its_successor_ends_the_whole_family_and_no_other(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let pump = make_device(store, &registry, "pump", 2, &[2]).await;
    type Again = fn(&KeptToken) -> (&'static str, Option<KeptToken>);
    let ways: [Again; 2] =
        [|_| ("used again", None), |first| ("renewed again", Some(after(first, first.digest[0] + 4)))];
    for (round, way) in ways.into_iter().enumerate() {
        let number = 10 * u8::try_from(round + 1).expect("two rounds");
        let first = kept_token(number, lamp);
        let (second, third) = (after(&first, number + 1), after(&after(&first, number + 1), number + 2));
        let other_family = kept_token(number + 5, lamp);
        let of_pump = KeptToken { family: first.family, ..kept_token(number + 6, pump) };
        for token in [&first, &other_family, &of_pump] {
            add(store, &registry, token).await;
        }
        assert!(matches!(renew(store, &registry, &first, &second).await, TokenUse::Good(_)));
        assert!(matches!(use_at(store, &registry, &second, NOW_S).await, TokenUse::Good(_)));
        assert!(matches!(renew(store, &registry, &second, &third).await, TokenUse::Good(_)));
        // Whoever has the first token is not whoever has the second.
        let (what, successor) = way(&first);
        let answer = match &successor {
            None => use_at(store, &registry, &first, NOW_S + 1).await,
            Some(successor) => renew(store, &registry, &first, successor).await,
        };
        assert_eq!(answer, TokenUse::Stolen, "{what}");
        for token in [&first, &second, &third].into_iter().chain(&successor) {
            assert_eq!(token_at(store, &registry, token, NOW_S).await, None, "{what}");
            assert_eq!(use_at(store, &registry, token, NOW_S).await, TokenUse::Gone, "{what}");
        }
        for token in [&other_family, &of_pump] {
            assert_eq!(token_at(store, &registry, token, NOW_S).await.as_ref(), Some(token), "{what}");
        }
    }
}

pub(super) async fn a_token_whose_time_is_over_is_gone_and_accuses_nobody(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let first = kept_token(1, lamp);
    let second = after(&first, 2);
    add(store, &registry, &first).await;
    assert!(matches!(renew(store, &registry, &first, &second).await, TokenUse::Good(_)));
    assert!(matches!(use_at(store, &registry, &second, NOW_S).await, TokenUse::Good(_)));
    assert_eq!(use_at(store, &registry, &first, NOW_S + 60).await, TokenUse::Gone);
    let renewal = store.renew_token(&registry, &first.digest, after(&first, 3), NOW_S + 99, NOW_S + 60).await;
    assert_eq!(renewal.expect("renew_token"), TokenUse::Gone);
    assert_eq!(store.end_token(&registry, &first.digest, NOW_S + 60).await.expect("end_token"), 0);
    let used = KeptToken { used: true, ..second.clone() };
    assert_eq!(token_at(store, &registry, &second, NOW_S + 60).await, Some(used));
    // A later one that was used, but whose time is over, accuses nobody either.
    let third = kept_token(4, lamp);
    let brief = KeptToken { expires_s: NOW_S + 5, ..after(&third, 5) };
    add(store, &registry, &third).await;
    assert!(matches!(renew(store, &registry, &third, &brief).await, TokenUse::Good(_)));
    assert!(matches!(use_at(store, &registry, &brief, NOW_S).await, TokenUse::Good(_)));
    assert_eq!(use_at(store, &registry, &third, NOW_S + 5).await, TokenUse::Good(renewed(&third)));
}

pub(super) async fn ending_a_token_ends_its_family_and_tells_how_many_were_good(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let first = kept_token(1, lamp);
    let (second, other) = (after(&first, 2), kept_token(3, lamp));
    add(store, &registry, &first).await;
    add(store, &registry, &other).await;
    assert!(matches!(renew(store, &registry, &first, &second).await, TokenUse::Good(_)));
    let ended = async |token: &KeptToken, now_s| {
        store.end_token(&registry, &token.digest, now_s).await.expect("end_token")
    };
    assert_eq!(ended(&kept_token(9, lamp), NOW_S).await, 0, "unknown");
    assert_eq!(ended(&second, NOW_S + 59).await, 2);
    assert_eq!(ended(&second, NOW_S + 59).await, 0, "again");
    for token in [&first, &second] {
        assert_eq!(token_at(store, &registry, token, NOW_S).await, None);
    }
    assert_eq!(token_at(store, &registry, &other, NOW_S).await, Some(other.clone()));
    // Of those whose time is over none was good.
    let fourth = after(&other, 4);
    assert!(matches!(renew(store, &registry, &other, &fourth).await, TokenUse::Good(_)));
    assert_eq!(ended(&fourth, NOW_S + 60).await, 1);
}

pub(super) async fn a_deleted_principals_tokens_are_gone(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let pump = make_device(store, &registry, "pump", 2, &[2]).await;
    for token in [kept_token(1, lamp), kept_token(2, pump)] {
        add(store, &registry, &token).await;
    }
    assert!(store.delete_principal(&registry, lamp, entry("device.delete")).await.expect("delete_principal"));
    assert_eq!(token_at(store, &registry, &kept_token(1, lamp), NOW_S).await, None);
    assert_eq!(use_at(store, &registry, &kept_token(1, lamp), NOW_S).await, TokenUse::Gone);
    let more = store.add_token(&registry, kept_token(3, lamp), 100, NOW_S).await;
    assert_eq!(more.expect("add_token"), AddToken::Gone);
    assert!(token_at(store, &registry, &kept_token(2, pump), NOW_S).await.is_some());
}

pub(super) async fn a_revoked_jti_is_listed_until_its_last_end(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    let before = (audit(store, &registry).await, audit(store, &other).await);
    for (jti, until_s) in [(7, NOW_S + 9), (3, NOW_S + 5), (7, NOW_S + 4), (3, NOW_S + 20), (3, NOW_S + 20)] {
        store.revoke_jti(&registry, [jti; 16], until_s).await.expect("revoke_jti");
    }
    store.revoke_jti(&other, [5; 16], NOW_S + 99).await.expect("revoke_jti");
    for (now_s, expected) in [
        (NOW_S, [([3; 16], NOW_S + 20), ([7; 16], NOW_S + 9)].as_slice()),
        (NOW_S + 8, &[([3; 16], NOW_S + 20), ([7; 16], NOW_S + 9)]),
        (NOW_S + 9, &[([3; 16], NOW_S + 20)]),
        (NOW_S + 20, &[]),
    ] {
        let listed = store.revoked_jtis(&registry, now_s).await.expect("revoked_jtis");
        assert_eq!(listed, expected, "at {now_s}");
    }
    let listed = store.revoked_jtis(&other, NOW_S).await.expect("revoked_jtis");
    assert_eq!(listed, [([5; 16], NOW_S + 99)]);
    let after = (audit(store, &registry).await, audit(store, &other).await);
    assert_eq!(after, before, "nothing is audited");
}

pub(super) async fn sweeping_takes_only_what_is_over(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let at = |number: u8| KeptToken { expires_s: NOW_S + u64::from(number), ..kept_token(number, lamp) };
    for number in 1..=60 {
        add(store, &registry, &at(number)).await;
        store.revoke_jti(&registry, [number; 16], NOW_S + u64::from(number)).await.expect("revoke_jti");
    }
    // Each one that is kept sweeps in passing.
    for number in 100..110 {
        let token = KeptToken { expires_s: NOW_S + 500, ..kept_token(number, lamp) };
        let added = store.add_token(&registry, token, 100, NOW_S + 30).await;
        assert_eq!(added.expect("add_token"), AddToken::Added);
    }
    for number in 1..=60 {
        let found = token_at(store, &registry, &at(number), NOW_S + 30).await;
        assert_eq!(found.is_some(), number > 30, "token {number}");
    }
    let listed = store.revoked_jtis(&registry, NOW_S + 30).await.expect("revoked_jtis");
    assert_eq!(listed.iter().map(|(jti, _)| jti[0]).collect::<Vec<_>>(), (31..=60).collect::<Vec<_>>());
}
