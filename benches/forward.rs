//! Texts and tokens a second of the forward pass, by backend, `--dtype`, batch and length.
//!
//! The demo model is measured as it is; the sizes of bert-base and ModernBERT-base with random weights, since speed
//! does not depend on their values. GFLOP/s count two for each multiply-add of the requested products, attention
//! included, with the last layer and the head at the masks alone and of a local layer the keys in the window;
//! the limit is the rate of a dense layer whose operands stay in cache. `CLOZE_CPU_FEATURES` measures a lesser CPU.
//! `cargo bench --bench forward -- --test` runs everything once, random weights only at the smallest shape.

#[cfg(feature = "cpu")]
mod roofline;

use std::hint::black_box;
use std::time::{Duration, Instant};

use cloze::backend::Precision;
use cloze::checkpoint::{TensorError, TensorSource};
use cloze::encoder::{Architecture, EncoderSpec};
use cloze::lm::{
    BackendKind, Batch, DeviceInfo, LoadError, LoadedModel, MaskedLm, Placement, PretrainedModel, Select, Sequence,
    load_model,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Batch and tokens a text, as the peers are measured.
const SHAPES: [(usize, usize); 7] = [(1, 16), (1, 128), (8, 32), (8, 128), (32, 128), (1, 512), (8, 512)];

/// The values of bert-base's `config.json`.
const BERT_BASE: &[u8] = br#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512}"#;

/// The values of ModernBERT-base's `config.json`.
const MODERNBERT_BASE: &[u8] = br#"{"model_type": "modernbert", "vocab_size": 50368, "hidden_size": 768,
    "num_hidden_layers": 22, "num_attention_heads": 12, "intermediate_size": 1152, "max_position_embeddings": 8192,
    "global_attn_every_n_layers": 3, "local_attention": 128}"#;

/// Small repeatable weights (xorshift64*), so that no value overflows or is denormal.
struct RandomWeights(u64);

impl TensorSource for RandomWeights {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let mut next = || {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 24) as f32
        };
        // Normalization scales stay around one; everything else is uniform with BERT's initial deviation.
        let (middle, width) = match name.ends_with("LayerNorm.weight") || name.ends_with("norm.weight") {
            true => (1.0, 0.1),
            false => (0.0, 0.07),
        };
        let count = shape.iter().product();
        Ok(std::iter::repeat_with(|| middle + (next() - 0.5) * width)
            .take(count)
            .collect())
    }

    fn contains(&self, name: &str) -> bool {
        !name.ends_with("decoder.weight")
    }
}

/// `texts` texts of `length` tokens, the mask of each in its middle.
fn batch(spec: &EncoderSpec, texts: usize, length: usize) -> Batch {
    let mut batch = Batch::default();
    for text in 0..texts {
        let ids: Vec<u32> = (0..length)
            .map(|i| ((text * 7919 + i * 104_729) % spec.vocab_size) as u32)
            .collect();
        batch.push(&Sequence::new(ids, [length / 2], Select::TopK(5)));
    }
    batch
}

/// Two for each multiply-add of a pass over `texts` texts of `length` tokens with one mask each.
fn flops(spec: &EncoderSpec, texts: usize, length: usize) -> f64 {
    let (hidden, tokens) = (spec.hidden_size, texts * length);
    let feed_forward = (if spec.gated { 3 } else { 2 }) * hidden * spec.intermediate_size;
    let layer = |layer: usize| {
        let rows = if layer + 1 == spec.layers { texts } else { tokens };
        let keys = spec
            .local_of(layer)
            .map_or(length, |local| length.min(2 * local.distance + 1));
        tokens * 2 * hidden * hidden + rows * (2 * hidden * hidden + feed_forward) + 2 * rows * keys * hidden
    };
    let head = texts * hidden * (hidden + spec.vocab_size);
    2.0 * ((0..spec.layers).map(layer).sum::<usize>() + head) as f64
}

/// One benchmark: a model on a backend, and the time that the hardware's limit allows.
struct Subject<'a> {
    name: String,
    spec: &'a EncoderSpec,
    model: Box<dyn MaskedLm>,
    /// Multiply-adds a second, times two; 0 where it is not known.
    limit: f64,
    /// Tokens of the largest shape that is measured.
    tokens_max: usize,
}

