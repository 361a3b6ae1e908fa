//! The thread pool: a fixed number of threads that wake within about a microsecond while jobs keep coming.
//!
//! A forward pass starts some hundred jobs, often of only tens of microseconds, so an idle thread spins for a moment
//! before it sleeps. General-purpose pools sleep sooner and schedule more than is needed here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// An idle thread spins for so long before it sleeps.
const SPIN_TIME: Duration = Duration::from_micros(100);
/// Checks for a job between two readings of the clock.
const SPINS_PER_CLOCK: u32 = 64;

/// A fixed number of threads, the calling one included.
pub struct Pool {
    shared: Arc<Shared>,
    /// The threads besides the calling one. The lock also makes jobs run one at a time.
    helpers: Mutex<Vec<Helper>>,
    threads: usize,
}

struct Helper {
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// A job: `run(context, index, prefetch)` for each index below `tasks`.
#[derive(Clone, Copy)]
struct Job {
    run: unsafe fn(*const (), usize, Option<usize>),
    context: *const (),
    tasks: usize,
    /// Threads take their next task before they run the current one and pass its index along.
    with_prefetch: bool,
}

struct Shared {
    /// The number of jobs so far.
    generation: AtomicUsize,
    job: std::cell::UnsafeCell<Option<Job>>,
    /// The next task to take.
    next: AtomicUsize,
    /// Helpers that have not finished the current job.
    busy: AtomicUsize,
    /// A task panicked.
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: only `Pool::run` writes `job`, under its lock and while `busy` is zero, that is, while no helper reads it;
// helpers read it after they have seen the new `generation` (release, acquire).
unsafe impl Sync for Shared {}
// SAFETY: the pointers in `job` are used only while the call of `Pool::run` that made them waits.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts `threads - 1` threads beside the calling one.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            job: std::cell::UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("cloze-cpu-{index}"));
            let handle = builder.spawn(move || help(&shared))?;
            Ok(Helper {
                thread: handle.thread().clone(),
                handle: Some(handle),
            })
        };
        let helpers = (1..threads).map(start).collect::<std::io::Result<_>>()?;
        Ok(Self {
            shared,
            helpers: Mutex::new(helpers),
            threads: threads.max(1),
        })
    }

    /// The number of threads, including the calling one.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0)` to `task(tasks - 1)`, in any order and on any thread, and returns when all are done.
    ///
    /// # Panics
    /// If a task panics.
    pub fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        self.share(tasks, false, |index, _| task(index));
    }

    /// As [`run`](Self::run), with the index of the thread's next task, whose operands the task may prefetch:
    /// `task(index, prefetch)`.
    ///
    /// No other thread can take that next task, so tasks should be short and of equal size.
    ///
    /// # Panics
    /// If a task panics.
    pub fn run_with_prefetch<F: Fn(usize, Option<usize>) + Sync>(&self, tasks: usize, task: F) {
        self.share(tasks, true, task);
    }

    fn share<F: Fn(usize, Option<usize>) + Sync>(&self, tasks: usize, with_prefetch: bool, task: F) {
        if self.threads == 1 || tasks <= 1 {
            (0..tasks).for_each(|index| task(index, Some(index + 1).filter(|&next| next < tasks)));
            return;
        }
        /// # Safety
        /// `context` is an `F` that lives during the call.
        unsafe fn call<F: Fn(usize, Option<usize>) + Sync>(context: *const (), index: usize, prefetch: Option<usize>) {
            // SAFETY: by the caller's promise.
            unsafe { (*context.cast::<F>())(index, prefetch) }
        }
        let helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        let job = Job {
            run: call::<F>,
            context: (&raw const task).cast(),
            tasks,
            with_prefetch,
        };
        let shared = &*self.shared;
        // SAFETY: the lock is held and the last job has ended, so no helper reads it now.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(helpers.len(), Ordering::Relaxed);
        shared.generation.fetch_add(1, Ordering::Release);
        helpers.iter().for_each(|helper| helper.thread.unpark());
        take_tasks(shared, job);
        // `task` must outlive every helper's use of it.
        let mut spins = 0u32;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            match spins % 4096 {
                0 => std::thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
        if shared.panicked.swap(false, Ordering::Relaxed) {
            drop(helpers);
            panic!("a compute task panicked");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let helpers = self.helpers.get_mut().unwrap_or_else(PoisonError::into_inner);
        for helper in helpers {
            helper.thread.unpark();
            if let Some(handle) = helper.handle.take() {
                // A helper catches the panics of its tasks, so it does not panic itself.
                let _ = handle.join();
            }
        }
    }
}

/// Runs tasks until none are left. A panic is recorded and ends this thread's share.
fn take_tasks(shared: &Shared, job: Job) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let take = || Some(shared.next.fetch_add(1, Ordering::Relaxed)).filter(|&index| index < job.tasks);
        let mut task = take();
        while let Some(index) = task {
            let prefetch = job.with_prefetch.then(take).flatten();
            // SAFETY: `context` belongs to the call of `run` that waits for this one.
            unsafe { (job.run)(job.context, index, prefetch) };
            task = prefetch.or_else(take);
        }
    }));
    if outcome.is_err() {
        shared.panicked.store(true, Ordering::Relaxed);
    }
}

fn help(shared: &Shared) {
    let mut seen = 0;
    loop {
        let Some(generation) = wait(shared, seen) else { return };
        seen = generation;
        // SAFETY: the new generation was seen, and this helper counts as busy until it decrements `busy`.
        let job = unsafe { *shared.job.get() };
        take_tasks(shared, job.expect("a generation has a job"));
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for a generation other than `seen`; `None` if the pool ends.
fn wait(shared: &Shared, seen: usize) -> Option<usize> {
    let mut until = None;
    loop {
        for _ in 0..SPINS_PER_CLOCK {
            let generation = shared.generation.load(Ordering::Acquire);
            if generation != seen {
                return Some(generation);
            }
            std::hint::spin_loop();
        }
        if shared.stop.load(Ordering::Acquire) {
            return None;
        }
        let now = Instant::now();
        if now >= *until.get_or_insert_with(|| now + SPIN_TIME) {
            // Returns at once if an unpark came since the last check.
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::thread::ThreadId;

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run(tasks, |i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn a_thread_continues_with_the_task_it_prefetched() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 7, 100] {
                // By thread: tasks with the tasks to prefetch.
                let taken = Mutex::new(HashMap::<ThreadId, Vec<(usize, Option<usize>)>>::new());
                pool.run_with_prefetch(tasks, |index, prefetch| {
                    let mut taken = taken.lock().unwrap();
                    taken
                        .entry(std::thread::current().id())
                        .or_default()
                        .push((index, prefetch));
                });
                let taken = taken.into_inner().unwrap();
                let mut run: Vec<usize> = taken.values().flatten().map(|&(index, _)| index).collect();
                run.sort_unstable();
                assert!(run.into_iter().eq(0..tasks));
                for steps in taken.values() {
                    let continued = steps.iter().skip(1).map(|&(index, _)| Some(index)).chain([None]);
                    assert!(steps.iter().map(|&(_, prefetch)| prefetch).eq(continued), "{steps:?}");
                }
            }
        }
    }

    #[test]
    fn sleeping_threads_are_woken() {
        let pool = Pool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..3 {
            std::thread::sleep(20 * SPIN_TIME);
            pool.run(64, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 3 * 63 * 64 / 2);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(8, |i| assert_ne!(i, 5))));
        assert!(outcome.is_err());
        let done = AtomicUsize::new(0);
        pool.run(8, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 8);
    }
}
