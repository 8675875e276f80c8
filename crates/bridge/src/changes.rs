//! What is asked of admission because of a change is told to the shards in the order of the changes.
//!
//! The question waits for the store, and the next change may be told first: the answer is older then than what the
//! shards know. So it is told only if nothing was told of that principal meanwhile, else the question is asked again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use drawbridge_names::Uid;

/// Principals that share a count: a change of the one costs the other a question more.
const COUNTS: usize = 256;

/// How many changes there were.
#[derive(Debug)]
pub(crate) struct Changes(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    of_all: u64,
    of_some: [u64; COUNTS],
}

impl Default for Changes {
    fn default() -> Self {
        Self(Mutex::new(Counts { of_all: 0, of_some: [0; COUNTS] }))
    }
}

impl Changes {
    /// Tells of a change; of `None` if it may concern anybody. `tell` must not wait.
    pub(crate) fn tell(&self, uid: Option<Uid>, tell: impl FnOnce()) {
        let mut counts = self.lock();
        match uid {
            Some(uid) => counts.of_some[place(uid)] += 1,
            None => counts.of_all += 1,
        }
        tell();
    }

    /// Asks until nothing was told of the principal while the answer was on its way, and tells it.
    pub(crate) async fn ask_and_tell<F: Future>(
        &self,
        uid: Uid,
        mut ask: impl FnMut() -> F,
        tell: impl FnOnce(F::Output),
    ) {
        loop {
            let before = self.lock().of(uid);
            let answer = ask().await;
            let counts = self.lock();
            if counts.of(uid) == before {
                // With the lock held, so that nothing comes between.
                tell(answer);
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn of(&self, uid: Uid) -> (u64, u64) {
        (self.of_all, self.of_some[place(uid)])
    }
}

fn place(uid: Uid) -> usize {
    usize::try_from(uid.0 % COUNTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// What is told, in its order, when these changes come while the first answer is on its way.
    fn told(meanwhile: &[Option<Uid>]) -> (Vec<String>, u32) {
        let (changes, told, asked) = (Changes::default(), RefCell::new(Vec::new()), Cell::new(0));
        let ask = || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                let change = || told.borrow_mut().push("change".to_owned());
                meanwhile.iter().for_each(|uid| changes.tell(*uid, change));
            }
            std::future::ready(asked.get())
        };
        let all =
            changes.ask_and_tell(Uid(7), ask, |answer| told.borrow_mut().push(format!("answer {answer}")));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(all);
        (told.take(), asked.get())
    }

    #[test]
    fn an_answer_that_a_change_has_overtaken_is_asked_for_again_and_told_after_it() {
        assert_eq!(told(&[]), (vec!["answer 1".to_owned()], 1));
        for concerned in [Some(Uid(7)), None] {
            assert_eq!(
                told(&[concerned]),
                (vec!["change".to_owned(), "answer 2".to_owned()], 2),
                "{concerned:?}"
            );
        }
        assert_eq!(told(&[Some(Uid(8))]), (vec!["change".to_owned(), "answer 1".to_owned()], 1));
    }
}
