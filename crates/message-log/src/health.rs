//! Whether the log can store: what is in the way, who is told, and what a panic of its threads comes to.
//!
//! A thread that hangs cannot say so, and the disk that hangs may hang all who use it: so a *watch* that uses none
//! looks after the writer.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use drawbridge_broker::storage::StorageListener;

use crate::Shared;
use crate::error::{BROKEN, STALLED};

/// What the writer is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Write,
    /// It waits for the keeper, which is too far behind.
    Keeper,
}

/// Called once, from the thread that panicked.
pub(crate) type OnBroken = Box<dyn FnOnce() + Send>;

pub(crate) struct Health {
    shared: Arc<Shared>,
    listener: Arc<dyn StorageListener>,
    broken: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// What the writer is at, and since when.
    step: Option<(Step, Instant)>,
    on_broken: Option<OnBroken>,
    // What is in the way.
    refused: bool,
    hangs: bool,
    broken: bool,
    /// What the listener was told last.
    told: bool,
}

impl Health {
    pub(crate) fn new(shared: Arc<Shared>, listener: Arc<dyn StorageListener>, on_broken: OnBroken) -> Self {
        let on_broken = Some(on_broken);
        let state = State { step: None, on_broken, refused: false, hangs: false, broken: false, told: false };
        Self { shared, listener, broken: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// A thread has panicked: nothing is stored any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(SeqCst)
    }

    /// The writer begins with something that may take forever.
    pub(crate) fn begin(&self, step: Step) {
        self.lock().step = Some((step, (self.shared.clock)()));
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.step = None;
        state.hangs = false;
        self.tell(&mut state);
    }

    /// A write has failed, or succeeded again.
    pub(crate) fn wrote(&self, result: Result<(), &io::Error>) {
        let mut state = self.lock();
        (state.step, state.hangs) = (None, false);
        if let Err(error) = result
            && !std::mem::replace(&mut state.refused, true)
        {
            tracing::error!(
                code = STALLED, %error,
                "the message log cannot be written; nothing is acknowledged that has to be stored; it is tried again"
            );
        }
        state.refused = result.is_err();
        self.tell(&mut state);
    }

    /// Until the log is closed: looks whether the writer hangs.
    pub(crate) fn watch(&self) {
        let hangs_after = self.shared.config.hangs_after;
        let every = (hangs_after / 4).clamp(Duration::from_millis(1), Duration::from_secs(1));
        let mut is_over = self.shared.watched.lock();
        while !*is_over && !self.is_broken() {
            self.look(hangs_after);
            is_over = self.shared.watched.wait(is_over, Some(every));
        }
    }

    fn look(&self, hangs_after: Duration) {
        let mut state = self.lock();
        let Some((step, since)) = state.step else { return };
        let takes = (self.shared.clock)().saturating_duration_since(since);
        if takes < hangs_after || std::mem::replace(&mut state.hangs, true) {
            return;
        }
        let after_s = takes.as_secs();
        match step {
            Step::Write => tracing::error!(
                code = STALLED,
                after_s,
                "a write of the message log has not ended; nothing is acknowledged that has to be stored: look at the disk"
            ),
            Step::Keeper => tracing::error!(
                code = STALLED,
                after_s,
                "the checkpoints of the message log do not keep up; nothing is acknowledged that has to be stored: \
                 look at the disk"
            ),
        }
        self.tell(&mut state);
    }

    /// Runs a thread of the log. If it panics, the log is at its end, and says so.
    pub(crate) fn guard(&self, thread: &str, run: impl FnOnce()) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else { return };
        tracing::error!(
            code = BROKEN,
            thread,
            panic = words(&*panic),
            "a thread of the message log has panicked; nothing is stored any more: start the server again, and report this"
        );
        self.broken.store(true, SeqCst);
        let mut state = self.lock();
        state.broken = true;
        self.tell(&mut state);
        let on_broken = state.on_broken.take();
        drop(state);
        self.shared.wake_all();
        if let Some(on_broken) = on_broken {
            on_broken();
        }
    }

    /// Tells what has changed. With the lock held, so that the last word is the last.
    fn tell(&self, state: &mut State) {
        let stalled = state.refused || state.hangs || state.broken;
        if std::mem::replace(&mut state.told, stalled) == stalled {
            return;
        }
        if !stalled {
            tracing::info!("the message log is written again");
        }
        self.shared.counters.stalled.store(stalled, Relaxed);
        self.listener.stalled(stalled);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}
