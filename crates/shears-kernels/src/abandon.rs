//! Abandons operations: a caller that was asked to stop in a forward or backward pass of many
//! seconds gets it back at the next operation.

use std::cell::Cell;
use std::ptr::NonNull;

/// A call of [`unless`].
struct Scope<'a> {
    stops: &'a dyn Fn() -> bool,
    is_abandoned: Cell<bool>,
}

thread_local! {
    /// The innermost call of [`unless`] on this thread.
    static SCOPE: Cell<Option<NonNull<Scope<'static>>>> = const { Cell::new(None) };
}

/// Restores the outer scope, also if the work panics.
struct Restore(Option<NonNull<Scope<'static>>>);

impl Drop for Restore {
    fn drop(&mut self) {
        SCOPE.set(self.0);
    }
}

/// Runs `work`; `None` if `stops` before it, or before one of the operations of this crate that
/// `work` calls on this thread. From then on the large ones compute nothing and return zeros, as do
/// all backward passes, so that `work` soon returns. `stops` is not asked again.
pub fn unless<T>(stops: &dyn Fn() -> bool, work: impl FnOnce() -> T) -> Option<T> {
    let scope = Scope {
        stops,
        is_abandoned: Cell::new(false),
    };
    let erased = NonNull::from(&scope).cast::<Scope<'static>>();
    let restore = Restore(SCOPE.replace(Some(erased)));
    let found = (!is_abandoned()).then(work);
    drop(restore);
    found.filter(|_| !scope.is_abandoned.get())
}

/// Whether the work that calls this operation is abandoned.
pub(crate) fn is_abandoned() -> bool {
    let Some(scope) = SCOPE.get() else {
        return false;
    };
    // SAFETY: `SCOPE` has a scope only within `unless`, on whose stack it lies.
    let scope = unsafe { scope.as_ref() };
    if !scope.is_abandoned.get() && (scope.stops)() {
        scope.is_abandoned.set(true);
    }
    scope.is_abandoned.get()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn scopes_nest_and_end() {
        assert!(!is_abandoned());
        let asked = Cell::new(0);
        let at_third = || asked.replace(asked.get() + 1) == 2;
        let found = unless(&at_third, || {
            assert!(!is_abandoned());
            assert_eq!(unless(&|| false, is_abandoned), Some(false));
            assert_eq!(unless(&|| true, is_abandoned), None);
            assert!(is_abandoned() && is_abandoned(), "it stays abandoned");
        });
        assert_eq!((found, asked.get()), (None, 3));
        let panics = || unless(&|| false, || panic!("as meant"));
        let panicked = catch_unwind(AssertUnwindSafe(panics));
        assert!(panicked.is_err() && !is_abandoned());
    }
}
