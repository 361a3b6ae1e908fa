//! One tile of a matrix product: micro-kernel, then epilogue.
//!
//! The sums stay in registers over the whole of K, or over a part of it that the micro-kernel chooses: both operands
//! are packed and read from front to back. In f32 it chooses parts of 256, which are added at their ends: rounding
//! errors grow with the length of a sum.

use crate::arch;
use crate::disjoint::OutputTile;
use crate::epilogue::{self, Activation, Epilogue};
use crate::isa::Isa;
use crate::kernel::{MicroKernel, Operands, Rows};
use crate::layout::{KLayout, NR, Packing, Precision};

/// The micro-kernel of an instruction set and a precision, behind functions that check sizes.
#[derive(Clone, Copy)]
pub struct Gemm {
    isa: Isa,
    precision: Precision,
    kernel: &'static dyn MicroKernel,
}

impl Gemm {
    pub fn new(isa: Isa, precision: Precision) -> Self {
        Self {
            isa,
            precision,
            kernel: arch::micro_kernel(isa, precision),
        }
    }

    pub fn isa(self) -> Isa {
        self.isa
    }

    pub fn precision(self) -> Precision {
        self.precision
    }

    pub fn packing(self) -> Packing {
        self.kernel.packing()
    }

    /// The K dimension of `inputs` values.
    pub fn layout(self, inputs: usize) -> KLayout {
        KLayout::new(self.precision, self.packing(), inputs, self.kernel.block_rows())
    }

    /// Packs rows into `[K-blocks][stored][row elements]`. For 8 bits, `scales` receives the scale of each row.
    ///
    /// # Panics
    /// If the sizes do not match.
    pub fn pack_rows(self, rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
        let KLayout {
            k_blocks, row_elements, ..
        } = self.layout(rows.inputs);
        assert!(rows.count <= rows.stored && packed.len() == k_blocks * rows.stored * row_elements);
        // SAFETY: `micro_kernel` returns what the CPU has instructions for; the size was checked.
        unsafe { self.kernel.pack_rows(rows, packed, scales) };
    }

    /// Configures the tile registers of this thread for as long as the result lives, if the micro-kernel needs them: it
    /// configures them itself otherwise, for each call. A task keeps the result until it ends.
    pub fn tiles(self) -> Option<arch::Tiles> {
        arch::tiles(self.packing())
    }

    /// True if it [adds](Operands::accumulate) to earlier sums.
    pub fn accumulates(self) -> bool {
        self.kernel.accumulates()
    }

    fn rows(self, operands: &Operands<'_>) -> usize {
        let rows = operands.block.rows(operands.panel.len(), self.layout(1));
        assert!(!operands.accumulate || self.accumulates());
        rows
    }

    /// Writes the sums of each row to `sums`.
    ///
    /// # Panics
    /// If the sizes do not match.
    pub fn sums(self, operands: &Operands<'_>, sums: &mut [[u32; NR]]) {
        let rows = self.rows(operands);
        assert!(rows <= sums.len());
        // SAFETY: the CPU has the instructions; the sizes were checked; `sums` has all rows.
        unsafe { self.kernel.run(operands, rows, None, sums.as_mut_ptr().cast(), NR) };
    }

    /// Writes `activation(epilogue(sums))` of each row to `values`, as bits of f32. With
    /// [`accumulate`](Operands::accumulate), `values` has the sums so far.
    ///
    /// # Panics
    /// If the sizes do not match.
    #[inline(always)]
    pub fn values(
        self,
        operands: &Operands<'_>,
        epilogue: &Epilogue<'_>,
        activation: Option<Activation>,
        values: &mut [[u32; NR]],
    ) {
        let rows = self.rows(operands);
        assert!(epilogue.fits(rows) && rows <= values.len());
        // SAFETY: the CPU has the instructions; the sizes were checked; `values` has all rows.
        unsafe {
            self.kernel
                .run(operands, rows, Some(epilogue), values.as_mut_ptr().cast(), NR);
        }
        let low_precision = self.precision != Precision::F32;
        epilogue::activate(self.isa, &mut values[..rows], activation, low_precision);
    }

