//! Deadlines, and clients that leave.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Sender, channel};

use super::*;

/// Takes every thread that plans and decodes until the sender is dropped.
async fn take_all_threads(pipeline: &Pipeline) -> Sender<()> {
    let (release, gate) = channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    for _ in 0..pipeline.pool.threads() {
        let gate = Arc::clone(&gate);
        // Never ends by itself: the first waits for the release and holds the lock, the others wait for the lock.
        std::mem::forget(pipeline.pool.spawn(async move { gate.lock().unwrap().recv().is_err() }));
    }
    while pipeline.pool.len() < pipeline.pool.threads() || pipeline.pool.longest_wait() > Duration::ZERO {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    release
}

#[tokio::test]
async fn the_deadline_holds_while_a_request_waits_to_be_planned_and_to_be_decoded() {
    let timeout = Duration::from_millis(300);
    let pipeline = pipeline(|_| Ok(()), 8);
    let scored = pipeline.run(pipeline.admit().unwrap(), request(&["[MASK]"]), Deadline::never());
    let scored = scored.await.unwrap();
    let release = take_all_threads(&pipeline).await;
    let deadline = Deadline::after(timeout);
    let (planned, decoded) = tokio::join!(run(&pipeline, &["[MASK]"], deadline), pipeline.decode(scored, deadline));
    assert_eq!(planned.unwrap_err(), Error::Timeout(timeout));
    assert_eq!(decoded.unwrap_err(), Error::Timeout(timeout));
    assert_eq!(passes(&pipeline), 1);
    assert_eq!(pipeline.engine.stats().expired.get(), 2);
    drop(release);
}

#[tokio::test]
async fn the_deadline_holds_while_work_runs() {
    let pipeline = pipeline(|_| Ok(()), 8);
    let (release, gate) = channel::<()>();
    let timeout = Duration::from_millis(30);
    let late = pipeline.compute(Deadline::after(timeout), async move { gate.recv() });
    assert_eq!(late.await.map(drop), Err(Error::Timeout(timeout)));
    assert_eq!(pipeline.engine.stats().expired.get(), 1);
    drop(release);
}

#[tokio::test]
async fn work_that_is_too_late_or_unwanted_when_its_turn_comes_never_starts() {
    for leaves in [false, true] {
        let pipeline = pipeline(|_| Ok(()), 8);
        let release = take_all_threads(&pipeline).await;
        let started = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&started);
        let timeout = Duration::from_millis(30);
        let deadline = if leaves {
            Deadline::never()
        } else {
            Deadline::after(timeout)
        };
        let late = pipeline.compute(deadline, async move { theirs.store(true, Ordering::SeqCst) });
        let expected = match leaves {
            // The client leaves.
            true => tokio::time::timeout(timeout, late).await.is_err(),
            false => late.await == Err(Error::Timeout(timeout)),
        };
        assert!(expected);
        drop(release);
        // Behind it, if it were still there.
        pipeline.compute(Deadline::never(), async {}).await.unwrap();
        assert!(!started.load(Ordering::SeqCst), "computed for no client");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_left_while_it_was_planned_frees_its_place_and_its_thread_at_once() {
    let pipeline = pipeline(|_| Ok(()), 64);
    let started_at = Instant::now();
    pipeline.plan(&expensive()).unwrap();
    let alone = started_at.elapsed();
    for _ in 0..10 {
        let running = pipeline.run(pipeline.admit().unwrap(), expensive(), Deadline::never());
        let left = tokio::time::timeout(Duration::from_millis(5), running).await;
        assert!(left.is_err(), "too cheap for this test");
    }
    let left_at = Instant::now();
    while !pipeline.pool.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(left_at.elapsed() < alone, "the work of clients that left went on");
    assert_eq!(passes(&pipeline), 0);
}

#[tokio::test]
async fn a_departed_client_ends_a_long_task() {
    let batches = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&batches);
    let limits = Limits {
        batch_size_max: 4,
        ..Limits::default()
    };
    let pipeline = pipeline_with(Cloze::builder().limits(limits), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let long = score::Request {
        texts: vec!["the ".repeat(62); 200],
        ..score::Request::default()
    };
    let admission = pipeline.admit().unwrap();
    let running = pipeline.run(admission, long, Deadline::never());
    let begun = async {
        while batches.load(Ordering::Relaxed) < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = running => panic!("3,100 batches within the time of five"),
        () = begun => {}
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after = batches.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(batches.load(Ordering::Relaxed), after, "batches go on");
    assert_eq!(pipeline.memory().used(), 0);
    run(&pipeline, &["a [MASK]"], Deadline::after(MINUTE)).await.unwrap();
}

#[tokio::test]
async fn a_task_ends_at_its_deadline_and_one_that_cannot_fit_is_refused_with_numbers() {
    let pipeline = pipeline(
        |_| {
            std::thread::sleep(Duration::from_millis(5));
            Ok(())
        },
        2000,
    );
    let many = score::Request {
        texts: vec!["the ".repeat(62); 300],
        ..score::Request::default()
    };
    let deadline = Deadline::after(Duration::from_millis(50));
    let error = pipeline.run(pipeline.admit().unwrap(), many, deadline).await.err();
    assert!(matches!(error, Some(Error::Timeout(_))), "{error:?}");
    let beyond = score::Request {
        texts: vec!["the ".repeat(62); 1100],
        ..score::Request::default()
    };
    let error = pipeline
        .run(pipeline.admit().unwrap(), beyond, Deadline::never())
        .await
        .err();
    let Some(Error::Input(InputError::TooMuchComputation { tokens, tokens_max, .. })) = error else {
        panic!("{error:?}")
    };
    assert!(tokens > tokens_max);
}

#[tokio::test]
async fn tasks_that_are_too_long_for_their_deadline_do_not_make_the_server_unready() {
    // The first piece of each request is 16 batches, which take no time; later batches are slow.
    let batches = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&batches);
    let pipeline = pipeline(
        move |_| {
            if counted.fetch_add(1, Ordering::Relaxed) >= 20 {
                std::thread::sleep(Duration::from_millis(200));
            }
            Ok(())
        },
        400,
    );
    for _ in 0..9 {
        batches.store(0, Ordering::Relaxed);
        let long = score::Request {
            texts: vec!["the ".repeat(62); 20],
            ..score::Request::default()
        };
        let deadline = Deadline::after(Duration::from_millis(800));
        let scored = pipeline.run(pipeline.admit().unwrap(), long, deadline).await;
        assert!(
            matches!(scored.as_ref().err(), Some(Error::Timeout(_))),
            "{:?}",
            scored.err()
        );
    }
    let _waiting = pipeline.admit().unwrap();
    assert!(pipeline.is_ready());
    assert_eq!(pipeline.progress.timeouts(), 0);
}

#[tokio::test]
async fn lists_of_which_a_part_is_computed_do_not_make_the_server_unready() {
    let slow = |_: &Batch| {
        std::thread::sleep(Duration::from_millis(700));
        Ok(())
    };
    let pipeline = pipeline(slow, 400);
    let text = format!("{}[MASK]", "the ".repeat(60));
    let lists = [vec![text.as_str(); 150], vec![text.as_str(); 300]];
    // The texts of the second wait for places in the queue.
    for list in lists {
        let error = run(&pipeline, &list, Deadline::after(Duration::from_millis(2000))).await;
        assert!(
            matches!(error.as_ref().err(), Some(Error::Timeout(_))),
            "{:?}",
            error.err()
        );
    }
    assert_eq!(pipeline.progress.timeouts(), 0);
}
