//! A device that hangs, and slow ones that do not.

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

/// An engine whose model waits for ever, a text that it has begun, and one that waits behind it.
struct Hanging {
    engine: Arc<Engine>,
    running: tokio::task::JoinHandle<Result<(), EngineError>>,
    waiting: tokio::task::JoinHandle<Result<(), EngineError>>,
    /// Dropping it would end the model's wait.
    _never: Sender<()>,
}

/// On a thread of its own, as every worker, so that the tests' clock is theirs alone.
async fn hanging() -> Hanging {
    let ((begun, has_begun), (never, wait)) = (channel(), channel::<()>());
    let script = move |_: &[u32]| {
        begun.send(()).unwrap();
        let _ = wait.recv();
        Ok(())
    };
    let engine = Arc::new(Engine::start(vec![Box::new(Scripted(script))], limits()).unwrap());
    let ask = |id| {
        let engine = Arc::clone(&engine);
        let deadline = Instant::now() + 60 * MINUTE;
        tokio::spawn(async move { submit(&engine, vec![sequence(id, 1)], deadline).await.map(|_| ()) })
    };
    let running = ask(1);
    tokio::task::yield_now().await;
    has_begun.recv().unwrap();
    let waiting = ask(2);
    tokio::task::yield_now().await;
    Hanging {
        engine,
        running,
        waiting,
        _never: never,
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_device_that_hangs_is_told_and_the_engine_is_broken() {
    let hanging = hanging().await;
    let engine = &hanging.engine;
    let began_at = Instant::now();
    assert_eq!(engine.health(), Health::Ready);
    watchdog::watch(&engine.queue, &engine.state, LIMIT).await;
    let waited = began_at.elapsed();
    // The worker's clock did not stand still until it began.
    assert!(waited >= LIMIT && waited < LIMIT + Duration::from_secs(5), "{waited:?}");
    let reason = "a batch has not completed within 60 s; the device hangs".to_owned();
    assert_eq!(engine.health(), Health::Broken(reason.clone()));
    assert_eq!(engine.broken().await, reason);
    assert_eq!(hanging.running.await.unwrap(), Err(EngineError::Model(reason)));
    assert_eq!(hanging.waiting.await.unwrap(), Err(EngineError::Stopped));
    let late = submit(engine, vec![sequence(3, 1)], Instant::now() + MINUTE).await;
    assert_eq!(late.map(|_| ()), Err(EngineError::Stopped));
    // Joins no other request.
    engine.stop();
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_nobody_is_told() {
    let hanging = hanging().await;
    tokio::time::sleep(10 * LIMIT).await;
    assert_eq!(hanging.engine.health(), Health::Ready);
    assert!(!hanging.running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn the_time_of_each_batch_is_counted_by_itself() {
    let (queue, state) = parts(limits());
    let timer = state.new_timer();
    let watching = watchdog::watch(&queue, &state, LIMIT);
    let working = async {
        let almost = LIMIT - Duration::from_secs(1);
        // Two after a pause.
        tokio::time::sleep(almost).await;
        for _ in 0..2 {
            let running = timer.start();
            tokio::time::sleep(almost).await;
            drop(running);
        }
        tokio::time::sleep(5 * LIMIT).await;
        // And one that does not end.
        let last = timer.start();
        (last, Instant::now())
    };
    let ((), (_last, began_at)) = tokio::join!(watching, working);
    let waited = began_at.elapsed();
    assert!(
        waited >= LIMIT && waited < LIMIT + Duration::from_millis(10),
        "{waited:?}"
    );
    assert!(state.hung().get().is_some());
}

#[tokio::test(start_paused = true)]
async fn watching_ends_with_the_engine() {
    let (queue, state) = parts(limits());
    state.stop();
    watchdog::watch(&queue, &state, LIMIT).await;
    assert_eq!(state.hung().get(), None);
}
