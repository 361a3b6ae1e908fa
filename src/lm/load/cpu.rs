//! Loading for the CPU: one copy of the weights, and threads for each worker.

use std::sync::Arc;

use super::{BackendKind, DeviceInfo, LoadError, LoadedModel, Placement, check_precision, memory};
use crate::backend::cpu::{Compute, Cpu};
use crate::checkpoint::TensorSource;
use crate::encoder::Architecture;
use crate::lm::cpu_worker::CpuWorkerModel;
use crate::lm::{EncoderModel, MaskedLm};

pub fn load(
    architecture: &Architecture,
    source: &mut dyn TensorSource,
    placement: &Placement,
) -> Result<LoadedModel, LoadError> {
    let Placement { threads, workers, .. } = *placement;
    if workers > threads {
        return Err(LoadError::TooManyWorkers { workers, threads });
    }
    let precision = placement.precision.unwrap_or_default();
    check_precision::<Cpu>(precision, BackendKind::Cpu)?;
    memory::check(architecture, source, precision)?;
    // All threads load. A single worker keeps them.
    let all = Compute::new(threads).map_err(LoadError::Threads)?;
    let model = all.run(|| EncoderModel::load(architecture, source, &Default::default(), precision));
    let model = Arc::new(model.map_err(|error| LoadError::from_encoder(error, BackendKind::Cpu))?);
    crate::sys::memory::give_back();
    let (isa, gains) = (all.features(), all.gains_from(precision));
    let mut shares = vec![all];
    if workers > 1 {
        shares.clear();
        for worker in 0..workers {
            let share = threads / workers + usize::from(worker < threads % workers);
            shares.push(Compute::new(share).map_err(LoadError::Threads)?);
        }
    }
    let on_share = |share| -> Box<dyn MaskedLm> { Box::new(CpuWorkerModel::new(Arc::clone(&model), share)) };
    Ok(LoadedModel {
        workers: shares.into_iter().map(on_share).collect(),
        precision,
        device: DeviceInfo::Cpu {
            precision,
            workers,
            threads,
            isa,
            gains,
        },
    })
}
