//! Total and free memory of an adapter.
//!
//! wgpu does not report them. Sources are the operating system for an adapter that uses the machine's memory, AMD's
//! driver files, and NVIDIA's management library; for other GPUs they are not known.

use std::path::Path;

use crate::sys::memory;

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterMemory {
    pub total: u64,
    pub free: u64,
}

/// The memory of an adapter of this kind at this PCI address, if it is known.
pub(super) fn of(kind: wgpu::DeviceType, bus_id: &str) -> Option<AdapterMemory> {
    match kind {
        wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu => {
            let (total, available) = memory::total().zip(memory::available())?;
            let free = available.bytes.min(total);
            Some(AdapterMemory { total, free })
        }
        _ if bus_id.is_empty() => None,
        _ => amd(Path::new("/sys/bus/pci/devices"), bus_id).or_else(|| nvidia(bus_id)),
    }
}

/// From the files of Linux's amdgpu driver below `devices`.
fn amd(devices: &Path, bus_id: &str) -> Option<AdapterMemory> {
    let number = |name: &str| {
        let text = std::fs::read_to_string(devices.join(bus_id).join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let total = number("mem_info_vram_total")?;
    Some(AdapterMemory {
        total,
        free: total.saturating_sub(number("mem_info_vram_used")?),
    })
}

/// From NVIDIA's management library, which its driver installs; it is loaded at run time.
fn nvidia(bus_id: &str) -> Option<AdapterMemory> {
    let library = nvml_wrapper::Nvml::init().ok()?;
    let known = library.device_by_pci_bus_id(bus_id).ok()?.memory_info().ok()?;
    Some(AdapterMemory {
        total: known.total,
        free: known.free,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amd_reports_total_and_used_memory() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("0000:03:00.0");
        std::fs::create_dir(&device).unwrap();
        assert_eq!(amd(folder.path(), "0000:03:00.0"), None);
        std::fs::write(device.join("mem_info_vram_total"), "17163091968\n").unwrap();
        std::fs::write(device.join("mem_info_vram_used"), "163091968\n").unwrap();
        let known = amd(folder.path(), "0000:03:00.0").unwrap();
        assert_eq!((known.total, known.free), (17_163_091_968, 17_000_000_000));
        assert_eq!(amd(folder.path(), "0000:04:00.0"), None);
    }
}
