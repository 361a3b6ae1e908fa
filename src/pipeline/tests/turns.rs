//! Requests that wait for each other, or do not.

use std::sync::atomic::AtomicUsize;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_cheap_request_does_not_wait_for_expensive_ones() {
    let pipeline = pipeline(|_| Ok(()), 64);
    let expensive: Vec<_> = (0..8)
        .map(|_| {
            let pipeline = Arc::clone(&pipeline);
            tokio::spawn(async move {
                let admission = pipeline.admit().unwrap();
                pipeline.run(admission, expensive(), Deadline::never()).await.map(drop)
            })
        })
        .collect();
    while pipeline.computing() < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..10 {
        run(&pipeline, &["a [MASK]"], Deadline::never()).await.unwrap();
    }
    let unfinished = expensive.iter().filter(|task| !task.is_finished()).count();
    assert!(
        unfinished >= 6,
        "the cheap requests waited for {} others",
        8 - unfinished
    );
    for task in expensive {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_long_task_shares_the_model_with_short_ones() {
    // 62 tokens in a text, of which a batch takes four: the score of 60 texts takes 930 batches.
    let limits = Limits {
        batch_size_max: 4,
        ..Limits::default()
    };
    let batches = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&batches);
    let pipeline = pipeline_with(Cloze::builder().limits(limits), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let long = score::Request {
        texts: vec!["the ".repeat(62); 60],
        ..score::Request::default()
    };
    let running = {
        let pipeline = Arc::clone(&pipeline);
        tokio::spawn(async move {
            let admission = pipeline.admit().unwrap();
            pipeline.run(admission, long, Deadline::never()).await
        })
    };
    while batches.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..5 {
        let before = batches.load(Ordering::Relaxed);
        run(&pipeline, &["a [MASK]"], Deadline::never()).await.unwrap();
        let waited = batches.load(Ordering::Relaxed) - before;
        // A piece is 128 batches.
        assert!(waited < 100, "a text waited for {waited} batches");
    }
    assert!(!running.is_finished());
    let scored = running.await.unwrap().unwrap();
    let cost = scored.cost;
    assert_eq!((cost.task, cost.texts, cost.tokens), ("score", 60, 60 * 64));
    assert_eq!((cost.computed.sequences, cost.computed.tokens), (60 * 62, 60 * 62 * 65));
    // A batch takes at least a millisecond, and most sequences of a piece wait for several.
    assert!(cost.timing.queue > Duration::from_millis(10), "{:?}", cost.timing);
}

#[tokio::test]
async fn large_requests_are_planned_one_after_the_other_and_small_ones_at_once() {
    let pipeline = pipeline(|_| Ok(()), 8);
    let (mut first, mut second, mut small) = (
        pipeline.admit().unwrap(),
        pipeline.admit().unwrap(),
        pipeline.admit().unwrap(),
    );
    let never = Deadline::never();
    pipeline.reserve_planning(&mut first, usize::MAX, never).await.unwrap();
    let soon = Deadline::after(Duration::from_millis(20));
    let waited = pipeline.reserve_planning(&mut second, 100_000, soon).await;
    assert_eq!(waited, Err(Error::Timeout(soon.timeout)));
    pipeline.reserve_planning(&mut small, 1000, soon).await.unwrap();
    // The share ends with the plan, not with the answer.
    let scored = pipeline.run(first, request(&["[MASK]"]), never).await.unwrap();
    pipeline.reserve_planning(&mut second, 100_000, never).await.unwrap();
    drop(scored);
}

#[tokio::test]
async fn a_paragraph_does_not_wait_for_large_requests_that_wait_to_be_planned() {
    let pipeline = pipeline(|_| Ok(()), 8);
    let (mut first, mut second, mut paragraph) = (
        pipeline.admit().unwrap(),
        pipeline.admit().unwrap(),
        pipeline.admit().unwrap(),
    );
    // The smallest body that takes more than half of the memory.
    let half = (1..)
        .map(|kibibytes: usize| kibibytes << 10)
        .find(|&bytes| pipeline.planning.share_of(bytes) > 0.5);
    let half = half.unwrap();
    let soon = Deadline::after(Duration::from_secs(5));
    pipeline.reserve_planning(&mut first, half, soon).await.unwrap();
    let waiting = tokio::spawn({
        let pipeline = Arc::clone(&pipeline);
        async move { pipeline.reserve_planning(&mut second, half, Deadline::never()).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    pipeline.reserve_planning(&mut paragraph, 1100, soon).await.unwrap();
    assert!(!waiting.is_finished());
    drop(first);
    waiting.await.unwrap().unwrap();
}
