use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;

/// Works until it is dropped; counts its checkpoints.
async fn endless(count: Arc<AtomicU64>) {
    loop {
        std::thread::sleep(Duration::from_micros(100));
        count.fetch_add(1, Ordering::Relaxed);
        checkpoint().await;
    }
}

#[tokio::test]
async fn cheap_work_does_not_wait_for_expensive_work() {
    let pool = WorkPool::start(1).unwrap();
    let counts: [Arc<AtomicU64>; 8] = std::array::from_fn(|_| Arc::default());
    let expensive: Vec<_> = counts
        .iter()
        .map(|count| pool.spawn(endless(Arc::clone(count))))
        .collect();
    for _ in 0..20 {
        assert_eq!(pool.spawn(async { 7 }).await, Ok(7));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let counts = counts.map(|count| count.load(Ordering::Relaxed));
    assert!(counts.iter().all(|&count| count > 0), "one starved: {counts:?}");
    assert_eq!(pool.len(), 8);
    drop(expensive);
}

#[tokio::test]
async fn work_ends_at_the_next_checkpoint_once_its_task_is_dropped() {
    let pool = WorkPool::start(2).unwrap();
    let count = Arc::<AtomicU64>::default();
    // As many as run, and more that wait.
    let tasks: Vec<_> = (0..6).map(|_| pool.spawn(endless(Arc::clone(&count)))).collect();
    while count.load(Ordering::Relaxed) < 10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(tasks);
    while !pool.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(Arc::strong_count(&count), 1, "the work was not freed");
}

#[tokio::test]
async fn work_that_has_not_started_never_starts_once_its_task_is_dropped() {
    let pool = WorkPool::start(1).unwrap();
    let (release, gate) = channel::<()>();
    let busy = pool.spawn(async move { gate.recv().is_err() });
    while pool.running() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = Arc::<AtomicU64>::default();
    drop(pool.spawn(endless(Arc::clone(&started))));
    assert_eq!(Arc::strong_count(&started), 1);
    drop(release);
    assert_eq!(busy.await, Ok(true));
    assert_eq!(started.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_panic_is_a_result_and_the_thread_goes_on() {
    let pool = WorkPool::start(1).unwrap();
    let panicked = pool.spawn(async {
        checkpoint().await;
        panic!("on purpose")
    });
    assert_eq!(panicked.await, Err(WorkError::Panicked("on purpose".to_owned())));
    assert_eq!(pool.spawn(async { 1 }).await, Ok(1));
}

#[tokio::test]
async fn a_dropped_pool_ends_work_that_waits() {
    let pool = WorkPool::start(1).unwrap();
    let count = Arc::<AtomicU64>::default();
    let tasks: Vec<_> = (0..3).map(|_| pool.spawn(endless(Arc::clone(&count)))).collect();
    drop(pool);
    for task in tasks {
        assert_eq!(task.await, Err(WorkError::Stopped));
    }
}

#[tokio::test]
async fn the_wait_for_a_thread_is_known() {
    let pool = WorkPool::start(1).unwrap();
    assert_eq!(pool.longest_wait(), Duration::ZERO);
    let (release, gate) = channel::<()>();
    let busy = pool.spawn(async move { gate.recv().is_err() });
    let waiting = pool.spawn(async {});
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(pool.longest_wait() >= Duration::from_millis(20));
    drop(release);
    busy.await.unwrap();
    waiting.await.unwrap();
    assert_eq!(pool.longest_wait(), Duration::ZERO);
}

#[test]
fn a_budget_is_spent_before_the_work() {
    let mut budget = WorkBudget::new(10);
    assert_eq!(budget.spend(4), Ok(()));
    assert_eq!(budget.spend(6), Ok(()));
    assert_eq!(budget.spend(1), Err(TooMuchWork { max: 10 }));
}

#[test]
fn work_runs_to_its_end_outside_of_a_pool() {
    let worked = run_to_end(async {
        for _ in 0..1000 {
            checkpoint().await;
        }
        5
    });
    assert_eq!(worked, 5);
}
