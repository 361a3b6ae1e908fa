//! Devices that run SPIR-V as CubeCL's compiler writes it.

use cubecl::WgpuCompilationOptions;
use cubecl::wgpu::vulkan;

use super::wgsl;

/// True if CubeCL's compiler writes SPIR-V that the driver of `adapter` can run.
///
/// Without `VK_KHR_workgroup_memory_explicit_layout` CubeCL 0.11.3 declares the memory of a workgroup as a pointer to a
/// pointer (`lower_shared_implicit` in cubecl-spirv), which is not valid SPIR-V: llvmpipe of Mesa 22.3 crashes with it.
pub fn is_supported(adapter: &wgpu::Adapter) -> bool {
    if adapter.get_info().backend != wgpu::Backend::Vulkan {
        return false;
    }
    let mut properties = wgsl::properties(adapter, &adapter.limits());
    let mut options = WgpuCompilationOptions::default();
    vulkan::register_vulkan_features(adapter, &mut properties, &mut options) && options.vulkan.supports_explicit_smem
}

/// A device with the features that SPIR-V needs.
///
/// # Errors
/// The driver's reason.
pub fn request_device(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue), String> {
    #[cfg(feature = "failpoints")]
    super::failpoints::refuse_spirv()?;
    // CubeCL enables wgpu's experimental features, which shaders in SPIR-V need.
    let requested = pollster::block_on(vulkan::try_request_vulkan_device(adapter));
    let device = requested.map_err(|error| error.to_string())?;
    device.ok_or_else(|| "it lacks a feature".to_owned())
}
