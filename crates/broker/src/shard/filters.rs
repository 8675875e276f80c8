//! The subscriptions of one session: nearly always one or two, sometimes a hundred thousand.

use std::collections::HashMap;

use drawbridge_names::TopicFilter;

use super::session::Subscription;

/// Up to so many are a list, which takes only the room it needs.
const FEW: usize = 8;

#[derive(Default)]
pub(super) struct Filters {
    few: Vec<(TopicFilter, Subscription)>,
    /// All of them, once they were more than a few.
    #[expect(clippy::box_collection, reason = "most sessions have none, and pay eight bytes for it")]
    many: Option<Box<HashMap<TopicFilter, Subscription>>>,
}

impl Filters {
    pub(super) fn len(&self) -> usize {
        self.many.as_ref().map_or(self.few.len(), |many| many.len())
    }

    pub(super) fn get(&self, filter: &TopicFilter) -> Option<&Subscription> {
        match &self.many {
            Some(many) => many.get(filter),
            None => self.few.iter().find(|(known, _)| known == filter).map(|(_, subscription)| subscription),
        }
    }

    /// Adds the subscription, or replaces the one with this filter.
    pub(super) fn insert(&mut self, filter: TopicFilter, subscription: Subscription) {
        if let Some(many) = &mut self.many {
            many.insert(filter, subscription);
        } else if let Some((_, old)) = self.few.iter_mut().find(|(known, _)| *known == filter) {
            *old = subscription;
        } else if self.few.len() < FEW {
            self.few.reserve_exact(1);
            self.few.push((filter, subscription));
        } else {
            let mut many: HashMap<_, _> = std::mem::take(&mut self.few).into_iter().collect();
            many.insert(filter, subscription);
            self.many = Some(Box::new(many));
        }
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter) -> Option<Subscription> {
        if let Some(many) = &mut self.many {
            let removed = many.remove(filter);
            if many.is_empty() {
                self.many = None;
            }
            return removed;
        }
        let at = self.few.iter().position(|(known, _)| known == filter)?;
        Some(self.few.swap_remove(at).1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicFilter, &Subscription)> {
        let few = self.few.iter().map(|(filter, subscription)| (filter, subscription));
        few.chain(self.many.iter().flat_map(|many| many.iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_or_many_they_are_found_replaced_and_removed() {
        let subscription = |walk: u32| Subscription { walk: walk.into(), shared: None };
        let filter = |n: u32| TopicFilter::parse(&format!("a/{n}")).expect("a filter");
        let mut filters = Filters::default();
        for count in [1, 8, 9, 50] {
            for n in 0..count {
                filters.insert(filter(n), subscription(n));
                filters.insert(filter(n), subscription(n + 1));
            }
            assert_eq!((filters.len(), filters.iter().count()), (count as usize, count as usize));
            for n in 0..count {
                assert_eq!(filters.get(&filter(n)).map(|s| s.walk), Some(u64::from(n) + 1));
                assert_eq!(filters.remove(&filter(n)).map(|s| s.walk), Some(u64::from(n) + 1));
                assert!(filters.get(&filter(n)).is_none() && filters.remove(&filter(n)).is_none());
            }
            assert_eq!((filters.len(), filters.iter().count()), (0, 0));
        }
    }

    /// With the 150 bytes of `routes.rs` it makes the 300 that a wildcard filter may cost.
    #[test]
    fn of_a_hundred_thousand_filters_the_session_itself_keeps_less_than_100_bytes_each() {
        const COUNT: usize = 100_000;
        let mut filters = Filters::default();
        let mut texts = 0;
        for n in 0..COUNT {
            let filter = TopicFilter::parse(&format!("bench/{n}/in/+")).expect("a filter");
            // Two counters before the text, in steps of 16 bytes with 8 of the allocator's own.
            texts += (16 + filter.as_str().len() + 8).next_multiple_of(16);
            filters.insert(filter, Subscription { walk: 0, shared: None });
        }
        let many = filters.many.as_ref().expect("more than a few");
        // A table of the standard library is filled to 7/8 and has a byte beside each entry.
        let table = many.capacity() * 8 / 7 * (size_of::<(TopicFilter, Subscription)>() + 1);
        assert!(table + texts < 100 * COUNT, "{} bytes a filter", (table + texts) / COUNT);
    }
}
