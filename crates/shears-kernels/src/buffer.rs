//! Buffers that are reused from step to step.
//!
//! Every training step allocates the same sizes. Fresh memory costs a page fault per 4 kB, which
//! took 30 % of the time of Burn's own operations. Dropping a buffer, or a tensor made of one,
//! therefore moves its block to a list of idle blocks, which serves the next allocation of that
//! size. Large blocks use 2 MB pages where available, because a pass over parameters and moments
//! touches pages of several large blocks at the same time.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::backend::flex::{FlexTensor, Layout as TensorLayout};
use burn::tensor::{DType, Shape, TensorData};
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};

/// A cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Sizes are rounded up to a multiple of this, so that nearly equal sizes share blocks.
const GRAIN: usize = 4096;

/// A large page on x86-64, and on 64-bit ARM with 4 kB pages. Blocks of at least this size are
/// aligned to it. Their sizes are not rounded up to it, to save memory: the remainder after the
/// last whole large page is in small pages.
const LARGE_PAGE: usize = 2 << 20;

/// The number of elements of a tensor with these dimensions.
///
/// # Panics
///
/// If it overflows `usize`, which would silently wrap.
pub(crate) fn elements(sizes: &[usize]) -> usize {
    let product = |product: usize, size: &usize| product.checked_mul(*size);
    let elements = sizes.iter().try_fold(1, product);
    elements.unwrap_or_else(|| panic!("a tensor {sizes:?} does not fit into the address space"))
}

/// Tensor data of the given shape, zeroed and then passed to `fill`.
///
/// A tensor on the CPU device uses this memory without a copy. It is aligned for vectors, and large
/// data is in large pages, as parameters and moments should be.
///
/// # Panics
///
/// If the shape has more elements than fit into the address space.
pub fn filled(shape: impl Into<Shape>, fill: impl FnOnce(&mut [f32])) -> TensorData {
    written(shape, |values| {
        values.fill(0.0);
        fill(values);
    })
}

/// Like [`filled`], but uninitialised: `write` must write every element.
///
/// # Panics
///
/// As [`filled`].
pub fn written(shape: impl Into<Shape>, write: impl FnOnce(&mut [f32])) -> TensorData {
    let shape = shape.into();
    let mut buffer = Buffer::uninitialised(elements(&shape.to_vec()));
    write(&mut buffer);
    TensorData::from_bytes(buffer.into_bytes(), shape, DType::F32)
}

