//! The engine's queue with shuttle's locks and notifications in place of the real ones.
//!
//! Shuttle runs each test thousands of times and decides at every lock and every wait which task goes on, so that a
//! wake-up which is lost in one order of a thousand is found: it ends as a deadlock.

#![cfg(test)]

mod environment;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloze_queue::{Refusal, Returning};
use shuttle::future::{block_on, spawn};
use tokio::sync::oneshot;
use tokio::time::Instant;

use environment::{Entry, Limits, Shuttle};

type Queue = cloze_queue::Queue<Shuttle>;

const MINUTE: Duration = Duration::from_secs(60);
/// The time of a batch, for workers that wait for clients that return.
const TOOK: Duration = Duration::from_micros(80);
const RUNS: usize = 3000;
/// Orders that differ from first come, first served in so many places find nearly every bug.
const PREEMPTIONS: usize = 3;

fn in_many_orders(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), RUNS);
    shuttle::check_pct(test, RUNS, PREEMPTIONS);
}

fn queue(batch_delay: Duration, queue_size: usize) -> Arc<Queue> {
    Arc::new(Queue::new(Limits {
        batch_tokens_max: 10,
        batch_size_max: 2,
        batch_delay,
        queue_size,
    }))
}

fn entry(id: u32) -> (Entry, oneshot::Receiver<u32>) {
    let (reply, receiver) = oneshot::channel();
    let queued_at = Instant::now();
    let entry = Entry {
        id,
        queued_at,
        deadline: queued_at + MINUTE,
        reply,
    };
    (entry, receiver)
}

/// Admits the entries as one request and queues them.
fn push(queue: &Arc<Queue>, entries: Vec<Entry>) -> Result<(), Refusal> {
    queue.admit()?.push(entries)
}

/// A worker: answers every text with its own id, and counts them.
async fn serve(queue: Arc<Queue>, served: Arc<AtomicUsize>) {
    let mut returning = Returning::default();
    while let Some(batch) = queue.next_batch_after(&mut returning).await {
        assert!((1..=2).contains(&batch.len()), "a batch of {}", batch.len());
        returning.answering(&queue, batch.len(), TOOK);
        for entry in batch {
            served.fetch_add(1, Ordering::SeqCst);
            let _ = entry.reply.send(entry.id);
        }
    }
}

/// Pushes texts as one request and waits for all answers; gives how many there were.
async fn ask(queue: Arc<Queue>, ids: Vec<u32>) -> usize {
    let (entries, receivers): (Vec<_>, Vec<_>) = ids.iter().map(|&id| entry(id)).unzip();
    match push(&queue, entries) {
        Ok(()) => {}
        Err(Refusal::Full) => return 0,
        Err(error) => panic!("{error:?}"),
    }
    for (id, receiver) in ids.iter().zip(receivers) {
        assert_eq!(receiver.await.unwrap(), *id);
    }
    ids.len()
}

/// Three requests, one of them a list, and one client that leaves; `workers` of them serve.
fn nothing_is_lost(workers: usize, queue_size: usize) {
    block_on(async move {
        let queue = queue(Duration::ZERO, queue_size);
        let served = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..workers)
            .map(|_| spawn(serve(Arc::clone(&queue), Arc::clone(&served))))
            .collect();
        let clients: Vec<_> = [vec![1], vec![2, 3, 4], vec![5]]
            .into_iter()
            .map(|ids| spawn(ask(Arc::clone(&queue), ids)))
            .collect();
        let theirs = Arc::clone(&queue);
        let leaving = spawn(async move {
            let (entry, receiver) = entry(9);
            drop(receiver);
            push(&theirs, vec![entry]).is_ok()
        });
        let mut answered = 0;
        for client in clients {
            answered += client.await.unwrap();
        }
        let left = usize::from(leaving.await.unwrap());
        queue.close();
        for worker in workers {
            worker.await.unwrap();
        }
        let served = served.load(Ordering::SeqCst);
        assert!(
            (answered..=answered + left).contains(&served),
            "{answered} answered, {served} served"
        );
        assert_eq!(queue.waiting(), (0, 0));
        if queue_size > 5 {
            assert_eq!(answered, 5, "no request is refused while there are places");
        }
    });
}

