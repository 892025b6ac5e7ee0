//! Memory that is not there is a matter of the program, and no abort.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator. Where it has nothing left it calls a function, which ends the program in
/// its own words; Rust's own way is to abort.
#[derive(Debug)]
pub struct Allocator {
    exhausted: fn(usize),
}

impl Allocator {
    /// `exhausted` is told how many bytes were asked for. It should not return, and must not
    /// allocate much; if it returns, Rust aborts.
    #[must_use]
    pub const fn new(exhausted: fn(usize)) -> Self {
        Allocator { exhausted }
    }

    fn checked(&self, start: *mut u8, size: usize) -> *mut u8 {
        if start.is_null() {
            (self.exhausted)(size);
        }
        start
    }
}

// SAFETY: every call goes to the system's allocator with the arguments as they came, and its answer
// comes back as it is.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises what the system's allocator asks for.
        self.checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        self.checked(unsafe { System.realloc(start, layout, size) }, size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_cannot_be_had_is_told() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let allocator = Allocator::new(|size| ASKED.store(size, Ordering::Relaxed));
        let layout = Layout::from_size_align(64, 8).unwrap();
        let huge = Layout::from_size_align(isize::MAX as usize & !7, 8).unwrap();
        // SAFETY: the layouts are not of no bytes, and what was given is given back.
        unsafe {
            let start = black_box(allocator.alloc(layout));
            assert!(!start.is_null() && ASKED.load(Ordering::Relaxed) == 0);
            allocator.dealloc(start, layout);
            // Without this the compiler leaves out what nobody uses.
            assert!(black_box(allocator.alloc(black_box(huge))).is_null());
        }
        assert_eq!(ASKED.load(Ordering::Relaxed), huge.size());
    }
}
