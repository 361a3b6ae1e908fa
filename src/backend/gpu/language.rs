//! The language that kernels are compiled to. CubeCL itself takes SPIR-V for every Vulkan adapter that its compiler can
//! run on; here it is chosen before, so that a driver that refuses it gets WGSL.

use burn_cubecl::CubeDevice;
use burn_wgpu::{RuntimeOptions, WgpuDevice, WgpuSetup, try_init_device};

#[cfg(feature = "vulkan")]
use super::spirv;
#[cfg(feature = "vulkan")]
use super::wgsl;

/// The environment variable that selects the language: `spirv` or `wgsl`.
const LANGUAGE_VARIABLE: &str = "CLOZE_GPU_LANGUAGE";

/// A language of GPU kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Reaches matrix units, through the Vulkan drivers that have the features for it.
    SpirV,
    /// For all drivers.
    Wgsl,
}

impl Language {
    /// The name, as the user reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SpirV => "SPIR-V",
            Self::Wgsl => "WGSL",
        }
    }

    /// The language that `CLOZE_GPU_LANGUAGE` selects, if it is set and not empty.
    ///
    /// # Errors
    /// One sentence, if it names none.
    pub fn selected() -> Result<Option<Self>, String> {
        match std::env::var(LANGUAGE_VARIABLE).as_deref() {
            Ok("spirv") => Ok(Some(Self::SpirV)),
            Ok("wgsl") => Ok(Some(Self::Wgsl)),
            Ok("") | Err(std::env::VarError::NotPresent) => Ok(None),
            _ => Err(format!("{LANGUAGE_VARIABLE} takes spirv or wgsl")),
        }
    }
}

/// A device of `adapter` and the language for it: `selected`, or SPIR-V if the driver has what it needs, or WGSL. A driver
/// that refuses a device for SPIR-V is asked for one for WGSL, with a warning.
///
/// # Errors
/// The adapter's reason, or that it cannot run the language that is selected.
pub fn request_device(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
    selected: Option<Language>,
) -> Result<(wgpu::Device, wgpu::Queue, Language), String> {
    #[cfg(feature = "vulkan")]
    if selected != Some(Language::Wgsl) && spirv::is_supported(adapter) {
        match spirv::request_device(adapter) {
            Ok((device, queue)) => return Ok((device, queue, Language::SpirV)),
            Err(reason) if selected == Some(Language::SpirV) => return Err(reason),
            Err(reason) => tracing::warn!(
                "kernels are compiled to WGSL, which does not use matrix units: {} gave no device for SPIR-V: {reason}",
                adapter.get_info().name
            ),
        }
    }
    if selected == Some(Language::SpirV) {
        let missing = match cfg!(feature = "vulkan") {
            true => "the driver lacks a feature that SPIR-V needs",
            false => "this build lacks the cargo feature vulkan",
        };
        return Err(format!("{LANGUAGE_VARIABLE} selects spirv, but {missing}"));
    }
    let device = pollster::block_on(adapter.request_device(descriptor));
    let (device, queue) = device.map_err(|error| error.to_string())?;
    Ok((device, queue, Language::Wgsl))
}

/// Makes the device of `setup` known to CubeCL, with kernels in `language`.
///
/// # Errors
/// CubeCL's reason.
pub fn register(setup: WgpuSetup, language: Language) -> Result<WgpuDevice, String> {
    let options = RuntimeOptions::try_default().map_err(|error| error.to_string())?;
    // CubeCL would take SPIR-V for an adapter that has the features, whatever device it was given.
    #[cfg(feature = "vulkan")]
    if language == Language::Wgsl && setup.backend == wgpu::Backend::Vulkan {
        return wgsl::register(setup, options);
    }
    let device = try_init_device(setup, options).map_err(|error| error.to_string())?;
    let is_spirv = CubeDevice::Wgpu(device.clone()).client().name() == "wgpu<spirv>";
    debug_assert_eq!(is_spirv, language == Language::SpirV, "CubeCL took another language");
    Ok(device)
}
