//! The adapters of this machine.

use std::fmt;

/// The interfaces that are asked for adapters.
pub const APIS: &str = "Vulkan, Metal and DX12";

/// What is known of one adapter before it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its name, as its driver gives it.
    pub name: String,
    /// What kind of device it is.
    pub kind: wgpu::DeviceType,
    /// The interface it speaks.
    pub api: wgpu::Backend,
    /// Its driver and that driver's version.
    pub driver: String,
}

impl Adapter {
    /// Whether it computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.kind == wgpu::DeviceType::Cpu
    }

    /// The lower, the better a choice.
    pub(super) fn rank(&self) -> u8 {
        match self.kind {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        }
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        };
        write!(f, "{} ({kind}, {:?}", self.name, self.api)?;
        match self.driver.trim() {
            "" => write!(f, ")"),
            driver => write!(f, ", {driver})"),
        }
    }
}

/// Every adapter that can compute, and the instance that they belong to.
pub fn enumerate() -> (wgpu::Instance, Vec<(wgpu::Adapter, Adapter)>) {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let found = pollster::block_on(instance.enumerate_adapters(backends));
    let described = found.into_iter().map(|adapter| {
        let info = adapter.get_info();
        let known = Adapter {
            name: info.name,
            kind: info.device_type,
            api: info.backend,
            driver: format!("{} {}", info.driver, info.driver_info),
        };
        (adapter, known)
    });
    (instance, described.collect())
}

/// Features that wgpu gives out only to those who accept that they may be unsound.
pub fn experimental() -> wgpu::Features {
    wgpu::Features::all_experimental_mask()
}
