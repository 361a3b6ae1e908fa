//! A device of a Vulkan adapter that compiles to WGSL, in a build that can compile to SPIR-V. CubeCL has no function for
//! this; `try_create_server` in cubecl-wgpu 0.11.3 (`runtime.rs`) is what it does for an adapter without SPIR-V.

use std::any::TypeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use burn_wgpu::{RuntimeOptions, WgpuDevice, WgpuSetup};
use cubecl::WgpuCompilationOptions;
use cubecl::client::Client;
use cubecl::device::WgpuDeviceKind;
use cubecl::ir::features::TypeUsage;
use cubecl::ir::{
    AddressType, DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties, IntKind,
    MemoryDeviceProperties, TargetProperties, UIntKind,
};
use cubecl::profile::TimingMethod;
use cubecl::server::ServerUtilities;
use cubecl::wgpu::{AutoCompiler, WgpuServer};
use cubecl_common::device::{Device, ServiceId};
use cubecl_server::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_server::logging::ServerLogger;

/// The number of the first device that [`register`] adds. CubeCL counts its own from 0, and at most to 65,535.
const FIRST_DEVICE: u32 = 0x8000;

/// Makes the device of `setup` known to CubeCL, with kernels in WGSL.
///
/// # Errors
/// CubeCL's reason.
pub fn register(setup: WgpuSetup, options: RuntimeOptions) -> Result<WgpuDevice, String> {
    static NEXT: AtomicU32 = AtomicU32::new(FIRST_DEVICE);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    if number > u32::from(u16::MAX) {
        return Err("too many devices were opened".to_owned());
    }
    let device = WgpuDevice::new(WgpuDeviceKind::Existing(number));
    let properties = properties(&setup.adapter, &setup.device.limits());
    let compilation = WgpuCompilationOptions {
        supports_u64: setup.adapter.features().contains(wgpu::Features::SHADER_INT64),
        ..Default::default()
    };
    let (memory, timing) = (properties.memory.clone(), properties.timing_method);
    let layout = ContiguousMemoryLayoutPolicy::new(memory.alignment as usize);
    let service = ServiceId {
        device: device.to_id(),
        service: TypeId::of::<WgpuServer<AutoCompiler>>(),
    };
    let logger = Arc::new(ServerLogger::default());
    let target = TargetProperties::default();
    let (utilities, captures) = ServerUtilities::init(service, "wgpu<wgsl>", properties, target, logger, layout);
    let server: WgpuServer<AutoCompiler> = WgpuServer::new(
        memory,
        options.memory_config,
        compilation,
        setup.device,
        setup.queue,
        options.tasks_max,
        setup.backend,
        timing,
        utilities,
        captures,
    );
    let registered = Client::try_init(device.to_id(), server);
    registered.map(|_| device).map_err(|error| format!("{error:?}"))
}

/// The properties of a device of `adapter` with these `limits`, in the form of CubeCL; element types are those of WGSL.
pub fn properties(adapter: &wgpu::Adapter, limits: &wgpu::Limits) -> DeviceProperties {
    let (info, features) = (adapter.get_info(), adapter.features());
    let memory = MemoryDeviceProperties::new(
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        u64::from(
            limits
                .min_uniform_buffer_offset_alignment
                .max(limits.min_storage_buffer_offset_alignment),
        ),
    );
    let cubes = limits.max_compute_workgroups_per_dimension;
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: info.subgroup_min_size,
        plane_size_max: info.subgroup_max_size,
        // wgpu needs one for the lengths of the buffers.
        max_bindings: limits.max_storage_buffers_per_shader_stage.saturating_sub(1),
        max_shared_memory_size: limits.max_compute_workgroup_storage_size as usize,
        max_cube_count: (cubes, cubes, cubes),
        max_units_per_cube: limits.max_compute_invocations_per_workgroup,
        max_cube_dim: (
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ),
        num_streaming_multiprocessors: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: 4,
        cube_mma_reserved_shared_memory: 0,
    };
    let timing = match features.contains(wgpu::Features::TIMESTAMP_QUERY) {
        true => TimingMethod::Device,
        false => TimingMethod::System,
    };
    let identity = DeviceIdentity {
        fingerprint: format!("wgsl_{}_{}", info.vendor, info.device),
        name: info.name,
        physical: None,
    };
    let mut properties = DeviceProperties::new(Default::default(), memory, hardware, timing, identity);
    let is_card = info.device_type != wgpu::DeviceType::Cpu;
    if is_card && features.contains(wgpu::Features::SUBGROUP) {
        properties.features.plane.insert(cubecl::ir::features::Plane::Ops);
    }
    properties.register_address_type(AddressType::U32);
    for element in elements(features) {
        properties.register_type_usage(element, TypeUsage::all());
    }
    properties
}

/// The types of elements that WGSL has with these features.
fn elements(features: wgpu::Features) -> Vec<ElemType> {
    let mut elements = vec![
        ElemType::Index,
        ElemType::UInt(UIntKind::U32),
        ElemType::Int(IntKind::I32),
        ElemType::Float(FloatKind::F32),
        ElemType::Float(FloatKind::Flex32),
        ElemType::Bool,
    ];
    if features.contains(wgpu::Features::SHADER_INT64) {
        elements.extend([ElemType::Int(IntKind::I64), ElemType::UInt(UIntKind::U64)]);
    }
    if features.contains(wgpu::Features::SHADER_F64) {
        elements.push(ElemType::Float(FloatKind::F64));
    }
    if features.contains(wgpu::Features::SHADER_F16) {
        elements.push(ElemType::Float(FloatKind::F16));
    }
    elements
}
