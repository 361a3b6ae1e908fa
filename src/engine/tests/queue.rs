//! Admission to the queue, the places of requests in it, and their turns.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_one_and_many_alike() {
    let queue = queue(limits());
    let (entries, mut seven) = many(7);
    push(&queue, entries).unwrap();
    // One place is left, which does for a list as it would for one text: all of it or nothing.
    let (entries, mut five) = many(5);
    push(&queue, entries).unwrap();
    assert_eq!(queue.waiting(), (12, 12));
    for count in [1, 5] {
        let (entries, _refused) = many(count);
        assert_eq!(push(&queue, entries), Err(EngineError::QueueFull));
    }
    assert_eq!(queue.waiting(), (12, 12));
    assert_eq!(queue.stats.rejected.get(), 2);
    // The place of a departed client is free again, a moment after a sweep in vain.
    tokio::time::advance(Duration::from_micros(12)).await;
    seven.truncate(3);
    five.truncate(4);
    let (entries, _accepted) = many(1);
    push(&queue, entries).unwrap();
    assert_eq!(queue.waiting(), (8, 8));
}

#[tokio::test(start_paused = true)]
async fn an_admitted_request_is_not_refused_for_a_full_queue() {
    let queue = queue(limits());
    let (first, second) = (queue.admit().unwrap(), queue.admit().unwrap());
    let (entries, _first) = many(8);
    first.push(entries).unwrap();
    // The first list has filled the queue; the second was admitted when it was empty.
    let (entries, _second) = many(8);
    second.push(entries).unwrap();
    assert_eq!(queue.waiting(), (16, 16));
    assert_eq!(queue.admit().err(), Some(EngineError::QueueFull));
    assert_eq!(queue.stats.rejected.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_gives_the_places_of_slow_requests_to_others() {
    let queue = queue(limits());
    let mut slow: Vec<_> = (0..8).map(|_| queue.admit().unwrap()).collect();
    assert_eq!(
        queue.admit().err(),
        Some(EngineError::QueueFull),
        "they may still arrive in time"
    );
    slow[0].settle().unwrap();
    tokio::time::advance(cloze_queue::SLOW_BODY).await;
    // All but the one that has arrived lose their places, the oldest first.
    let mut others: Vec<_> = (0..7).map(|_| queue.admit().unwrap()).collect();
    assert_eq!(queue.admit().err(), Some(EngineError::QueueFull));
    assert_eq!(queue.stats.rejected.get(), 9);
    for displaced in &mut slow[1..] {
        displaced.displaced().await;
        assert_eq!(displaced.settle(), Err(EngineError::QueueFull));
    }
    // A place that was lost is not given back twice.
    slow.truncate(1);
    assert_eq!(queue.admit().err(), Some(EngineError::QueueFull));
    others.pop();
    let settled = slow.pop().unwrap();
    let (entries, _waiting) = many(1);
    settled.push(entries).unwrap();
    assert!(queue.admit().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_whole_request_takes_the_place_of_one_that_arrives() {
    let queue = queue(limits());
    let mut arriving: Vec<_> = (0..8).map(|_| queue.admit().unwrap()).collect();
    arriving[0].settle().unwrap();
    assert!(queue.is_receiving());
    assert_eq!(
        queue.admit().err(),
        Some(EngineError::QueueFull),
        "it may arrive as slowly"
    );
    let mut whole: Vec<_> = (0..7).map(|_| queue.admit_whole().unwrap()).collect();
    assert!(!queue.is_receiving());
    assert_eq!(
        queue.admit_whole().err(),
        Some(EngineError::QueueFull),
        "all places are of whole requests"
    );
    whole.pop();
    queue.admit_whole().unwrap();
    for displaced in &mut arriving[1..] {
        displaced.displaced().await;
        assert_eq!(displaced.settle(), Err(EngineError::QueueFull));
    }
    queue.close();
    assert_eq!(queue.admit_whole().err(), Some(EngineError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn slow_requests_can_be_displaced_from_a_queue_that_is_not_full() {
    let queue = queue(limits());
    let mut slow = queue.admit().unwrap();
    queue.displace_slow();
    assert!(queue.is_receiving(), "it is not slow yet");
    tokio::time::advance(cloze_queue::SLOW_BODY).await;
    queue.displace_slow();
    slow.displaced().await;
    assert_eq!(slow.settle(), Err(EngineError::QueueFull));
    assert_eq!(queue.stats.rejected.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn requests_take_turns() {
    let queue = queue(limits());
    let (list, _list) = many(6);
    push(&queue, list).unwrap();
    let (other, mut others) = entry(10, 1, MINUTE);
    push(&queue, vec![other]).unwrap();
    let (list, _second_list) = many(3);
    push(&queue, list).unwrap();
    // 0 to 5 of the first list, 10, 0 to 2 of the second.
    for expected in [&[0, 10, 0, 1][..], &[1, 2, 2, 3], &[4, 5]] {
        assert_eq!(ids(&queue.next_batch().await.unwrap()), expected);
    }
    assert!(others.try_recv().is_err());
    assert_eq!(queue.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn further_sequences_of_a_request_wait_behind_its_first() {
    let queue = queue(limits());
    let (mut list, _list) = many(6);
    let rest = list.split_off(2);
    push(&queue, list).unwrap();
    queue.push(rest).unwrap();
    let (other, _other) = entry(10, 1, MINUTE);
    push(&queue, vec![other]).unwrap();
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [0, 10, 1, 2]);
    queue.close();
    let (late, _late) = many(1);
    assert_eq!(queue.push(late), Err(EngineError::Stopped));
}

/// Eight clients with lists, each as long as the queue, and one with single texts.
#[tokio::test(flavor = "multi_thread")]
async fn lists_do_not_keep_single_texts_out() {
    let limits = Limits {
        queue_size: 32,
        ..limits()
    };
    let slow = Scripted(|_: &[u32]| {
        std::thread::sleep(Duration::from_micros(500));
        Ok(())
    });
    let engine = Arc::new(Engine::start(vec![Box::new(slow)], limits).unwrap());
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let lists: Vec<_> = (0..8)
        .map(|_| {
            let (engine, stop) = (Arc::clone(&engine), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut answered = 0;
                while !stop.load(Ordering::Relaxed) {
                    let scores = submit(&engine, vec![sequence(1, 1); 32], Instant::now() + MINUTE).await;
                    assert_eq!(scores.unwrap().len(), 32);
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    while engine.waiting().0 < 12 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut batches_max = 0;
    for _ in 0..50 {
        let before = batches(&engine.queue);
        submit(&engine, vec![sequence(2, 1)], Instant::now() + MINUTE)
            .await
            .unwrap();
        batches_max = batches_max.max(batches(&engine.queue) - before);
        // Eight first sequences and sixteen list places.
        assert!(engine.waiting().0 <= 24);
    }
    stop.store(true, Ordering::Relaxed);
    for list in lists {
        assert!(list.await.unwrap() > 0, "a list starved");
    }
    // One sequence of each list is before it: two batches, after the one that runs. The rest is the scheduler's.
    assert!(batches_max <= 8, "a single text waited for {batches_max} batches");
    assert_eq!(engine.stats().rejected.get(), 0);
}

#[tokio::test]
async fn a_list_that_waits_for_places_keeps_its_deadline_and_leaves_no_trace() {
    let (begun, begins) = channel();
    let (end, may_end) = channel();
    let gated = Gated {
        begun,
        may_end,
        passes: Arc::default(),
    };
    let engine = Engine::start(vec![Box::new(gated)], limits()).unwrap();
    // The first and four with list places, of which the first batch takes three; eight wait for places.
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = submit(&engine, vec![sequence(1, 1); 16], deadline).await;
    assert_eq!(error, Err(EngineError::Deadline { in_part: false }));
    begins.recv().unwrap();
    assert_eq!(batches(&engine.queue), 1);
    assert_eq!(engine.waiting(), (0, 0));
    assert_eq!(engine.list_places.free(), 4);
    assert_eq!(engine.stats().expired.get(), 1);
    end.send(()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_looked_through_now_and_then() {
    let queue = queue(limits());
    let (entries, mut receivers) = many(8);
    push(&queue, entries).unwrap();
    let mut kept = Vec::new();
    let mut refused = || {
        let (entries, receivers) = many(1);
        kept.extend(receivers);
        push(&queue, entries) == Err(EngineError::QueueFull)
    };
    // No client has left. For eight microseconds the queue does not look again, so that a refusal costs next to
    // nothing.
    assert!(refused());
    receivers.truncate(7);
    tokio::time::advance(Duration::from_micros(7)).await;
    assert!(refused() && queue.stats.abandoned.get() == 0);
    tokio::time::advance(Duration::from_micros(1)).await;
    let (one, receiver) = entry(9, 1, MINUTE);
    push(&queue, vec![one]).unwrap();
    assert_eq!(queue.stats.abandoned.get(), 1);
    // The sweep dropped something, so the next departure is found at once.
    drop(receiver);
    assert!(!refused());
    assert_eq!(queue.stats.abandoned.get(), 2);
    // Places that a batch takes are free at once, regardless of the last sweep.
    assert!(refused());
    assert_eq!(queue.next_batch().await.unwrap().len(), 4);
    assert!(!refused());
}

#[tokio::test(start_paused = true)]
async fn an_admission_holds_a_place_until_it_is_used_or_dropped() {
    let queue = queue(limits());
    let (entries, _waiting) = many(6);
    push(&queue, entries).unwrap();
    let admitted = (queue.admit().unwrap(), queue.admit().unwrap());
    assert_eq!(queue.admit().err(), Some(EngineError::QueueFull));
    assert_eq!(queue.stats.rejected.get(), 1);
    drop(admitted.0);
    let again = queue.admit().unwrap();
    // One entry takes the place of its admission.
    let (entries, _waiting_too) = many(1);
    again.push(entries).unwrap();
    assert_eq!(queue.admit().err(), Some(EngineError::QueueFull));
    drop(admitted.1);
    let late = queue.admit().unwrap();
    queue.close();
    assert_eq!(queue.admit().err(), Some(EngineError::Stopped));
    let (entries, _late) = many(1);
    assert_eq!(late.push(entries), Err(EngineError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_single_texts_share_a_full_queue() {
    // Four clients with lists of eight and 36 with single texts, who all ask again at once when they are
    // refused, against a model that takes its time: eight may wait, so requests are refused all the time.
    let model = Scripted(|_: &[u32]| {
        std::thread::sleep(Duration::from_micros(300));
        Ok(())
    });
    let engine = Arc::new(Engine::start(vec![Box::new(model)], limits()).unwrap());
    // Until each was answered once; on a busy machine that takes longer, and a client that starves never is.
    let (soonest, latest) = (Duration::from_millis(400), Duration::from_secs(20));
    let started_at = Instant::now();
    let unanswered = Arc::new(AtomicUsize::new(40));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..40 {
        let (engine, unanswered) = (Arc::clone(&engine), Arc::clone(&unanswered));
        clients.spawn(async move {
            let texts = if client < 4 { 8 } else { 1 };
            let (mut answered, mut refused) = (0, 0);
            let is_over = |gone: Duration| gone > latest || (gone > soonest && unanswered.load(Ordering::Relaxed) == 0);
            while !is_over(started_at.elapsed()) {
                match submit(&engine, vec![sequence(1, 1); texts], Instant::now() + MINUTE).await {
                    Ok(scores) => {
                        assert_eq!(scores.len(), texts);
                        answered += 1;
                        if answered == 1 {
                            unanswered.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                    Err(error) => {
                        assert_eq!(error, EngineError::QueueFull);
                        refused += 1;
                        tokio::time::sleep(Duration::from_micros(100)).await;
                    }
                }
            }
            (texts, answered, refused)
        });
    }
    let mut refusals = 0;
    while let Some(of_one) = clients.join_next().await {
        let (texts, answered, refused) = of_one.unwrap();
        assert!(
            answered > 0,
            "a client with {texts} texts was never answered, {refused} times refused"
        );
        refusals += refused;
    }
    assert!(refusals > 0, "the queue was never full");
    assert_eq!(engine.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_serves_what_waits_and_ends() {
    let queue = queue(limits());
    let (waiting, _waiting) = entry(1, 1, MINUTE);
    push(&queue, vec![waiting]).unwrap();
    queue.close();
    let (late, _late) = entry(2, 1, MINUTE);
    assert_eq!(push(&queue, vec![late]), Err(EngineError::Stopped));
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [1]);
    assert!(queue.next_batch().await.is_none());
}
