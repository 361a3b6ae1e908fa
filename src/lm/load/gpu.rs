//! Loading for a GPU: memory is checked before any weight is read, and the device's faults are watched from then on.

use super::{BackendKind, DeviceInfo, LoadError, LoadedModel, Placement, check_precision};
use crate::backend::Precision;
use crate::backend::gpu::{self, Gpu, GpuDevice};
use crate::checkpoint::TensorSource;
use crate::encoder::{Architecture, EncoderError, EncoderSpec, LayerModule, Parameter, Part, PrecisionPolicy};
use crate::lm::EncoderModel;
use crate::lm::device_model::{Device, DeviceModel};

pub fn load(
    architecture: &Architecture,
    source: &mut dyn TensorSource,
    placement: &Placement,
) -> Result<LoadedModel, LoadError> {
    if placement.workers > 1 {
        return Err(LoadError::WorkersOnGpu(placement.workers));
    }
    if let Some(precision) = placement.precision {
        check_precision::<Gpu>(precision, BackendKind::Gpu)?;
    }
    let gpu = gpu::open(placement.gpu_device.as_deref())?;
    let precision = gpu.precision(placement.precision)?;
    let MemoryPlan { largest, total } = MemoryPlan::new(&architecture.spec, precision);
    gpu.check_fits(largest, total)?;
    let model = gpu.fill(|device| EncoderModel::<Gpu>::load(architecture, source, device, precision))?;
    let model = model.map_err(|error| match error {
        EncoderError::Device(error) => gpu.load_error(error).into(),
        other => LoadError::from_encoder(other, BackendKind::Gpu),
    })?;
    let device = DeviceInfo::Gpu {
        precision,
        adapter: gpu.adapter.to_string(),
        is_software: gpu.adapter.is_software(),
        shader_language: gpu.language.name(),
    };
    Ok(LoadedModel {
        workers: vec![Box::new(DeviceModel::new(model, gpu))],
        precision,
        device,
    })
}

impl Device for GpuDevice {
    fn wake(&self) {
        self.wake();
    }

    fn rest(&self) {
        self.rest();
    }

    fn fault(&self) -> Option<String> {
        self.fault()
    }
}

/// Bytes that the weights take on a GPU.
#[derive(Debug, PartialEq, Eq)]
struct MemoryPlan {
    /// Bytes of the largest weight in one buffer. Weights arrive in f32.
    largest: u64,
    /// Bytes of all weights, and of the copies that exist while they are rounded.
    total: u64,
}

impl MemoryPlan {
    fn new(spec: &EncoderSpec, precision: Precision) -> Self {
        let policy = PrecisionPolicy::new(precision);
        let (mut largest, mut total) = (0, 0);
        for parameter in spec.parameters() {
            let elements = spec.elements(parameter) as u64;
            // Key and value are loaded as one weight.
            let in_one_buffer = match parameter {
                Parameter::Layer(_, LayerModule::Key, Part::Weight) => 2 * elements,
                _ => elements,
            };
            largest = largest.max(in_one_buffer * size_of::<f32>() as u64);
            total += elements * policy.gpu_bytes(parameter) as u64;
        }
        // Each weight is in f32 until it has been rounded.
        if precision != Precision::F32 {
            total += largest;
        }
        Self { largest, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::TensorError;

    const BERT_BASE: &[u8] = br#"{"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072}"#;

    fn bert_base() -> EncoderSpec {
        Architecture::parse(BERT_BASE).unwrap().spec
    }

    #[test]
    fn the_plan_covers_every_weight_once_and_tables_in_f32() {
        let spec = bert_base();
        let elements: usize = spec.parameters().into_iter().map(|p| spec.elements(p)).sum();
        let tables = (30_522 + 512) * 768;
        let f32 = MemoryPlan::new(&spec, Precision::F32);
        assert_eq!(f32.largest, 30_522 * 768 * 4);
        assert_eq!(f32.total, elements as u64 * 4);
        let f16 = MemoryPlan::new(&spec, Precision::F16);
        assert_eq!(f16.total, (elements + tables) as u64 * 2 + f16.largest);
    }

    #[test]
    fn key_and_value_are_planned_as_one_buffer() {
        let mut spec = bert_base();
        spec.vocab_size = 10;
        spec.intermediate_size = 768;
        let plan = MemoryPlan::new(&spec, Precision::F32);
        assert_eq!(plan.largest, 2 * 768 * 768 * 4);
    }

    /// A checkpoint of zeros.
    struct Zeros;

    impl TensorSource for Zeros {
        fn tensor(&mut self, _: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
            Ok(vec![0.0; shape.iter().product()])
        }

        fn contains(&self, _: &str) -> bool {
            false
        }
    }

    #[test]
    #[ignore = "needs a GPU adapter"]
    fn bert_base_takes_the_memory_that_the_documents_say() {
        let architecture = Architecture::parse(BERT_BASE).unwrap();
        // docs/hardware.md
        for (precision, megabytes) in [(Precision::F16, 267.0), (Precision::F32, 438.0)] {
            let gpu = gpu::open(None).unwrap();
            if gpu.precision(Some(precision)).is_err() {
                continue;
            }
            let model = gpu.fill(|device| EncoderModel::<Gpu>::load(&architecture, &mut Zeros, device, precision));
            let model = model.unwrap().unwrap();
            let allocated = gpu.allocated_bytes() as f64 / 1e6;
            assert!((allocated / megabytes - 1.0).abs() < 0.1, "{precision}: {allocated} MB");
            drop(model);
        }
    }
}