#[test]
fn nothing_is_lost_and_nothing_served_twice() {
    in_many_orders(|| nothing_is_lost(1, 8));
}

#[test]
fn nor_by_two_workers() {
    in_many_orders(|| nothing_is_lost(2, 8));
}

#[test]
fn nor_when_some_are_refused() {
    in_many_orders(|| nothing_is_lost(2, 3));
}

#[test]
fn a_close_ends_every_wait() {
    in_many_orders(|| {
        block_on(async {
            // The delay never ends here: a full batch or the close must end the wait for more texts.
            let queue = queue(MINUTE, 8);
            let served = Arc::new(AtomicUsize::new(0));
            let workers: Vec<_> = (0..2)
                .map(|_| spawn(serve(Arc::clone(&queue), Arc::clone(&served))))
                .collect();
            let asked = spawn(ask(Arc::clone(&queue), vec![1, 2]));
            assert_eq!(asked.await.unwrap(), 2);
            let (one, receiver) = entry(3);
            push(&queue, vec![one]).unwrap();
            let theirs = Arc::clone(&queue);
            let closing = spawn(async move { theirs.close() });
            assert_eq!(receiver.await.unwrap(), 3);
            closing.await.unwrap();
            for worker in workers {
                worker.await.unwrap();
            }
        });
    });
}

#[test]
fn an_admission_gives_its_place_back() {
    in_many_orders(|| {
        block_on(async {
            let queue = queue(Duration::ZERO, 2);
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let queue = Arc::clone(&queue);
                    spawn(async move { queue.admit().is_ok() })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            let both = (queue.admit(), queue.admit());
            assert!(both.0.is_ok() && both.1.is_ok() && queue.admit().is_err());
        });
    });
}

#[test]
fn an_admitted_request_always_has_a_place() {
    in_many_orders(|| {
        block_on(async {
            let queue = queue(Duration::ZERO, 2);
            let served = Arc::new(AtomicUsize::new(0));
            let worker = spawn(serve(Arc::clone(&queue), Arc::clone(&served)));
            // Both are admitted before either is queued: queued, the first would fill the queue.
            let admissions = [queue.admit().unwrap(), queue.admit().unwrap()];
            let clients: Vec<_> = admissions
                .into_iter()
                .zip([vec![1, 2], vec![3, 4]])
                .map(|(admission, ids)| {
                    spawn(async move {
                        let (entries, receivers): (Vec<_>, Vec<_>) = ids.iter().map(|&id| entry(id)).unzip();
                        admission.push(entries).unwrap();
                        for (id, receiver) in ids.iter().zip(receivers) {
                            assert_eq!(receiver.await.unwrap(), *id);
                        }
                    })
                })
                .collect();
            for client in clients {
                client.await.unwrap();
            }
            queue.close();
            worker.await.unwrap();
            assert_eq!(served.load(Ordering::SeqCst), 4);
        });
    });
}

#[test]
fn a_lost_model_ends_every_worker() {
    in_many_orders(|| {
        block_on(async {
            let queue = queue(Duration::ZERO, 8);
            let served = Arc::new(AtomicUsize::new(0));
            let workers: Vec<_> = (0..2)
                .map(|_| spawn(serve(Arc::clone(&queue), Arc::clone(&served))))
                .collect();
            let theirs = Arc::clone(&queue);
            // A third worker loses the model while the others wait or serve.
            let losing = spawn(async move { theirs.abandon() });
            let (one, receiver) = entry(1);
            if push(&queue, vec![one]).is_ok() {
                // Answered or dropped, but never left waiting.
                let _ = receiver.await;
            }
            losing.await.unwrap();
            for worker in workers {
                worker.await.unwrap();
            }
            assert_eq!(queue.waiting(), (0, 0));
        });
    });
}
