//! What the C library's allocator holds on to.

/// Gives memory that has been freed back to the system, where the C library is glibc; elsewhere it does nothing.
///
/// glibc keeps what was freed between blocks that are in use, for whoever allocates next on the same thread. After a
/// model is loaded that is room for the largest tensors as they were read, and another thread computes.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: glibc's own declaration (malloc_trim(3)); it may be called at any time, from any thread.
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // It tells whether there was anything to give back.
        let _ = malloc_trim(0);
    }
}
