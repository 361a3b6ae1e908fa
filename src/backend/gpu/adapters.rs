//! The adapters of this machine: their properties, and the choice of one.

use std::fmt;

use super::GpuError;
use super::memory::{self, AdapterMemory};

/// The interfaces through which adapters are found.
const APIS: &str = "Vulkan, Metal and DX12";

/// Properties of an adapter, known before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    pub name: String,
    pub kind: wgpu::DeviceType,
    pub api: wgpu::Backend,
    /// Name and version.
    pub driver: String,
    /// Shaders may compute in f16.
    pub shader_f16: bool,
    /// The driver offers matrix units (cooperative matrices).
    pub matrix_units: bool,
    /// Bytes of the largest buffer that a shader can read, and so of the largest weight.
    pub buffer_bytes_max: u64,
    /// Address on the PCI bus; empty if it is not known.
    pub bus_id: String,
}

impl Adapter {
    fn describe(adapter: &wgpu::Adapter) -> Self {
        let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
        Self {
            name: info.name,
            kind: info.device_type,
            api: info.backend,
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
            matrix_units: features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            buffer_bytes_max: limits.max_buffer_size.min(limits.max_storage_buffer_binding_size),
            bus_id: info.device_pci_bus_id,
        }
    }

    /// Total and free memory at this moment, if it is known; wgpu does not tell.
    pub fn memory(&self) -> Option<AdapterMemory> {
        memory::of(self.kind, &self.bus_id)
    }

    /// True if it computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.kind == wgpu::DeviceType::Cpu
    }

    /// Lower is better.
    fn rank(&self) -> u8 {
        match self.kind {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        }
    }

    /// The kind of device, as the user reads it.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        }
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {:?}", self.name, self.kind_name(), self.api)?;
        match self.driver.as_str() {
            "" => write!(f, ")"),
            driver => write!(f, ", {driver})"),
        }
    }
}

/// Every adapter that can compute, the best first. Their index selects one.
pub fn adapters() -> Vec<Adapter> {
    enumerate().1.into_iter().map(|(_, adapter)| adapter).collect()
}

/// The adapters of wgpu in the order of [`adapters`], and the instance that they belong to.
pub(super) fn enumerate() -> (wgpu::Instance, Vec<(wgpu::Adapter, Adapter)>) {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let found = pollster::block_on(instance.enumerate_adapters(backends));
    let mut described: Vec<_> = found
        .into_iter()
        .map(|adapter| {
            let known = Adapter::describe(&adapter);
            (adapter, known)
        })
        .collect();
    // Stable: adapters of one kind stay in the system's own order.
    described.sort_by_key(|(_, known)| known.rank());
    (instance, described)
}

/// The place in `found` of the adapter that `requested` names: a number from 0 on, or a part of a name in any case.
pub(super) fn choose(found: &[Adapter], requested: Option<&str>) -> Result<usize, GpuError> {
    if found.is_empty() {
        return Err(GpuError::NoAdapter { apis: APIS.to_owned() });
    }
    let Some(requested) = requested else {
        return Ok(0);
    };
    let chosen: Vec<usize> = match requested.parse::<usize>() {
        Ok(index) => (index..found.len()).take(1).collect(),
        Err(_) => {
            let is_meant = |adapter: &Adapter| adapter.name.to_lowercase().contains(&requested.to_lowercase());
            (0..found.len()).filter(|&index| is_meant(&found[index])).collect()
        }
    };
    match chosen[..] {
        [index] => Ok(index),
        _ => Err(GpuError::NoSuchAdapter {
            requested: requested.to_owned(),
            matches: chosen.len(),
            found: list(found),
        }),
    }
}

/// All adapters with their indices, in one line.
pub(super) fn list(found: &[Adapter]) -> String {
    let entries = found.iter().enumerate();
    let entries: Vec<String> = entries.map(|(index, adapter)| format!("{index}: {adapter}")).collect();
    entries.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str) -> Adapter {
        Adapter {
            name: name.to_owned(),
            kind: wgpu::DeviceType::DiscreteGpu,
            api: wgpu::Backend::Vulkan,
            driver: String::new(),
            shader_f16: true,
            matrix_units: true,
            buffer_bytes_max: 1 << 31,
            bus_id: String::new(),
        }
    }

    #[test]
    fn an_adapter_is_chosen_by_index_or_by_part_of_its_name() {
        let found = [adapter("NVIDIA H100"), adapter("AMD Radeon"), adapter("NVIDIA T4")];
        for (requested, index) in [
            (None, 0),
            (Some("0"), 0),
            (Some("2"), 2),
            (Some("radeon"), 1),
            (Some("T4"), 2),
        ] {
            assert_eq!(choose(&found, requested).unwrap(), index, "{requested:?}");
        }
    }

    #[test]
    fn an_unknown_or_ambiguous_adapter_is_an_error_that_lists_them() {
        let found = [adapter("NVIDIA H100"), adapter("NVIDIA T4")];
        for (requested, said) in [("2", "no adapter"), ("intel", "no adapter"), ("nvidia", "2 adapters")] {
            let error = choose(&found, Some(requested)).unwrap_err().to_string();
            assert!(
                error.contains(said) && error.contains("1: NVIDIA T4"),
                "{requested}: {error}"
            );
        }
        assert!(matches!(choose(&[], Some("0")), Err(GpuError::NoAdapter { .. })));
    }
}
