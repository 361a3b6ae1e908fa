//! A model that fails, panics or loses its device.

use super::*;

/// Runs the worker over `count` texts that wait already; gives each text's reply.
async fn run_worker(model: &Echo, count: u32) -> Vec<Result<u32, EngineError>> {
    let (queue, state) = parts(limits());
    let (entries, receivers): (Vec<_>, Vec<_>) = (1..=count).map(|id| entry(id, 1, MINUTE)).unzip();
    push(&queue, entries).unwrap();
    queue.close();
    worker::run(&queue, &state, Box::new(model.clone())).await;
    let mut replies = Vec::new();
    for receiver in receivers {
        replies.push(receiver.await.unwrap().map(|(scores, _)| scores[0][0].token));
    }
    replies
}

#[tokio::test(start_paused = true)]
async fn each_text_gets_its_own_answer() {
    let replies = run_worker(&Echo::default(), 6).await;
    assert_eq!(replies, (1..=6).map(Ok).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_panic_or_an_error_fails_the_culprit_alone() {
    for model in [
        Echo {
            panics_on: Some(2),
            ..Echo::default()
        },
        Echo {
            fails_on: Some(2),
            ..Echo::default()
        },
    ] {
        let replies = run_worker(&model, 6).await;
        for (reply, id) in replies.iter().zip(1..) {
            match id {
                2 => assert!(matches!(reply, Err(EngineError::Model(_))), "{reply:?}"),
                id => assert_eq!(*reply, Ok(id)),
            }
        }
        let batches = model.batches.lock().unwrap().clone();
        assert_eq!(
            batches,
            [vec![1, 2, 3, 4], vec![1], vec![2], vec![3], vec![4], vec![5, 6]]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_answers_too_few_masks_gives_nobody_anothers_answer() {
    /// Forgets the last readout position of a batch.
    struct Forgetful(Echo);
    impl MaskedLm for Forgetful {
        fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
            let mut scores = self.0.predict(batch)?;
            scores.last_mut().map(Vec::pop);
            Ok(scores)
        }
    }
    let (queue, state) = parts(limits());
    let (entries, receivers): (Vec<_>, Vec<_>) = (1..=3).map(|id| entry(id, 1, MINUTE)).unzip();
    push(&queue, entries).unwrap();
    queue.close();
    worker::run(&queue, &state, Box::new(Forgetful(Echo::default()))).await;
    for receiver in receivers {
        let reply = receiver.await.unwrap();
        assert!(
            matches!(&reply, Err(EngineError::Model(reason)) if reason.contains("0 positions of 1")),
            "{reply:?}"
        );
    }
}

/// The replies to four queued texts from a model that follows `script`.
async fn four_replies(
    queue: &Arc<Queue>,
    state: &EngineState,
    timeout: impl Fn(u32) -> Duration,
    script: impl FnMut(&[u32]) -> Result<(), ModelError> + Send + 'static,
) -> Vec<Option<Result<(), EngineError>>> {
    let (entries, receivers): (Vec<_>, Vec<_>) = (1..=4).map(|id| entry(id, 1, timeout(id))).unzip();
    push(queue, entries).unwrap();
    queue.close();
    worker::run(queue, state, Box::new(Scripted(script))).await;
    let mut replies = Vec::new();
    for receiver in receivers {
        replies.push(receiver.await.ok().map(|reply| reply.map(|_| ())));
    }
    replies
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_is_not_tried_again_for_those_who_left() {
    let (queue, state) = parts(limits());
    let passes = Arc::new(Mutex::new(Vec::new()));
    let (entries, receivers): (Vec<_>, Vec<_>) = (1..=4).map(|id| entry(id, 1, MINUTE)).unzip();
    push(&queue, entries).unwrap();
    queue.close();
    let theirs = Arc::clone(&passes);
    let mut receivers = Some(receivers);
    let script = move |ids: &[u32]| {
        theirs.lock().unwrap().push(ids.to_vec());
        match ids.len() {
            1 => Ok(()),
            _ => {
                // All clients leave while the batch runs.
                receivers.take();
                Err(ModelError::NotFinite)
            }
        }
    };
    worker::run(&queue, &state, Box::new(Scripted(script))).await;
    assert_eq!(*passes.lock().unwrap(), [vec![1, 2, 3, 4]]);
    assert_eq!(queue.stats.abandoned.get(), 4);
    assert_eq!(queue.stats.failed.get(), 0);

    // The same for deadlines that pass meanwhile: the pass below takes 30 ms of real time.
    let (queue, state) = parts(limits());
    let script = |ids: &[u32]| match ids.len() {
        1 => Ok(()),
        _ => {
            std::thread::sleep(Duration::from_millis(30));
            Err(ModelError::NotFinite)
        }
    };
    tokio::time::resume();
    let timeout = |id| match id {
        2 => Duration::from_millis(20),
        _ => MINUTE,
    };
    let replies = four_replies(&queue, &state, timeout, script).await;
    assert_eq!(replies, [Some(Ok(())), None, Some(Ok(())), Some(Ok(()))]);
    assert_eq!(batches(&queue), 4);
}

#[tokio::test(start_paused = true)]
async fn a_lost_device_ends_the_worker_and_leaves_nobody_waiting() {
    let lost = || ModelError::Device("the device is lost".to_owned());
    let (queue, state) = parts(limits());
    let replies = four_replies(&queue, &state, |_| MINUTE, move |_| Err(lost())).await;
    for reply in replies {
        assert!(matches!(reply, Some(Err(EngineError::Model(_)))), "{reply:?}");
    }
    assert_eq!(batches(&queue), 1, "a lost device is not asked again");
    assert_eq!(queue.stats.failed.get(), 4);

    // While texts are tried singly: the first is answered, the second loses the device, and each request gets an answer.
    let (queue, state) = parts(limits());
    let script = move |ids: &[u32]| match ids {
        [1] => Ok(()),
        [_] => Err(lost()),
        _ => Err(ModelError::NotFinite),
    };
    let replies = four_replies(&queue, &state, |_| MINUTE, script).await;
    assert_eq!(replies[0], Some(Ok(())));
    for reply in &replies[1..] {
        assert!(matches!(reply, Some(Err(EngineError::Model(_)))), "{reply:?}");
    }
    assert_eq!(batches(&queue), 3);
    assert_eq!(state.broken().get().unwrap(), "the device is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_is_told_and_the_rest_is_refused() {
    let (begun, has_begun) = channel();
    let (may_end, wait) = channel::<()>();
    let model = Scripted(move |_: &[u32]| {
        begun.send(()).unwrap();
        wait.recv().unwrap();
        Err(ModelError::Device("the device is lost".to_owned()))
    });
    let engine = Arc::new(Engine::start(vec![Box::new(model)], limits()).unwrap());
    let ask = |id| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            submit(&engine, vec![sequence(id, 1)], Instant::now() + MINUTE)
                .await
                .map(|_| ())
        })
    };
    let running = ask(1);
    has_begun.recv().unwrap();
    let waiting = ask(2);
    while engine.waiting().0 == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.health(), Health::Ready);
    may_end.send(()).unwrap();
    assert!(matches!(running.await.unwrap(), Err(EngineError::Model(_))));
    assert_eq!(waiting.await.unwrap(), Err(EngineError::Stopped));
    assert_eq!(engine.broken().await, "the device is lost");
    assert_eq!(engine.health(), Health::Broken("the device is lost".to_owned()));
    assert_eq!(ask(3).await.unwrap(), Err(EngineError::Stopped));
    assert_eq!(engine.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failing_model_is_tried_until_it_answers_again() {
    let (queue, state) = parts(limits());
    let probes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&probes);
    let script = move |ids: &[u32]| match ids {
        [0] if seen.fetch_add(1, Ordering::SeqCst) == 1 => Ok(()),
        _ => Err(ModelError::NotFinite),
    };
    let theirs = (Arc::clone(&queue), Arc::clone(&state));
    let running = tokio::spawn(async move { worker::run(&theirs.0, &theirs.1, Box::new(Scripted(script))).await });
    for failures in 1..=3 {
        assert!(state.is_healthy(), "before failure {failures}");
        // One batch is one failure, however many texts it has.
        let (entries, receivers): (Vec<_>, Vec<_>) = (1..=4).map(|id| entry(id, 1, MINUTE)).unzip();
        push(&queue, entries).unwrap();
        for receiver in receivers {
            assert!(receiver.await.unwrap().is_err());
        }
    }
    tokio::task::yield_now().await;
    assert!(!state.is_healthy());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!state.is_healthy(), "the first probe failed");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(state.is_healthy());
    tokio::time::sleep(MINUTE).await;
    assert_eq!(probes.load(Ordering::SeqCst), 2, "a healthy model is left alone");
    queue.close();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_goes_down_with_repeated_failures_and_up_with_a_success() {
    let model = Echo {
        panics_on: Some(9),
        ..Echo::default()
    };
    let engine = Engine::start(vec![Box::new(model)], limits()).unwrap();
    for failures in 1..=3 {
        assert!(engine.is_ready(), "before failure {failures}");
        let answer = submit(&engine, vec![sequence(9, 1)], Instant::now() + MINUTE).await;
        assert!(matches!(answer, Err(EngineError::Model(_))));
    }
    assert!(!engine.is_ready());
    submit(&engine, vec![sequence(1, 1)], Instant::now() + MINUTE)
        .await
        .unwrap();
    assert!(engine.is_ready());
    let engine = tokio::task::spawn_blocking(move || {
        engine.stop();
        engine
    });
    assert!(!engine.await.unwrap().is_ready());
}
