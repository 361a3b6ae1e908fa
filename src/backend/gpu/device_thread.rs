//! Parks CubeCL's device thread while there is no work. Otherwise it polls its queue every 150 µs, which takes 8 % of a
//! core.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use burn_cubecl::CubeDevice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Working,
    Resting,
    /// The device is dropped.
    Ended,
}

/// Parks the thread that CubeCL runs a device on. While it is parked, no other call of CubeCL for the device returns.
/// When this is dropped, the thread is parked for good.
#[derive(Debug)]
pub struct DeviceThread(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
    }

    /// Waits as long as the state is `state`, and gives the next one.
    fn wait_while(&self, state: State) -> State {
        let waiting = self.changed.wait_while(self.state(), |current| *current == state);
        *waiting.unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceThread {
    /// Starts the thread that asks for the parking; a call of CubeCL blocks its caller.
    ///
    /// # Errors
    /// If there are no more threads.
    pub fn new(device: &CubeDevice) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Working),
            changed: Condvar::new(),
        });
        let (parked, device) = (Arc::clone(&shared), device.clone());
        std::thread::Builder::new()
            .name("cloze-gpu-park".to_owned())
            .spawn(move || {
                let client = device.client();
                while parked.wait_while(State::Working) == State::Resting {
                    if let Err(error) = client.exclusive(|| parked.wait_while(State::Resting)) {
                        return tracing::warn!("the idle GPU takes processor time: {error}");
                    }
                }
                if let Err(error) = client.memory_cleanup() {
                    tracing::debug!("the memory of a dropped GPU device was not released: {error}");
                }
                // The thread cannot be ended: with debug assertions, wgpu panics when its buffers are dropped at the
                // end of a thread. So this one and CubeCL's wait for the end of the process.
                let parked_for_good = client.exclusive(|| -> () {
                    loop {
                        std::thread::park();
                    }
                });
                if let Err(error) = parked_for_good {
                    tracing::debug!("the thread of a dropped GPU device ended: {error}");
                }
            })?;
        Ok(Self(shared))
    }

    /// Parks the thread until [`wake`](Self::wake).
    pub fn rest(&self) {
        self.0.set(State::Resting);
    }

    /// Lets the thread work again.
    pub fn wake(&self) {
        self.0.set(State::Working);
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.0.set(State::Ended);
    }
}