/// All shapes that the model can take.
fn measure(criterion: &mut Criterion, subject: &mut Subject<'_>) {
    let spec = subject.spec;
    let fits = |&(texts, length): &(usize, usize)| length <= spec.max_tokens() && texts * length <= subject.tokens_max;
    for (texts, length) in SHAPES.into_iter().filter(fits) {
        let batch = batch(spec, texts, length);
        let mut group = criterion.benchmark_group(&subject.name);
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(3))
            .warm_up_time(Duration::from_secs(1));
        group.throughput(Throughput::Elements((texts * length) as u64));
        // Every sample's seconds a pass, for the figures that criterion does not print.
        let mut passes = Vec::new();
        group.bench_function(format!("{texts}x{length}"), |bencher| {
            bencher.iter_custom(|count| {
                let batches = vec![batch.clone(); count as usize];
                let started_at = Instant::now();
                for batch in batches {
                    black_box(subject.model.predict(batch).expect("the model answers"));
                }
                let taken = started_at.elapsed();
                passes.push(taken.as_secs_f64() / count as f64);
                taken
            });
        });
        passes.sort_by(f64::total_cmp);
        // Nothing ran where a filter left this one out.
        if let Some(median) = passes.get(passes.len() / 2) {
            let rate = flops(spec, texts, length) / median;
            print!(
                "{:>24.1} ms {:>9.1} texts/s {:>7.0} GFLOP/s",
                median * 1e3,
                texts as f64 / median,
                rate / 1e9
            );
            match subject.limit > 0.0 {
                true => println!("  {:.0} % of the limit", 100.0 * rate / subject.limit),
                false => println!(),
            }
        }
        group.finish();
    }
}

/// Prints the device, or the reason why the backend cannot run here.
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

/// The rate that the products in `precision` reach at best.
fn limit(placement: &Placement, precision: Precision) -> f64 {
    match placement.backend {
        #[cfg(feature = "cpu")]
        BackendKind::Cpu => roofline::Machine::new(placement.threads).flops(precision),
        _ => 0.0,
    }
}

fn forward(criterion: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let only_tested = std::env::args().any(|argument| argument == "--test");
    println!("(an element is a token)");
    let cpu = [Precision::F32, Precision::Bf16, Precision::Int8].map(|precision| Placement {
        precision: Some(precision),
        ..Placement::new(BackendKind::Cpu, threads)
    });
    for placement in cpu.into_iter().chain([Placement::new(BackendKind::Gpu, threads)]) {
        let mut demo = PretrainedModel::embedded().expect("the demo model opens");
        let Some(mut loaded) = announce("demo model", demo.load(&placement)) else {
            continue;
        };
        let title = |model: &str, loaded: &LoadedModel| format!("{model} {:?} {}", placement.backend, loaded.precision);
        let is_software = matches!(loaded.device, DeviceInfo::Gpu { is_software: true, .. });
        let limit = limit(&placement, loaded.precision);
        if limit > 0.0 {
            println!(
                "limit of the products in {}: {:.0} GFLOP/s",
                loaded.precision,
                limit / 1e9
            );
        }
        let mut subject = Subject {
            name: title("demo", &loaded),
            spec: &demo.architecture.spec,
            model: loaded.workers.remove(0),
            limit,
            // A software adapter takes seconds for a large shape.
            tokens_max: if is_software { 256 } else { usize::MAX },
        };
        measure(criterion, &mut subject);
        if is_software {
            println!("\nbase sizes: skipped on a software adapter, which takes minutes a pass");
            continue;
        }
        for (model, config) in [("bert-base", BERT_BASE), ("modernbert-base", MODERNBERT_BASE)] {
            let architecture = Architecture::parse(config).expect("a whole config.json");
            let loaded = load_model(&architecture, &mut RandomWeights(0x9e37_79b9_7f4a_7c15), &placement);
            let Some(mut loaded) = announce(&format!("{model} sizes"), loaded) else {
                continue;
            };
            let mut subject = Subject {
                name: title(model, &loaded),
                spec: &architecture.spec,
                model: loaded.workers.remove(0),
                limit,
                tokens_max: if only_tested { 16 } else { usize::MAX },
            };
            measure(criterion, &mut subject);
        }
    }
    #[cfg(feature = "cpu")]
    println!(
        "\nreading memory: {:.1} GB/s",
        roofline::Machine::new(threads).memory_bandwidth() / 1e9
    );
}

criterion_group!(benches, forward);
criterion_main!(benches);
