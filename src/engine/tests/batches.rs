//! The sequences of a batch, and the moment at which it leaves the queue.

use super::*;

#[tokio::test(start_paused = true)]
async fn batches_keep_both_limits_and_the_order_of_turns() {
    let queue = queue(limits());
    let mut receivers = Vec::new();
    for (id, tokens) in [(1, 60), (2, 40), (3, 1), (4, 99), (5, 1), (6, 1), (7, 1), (8, 1)] {
        let (entry, receiver) = entry(id, tokens, MINUTE);
        push(&queue, vec![entry]).unwrap();
        receivers.push(receiver);
    }
    let started_at = Instant::now();
    for expected in [vec![3, 5, 1, 6], vec![7, 2], vec![4, 8]] {
        assert_eq!(ids(&queue.next_batch().await.unwrap()), expected);
    }
    assert_eq!(Instant::now(), started_at, "nothing waits for company by default");
    assert_eq!(queue.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_delay_is_one_deadline_from_the_first_item() {
    let delay = Duration::from_millis(10);
    let queue = queue(Limits {
        batch_delay: delay,
        ..limits()
    });
    let started_at = Instant::now();
    let (first, _first) = entry(1, 1, MINUTE);
    push(&queue, vec![first]).unwrap();
    let theirs = Arc::clone(&queue);
    let late = tokio::spawn(async move {
        let mut receivers = Vec::new();
        for id in [2, 3] {
            tokio::time::sleep(Duration::from_millis(6)).await;
            let (entry, receiver) = entry(id, 1, MINUTE);
            push(&theirs, vec![entry]).unwrap();
            receivers.push(receiver);
        }
        receivers
    });
    // The worker comes late, which moves nothing: the first has waited 4 ms already. The second comes in time
    // at 6 ms and moves nothing either; the third, at 12 ms, is too late.
    tokio::time::sleep(Duration::from_millis(4)).await;
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [1, 2]);
    assert_eq!(started_at.elapsed(), delay);
    let _receivers = late.await.unwrap();
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_leaves_at_once() {
    let queue = queue(Limits {
        batch_delay: MINUTE,
        ..limits()
    });
    let mut receivers = Vec::new();
    for id in 1..=4 {
        let (entry, receiver) = entry(id, 1, MINUTE);
        push(&queue, vec![entry]).unwrap();
        receivers.push(receiver);
    }
    let started_at = Instant::now();
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [1, 2, 3, 4]);
    assert_eq!(Instant::now(), started_at);
}

#[tokio::test(start_paused = true)]
async fn expired_and_abandoned_items_make_no_batch() {
    let queue = queue(limits());
    let (expired, _expired) = entry(1, 1, Duration::from_millis(5));
    let (abandoned, receiver) = entry(2, 1, MINUTE);
    let (wanted, _wanted) = entry(3, 1, MINUTE);
    push(&queue, vec![expired, abandoned, wanted]).unwrap();
    drop(receiver);
    tokio::time::advance(Duration::from_millis(5)).await;
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [3]);
    assert_eq!(queue.stats.abandoned.get(), 2);
    assert_eq!(queue.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_by_cost() {
    let queue = queue(limits());
    let costs = [40, 60, 1, 200, 1].into_iter().zip(0..);
    let (entries, _receivers): (Vec<_>, Vec<_>) = costs
        .map(|(cost, id)| {
            let (entry, receiver) = entry(id, 1, MINUTE);
            (Entry { cost, ..entry }, receiver)
        })
        .unzip();
    entries.into_iter().for_each(|entry| push(&queue, vec![entry]).unwrap());
    assert_eq!(queue.waiting(), (5, 5));
    for expected in [&[2, 4, 0][..], &[1], &[3]] {
        assert_eq!(ids(&queue.next_batch().await.unwrap()), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sequence_beyond_the_limit_of_a_batch_is_a_batch_by_itself() {
    let queue = queue(limits());
    for (id, tokens) in [(1, 1), (2, 101), (3, 1)] {
        let (entry, receiver) = entry(id, tokens, MINUTE);
        push(&queue, vec![entry]).unwrap();
        // Kept open.
        std::mem::forget(receiver);
    }
    for expected in [&[1, 3][..], &[2]] {
        assert_eq!(ids(&queue.next_batch().await.unwrap()), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_begins_with_a_short_sequence_has_no_long_ones() {
    let queue = queue(Limits {
        batch_tokens_max: 1000,
        ..limits()
    });
    let mut receivers = Vec::new();
    for (id, tokens) in [(1, 300), (2, 4), (3, 250)] {
        let (entry, receiver) = entry(id, tokens, MINUTE);
        push(&queue, vec![entry]).unwrap();
        receivers.push(receiver);
    }
    for expected in [&[2, 3][..], &[1]] {
        assert_eq!(ids(&queue.next_batch().await.unwrap()), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_the_wait_for_company() {
    let queue = queue(Limits {
        batch_delay: MINUTE,
        ..limits()
    });
    let (waiting, _waiting) = entry(1, 1, 2 * MINUTE);
    push(&queue, vec![waiting]).unwrap();
    let started_at = Instant::now();
    let theirs = Arc::clone(&queue);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(7)).await;
        theirs.close();
    });
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [1]);
    assert_eq!(started_at.elapsed(), Duration::from_millis(7));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_becomes_full_leaves_in_that_moment() {
    // Four texts are full; so are 100 tokens, and so is what the next text would not fit into.
    for (tokens, expected) in [
        (&[1, 1, 1, 1][..], &[1, 2, 3, 4][..]),
        (&[60, 40], &[1, 2]),
        (&[60, 41], &[1]),
    ] {
        let queue = queue(Limits {
            batch_delay: MINUTE,
            ..limits()
        });
        let (theirs, tokens) = (Arc::clone(&queue), tokens.to_vec());
        let arrivals = tokio::spawn(async move {
            let mut receivers = Vec::new();
            for (id, tokens) in (1..).zip(tokens) {
                tokio::time::sleep(Duration::from_millis(7)).await;
                let (entry, receiver) = entry(id, tokens, 2 * MINUTE);
                push(&theirs, vec![entry]).unwrap();
                receivers.push(receiver);
            }
            (Instant::now(), receivers)
        });
        let batch = queue.next_batch().await.unwrap();
        let left_at = Instant::now();
        let (last_at, _receivers) = arrivals.await.unwrap();
        assert_eq!(ids(&batch), expected);
        assert_eq!(left_at, last_at, "{expected:?}");
    }
}

/// Random arrivals at a worker that is free: no text waits longer than the delay, none leaves sooner but with
/// a full batch, and all leave in order, since texts of up to 32 tokens cost alike.
#[tokio::test(start_paused = true)]
async fn random_arrivals_leave_with_the_delay_or_a_full_batch() {
    let delay = Duration::from_millis(10);
    let mut dice = 1_u64;
    // A linear congruential generator: MMIX's constants.
    let mut dice = move |sides: u64| {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    let (mut full, mut late) = (0, 0);
    for _ in 0..200 {
        let limits = Limits {
            batch_delay: delay,
            queue_size: 1000,
            ..limits()
        };
        let queue = queue(limits.clone());
        let arrivals: Vec<(u64, usize)> = (0..30).map(|_| (dice(6), 1 + dice(32) as usize)).collect();
        let theirs = Arc::clone(&queue);
        let pushing = tokio::spawn(async move {
            let mut receivers = Vec::new();
            for (id, (pause, tokens)) in (0..).zip(arrivals) {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let (entry, receiver) = entry(id, tokens, MINUTE);
                push(&theirs, vec![entry]).unwrap();
                receivers.push(receiver);
            }
            receivers
        });
        let mut next = 0;
        while next < 30 {
            let batch = queue.next_batch().await.unwrap();
            let first = ids(&batch)[0];
            assert_eq!(first, next, "out of order");
            next += batch.len() as u32;
            let waited = batch[0].queued_at.elapsed();
            assert!(waited <= delay, "waited for {waited:?}");
            if waited == delay {
                late += 1;
                continue;
            }
            // Sooner only because no more fits.
            let tokens: usize = batch.iter().map(|entry| entry.sequence.token_ids.len()).sum();
            let (_, behind) = queue.waiting();
            let is_full = batch.len() == limits.batch_size_max || tokens + behind >= limits.batch_tokens_max;
            assert!(
                is_full,
                "{} texts of {tokens} tokens left after {waited:?}",
                batch.len()
            );
            full += 1;
        }
        pushing.await.unwrap();
    }
    assert!(full > 100 && late > 100, "{full} full, {late} late");
}

#[tokio::test]
async fn batches_of_a_request_count_as_time_in_the_model() {
    let pass = Duration::from_millis(20);
    let model = Scripted(move |_: &[u32]| {
        std::thread::sleep(pass);
        Ok(())
    });
    // Six sequences are six batches.
    let limits = Limits {
        batch_size_max: 1,
        ..limits()
    };
    let engine = Engine::start(vec![Box::new(model)], limits).unwrap();
    let sequences: Vec<_> = (0..6).map(|id| sequence(id, 1)).collect();
    let started_at = Instant::now();
    let (_, timing) = engine
        .submit(engine.admit().unwrap(), &sequences, started_at + MINUTE)
        .await
        .unwrap();
    let total = started_at.elapsed();
    assert!(timing.inference >= 6 * pass, "{timing:?}");
    assert!(timing.queue + timing.inference <= total, "{timing:?} of {total:?}");
}
