//! One list of promises, checked on every store.
//!
//! A store's test opens an empty store for each promise and lets [`run`] check it:
//!
//! ```
//! # async fn test() {
//! use drawbridge_registry::{conformance, memory::MemoryStore};
//!
//! let kept = conformance::run(async |_| MemoryStore::new(), |promise| println!("{}", promise.name)).await;
//! assert_eq!(kept, conformance::promises().len());
//! # }
//! ```
//!
//! A broken promise panics, as a test does. The races here are run by one task; a store whose
//! answers come from other threads is raced in earnest by its own tests as well.

mod audit;
mod control;
mod enrolments;
mod fixtures;
mod imports;
mod jti;
mod keys;
mod links;
mod policies;
mod principals;
mod races;
mod registries;
mod replacement;
mod rotation;
mod tokens;

use std::future::Future;
use std::pin::Pin;

use crate::Store;

type Check = for<'a> fn(&'a dyn Store) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What a store must keep to.
#[derive(Clone, Copy)]
pub struct Promise {
    /// The promise, as the name of a test.
    pub name: &'static str,
    check: Check,
}

impl std::fmt::Debug for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Promise {
    /// Checks the promise on an empty store.
    ///
    /// # Panics
    /// When the store breaks it.
    pub async fn check(&self, store: &dyn Store) {
        (self.check)(store).await;
    }
}

/// Checks every promise, each on a store of its own from `open`, after telling which one; answers how
/// many there were.
///
/// # Panics
/// When the store breaks one.
pub async fn run<S: Store>(open: impl AsyncFn(&Promise) -> S, mut tell: impl FnMut(&Promise)) -> usize {
    let promises = promises();
    for promise in &promises {
        tell(promise);
        let store = open(promise).await;
        promise.check(&store).await;
    }
    promises.len()
}

macro_rules! list {
    ($($module:ident: $($check:ident),+;)+) => {
        vec![$($(Promise { name: stringify!($check), check: |store| Box::pin($module::$check(store)) }),+),+]
    };
}

