//! Buffers that are kept from step to step.
//!
//! Every training step allocates the same sizes. Fresh memory costs a page fault for every 4 kB,
//! which took 30 % of the time of Burn's own operations. A buffer that is dropped, or a tensor made
//! of one, therefore goes to a list of idle blocks, and the next allocation of its size is served
//! from there. Large blocks are in pages of 2 MB where the system has them, because a pass over
//! parameters and moments touches pages of several large blocks at the same time.

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

/// Sizes are rounded up to a multiple of this, so that nearly equal ones serve each other.
const GRAIN: usize = 4096;

/// A large page of x86-64, and of 64-bit ARM where pages have 4 kB. Blocks of at least this size
/// are aligned to it. Their sizes are not rounded up to it, so that they take no more memory: what
/// remains after the last whole large page is in small ones.
const LARGE_PAGE: usize = 2 << 20;

/// The number of elements of a tensor of these sizes.
///
/// # Panics
///
/// If it does not fit into a `usize`, which would wrap to a small number in silence.
pub(crate) fn elements(sizes: &[usize]) -> usize {
    let product = |product: usize, size: &usize| product.checked_mul(*size);
    let elements = sizes.iter().try_fold(1, product);
    elements.unwrap_or_else(|| panic!("a tensor {sizes:?} does not fit into the address space"))
}

/// Data of that shape for a tensor on any device, of elements that start as zero and that `fill`
/// changes.
///
/// A tensor on the CPU device keeps the memory without a copy. It is aligned for vectors and in
/// large pages where it is large, as parameters and moments should be.
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

/// As [`filled`], but the elements start as anything: `write` is to write each of them.
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

/// Memory for `f32` elements; a block that was used before keeps its old contents.
#[derive(Debug)]
pub(crate) struct Buffer {
    block: Block,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` elements with arbitrary values; each is to be written before it is read.
    ///
    /// # Panics
    ///
    /// If they do not fit into the address space.
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

    /// The buffer as a contiguous tensor of that shape.
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

    /// The buffer as memory of Burn's, which comes back here when it is dropped.
    fn into_bytes(self) -> Bytes {
        let bytes = size_of_val(&self[..]);
        // SAFETY: the first `bytes` of a block are initialised: it was zeroed when it was made.
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

/// Memory that is initialised, aligned to [`ALIGNMENT`] or, if it is large, to [`LARGE_PAGE`], and
/// goes to the idle blocks when dropped.
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
    /// The smallest idle block that is large enough, and less than twice as large, or a new
    /// one. `None` if the bytes do not fit into the address space.
    fn take(bytes: usize) -> Option<Block> {
        let size = bytes.max(1).checked_next_multiple_of(GRAIN)?;
        let layout = Block::layout(size)?;
        let mut idle = idle();
        // A size that has a layout is at most half of what a `usize` holds. The quarter less than
        // twice keeps what an evaluation holds for long, queries with keys and values, out of
        // blocks for what goes into SwiGLU, 1.83 times as large.
        let fits = |block: &Block| (size..=size + size / 4 * 3).contains(&block.size);
        let candidates = idle.blocks.iter().enumerate().rev();
        let best = candidates
            .filter(|(_, block)| fits(block))
            .min_by_key(|(_, block)| block.size);
        let found = best.map(|(index, _)| index);
        let size = found.map_or(size, |index| idle.blocks[index].size);
        idle.in_use += size;
        idle.most = idle.most.max(idle.in_use);
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

    /// A block of zeros; its layout has a size above zero.
    fn new(layout: Layout) -> Block {
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) });
        let start = start.unwrap_or_else(|| handle_alloc_error(layout));
        // Before the first write: that is when the system chooses the size of a page.
        advise_large_pages(start, layout.size());
        // SAFETY: these are the bytes that were allocated just now.
        unsafe { start.write_bytes(0, layout.size()) };
        Block {
            start,
            size: layout.size(),
        }
    }

    /// How a block of a size is allocated; none if it is too large for any address space.
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

/// Asks Linux for large pages, which it gives on request; other systems decide by themselves.
fn advise_large_pages(start: NonNull<u8>, size: usize) {
    #[cfg(target_os = "linux")]
    if size >= LARGE_PAGE {
        let whole_pages = size - size % LARGE_PAGE;
        // SAFETY: the range belongs to one allocation, begins at a page because of its alignment,
        // and the advice changes no content. A system without large pages refuses it, which changes
        // nothing.
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
        // The alignment that Burn is told: what it copies has this one, and no larger one is
        // supported.
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
    fn buffers_of_no_elements_are_fine() {
        assert!(Buffer::zeros(0).is_empty());
        assert_eq!(Buffer::copy_of(&[1.0, 2.0])[..], [1.0, 2.0]);
    }

    #[test]
    fn large_buffers_begin_at_large_pages_and_hold_what_was_asked_for() {
        for more in [0, 1, 1_000_003] {
            let len = LARGE_PAGE / size_of::<f32>() + more;
            let buffer = Buffer::zeros(len);
            assert_eq!((buffer.as_ptr() as usize) % LARGE_PAGE, 0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&element| element == 0.0));
            // Less than one grain of 4 kB more than what was asked for.
            assert!(buffer.block.size - size_of_val(&buffer[..]) < 4096);
        }
    }

    #[test]
    fn filled_data_stays_where_it_is() {
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
            // Four bytes each wrap to zero, to one grain too little, and to more than a pointer
            // reaches.
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
