//! Lets the program handle out-of-memory instead of aborting, and says what becomes of freed memory.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system allocator, which on out-of-memory calls a function that can exit with a message,
/// where Rust would abort.
#[derive(Debug)]
pub struct Allocator {
    exhausted: fn(usize),
}

impl Allocator {
    /// Creates an allocator that calls `exhausted` with the size in bytes of a failed allocation.
    /// `exhausted` should exit, and must allocate little; if it returns, Rust aborts.
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

// SAFETY: every call forwards its arguments to the system allocator and returns the result
// unchanged.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `GlobalAlloc`, which is that of `System`.
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

/// Returns freed blocks of 128 KiB and more to the system at once, in this process, from now on. It
/// is for programs whose threads allocate blocks of many sizes and live long: glibc maps large blocks
/// one by one too, but after freeing one it takes others of up to its size from the heap of each
/// thread, which keeps them. Training reuses its blocks at every step, and would be slower.
///
/// No effect with other C libraries than glibc.
pub fn return_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number of the allocator, under its lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn failed_allocations_are_reported() {
        static REPORTED: AtomicUsize = AtomicUsize::new(0);
        let allocator = Allocator::new(|size| REPORTED.store(size, Ordering::Relaxed));
        let layout = Layout::from_size_align(64, 8).unwrap();
        let huge = Layout::from_size_align(isize::MAX as usize & !7, 8).unwrap();
        // SAFETY: the layouts are not empty, and the allocation is freed with its layout.
        unsafe {
            let start = black_box(allocator.alloc(layout));
            assert!(!start.is_null() && REPORTED.load(Ordering::Relaxed) == 0);
            allocator.dealloc(start, layout);
            // `black_box` keeps the compiler from removing the unused allocation.
            assert!(black_box(allocator.alloc(black_box(huge))).is_null());
        }
        assert_eq!(REPORTED.load(Ordering::Relaxed), huge.size());
    }
}