/// All promises.
#[must_use]
pub fn promises() -> Vec<Promise> {
    list! {
        registries:
            a_registry_is_made_once_and_a_second_attempt_changes_nothing,
            registries_are_listed_in_byte_order_and_read_back_as_given,
            a_registrys_settings_change_and_nothing_else,
            a_registry_that_does_not_exist_takes_and_gives_nothing,
            two_registries_share_neither_devices_nor_keys_jti_tokens_policies_secrets_configs_or_audit;
        principals:
            a_principal_is_read_back_as_given_by_name_by_number_and_by_key,
            a_name_is_taken_whatever_the_kind_and_names_are_bytes,
            a_refused_principal_leaves_nothing_behind,
            a_number_is_never_given_twice_also_after_deletion,
            whoever_is_blocked_or_waits_is_listed_by_number,
            principals_are_paged_in_byte_order_without_gap_or_repetition,
            each_change_does_what_it_says_and_counts_the_revision,
            a_pending_principal_is_approved_once_and_stays_so,
            a_change_against_a_stale_revision_changes_nothing,
            a_revocation_never_moves_not_before_back,
            deletion_takes_all_that_was_the_principals_own_and_frees_its_name_and_keys;
        keys:
            a_key_is_added_up_to_the_limit_and_counts_the_revision,
            a_key_belongs_to_one_principal_also_when_retired,
            a_removed_key_is_retired_and_the_last_active_one_is_kept;
        replacement:
            a_replaced_key_goes_into_grace_and_the_new_one_is_active,
            a_replacement_that_cannot_be_done_changes_nothing_and_says_why_in_order,
            the_key_of_a_principal_that_is_admitted_nowhere_can_be_replaced_by_its_operator_only,
            a_keys_label_and_window_change_and_nothing_else,
            a_key_that_is_retired_or_not_the_principals_is_not_changed,
            the_last_use_of_a_key_only_moves_forward_and_is_no_change_of_the_record;
        imports:
            a_batch_is_judged_one_by_one_in_order_and_audited_as_one,
            a_batch_of_which_nothing_is_added_changes_nothing,
            a_batch_belongs_to_the_registry_it_was_given_to,
            a_large_batch_is_one_step;
        jti:
            a_jti_is_fresh_once_and_then_seen_with_its_first_token,
            jti_are_one_namespace_per_principal_whatever_their_sort,
            a_jti_is_forgotten_from_its_end_on_and_not_a_second_earlier,
            a_principal_full_of_live_jti_takes_no_more_until_one_ends,
            a_key_full_of_lasting_jti_takes_no_more_and_others_are_not_counted,
            lasting_jti_are_counted_by_key,
            lasting_jti_go_when_their_key_is_retired_and_not_before,
            a_jti_of_a_key_that_cannot_log_in_is_not_remembered,
            a_key_that_comes_back_after_deletion_brings_no_used_jti_back,
            a_key_that_was_retired_does_not_come_back_after_deletion_either;
        rotation:
            a_rotation_is_one_step_key_jti_revision_and_audit,
            a_rotation_without_grace_keeps_the_old_key_active,
            a_grace_never_lengthens_the_life_of_a_key,
            a_lost_answer_can_be_asked_for_again_and_a_key_in_grace_starts_nothing_new,
            a_rotation_to_a_key_that_is_known_or_in_use_changes_nothing,
            a_rotation_beyond_the_limits_changes_nothing,
            a_key_full_of_lasting_jti_can_still_be_replaced,
            a_rotation_by_a_key_that_is_not_active_changes_nothing,
            a_blocked_principal_replaces_no_key;
        control:
            config_versions_count_up_and_expect_the_one_before,
            the_last_ten_configs_are_kept_and_only_those_can_be_acknowledged,
            configs_are_paged_by_name_newest_only_and_without_devices_that_have_none,
            states_are_newest_first_and_the_last_ten_are_kept;
        policies:
            a_policy_is_kept_byte_for_byte_and_counts_its_revisions,
            the_first_secret_stays_until_it_is_replaced;
        tokens:
            a_token_is_read_back_as_given_until_its_end_and_not_a_second_longer,
            a_principal_full_of_good_tokens_gets_no_more_until_one_ends,
            a_token_that_was_not_renewed_may_be_used_again_and_again,
            a_renewal_keeps_the_successor_and_lets_the_old_token_run_out,
            a_renewal_whose_answer_was_lost_is_done_again_and_its_first_successor_is_forgotten,
            a_token_used_after_its_successor_ends_the_whole_family_and_no_other,
            a_token_whose_time_is_over_is_gone_and_accuses_nobody,
            ending_a_token_ends_its_family_and_tells_how_many_were_good,
            a_deleted_principals_tokens_are_gone,
            a_revoked_jti_is_listed_until_its_last_end,
            sweeping_takes_only_what_is_over;
        enrolments:
            a_device_without_keys_registers_itself_too,
            enrolments_are_read_back_as_given_and_listed_newest_first,
            an_enrolment_is_ended_once_and_is_still_found,
            a_device_registers_itself_with_one_claim_in_one_step,
            a_refused_enrolment_changes_nothing_and_says_why_in_order,
            a_claim_is_given_back_by_undoing_and_not_by_deleting,
            an_undone_enrolment_makes_room_for_another_device,
            enrolled_principals_are_paged_by_name_and_by_what_they_wait_for;
        links:
            a_link_is_made_and_taken_away_and_goes_one_way,
            the_devices_of_a_gateway_are_paged_and_the_gateways_of_a_device_listed,
            the_links_of_a_deleted_principal_go_with_it,
            a_ca_is_registered_once_listed_by_fingerprint_and_removed;
        audit:
            each_change_writes_one_audit_row_and_each_refusal_none,
            the_audit_is_one_chain_per_registry_that_verifies,
            the_audit_is_read_newest_first_in_pages,
            the_audit_is_read_oldest_first_from_any_row_on,
            the_heads_of_the_audit_are_the_newest_rows;
        races:
            of_eight_racing_for_one_jti_exactly_one_is_fresh,
            of_eight_rotations_of_one_key_exactly_one_is_done,
            of_eight_copies_of_one_update_exactly_one_is_done,
            of_eight_principals_of_one_name_exactly_one_is_added,
            of_eight_owners_of_one_key_exactly_one_is_registered,
            of_eight_changes_against_one_revision_exactly_one_is_done,
            of_eight_replacements_of_one_key_exactly_one_is_done,
            of_eight_batches_with_one_device_exactly_one_adds_it,
            of_eight_renewals_of_one_token_exactly_one_successor_is_left,
            of_eight_tokens_for_the_last_room_exactly_one_is_kept,
            of_eight_devices_for_the_last_claim_exactly_one_is_enrolled,
            of_eight_copies_of_one_enrolment_exactly_one_is_done,
            of_eight_links_of_one_pair_exactly_one_is_a_change;
    }
}
