//! A device that computes beside the host: a full batch begins before the one ahead of it ends.

use super::*;

/// Writes down what begins and ends, and fails when batches with certain texts end.
#[derive(Clone, Default)]
struct Device {
    log: Arc<Mutex<Vec<String>>>,
    fails_on: Option<u32>,
    lost_on: Option<u32>,
}

impl MaskedLm for Device {
    fn is_async(&self) -> bool {
        true
    }

    fn submit(&mut self, batch: Batch) -> Result<PendingBatch, ModelError> {
        let ids = ids_of(&batch);
        self.log.lock().unwrap().push(format!("begin {ids:?}"));
        let Self { log, fails_on, lost_on } = self.clone();
        Ok(PendingBatch::new(move || {
            log.lock().unwrap().push(format!("end {ids:?}"));
            let has = |id: Option<u32>| id.is_some_and(|id| ids.contains(&id));
            if has(lost_on) {
                return Err(ModelError::Device("lost".to_owned()));
            }
            if has(fails_on) {
                return Err(ModelError::NotFinite);
            }
            Ok(ids.into_iter().map(certain).collect())
        }))
    }
}

/// The replies to `count` queued texts, four per batch.
async fn run(device: &Device, count: u32) -> Vec<Result<u32, EngineError>> {
    let mut limits = limits();
    limits.queue_size = 100;
    let (queue, state) = parts(limits);
    let (entries, receivers): (Vec<_>, Vec<_>) = (1..=count).map(|id| entry(id, 1, MINUTE)).unzip();
    push(&queue, entries).unwrap();
    queue.close();
    worker::run(&queue, &state, Box::new(device.clone())).await;
    let mut replies = Vec::new();
    for receiver in receivers {
        replies.push(match receiver.await {
            Ok(reply) => reply.map(|(scores, _)| scores[0][0].token),
            // Given up in the queue.
            Err(_) => Err(EngineError::Stopped),
        });
    }
    replies
}

#[tokio::test(start_paused = true)]
async fn full_batches_follow_one_another_and_others_wait_for_company() {
    let device = Device::default();
    let replies = run(&device, 10).await;
    assert_eq!(replies, (1..=10).map(Ok).collect::<Vec<_>>());
    assert_eq!(
        *device.log.lock().unwrap(),
        [
            "begin [1, 2, 3, 4]",
            "begin [5, 6, 7, 8]",
            "end [1, 2, 3, 4]",
            // Two that wait fill no batch.
            "end [5, 6, 7, 8]",
            "begin [9, 10]",
            "end [9, 10]",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_takes_nothing_from_the_one_behind_it() {
    let device = Device {
        fails_on: Some(2),
        ..Device::default()
    };
    let replies = run(&device, 8).await;
    for (reply, id) in replies.iter().zip(1..) {
        match id {
            2 => assert!(matches!(reply, Err(EngineError::Model(_))), "{reply:?}"),
            id => assert_eq!(*reply, Ok(id)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_device_leaves_nobody_of_either_batch_waiting() {
    let device = Device {
        lost_on: Some(2),
        ..Device::default()
    };
    let replies = run(&device, 12).await;
    for reply in &replies[..4] {
        assert_eq!(*reply, Err(EngineError::Model("lost".to_owned())));
    }
    // This device does not know that it is lost; `lm::DeviceModel` does.
    assert!(replies[4..8].iter().all(Result::is_ok), "{replies:?}");
    assert!(replies[8..].iter().all(Result::is_err), "{replies:?}");
    assert_eq!(device.log.lock().unwrap().len(), 4, "something began after it");
}