/// Memory for `f32` elements. A reused block keeps its old contents.
#[derive(Debug)]
pub(crate) struct Buffer {
    block: Block,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` elements with arbitrary values. Write each before reading it.
    ///
    /// # Panics
    ///
    /// If the buffer does not fit into the address space.
    pub(crate) fn uninitialised(len: usize) -> Buffer {
        let bytes = len.checked_mul(size_of::<f32>());
        let block = bytes.and_then(Block::take);
        let block = block.unwrap_or_else(|| {
            panic!("a buffer of {len} elements does not fit into the address space")
        });
        Buffer { block, len }
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

    /// Converts the buffer to a contiguous tensor.
    ///
    /// # Panics
    ///
    /// If the shape has another number of elements.
    pub(crate) fn into_tensor(self, shape: impl Into<Shape>) -> FlexTensor {
        let shape = shape.into();
        assert_eq!(shape.num_elements(), self.len, "the shape of a buffer");
        let layout = TensorLayout::contiguous(shape);
        FlexTensor::new(self.into_bytes(), layout, DType::F32)
    }

    /// Converts the buffer to Burn's bytes, which return the block when dropped.
    fn into_bytes(self) -> Bytes {
        let bytes = size_of_val(&self[..]);
        // SAFETY: the first `bytes` of a block are initialised: it was zeroed when allocated.
        unsafe { Bytes::from_controller(Box::new(self.block), bytes) }
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
        // SAFETY: the block is initialised, aligned for f32, and at least `len` elements long.
        unsafe { std::slice::from_raw_parts(self.block.start.cast().as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the buffer owns its block.
        unsafe { std::slice::from_raw_parts_mut(self.block.start.cast().as_ptr(), self.len) }
    }
}

/// Initialised memory, aligned to [`ALIGNMENT`] or, if large, to [`LARGE_PAGE`]. Dropping it moves
/// it to the idle blocks.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: a block is the only owner of its memory.
unsafe impl Send for Block {}
// SAFETY: shared references only read.
unsafe impl Sync for Block {}

/// The idle blocks, oldest first, and the number of bytes in use.
#[derive(Debug)]
struct Idle {
    blocks: Vec<Block>,
    bytes: usize,
    in_use: usize,
    /// The peak of `in_use`.
    peak: usize,
}

static IDLE: Mutex<Idle> = Mutex::new(Idle {
    blocks: Vec::new(),
    bytes: 0,
    in_use: 0,
    peak: 0,
});

fn idle() -> MutexGuard<'static, Idle> {
    // The list is consistent after every statement, so a poisoned lock is harmless.
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    /// Takes the smallest idle block that fits and is at most 1.75 times as large, or allocates
    /// one. `None` if the size does not fit into the address space.
    fn take(bytes: usize) -> Option<Block> {
        let size = bytes.max(1).checked_next_multiple_of(GRAIN)?;
        let layout = Block::layout(size)?;
        let mut idle = idle();
        // The sum cannot overflow, because a valid layout is at most half of `usize`. The factor
        // 1.75 keeps an evaluation's queries, keys and values, which live long, out of the blocks
        // of SwiGLU's inputs, which are 1.83 times as large.
        let fits = |block: &Block| (size..=size + size / 4 * 3).contains(&block.size);
        let candidates = idle.blocks.iter().enumerate().rev();
        let best = candidates
            .filter(|(_, block)| fits(block))
            .min_by_key(|(_, block)| block.size);
        let found = best.map(|(index, _)| index);
        let size = found.map_or(size, |index| idle.blocks[index].size);
        idle.in_use += size;
        idle.peak = idle.peak.max(idle.in_use);
        Some(match found {
            Some(index) => {
                idle.bytes -= size;
                idle.blocks.remove(index)
            }
            None => {
                drop(idle);
                Block::new(layout)
            }
        })
    }

    /// Allocates a block of zeros. The size of the layout is not zero.
    fn new(layout: Layout) -> Block {
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) });
        let start = start.unwrap_or_else(|| handle_alloc_error(layout));
        // Before the first write, when the system chooses the page size.
        advise_large_pages(start, layout.size());
        // SAFETY: exactly these bytes were just allocated.
        unsafe { start.write_bytes(0, layout.size()) };
        Block {
            start,
            size: layout.size(),
        }
    }

    /// The layout of a block; `None` if it is too large for any address space.
    fn layout(size: usize) -> Option<Layout> {
        let alignment = match size {
            LARGE_PAGE.. => LARGE_PAGE,
            _ => ALIGNMENT,
        };
        Layout::from_size_align(size, alignment).ok()
    }

    fn free(self) {
        let layout = Block::layout(self.size).expect("a block was allocated with its layout");
        // SAFETY: `new` allocated it with this layout, and it is not used again.
        unsafe { dealloc(self.start.as_ptr(), layout) };
        std::mem::forget(self);
    }
}

/// Requests large pages on Linux; other systems decide by themselves.
fn advise_large_pages(start: NonNull<u8>, size: usize) {
    #[cfg(target_os = "linux")]
    if size >= LARGE_PAGE {
        let whole_pages = size - size % LARGE_PAGE;
        // SAFETY: the range belongs to one allocation, is page-aligned, and the advice changes no
        // content. A system without large pages refuses it, which is harmless.
        unsafe { libc::madvise(start.as_ptr().cast(), whole_pages, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, size);
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
        // Sizes change between training and evaluation. Free the longest-idle blocks first, so that
        // idle and used memory together never exceed twice the peak use.
        while idle.in_use + idle.bytes > 2 * idle.peak {
            let oldest = idle.blocks.remove(0);
            idle.bytes -= oldest.size;
            oldest.free();
        }
    }
}

impl AllocationController for Block {
    fn alloc_align(&self) -> usize {
        // Burn copies with this alignment, and supports no larger one.
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
    use burn::tensor::{Device, Tensor};

    use super::{Buffer, LARGE_PAGE, elements, filled};
    use crate::Elements;

    #[test]
    fn a_dropped_buffer_or_tensor_is_reused() {
        // A size that no other test uses.
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
    fn empty_buffers_are_allowed() {
        assert!(Buffer::zeros(0).is_empty());
        assert_eq!(Buffer::copy_of(&[1.0, 2.0])[..], [1.0, 2.0]);
    }

    #[test]
    fn large_buffers_are_aligned_to_large_pages() {
        for more in [0, 1, 1_000_003] {
            let len = LARGE_PAGE / size_of::<f32>() + more;
            let buffer = Buffer::zeros(len);
            assert_eq!((buffer.as_ptr() as usize) % LARGE_PAGE, 0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&element| element == 0.0));
            // Rounded up by less than one grain of 4 kB.
            assert!(buffer.block.size - size_of_val(&buffer[..]) < 4096);
        }
    }

    #[test]
    fn filled_data_is_not_copied() {
        let device = Device::flex();
        let mut address = std::ptr::null();
        let data = filled([3, 500_000], |elements| {
            address = elements.as_ptr();
            elements[7] = 1.5;
        });
        let tensor = Tensor::<2>::from_data(data, &device);
        let elements = Elements::of(tensor).unwrap();
        assert_eq!(elements.as_slice().as_ptr(), address);
        assert_eq!(elements.as_slice()[6..9], [0.0, 1.5, 0.0]);
        let elements = Elements::of(elements.into_tensor::<2>().autodiff().inner()).unwrap();
        assert_eq!(elements.as_slice().as_ptr(), address);
    }

    #[test]
    fn sizes_beyond_the_address_space_are_refused() {
        let message = |work: fn()| {
            let panic = std::panic::catch_unwind(work).unwrap_err();
            *panic.downcast::<String>().unwrap()
        };
        let refused: [fn(); 4] = [
            || drop(Buffer::uninitialised(usize::MAX)),
            // In bytes these wrap to zero, overflow when rounded up, and exceed the largest
            // allocation.
            || drop(Buffer::zeros(usize::MAX / 4 + 1)),
            || drop(Buffer::uninitialised(usize::MAX / 4)),
            || drop(Buffer::uninitialised(isize::MAX as usize / 4 + 1)),
        ];
        for work in refused {
            let message = message(work);
            assert!(message.starts_with("a buffer of "), "{message}");
            assert!(message.ends_with("does not fit into the address space"));
        }
        let message = message(|| drop(filled([1_usize << 40, 1 << 40], |_| {})));
        assert!(
            message.starts_with("a tensor [1099511627776, "),
            "{message}"
        );
        assert_eq!(elements(&[]), 1);
        assert_eq!(elements(&[3, 0, 5]), 0);
    }
}
