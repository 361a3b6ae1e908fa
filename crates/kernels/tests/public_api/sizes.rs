//! Sizes on which unsafe code relies.

use cloze_kernels::{
    ByDistance, Context, DistanceBias, Heads, Isa, Linear, Norm, NormKind, Pairing, Precision, RotaryPositions,
    Rotation, SelfAttention, Sequence, attention, attention_by_distance, layer_norm, summarize_logits,
};

use super::{apply, contexts, pools};

/// The sizes that unsafe code relies on are checked.
#[test]
fn sizes_that_do_not_fit_are_refused() {
    let pools = pools();
    let context = contexts(&pools).last().unwrap();
    let refused = |case: &str, call: &dyn Fn()| {
        let call = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        assert!(call.is_err(), "{case} was not refused");
    };
    refused("a weight of another size", &|| {
        drop(Linear::new(context.isa, &[0.0; 5], &[0.0; 2], 3, Precision::F32))
    });
    let layer = Linear::new(context.isa, &[0.0; 6], &[0.0; 2], 3, Precision::F32);
    refused("an input of another size", &|| {
        drop(apply(&layer, context, &[0.0; 5], 2, None))
    });
    refused("an output of another size", &|| {
        layer.apply(context, &[0.0; 6], 2, None, &mut [0.0; 5])
    });
    refused("a row that is not there", &|| drop(layer.rows(&[2])));
    let attend = |sequences: &[Sequence], heads: usize| {
        let y = &mut [0.0; 4 * 6];
        let heads = Heads {
            count: heads,
            hidden: 6,
            precision: Precision::F32,
        };
        attention(context, heads, &[0.0; 4 * 6], &[0.0; 4 * 12], sequences, y);
    };
    let sequence = |queries, tokens| Sequence { queries, tokens };
    attend(&[sequence(0..2, 0..2), sequence(2..4, 2..4)], 2);
    refused("queries of two sequences", &|| {
        attend(&[sequence(0..3, 0..2), sequence(2..4, 2..4)], 2)
    });
    refused("sequences out of order", &|| {
        attend(&[sequence(2..4, 0..2), sequence(0..2, 2..4)], 2)
    });
    refused("queries that are not there", &|| attend(&[sequence(0..5, 0..2)], 2));
    refused("tokens that are not there", &|| attend(&[sequence(0..2, 0..5)], 2));
    refused("heads that do not divide", &|| attend(&[sequence(0..2, 0..2)], 4));
    let near = |query_tokens: &[u32], bias: Option<(&[f32], usize)>| {
        let heads = Heads {
            count: 2,
            hidden: 6,
            precision: Precision::F32,
        };
        let distance = ByDistance {
            query_tokens,
            window: Some(1),
            bias: bias.map(|(values, span)| DistanceBias { values, span }),
        };
        let sequences = [sequence(0..2, 0..2), sequence(2..4, 2..4)];
        let y = &mut [0.0; 4 * 6];
        attention_by_distance(context, heads, distance, &[0.0; 4 * 6], &[0.0; 4 * 12], &sequences, y);
    };
    near(&[0, 1, 2, 3], Some((&[0.0; 2 * 3], 2)));
    refused("a query of another sequence", &|| near(&[0, 1, 1, 3], None));
    refused("biases of too few distances", &|| {
        near(&[0, 1, 2, 3], Some((&[0.0; 2], 1)))
    });
    refused("biases of one head", &|| near(&[0, 1, 2, 3], Some((&[0.0; 3], 2))));
    let square = Linear::new(context.isa, &[0.0; 32 * 32], &[0.0; 32], 32, Precision::F32);
    let double = Linear::new(context.isa, &[0.0; 64 * 32], &[0.0; 64], 32, Precision::F32);
    let alone = Context {
        pool: &pools[0],
        isa: context.isa,
    };
    let attend = |key_value: &Linear, sequences: &[Sequence], rows: usize| {
        let joint = SelfAttention {
            query: &square,
            key_value,
            heads: 1,
            rotary: None,
            distance: None,
        };
        let x = vec![0.0; rows * 32];
        joint.apply(alone, &x, &x, sequences, &mut vec![0.0; rows * 32]);
    };
    if !matches!(context.isa, Isa::Amx { .. }) {
        attend(&double, &[sequence(0..2, 0..2)], 2);
    }
    let rotate = |positions: &[u32], size: usize| {
        let rotation = Rotation {
            pairing: Pairing::Halves,
            head_size: size,
            cos: &[1.0; 2 * 16],
            sin: &[0.0; 2 * 16],
        };
        let joint = SelfAttention {
            query: &square,
            key_value: &double,
            heads: 1,
            rotary: Some(RotaryPositions {
                rotation,
                queries: positions,
                tokens: positions,
            }),
            distance: None,
        };
        joint.apply(alone, &[0.0; 64], &[0.0; 64], &[sequence(0..2, 0..2)], &mut [0.0; 64]);
    };
    if !matches!(context.isa, Isa::Amx { .. }) {
        rotate(&[0, 1], 32);
    }
    refused("positions of too few rows", &|| rotate(&[0], 32));
    refused("a position beyond the table", &|| rotate(&[0, 2], 32));
    refused("a rotation of other heads", &|| rotate(&[0, 1], 16));
    refused("keys without values", &|| attend(&square, &[sequence(0..2, 0..2)], 2));
    refused("rows of no sequence", &|| attend(&double, &[sequence(0..2, 0..2)], 3));
    refused("a gap between sequences", &|| {
        attend(&double, &[sequence(0..1, 0..1), sequence(1..3, 2..3)], 3)
    });
    let norm = |width: usize, rest: usize| {
        let (gamma, beta) = (vec![1.0; width], vec![0.0; width]);
        let norm = Norm {
            kind: NormKind::Layer,
            gamma: &gamma,
            beta: &beta,
            eps: 0.1,
        };
        layer_norm(context, &mut [0.0; 12], Some(&vec![0.0; rest]), norm);
    };
    norm(4, 12);
    refused("rows of another width", &|| norm(5, 12));
    refused("a residual of another size", &|| norm(4, 8));
    let summarize = |columns: usize, top: usize, numbers: usize| {
        summarize_logits(context, &[0.0; 12], columns, top, &mut vec![0.0; numbers]);
    };
    summarize(6, 2, 16);
    refused("logits of another width", &|| summarize(5, 2, 16));
    refused("summaries of another size", &|| summarize(6, 2, 17));
    refused("more tokens than there are", &|| summarize(6, 7, 36));
}