    /// Stores `activation(epilogue(sums))` of each row in `output`. `scratch` may be overwritten.
    ///
    /// # Panics
    /// If the sizes do not match.
    #[inline(always)]
    pub fn store(
        self,
        operands: &Operands<'_>,
        epilogue: &Epilogue<'_>,
        activation: Option<Activation>,
        mut output: OutputTile<'_>,
        scratch: &mut [[u32; NR]],
    ) {
        if activation.is_none() && output.columns() == NR {
            let rows = self.rows(operands);
            assert!(epilogue.fits(rows) && !operands.accumulate);
            let (to, stride) = (output.pointer(rows), output.stride());
            // SAFETY: the CPU has the instructions; the sizes were checked; the output has all columns of these rows.
            return unsafe { self.kernel.run(operands, rows, Some(epilogue), to, stride) };
        }
        let rows = self.rows(operands);
        assert!(!operands.accumulate);
        self.values(operands, epilogue, activation, scratch);
        epilogue::store(self.isa, &mut output, &scratch[..rows]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Block;
    use crate::layout::{BLOCK_ROWS_MAX, K_BLOCK, K_PART, MR};
    use crate::pack;
    use cloze_test_values::random;

    /// The sums of `rows` rows with one panel, block by block and `k_blocks` K-blocks at once.
    fn sums_of(
        isa: Isa,
        precision: Precision,
        x: &[f32],
        weight: &[f32],
        rows: usize,
        inputs: usize,
        k_blocks: usize,
    ) -> Vec<[u32; NR]> {
        let gemm = Gemm::new(isa, precision);
        let layout = gemm.layout(inputs);
        let steps = layout.panel_lines() / 2;
        let panel = match precision {
            Precision::F32 if layout.is_amx() => pack::panels_split(weight, NR, inputs),
            Precision::F32 => pack::panels_f32(weight, NR, inputs, steps),
            Precision::Bf16 => pack::panels_bf16(weight, NR, inputs, steps),
            Precision::Int8 => pack::panels_int8(weight, NR, inputs, steps).0,
        };
        let mut all = vec![[0; NR]; rows];
        let blocks = layout.row_blocks(rows);
        for range in (0..blocks.count()).map(|index| blocks.range(index)) {
            let rows = range.len();
            let mut elements = vec![u32::MAX; layout.elements(rows)];
            let packed = Rows {
                x: &x[range.start * inputs..],
                stride: inputs,
                inputs,
                count: rows,
                stored: layout.stored_rows(rows),
            };
            gemm.pack_rows(packed, &mut elements, &mut vec![0.0; rows]);
            for start in (0..layout.k_blocks).step_by(k_blocks) {
                let k_blocks = start..layout.k_blocks.min(start + k_blocks);
                let operands = Operands {
                    block: Block::Rows {
                        elements: &elements[layout.element_range(0..rows, k_blocks.clone())],
                        rows,
                    },
                    panel: &panel[layout.line_range(0, k_blocks)],
                    prefetch: &panel[..panel.len() / 2],
                    accumulate: start > 0,
                };
                gemm.sums(&operands, &mut all[range.clone()]);
            }
        }
        all
    }

    fn sums(isa: Isa, precision: Precision, x: &[f32], weight: &[f32], rows: usize, inputs: usize) -> Vec<[u32; NR]> {
        sums_of(isa, precision, x, weight, rows, inputs, usize::MAX / 2)
    }

    /// Every micro-kernel against the portable one, for every number of rows and for one and several parts of K.
    #[test]
    fn micro_kernels_agree() {
        for inputs in [1, 3, 16, 17, 64, 65, 255, 256, 257, 1030, 1100] {
            let weight = random(NR * inputs, 1);
            for rows in (1..=MR).chain([13, 47, BLOCK_ROWS_MAX]) {
                let x = random(rows * inputs, 2);
                for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                    let expected = sums(Isa::Portable, precision, &x, &weight, rows, inputs);
                    for isa in Isa::available() {
                        let ours = sums(isa, precision, &x, &weight, rows, inputs);
                        let case = format!("{isa} {precision:?}: {rows} rows, {inputs} inputs");
                        if precision == Precision::Int8 {
                            assert!(ours == expected, "{case}");
                            continue;
                        }
                        // AMX computes with pairs of bf16.
                        let error_max = if isa == Isa::Amx { 4e-4 } else { 1e-4 };
                        for (&ours, &expected) in ours.as_flattened().iter().zip(expected.as_flattened()) {
                            let (ours, expected) = (f32::from_bits(ours), f32::from_bits(expected));
                            assert!((ours - expected).abs() < error_max, "{case}: {ours}, not {expected}");
                        }
                    }
                }
            }
        }
    }

    /// A range of K after another gives the same bits as both at once, if each range is a part.
    #[test]
    fn sums_of_parts_are_accumulated() {
        for isa in Isa::available() {
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                if !Gemm::new(isa, precision).accumulates() {
                    continue;
                }
                for (rows, inputs) in [(1, 300), (7, 512), (13, 1030), (BLOCK_ROWS_MAX, 2100)] {
                    let (x, weight) = (random(rows * inputs, 5), random(NR * inputs, 6));
                    let parts = sums_of(isa, precision, &x, &weight, rows, inputs, K_PART / K_BLOCK);
                    let whole = sums(isa, precision, &x, &weight, rows, inputs);
                    assert!(parts == whole, "{isa} {precision:?}: {rows} rows, {inputs} inputs");
                }
            }
        }
    }

    /// Long sums of positive values, whose partial sums are large. Added one after the other they are off by 1e-3.
    #[test]
    fn f32_sums_are_as_exact_as_sums_in_parts() {
        let inputs = 3072;
        let positive = |count, seed| -> Vec<f32> { random(count, seed).iter().map(|value| value.abs()).collect() };
        let (x, weight) = (positive(MR * inputs, 3), positive(NR * inputs, 4));
        // AMX computes with pairs of bf16.
        for isa in Isa::available().filter(|isa| *isa != Isa::Amx) {
            let ours = sums(isa, Precision::F32, &x, &weight, MR, inputs);
            let mut largest = 0.0f64;
            for (row, x) in x.chunks_exact(inputs).enumerate() {
                for (column, weight) in weight.chunks_exact(inputs).enumerate() {
                    let products = x.iter().zip(weight);
                    let exact: f64 = products.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                    let error = f64::from(f32::from_bits(ours[row][column])) - exact;
                    largest = largest.max(error.abs());
                }
            }
            assert!(largest < 5e-4, "{isa}: {largest}");
        }
    }
}
