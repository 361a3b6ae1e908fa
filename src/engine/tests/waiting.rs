//! Deadlines and departures while a batch runs.

use super::*;

/// An engine whose first batch is running and does not end before the test says so.
struct Busy {
    engine: Arc<Engine>,
    may_end: Sender<()>,
    begun: Receiver<()>,
    passes: Arc<AtomicUsize>,
    first: tokio::task::JoinHandle<Result<usize, EngineError>>,
}

fn busy_engine() -> Busy {
    let (begun, has_begun) = channel();
    let (may_end, wait) = channel();
    let passes = Arc::new(AtomicUsize::new(0));
    let model = Gated {
        begun,
        may_end: wait,
        passes: Arc::clone(&passes),
    };
    let engine = Arc::new(Engine::start(vec![Box::new(model)], limits()).unwrap());
    let theirs = Arc::clone(&engine);
    let first = tokio::spawn(async move {
        let answer = submit(&theirs, vec![sequence(1, 1)], Instant::now() + MINUTE).await;
        answer.map(|scores| scores.len())
    });
    Busy {
        engine,
        may_end,
        begun: has_begun,
        passes,
        first,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_the_queue_costs_no_forward_pass() {
    let busy = busy_engine();
    busy.begun.recv().unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let error = submit(&busy.engine, vec![sequence(2, 1)], deadline).await.unwrap_err();
    assert_eq!(error, EngineError::Deadline { in_part: false });
    assert_eq!(busy.engine.stats().expired.get(), 1);
    busy.may_end.send(()).unwrap();
    assert_eq!(busy.first.await.unwrap(), Ok(1));
    let engine = Arc::clone(&busy.engine);
    tokio::task::spawn_blocking(move || engine.stop()).await.unwrap();
    assert_eq!(busy.passes.load(Ordering::SeqCst), 1);
    assert_eq!(busy.engine.waiting(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_costs_no_forward_pass() {
    let busy = busy_engine();
    busy.begun.recv().unwrap();
    let engine = Arc::clone(&busy.engine);
    let gone = tokio::spawn(async move {
        submit(&engine, vec![sequence(2, 1)], Instant::now() + MINUTE)
            .await
            .is_ok()
    });
    while busy.engine.waiting().0 == 0 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    busy.may_end.send(()).unwrap();
    assert_eq!(busy.first.await.unwrap(), Ok(1));
    let engine = Arc::clone(&busy.engine);
    tokio::task::spawn_blocking(move || engine.stop()).await.unwrap();
    assert_eq!(busy.passes.load(Ordering::SeqCst), 1);
    assert_eq!(busy.engine.stats().abandoned.get(), 1);
}

/// Computes until its batch is not needed any more.
struct Endless(Sender<()>);

impl MaskedLm for Endless {
    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        self.0.send(()).unwrap();
        while batch.is_needed() {
            std::thread::yield_now();
        }
        Err(ModelError::Cancelled)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_batch_ends_with_its_last_client_and_is_no_failure() {
    let (begun, has_begun) = channel();
    let engine = Engine::start(vec![Box::new(Endless(begun))], limits()).unwrap();
    for count in 1..=4 {
        let deadline = Instant::now() + MINUTE;
        let waiting = submit(&engine, vec![sequence(1, 1), sequence(2, 1)], deadline);
        let leaving = tokio::time::timeout(Duration::from_millis(20), waiting);
        assert!(leaving.await.is_err());
        has_begun.recv().unwrap();
        while engine.stats().abandoned.get() < 2 * count {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!((engine.health(), engine.stats().failed.get()), (Health::Ready, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_costs_what_its_readout_positions_cost() {
    struct Expensive(Sender<usize>);
    impl MaskedLm for Expensive {
        fn tokens_per_readout(&self) -> f32 {
            3.4
        }

        fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
            self.0.send(batch.sequences()).unwrap();
            Ok(no_tokens(batch.sequences()))
        }
    }
    let (sent, sizes) = channel();
    let limits = Limits {
        batch_tokens_max: 8,
        ..limits()
    };
    let engine = Engine::start(vec![Box::new(Expensive(sent))], limits).unwrap();
    // Each costs 4 tokens: 1 and 3.4, rounded.
    let sequences = (0..4).map(|id| sequence(id, 1)).collect();
    submit(&engine, sequences, Instant::now() + MINUTE).await.unwrap();
    assert_eq!(sizes.try_iter().collect::<Vec<_>>(), [2, 2]);
    // Each costs 7 tokens: 3 more for 192 scores.
    let many = |id| Arc::new(Sequence::new([id], [0], Select::TopK(192)));
    submit(&engine, (0..2).map(many).collect(), Instant::now() + MINUTE)
        .await
        .unwrap();
    assert_eq!(sizes.try_iter().collect::<Vec<_>>(), [1, 1]);
}
