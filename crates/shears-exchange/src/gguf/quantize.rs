//! Converts `f32` to smaller types.

use std::io::{self, Write};

use half::f16;

use super::BLOCK;

fn elements(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let elements = bytes.as_chunks::<4>().0.iter();
    elements.map(|element| f32::from_le_bytes(*element))
}

/// Half precision, rounded to nearest and saturating.
pub(super) fn write_f16(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    for element in elements(bytes) {
        let limit = f16::MAX.to_f32();
        let half = f16::from_f32(element.clamp(-limit, limit));
        out.write_all(&half.to_le_bytes())?;
    }
    Ok(())
}

/// ggml's `q8_0`: for each block of 32 elements, a half-precision scale, which is the largest
/// magnitude over 127, and each element divided by it and rounded.
pub(super) fn write_q8(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    for block in bytes.chunks(4 * BLOCK) {
        let largest = elements(block).fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        out.write_all(&f16::from_f32(scale).to_le_bytes())?;
        for element in elements(block) {
            out.write_all(&((element * inverse).round() as i8).to_le_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn a_block_has_a_scale_and_32_bytes() {
        let mut values = [0.0; 64];
        (values[0], values[1], values[2]) = (-127.0, 64.4, 0.6);
        let mut out = Vec::new();
        write_q8(&bytes(&values), &mut out).unwrap();
        assert_eq!(out.len(), 2 * 34);
        assert_eq!(f16::from_le_bytes([out[0], out[1]]).to_f32(), 1.0);
        assert_eq!([out[2] as i8, out[3] as i8, out[4] as i8], [-127, 64, 1]);
        // A block of zeros has a scale of zero, which must not be divided by.
        assert_eq!(out[34..], [0; 34]);
    }

    #[test]
    fn f16_scales_do_not_become_infinite() {
        let mut out = Vec::new();
        write_f16(&bytes(&[1.5, 1e6, -1e6]), &mut out).unwrap();
        let halves = out.as_chunks::<2>().0.iter();
        let halves: Vec<f32> = halves
            .map(|half| f16::from_le_bytes(*half).to_f32())
            .collect();
        assert_eq!(halves, [1.5, 65504.0, -65504.0]);
    }
}
