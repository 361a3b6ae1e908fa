//! Texts and tokens a second of the forward pass, by backend, batch and length.
//!
//! The demo model is measured as it is; bert-base sizes with weights drawn here, since speed does not depend
//! on their values. `cargo bench --bench forward -- --test` runs everything once.

// Criterion's macro makes a public function.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use cloze::backend::Activation;
use cloze::bert::{BertConfig, MaskedLm, PackedBatch, Selection, WeightError, WeightSource};
use cloze::checkpoint::{BackendKind, Checkpoint, LoadError, LoadedModel, load_model};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Batch and tokens a text, as the peers are measured.
const SHAPES: [(usize, usize); 6] = [(1, 16), (1, 128), (8, 32), (8, 128), (32, 128), (1, 512)];

fn bert_base() -> BertConfig {
    BertConfig {
        vocab_size: 30_522,
        hidden_size: 768,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        intermediate_size: 3072,
        hidden_act: Activation::Gelu,
        layer_norm_eps: 1e-12,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        tie_word_embeddings: true,
    }
}

/// Small repeatable weights (xorshift64*), so that no value overflows or is denormal.
struct RandomWeights(u64);

impl WeightSource for RandomWeights {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let mut next = || {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 24) as f32
        };
        // Normalization scales stay around one; everything else is uniform with BERT's initial deviation.
        let (middle, width) = match name.ends_with("LayerNorm.weight") {
            true => (1.0, 0.1),
            false => (0.0, 0.07),
        };
        let count = shape.iter().product();
        Ok(std::iter::repeat_with(|| middle + (next() - 0.5) * width)
            .take(count)
            .collect())
    }

    fn contains(&self, name: &str) -> bool {
        name != "cls.predictions.decoder.weight"
    }
}

/// `texts` texts of `length` tokens, the mask of each in its middle.
fn batch(config: &BertConfig, texts: usize, length: usize) -> PackedBatch {
    let mut batch = PackedBatch::default();
    for text in 0..texts {
        let ids: Vec<u32> = (0..length)
            .map(|i| ((text * 7919 + i * 104_729) % config.vocab_size) as u32)
            .collect();
        batch.push(&ids, &[length / 2], &Selection::TopK(5));
    }
    batch
}

/// All shapes that the model can take and that hold `tokens_max` tokens at most.
fn measure(criterion: &mut Criterion, name: &str, config: &BertConfig, model: &mut dyn MaskedLm, tokens_max: usize) {
    let fits =
        |&(texts, length): &(usize, usize)| length <= config.max_position_embeddings && texts * length <= tokens_max;
    for (texts, length) in SHAPES.into_iter().filter(fits) {
        let batch = batch(config, texts, length);
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(3))
            .warm_up_time(Duration::from_secs(1));
        group.throughput(Throughput::Elements((texts * length) as u64));
        // The last sample's passes and time, for the figure that criterion does not print.
        let mut last = (0, Duration::ZERO);
        group.bench_function(format!("{texts}x{length}"), |bencher| {
            bencher.iter_custom(|passes| {
                let started_at = Instant::now();
                for _ in 0..passes {
                    black_box(model.predict(&batch).expect("the model answers"));
                }
                last = (passes, started_at.elapsed());
                last.1
            });
        });
        // Nothing ran where a filter left this one out.
        if last.0 > 0 {
            let texts_per_second = (last.0 * texts as u64) as f64 / last.1.as_secs_f64();
            println!("{texts_per_second:>38.1} texts/s");
        }
        group.finish();
    }
}

/// Tells which backend it is, or why there is none.
fn announce(name: &str, loaded: Result<LoadedModel, LoadError>) -> Option<LoadedModel> {
    match loaded {
        Ok(loaded) => {
            println!("\n{name} on {}", loaded.device);
            Some(loaded)
        }
        Err(reason) => {
            println!("\n{name}: skipped, {reason}");
            None
        }
    }
}

fn forward(criterion: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("(an element is a token)");
    for kind in [BackendKind::Cpu, BackendKind::Gpu] {
        let mut demo = Checkpoint::embedded().expect("the demo model opens");
        let Some(mut loaded) = announce("demo model", demo.load_on(kind, threads)) else {
            continue;
        };
        // A software adapter takes seconds for a large shape.
        let tokens_max = match loaded.warning {
            Some(_) => 256,
            None => usize::MAX,
        };
        measure(
            criterion,
            &format!("demo {kind:?}"),
            &demo.config,
            &mut *loaded.model,
            tokens_max,
        );
        if loaded.warning.is_some() {
            println!("\nbert-base sizes: skipped on a software adapter, which takes minutes a pass");
            continue;
        }
        let config = bert_base();
        let loaded = load_model(&config, &mut RandomWeights(0x9e37_79b9_7f4a_7c15), kind, threads);
        let Some(mut loaded) = announce("bert-base sizes", loaded) else {
            continue;
        };
        measure(
            criterion,
            &format!("bert-base {kind:?}"),
            &config,
            &mut *loaded.model,
            usize::MAX,
        );
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);
