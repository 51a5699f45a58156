//! A panel: some rows of a weight, unpacked into scratch as far as a product wants them.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::dot::{PanelRow, Scales};
use super::formats::{GroupScales, Unpack};
use super::matmul::PANEL;
use crate::backend::cpu::simd::activations::{BLOCK, CHUNK_BLOCKS, Line};
use crate::quant::Weight;

/// Weight rows of one format, and scratch for some of them.
pub(super) struct Panel<'a, F> {
    /// The weight's.
    bytes: &'a [u8],
    pub(super) n_blocks: usize,
    lines: &'a mut [Line],
    scales: &'a mut [f32],
    mins: &'a mut [f32],
    format: PhantomData<F>,
}

impl<'a, F: Unpack> Panel<'a, F> {
    #[inline(always)]
    pub(super) fn new(weight: &'a Weight, rows_end: usize, scratch: &'a mut [f32]) -> Self {
        let n_blocks = weight.row_len() / BLOCK;
        let row_bytes = n_blocks / F::GROUP * F::GROUP_BYTES;
        let bytes = &weight.bytes[..rows_end * row_bytes];
        assert_eq!(row_bytes, weight.row_bytes(), "whole blocks");
        // SAFETY: any bytes are 16-bit integers.
        let (_, lines, _) = unsafe { scratch.align_to_mut::<Line>() };
        let (lines, rest) = lines.split_at_mut(PANEL * n_blocks);
        // SAFETY: a `Line` is 64 initialized bytes, and its alignment is more than that of numbers.
        let (_, rest, _) = unsafe { rest.align_to_mut::<f32>() };
        let (scales, rest) = rest.split_at_mut(PANEL * n_blocks.next_multiple_of(CHUNK_BLOCKS));
        let mins = &mut rest[..scales.len()];
        Self { bytes, n_blocks, lines, scales, mins, format: PhantomData }
    }

    #[inline(always)]
    pub(super) fn stride(&self) -> usize {
        self.n_blocks.next_multiple_of(CHUNK_BLOCKS)
    }

    #[inline(always)]
    pub(super) fn file_row(&self, m: usize) -> *const u8 {
        self.bytes[m * (self.n_blocks / F::GROUP * F::GROUP_BYTES)..].as_ptr()
    }

    #[inline(always)]
    pub(super) fn scales(&self, i: usize) -> Scales {
        let at = i * self.stride();
        Scales { scales: self.scales[at..].as_ptr(), mins: self.mins[at..].as_ptr() }
    }

    #[inline(always)]
    pub(super) fn panel_row(&self, i: usize) -> PanelRow {
        PanelRow(self.lines[i * self.n_blocks..].as_ptr().cast())
    }

    /// Unpacks the scales of weight row m to row i of the panel.
    ///
    /// Halves are collected first, in the room for the row's quants, and converted together.
    #[inline(always)]
    pub(super) unsafe fn unpack_scales(&mut self, i: usize, m: usize) {
        let row = self.file_row(m);
        let (n_groups, stride) = (self.n_blocks / F::GROUP, self.stride());
        let scales = self.scales[i * stride..][..stride].as_mut_ptr();
        let mins = self.mins[i * stride..][..stride].as_mut_ptr();
        let lines = &mut self.lines[i * self.n_blocks..][..self.n_blocks];
        let d_halves = lines.as_mut_ptr().cast::<u16>();
        let mut per_d = None;
        // SAFETY: the row has the groups, and the panel room for their scales, rounded up to whole chunks. The room for
        // the quants of n blocks is 32 n halves; 2 (n + 7) are less but for n = 1, which two chunks of 8 still fit.
        unsafe {
            let m_halves = d_halves.add(stride);
            // Offsets beyond the row are zeros, since they are multiplied with the zeros beyond x.
            if F::GROUP == 1 {
                _mm_storeu_si128(d_halves.add(stride - CHUNK_BLOCKS).cast(), _mm_setzero_si128());
                _mm_storeu_si128(m_halves.add(stride - CHUNK_BLOCKS).cast(), _mm_setzero_si128());
            }
            // Volatile, since the compiler would rather collect them in vector registers, which costs twice as much.
            for g in 0..n_groups {
                match F::scales(row.add(g * F::GROUP_BYTES)) {
                    GroupScales::Half(d, min) => {
                        d_halves.add(g).write_volatile(d);
                        per_d = Some(min);
                    }
                    GroupScales::Halves(d, m) => {
                        d_halves.add(g).write_volatile(d);
                        m_halves.add(g).write_volatile(m);
                    }
                    GroupScales::Eight(s, m) => {
                        scales.add(8 * g).cast::<[f32; 8]>().write_unaligned(s);
                        mins.add(8 * g).cast::<[f32; 8]>().write_unaligned(m);
                    }
                }
            }
            if F::GROUP > 1 {
                return;
            }
            for c in (0..stride).step_by(CHUNK_BLOCKS) {
                let d = _mm256_cvtph_ps(_mm_loadu_si128(d_halves.add(c).cast()));
                _mm256_storeu_ps(scales.add(c), d);
                if F::MINS {
                    let m = match per_d {
                        Some(per_d) => _mm256_mul_ps(d, _mm256_set1_ps(per_d)),
                        None => _mm256_cvtph_ps(_mm_loadu_si128(m_halves.add(c).cast())),
                    };
                    _mm256_storeu_ps(mins.add(c), m);
                }
            }
        }
    }

    /// Unpacks the quants of weight row m to row i of the panel.
    #[inline(always)]
    pub(super) unsafe fn unpack_quants(&mut self, i: usize, m: usize) {
        let row = self.file_row(m);
        let lines = &mut self.lines[i * self.n_blocks..][..self.n_blocks];
        for (g, lines) in lines.chunks_exact_mut(F::GROUP).enumerate() {
            for (j, line) in lines.iter_mut().enumerate() {
                // SAFETY: the row has the group, and a line is two registers.
                unsafe {
                    let quants = F::quants(row.add(g * F::GROUP_BYTES), j);
                    std::ptr::from_mut(line).cast::<[__m256i; 2]>().write(quants);
                }
            }
        }
    }
}
