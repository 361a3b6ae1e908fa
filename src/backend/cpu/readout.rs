//! The readout of logits.

use cloze_kernels::Context;
use ndarray::{ArcArray, IxDyn};

use super::tensors::{slice, values};
use super::{Cpu, buffers};
use crate::backend::readout::{STATISTICS, row_len};
use crate::backend::{ReadoutSpec, Tensor};

// The kernel and the reader of its summaries agree on their layout.
const _: () = assert!(cloze_kernels::LOGIT_STATISTICS == STATISTICS);

pub fn read_logits(context: Context<'_>, logits: Tensor<Cpu, 2>, spec: &ReadoutSpec) -> Tensor<Cpu, 1> {
    let columns = logits.dims()[1];
    let logits = values(logits);
    let rows = &slice(&logits)[..spec.rows * columns];
    let mut readout = Vec::with_capacity(spec.numbers());
    readout.resize(spec.rows * row_len(spec.top_k), 0.0);
    cloze_kernels::summarize_logits(context, rows, columns, spec.top_k, &mut readout);
    for (row, bounds) in rows.chunks_exact(columns).zip(spec.row_offsets.windows(2)) {
        let tokens = &spec.token_ids[bounds[0] as usize..bounds[1] as usize];
        readout.extend(tokens.iter().map(|&token| row[token as usize]));
    }
    buffers::give_back(logits);
    let array = ArcArray::from_shape_vec(IxDyn(&[readout.len()]), readout).expect("its own length");
    Tensor::from_primitive(array.into())
}
