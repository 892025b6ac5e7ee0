//! Buffers that are kept from step to step.
//!
//! A training step asks for the same sizes again and again. Memory that is fresh from the system
//! costs a page fault for every 4 kB, which took 30 % of the time of Burn's own operations. A buffer that
//! is dropped here, or a tensor that was made of one, goes to a list of idle buffers, and the next
//! one of its size comes from there.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::backend::flex::{FlexTensor, Layout as TensorLayout};
use burn::tensor::{DType, Shape};
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};

/// A cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Sizes are rounded up to a multiple of this, so that nearly equal ones serve each other.
const GRAIN: usize = 4096;

/// Numbers whose values are left over from an earlier use.
#[derive(Debug)]
pub(crate) struct Buffer {
    block: Block,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` numbers that hold anything; every one of them is to be written.
    pub(crate) fn uninitialised(len: usize) -> Buffer {
        Buffer {
            block: Block::take(len * size_of::<f32>()),
            len,
        }
    }

    /// A buffer of zeros.
    pub(crate) fn zeros(len: usize) -> Buffer {
        let mut buffer = Buffer::uninitialised(len);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of a slice.
    pub(crate) fn copy_of(values: &[f32]) -> Buffer {
        let mut buffer = Buffer::uninitialised(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    /// The buffer as a contiguous tensor of that shape.
    ///
    /// # Panics
    ///
    /// If the shape has another number of elements.
    pub(crate) fn into_tensor(self, shape: impl Into<Shape>) -> FlexTensor {
        let shape = shape.into();
        assert_eq!(shape.num_elements(), self.len, "the shape of a buffer");
        let bytes = self.len * size_of::<f32>();
        // SAFETY: the first `bytes` of a block are initialised: it was zeroed when it was made.
        let bytes = unsafe { Bytes::from_controller(Box::new(self.block), bytes) };
        FlexTensor::new(bytes, TensorLayout::contiguous(shape), DType::F32)
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        Buffer::copy_of(self)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the block is initialised, aligned for f32, and at least `len` numbers long.
        unsafe { std::slice::from_raw_parts(self.block.start.cast().as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the buffer owns its block.
        unsafe { std::slice::from_raw_parts_mut(self.block.start.cast().as_ptr(), self.len) }
    }
}

/// Memory that is initialised, aligned to [`ALIGNMENT`], and goes to the idle blocks when dropped.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: a block is the only owner of its memory.
unsafe impl Send for Block {}
// SAFETY: shared references only read.
unsafe impl Sync for Block {}

/// The idle blocks, oldest first, and how much is in use.
#[derive(Debug)]
struct Idle {
    blocks: Vec<Block>,
    bytes: usize,
    in_use: usize,
    /// The most that was ever in use.
    most: usize,
}

static IDLE: Mutex<Idle> = Mutex::new(Idle {
    blocks: Vec::new(),
    bytes: 0,
    in_use: 0,
    most: 0,
});

fn idle() -> MutexGuard<'static, Idle> {
    // The list is whole after every statement, so that a panic elsewhere does not spoil it.
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    /// The smallest idle block that is large enough and not more than twice too large, or a new one.
    fn take(bytes: usize) -> Block {
        let size = bytes.max(1).next_multiple_of(GRAIN);
        let mut idle = idle();
        let fits = |block: &Block| (size..=2 * size).contains(&block.size);
        let candidates = idle.blocks.iter().enumerate().rev();
        let best = candidates
            .filter(|(_, block)| fits(block))
            .min_by_key(|(_, block)| block.size);
        let found = best.map(|(index, _)| index);
        let size = found.map_or(size, |index| idle.blocks[index].size);
        idle.in_use += size;
        idle.most = idle.most.max(idle.in_use);
        match found {
            Some(index) => {
                idle.bytes -= size;
                idle.blocks.remove(index)
            }
            None => {
                drop(idle);
                Block::new(size)
            }
        }
    }

    fn new(size: usize) -> Block {
        let layout = Block::layout(size);
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Block { start, size },
            None => handle_alloc_error(layout),
        }
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, ALIGNMENT).expect("a buffer fits into the address space")
    }

    fn free(self) {
        // SAFETY: `new` allocated it with this layout, and it is not used again.
        unsafe { dealloc(self.start.as_ptr(), Block::layout(self.size)) };
        std::mem::forget(self);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let block = Block {
            start: self.start,
            size: self.size,
        };
        let mut idle = idle();
        idle.in_use -= block.size;
        idle.bytes += block.size;
        idle.blocks.push(block);
        // Sizes change when training turns to evaluation: what was idle the longest goes first, so
        // that idle and used memory together never exceed twice the most that was in use.
        while idle.in_use + idle.bytes > 2 * idle.most {
            let oldest = idle.blocks.remove(0);
            idle.bytes -= oldest.size;
            oldest.free();
        }
    }
}

impl AllocationController for Block {
    fn alloc_align(&self) -> usize {
        // What is promised to others; they copy with this alignment, and know none above it.
        align_of::<u128>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        _policy: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        // SAFETY: the block owns `size` bytes, and `MaybeUninit` has no other requirement.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.size) })
    }

    fn memory(&self, _policy: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        // SAFETY: as above.
        Ok(unsafe { std::slice::from_raw_parts(self.start.cast().as_ptr(), self.size) })
    }

    fn capacity(&self) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn a_dropped_buffer_or_tensor_serves_the_next_of_its_size() {
        // A size that no other test asks for.
        let len = 1_234_567;
        let buffer = Buffer::zeros(len);
        let address = buffer.as_ptr();
        let tensor = buffer.into_tensor([len]);
        assert_eq!(tensor.storage::<f32>().as_ptr(), address);
        assert_eq!(tensor.storage::<f32>().len(), len);
        let other = Buffer::uninitialised(len);
        assert_ne!(other.as_ptr(), address);
        drop(tensor);
        assert_eq!(Buffer::uninitialised(len - 3).as_ptr(), address);
        assert_eq!(address.align_offset(64), 0);
    }

    #[test]
    fn buffers_of_no_numbers_are_fine() {
        assert!(Buffer::zeros(0).is_empty());
        assert_eq!(Buffer::copy_of(&[1.0, 2.0])[..], [1.0, 2.0]);
    }
}
