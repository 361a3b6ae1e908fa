//! Several workers at one queue.

use super::*;

/// The engine's workers as tasks on paused time, each with a model of its own.
fn start_workers(models: Vec<Box<dyn MaskedLm>>) -> (Arc<Queue>, Arc<EngineState>, tokio::task::JoinSet<()>) {
    let queue = queue(limits());
    let state = Arc::new(EngineState::new(models.len()));
    let mut workers = tokio::task::JoinSet::new();
    for model in models {
        let (queue, state) = (Arc::clone(&queue), Arc::clone(&state));
        workers.spawn(async move { worker::run(&queue, &state, model).await });
    }
    (queue, state, workers)
}

/// Submits one sequence; true if it was answered.
async fn asked(queue: &Arc<Queue>, id: u32) -> bool {
    let (entry, receiver) = entry(id, 1, MINUTE);
    push(queue, vec![entry]).unwrap();
    receiver.await.unwrap().is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_fails_leaves_the_texts_to_the_others() {
    let works = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tries = Arc::new(AtomicUsize::new(0));
    let (theirs, counted) = (Arc::clone(&works), Arc::clone(&tries));
    let bad = Scripted(move |_: &[u32]| {
        counted.fetch_add(1, Ordering::SeqCst);
        assert!(theirs.load(Ordering::SeqCst), "on purpose");
        Ok(())
    });
    let (queue, state, mut workers) = start_workers(vec![Box::new(bad), Box::new(Scripted(|_: &[u32]| Ok(())))]);
    let mut failed = 0;
    for id in 1..=40 {
        failed += usize::from(!asked(&queue, id).await);
        assert!(state.is_healthy(), "one worker answers");
    }
    assert_eq!(failed, 3, "after three failures it takes no more");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(tries.load(Ordering::SeqCst), 5, "it is tried every five seconds");
    works.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    for id in 1..=10 {
        assert!(asked(&queue, id).await);
    }
    assert!(tries.load(Ordering::SeqCst) > 7, "it takes texts again");
    queue.close();
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_workers_fail_the_engine_does() {
    let fails = || -> Box<dyn MaskedLm> { Box::new(Scripted(|_: &[u32]| Err(ModelError::NotFinite))) };
    let (queue, state, mut workers) = start_workers(vec![fails(), fails()]);
    for id in 1..=6 {
        assert!(state.is_healthy(), "before failure {id}");
        assert!(!asked(&queue, id).await);
    }
    assert!(!state.is_healthy());
    // No worker is left, so a request fails at once and not after a probe.
    let before = Instant::now();
    assert!(!asked(&queue, 7).await);
    assert_eq!(before.elapsed(), Duration::ZERO);
    queue.close();
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_device_ends_all_workers() {
    let lost = Scripted(|_: &[u32]| Err(ModelError::Device("the device is lost".to_owned())));
    let (queue, state, mut workers) = start_workers(vec![Box::new(lost), Box::new(Scripted(|_: &[u32]| Ok(())))]);
    while queue.is_open() {
        asked(&queue, 1).await;
        tokio::task::yield_now().await;
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(state.broken().get().unwrap(), "the device is lost");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_every_worker_that_waits() {
    let works = || -> Box<dyn MaskedLm> { Box::new(Scripted(|_: &[u32]| Ok(()))) };
    let (queue, _, mut workers) = start_workers(vec![works(), works(), works()]);
    assert!(asked(&queue, 1).await);
    let before = Instant::now();
    queue.close();
    let all_ended = async { while workers.join_next().await.is_some() {} };
    tokio::time::timeout(MINUTE, all_ended).await.expect("one still waits");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_list_goes_to_the_next_worker() {
    let (begun, has_begun) = channel();
    let (mut gates, mut models): (Vec<_>, Vec<Box<dyn MaskedLm>>) = (vec![], vec![]);
    for _ in 0..2 {
        let (may_end, wait) = channel();
        gates.push(may_end);
        models.push(Box::new(Gated {
            begun: begun.clone(),
            may_end: wait,
            passes: Arc::default(),
        }));
    }
    let engine = Arc::new(Engine::start(models, limits()).unwrap());
    // Both sleep by then, or the test shows less.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let theirs = Arc::clone(&engine);
    let asked = tokio::spawn(async move { submit(&theirs, vec![sequence(1, 1); 6], Instant::now() + MINUTE).await });
    for _ in 0..2 {
        has_begun
            .recv_timeout(Duration::from_secs(20))
            .expect("four of the six are in one batch, and no worker takes the others");
    }
    // The sequence that waited for a list place may be a third batch, of either worker.
    gates
        .iter()
        .for_each(|gate| (0..2).for_each(|_| gate.send(()).unwrap()));
    assert_eq!(asked.await.unwrap().unwrap().len(), 6);
    engine.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_run_at_the_same_time_and_a_stop_drains_them_all() {
    let (begun, has_begun) = channel();
    let passes = Arc::new(AtomicUsize::new(0));
    let mut gates = Vec::new();
    let mut models: Vec<Box<dyn MaskedLm>> = Vec::new();
    for _ in 0..2 {
        let (may_end, wait) = channel();
        gates.push(may_end);
        models.push(Box::new(Gated {
            begun: begun.clone(),
            may_end: wait,
            passes: Arc::clone(&passes),
        }));
    }
    let engine = Arc::new(Engine::start(models, limits()).unwrap());
    assert_eq!(engine.workers(), 2);
    let ask = |id| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move { submit(&engine, vec![sequence(id, 1)], Instant::now() + MINUTE).await })
    };
    let mut asking = Vec::new();
    for id in 1..=2 {
        asking.push(ask(id));
        // The second begins though the first has not ended.
        has_begun.recv().unwrap();
    }
    asking.push(ask(3));
    while engine.waiting().0 == 0 {
        tokio::task::yield_now().await;
    }
    let stopping = Arc::clone(&engine);
    let stop = tokio::task::spawn_blocking(move || stopping.stop());
    for gate in &gates {
        gate.send(()).unwrap();
        // For the third text, which either may take; the other may have ended by now.
        let _ = gate.send(());
    }
    stop.await.unwrap();
    for answer in asking {
        assert!(answer.await.unwrap().is_ok(), "accepted, so answered");
    }
    assert_eq!(passes.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_return_at_once_share_batches() {
    const REQUESTS: u32 = 60;
    let batches = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&batches);
    let slow = Scripted(move |ids: &[u32]| {
        std::thread::sleep(Duration::from_millis(16));
        theirs.lock().unwrap().push(ids.len());
        Ok(())
    });
    let engine = Arc::new(Engine::start(vec![Box::new(slow)], limits()).unwrap());
    let client = || {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            for id in 0..REQUESTS {
                // The way to the client and back.
                tokio::time::sleep(Duration::from_millis(1)).await;
                submit(&engine, vec![sequence(id, 1)], Instant::now() + MINUTE)
                    .await
                    .unwrap();
            }
        })
    };
    let clients = [client(), client()];
    for client in clients {
        client.await.unwrap();
    }
    // They would take turns without a wait: after each batch, the text of the other client is there already.
    let shared = batches.lock().unwrap().iter().filter(|texts| **texts == 2).count();
    assert!(
        shared > REQUESTS as usize / 4,
        "{shared} batches of two, of {REQUESTS} requests each"
    );
}
