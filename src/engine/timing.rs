//! Times of one request: in the queue, and in the model.

use std::time::Duration;

use tokio::time::Instant;

/// Times of one request, by stage. Their sum is at most the time that the request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From submission to the end of its last batch, without the time in the model.
    pub queue: Duration,
    /// Wall time during which at least one batch with sequences of the request ran.
    pub inference: Duration,
}

impl Timing {
    /// The times of a request from its submission and the batches that computed it, in any order.
    pub fn of(queued_at: Instant, mut batches: Vec<BatchInterval>) -> Self {
        batches.sort_unstable_by_key(|batch| batch.started_at);
        let (mut ended_at, mut inference) = (queued_at, Duration::ZERO);
        for batch in batches {
            // Workers run batches at the same time: only what follows the end so far is new.
            inference += batch.ended_at.saturating_duration_since(batch.started_at.max(ended_at));
            ended_at = ended_at.max(batch.ended_at);
        }
        Self {
            queue: (ended_at - queued_at).saturating_sub(inference),
            inference,
        }
    }

    /// The times of two pieces, one after the other.
    pub fn then(self, next: Self) -> Self {
        Self {
            queue: self.queue + next.queue,
            inference: self.inference + next.inference,
        }
    }
}

/// The time of one forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInterval {
    pub started_at: Instant,
    pub ended_at: Instant,
}

impl BatchInterval {
    pub fn duration(self) -> Duration {
        self.ended_at - self.started_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inference_is_the_union_of_the_batches_and_the_rest_is_queue() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        type Case = (&'static [(u64, u64)], u64, u64);
        let cases: [Case; 7] = [
            (&[], 0, 0),
            (&[(10, 30)], 10, 20),
            // Sequences of the same batch.
            (&[(10, 30), (10, 30)], 10, 20),
            // Batches one after the other, with a wait between two of them; replies come in any order.
            (&[(30, 50), (10, 30), (70, 80)], 30, 50),
            // Two workers.
            (&[(10, 30), (20, 50)], 10, 40),
            (&[(10, 50), (20, 30), (60, 70)], 20, 50),
            (&[(0, 40)], 0, 40),
        ];
        for (batches, queue, inference) in cases {
            let intervals = batches.iter().map(|&(start, end)| BatchInterval {
                started_at: at(start),
                ended_at: at(end),
            });
            let expected = Timing {
                queue: Duration::from_millis(queue),
                inference: Duration::from_millis(inference),
            };
            assert_eq!(Timing::of(origin, intervals.collect()), expected, "{batches:?}");
        }
    }

    #[test]
    fn times_of_pieces_add_up() {
        let times = |queue, inference| Timing {
            queue: Duration::from_millis(queue),
            inference: Duration::from_millis(inference),
        };
        assert_eq!(times(1, 20).then(times(300, 4000)), times(301, 4020));
    }
}
